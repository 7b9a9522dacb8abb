"""Search over fields of a recipe: the door to Optuna (Akiba et al. 2019, arXiv:1907.10902).

A trial trains as any run does, in a run folder of its own, and is then scored on validation. The
best one goes on from where it stands to the end of its run, so the test split is looked at for that
one alone. All that is known of the trials is in `trials.db` (SQLite): a search goes on.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune import build, child, console, environment, search_space
from finetune.errors import FinetuneError, Interrupted, RecipeError, RunError, TrainingError
from finetune.folder import locked, opened, write, write_json
from finetune.loop import predict
from finetune.recipe import Recipe
from finetune.report import searched
from finetune.search_result import Search, Trial
from finetune.search_space import Between, Dimension
from finetune.training import learn

if TYPE_CHECKING:
    from optuna import Study
    from optuna import Trial as Asked
    from optuna.trial import FrozenTrial

DATABASE = "trials.db"


def search(
    recipe: Recipe, texts: Sequence[str], trials: int = 20, output: str | Path | None = None
) -> Search:
    """Try values of a recipe's fields, and finish the run that is best on validation.

    `texts` are overrides, some of them ranges or lists. The same search in the same folder goes on
    until there are `trials`. Trials that lag behind the median of the others at the same epoch are
    pruned. Raises RecipeError for what cannot be searched and without Optuna, RunError for a folder
    that holds another search, TrainingError if no trial comes to an end.
    """
    optuna = _optuna()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError("A search runs in one process: start it without `accelerate launch`.")
    recipe, dimensions = search_space.read(recipe, texts)
    if recipe.hub.push:
        raise RecipeError(
            "search pushes nothing: leave out hub.push, and push the run that it ends with by "
            "`finetune push run=DIR repo=user/name`."
        )
    text = "\n".join([recipe.to_yaml(), *map(str, dimensions)])
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    path = Path(output) if output else Path("runs") / f"search-{recipe.name}-{digest}"
    if path.is_dir() and not (path / DATABASE).is_file() and set(path.iterdir()) - {path / ".lock"}:
        raise RunError(f"{path} is not empty and holds no search. Give another output=DIR.")
    with locked(path):
        study = _study(path, text)
        trials = _first(study, recipe, dimensions, trials)
        ranges = _distributions(dimensions)
        while len(ended := _ended(study, ranges)) < trials:
            study.sampler = optuna.samplers.TPESampler(seed=recipe.train.seed + len(study.trials))
            study.pruner = _pruner(dimensions)
            _attempt(study, _next(study, ranges), recipe, dimensions, path, trials)
            _tidy(path, _ended(study, ranges))
        found = _finish(recipe, dimensions, ended, path)
        write(path / "best.yaml", found.run.recipe.to_yaml())
        write_json(path / "search.json", found.plain())
        write(path / "report.html", searched.render(found))
    return found


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise RecipeError("search needs Optuna, which is an extra: pip install optuna") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _study(path: Path, text: str) -> Study:
    """Return the study in this folder; raise RunError if it is one of another search."""
    optuna = _optuna()
    study: Study = optuna.create_study(
        storage=f"sqlite:///{path / DATABASE}",
        study_name="search",
        direction="maximize",
        load_if_exists=True,
    )
    held = study.user_attrs.get("search")
    if held is None:
        study.set_user_attr("search", text)
    elif held != text:
        lines = [set(t.splitlines()) for t in (held, text)]
        other = "; ".join(line.strip() for line in sorted(lines[0] - lines[1])) or "fewer keys"
        raise RunError(
            f"{path} holds another search, with {other}. Give another output=DIR, or leave output= "
            "out to get a folder of its own."
        )
    return study


def _pruner(dimensions: Sequence[Dimension]) -> Any:
    """Return the median rule, from the second epoch and the sixth trial on.

    Where trials have epochs of different number there is none: at one epoch their learning rates
    would stand at different points.
    """
    pruners = _optuna().pruners
    if any(dimension.key == "train.epochs" for dimension in dimensions):
        return pruners.NopPruner()
    return pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2)


def _distributions(dimensions: Sequence[Dimension]) -> dict[str, Any]:
    """Return Optuna's distribution for each key."""
    kinds = _optuna().distributions
    ranges: dict[str, Any] = {}
    for d in dimensions:
        if not isinstance(d, Between):
            ranges[d.key] = kinds.CategoricalDistribution(d.values)
        elif d.whole:
            ranges[d.key] = kinds.IntDistribution(int(d.low), int(d.high), log=d.log)
        else:
            ranges[d.key] = kinds.FloatDistribution(d.low, d.high, log=d.log)
    return ranges


