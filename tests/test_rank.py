"""Backbones ranked by frozen features: the evidence, the order, the reuse, and what is said."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_texts
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from finetune import Timm, extraction, rank
from finetune.command import main
from finetune.errors import BackboneError, RecipeError
from finetune.intervals import together
from finetune.logme import logme
from finetune.rank import Place, Ranking
from finetune.recipe import load

DIGITS = load("vit-digits")
TINY = Timm(name="tiny-vit")


def evidence(features: Any, target: Any) -> float:
    """Return the largest log density of a target for each row, searched for directly."""
    product = features @ features.T

    def cost(logs: Any) -> float:
        alpha, beta = np.exp(logs)
        covariance = product / alpha + np.eye(len(target)) / beta
        density = multivariate_normal.logpdf(target, cov=covariance, allow_singular=True)
        return -float(density)

    found = [minimize(cost, [a, b], method="Nelder-Mead") for a in (-1, 3) for b in (-1, 3)]
    return -min(one.fun for one in found) / len(target)


@pytest.mark.parametrize("width", [3, 8, 40])
def test_logme_is_the_largest_evidence(width: int) -> None:
    random = np.random.default_rng(width)
    features = random.standard_normal((30, width)) * np.logspace(-0.5, 0.5, width)
    noise = 0.5 * random.standard_normal((30, 2))
    targets = features @ random.standard_normal((width, 2)) + noise
    direct = np.mean([evidence(features, targets[:, column]) for column in (0, 1)])
    assert logme(features, targets) == pytest.approx(direct, abs=1e-4)


def test_logme_prefers_features_that_tell_the_classes_and_is_always_a_number() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    classes = np.eye(4)[labels]  # the fourth has no row
    noise = random.standard_normal((60, 5))
    telling = np.hstack([noise, np.eye(3)[labels] + 0.3 * random.standard_normal((60, 3))])
    assert logme(telling, classes) > logme(noise, classes) + 0.1
    for extreme in (np.zeros((60, 5)), np.ones((60, 5)), np.eye(60), np.eye(3)[labels]):
        assert np.isfinite(logme(extreme, classes))


def test_every_beginning_of_the_rows_has_the_classes_in_proportion() -> None:
    truth = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [60, 30, 10]))
    order = rank._in_proportion(truth)
    assert sorted(order) == list(range(100))
    for size in (10, 20, 50):
        counts = np.bincount(truth[order[:size]], minlength=3)
        np.testing.assert_allclose(counts, size * np.array([0.6, 0.3, 0.1]), atol=1)


def test_pretrained_weights_come_before_random_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank, "FIRST", 60)
    other = TINY.model_copy(update={"weights": "none"})
    plans = {"random": DIGITS.override(backbone=other), "shipped": DIGITS}
    found = rank.rank(plans, samples=120, output=tmp_path)
    first, second = found.places
    assert (first.name, second.name) == ("shipped", "random")
    assert first.linear_probe["low"] > second.linear_probe["high"]
    assert first.kNN["value"] > second.kNN["value"] and first.logme > second.logme
    # The random one is so far behind that it does not see the second half.
    assert (first.rows, second.rows) == (120, 60) and second.behind
    assert first.parameters == second.parameters > 2e6
    assert first.features_per_second > 0 and first.training_memory_bytes > 4 * first.parameters
    assert found.verdict() == [
        "Take shipped: it is clearly ahead of all others.",
        "Clearly behind on 60 rows, and seen no further: random.",
    ]
    kept = json.loads((tmp_path / "rank.json").read_text("utf-8"))
    assert kept["metric"] == "accuracy" and kept["verdict"] == found.verdict()
    assert [place["name"] for place in kept["places"]] == ["shipped", "random"]
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "backbones ranked" in page and "none were looked at" in page


def test_the_leader_of_equals_is_not_clearly_ahead() -> None:
    """Of ten backbones that are right by chance alone, the worst is not told from the best."""
    target = DIGITS.task.recall({"classes": ["a", "b"]})
    wrong = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        truth = random.integers(0, 2, 300)
        guesses = np.where(random.random((10, 300)) < 0.8, truth, 1 - truth)
        answers = [np.eye(2, dtype=np.float32)[guess] for guess in guesses]
        order = np.argsort((guesses == truth).mean(1))
        gap = target.difference(answers[order[-1]], answers[order[0]], truth)
        wrong += together(gap, math.comb(10, 2))["low"] > 0
    assert wrong <= 4  # with intervals for one comparison it is most of the 40


def bert(path: Path, name: str, **changes: Any) -> Path:
    """Return the folder of a tiny random BERT under a name of its own."""
    return Path(shutil.move(tiny_texts.folder(path, "bert", **changes), path / name))


def test_texts_by_command_and_nothing_is_computed_twice(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {"good": "wonderful warm great moving", "bad": "dull boring awful tired"}
    random = np.random.default_rng(0)
    lines = ["text,label"]
    for number in range(400):
        label = ("good", "bad")[number % 2]
        said = random.choice(words[label].split(), 3)
        lines.append(f"a {said[0]} and {said[1]} film with {said[2]} jokes,{label}")
    (tmp_path / "films.csv").write_text("\n".join(lines))
    one, two = bert(tmp_path, "one"), bert(tmp_path, "two", seed=1, num_hidden_layers=1)
    command = ["rank", f"data={tmp_path / 'films.csv'}", f"backbones={one},{two}", "samples=100"]
    assert main([*command, f"output={tmp_path / 'out'}"]) == 0
    said = capfd.readouterr().out
    assert "of frozen features on 40 validation rows" in said
    # A long path may be broken over two lines.
    assert f"report{tmp_path / 'out' / 'report.html'}" in "".join(said.split())
    places = json.loads((tmp_path / "out" / "rank.json").read_text("utf-8"))["places"]
    assert {place["name"] for place in places} == {"one", "two"}
    # The features are random, and so are the pieces that the tokenizer learns.
    assert all(place["linear_probe"]["value"] > 0.7 for place in places)
    computed = []
    plain = extraction.compute

    def counting(network: Any, source: Any, samples: int, *how: Any, **more: Any) -> Any:
        computed.append(samples)
        return plain(network, source, samples, *how, **more)

    monkeypatch.setattr(extraction, "compute", counting)
    assert main([*command, f"output={tmp_path / 'again'}"]) == 0
    assert set(computed) == {8}, "a few rows, to see that the code is the same too"
    again = json.loads((tmp_path / "again" / "rank.json").read_text("utf-8"))["places"]
    assert again == places


def place(name: str, value: float, **changes: Any) -> Place:
    figure = {"value": value, "low": value - 0.02, "high": value + 0.02, "n": 500}
    lead = {"value": 0.9 - value, "low": 0.88 - value, "high": 0.92 - value, "n": 500}
    fields = {
        "rows": 2000,
        "logme": 0.1,
        "parameters": 10**6,
        "features_per_second": 100.0,
        "training_memory_bytes": 10**9,
        "lead": lead,
        "behind": value < 0.88,
    }
    return Place(name=name, linear_probe=figure, kNN=figure, **(fields | changes))


def test_differences_within_chance_are_called_so(capsys: pytest.CaptureFixture[str]) -> None:
    places = (
        place("big", 0.9),
        place("small", 0.89, features_per_second=900.0, training_memory_bytes=None),
        place("poor", 0.6),
        place("worst", 0.5, rows=500),
    )
    found = Ranking(Path("out"), "accuracy", places, {"train": 6000, "validation": 800})
    leads, more, dropped = found.verdict()
    assert leads == (
        "big leads, but within what 500 validation rows leave to chance: ahead of small by "
        "+1.0 points (-1.0 to +3.0). The quickest of these is small."
    )
    assert more == "More rows may tell them apart: samples=4000."
    assert dropped == "Clearly behind on 500 rows, and seen no further: worst."
    found.show()
    said = capsys.readouterr().out
    assert "90.0 % (88.0 to 92.0)" in said and max(map(len, said.splitlines())) <= 80
    rows = {"train": 2000, "validation": 500}
    assert len(Ranking(Path("out"), "accuracy", places[:2], rows).verdict()) == 1
    alone = Ranking(Path("out"), "accuracy", (places[0], places[2]), rows)
    assert alone.verdict() == ["Take big: it is clearly ahead of all others."]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["backbones=tiny-vit"], "names 1 of them, and a ranking needs two or more"),
        (["backbones=tiny-vit,tiny-vit"], "names 'tiny-vit' twice"),
        (["backbones=tiny-vit,resnet18"], "needs data=, a folder, table or hub id"),
        (
            ["data=digits", "backbones=tiny-vit,resnet81", "backbone.weights=none"],
            "backbone='resnet81' is neither a timm model nor a folder. Did you mean 'resnet",
        ),
        (["data=digits", "backbones=tiny-vit,a b c"], "backbone='a b c' is not known here"),
        (["data=digits", "backbones=tiny-vit,minilm"], "and this task does not read texts. For"),
        (["data=digits", "backbones=tiny-vit,tiny-vitt"], "texts. Did you mean 'tiny-vit'? For"),
        (["data=digits", "backbones=a,b", "samples=5"], "give a whole number of 20 or more"),
        (["recipe=ner-wnut17", "backbones=a-b,c-d", "data=x.csv"], "x.csv"),
    ],
)
def test_mistakes_are_told(
    given: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rank", *given, f"output={tmp_path / 'out'}"]) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_task_without_one_answer_for_each_row_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"words": ["a", "b"], "label": ["O", "B-x"]}) + "\n" for _ in range(40))
    )
    recipe = load("ner-wnut17").override(f"data={tmp_path / 'rows.jsonl'}")
    with pytest.raises(RecipeError, match="task=token-classification has no single answer"):
        rank.rank({"a": recipe, "b": recipe}, output=tmp_path / "out")
    with pytest.raises(BackboneError, match="no-such"):
        folder = str(tmp_path / "no-such")
        rank.rank(rank.plan(f"tiny-vit,{folder}", ["data=digits"]), output=tmp_path / "out")
