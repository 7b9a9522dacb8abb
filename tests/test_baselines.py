"""What a model must beat, the paired difference from it, and where a model errs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import staging
import tiny_texts
from conftest import TINY_VIT
from scipy.stats import bootstrap
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.metrics import accuracy_score, average_precision_score, confusion_matrix, log_loss
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from finetune import (
    LanguageModeling,
    Recipe,
    TableData,
    TextClassification,
    TextToText,
    Timm,
    TokenClassification,
    Train,
    Transformers,
    baselines,
    build,
    mistakes,
    wording,
)
from finetune import finetune as start
from finetune.environment import accelerator
from finetune.errors import RecipeError, TrainingError
from finetune.extraction import fit_probe
from finetune.folder import Folder
from finetune.loop import predict
from finetune.probes import Known, Neighbours
from finetune.targets import Classes, LabelSets, Numbers
from recipes.vit_digits import recipe as vit_digits


def constant(job):
    """Return the one baseline of a job."""
    [given] = job.target.baselines(job.samples, job.splits.test).values()
    return given


def uneven(n=90):
    """Return a job whose classes 0, 1 and 2 have a half, a third and a sixth of the rows."""
    targets = {s: np.array([0, 0, 0, 1, 1, 2] * (n // 6)) for s in ("train", "validation", "test")}
    return staging.job(Classes(("a", "b", "c")), targets)


def test_classes_are_answered_by_their_frequencies():
    job = uneven()
    given, targets = constant(job), job.samples["test"].truth
    dummy = DummyClassifier(strategy="prior").fit(np.zeros((90, 1)), job.samples["train"].truth)
    np.testing.assert_allclose(given, dummy.predict_proba(np.zeros((90, 1))), atol=1e-6)
    scores = baselines.scores(job)["majority"]
    assert scores["accuracy"]["value"] == 0.5
    assert scores["accuracy"]["low"] < 0.5 < scores["accuracy"]["high"]
    assert scores["log_loss"]["value"] == pytest.approx(log_loss(targets, given), rel=1e-5)
    assert "per_class" not in scores and "difference" not in scores


def test_numbers_are_answered_by_the_training_mean():
    job, predictions = staging.numbers()
    scores = baselines.scores(job, predictions)["mean"]
    train, test = (job.samples[split].truth for split in ("train", "test"))
    dummy = DummyRegressor().fit(train, train)
    rmse = np.sqrt(np.mean((dummy.predict(test).reshape(-1, 1) - test) ** 2))
    assert scores["rmse"]["value"] == pytest.approx(rmse, rel=1e-5)
    assert scores["difference"]["value"] < scores["difference"]["high"] < 0
    assert scores["pearson"]["value"] is None


def test_label_sets_are_answered_by_their_frequencies():
    job, predictions = staging.label_sets()
    targets = job.samples["test"].truth
    scores = baselines.scores(job, predictions)["majority"]
    value = average_precision_score(targets, predictions) - targets.mean()
    assert scores["difference"]["value"] == pytest.approx(value, rel=1e-6)
    assert 0 < scores["difference"]["low"] < value < scores["difference"]["high"]


def test_a_paired_interval_is_the_bootstraps_and_narrower_than_an_unpaired_one():
    target = Classes(("a", "b"))
    random = np.random.default_rng(1)
    targets = random.integers(0, 2, 300)
    wrong = random.random(300) < 0.25
    first = np.eye(2)[np.where(wrong, 1 - targets, targets)]
    also = wrong | (random.random(300) < 0.05)
    second = np.eye(2)[np.where(also, 1 - targets, targets)]
    gap = target.difference(first, second, targets)
    hits = [np.argmax(given, 1) == targets for given in (first, second)]
    reference = bootstrap(
        (hits[0].astype(float) - hits[1],), np.mean, method="percentile", rng=0
    ).confidence_interval
    ours, theirs = (accuracy_score(targets, given.argmax(1)) for given in (first, second))
    assert gap["value"] == pytest.approx(ours - theirs)
    assert gap["low"] == pytest.approx(reference.low, abs=0.008)
    assert gap["high"] == pytest.approx(reference.high, abs=0.008)
    alone = target.scores(first, targets)["accuracy"]
    assert gap["high"] - gap["low"] < 0.7 * (alone["high"] - alone["low"])


@pytest.mark.parametrize("name", ["macro_f1", "auroc", "matthews_correlation", "accuracy"])
def test_any_metric_that_chooses_can_be_paired(name):
    job, predictions = staging.classes()
    target = Classes(job.target.classes, metric=name)
    targets = job.samples["test"].truth
    gap = target.difference(predictions, constant(job), targets)
    assert gap["low"] < gap["value"] < gap["high"]
    same = target.difference(predictions, predictions, targets)
    # Two that agree on these rows may still differ on a few others.
    few = 0.1 * (name == "accuracy")
    assert same["value"] == 0 and -few <= same["low"] <= 0 <= same["high"] <= few


def test_few_rows_are_no_clear_gain():
    target = Classes(("a", "b"))
    right, three_wrong = np.eye(2)[[0] * 8], np.eye(2)[[0] * 5 + [1] * 3]
    gap = target.difference(right, three_wrong, np.zeros(8, int))
    # Three against none is 1 in 4 by the sign test.
    assert gap["value"] == 0.375 and gap["low"] < 0


def test_a_difference_that_is_not_defined_says_so():
    target = Numbers(metric="pearson")
    targets = np.arange(6.0).reshape(6, 1)
    gap = target.difference(targets, np.ones((6, 1)), targets)
    assert gap == {"value": None, "low": None, "high": None, "n": 6}
    assert wording.difference("pearson", gap) == ""


def test_clearly_better_needs_an_interval_on_the_right_side():
    def other(low, high, **more):
        return {"difference": {"value": (low + high) / 2, "low": low, "high": high}} | more

    assert wording.clearly_better("accuracy", {}, other(0.01, 0.2))
    assert not wording.clearly_better("accuracy", {}, other(-0.01, 0.2))
    assert wording.clearly_better("-rmse", {}, other(-0.2, -0.01))
    assert not wording.clearly_better("-rmse", {}, other(0.01, 0.2))
    ours, theirs = {"low": 0.8, "high": 0.9}, {"low": 0.5, "high": 0.7}
    assert wording.clearly_better("accuracy", {"accuracy": ours}, {"accuracy": theirs})
    assert not wording.clearly_better("accuracy", {"accuracy": theirs}, {"accuracy": ours})
    assert wording.clearly_better("-rmse", {"rmse": theirs}, {"rmse": ours})
    unknown = {"low": None, "high": None}
    assert not wording.clearly_better("accuracy", {"accuracy": unknown}, {"accuracy": theirs})


def test_confusion_is_scikit_learns():
    job, predictions = staging.classes(skill=0.5)
    targets = job.samples["test"].truth
    counts = mistakes.confusion(predictions, targets)
    np.testing.assert_array_equal(counts, confusion_matrix(targets, predictions.argmax(1)))
    pairs = mistakes.confused(counts, job.target.classes, most=2)
    off = counts - np.diag(np.diag(counts))
    assert [pair["count"] for pair in pairs] == sorted(off.ravel().tolist())[:-3:-1]
    row, column = (job.target.classes.index(pairs[0][key]) for key in ("true", "predicted"))
    assert off[row, column] == pairs[0]["count"] and counts[row].sum() == pairs[0]["of"]


def test_worst_mistakes_are_the_surest_wrong_answers():
    predictions = np.array([[0.9, 0.1], [0.4, 0.6], [0.05, 0.95], [0.8, 0.2]])
    found = mistakes.of_classes(predictions, np.array([0, 0, 0, 1]), ("a", "b"))
    assert [(m.row, m.true, m.predicted, m.probability) for m in found] == [
        (2, "a", "b", 0.95),
        (3, "b", "a", 0.8),
        (1, "a", "b", 0.6),
    ]


def test_worst_mistakes_among_label_sets_name_the_label():
    predictions = np.array([[0.9, 0.1], [0.2, 0.7], [0.6, 0.4]])
    targets = np.array([[1, 1], [0, 0], [1, 0]], np.float32)
    found = mistakes.of_label_sets(predictions, targets, ("a", "b"))
    assert [(m.row, m.true, m.predicted, round(m.probability, 6)) for m in found] == [
        (0, "has b", "no b", 0.9),
        (1, "no b", "has b", 0.7),
    ]
    assert mistakes.confused(None, ("a", "b")) == []


def test_largest_errors_of_numbers_come_first():
    found = mistakes.of_numbers(np.array([1.0, 5.0, 2.0]), np.array([1.5, 2.0, 0.0]))
    assert [(m.row, m.true, m.predicted) for m in found] == [
        (1, "2", "5"),
        (2, "0", "2"),
        (0, "1.5", "1"),
    ]


# What the pretrained backbone gives without training


def known(rows=120, width=6, classes=3, seed=0):
    """Return features that tell the class fairly well, and the classes."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, rows)
    centres = np.random.default_rng(9).standard_normal((classes, width))
    features = centres[truth] + random.standard_normal((rows, width))
    return Known(features.astype(np.float32) + 5, truth)


