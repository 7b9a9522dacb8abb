"""Run as a script in a fresh process: load a saved language model with transformers alone.

    python -P reload_transformers.py MODEL_FOLDER ROWS.json > told.json

ROWS.json is a list such as `[{"text": "a text", "inputs": {"input_ids": [5, 6]}}]`: what a person
gives, and the tokens that the model was given for it. A text to classify, or two, is
tokenized anew; in other tasks a row is cut up in ways that only training knows, and the tokens are
taken as they are. Prints the logits, float32, and the labels by the way of loading: the auto class,
and a pipeline where transformers has one for the task. Of a head over a vocabulary these are the
logits after the last token. Nothing of this toolkit is imported.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, pipeline

WAYS = {
    "ForSequenceClassification": ("AutoModelForSequenceClassification", "text-classification"),
    "ForTokenClassification": ("AutoModelForTokenClassification", "token-classification"),
    "ForQuestionAnswering": ("AutoModelForQuestionAnswering", None),
}
"""The auto class and the pipeline by how the saved class ends."""


def ways(folder: str) -> tuple[str, str | None]:
    """Return the auto class and the pipeline for a model, None where there is no pipeline."""
    config = AutoConfig.from_pretrained(folder)
    for ending, found in WAYS.items():
        if config.architectures[0].endswith(ending):
            return found
    if config.is_encoder_decoder:
        return "AutoModelForSeq2SeqLM", None
    return "AutoModelForCausalLM", "text-generation"


def logits(output: Any) -> Any:
    """Return the logits of one row, start and end side by side for a span."""
    if "start_logits" in output:
        return torch.stack([output["start_logits"], output["end_logits"]], -1)[0].tolist()
    return output["logits"][0].tolist()


def texts(row: dict[str, Any]) -> dict[str, str]:
    """Return the text, or the two, of a row to classify."""
    return {name: row[name] for name in ("text", "text_pair") if name in row}


def by_auto_class(name: str, folder: str, rows: Any) -> tuple[Any, list[Any]]:
    """Return the model and, for each row, its inputs as a tokenizer or training gives them."""
    model = getattr(transformers, name).from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if name == "AutoModelForSequenceClassification":
        found = [texts(row) for row in rows]
        return model, [tokenizer(*f.values(), truncation=True, return_tensors="pt") for f in found]
    return model, [given(row) for row in rows]


def by_pipeline(task: Any, folder: str, rows: Any) -> tuple[Any, list[Any]]:
    """Return the model and, for each row, its inputs as a pipeline or training gives them."""
    made = pipeline(task, model=folder, device="cpu", dtype=torch.float32)
    if task == "text-classification":
        return made.model, [made.preprocess(texts(row), truncation=True) for row in rows]
    return made.model, [given(row) for row in rows]


def given(row: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the inputs of a row as training gave them."""
    return {name: torch.tensor(values) for name, values in row["inputs"].items()}


def told(model: Any, inputs: list[Any]) -> dict[str, Any]:
    """Return the logits of each row, and the labels in order."""
    model.eval()
    continues = model.get_output_embeddings() is not None
    # With a cache, positions that begin anew do not part the texts packed into one row.
    how = {"use_cache": False} if continues else {}
    with torch.inference_mode():
        answers = [logits(model(**one, **how)) for one in inputs]
    if continues:
        answers = [answer[-1] for answer in answers]
    labels = model.config.id2label
    return {"logits": answers, "labels": [labels[index] for index in sorted(labels)]}


if __name__ == "__main__":
    folder, listing = sys.argv[1:]
    rows = json.loads(Path(listing).read_text("utf-8"))
    auto, task = ways(folder)
    answers = {auto: told(*by_auto_class(auto, folder, rows))}
    if task is not None:
        answers["pipeline"] = told(*by_pipeline(task, folder, rows))
    print(json.dumps(answers))
