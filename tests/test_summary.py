"""What a finished run says in the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
import staging

from finetune import summary, wording

KINDS = {"classes": staging.classes, "label sets": staging.label_sets, "numbers": staging.numbers}


def said(capsys, result, path=Path("runs/staged-12345678")):
    summary.show(result, path)
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


@pytest.mark.parametrize("kind", KINDS)
def test_piped_output_is_plain_and_fits_80_columns(kind, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    job, predictions = KINDS[kind]()
    text = said(capsys, staging.result(job, predictions))
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "runs/staged-12345678/model" in text
    assert "3 min 25 s, 12 s of it training at 432 samples/s" in text
    assert "50 trained of 5,000 (1 %)" in text and "812 MB" in text
    assert "2 of train" in text


def test_headline_stands_beside_its_interval_and_the_baseline(capsys):
    job, predictions = staging.classes()
    result = staging.result(job, predictions)
    text = said(capsys, result)
    figure = result["test"]["accuracy"]
    assert f"{100 * figure['value']:.1f} % ({100 * figure['low']:.1f} to" in text
    assert "test, n = 60" in text
    assert "baseline: majority" in text and "33.3 %" in text
    gap = result["baselines"]["majority"]["difference"]
    assert f"{100 * gap['value']:+.1f} points" in text
    assert "Not clearly better" not in text


def test_a_model_no_better_than_its_baseline_is_called_so(capsys):
    job, predictions = staging.classes(skill=0.0)
    text = " ".join(said(capsys, staging.result(job, predictions)).split())
    assert "Not clearly better than the baseline majority (always the most frequent answer)" in text
    assert "fine-tuning has not paid off yet" in text


def test_markup_and_control_characters_in_names_are_inert(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    job, predictions = staging.classes()
    name = "[/red][link=http://x]evil\x1b[31m\nrow\u202e"
    path = Path("runs/[bold]a\x1b]0;title\x07")
    text = said(capsys, staging.result(job, predictions, name=name), path)
    assert "[/red][link=http://x]evil\\x1b[31m\\nrow\\u202e" in text
    assert "runs/[bold]a\\x1b]0;title\\x07/model" in text
    assert "\x1b" not in text


def test_a_metric_without_a_value_is_a_dash(capsys):
    job, predictions = staging.classes()
    result = staging.result(job, predictions)
    result["test"]["accuracy"] |= {"value": None, "low": None, "high": None, "reason": "none"}
    result["baselines"] = {}
    row = next(x for x in said(capsys, result).splitlines() if x.startswith("Accuracy"))
    assert row.split()[-1] == wording.UNKNOWN


def test_a_fitted_head_has_no_epochs_to_speak_of(capsys):
    job, predictions = staging.classes()
    training = {"probe": {"c": 0.1, "tried": []}}
    text = said(capsys, staging.result(job, predictions, training=training))
    assert "3 min 25 s" in text and "samples/s" not in text


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (wording.duration(4.25), "4.2 s"),
        (wording.duration(59.7), "1 min 0 s"),
        (wording.duration(7260), "2 h 1 min"),
        (wording.size(950), "950 B"),
        (wording.size(1_234_000_000), "1.23 GB"),
        (wording.value("accuracy", 0.9725), "97.2 %"),
        (wording.value("rmse", 123.456), "123.5"),
        (wording.value("r2", -0.0001), "0.000"),
        (wording.metric("-rmse"), "RMSE"),
        (wording.metric("my_own"), "My own"),
        (wording.difference("accuracy", {"value": 0.1, "low": 0.05, "high": 0.15}),
         "+10.0 points (+5.0 to +15.0)"),
        (wording.label(""), "(empty)"),
        (wording.label("x" * 100, 10), "x" * 9 + "…"),
    ],
)  # fmt: skip
def test_figures_are_written_alike_everywhere(value, words):
    assert value == words
