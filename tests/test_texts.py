"""From rows to token sequences and batches: nothing lost, nothing seen that must not be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import tiny_texts
import torch

from finetune.errors import RecipeError, UnreadableInputs
from finetune.protocols import Form
from finetune.samples import Samples
from finetune.texts.inputs import TextInputs
from finetune.texts.language import TEMPLATES, Chats, Continuation
from finetune.texts.reading import Questions, Texts, TextToText, Words

SENTENCES = list(tiny_texts.SENTENCES)


def table(**columns: Any) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns)


def inputs(reading: Any, family: str = "bert", size: int = 64, **more: Any) -> TextInputs:
    return TextInputs(tiny_texts.tokenizer(family), reading, size, **more)


def whole(source: Any) -> dict[str, torch.Tensor]:
    return dict(source.finish(source.read(np.arange(len(source)), 0)))


@pytest.mark.parametrize("family", tiny_texts.FAMILIES)
def test_a_text_is_what_its_tokenizer_makes_of_it(family: str, tmp_path: Path) -> None:
    reader = inputs(Texts(), family)
    if reader.tokenizer.pad_token is None:
        reader.tokenizer.pad_token = reader.tokenizer.eos_token
    source = reader.source(table(text=SENTENCES), tmp_path)
    expected = reader.tokenizer(
        SENTENCES, padding=True, truncation=True, max_length=64, return_tensors="pt"
    )
    found = whole(source)
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name
    assert source.cut is None


def test_what_is_cut_off_is_counted(tmp_path: Path) -> None:
    reader = inputs(Texts(), size=8)
    source = reader.source(table(text=[*SENTENCES, "a film"]), tmp_path)
    lengths = [len(ids) - 2 for ids in reader.tokenizer([*SENTENCES, "a film"])["input_ids"]]
    assert source.cut_rows == sum(length > 6 for length in lengths)
    assert source.cut_tokens == sum(max(0, length - 6) for length in lengths)
    assert source.lengths.max() == 8
    told = f"{source.cut_rows} of {len(source)} rows are too long: the last {source.cut_tokens} of"
    assert source.cut.startswith(told)
    again = reader.source(table(text=[*SENTENCES, "a film"]), tmp_path)
    assert (again.cut_rows, again.cut_tokens) == (source.cut_rows, source.cut_tokens)


@pytest.mark.parametrize(
    ("reading", "cell"),
    [
        (Texts(), {"text": "so good \ud83d"}),
        (Words(), {"words": ["so", "\ud83d"]}),
        (Chats(), {"messages": [{"role": "assistant", "content": "\ud83d"}]}),
    ],
)
def test_a_character_cut_in_two_is_told_of_its_row(reading: Any, cell: dict[str, Any]) -> None:
    source, reasons = inputs(reading).read([cell])
    assert (len(source), reasons) == (0, {0: r"a character is cut in two ('\ud83d')"})


def test_pairs_have_both_texts_and_their_types() -> None:
    reader = inputs(Texts(pair=True))
    source, reasons = reader.read(
        [{"text": "a film", "text_pair": "a story"}, {"text": "a film", "text_pair": " "}]
    )
    assert reasons == {1: "the text pair is empty"}
    found = whole(source)
    assert found["token_type_ids"].unique().tolist() == [0, 1]
    assert source.text(found["input_ids"].numpy()) == ["a film a story"]


def test_tokens_are_kept_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, rows = inputs(Texts()), table(text=SENTENCES)
    first = whole(reader.source(rows, tmp_path))
    [file] = (path for path in (tmp_path / "tokens").iterdir() if path.suffix != ".lock")
    before = file.stat().st_ino
    assert all(torch.equal(a, first[n]) for n, a in whole(reader.source(rows, tmp_path)).items())
    assert file.stat().st_ino == before
    # Another way of reading, another text: another file.
    inputs(Texts(), size=8).source(rows, tmp_path)
    reader.source(table(text=[*SENTENCES[:-1], "another"]), tmp_path)
    assert len([p for p in (tmp_path / "tokens").iterdir() if p.suffix != ".lock"]) == 3
    # A damaged one is written anew.
    file.write_bytes(file.read_bytes()[:100])
    assert all(torch.equal(a, first[n]) for n, a in whole(reader.source(rows, tmp_path)).items())
    assert file.stat().st_size > 100


def test_rows_without_text_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInputs, match="2 rows cannot be read") as caught:
        inputs(Texts()).source(table(text=["a", "", "b", None]), tmp_path)
    assert [(f.row, f.reason) for f in caught.value.failures] == [
        (1, "the text is empty"),
        (3, "the text is empty"),
    ]


@pytest.mark.parametrize("family", ["bert", "deberta", "t5"])
@pytest.mark.parametrize("size", [16, 64])
def test_each_word_is_told_once_at_its_first_token(family: str, size: int, tmp_path: Path) -> None:
    words = [sentence.split() for sentence in SENTENCES]
    words[0] = words[0] * 12  # longer than a window
    reader = inputs(Words(stride=4), family, size)
    source = reader.source(table(words=words), tmp_path)
    assert source.columns["input_ids"].lengths.max() <= size
    told = [
        (int(source.rows[sample]), int(word))
        for sample in range(len(source))
        for word in source.columns["word"].row(sample)
        if word >= 0
    ]
    assert len(told) == len(set(told))
    assert sorted(told) == [(row, word) for row in range(16) for word in range(len(words[row]))]
    assert len(source) > 16
    for sample in range(len(source)):
        ids, at = (source.columns[name].row(sample) for name in ("input_ids", "word"))
        for place in np.flatnonzero(at >= 0):
            word = words[source.rows[sample]][at[place]]
            first = reader.tokenizer([word], is_split_into_words=True, add_special_tokens=False)
            assert ids[place] == first["input_ids"][0]


@pytest.mark.parametrize("family", ["roberta", "gpt2", "llama", "bert", "t5"])
def test_words_have_the_tokens_that_they_have_in_a_text(family: str, tmp_path: Path) -> None:
    reader = inputs(Words(), family, size=64)
    source = reader.source(table(words=[text.split() for text in SENTENCES]), tmp_path)
    for row, text in enumerate(SENTENCES):
        in_text = reader.tokenizer(text)["input_ids"]
        assert source.columns["input_ids"].row(row).tolist() == in_text


def test_what_is_cut_off_pairs_is_counted_once(tmp_path: Path) -> None:
    columns = {"text": [*SENTENCES], "text_pair": [*SENTENCES[::-1]]}
    reader = inputs(Texts(pair=True), size=24)
    whole = reader.tokenizer(**columns)["input_ids"]
    source = reader.source(table(**columns), tmp_path)
    assert source.cut_tokens == sum(max(0, len(ids) - 24) for ids in whole) > 0
    assert source.lengths.tolist() == [min(len(ids), 24) for ids in whole]


def test_windows_over_a_context_hold_all_of_it(tmp_path: Path) -> None:
    question, context = "where is the train ?", " ".join(SENTENCES)
    reader = inputs(Questions(stride=8), size=48)
    source = reader.source(table(question=[question] * 2, context=[context, "a film"]), tmp_path)
    assert len(source) > 3 and source.rows[-1] == 1
    seen = np.zeros(len(context), bool)
    for sample in range(len(source) - 1):
        starts, ends = (source.columns[name].row(sample) for name in ("start", "end"))
        for start, end in zip(starts, ends, strict=True):
            if start >= 0:
                seen[start:end] = True
    assert all(seen[i] or letter.isspace() for i, letter in enumerate(context))
    _, reasons = reader.read([{"question": context, "context": "a film"}])
    assert "leaves no room for the context in 48: shorten it" in reasons[0]


def test_the_decoder_reads_what_was_to_be_written_before(tmp_path: Path) -> None:
    reader = inputs(TextToText("translate: ", 16), "t5", decoder_start=0)
    source = reader.source(table(source=SENTENCES[:2], target=SENTENCES[2:4]), tmp_path)
    found, label = whole(source), source.columns["label"]
    expected = reader.tokenizer(text_target=SENTENCES[2], max_length=16, truncation=True)
    assert label.row(0).tolist() == expected["input_ids"]
    assert (
        found["decoder_input_ids"][0, 1 : len(label.row(0))].tolist() == label.row(0)[:-1].tolist()
    )
    assert found["decoder_input_ids"][:, 0].tolist() == [0, 0]
    assert source.text(found["input_ids"].numpy())[0].startswith("translate: ")
    # To be predicted, there is no target, and a target that is not there is no fault.
    unlabelled, reasons = reader.read([{"source": "a film"}])
    assert not reasons and whole(unlabelled)["decoder_input_ids"].tolist() == [[0]]


@pytest.mark.parametrize("family", tiny_texts.DECODERS)
def test_no_document_of_a_packed_sample_sees_another(family: str, tmp_path: Path) -> None:
    from finetune.backbones.transformers import Transformers

    folder = tiny_texts.folder(tmp_path / "model", family)
    network = Transformers(name=str(folder), max_length=48).build(
        0, None, Form("continue", Continuation())
    )
    source = network.inputs.source(table(text=SENTENCES[:6]), tmp_path)
    found = whole(source)
    assert "attention_mask" not in found and found["input_ids"].shape[1] == 48
    network.module.eval()
    with torch.inference_mode():
        packed = network.outputs(network.module(**found)).logits()
        starts = [(s, p) for s, p in (found["position_ids"] == 0).nonzero().tolist()]
        checked = 0
        for (sample, start), after in zip(starts, [*starts[1:], (-1, 0)], strict=True):
            end = after[1] if after[0] == sample else source.columns["input_ids"].lengths[sample]
            if end - start < 2:
                continue
            alone = network.module(input_ids=found["input_ids"][sample : sample + 1, start:end])
            logits = network.outputs(alone).logits()[0]
            torch.testing.assert_close(packed[sample, start:end], logits, atol=1e-5, rtol=1e-5)
            checked += 1
    assert checked >= 6


def test_packing_loses_no_token_and_labels_the_next_one(tmp_path: Path) -> None:
    reader = inputs(Continuation(), "gpt2", 32)
    source = reader.source(table(text=SENTENCES), tmp_path)
    end = reader.tokenizer.eos_token_id
    stream = [i for ids in reader.tokenizer(SENTENCES)["input_ids"] for i in [*ids, end]]
    assert (
        np.concatenate([source.columns["input_ids"].row(i) for i in range(len(source))]).tolist()
        == stream
    )
    labels = np.concatenate([source.columns["label"].row(i) for i in range(len(source))])
    following = [
        -100 if now == end else after for now, after in zip(stream, [*stream[1:], end], strict=True)
    ]
    assert labels.tolist() == following
    assert set(source.lengths[:-1]) == {32}


CHAT = [
    {"role": "user", "content": "what is the capital of France ?"},
    {"role": "assistant", "content": "the capital is Paris ."},
    {"role": "user", "content": "where is Geneva ?"},
    {"role": "assistant", "content": "in May it leaves ."},
]
PLAIN = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.mark.parametrize("template", [*TEMPLATES, None, PLAIN])
@pytest.mark.parametrize("packed", [False, True])
def test_only_what_the_assistant_says_is_learned(
    template: str | None, packed: bool, tmp_path: Path
) -> None:
    tokenizer = tiny_texts.tokenizer("gpt2", chat=template is None)
    named = template if template in TEMPLATES else None
    if template == PLAIN:
        tokenizer.chat_template = PLAIN
    reader = TextInputs(tokenizer, Chats(packed=packed, template=named), 512)
    source = reader.source(table(messages=[CHAT, CHAT[:2]]), tmp_path)
    assert len(source) == (1 if packed else 2)
    label = source.columns["label"].row(0)
    said = tokenizer.decode([int(i) for i in label if i >= 0], skip_special_tokens=True)
    once = "the capital is Paris .in May it leaves ."
    said = said.replace("<|im_end|>", "")
    assert said == once + ("the capital is Paris ." if packed else "")
    ids = source.columns["input_ids"].row(0)
    counted = np.flatnonzero(label[:-1] >= 0)
    assert (label[counted] == ids[counted + 1]).all()


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_tokenizer_may_have_no_end_of_text(template: str) -> None:
    tokenizer = tiny_texts.tokenizer("gpt2")
    tokenizer.eos_token = None
    source, reasons = TextInputs(tokenizer, Chats(template=template), 64).read([{"messages": CHAT}])
    assert len(source) == 1 and not reasons


def test_a_template_by_name_is_saved_with_the_model_and_others_are_refused() -> None:
    tokenizer = tiny_texts.tokenizer("gpt2")
    TextInputs(tokenizer, Chats(), 64)
    assert tokenizer.chat_template == TEMPLATES["simple"]
    with pytest.raises(RecipeError, match="Did you mean 'chatml'"):
        Chats(template="chatlm")


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"messages": []}, "there are no messages"),
        ({"messages": [{"role": "user"}]}, "a message lacks its role or content"),
        ({"messages": CHAT[:1]}, "no message is the assistant's"),
        (
            {"messages": [{"role": "assistant", "content": None}]},
            "the content of a message is no text",
        ),
    ],
)
def test_conversations_that_cannot_be_used(cells: dict[str, Any], reason: str) -> None:
    _, reasons = inputs(Chats(), "gpt2").read([cells])
    assert reasons == {0: reason}


def test_batches_hold_samples_of_like_length(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(SENTENCES[0].split(), n)) for n in random.integers(1, 60, 1000)]
    source = inputs(Texts()).source(table(text=texts), tmp_path)
    samples = Samples(source, np.zeros(1000, np.int64), None)
    order = samples.order("shuffled", 0, 0, 32)
    assert sorted(order) == list(range(1000))
    assert order.tolist() == samples.order("shuffled", 0, 0, 32).tolist()
    assert order.tolist() != samples.order("shuffled", 0, 1, 32).tolist()
    lengths = source.lengths[order]
    spread = [np.ptp(lengths[i : i + 32]) for i in range(0, 992, 32)]
    assert np.mean(spread) < 4 < np.ptp(lengths) / 4
    # Batches of long and of short texts follow one another in no order.
    means = lengths[:992].reshape(-1, 32).mean(1)
    assert abs(np.corrcoef(np.arange(31), means)[0, 1]) < 0.5
    assert source.padding(order, 32) < 0.04 < 1 - lengths.mean() / 62
