"""The model card: README.md of a run and of its saved model, for readers and for the hub.

The front matter is huggingface_hub's; the body is Markdown. Names from the data are made inert in
both, and no path of this machine gets in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune import loading, plain_yaml, slices, wording
from finetune.errors import RecipeError
from finetune.explain import SECRET
from finetune.protocols import SPLITS

if TYPE_CHECKING:
    from finetune.job import Job
    from finetune.recipe import Recipe

CLASSES = 50
"""Rows of the table of classes; of more, those of lowest F1."""

PIPELINES = {
    "multi-label-image-classification": "image-classification",
    "image-regression": "",
    "multi-label-text-classification": "text-classification",
    "text-regression": "text-classification",
    "text-to-text": "",
    "language-modeling": "text-generation",
    "chat": "text-generation",
}
"""The hub's name for what a task does, where it is not the task's own."""

PURPOSE = {
    "image-classification": "Says which one of {n} classes an image shows",
    "multi-label-image-classification": "Says which of {n} labels an image has",
    "image-regression": "Estimates a number from an image",
    "text-classification": "Says which one of {n} classes a text is of",
    "multi-label-text-classification": "Says which of {n} labels a text has",
    "text-regression": "Estimates a number from a text",
    "token-classification": "Gives each word of a text one of {n} tags",
    "question-answering": "Finds the part of a text that answers a question",
    "text-to-text": "Makes a text from a text",
    "language-modeling": "Goes on with a text",
    "chat": "Answers in a chat",
}


def text(
    recipe: Recipe, job: Job, result: Mapping[str, Any], environment: Mapping[str, Any]
) -> str:
    """Return the card of a run as Markdown with YAML front matter."""
    backbone = _origin(recipe, job)
    parts = [
        f"---\n{front_matter(result, backbone)}\n---",
        f"# {inert(result['name'])}",
        _purpose(result, backbone),
        "## Results",
        _scores(result),
        *_classes(result, job.target.each[0]),
        "## Data",
        _data(result),
        "## Training",
        _training(recipe, result, backbone, environment),
        "## How to load it",
        loading.text(result, backbone),
        "## How to make it again",
        _again(recipe, result, environment),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _origin(recipe: Recipe, job: Job) -> dict[str, Any]:
    """Return where the model comes from, and how its library makes it; no local path is in it.

    `id` and `revision` are there only where the weights are the hub's own.
    """
    value = recipe.backbone
    weights = getattr(value, "weights", None)
    words = {"none": "random weights", "pretrained": "", None: ""}
    side = getattr(value, "img_size", None)
    size = {"img_size": side} if side else {}
    kind = getattr(value, "kind", "")
    return {
        "library": kind if kind in ("timm", "transformers") else None,
        "weights": words.get(weights, "weights of a local file"),
        "arguments": {**getattr(value, "args", {}), **size},
        **job.network.origin,
    }


def inert(name: object, longest: int = 80) -> str:
    """Return a name as Markdown that shows it and does nothing else, on one line."""
    shown = wording.label(name, longest)
    shown = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # What may begin a mark, a link or a mention, or end a cell; & and ; belong to the above.
    return re.sub(r"([\\`*_\[\]#|~$:@]|(?<=www)\.)", r"\\\1", shown)


def front_matter(result: Mapping[str, Any], backbone: Mapping[str, Any]) -> str:
    """Return the YAML that the hub reads: what the model is, and its test metrics."""
    from huggingface_hub import ModelCardData

    source, task = result["data"]["source"], result["task"]
    pipeline = PIPELINES.get(task, task)
    library = backbone.get("library")
    data = ModelCardData(
        base_model=backbone.get("id"),
        datasets=[source["id"]] if source.get("id") else None,
        eval_results=_evaluations(result, pipeline or task),
        library_name=library,
        license=_license(source, backbone),
        metrics=[result["metric"].lstrip("-")],
        model_name=wording.label(result["name"]),
        pipeline_tag=pipeline or None,
        tags=[tag for tag in (task, library, result["method"], "finetune") if tag],
    )
    return str(data.to_yaml()).strip()


def _evaluations(result: Mapping[str, Any], task: str) -> list[Any]:
    """Return the metrics of the test split for the model index."""
    from huggingface_hub import EvalResult

    source, about = result["data"]["source"], result["data"]
    name = wording.label(source.get("title") or source.get("name") or source.get("id") or "data")
    known = {
        metric: figure
        for metric, figure in result["test"].items()
        if metric != "per_class" and isinstance(figure.get("value"), (int, float))
    }
    return [
        EvalResult(
            task_type=task,
            dataset_type=source.get("id") or re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"),
            dataset_name=name,
            dataset_split="test",
            dataset_revision=source.get("revision"),
            dataset_args={"fingerprint": about["fingerprint"]},
            metric_type=metric,
            metric_name=wording.metric(metric),
            metric_value=figure["value"],
            metric_args={key: figure.get(key) for key in ("n", "low", "high")},
        )
        for metric, figure in known.items()
    ]


def _license(*sources: Mapping[str, Any]) -> str | None:
    """Return the licence where data and backbone agree on one, or only one of them says any."""
    found = set()
    for source in sources:
        said = source.get("license")
        for one in said if isinstance(said, list) else [said]:
            if isinstance(one, str) and re.fullmatch(r"[a-z0-9.\-]+", one) and one != "unknown":
                found.add(one)
    return (found.pop() if len(found) == 1 else "other") if found else None


def _purpose(result: Mapping[str, Any], backbone: Mapping[str, Any]) -> str:
    """Return what the model does, how well, and on what it stands."""
    classes = result["data"]["classes"] or []
    does = PURPOSE.get(result["task"], "A model for {n} classes").format(n=len(classes))
    if classes:
        some = ", ".join(inert(name, 40) for name in classes[:20])
        does += f": {some}" + (f" and {len(classes) - 20} more" if len(classes) > 20 else "")
    source = result["data"]["source"]
    made = f"Made by {wording.method(result['method'])}"
    if backbone.get("name"):
        made += f" of {inert(backbone['name'])}"
    made += f" on {inert(source.get('id') or source.get('name') or 'data without a name')}."
    name = result["metric"].lstrip("-")
    figure = result["test"][name]
    bounds = wording.interval(name, figure)
    score = (
        f"{wording.metric(name)} on the test split: **{wording.value(name, figure['value'])}**"
        + (f" (95 % interval {bounds})" if bounds else "")
        + f", n = {figure['n']:,}."
    )
    doubt = inert(wording.verdict(result), 1000) if wording.verdict(result) else ""
    use = "It is meant for inputs like those it was trained on; on others, measure it first."
    return "\n\n".join(part for part in (f"{does}. {made}", score, doubt, use) if part)


def _scores(result: Mapping[str, Any]) -> str:
    baselines = result.get("baselines", {})
    head = ["", *(f"{s}, n = {result['data']['rows'][s]:,}" for s in ("test", "validation"))]
    head += [f"baseline: {inert(name)}" for name in baselines]
    columns = [result["test"], result["validation"], *baselines.values()]
    rows = [
        [inert(wording.metric(name)), *(_figure(name, scores.get(name, {})) for scores in columns)]
        for name in result["test"]
        if name != "per_class"
    ]
    lines = [table(head, rows)]
    main = result["metric"].lstrip("-")
    for known, scores in baselines.items():
        if gap := wording.difference(main, scores.get("difference") or {}):
            lines.append(
                f"Paired difference from the baseline {inert(known)} in "
                f"{inert(wording.metric(main))}: {gap}."
            )
    if told := slices.sentence(result.get("slices", {}), result["metric"], result["test"][main]):
        lines.append(inert(told, 500))
    looks = result.get("looks_at_test", ())
    said = "; ".join(f"{x['precision']}, batches of {x['batch_size']}" for x in looks)
    times = "once" if len(looks) == 1 else f"{len(looks)} times"
    lines.append(
        "In brackets are 95 % intervals. Every choice was made on validation; the test split was "
        f"looked at {times} ({said})."
    )
    return "\n\n".join(lines)


def _figure(name: str, figure: Mapping[str, Any]) -> str:
    bounds, value = wording.interval(name, figure), wording.value(name, figure.get("value"))
    return f"{value} ({bounds})" if bounds else value


def _classes(result: Mapping[str, Any], one: str) -> list[str]:
    """Return the table of classes, or what else has figures, and what is most often mixed up."""
    parts: list[str] = []
    every: Mapping[str, Any] = result["test"].get("per_class", {})

    def f1(name: str) -> float:
        value = every[name]["f1"]["value"]
        return 2.0 if value is None else float(value)

    shown = list(every) if len(every) <= CLASSES else sorted(every, key=f1)[:CLASSES]
    if shown:
        rows = [
            [
                inert(name),
                *(_figure("", every[name][k]) for k in ("recall", "precision", "f1")),
                f"{every[name]['n']:,}",
            ]
            for name in shown
        ]
        title = f"The {CLASSES} of lowest F1" if len(shown) < len(every) else f"By {one}"
        head = [one, "recall", "precision", "F1", "n"]
        parts += [f"### {title}", table(head, rows)]
    if pairs := result.get("confused"):
        rows = [
            [inert(p["true"]), inert(p["predicted"]), f"{p['count']} of {p['of']}"] for p in pairs
        ]
        parts += ["### Most often confused", table(["true", "taken for", "times"], rows, "---")]
    return parts


def _data(result: Mapping[str, Any]) -> str:
    about, source = result["data"], result["data"]["source"]
    facts = {
        "data": inert(source.get("id") or source.get("title") or source.get("name") or "no name"),
        "revision": inert(source["revision"]) if source.get("revision") else "",
        "licence": inert(source.get("license") or "not stated"),
        "rows": ", ".join(f"{about['rows'][split]:,} {split}" for split in SPLITS),
        "left out as unreadable": ", ".join(
            f"{n:,} {split}" for split, n in about.get("skipped", {}).items() if n
        ),
        "fingerprint": f"`{about['fingerprint']}`",
    }
    return table(["", ""], [[name, fact] for name, fact in facts.items() if fact], "---")


def _training(
    recipe: Recipe,
    result: Mapping[str, Any],
    backbone: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> str:
    training, train, cost = result["training"], recipe.train, result["cost"]
    parameters = result["parameters"]
    learned, total = parameters["trainable_parameters"], parameters["total_parameters"]
    weights = backbone.get("weights")
    facts = {
        "method": wording.method(result["method"]),
        "backbone": inert(backbone.get("id") or backbone.get("name") or "a module of a script")
        + (f", {weights}" if weights else ""),
        "backbone's revision": inert(backbone["revision"]) if backbone.get("revision") else "",
        "backbone's licence": inert(backbone["license"]) if backbone.get("license") else "",
        "trained parameters": f"{learned:,} of {total:,}",
    }
    if "epochs" in training:
        facts |= {
            "epochs": f"{training['epochs']}, the best was {training['best_epoch']}",
            "updates": f"{training['updates']:,} of {train.batch_size} samples",
            "optimizer": f"{inert(train.optimizer)}, learning rate {train.lr:g}, {train.schedule}",
            "samples per second": f"{training['samples_per_second']:,.0f}",
        }
    if "probe" in training:
        facts["C of the linear head"] = f"{training['probe']['c']:g}"
    if "wise" in training:
        alpha = training["wise"]["alpha"]
        facts["WiSE-FT"] = f"{alpha:g} of the way from the pretrained to the fine-tuned weights"
    gpus = ", ".join(environment.get("gpus") or ())
    facts |= {
        "seed": f"{train.seed}",
        "time": wording.duration(cost["seconds"]),
        "peak memory": wording.size(cost["peak_memory_bytes"]),
        "hardware": inert(gpus) if gpus else f"CPU, {environment.get('threads', '?')} threads",
    }
    return table(["", ""], [[name, fact] for name, fact in facts.items() if fact], "---")


def _again(recipe: Recipe, result: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    versions = ", ".join(
        f"{name} {number}" for name, number in environment.get("versions", {}).items()
    )
    with_what = f"Python {environment.get('python', '?')}" + (f", {versions}" if versions else "")
    try:
        public = plain_yaml.write(_public(plain_yaml.read(recipe.to_yaml()), result))
    except RecipeError:
        return (
            "The recipe holds objects of a script, which run it again; as YAML it cannot be "
            f"written. It was run with {with_what}."
        )
    return (
        "Save this as `recipe.yaml`, put your own paths where it says `PATH`, and run "
        f"`finetune finetune recipe=recipe.yaml`. It was run with {with_what}.\n\n"
        + fenced(public, "yaml")
    )


def _public(content: Any, result: Mapping[str, Any], key: str = "") -> Any:
    """Return the values of a recipe without paths of this machine and without secrets."""
    if isinstance(content, dict):
        return {name: _public(value, result, name) for name, value in content.items()}
    if isinstance(content, list):
        return [_public(value, result, key) for value in content]
    if not isinstance(content, str) or content == result["data"]["source"].get("id"):
        return content
    if SECRET.search(content):
        return "SECRET"
    # A word such as `full` may be the name of a file nearby; where a path can stand, it is one.
    places = key in ("path", "weights", "name") and content != result["name"]
    rooted = re.match(r"[/~\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\]|file:", content)
    return "PATH" if rooted or (places and _exists(content)) else content


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # too long for a name, or with a null character in it
        return False


def table(head: Sequence[str], rows: Iterable[Sequence[str]], side: str = "---:") -> str:
    """Return a Markdown table of cells that are Markdown already, by default with numbers."""
    lines = [head, ["---", *[side] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fenced(content: str, language: str) -> str:
    """Return text as a block of code that nothing inside can end."""
    longest = max((len(run) for run in re.findall(r"`+", content)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{content.rstrip()}\n{fence}"
