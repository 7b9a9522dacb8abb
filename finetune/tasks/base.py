"""What tasks share: each names a target, which does the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from finetune.protocols import ROW, Form
from finetune.schema import Noun

if TYPE_CHECKING:
    from collections.abc import Mapping

    from finetune.protocols import Splits, Target


class BaseTask(Noun, ABC):
    """A task: the columns that it reads, and what of them is predicted."""

    predicts: ClassVar[str]
    """The class of `finetune.targets` for what is predicted."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The columns that this task reads."""

    @property
    def form(self) -> Form:
        """One output for each row."""
        return ROW

    @property
    def options(self) -> dict[str, Any]:
        """Fields of the target that the recipe gives, not the data."""
        return {}

    def bind(self, splits: Splits, train: Any) -> Target:
        """Return what is predicted; raise DataError where it cannot be learned from `splits`."""
        target: Target = self._target().of(splits, train, **self.options)
        return target

    def recall(self, saved: Mapping[str, Any]) -> Target:
        """Return the target that a finished run was trained on."""
        target: Target = self._target()(**saved)
        return target

    def _target(self) -> Any:
        from finetune import targets  # which imports torch

        return getattr(targets, self.predicts)
