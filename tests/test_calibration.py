"""Temperatures, thresholds, and what abstaining gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.metrics import f1_score

from finetune import Run, calibration, wording
from finetune.targets import Classes, LabelSets

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(4000, 3)) * 2


def test_the_temperature_that_was_put_in_is_found() -> None:
    truth = np.array([RANDOM.choice(3, p=p) for p in softmax(LOGITS, axis=1)])
    overconfident = softmax(2.5 * LOGITS, axis=1).astype(np.float32)
    target = Classes(("a", "b", "c")).calibrated(overconfident, truth)
    assert target.temperature == pytest.approx(2.5, rel=0.06)
    found = calibration.told(target, target.scores(overconfident, truth), overconfident, truth)
    for name in ("ece", "log_loss", "brier"):
        assert found["figures"][name]["after"]["value"] < found["figures"][name]["before"]["value"]
    assert "macro_f1" not in found["figures"]
    told = target.answers(overconfident[:1], [{}], 3)[0]
    assert told["probability"] == pytest.approx(softmax(LOGITS[0]).max(), abs=0.02)


def test_labels_have_a_temperature_and_thresholds_of_their_own() -> None:
    truth = (RANDOM.random((4000, 3)) < expit(LOGITS - [0, 1, 2])).astype(np.float32)
    given = expit(2.0 * (LOGITS - [0, 1, 2])).astype(np.float32)
    target = LabelSets(("a", "b", "c")).calibrated(given, truth)
    assert target.temperature == pytest.approx(2.0, rel=0.08)
    assert target.thresholds is not None
    softened = calibration.of_labels(given, target.temperature)
    for label, limit in enumerate(target.thresholds):
        best = max(
            f1_score(truth[:, label], softened[:, label] >= other)
            for other in np.linspace(0.05, 0.95, 91)
        )
        ours = f1_score(truth[:, label], softened[:, label] >= limit)
        assert ours >= best
    bent = target.softened(given)
    assert np.array_equal(bent >= 0.5, softened >= np.array(target.thresholds, np.float32))
    told = target.answers(given[:50], [{}] * 50, 3)
    assert [len(answer["labels"]) for answer in told] == (bent[:50] >= 0.5).sum(1).tolist()
    found = calibration.told(target, target.scores(given, truth), given, truth)["figures"]
    assert found["macro_f1"]["after"]["value"] > found["macro_f1"]["before"]["value"]


@pytest.mark.parametrize("right", [True, False])
def test_where_all_is_right_or_wrong_nothing_is_fitted(right: bool) -> None:
    given = np.array([[0.9, 0.1]] * 60, np.float32)
    truth = np.zeros(60, np.int64) if right else np.ones(60, np.int64)
    assert Classes(("a", "b")).calibrated(given, truth).temperature == 1.0


def test_a_few_rows_are_not_enough() -> None:
    given, truth = np.array([[0.9, 0.1], [0.8, 0.2]] * 20, np.float32), np.array([0, 1] * 20)
    target, labels = Classes(("a", "b")), LabelSets(("a", "b"))
    assert target.calibrated(given, truth) is target
    assert labels.calibrated(given, np.eye(2)[truth]) is labels
    assert target.calibrated(np.tile(given, (2, 1)), np.tile(truth, 2)).temperature > 1


def test_a_label_that_is_never_there_keeps_its_threshold() -> None:
    assert calibration.thresholds(np.array([[0.2], [0.7]]), np.zeros((2, 1))) == (0.5,)


def test_the_surest_answers_are_righter() -> None:
    certainty = RANDOM.random(2000)
    right = RANDOM.random(2000) < certainty
    found = calibration.coverage(certainty, right)
    assert [point["accuracy"]["n"] for point in found] == [
        round(share * 2000) for share in calibration.COVERAGES
    ]
    values = [point["accuracy"]["value"] for point in found]
    assert values == sorted(values) and values[-1] > values[0] + 0.2
    first: Any = found[0]["accuracy"]
    assert first["value"] == right.mean() and first["low"] < first["value"] < first["high"]


def test_a_run_keeps_its_temperature(digits_run: Run) -> None:
    fitted = digits_run.result["calibration"]
    assert digits_run.target().temperature == fitted["temperature"]  # type: ignore[attr-defined]
    figures = fitted["figures"]["log_loss"]
    assert figures["before"] == digits_run.result["test"]["log_loss"]
    assert fitted["coverage"][0]["accuracy"]["value"] == digits_run.metrics["accuracy"]
    report = (digits_run.path / "report.html").read_text("utf-8")
    assert "Accuracy where only the surest" in report
    assert wording.figure("log_loss", figures["after"]) in report
