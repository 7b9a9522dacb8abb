"""The support messages that come with the package."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from finetune import Intents, Splits
from finetune.data.intents import FOLDER

SIZES = {"train": 28, "validation": 10, "test": 16}
COSINE, JACCARD = 0.5, 0.4
"""Two messages of different splits are less alike than this."""


@pytest.fixture(scope="module")
def splits() -> Splits:
    return Intents().load(("text", "label"))


@pytest.fixture(scope="module")
def texts(splits: Splits) -> dict[str, list[str]]:
    return {split: list(getattr(splits, split)["text"]) for split in SIZES}


def test_twelve_classes_of_one_size_in_fixed_splits(splits: Splits) -> None:
    assert splits.classes is not None
    assert len(splits.classes) == 12
    assert list(splits.classes) == sorted(splits.classes)
    for split, size in SIZES.items():
        assert Counter(getattr(splits, split)["label"]) == dict.fromkeys(range(12), size)
    assert splits.notes == ()
    assert splits.source == {"name": "support intents", "license": "apache-2.0"}
    again = Intents(split_seed=1).load(("text", "label"))
    assert again.fingerprint == splits.fingerprint


def test_few_shot_leaves_validation_and_test_whole() -> None:
    few = Intents(shots=8).load(("text", "label"))
    assert (len(few.train), len(few.validation), len(few.test)) == (96, 120, 192)


def test_the_text_is_read_as_it_was_written(texts: dict[str, list[str]]) -> None:
    every = [text for part in texts.values() for text in part]
    assert any('"' in text and "," in text for text in every)
    for text in every:
        assert text == text.strip()
        assert 2 <= len(text.split()) <= 49
        assert not re.search(r"\n|https?:|www\.|@", text)


def test_the_card_tells_the_classes_and_counts(splits: Splits) -> None:
    card = (FOLDER / "README.md").read_text("utf-8")
    assert splits.classes is not None
    assert re.findall(r"^\| `(\w+)` .* 54 \|$", card, re.MULTILINE) == list(splits.classes)
    assert "license: apache-2.0" in card


def test_no_message_has_a_near_duplicate_in_another_split(texts: dict[str, list[str]]) -> None:
    every = [text for part in texts.values() for text in part]
    assert len({grams(text) for text in every}) == len(every)
    vectorizer = TfidfVectorizer(ngram_range=(1, 2)).fit(every)
    for one, other in combinations(texts.values(), 2):
        alike = vectorizer.transform(one) @ vectorizer.transform(other).T
        assert alike.max() < COSINE
        fours = [grams(text) for text in other]
        for text in one:
            mine = grams(text)
            assert max(len(mine & four) / len(mine | four) for four in fours) < JACCARD, text


def grams(text: str) -> frozenset[str]:
    """Return the runs of four characters, case and punctuation aside."""
    plain = re.sub(r"\W+", " ", text.lower()).strip()
    return frozenset(plain[start : start + 4] for start in range(max(1, len(plain) - 3)))


def test_word_counts_find_some_of_it_but_not_all(
    splits: Splits, texts: dict[str, list[str]]
) -> None:
    vectorizer = TfidfVectorizer(ngram_range=(1, 2))
    train = vectorizer.fit_transform(texts["train"])
    model = LogisticRegression(C=0.1, max_iter=1000).fit(train, splits.train["label"])
    guessed = model.predict(vectorizer.transform(texts["test"]))
    score = f1_score(np.array(splits.test["label"]), guessed, average="macro")
    # Chance is 0.083; the card says 0.390.
    assert 0.25 < score < 0.97
    assert score == pytest.approx(0.390, abs=0.03)
