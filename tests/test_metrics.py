from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from finetune import scoring
from finetune.errors import DataError, RecipeError, TrainingError
from finetune.intervals import bootstrap, grouped, percentiles, wilson
from finetune.metric_table import TABLE
from finetune.scoring import score
from finetune.targets import Classes, LabelSets, Numbers

NAMES = tuple("abcdefgh")


def classes(n: int = 400, size: int = 8, seed: int = 0) -> tuple[Any, Any]:
    generator = np.random.default_rng(seed)
    true = generator.integers(size, size=n)
    logits = generator.normal(size=(n, size))
    logits[np.arange(n), true] += 1.5
    given = np.exp(logits)
    return given / given.sum(1, keepdims=True), true


def label_sets(n: int = 300, size: int = 4) -> tuple[Any, Any]:
    generator = np.random.default_rng(1)
    true = (generator.random((n, size)) < 0.3).astype(np.int64)
    # Rounded, so that some are equal.
    return np.round(1 / (1 + np.exp(-generator.normal(size=(n, size)) - 2 * true + 1)), 2), true


def numbers(n: int = 300) -> tuple[Any, Any]:
    generator = np.random.default_rng(2)
    true = generator.normal(50, 10, size=n)
    return true + generator.normal(1, 4, size=n), true


def values(kind: Any, *data: Any, **options: Any) -> dict[str, Any]:
    return {k: v["value"] for k, v in score(kind, *data, intervals=False, **options).items()}


def test_the_metrics_of_classes_are_those_of_scikit_learn() -> None:
    given, true = classes()
    guess, hot = given.argmax(1), np.eye(8)[true]
    assert values("classes", given, true, also=["matthews_correlation", "cohen_kappa"]) == {
        "accuracy": sk.accuracy_score(true, guess),
        "top5_accuracy": sk.top_k_accuracy_score(true, given, k=5),
        "macro_f1": sk.f1_score(true, guess, average="macro"),
        "micro_f1": sk.f1_score(true, guess, average="micro"),
        "balanced_accuracy": sk.balanced_accuracy_score(true, guess),
        "auroc": pytest.approx(sk.roc_auc_score(true, given, multi_class="ovr"), abs=1e-15),
        "log_loss": sk.log_loss(true, given),
        "ece": pytest.approx(calibration_error(given, true), abs=1e-15),
        "brier": pytest.approx(np.square(given - hot).sum(1).mean(), abs=1e-15),
        "matthews_correlation": sk.matthews_corrcoef(true, guess),
        "cohen_kappa": sk.cohen_kappa_score(true, guess),
    }