def _first(study: Study, recipe: Recipe, dimensions: Sequence[Dimension], trials: int) -> int:
    """Queue the recipe's own values, and all others if there are few; return how many trials."""
    own = {d.key: d.own(recipe) for d in dimensions}
    if None not in own.values():
        study.enqueue_trial(own, {"own": True}, skip_if_exists=True)
    combinations = search_space.number_of_combinations(dimensions)
    if combinations is None or combinations > trials:
        return trials
    console.say(f"There are {combinations} combinations: each is tried once.")
    for values in itertools.product(*(d.values or () for d in dimensions)):
        chosen = {d.key: value for d, value in zip(dimensions, values, strict=True)}
        study.enqueue_trial(chosen, skip_if_exists=True)
    return combinations


def _ended(study: Study, ranges: dict[str, Any]) -> list[FrozenTrial]:
    """Return the trials that have ended; one that was killed before it had values is none."""
    return [t for t in study.trials if t.state.is_finished() and t.params.keys() == ranges.keys()]


def _next(study: Study, ranges: dict[str, Any]) -> Asked:
    """Return the trial that was broken off, if there is one, else a new one."""
    optuna = _optuna()
    states = optuna.trial.TrialState
    for left in study.get_trials(states=[states.RUNNING]):
        if left.params.keys() == ranges.keys():
            again: Asked = optuna.trial.Trial(study, left._trial_id)
            return again
        study.tell(left.number, state=states.FAIL)
    return study.ask(ranges)


def _attempt(
    study: Study,
    asked: Asked,
    recipe: Recipe,
    dimensions: Sequence[Dimension],
    path: Path,
    trials: int,
) -> None:
    """Run one trial and tell the study; what goes wrong in it is written down, and fails it."""
    optuna = _optuna()
    states = optuna.trial.TrialState
    texts = _texts(dimensions, asked.params)
    console.say(f"Trial {asked.number} of {trials}: {' '.join(texts)}")
    ended = [t for t in study.trials if t.state.is_finished() and t.params == asked.params]
    if ended:  # a sampler may come back to the same few values
        for name, value in ended[0].user_attrs.items():
            asked.set_user_attr(name, value)
        known = ended[0].value if ended[0].state == states.COMPLETE else None
        study.tell(asked, known, state=ended[0].state)
        return
    reported = study.trials[asked.number].intermediate_values
    began = time.monotonic()

    def watch(epoch: int, value: float) -> None:
        asked.set_user_attr("epochs", epoch)
        if epoch not in reported:
            asked.report(value, epoch)
        if asked.should_prune():
            raise optuna.TrialPruned

    def spent() -> None:
        earlier = study.trials[asked.number].user_attrs.get("seconds", 0.0)
        asked.set_user_attr("seconds", round(earlier + time.monotonic() - began, 3))

    try:
        metric, figure = _learned(recipe.override(*texts), _folder(path, asked.number), watch)
    except optuna.TrialPruned:
        spent()
        study.tell(asked, state=states.PRUNED)
    except Interrupted:
        spent()
        raise
    except FinetuneError as error:
        spent()
        asked.set_user_attr("reason", str(error))
        console.say(f"It failed: {error}")
        study.tell(asked, state=states.FAIL)
    else:
        spent()
        asked.set_user_attr("metric", metric)
        asked.set_user_attr("figure", figure)
        study.tell(asked, _signed(metric, figure["value"]))


def _signed(metric: str, value: float) -> float:
    return -value if metric.startswith("-") else value


