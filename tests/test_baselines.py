"""What a model must beat, the paired difference from it, and where a model errs."""

from __future__ import annotations

import numpy as np
import pytest
import staging
from scipy.stats import bootstrap
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.metrics import accuracy_score, average_precision_score, confusion_matrix, log_loss

from finetune import baselines, mistakes, wording
from finetune.targets import Classes, Numbers


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
    assert same["value"] == same["low"] == same["high"] == 0


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
