"""The model card: README.md of a run and of its saved model, for readers and for the hub.

Names from the data are made inert in its Markdown, and no path of this machine gets in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune import front_matter, loading, plain_yaml, slices, wording
from finetune.errors import SECRET, RecipeError
from finetune.protocols import SPLITS

if TYPE_CHECKING:
    from finetune.job import Job
    from finetune.recipe import Recipe

CURVES = "![Loss, and the chosen metric on validation, over the updates](curves.png)"
"""Only beside a run's own card, and where it is pushed, lies the picture."""
LOADING = "## How to load it"
CLASSES = 50
"""Rows of the table of classes; of more, those of lowest F1."""

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
    backbone = front_matter.origin(recipe, job)
    parts = [
        f"---\n{front_matter.written(result, backbone)}\n---",
        f"# {inert(result['name'])}",
        _purpose(result, backbone),
        "## Results",
        _scores(result),
        *_classes(result, job.target.each[0]),
        "## Data",
        _data(result),
        "## Training",
        _training(recipe, result, backbone, environment),
        CURVES if "epochs" in result["training"] else "",
        LOADING,
        loading.text(result, backbone),
        "## How to make it again",
        _again(recipe, result, environment),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def inert(name: object, longest: int = 80) -> str:
    """Return a name as Markdown that shows it and does nothing else, on one line."""
    shown = wording.label(name, longest)
    shown = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # What may begin a mark, a link or a mention, or end a cell; & and ; belong to the above.
    return re.sub(r"([\\`*_\[\]#|~$:@]|(?<=www)\.)", r"\\\1", shown)


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
        [
            inert(wording.metric(name)),
            *(wording.figure(name, scores.get(name, {})) for scores in columns),
        ]
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
                *(wording.figure("", every[name][k]) for k in ("recall", "precision", "f1")),
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
        "hardware": inert(gpus) if gpus else f"CPU, threads: {environment.get('threads', '?')}",
    }
    return table(["", ""], [[name, fact] for name, fact in facts.items() if fact], "---")


def _again(recipe: Recipe, result: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    versions = ", ".join(
        f"{name} {number}" for name, number in environment.get("versions", {}).items()
    )
    with_what = f"Python {environment.get('python', '?')}" + (f", {versions}" if versions else "")
    public = public_recipe(recipe, result)
    if not public:
        return (
            "The recipe holds objects of a script, which run it again; as YAML it cannot be "
            f"written. It was run with {with_what}."
        )
    return (
        "Save this as `recipe.yaml`, put your own paths where it says `PATH`, and run "
        f"`finetune finetune recipe=recipe.yaml`. It was run with {with_what}.\n\n"
        + fenced(public, "yaml")
    )


def public_recipe(recipe: Recipe, result: Mapping[str, Any]) -> str:
    """Return a recipe as YAML without paths of this machine and secrets; empty if it is a script's.

    Where its run was pushed to is nobody else's business either.
    """
    try:
        content = plain_yaml.read(recipe.to_yaml())
    except RecipeError:
        return ""
    content.pop("hub", None)
    return plain_yaml.write(_public(content, result))


def published(text: str, repo: str, revision: str | None, *, adapter_only: bool) -> str:
    """Return a card for the repository that holds the model, or only its adapter, at its root."""
    before, title, rest = text.partition(f"\n\n{LOADING}\n\n")
    if title:
        examples, after, end = rest.partition("\n\n## ")
        examples = loading.published(examples, repo, revision, adapter_only=adapter_only)
        text = "".join([before, title, examples, after, end])
    if adapter_only:
        relation = "base_model_relation: adapter\n" if "\nbase_model: " in before else ""
        text = re.sub(r"(?m)^library_name: .*\n", f"library_name: peft\n{relation}", text, count=1)
    return text


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
