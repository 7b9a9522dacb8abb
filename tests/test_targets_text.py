"""Targets over texts, without a model: encoding, losses, decoding, answers, baselines."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor

from finetune.errors import DataError, RecipeError, TrainingError
from finetune.protocols import Splits
from finetune.recipe import Train
from finetune.samples import Ragged, Samples
from finetune.targets import Generated, NextToken, Spans, Tags

PLAIN = Train()


@dataclass
class Source:
    """What a target needs of a source of texts."""

    columns: dict[str, Ragged]
    rows: Any

    def __len__(self) -> int:
        return len(self.rows)

    def text(self, ids: Any) -> list[str]:
        return [" ".join(map(str, row[row > 0])) for row in ids]


def source(rows: list[int], **columns: list[list[int]]) -> Any:
    fills = {"label": -100, "word": -1, "start": -1, "end": -1}
    ragged = {name: Ragged.of(cells, fills[name], np.int32) for name, cells in columns.items()}
    return Source(ragged, np.array(rows))


def network(outputs: Any) -> Any:
    return SimpleNamespace(outputs=lambda given: outputs)


def splits(columns: dict[str, Any], classes: Any = None, rest: Any = None) -> Splits:
    held = Dataset.from_dict(rest or columns)
    return Splits(Dataset.from_dict(columns), held, held, classes, "")


# Tags

NAMES = ("O", "B-PER", "I-PER")
WORDS = {"words": [["Ann", "Lee", "sat"], ["so"]], "label": [[1, 2, 0], [0]]}
WINDOWS = source([0, 0, 1], word=[[-1, 0, -1, 1, -1], [-1, -1, 2, -1], [-1, 0, -1]])


def test_tags_are_read_as_positions_or_as_names() -> None:
    target = Tags.of(splits(WORDS, NAMES), PLAIN)
    assert target.classes == NAMES and target.num_outputs == 3 and target.metric == "f1"
    truth = target.encode(Dataset.from_dict(WORDS))
    assert [row.tolist() for row in truth] == [[1, 2, 0], [0]]
    named = {"words": WORDS["words"], "label": [["B-PER", "I-PER", "O"], ["O"]]}
    found = Tags.of(splits(named), PLAIN)
    assert found.classes == ("O", "B-PER", "I-PER") and not found.indexed
    assert [row.tolist() for row in found.encode(Dataset.from_dict(named))] == [[1, 2, 0], [0]]
    speech = Tags.of(splits({"label": [["NOUN", "VERB"], ["NOUN"]]}), PLAIN)
    assert speech.metric == "accuracy" and not speech.has_entities and speech.each[0] == "tag"


@pytest.mark.parametrize(
    ("train", "rest", "classes", "said"),
    [
        ([["O", "O"]], None, None, "In the train split: one tag only, 'O'"),
        ([[]], None, None, "no words"),
        ([["O", "B-A"]], [["O"]], None, "In the validation split: no word has any tag but O"),
        ([["O", "B-A"]], [["O", "B-B"]], None, "row 0 has the label 'B-B', which is none of"),
        ([[0, 5]], None, NAMES, "row 0 has the label index 5"),
        (["O", "B-A"], None, None, "row 0 has the label 'O': tagging needs a list of tags"),
    ],
)
def test_tags_that_cannot_be_learned(train: Any, rest: Any, classes: Any, said: str) -> None:
    held = None if rest is None else {"label": rest}
    with pytest.raises(DataError, match=said):
        Tags.of(splits({"label": train}, classes, held), PLAIN)


def test_first_sub_tokens_are_labelled_in_every_window() -> None:
    target = Tags(NAMES)
    truth = target.encode(Dataset.from_dict(WORDS))
    labels = target.labels(truth, WINDOWS)
    assert labels is not None
    assert labels[np.arange(3)].tolist() == [
        [-100, 1, -100, 2, -100],
        [-100, -100, 0, -100, -100],
        [-100, 0, -100, -100, -100],
    ]
    assert target.labels(None, WINDOWS) is None
    with pytest.raises(DataError, match=r"row 0 has 1 tags, and more words"):
        target.labels([truth[0][:1], *truth[1:]], WINDOWS)


@pytest.mark.parametrize("options", [{}, {"class_weights": (0.5, 2.0, 3.0)}])
def test_the_loss_of_tags_is_that_of_torch_however_the_batch_is_cut(options: Any) -> None:
    torch.manual_seed(0)
    target = Tags(NAMES, label_smoothing=0.1, **options)
    label = torch.tensor([[-100, 1, -100, 2], [-100, 0, -100, -100], [0, 0, 1, -100]])
    logits = torch.randn(3, 6, 3)  # the inputs of a batch may be longer than its labels
    weights = options.get("class_weights")
    expected = F.cross_entropy(
        logits[:, :4].reshape(-1, 3), label.reshape(-1), label_smoothing=0.1,
        weight=None if weights is None else torch.tensor(weights),
    )  # fmt: skip
    total = weight = torch.zeros(())
    for part in (slice(0, 1), slice(1, 3)):
        given = {"label": label[part]}
        losses = target.losses(logits[part].bfloat16().float(), given)
        assert losses.shape == (len(label[part]),) and losses.dtype == torch.float32
        total = total + target.losses(logits[part], given).sum()
        weight = weight + target.weights(given).sum()
    assert torch.allclose(total / weight, expected, atol=1e-6)
    if weights is None:
        assert target.weights({"label": label}).tolist() == [2, 1, 3]


def kept_tags() -> Any:
    kept = np.full((3, 5, 2), -1, np.float32)
    kept[0, 1], kept[0, 3], kept[1, 2], kept[2, 1] = (1, 0.9), (2, 0.8), (0, 0.7), (1, 0.6)
    return kept


def test_windows_come_together_word_by_word() -> None:
    target = Tags(NAMES)
    rows = target.decode(kept_tags(), WINDOWS)
    assert [row[:, 0].tolist() for row in rows] == [[1, 2, 0], [1]]
    assert rows[0][:, 1] == pytest.approx([0.9, 0.8, 0.7])
    logits = torch.tensor([[[0.0, 2.0, 1.0], [5.0, 0.0, 0.0]]])
    kept = target.infer(network(logits), lambda: None, {}, {})
    assert kept.shape == (1, 2, 2) and kept[0, :, 0].tolist() == [1, 0]
    assert kept[0, 0, 1] == pytest.approx(float(logits[0, 0].softmax(0)[1]))


def test_words_that_the_tokenizer_leaves_nothing_of_have_the_first_tag() -> None:
    target = Tags(NAMES)
    gaps = source([0], word=[[-1, 1, -1]])
    kept = np.array([[[0, 1], [1, 0.9], [0, 1]]], np.float32)
    rows = target.decode(kept, gaps)
    assert rows[0].tolist() == pytest.approx(np.array([[0, 0], [1, 0.9]]))
    [answer] = target.answers(rows, [{"words": ["\u200b", "Ann", "\u200b"]}], 5)
    assert [e["text"] for e in answer["entities"]] == ["Ann"]
    truth = target.encode(Dataset.from_dict({"label": [[0, 1, 0]]}))
    assert target.scores(rows, truth)["accuracy"]["value"] == 1.0


def test_entities_are_told_with_words_letters_and_score() -> None:
    target = Tags(NAMES)
    rows = target.decode(kept_tags(), WINDOWS)
    told = target.answers(rows, [{"words": words} for words in WORDS["words"]], 5)
    assert told[0] == {
        "entities": [
            {"type": "PER", "text": "Ann Lee", "start": 0, "end": 2, "start_char": 0}
            | {"end_char": 7, "score": pytest.approx(0.85)}
        ]
    }
    text = "Ann  Lee, sat"
    [with_text] = target.answers(rows[:1], [{"words": WORDS["words"][0], "text": text}], 5)
    entity = with_text["entities"][0]
    assert text[entity["start_char"] : entity["end_char"]] == entity["text"] == "Ann  Lee"
    assert set(target.example(5)["entities"][0]) == set(entity)
    speech = Tags(("NOUN", "VERB"))
    assert speech.example(3)["tags"] == [{"word": "word", "tag": "NOUN", "probability": 1.0}]
    broken = rows.copy()
    broken[1] = np.array([[0, np.nan]])
    assert target.answers(broken, [{"words": w} for w in WORDS["words"]], 5)[1] == {
        "error": "the model's output is not finite"
    }


def test_scores_baseline_and_evidence_of_tags() -> None:
    target = Tags(NAMES)
    table = Dataset.from_dict(WORDS)
    truth = target.encode(table)
    rows = target.decode(kept_tags(), WINDOWS)
    scores = target.scores(rows, truth)
    assert scores["f1"]["value"] == pytest.approx(2 / 3) and scores["f1"]["n"] == 2
    assert scores["per_class"]["PER"]["n"] == 1
    samples = {split: Samples(WINDOWS, None, truth) for split in ("train", "validation", "test")}
    given = target.baselines(samples, table)["majority"]  # type: ignore[arg-type]
    assert [row.tolist() for row in given] == [[[0, 0.5]] * 3, [[0, 0.5]]]
    assert target.scores(given, truth)["f1"]["value"] == 0.0
    gap = target.difference(rows, given, truth)
    assert gap["value"] == pytest.approx(2 / 3)
    shown = target.evidence(rows, truth)
    [mistake] = shown.worst
    assert (mistake.row, mistake.true, mistake.predicted, mistake.note) == (
        1,
        "O",
        "B-PER",
        "word 1",
    )
    assert shown.confusion is not None and shown.confusion.tolist() == [
        [1, 1, 0],
        [0, 1, 0],
        [0, 0, 1],
    ]
    assert target.tally(truth).tolist() == [2, 1, 1]
    guesses = target.guesses(truth, torch.Generator().manual_seed(0))
    assert target.scores(guesses, truth, intervals=False)["accuracy"]["n"] == 2
    rows[0][0, 1] = np.nan
    with pytest.raises(TrainingError, match="1 of 2 predictions are not finite"):
        target.scores(rows, truth)


# Spans

CONTEXT = "Paris is big. Bonn is not."
ANSWERS = {
    "question": ["?", "??"],
    "context": [CONTEXT, CONTEXT],
    "label": [
        {"text": ["Bonn", "Bonn is"], "answer_start": [14, 14]},
        {"text": [], "answer_start": []},
    ],
}
# Tokens: [CLS] ? [SEP] and then words; the second window begins at "is" before "big".
STARTS = [[-1, -1, -1, 0, 6, 9], [-1, -1, -1, 6, 9, 14, 19, 22], [-1, -1, -1, 0, 6]]
ENDS = [[-1, -1, -1, 5, 8, 13], [-1, -1, -1, 8, 13, 18, 21, 26], [-1, -1, -1, 5, 8]]
PLACES = source([0, 0, 1], start=STARTS, end=ENDS)


def answers(**changes: Any) -> Dataset:
    return Dataset.from_dict(ANSWERS | changes)


def lines(*tokens: tuple[float, float, float, float], width: int = 4) -> Any:
    kept = np.full((width, 4), -1.0, np.float32)
    kept[: len(tokens)] = tokens
    return kept


def test_answers_become_the_tokens_that_hold_them() -> None:
    target = Spans.of(splits(ANSWERS), PLAIN, max_answer_length=5)
    assert target.unanswerable and target.max_answer_length == 5 and target.num_outputs == 2
    truth = target.encode(answers())
    labels = target.labels(truth, PLACES)
    assert labels is not None and labels.tolist() == [[0, 0, 6], [5, 5, 8], [0, 0, 5]]
    assert target.labels(None, PLACES) is None
    # Where the place is not quite right, the nearest one is meant.
    moved = [{"text": ["is"], "answer_start": [18]}, ANSWERS["label"][1]]
    labels = target.labels(target.encode(answers(label=moved)), PLACES)
    assert labels is not None and labels[1].tolist() == [6, 6, 8]
    # An answer within a token is that token.
    inside = [{"text": ["on"], "answer_start": [15]}, ANSWERS["label"][1]]
    labels = target.labels(target.encode(answers(label=inside)), PLACES)
    assert labels is not None and labels[1].tolist() == [5, 5, 8]


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (["Bonn", "Paris"], "row 0 has the label 'Bonn': an answer in a text is a dict"),
        (
            [{"text": ["Rome"], "answer_start": [0]}] * 2,
            "2 answers do not stand in their context, the first is 'Rome' of row 0",
        ),
        ([{"text": [], "answer_start": []}] * 2, "no question has an answer"),
        ([{"text": ["is"], "answer_start": [6, 9]}] * 2, "row 0 has 1 answers, but 2 places"),
    ],
)
def test_answers_that_cannot_be_learned(label: Any, said: str) -> None:
    with pytest.raises(DataError, match=f"In the train split: .*{said}"):
        Spans.of(splits(ANSWERS | {"label": label}), PLAIN)
    with pytest.raises(RecipeError, match="no meaning for answers in a text"):
        Spans.of(splits(ANSWERS), Train(label_smoothing=0.1))


def test_the_loss_of_spans_does_not_see_padding() -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(2, 6, 2), torch.tensor([[1, 3, 6], [0, 2, 4]])
    losses = Spans().losses(logits, {"label": label})
    for i, (first, last, size) in enumerate(label.tolist()):
        ends = [F.cross_entropy(logits[i, :size, side], torch.tensor(token))
                for side, token in ((0, first), (1, last))]  # fmt: skip
        assert losses[i] == pytest.approx(float(sum(ends)) / 2, rel=1e-5)
    assert Spans().weights({"label": label}).tolist() == [1, 1]


def test_the_best_tokens_of_each_window_are_kept() -> None:
    logits = torch.tensor([[[1.0, 2.0], [5.0, 0.0], [3.0, 4.0], [9.0, 9.0]]])
    inputs = {"attention_mask": torch.tensor([[1, 1, 1, 0]])}
    kept = Spans(n_best=4).infer(network(logits), lambda **_: None, inputs, {})
    assert kept.shape == (1, 5, 4)
    # Each line is first token, last token, and in between their logits.
    first, last = kept[0, 1:, [0, 2]].T
    none = kept[0, 0]
    assert none.tolist() == [0, 1, 0, 2]
    assert first.tolist() == [1, 2, 0, -1] and last.tolist() == [2, 0, 1, -1]


def test_places_of_all_windows_compete() -> None:
    kept = np.stack([
        lines((0, 1.0, 0, 1.0), (3, 2.0, 3, 1.0), (1, 9.0, 5, 0.0)),
        lines((0, 0.5, 0, 0.5), (5, 4.0, 5, 3.0), (3, 3.0, 7, 2.0)),
        lines((0, 6.0, 0, 6.0), (3, 1.0, 4, 1.0)),
    ])  # fmt: skip
    target = Spans(unanswerable=True, n_best=3)
    rows = target.decode(kept, PLACES)
    assert rows.shape == (2, 3, 3)
    assert rows[0, 0, :2].tolist() == [14, 18]  # "Bonn" with 7, of the second window
    assert rows[0, 1, :2].tolist() == [6, 18] and rows[0, 2, :2].tolist() == [14, 26]
    assert rows[1, 0, :2].tolist() == [-1, -1] and rows[1, 1, :2].tolist() == [0, 8]
    odds = np.exp([12.0, 2.0])
    assert rows[1, :2, 2] == pytest.approx(odds / odds.sum())
    told = target.answers(rows, [{"context": CONTEXT}] * 2, 2)
    assert told[0]["text"] == "Bonn" and (told[0]["start"], told[0]["end"]) == (14, 18)
    assert [one["text"] for one in told[0]["top"]] == ["Bonn", "is big. Bonn"]
    assert told[1]["text"] == "" and told[1]["start"] is None
    scores = target.scores(rows, target.encode(answers()))
    assert scores["exact_match"]["value"] == 1.0 and scores["unanswerable_accuracy"]["value"] == 1.0
    # One that must always answer does; a threshold makes silence dearer.
    assert Spans(n_best=3).decode(kept, PLACES)[1, 0, :2].tolist() == [0, 8]
    dear = replace(target, null_threshold=11.0).decode(kept, PLACES)
    assert dear[1, 0, :2].tolist() == [0, 8] and dear[1, 1, :2].tolist() == [-1, -1]
    short = replace(target, max_answer_length=1).decode(kept, PLACES)
    assert [14, 26] not in short[0, :, :2].tolist()


def test_an_output_that_is_not_finite_is_told() -> None:
    kept = np.stack(
        [lines((0, 1, 0, 1), (3, 2, 3, 1)), lines((0, np.nan, 0, 1)), lines((0, 1, 0, 1))]
    )
    target = Spans(unanswerable=True, n_best=3)
    rows = target.decode(kept, PLACES)
    told = target.answers(rows, [{"context": CONTEXT}] * 2, 2)
    assert told[0] == {"error": "the model's output is not finite"} and told[1]["text"] == ""
    with pytest.raises(TrainingError, match="1 of 2 predictions are not finite"):
        target.scores(rows, target.encode(answers()))


def test_baselines_and_evidence_of_spans() -> None:
    target = Spans(unanswerable=True)
    truth = target.encode(answers())
    samples = {split: Samples(PLACES, None, truth) for split in ("train", "validation", "test")}
    given = target.baselines(samples, answers())  # type: ignore[arg-type]
    assert list(given) == ["no answer", "beginning"]
    assert target.scores(given["no answer"], truth)["f1"]["value"] == 0.5
    assert list(replace(target, unanswerable=False).baselines(samples, answers())) == ["beginning"]  # type: ignore[arg-type]
    shown = target.evidence(given["beginning"], truth)
    assert [(m.row, m.true, m.predicted) for m in shown.worst] == [
        (0, "Bonn", "Pari"),
        (1, "no answer", "Pari"),
    ]
    assert target.describe(truth)["with an answer"] == "1"
    assert {"text", "start", "end", "score", "top"} == set(target.example(5))
    assert target.scores(target.guesses(truth, torch.Generator()), truth)["f1"]["n"] == 2


# Generated texts

PAIRS = {"source": ["a b c", "d e", "f"], "target": ["ein Haus", "ein Hund", "zwei"]}


@dataclass
class Losses:
    """Outputs that know their losses, as the head over a vocabulary does."""

    value: float

    def losses(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        assert labels.dtype == torch.int64
        count = (labels != -100).sum(1)
        return self.value * count, count


def test_generated_texts_are_learned_by_token_and_written_by_search() -> None:
    target = Generated.of(splits(PAIRS), PLAIN, num_beams=3, max_new_tokens=7)
    truth = target.encode(Dataset.from_dict(PAIRS))
    assert truth.tolist() == PAIRS["target"] and target.num_outputs == 0
    held = source([0, 1], label=[[4, 5, 1], [6, 1]])
    labels = target.labels(truth, held)
    given = {"label": torch.from_numpy(labels[np.arange(2)])}
    assert target.losses(Losses(2.0), given).tolist() == [6, 4]
    assert target.weights(given).tolist() == [3, 2]
    asked: dict[str, Any] = {}

    def generate(inputs: Any, **options: Any) -> Tensor:
        asked.update(options)
        return torch.tensor([[5, 6], [7, -1]])

    module = torch.nn.Identity()
    kept = target.infer(SimpleNamespace(generate=generate), module, {}, {})
    assert asked == {"max_new_tokens": 7, "num_beams": 3, "module": module}
    assert target.decode(kept.numpy(), held).tolist() == ["5 6", "7"]
    assert target.labels(None, held) is None
    with pytest.raises(RecipeError, match="train.focal=2.0 has no meaning for texts"):
        Generated.of(splits(PAIRS), Train(focal=2.0))


def test_baselines_and_evidence_of_generated_texts() -> None:
    target = Generated(metric="chrf")
    table = Dataset.from_dict(PAIRS)
    truth = target.encode(table)
    samples = {s: Samples(None, None, truth) for s in ("train", "validation", "test")}  # type: ignore[arg-type]
    given = target.baselines(samples, table)  # type: ignore[arg-type]
    assert given["copy"].tolist() == PAIRS["source"]
    assert set(given["constant"]) in ({"ein Haus"}, {"ein Hund"})
    guess = np.array(["ein Haus", "ein Hut", ""], dtype=object)
    shown = target.evidence(guess, truth)
    assert [(m.row, m.predicted) for m in shown.worst] == [(2, ""), (1, "ein Hut")]
    assert shown.worst[0].note == "chrF 0.0"
    assert target.answers(guess, [{}] * 3, 5) == [{"text": text} for text in guess]
    assert target.difference(guess, given["copy"], truth)["value"] > 0
    again = target.guesses(truth, torch.Generator().manual_seed(0))
    assert sorted(again) == sorted(truth)


# The next token


def test_the_next_token_is_measured_by_sums_over_tokens() -> None:
    target = NextToken.of(splits({"text": ["a", "b"]}), PLAIN)
    assert target.metric == "-perplexity" and target.num_outputs == 0
    held = source([0, 0, 1], label=[[4, 4], [5, -100], [6, 4, 4]])
    label = torch.from_numpy(target.labels(None, held)[np.arange(3)])
    outputs = Losses(0.5)
    kept = target.infer(network(outputs), lambda **_: None, {}, {"label": label})
    assert kept.tolist() == [[1, 2], [0.5, 1], [1.5, 3]]
    rows = target.decode(kept.numpy(), held)
    assert rows.tolist() == [[1.5, 3], [1.5, 3]]
    truth = target.encode(Dataset.from_dict({"text": ["a", "b"]}))
    scores = target.scores(rows, truth)
    assert scores["perplexity"]["value"] == pytest.approx(np.exp(0.5))
    assert target.answers(rows, [{}] * 2, 5)[0] == {
        "perplexity": pytest.approx(np.exp(0.5)),
        "tokens": 3,
    }
    silent = np.array([[0.0, 0.0], [1.0, 2.0]])
    assert target.answers(silent, [{}] * 2, 5)[0] == {"perplexity": None, "tokens": 0}
    assert target.scores(silent, truth)["perplexity"]["value"] == pytest.approx(np.exp(0.5))
    assert target.losses(outputs, {"label": label}).tolist() == [1, 0.5, 1.5]
    assert target.weights({"label": label}).tolist() == [2, 1, 3]


def test_the_baseline_of_the_next_token_is_the_unigram_model() -> None:
    target = NextToken()
    train = source([0], label=[[1, 1, 1, 2, -100]])
    test = source([0, 1], label=[[1, 2], [3]])
    samples = {
        "train": Samples(train, train.columns["label"], np.zeros(1)),
        "test": Samples(test, test.columns["label"], np.zeros(2)),
    }
    given = target.baselines(samples, None)["unigram"]  # type: ignore[arg-type]
    # Three of 1, one of 2, one more of each, and one for all others.
    assert given == pytest.approx(
        np.array([[-np.log(4 / 7) - np.log(2 / 7), 2], [-np.log(1 / 7), 1]])
    )
    shown = target.evidence(given, np.zeros(2))
    assert [m.row for m in shown.worst] == [1, 0] and shown.worst[0].note == "perplexity 7"
    assert target.evidence(np.array([[1.0, 2.0], [0.0, 0.0]]), np.zeros(2)).worst == ()


@pytest.mark.parametrize(
    "target",
    [
        Tags(NAMES, class_weights=(1.0, 2.0, 3.0)),
        Spans(unanswerable=True, null_threshold=0.5),
        Generated(num_beams=2),
        NextToken(),
    ],
)
def test_a_target_kept_as_json_reads_back_equal(target: Any) -> None:
    assert type(target)(**json.loads(json.dumps(asdict(target)))) == target
