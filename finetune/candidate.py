"""A backbone that is being ranked: its frozen features of ever more rows, and what they tell."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from finetune import build, environment, estimate, extraction, kept
from finetune.errors import FinetuneError
from finetune.freezing import digest
from finetune.probes import Known, LinearProbe, worth
from finetune.protocols import Array, Source, Split, Splits
from finetune.recipe import Recipe
from finetune.targets.base import RowTarget

TIMED = 128
"""Rows on which the speed is measured."""

Facts = dict[str, Any]


class Candidate:
    """One backbone, and what it makes of the rows that it has seen so far."""

    def __init__(self, name: str, recipe: Recipe, splits: Splits, target: RowTarget) -> None:
        self.name, self.recipe, self.splits, self.target = name, recipe, splits, target
        self.device = environment.device()
        self.precision = environment.precision(recipe.train.precision)
        self.network = build.untrained(recipe, target)
        self.network.tune_for(self.device, self.precision)
        self.weights = extraction.weights(self.network)
        self.known: dict[Split, Known] = {}
        self.facts: Facts = {}
        self.answers: Array = np.zeros(0)
        """The linear probe's on the validation rows seen so far."""

    @property
    def worth(self) -> float:
        """The metric that chooses, of the linear probe on validation; more is better."""
        return worth(self.target, self.answers, self.known["validation"].truth)

    def read(self, rows: Mapping[Split, Array]) -> None:
        """See these rows of each split too, and fit the linear probe again on all."""
        some = {split: own for split, own in rows.items() if len(own)}
        tables: dict[str, Any] = {s: self.splits[s].select(own.tolist()) for s, own in some.items()}
        part = replace(self.splits, **tables, left_out={})
        sources, part = build.open_splits(self.recipe, self.network, part, [*some], augmented=False)
        self.facts = self.facts or self._measured(sources["train"])
        for split, source in sources.items():
            key = {
                "inputs": repr(self.network.inputs),
                "data": self.splits.fingerprint,
                "split": split,
                "rows": digest(torch.from_numpy(some[split])),
                "weights": self.weights,
            }
            features = extraction.extract(self.network, source, self._folder, key, **self._how)
            truth = self.target.encode(part[split])
            if before := self.known.get(split):
                features = np.concatenate([before.features, features])
                truth = np.concatenate([before.truth, truth])
            self.known[split] = Known(features, truth)
        self.network.module.cpu()
        known = self.known["train"], self.known["validation"]
        self.answers = LinearProbe.fit(self.target, *known, self.device).predict(known[1].features)

    @property
    def _how(self) -> dict[str, Any]:
        size = self.recipe.train.eval_batch_size
        return {"batch_size": size, "device": self.device, "precision": self.precision}

    @property
    def _folder(self) -> Any:
        return build.cache_folder() / "features"

    def _measured(self, source: Source) -> Facts:
        """Return size, speed and memory; measured once and kept, as features are."""
        key = {
            "recipe": self.recipe.digest,
            "weights": self.weights,
            "device": str(self.device),
            "precision": self.precision,
            "threads": torch.get_num_threads(),
        }
        with kept.held(self._folder, "facts", key) as path:
            if path.exists():
                facts: Facts = json.loads(path.read_text("utf-8"))
                return facts
            rows = min(TIMED, len(source))
            extraction.compute(self.network, source, min(8, rows), **self._how)  # the first is slow
            began = time.perf_counter()
            extraction.compute(self.network, source, rows, **self._how)
            facts = {
                "parameters": sum(p.numel() for p in self.network.module.parameters()),
                "features_per_second": rows / (time.perf_counter() - began),
                "training_memory_bytes": self._training_memory(),
            }
            with kept.written_aside(path) as aside:
                aside.write_text(json.dumps(facts), "utf-8")
        return facts

    def _training_memory(self) -> int | None:
        """Return what training as the recipe says takes at its peak, by estimate."""
        recipe, train = self.recipe, self.recipe.train
        backbone: Any = recipe.backbone
        try:
            if hasattr(backbone, "without_weights"):
                backbone = backbone.without_weights()
            with torch.device("meta"):
                outputs, classes = self.target.num_outputs, self.target.classes
                network = backbone.build(outputs, classes, recipe.task.form)
                network.tune_for(self.device, self.precision)
                module = recipe.method.prepare(network)
            parts = estimate.memory(
                module,
                network,
                train,
                recipe.method.lr_scales(network),
                device=self.device,
                precision=self.precision,
                batch_size=min(train.micro_batch_size or train.batch_size, train.batch_size),
                descends=recipe.method.descends,
            )
        except FinetuneError:
            return None
        known = [size for size in parts.values() if size is not None]
        return sum(known) if len(known) == len(parts) else None
