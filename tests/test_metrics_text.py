"""Metrics of texts equal those of the libraries and scripts that define them, with intervals."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from scipy import stats
from seqeval import metrics as seqeval
from sklearn.metrics import matthews_corrcoef

from finetune import entities
from finetune.errors import DataError, RecipeError, TrainingError
from finetune.intervals import bootstrap
from finetune.metric_table import TABLE
from finetune.scoring import difference, score

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
WORDS = ("ein", "the", "großes", "house", "Haus", "is", "in", "green", "am", "river", ".", ",")
FROM_THE_DOCUMENTATION = (
    [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]],
    [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]],
)


def tagged(n: int = 60, skill: float = 0.7, seed: int = 0) -> tuple[Any, Any]:
    draw = random.Random(seed)
    true = [[draw.choice(TAGS) for _ in range(draw.randint(1, 9))] for _ in range(n)]
    given = [[tag if draw.random() < skill else draw.choice(TAGS) for tag in row] for row in true]
    return given, true


def texts(n: int = 40, seed: int = 0) -> tuple[list[str], list[str]]:
    draw = random.Random(seed)
    true = [" ".join(draw.choices(WORDS, k=draw.randint(3, 12))) for _ in range(n)]
    given = [" ".join(w for w in text.split() if draw.random() < 0.8) for text in true]
    return given, true


def values(kind: Any, *data: Any, **options: Any) -> dict[str, Any]:
    return {k: v["value"] for k, v in score(kind, *data, intervals=False, **options).items()}


def test_entities_are_scored_as_seqeval_documents_it() -> None:
    found = values("tags", *FROM_THE_DOCUMENTATION)
    assert found["f1"] == found["precision"] == found["recall"] == found["macro_f1"] == 0.5
    assert found["accuracy"] == pytest.approx(0.8)


def test_entities_are_scored_as_seqeval_does() -> None:
    given, true = tagged()
    found = values("tags", given, true)
    assert found == pytest.approx(
        {
            "f1": seqeval.f1_score(true, given),
            "precision": seqeval.precision_score(true, given),
            "recall": seqeval.recall_score(true, given),
            "macro_f1": seqeval.f1_score(true, given, average="macro"),
            "accuracy": seqeval.accuracy_score(true, given),
        }
    )
    report = seqeval.classification_report(true, given, output_dict=True)
    table = score("tags", given, true, ("PER", "LOC"))["per_class"]
    for name in ("PER", "LOC"):
        assert table[name]["n"] == report[name]["support"]
        assert table[name]["recall"]["value"] == pytest.approx(report[name]["recall"])
        assert table[name]["precision"]["value"] == pytest.approx(report[name]["precision"])
        assert table[name]["f1"]["low"] < report[name]["f1-score"] < table[name]["f1"]["high"]


@pytest.mark.parametrize(
    ("tags", "forms", "found"),
    [
        (("B-A", "I-A", "O", "B-A", "B-A"), None, [("A", 0, 2), ("A", 3, 4), ("A", 4, 5)]),
        (("I-A", "I-A", "O", "I-B", "I-A"), None, [("A", 0, 2), ("B", 3, 4), ("A", 4, 5)]),
        (("B-A", "E-A", "S-A", "S-B", "O"), None, [("A", 0, 2), ("A", 2, 3), ("B", 3, 4)]),
        (("B-A", "I-A", "L-A", "U-A"), ("B-A", "I-A", "E-A", "S-A"), [("A", 0, 3), ("A", 3, 4)]),
        (("A", "A", "O", "B"), ("I-A", "I-A", "O", "I-B"), [("A", 0, 2), ("B", 3, 4)]),
        (("DET", "V", "V"), ("S-DET", "S-V", "S-V"), [("DET", 0, 1), ("V", 1, 2), ("V", 2, 3)]),
        (("I-x-y", "O"), None, [("x-y", 0, 1)]),
    ],
)  # fmt: skip
def test_every_form_of_tags_gives_entities(tags: Any, forms: Any, found: Any) -> None:
    assert entities.forms(tags) == (forms or tags)
    assert entities.found(entities.forms(tags)) == found


def test_rows_without_any_entity_have_no_f1_but_an_accuracy() -> None:
    scores = score("tags", [["O", "O"]], [["O", "O"]])
    assert scores["f1"]["value"] is None and "no entity" in scores["f1"]["reason"]
    assert scores["accuracy"]["value"] == 1.0
    assert values("tags", [["O", "O"]], [["B-A", "O"]])["f1"] == 0.0


def test_rows_of_other_lengths_are_told() -> None:
    with pytest.raises(DataError, match="Row 1 has 1 tags predicted, but 2 true"):
        score("tags", [["O"], ["O"]], [["O"], ["O", "O"]])


@pytest.mark.parametrize(
    ("guess", "golds", "exact", "f1"),
    [
        ("The  Eiffel-Tower!", ["eiffel tower"], 0, 0),
        ("the Eiffel Tower.", ["an eiffel tower", "Paris"], 1, 1),
        ("in Paris", ["Paris", "London"], 0, 2 / 3),
        ("a cat sat", ["cat sat down there"], 0, 2 * 2 / 6),
        ("", [], 1, 1),
        ("Paris", [], 0, 0),
        ("", ["Paris"], 0, 0),
        ("the", ["a"], 1, 1),
        ("cat cat", ["cat"], 0, 2 / 3),
    ],
)
def test_answers_are_compared_as_the_official_script_does(
    guess: str, golds: list[str], exact: float, f1: float
) -> None:
    found = values("spans", [guess], [golds])
    assert found["exact_match"] == exact
    assert found["f1"] == pytest.approx(f1)


def test_questions_with_and_without_an_answer_are_also_told_apart() -> None:
    names = ("answerable_exact_match", "answerable_f1", "unanswerable_accuracy")
    given, golds = ["Paris", "x y", "", "no"], [["Paris"], ["x z"], [], []]
    found = values("spans", given, golds, also=names)
    assert found["exact_match"] == 0.5 and found["f1"] == pytest.approx(2.5 / 4)
    assert found["answerable_exact_match"] == 0.5
    assert found["answerable_f1"] == pytest.approx(0.75)
    assert found["unanswerable_accuracy"] == 0.5
    alone = score("spans", ["x"], [["x"]], also=names)["unanswerable_accuracy"]
    assert alone["value"] is None and "every row has an answer" in alone["reason"]


def test_generated_texts_are_scored_as_the_libraries_do() -> None:
    given, true = texts()
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    rouge = [scorer.score(*pair) for pair in zip(true, given, strict=True)]
    found = values("texts", given, true)
    assert found == pytest.approx(
        {
            "bleu": sacrebleu.corpus_bleu(given, [true]).score,
            "chrf": sacrebleu.corpus_chrf(given, [true]).score,
            **{n: np.mean([r[n].fmeasure for r in rouge]) for n in ("rouge1", "rouge2", "rougeL")},
        }
    )
    short = values("texts", ["zwei ganz andere"], ["one two three four"])
    assert short["bleu"] == pytest.approx(
        sacrebleu.corpus_bleu(["zwei ganz andere"], [["one two three four"]]).score
    )
    assert values("texts", [""], ["a b"])["bleu"] == 0.0


def test_the_interval_of_bleu_is_that_of_its_bootstrap() -> None:
    given, true = texts(60)
    scores = score("texts", given, true)
    draw = np.random.default_rng(1)
    replicates = []
    for _ in range(300):
        rows = draw.integers(len(true), size=len(true))
        some = [given[r] for r in rows], [[true[r] for r in rows]]
        replicates.append(sacrebleu.corpus_bleu(*some).score)
    low, high = np.quantile(replicates, [0.025, 0.975])
    assert scores["bleu"]["low"] == pytest.approx(low, abs=2.0)
    assert scores["bleu"]["high"] == pytest.approx(high, abs=2.0)
    for figure in scores.values():
        assert figure["low"] < figure["value"] < figure["high"] and figure["n"] == 60


def test_perplexity_is_of_all_tokens_not_a_mean_over_rows() -> None:
    sums, counts = [10.0, 2.0, 30.0], [10, 1, 10]
    found = values("tokens", sums, counts)
    assert found["perplexity"] == pytest.approx(np.exp(42 / 21))
    assert found["log_loss"] == pytest.approx(2.0)
    assert found["bits_per_token"] == pytest.approx(2 / np.log(2))
    figure = score("tokens", sums, counts)["perplexity"]
    assert figure["low"] < figure["value"] < figure["high"]


@pytest.mark.parametrize(
    ("kind", "given", "true", "error", "said"),
    [
        ("tags", [], [], DataError, "no samples to score"),
        ("tokens", [np.nan, 1.0], [1, 1], TrainingError, "1 of 2 predictions are not finite"),
        ("tokens", [0.0], [0], DataError, "No row has a token"),
    ],
)
def test_what_cannot_be_scored_is_told(
    kind: Any, given: Any, true: Any, error: Any, said: str
) -> None:
    with pytest.raises(error, match=said):
        score(kind, given, true)


@pytest.mark.parametrize(
    ("kind", "data"), [("tags", ["O"]), ("spans", "a"), ("texts", "a"), ("tokens", 1.0)]
)
def test_a_metric_of_another_kind_is_no_metric_here(kind: Any, data: Any) -> None:
    with pytest.raises(RecipeError, match="There is no metric 'rmse' for this task"):
        score(kind, [data], [data], also=["rmse"])


def test_every_metric_of_texts_can_be_paired() -> None:
    draw = np.random.default_rng(0)
    sums = draw.uniform(5, 20, (2, 40))
    data = {
        "tags": (tagged(seed=0)[0], [["O"] * len(row) for row in tagged()[1]], tagged()[1]),
        "spans": (["a b", "c"] * 10, ["b", ""] * 10, [["a b"], ["c d"]] * 10),
        "texts": (texts()[0], texts(seed=1)[0], texts()[1]),
        "tokens": (sums[0], sums[1] + 5, np.full(40, 10)),
    }
    for kind, (ours, theirs, true) in data.items():
        gap = difference(kind, next(iter(TABLE[kind])), ours, theirs, true)  # type: ignore[arg-type,index]
        assert gap["low"] <= gap["value"] <= gap["high"], kind


def test_correlations_and_matthews_are_those_of_scipy_and_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    true = draw.normal(size=80)
    given = true + draw.normal(size=80)
    found = score("numbers", given, true)
    assert found["pearson"]["value"] == pytest.approx(stats.pearsonr(given, true).statistic)
    assert found["spearman"]["value"] == pytest.approx(stats.spearmanr(given, true).statistic)
    labels = draw.integers(3, size=80)
    chances = 0.7 * draw.dirichlet(np.ones(3), 80) + 0.3 * np.eye(3)[labels]
    figure = score("classes", chances, labels)["matthews_correlation"]
    assert figure["value"] == pytest.approx(matthews_corrcoef(labels, chances.argmax(1)))
    entry = TABLE["classes"]["matthews_correlation"]
    assert entry.rows is not None
    [replicates] = bootstrap([(entry.rows(chances, labels), entry.combine)])
    guess, again = chances.argmax(1), np.random.default_rng(5)
    reference = []
    for _ in range(400):
        rows = again.integers(80, size=80)
        reference.append(matthews_corrcoef(labels[rows], guess[rows]))
    assert np.std(replicates) == pytest.approx(np.std(reference), rel=0.15)
    assert figure["low"] < figure["value"] < figure["high"]


def test_metrics_of_texts_are_metrics_of_evaluate() -> None:
    from finetune.metrics import Metric, score_others

    given, true = tagged()
    metric = Metric("f1", kind="tags")
    assert metric.compute(predictions=given, references=true) == pytest.approx(
        {"f1": seqeval.f1_score(true, given)}
    )
    assert Metric("chrf", kind="texts").compute(predictions=["a b"], references=["a b"]) == {
        "chrf": 100.0
    }
    assert Metric(kind="spans").compute(predictions=["x"], references=[["x", "y"]]) == {
        "exact_match": 1.0,
        "f1": 1.0,
    }
    found = Metric("perplexity", kind="tokens").compute(predictions=[2.0], references=[2.0])
    assert found["perplexity"] == pytest.approx(np.e)
    others = score_others("tags", given, true, [metric], {"f1": 0}, intervals=True)
    [(name, figure)] = others.items()
    assert name.endswith("f1") and figure["low"] < figure["value"] < figure["high"]