def _texts(dimensions: Sequence[Dimension], values: dict[str, Any]) -> list[str]:
    return [f"{d.key}={d.text(values[d.key])}" for d in dimensions]


def _folder(path: Path, number: int) -> Path:
    return path / f"trial-{number:03d}"


def _learned(
    recipe: Recipe, path: Path, watch: Callable[[int, float], None]
) -> tuple[str, dict[str, Any]]:
    """Train in a run folder, as far as the test; return the metric and its validation figure."""
    train = recipe.train
    with opened(path, recipe) as folder:
        environment.keep_freed_memory()
        precision = environment.precision(train.precision)
        accelerator = environment.accelerator(precision, compiled=train.compile)
        job = build.job(recipe)
        learn(job, folder, accelerator, watch)
        samples, target = job.samples["validation"], job.target
        module = job.module.to(accelerator.device)
        how = samples, target, accelerator, train.eval_batch_size
        predictions = predict(job.network, module, *how)
        figure = target.scores(predictions, samples.truth)[target.metric.lstrip("-")]
    if figure["value"] is None or not math.isfinite(figure["value"]):
        raise TrainingError(f"{target.metric.lstrip('-')} is not defined on validation.")
    return target.metric, figure


def _tidy(path: Path, ended: Sequence[FrozenTrial]) -> None:
    """Delete the checkpoints of trials that are not the best: only that one goes on."""
    kept = {_folder(path, t.number) for t in _ranked(ended)[:1] if t.state.name == "COMPLETE"}
    for trial in ended:
        folder = _folder(path, trial.number)
        if folder not in kept and not (folder / "result.json").exists():
            shutil.rmtree(folder / "state", ignore_errors=True)


def _ranked(ended: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials, the best first; of equals the earlier."""
    order = {"COMPLETE": 0, "PRUNED": 1, "FAIL": 2}

    def place(trial: FrozenTrial) -> tuple[int, float]:
        return order[trial.state.name], -max(_values(trial), default=0.0)

    return sorted(ended, key=place)


def _values(trial: FrozenTrial) -> Iterator[float]:
    """Yield the value of a trial, of a pruned one those of its epochs; more is better."""
    if trial.state.name == "COMPLETE" and trial.value is not None:
        yield trial.value
    elif trial.state.name == "PRUNED":
        yield from (v for v in trial.intermediate_values.values() if math.isfinite(v))


def _finish(
    recipe: Recipe, dimensions: Sequence[Dimension], ended: Sequence[FrozenTrial], path: Path
) -> Search:
    """Finish the run of the best trial and return what was found."""
    ranked = _ranked(ended)
    best = ranked[0]
    if best.state.name != "COMPLETE":
        reasons = {t.user_attrs.get("reason", "pruned") for t in ranked}
        raise TrainingError(f"No trial came to an end: {'; '.join(sorted(reasons))}")
    console.say(f"Trial {best.number} is the best on validation: its run is finished and tested.")
    run = child.run(recipe.override(*_texts(dimensions, best.params)), _folder(path, best.number))
    metric = best.user_attrs["metric"]

    def plain(trial: FrozenTrial) -> Trial:
        known = trial.user_attrs
        values = [_signed(metric, value) for value in [max(_values(trial), default=math.nan)]]
        figure = known.get("figure") or ({"value": values[0]} if values[0] == values[0] else {})
        texts = (text.partition("=") for text in _texts(dimensions, trial.params))
        return Trial(
            trial.number,
            {key: value for key, _, value in texts},
            trial.state.name.lower(),
            figure,
            known.get("epochs", 0),
            known.get("seconds", 0.0),
            known.get("reason", ""),
        )

    own = next((t.number for t in ended if t.user_attrs.get("own")), None)
    trials = tuple(plain(trial) for trial in ranked)
    return Search(path, recipe, tuple(dimensions), metric, trials, own, run)


def trials_of(text: str) -> int:
    """Return the number of trials; raise RecipeError for what is none."""
    if not text.isdigit() or int(text) < 1:
        raise RecipeError(f"trials={text!r} is not allowed; give a whole number such as trials=20.")
    return int(text)
