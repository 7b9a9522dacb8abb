"""The door to transformers: its language models as backbones, for every form of head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt

from finetune.backbones import transformers_source as sources
from finetune.backbones.timm_source import alike, public
from finetune.backbones.transformers_source import SHIPPED
from finetune.errors import BackboneError
from finetune.protocols import ROW, Form
from finetune.schema import Noun

if TYPE_CHECKING:
    from finetune.backbones.transformers_network import TransformersNetwork


class Transformers(Noun):
    """A language model by hub id, from a folder in transformers' form, or `minilm`."""

    kind: Literal["transformers"] = "transformers"
    name: str
    """`bert-base-uncased`, `user/name`, a folder, or `minilm` (the extra `finetune[minilm]`)."""
    weights: str = "pretrained"
    """`pretrained`, `none` (random), or a folder or .safetensors file in transformers' form."""
    revision: str | None = None
    """Branch, tag or commit on the hub; the newest if not given. The commit is recorded."""
    head: Literal["auto", "fresh", "keep"] = "auto"
    """`auto` keeps the head of a model that predicts exactly the data's classes."""
    max_length: PositiveInt | None = None
    """Tokens of a sample at most; what the model takes if not given, but no more than 1,024."""
    pooling: Literal["auto", "cls", "mean", "last"] = "auto"
    """How a row of tokens becomes one vector: `auto` is what the native head reads, and for a
    linear head on a sentence encoder the mean. `mean` builds it into the head from the start."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Every rate of dropout while training; those of the model's configuration if not given."""
    quantization: Literal["none", "4bit"] = "none"
    """`4bit` holds frozen weights in NF4 (QLoRA, Dettmers et al. 2023, arXiv:2305.14314)."""
    args: dict[str, Any] = {}
    """Further fields of the model's configuration by their own names."""
    trust_remote_code: bool = False
    """Run the Python code that comes with a model. Only for authors whom you trust."""

    @classmethod
    def from_text(cls, text: str) -> dict[str, Any] | None:
        """Claim `minilm`, hub ids (`user/name`, or a bare name with a dash), and folders in
        transformers' form.
        """
        return {"name": text} if sources.claims(text) else None

    def build(
        self, num_outputs: int, classes: tuple[str, ...] | None = None, form: Form = ROW
    ) -> TransformersNetwork:
        """Return the model with a head of the task's form; it is fresh unless `head` keeps it.

        Raises BackboneError if the model, its weights or its tokenizer cannot be had, if the family
        has no such head, or if the task does not read texts.
        """
        from finetune.backbones.transformers_model import assembled

        if form.reading is None:
            sure = "/" in self.name or self.name in (*SHIPPED, *sources.BARE)
            raise BackboneError(
                f"{self.public_name!r} is taken for a language model, as timm has none of that "
                f"name, and this task does not read texts.{'' if sure else alike(self.name)} "
                "For images give a timm model, such as backbone=tiny-vit."
            )
        source = sources.resolve(
            self.name, self.weights, self.revision, code=self.trust_remote_code
        )
        return assembled(self, source, num_outputs, classes, form)

    def without_weights(self) -> Transformers:
        """Return the same model with random weights, for what needs its shape alone.

        Raises BackboneError if `weights` names a file that cannot be used.
        """
        if self.weights != "pretrained":
            sources.given(self.weights)
        changed = {"weights": "none", "head": "fresh", "quantization": "none"}
        return self.model_copy(update=changed)

    def saved(self, folder: Path) -> Transformers:
        """Return the backbone that `TransformersNetwork.save` wrote into `folder`, with its head.

        Its head pools as the one that was trained.
        """
        return Transformers(
            name=str(folder.resolve()),
            head="keep",
            max_length=self.max_length,
            trust_remote_code=self.trust_remote_code,
        )

    @property
    def public_name(self) -> str:
        """The name without any local path in it."""
        if self.name in SHIPPED:
            return SHIPPED[self.name][1]
        path = Path(self.name).expanduser()
        return public(path) if path.is_dir() else self.name
