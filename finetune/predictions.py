"""Predictions on new inputs: one answer for each, in order, in constant memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from finetune import console, environment, tables, wording
from finetune.data import stream, text_stream, writing
from finetune.data.columns import TRUTH
from finetune.data.rows import Ask, Row, Stream, asked
from finetune.errors import RecipeError, nearest
from finetune.samples import ahead, longest_first, together

if TYPE_CHECKING:
    from finetune.protocols import Network, Source, Target
    from finetune.run import Run


class Reader(NamedTuple):
    """How a path, and one thing in memory with its number, become rows."""

    path: Callable[[str, Ask], Stream]
    row: Callable[[Any, int, Ask], Row]


_TEXTS = Reader(text_stream.texts, text_stream.row)

STREAMS = {
    "image": Reader(stream.images, stream.image),
    **dict.fromkeys(("text", "words", "question", "source", "messages"), _TEXTS),
}
"""How inputs become rows, by the first column that the task reads."""

SHOWN = 20
"""Answers shown in the terminal where no output file is given."""

BATCHES = 8
"""Batches of texts that are sorted by length together."""

Answer = dict[str, Any]


def rows_of(run: Run, inputs: Any, columns: Mapping[str, str] | None = None) -> Stream:
    """Return the rows that `inputs` means: a path or pattern, or things in memory.

    In memory are paths, the bytes of a file, Pillow images, or dicts with "path" or "bytes"; of
    texts, strings or dicts with the task's columns. `columns` says what a table calls the columns
    that the task reads. Raises DataError where a path or pattern leads to nothing, RecipeError for
    things of another kind.
    """
    wanted = [name for name in run.recipe.task.columns if name not in TRUTH]
    for name, column in (columns or {}).items():
        if name not in wanted:
            raise RecipeError(
                f"{name}={column} is not allowed here: this run reads {', '.join(wanted)}."
                f"{nearest(name, wanted)}"
            )
    reader, ask = STREAMS[wanted[0]], asked(wanted, columns or {}, run.recipe.data)
    if isinstance(inputs, (str, Path)):
        return reader.path(str(inputs), ask)
    held = list(inputs)

    def read() -> Iterator[Row]:
        for number, value in enumerate(held):
            yield reader.row(value, number, ask)

    return Stream(len(held), read, files="image" in wanted)


def answers(run: Run, rows: Stream, top_k: int = 5, *, most: int | None = None) -> Iterator[Answer]:
    """Yield one answer for each row, or for the first `most`, in order.

    Each has "input" and "error" (None, or why there is no answer) and what its task tells. The
    saved model runs in float32 on its native preprocessing, a batch at a time.
    """
    if top_k < 1:
        raise RecipeError(f"top_k={top_k} is not allowed; give a whole number of 1 or more.")
    device = environment.device()
    network = run.network()
    module = network.module.to(device).eval()
    target = run.target()
    size = run.recipe.train.eval_batch_size
    # Of texts several batches are held, so that one is of texts of like length.
    held = size if run.recipe.task.form.reading is None else BATCHES * size
    given = islice(rows.read(), most)
    batches = iter(lambda: list(islice(given, held)), [])

    def read(batch: list[Row]) -> tuple[list[Row], Source, dict[int, str]]:
        return batch, *network.inputs.read([row.cells for row in batch])

    total = rows.count if rows.count is None or most is None else min(rows.count, most)
    with console.Bar("predicting", total) as bar:
        for batch, source, reasons in ahead(read, batches, depth=0 if device.type == "cpu" else 2):
            told: Iterator[Answer] = iter(())
            if len(source):
                used = [row.cells for place, row in enumerate(batch) if place not in reasons]
                predictions = _predict(network, module, target, source, size, device)
                told = iter(target.answers(predictions, used, top_k))
            for place, row in enumerate(batch):
                if place in reasons:
                    yield {"input": row.name, "error": reasons[place]}
                else:
                    yield {"input": row.name, "error": None, **next(told)}
            bar.advance(len(batch))


@torch.inference_mode()
def _predict(
    network: Network, module: Any, target: Target, source: Source, size: int, device: torch.device
) -> Any:
    parts = []
    labels = target.labels(None, source)  # of texts that are their own truth
    order = longest_first(source)
    for start in range(0, len(source), size):
        indices = order[start : start + size]
        raw = source.read(indices, 0)
        moved = {name: value.to(device, non_blocking=True) for name, value in raw.items()}
        known = {} if labels is None else {"label": torch.from_numpy(labels[indices]).to(device)}
        parts.append(target.infer(network, module, source.finish(moved), known))
    return target.decode(together(parts).cpu().numpy()[np.argsort(order)], source)


def columns(run: Run, top_k: int) -> Answer:
    """Return an answer that has every key, none of it empty: what a table file looks like."""
    return {"input": "", **run.target().example(max(top_k, 1)), "error": ""}


def write(run: Run, rows: Stream, output: str | Path, top_k: int = 5) -> tuple[int, int]:
    """Write the answers to a CSV, JSON lines or parquet file; return how many, and how many failed.

    Raises DataError if the file is there or cannot be written; then nothing is left of it.
    """
    path, count, failed = writing.check(output), 0, 0
    told = answers(run, rows, top_k)
    with writing.Writer(path, columns(run, top_k)) as file:
        while some := list(islice(told, 256)):
            file.write(some)
            count += len(some)
            failed += sum(answer["error"] is not None for answer in some)
    return count, failed


def show(run: Run, rows: Stream, top_k: int = 5) -> None:
    """Print the first answers as a table, and say how many more inputs there are."""
    told = list(answers(run, rows, top_k, most=SHOWN))
    names = [name for name in columns(run, top_k) if name != "error"]
    lines = []
    for answer in told:
        if answer["error"] is not None:
            cells = [f"cannot be read: {answer['error']}", *[""] * (len(names) - 2)]
        else:
            cells = [_cell(answer[name]) for name in names[1:]]
        lines.append([answer["input"], *cells])
    folder = ""
    if rows.files:
        with suppress(ValueError):  # there are none, or some of them begin at the root
            folder = os.path.commonpath([os.path.dirname(line[0]) for line in lines])
    for line in lines if folder else []:
        line[0] = os.path.relpath(line[0], folder)
    tables.show(folder, names, lines)
    if rows.count is None or rows.count > len(told):
        more = "" if rows.count is None else f"and {rows.count - len(told):,} more: "
        tables.say(f"{more}output=FILE.csv (or .jsonl, .parquet) writes all")


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_item, value)) or "none"
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _item(item: Mapping[str, Any]) -> str:
    """Return what an answer among several says, and how sure it is: `cat 0.913`."""
    said = [value for value in item.values() if isinstance(value, str)]
    chances = [f"{value:.3f}" for value in item.values() if isinstance(value, float)]
    return " ".join([*said, *chances])


def count_of(text: str | int, key: str = "top_k") -> int:
    """Return a whole number of 1 or more; raise RecipeError for anything else."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise RecipeError(f"{key}={text!r} is not allowed; give a whole number of 1 or more.")
    return number


def run_command(
    run: Run,
    inputs: Any,
    output: str | Path | None,
    top_k: str | int,
    columns: Mapping[str, str] | None = None,
) -> None:
    """Predict and write or show: what `finetune predict` does."""
    number = count_of(top_k)
    if output is not None:
        writing.check(output)
    rows = rows_of(run, inputs, columns)
    for note in rows.notes:
        console.say(note)
    if output is None:
        show(run, rows, number)
        return
    began = time.monotonic()
    count, failed = write(run, rows, output, number)
    seconds = time.monotonic() - began
    console.say(
        f"Wrote {count:,} predictions to {output}: {count / seconds:,.0f} per second, with at most "
        f"{wording.size(environment.peak_memory())} of memory."
    )
    if failed:
        console.say(f"{failed:,} inputs could not be read: the column `error` says why.")