def calibration_error(given: Any, true: Any) -> float:
    """Return the definition, bin by bin."""
    confidence, hit, error = given.max(1), given.argmax(1) == true, 0.0
    for i in range(15):
        inside = (confidence >= i / 15) & (confidence < (i + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    return error


def test_two_classes_are_scored_as_one_question() -> None:
    given, true = classes(200, 2)
    result = values("classes", given, true)
    assert "top5_accuracy" not in result
    assert result["auroc"] == sk.roc_auc_score(true, given[:, 1])
    assert result["brier"] == pytest.approx(sk.brier_score_loss(true, given[:, 1]), abs=1e-15)


def test_the_metrics_of_label_sets_are_those_of_scikit_learn() -> None:
    given, true = label_sets()
    guess = given >= 0.5
    assert values("label_sets", given, true, also=["hamming_loss"]) == {
        "micro_f1": sk.f1_score(true, guess, average="micro"),
        "macro_f1": sk.f1_score(true, guess, average="macro"),
        "subset_accuracy": sk.accuracy_score(true, guess),
        "macro_average_precision": sk.average_precision_score(true, given),
        "macro_auroc": sk.roc_auc_score(true, given),
        "hamming_loss": sk.hamming_loss(true, guess),
    }


def test_the_metrics_of_numbers_are_those_of_scikit_learn_and_scipy() -> None:
    given, true = numbers()
    assert values("numbers", given, true, also=["median_absolute_error"]) == {
        "rmse": np.sqrt(sk.mean_squared_error(true, given)),
        "mae": sk.mean_absolute_error(true, given),
        "r2": sk.r2_score(true, given),
        "pearson": stats.pearsonr(given, true).statistic,
        "spearman": stats.spearmanr(given, true).statistic,
        "median_absolute_error": sk.median_absolute_error(true, given),
    }


CASES = [("classes", classes), ("label_sets", label_sets), ("numbers", numbers)]


@pytest.mark.parametrize(("kind", "data"), CASES)
def test_what_is_resampled_is_the_metric(kind: Any, data: Any) -> None:
    given, true = data()
    for entry in TABLE[kind].values():
        if entry.rows:
            means = np.asarray(entry.rows(given, true).mean(0)).reshape(-1, 1)
            assert entry.combine(means) == pytest.approx(entry.value(given, true), abs=1e-12)


@pytest.mark.parametrize(
    ("kind", "name", "data"),
    [
        ("label_sets", "macro_average_precision", label_sets),
        ("label_sets", "macro_auroc", label_sets),
        ("classes", "auroc", classes),
        ("classes", "auroc", lambda: classes(100, 2)),
    ],
)
def test_a_gradient_is_the_derivative_by_the_weight_of_each_sample(
    kind: Any, name: str, data: Any
) -> None:
    given, true = data()
    entry = TABLE[kind][name]
    assert entry.gradient is not None
    hot, scores = (true, given) if true.ndim == 2 else (np.eye(given.shape[1])[true], given)
    metric = sk.average_precision_score if "precision" in name else sk.roc_auc_score
    gradient, step = entry.gradient(given, true), 1e-4
    assert gradient.sum() == pytest.approx(0, abs=1e-12)
    for row in (0, 1, 2, 50, 99):
        weight = np.ones(len(true))
        weight[row] += step
        above = metric(hot, scores, sample_weight=weight)
        weight[row] -= 2 * step
        below = metric(hot, scores, sample_weight=weight)
        assert gradient[row] == pytest.approx((above - below) / (2 * step), abs=1e-7)


@pytest.mark.parametrize(("kind", "data"), CASES)
def test_intervals_agree_with_scipys_bootstrap(kind: Any, data: Any) -> None:
    given, true = data(150)
    result = score(kind, given, true)
    for name, entry in TABLE[kind].items():
        if entry.asked or name in ("ece", "spearman", "micro_f1") or name not in result:
            continue
        drawn = stats.bootstrap(
            (np.arange(150),),
            lambda rows, entry=entry: float(entry.value(given[rows], true[rows])),
            n_resamples=100,
            method="percentile",
            vectorized=False,
            rng=np.random.default_rng(0),
        ).confidence_interval
        low, high = result[name]["low"], result[name]["high"]
        assert low < result[name]["value"] < high
        assert low == pytest.approx(drawn.low, abs=0.35 * (drawn.high - drawn.low)), name
        assert high == pytest.approx(drawn.high, abs=0.35 * (drawn.high - drawn.low)), name


def test_the_interval_of_the_calibration_error_holds_the_true_one() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        sure = random.uniform(0.6, 0.95, 1000)
        wrong = random.random(1000) > sure - 0.05
        found = score("classes", np.stack([sure, 1 - sure], 1), wrong.astype(int), only=["ece"])
        held += found["ece"]["low"] <= 0.05 <= found["ece"]["high"]
    assert held >= 88
    # One answer for all, its probability the share that is right but for one.
    always = np.tile([0.601, 0.399], (1000, 1))
    found = score("classes", always, np.arange(1000) // 600, only=["ece"])["ece"]
    assert found["value"] == pytest.approx(0.001) and found["low"] == 0 and found["high"] < 0.04


@pytest.mark.parametrize(("kind", "data"), CASES)
def test_every_metric_has_its_interval_and_n_the_same_each_time(kind: Any, data: Any) -> None:
    given, true = data()
    also = [name for name, entry in TABLE[kind].items() if entry.asked]
    result = score(kind, given, true, also=also)
    assert set(result) == set(TABLE[kind])
    for figure in result.values():
        assert figure["low"] <= figure["value"] <= figure["high"] and figure["n"] == len(true)
    assert score(kind, given, true, also=also) == result


def test_the_table_of_classes() -> None:
    given, true = classes(60, 3)
    given[:, 2] = 0  # never chosen
    table = Classes(("a", "b", "c")).scores(given, true)["per_class"]
    wanted = sk.precision_recall_fscore_support(true, given.argmax(1), zero_division=np.nan)
    for i, name in enumerate("abc"):
        row = table[name]
        assert row["recall"]["value"] == wanted[1][i] and row["n"] == wanted[3][i]
        assert row["f1"]["value"] == pytest.approx(wanted[2][i], abs=1e-15)
        assert row["recall"]["low"] <= row["recall"]["value"] <= row["recall"]["high"]
    assert table["a"]["precision"]["value"] == wanted[0][0]
    assert table["c"]["precision"] == {"value": None, "low": None, "high": None, "n": 0}
    assert table["c"]["f1"]["value"] == 0


def test_the_table_of_label_sets() -> None:
    given, true = label_sets()
    table = LabelSets(tuple("abcd")).scores(given, true)["per_class"]
    wanted = sk.precision_recall_fscore_support(true, given >= 0.5)
    for i, name in enumerate("abcd"):
        found = [table[name][key]["value"] for key in ("precision", "recall", "f1")]
        assert found == pytest.approx([part[i] for part in wanted[:3]], abs=1e-15)


def test_what_is_not_defined_is_none_with_a_reason() -> None:
    given, _ = classes(20, 3)
    result = score("classes", given, np.array([0, 1] * 10))
    assert result["auroc"]["value"] is None and result["auroc"]["low"] is None
    assert "not every class" in result["auroc"]["reason"]
    constant = score("numbers", np.ones((5, 1)), np.arange(5.0)[:, None])
    assert constant["pearson"]["value"] is None and "equal" in constant["pearson"]["reason"]
    assert constant["r2"]["value"] is not None
    assert score("numbers", np.ones(5), np.ones(5))["r2"]["value"] is None
    empty = score("label_sets", np.full((5, 2), 0.1), np.zeros((5, 2)))
    assert {name for name, figure in empty.items() if figure["value"] is None} == {
        "micro_f1",
        "macro_f1",
        "macro_average_precision",
        "macro_auroc",
    }
    for result in (
        score("classes", given[:1], [1], "abc"),
        constant,
        empty,
        score("numbers", [1], [2]),
    ):
        json.dumps(result, allow_nan=False)


def test_label_sets_leave_labels_without_samples_out_of_their_means() -> None:
    given, true = label_sets()
    true[:, 2] = 0
    result = values("label_sets", given, true)
    kept = [0, 1, 3]
    expected = sk.average_precision_score(true[:, kept], given[:, kept])
    assert result["macro_average_precision"] == expected
    assert result["macro_auroc"] == sk.roc_auc_score(true[:, kept], given[:, kept])


def test_what_cannot_be_scored() -> None:
    given, true = classes()
    with pytest.raises(DataError, match="no samples"):
        score("classes", given[:0], true[:0])
    given[3, 1] = np.nan
    with pytest.raises(TrainingError, match="1 of 400 predictions are not finite"):
        score("classes", given, true)
    with pytest.raises(RecipeError, match=r"no metric 'acuracy'.*Did you mean 'accuracy'\?"):
        score("classes", *classes(), also=["acuracy"])


def test_ten_thousand_samples_are_scored_in_seconds() -> None:
    given, true = classes(10_000, 10)
    score("classes", given[:50], true[:50])
    start = time.perf_counter()
    score("classes", given.astype(np.float32), true, "abcdefghij")
    assert time.perf_counter() - start < 3


def test_targets_score_every_epoch_as_at_the_end_without_intervals() -> None:
    given, true = classes()
    target = Classes(NAMES)
    full, quick = target.scores(given, true), target.scores(given, true, intervals=False)
    assert full == score("classes", given, true, NAMES)
    assert quick == {k: {"value": v["value"], "n": v["n"]} for k, v in full.items() if "n" in v}
    assert target.metric in full and LabelSets(NAMES).metric in score("label_sets", *label_sets())
    given, true = numbers()
    scores = Numbers().scores(given[:, None].astype(np.float32), true[:, None].astype(np.float32))
    assert scores[Numbers().metric.lstrip("-")]["value"] == pytest.approx(
        sk.root_mean_squared_error(true, given), rel=1e-6
    )


def test_the_metric_that_chooses_is_always_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_CHEAP", 0)
    quick = LabelSets(NAMES).scores(*label_sets(), intervals=False)
    assert "macro_average_precision" in quick and "macro_auroc" not in quick
    kappa = Classes(NAMES, metric="cohen_kappa")
    assert "cohen_kappa" in kappa.scores(*classes(), intervals=False)


def test_scores_do_not_wait_for_the_import_of_evaluate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "evaluate", None)
    monkeypatch.delitem(sys.modules, "finetune.metrics", raising=False)
    given, true = classes()
    assert "per_class" in Classes(NAMES).scores(given, true, metrics=["cohen_kappa"])


def test_our_metric_is_used_like_any_of_evaluate_and_needs_no_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import socket

    import evaluate

    from finetune.metrics import Metric

    def refuse(*_: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    given, true = classes()
    metric = Metric("accuracy", "log_loss")
    assert isinstance(metric, evaluate.Metric)
    expected = {
        "accuracy": sk.accuracy_score(true, given.argmax(1)),
        "log_loss": sk.log_loss(true, given),
    }
    assert metric.compute(predictions=given, references=true) == expected
    for start in range(0, 400, 150):
        part = slice(start, start + 150)
        metric.add_batch(predictions=given[part].tolist(), references=true[part])
    assert metric.compute() == expected
    for probabilities, position in zip(given[:9], true[:9], strict=True):
        metric.add(prediction=probabilities, reference=position)
    assert metric.compute()["accuracy"] == sk.accuracy_score(true[:9], given[:9].argmax(1))
    both = evaluate.combine([Metric("accuracy"), Metric("log_loss")])
    assert both.compute(predictions=given, references=true) == expected
    sets = Metric("subset_accuracy", kind="label_sets", intervals=True)
    assert sets.compute(predictions=[[0.9, 0.1]], references=[[1, 0]])["subset_accuracy"]["n"] == 1
    assert Metric("mae", kind="numbers").compute(predictions=[1.5], references=[1]) == {"mae": 0.5}
    with pytest.raises(RecipeError, match="no metric 'rmse'"):
        Metric("rmse")


def own_metric(name: str, predictions: Any, references: Any, function: Any) -> Any:
    import evaluate
    from datasets import Features

    class Own(evaluate.Metric):  # type: ignore[misc]
        def _info(self) -> Any:
            return evaluate.MetricInfo(
                description="",
                citation="",
                features=Features({name: predictions, "references": references}),
            )

        def _compute(self, references: Any, **given: Any) -> Any:
            return function(given[name], references)

    return Own()


def test_a_metric_of_ones_own_gets_what_it_declares_and_an_interval(tmp_path: Path) -> None:
    from datasets import List, Value

    from finetune.metrics import resolve

    given, true = classes()
    guess = given.argmax(1)
    seen: list[Any] = []
    count, real = Value("int64"), Value("float64")
    metrics = [
        own_metric("predictions", count, count, lambda p, r: {"accuracy": sk.accuracy_score(r, p)}),
        own_metric("predictions", List(real), count, lambda p, r: {"sum": np.sum(p), "all": [1]}),
        own_metric("prediction_scores", real, count, lambda p, r: seen.append(p) or {"no": "x"}),
    ]
    assert not metrics[0] and resolve(metrics) == metrics
    scores = Classes(NAMES).scores(given, true, metrics=resolve([metrics[0], "cohen_kappa"]))
    assert scores["accuracy"]["value"] == scores["own_accuracy"]["value"]
    ours, own = scores["accuracy"], scores["own_accuracy"]
    assert own["low"] == pytest.approx(ours["low"], abs=0.02) and own["n"] == 400
    assert own["high"] == pytest.approx(ours["high"], abs=0.02)
    assert scores["cohen_kappa"]["value"] == sk.cohen_kappa_score(true, guess)

    quick = Classes(NAMES).scores(given, true, intervals=False, metrics=metrics[:2])
    assert quick["sum"] == {"value": pytest.approx(400), "n": 400} and quick["all"]["value"] == [1]
    two, binary = classes(50, 2)
    scores = Classes(("a", "b")).scores(two, binary, metrics=metrics[2:])
    assert seen[0] == two[:, 1].tolist()
    assert scores["no"] == {"value": None, "low": None, "high": None, "n": 50}
    sets = own_metric("predictions", List(count), List(count), lambda p, r: {"width": len(p[0])})
    scores = LabelSets(tuple("abcd")).scores(*label_sets(), metrics=[sets])
    assert scores["width"]["value"] == scores["width"]["low"] == 4


@pytest.mark.parametrize(
    ("metric", "trusted", "said"),
    [
        ("acuracy", False, r"allowed are accuracy, .* Did you mean 'accuracy'\?"),
        ("acuracy", False, "'user/name@revision'"),
        ("me/mine@v1.0", False, "write trust_remote_code=true and me/mine@<commit>"),
        ("me/mine", True, "write me/mine@ and the 40 hexadecimal digits"),
        ("me/mine@main", True, "must be pinned"),
        ("me/mine@" + "a" * 39, True, "must be pinned"),
        ("me/missing@" + "a" * 40, True, "could not be loaded .*Check the name, the revision"),
        (3, False, "3 is no metric"),
        (int, False, "is no metric: give a name"),
    ],
)
def test_metrics_that_are_not_taken(metric: Any, trusted: bool, said: str) -> None:
    from finetune.metrics import resolve

    with pytest.raises(RecipeError, match=said):
        resolve([metric], trusted)


SCRIPT = """
import datasets
import evaluate
class Share(evaluate.Metric):
    def _info(self):
        count = datasets.Value("int64")
        features = datasets.Features({"predictions": count, "references": count})
        return evaluate.MetricInfo(description="", citation="", features=features)
    def _compute(self, predictions, references):
        return {"share": NUMBER}
"""


def test_a_metric_of_the_hub_is_taken_at_its_pinned_revision_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    from finetune.metrics import resolve

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    old, new = "a" * 40, "b" * 40
    for revision, number in ((old, "0.25"), (new, "0.75")):
        folder = Path(constants.HF_HUB_CACHE) / "spaces--me--mine" / "snapshots" / revision
        folder.mkdir(parents=True)
        (folder / "mine.py").write_text(SCRIPT.replace("NUMBER", number))
    # What evaluate.load("me/mine") would run instead.
    (tmp_path / "me" / "mine").mkdir(parents=True)
    (tmp_path / "me" / "mine" / "mine.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    for revision, number in ((old, 0.25), (new, 0.75), (old, 0.25)):
        (metric,) = resolve([f"me/mine@{revision}"], trust_remote_code=True)
        assert metric.compute(predictions=[1], references=[1]) == {"share": number}
    with pytest.raises(RecipeError, match="could not be loaded"):
        resolve([f"me/mine@{'c' * 40}"], trust_remote_code=True)


def test_wilson_is_the_published_interval() -> None:
    low, high = wilson(8, 10)
    z = stats.norm.ppf(0.975)
    middle = (0.8 + z * z / 20) / (1 + z * z / 10)
    half = z / (1 + z * z / 10) * np.sqrt(0.8 * 0.2 / 10 + z * z / 400)
    assert (low, high) == pytest.approx((middle - half, middle + half))
    assert wilson(0, 0) == (None, None)


def test_resampled_means_spread_as_they_should() -> None:
    rows = np.random.default_rng(0).exponential(size=(2000, 1))
    (replicates,) = bootstrap([(rows, lambda means: means[0])])
    assert replicates.shape == (1000,)
    assert replicates.std() == pytest.approx(rows.std() / np.sqrt(2000), rel=0.1)
    low, high = percentiles(float(rows.mean()), replicates)
    assert low is not None and high is not None and low < rows.mean() < high
    assert percentiles(9.0, replicates)[1] == 9.0
    low, high = grouped(lambda keep: float(rows[keep].mean()), float(rows.mean()), 2000)
    assert low is not None and high is not None
    assert high - low == pytest.approx(2 * 2.09 * rows.std() / np.sqrt(2000), rel=0.4)


def test_a_perfect_score_of_few_rows_is_not_certain() -> None:
    true = np.array([0, 1] * 5)
    given = np.where(np.eye(2)[true] > 0, 0.9, 0.1)
    result = score("classes", given, true, ["a", "b"])
    low = result["accuracy"]["low"]
    assert low == pytest.approx(10 / (10 + 1.96**2), abs=1e-3)
    for name in ("macro_f1", "balanced_accuracy", "auroc", "matthews_correlation"):
        assert (result[name]["low"], result[name]["high"]) == (low, 1.0), name
    assert result["per_class"]["a"]["f1"]["low"] == pytest.approx(5 / (5 + 1.96**2), abs=1e-3)
