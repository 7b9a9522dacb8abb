"""The hub's data sets, by id or as a folder in the hub's layout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finetune.data import card
from finetune.data.base import ColumnSource, Raw
from finetune.data.paths import claimant, existing, is_hub_id, similar
from finetune.data.switches import nothing_fetched, quiet
from finetune.errors import DataError, listed, nearest, said
from finetune.waiting import within

if TYPE_CHECKING:
    from datasets import Dataset

_SECONDS = 7.0
"""How long the hub may take to answer at all."""


class HubData(ColumnSource):
    """A data set of the Hugging Face Hub, or a local folder laid out like one."""

    kind: Literal["hub"] = "hub"
    path: str
    """An id such as `uoft-cs/cifar10`, or a folder with parquet, arrow or csv files and a card."""
    config: str | None = None
    """The configuration, where the data set has several."""
    revision: str | None = None
    """Branch, tag or commit on the hub; of a folder it is not asked."""

    @classmethod
    def from_text(cls, text: str) -> dict[str, Any] | None:
        """Return the fields for an id `org/name`, or for a folder with parquet or arrow files."""
        return {"path": text} if claimant(text) == "hub" else None

    def read(self) -> Raw:
        """Return the data set's splits.

        Raises DataError if there is no such data set, folder, configuration or revision, and
        within 10 seconds if the hub cannot be reached and the data set is not in the cache.
        """
        if is_hub_id(self.path) and not Path(self.path).exists():
            tables, source, notes = self._from_hub()
            return Raw(tables, source, notes, self.mapping(), self.label_separator)
        folder = existing(self.path).resolve()
        if not folder.is_dir():
            raise DataError(f"{self.path} is a file: give data.kind=table data.path={self.path}.")
        with quiet():
            tables = self._load(str(folder))
        source = {"name": folder.name, **card.facts(folder)}
        return Raw(tables, source, (), self.mapping(), self.label_separator, folder)

    def _from_hub(self) -> tuple[dict[str, Dataset], dict[str, Any], tuple[str, ...]]:
        """Return splits, source and notes, from the hub or, where it is silent, from the cache."""
        from huggingface_hub import HfApi, errors

        try:
            info = within(_SECONDS, lambda: HfApi().dataset_info(self.path, revision=self.revision))
        except errors.RevisionNotFoundError:
            raise DataError(
                f"{self.path} has no revision {self.revision!r}. Leave data.revision out for the "
                "newest, or give a branch, tag or commit that the hub shows."
            ) from None
        except errors.GatedRepoError:
            raise DataError(
                f"{self.path} asks for consent: accept its terms on its page of the hub, log in "
                "with `hf auth login`, and run the same command again."
            ) from None
        except errors.RepositoryNotFoundError:
            raise DataError(
                f"The hub has no data set {self.path}, or it is private{similar(self.path)}. Check "
                "the name, log in with `hf auth login` if it is yours, or give a folder."
            ) from None
        except Exception as error:  # whatever kept the hub from answering, the cache may do
            return self._from_cache(error)
        tables = self._load(self.path, info.sha)
        if (revision := _revision(tables)) not in (None, info.sha):
            # datasets takes what it has when a download fails.
            raise DataError(
                f"{self.path} could not be loaded from the hub at revision {info.sha}, only from "
                f"the cache as of {revision}. Try again, or give data.revision={revision}."
            )
        source = {"id": self.path, "revision": info.sha, **card.chosen(info.card_data or {})}
        return tables, source, ()

    def _from_cache(
        self, reason: Exception
    ) -> tuple[dict[str, Dataset], dict[str, Any], tuple[str, ...]]:
        from huggingface_hub import constants

        try:
            with quiet(), nothing_fetched():
                tables = self._load(self.path)
        except DataError:
            raise DataError(
                f"The hub at {constants.ENDPOINT} cannot be reached ({_first_line(reason)}), and "
                f"{self.path} is not in the cache. Three ways lead on: connect and run the same "
                "command again; give data=FOLDER, a folder with the data; or begin with "
                "recipe=vit-digits, which needs no network."
            ) from None
        revision = _revision(tables)
        if self.revision is not None and self.revision != revision:
            raise DataError(
                f"The hub at {constants.ENDPOINT} cannot be reached, and the cache has {self.path} "
                f"at revision {revision}, not {self.revision}. Connect, or give "
                f"data.revision={revision}."
            )
        note = f"The hub cannot be reached: {self.path} is read from the cache, as of {revision}."
        return tables, {"id": self.path, "revision": revision}, (note,)

    def _load(self, path: str, revision: str | None = None) -> dict[str, Dataset]:
        """Return all splits through `datasets.load_dataset`; raise DataError with its reason."""
        import datasets

        try:
            # The sizes that a card gives are often those of another copy.
            tables = datasets.load_dataset(
                path, self.config, revision=revision, verification_mode="no_checks"
            )
        except Exception as error:  # its builders raise of every kind
            names = _configs(path, revision)
            if self.config not in names and (self.config or len(names) > 1):
                raise DataError(
                    f"data.config={self.config}: the configurations of {self.path} are "
                    f"{listed(names)}. Name one.{nearest(self.config or '', names)}"
                ) from None
            raise DataError(f"{self.path} cannot be loaded: {_first_line(error)}") from error
        return dict(tables)


def _configs(path: str, revision: str | None) -> list[str]:
    import datasets

    try:
        return list(datasets.get_dataset_config_names(path, revision=revision))
    except Exception:  # then there are none to choose from
        return []


def _revision(tables: dict[str, Dataset]) -> str | None:
    """Return the commit that tables of the hub are of: datasets keeps each in a folder so named."""
    files = next(iter(tables.values())).cache_files
    return Path(files[0]["filename"]).parent.name if files else None


def _first_line(error: Exception) -> str:
    if type(error).__name__ == "OfflineModeIsEnabled":
        return "offline mode"
    return said(error)
