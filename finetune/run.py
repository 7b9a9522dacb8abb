"""A finished run: its recipe, its numbers, and its model, read from the run folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune import hub, override, published, summary
from finetune.data.paths import similar
from finetune.errors import RunError, said
from finetune.hub import Hub, is_name
from finetune.methods import lora
from finetune.recipe import Recipe

if TYPE_CHECKING:
    from finetune.protocols import Network, Target


@dataclass(frozen=True)
class Run:
    """What a run folder holds."""

    path: Path
    recipe: Recipe
    result: dict[str, Any]

    @classmethod
    def load(cls, path: str | Path, recipe: Recipe | None = None) -> Run:
        """Read a run folder, or what was pushed as `user/name` or `user/name@revision`.

        `recipe` is needed where it holds objects that YAML cannot. Raises RunError if it is no run
        folder, or its run is not finished or damaged, BackboneError if the hub does not have it.
        """
        folder = Path(path)
        # A path such as runs/photos looks like a name on the hub: `runs` being here tells.
        remote = is_name(str(path).partition("@")[0]) and not folder.parent.is_dir()
        if remote:
            folder = published.fetch(str(path))
        if not (folder / "recipe.yaml").is_file():
            hint = "" if folder.is_dir() else similar(str(folder))
            raise RunError(f"{folder} is no run folder: there is no recipe.yaml in it{hint or '.'}")
        if not (folder / "result.json").is_file():
            raise RunError(
                f"The run in {folder} is not finished. Go on with: finetune finetune "
                f"recipe={folder} output={folder}"
            )
        try:
            if recipe is None:
                recipe = Recipe.from_yaml((folder / "recipe.yaml").read_text("utf-8"))
                recipe = published.without_trust(recipe) if remote else recipe
            return cls(folder, recipe, json.loads((folder / "result.json").read_text("utf-8")))
        except ValueError as error:  # neither text nor JSON
            raise RunError(
                f"The run in {folder} is damaged: its recipe.yaml or result.json cannot be read "
                f"({said(error)}). Take a copy of it, or run its recipe again into another folder."
            ) from None

    @property
    def metrics(self) -> dict[str, float]:
        """The test metrics by name, without their intervals."""
        return {
            name: figure["value"]
            for name, figure in self.result["test"].items()
            if name != "per_class"
        }

    @property
    def pushed(self) -> bool:
        """Whether this is what was pushed: its folder is the cache's, and not to be written to."""
        return not (self.path / "model").is_dir()

    @property
    def model(self) -> Path:
        """The folder of the saved model; in what was pushed, it lies at the root."""
        return self.path if self.pushed else self.path / "model"

    def target(self) -> Target:
        """Return what the run predicts."""
        return self.recipe.task.recall(self.result["target"])

    def network(self) -> Network:
        """Return the saved model."""
        target = self.target()
        if (self.model / published.ADAPTER).is_file():  # pushed alone: the base is elsewhere
            form = self.recipe.task.form
            network = self.recipe.backbone.build(target.num_outputs, target.classes, form)
            network.module = lora.merged(network.module, self.model)
            return network
        saved = self.recipe.backbone.saved(self.model)
        return saved.build(target.num_outputs, target.classes, self.recipe.task.form)

    def predict(self, inputs: Any, top_k: int = 5) -> list[dict[str, Any]]:
        """Return one dict for each input, in order, with "input", "error" and what the task tells.

        For classification that is "label", "probability" and "top", the `top_k` likeliest; for
        multi-label "labels" and "top"; for regression "value"; for tags "entities"; for questions
        "text", "start", "end", "score" and "top"; for a text made from a text "text"; for language
        models "perplexity" and "tokens" of what was given. `inputs` is a path or pattern as for
        `finetune predict`, or paths, the bytes of files, or Pillow images; of texts also a text
        that is no path, or strings, or dicts with the task's columns. What cannot be read gets its
        reason as "error"; DataError is raised where a path or pattern leads to nothing.
        """
        from finetune import predictions

        return list(predictions.answers(self, predictions.rows_of(self, inputs), top_k))

    def evaluate(self, data: Any = None) -> dict[str, Any]:
        """Return the metrics with intervals on the test split, or on other data, and record a look.

        `data` is what `data=` takes, or a data object; where it has one split only, all its rows
        count. Raises DataError for rows that cannot be used.
        """
        from finetune import evaluation

        return evaluation.measure(self, data).scores

    def push(
        self,
        repo: str,
        private: bool = False,
        revision: str | None = None,
        adapter_only: bool = False,
    ) -> str:
        """Push the model, its card and its result to the hub in one commit; return the address.

        `revision` is a branch. The same call finishes a push that was broken off. Raises
        RecipeError for a name that the hub does not take, HubError for what it refuses.
        """
        given = {"push": repo, "private": private, "revision": revision}
        return hub.push(self, override.build(Hub, given | {"adapter_only": adapter_only}))

    def export(self, format: str, output: str | Path | None = None, **options: Any) -> Path:
        """Write the run as a folder, "onnx" or "merged", and return its path.

        `options` are those of `finetune.export.export`, which says what is raised.
        """
        from finetune import export

        return export.export(self, format, output, **options)

    def show(self) -> None:
        """Print the result as a table."""
        summary.show(self.result, self.path)