def test_neighbours_are_scikit_learns_and_validation_chooses_how_many():
    train, validation, test = known(), known(60, seed=1), known(40, seed=2)
    target = Classes(("a", "b", "c"))
    fitted = Neighbours.fit(target, train, validation)
    centre = train.features.mean(0)

    def reference(k):
        model = KNeighborsClassifier(k, metric="cosine")
        return model.fit(train.features - centre, train.truth)

    given = fitted.predict(test.features)
    wanted = reference(fitted.k).predict_proba(test.features - centre)
    np.testing.assert_allclose(given, wanted, atol=1e-6)
    right = {k: reference(k).score(validation.features - centre, validation.truth)
             for k in (1, 2, 5, 10, 20, 50, 100)}  # fmt: skip
    assert right[fitted.k] == max(right.values()) and fitted.chosen == {"k": fitted.k}


def test_neighbours_of_numbers_and_label_sets_are_their_means():
    train, validation = known(30), known(20, seed=1)
    values = np.arange(30, dtype=np.float32).reshape(-1, 1)
    some = Known(train.features, values)
    fitted = Neighbours(Numbers(), some, 5)
    model = KNeighborsRegressor(5, metric="cosine")
    centre = train.features.mean(0)
    wanted = model.fit(train.features - centre, values).predict(validation.features - centre)
    np.testing.assert_allclose(fitted.predict(validation.features), wanted, rtol=1e-5)
    sets = (np.random.default_rng(0).random((30, 2)) < 0.4).astype(np.float32)
    shares = Neighbours(LabelSets(("x", "y")), Known(train.features, sets), 1)
    np.testing.assert_array_equal(shares.predict(train.features), sets)
    least = Neighbours.fit(Numbers(), some, Known(validation.features, values[:20]))
    assert least.k in (1, 2, 5, 10, 20)


TINY = vit_digits.override(*TINY_VIT, "train.precision=no", "data.shots=20", "train.epochs=1")


def ladder_of(recipe, tmp_path):
    """Return the job of a recipe, not trained, and the ladder beside it."""
    job = build.job(recipe)
    return job, baselines.ladder(job, Folder(tmp_path / "run"), accelerator("no"), "no")


def test_a_run_stands_on_its_ladder(tmp_path, capsys):
    run = start(TINY.override("train.lr=1e-6"), tmp_path / "run", evidence=True)
    rungs = run.result["baselines"]
    assert list(rungs) == ["majority", "kNN", "linear probe"]
    assert rungs["kNN"]["chosen"]["k"] >= 1 and rungs["linear probe"]["chosen"]["c"] > 0
    for scores in rungs.values():
        assert scores["accuracy"]["low"] < scores["accuracy"]["high"]
        assert scores["accuracy"]["n"] == scores["difference"]["n"] == 359
    # A run that has learned nothing is far behind its own features.
    assert rungs["linear probe"]["difference"]["high"] < -0.3
    said = " ".join(capsys.readouterr().out.split())
    assert "baseline: linear probe" in said and "baseline: kNN" in said
    assert run.result["cost"]["evidence_seconds"] > 0
    for page in ("report.html", "README.md"):
        assert "baseline: linear probe" in (run.path / page).read_text("utf-8")


def test_the_linear_probe_is_what_features_would_find(tmp_path):
    _, rungs = ladder_of(TINY, tmp_path)
    job, beside = ladder_of(TINY.override("method=features"), tmp_path)
    assert list(rungs) == ["kNN", "linear probe"] and list(beside) == ["kNN"]
    np.testing.assert_array_equal(rungs["kNN"].predictions, beside["kNN"].predictions)
    found = fit_probe(job, accelerator("no").device, "no")
    assert rungs["linear probe"].chosen == {"c": found["probe"]["c"]}
    how = job.samples["test"], job.target, accelerator("no"), 64
    answers = predict(job.network, job.network.module, *how)
    np.testing.assert_allclose(rungs["linear probe"].predictions, answers, atol=1e-4)


def test_a_model_that_answers_before_training_is_a_baseline(digits_run, tmp_path):
    saved = Timm(name=str(digits_run.model))
    job, rungs = ladder_of(digits_run.recipe.override(backbone=saved), tmp_path)
    assert list(rungs) == ["kNN", "linear probe", "pretrained"]
    scores = baselines.scores(job, rungs["pretrained"].predictions, rungs)
    assert scores["pretrained"]["accuracy"] == digits_run.result["test"]["accuracy"]
    assert scores["pretrained"]["difference"]["value"] == 0


def text_job(tmp_path, task, family, rows, **keys):
    """Return the job of a tiny random language model on these rows, and its ladder."""
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows * 10), "utf-8")
    recipe = Recipe(
        name="text",
        backbone=Transformers(name=str(tiny_texts.folder(tmp_path, family)), **keys),
        data=TableData(str(path)),
        task=task,
        train=Train(batch_size=2, precision="no"),
    )
    return ladder_of(recipe, tmp_path)


def test_what_writes_texts_is_compared_with_itself_before_training(tmp_path):
    task = TextToText(num_beams=1, max_new_tokens=4)
    job, rungs = text_job(tmp_path, task, "t5", [{"source": "ein Haus", "target": "a house"}])
    assert list(rungs) == ["pretrained"]
    how = job.samples["test"], job.target, accelerator("no"), 4
    job.network.module.eval()
    assert list(rungs["pretrained"].predictions) == list(
        predict(job.network, job.network.module, *how)
    )
    scores = baselines.scores(job, rungs["pretrained"].predictions, rungs)
    assert list(scores) == ["constant", "copy", "pretrained"]
    assert scores["pretrained"]["difference"]["value"] == 0
    task, rows = LanguageModeling(packed=False), [{"text": "the old bridge over the river"}]
    _, rungs = text_job(tmp_path / "more", task, "gpt2", rows)
    assert list(rungs) == ["pretrained"]


def test_a_head_that_is_new_has_nothing_to_say_before_training(tmp_path):
    row = {"words": ["Anna", "sleeps"], "label": ["B-PER", "O"]}
    _, rungs = text_job(tmp_path, TokenClassification(), "bert", [row])
    assert rungs == {}
    rows = [{"text": "good", "label": "yes"}, {"text": "bad", "label": "no"}]
    _, rungs = text_job(tmp_path / "rows", TextClassification(), "bert", rows)
    assert list(rungs) == ["kNN", "linear probe"]
    assert rungs["linear probe"].predictions.shape == (4, 2)


def test_what_cannot_be_had_is_said_and_the_run_stands(tmp_path, capfd, monkeypatch):
    def broken(*_, **__):
        raise TrainingError("1 of 4 samples have features that are not finite.")

    monkeypatch.setattr("finetune.extraction.extract", broken)
    rows = [{"text": "good", "label": "yes"}, {"text": "bad", "label": "no"}]
    _, rungs = text_job(tmp_path, TextClassification(), "bert", rows)
    assert rungs == {}
    assert "Not all baselines could be had: 1 of 4 samples" in capfd.readouterr().err


def test_only_true_and_false_are_switches(tmp_path):
    with pytest.raises(RecipeError, match="evidence='maybe' is not allowed; give evidence=true"):
        start(vit_digits, tmp_path / "run", evidence="maybe")
    assert not (tmp_path / "run").exists()


def figures(value, low, high, ours=0.9, metric="accuracy", known="linear probe"):
    """Return a result with one baseline of this value, and the difference of the run to it."""
    gap = {"value": ours - value, "low": low, "high": high}
    return {
        "metric": metric,
        "method": "full",
        "test": {metric.lstrip("-"): {"value": ours}},
        "baselines": {known: {metric.lstrip("-"): {"value": value}, "difference": gap}},
    }


def test_the_verdict_names_the_baseline_that_makes_training_needless():
    assert wording.verdict(figures(0.981, -0.004, 0.008, 0.983)) == (
        "The linear probe on frozen features is not clearly beaten: 98.1 % against 98.3 % "
        "(difference +0.2 points, -0.4 to +0.8). On this evidence, full fine-tuning was not worth "
        "it. Take method=features."
    )
    better = wording.verdict(figures(0.3, 0.1, 0.3, 0.5, "-rmse", "kNN"))
    assert better.startswith("kNN on frozen features does better: 0.300 against 0.500 (difference ")
    assert wording.verdict(figures(0.7, 0.1, 0.3)) == ""
    both = figures(0.85, -0.1, 0.2)
    both["baselines"] |= figures(0.88, -0.1, 0.2, known="kNN")["baselines"]
    assert wording.verdict(both).startswith("kNN on frozen features is not clearly beaten: 88.0 %")
    majority = figures(0.2, -0.1, 0.2, known="majority")
    assert wording.verdict(majority).startswith("Not clearly better than the baseline majority (al")
    both["baselines"] |= majority["baselines"]
    assert wording.verdict(both).startswith("kNN on frozen features is not clearly beaten: 88.0 %")
