"""The door to the hub for what is pushed: permissions, one commit, checksums, plain words.

What a repository holds is the business of `finetune.published`; models are read from the hub by
`finetune.backbones.hub`.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import AfterValidator, ConfigDict

from finetune import __version__, explain
from finetune.errors import FinetuneError, HubError, said
from finetune.schema import Value

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from finetune.recipe import Recipe
    from finetune.run import Run

T = TypeVar("T")

TRIES = 5
"""How often a call is made that fails as it would not fail later."""
FIRST_WAIT = 1.0
"""Seconds before the second try; doubled before each further one, unless the hub says how long."""
LONGEST_WAIT = 300.0
"""Seconds that the hub may ask to wait; if it asks for more, the push ends."""
PASSING = (408, 429, 500, 502, 503, 504)
"""Answers that may be others later."""


def is_name(text: str) -> bool:
    """Return whether a text has the form `user/name`, as the hub takes it."""
    part = r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?"
    return (
        re.fullmatch(f"{part}/{part}", text) is not None
        and re.search(r"--|\.\.|\.git$", text) is None
        and all(len(one) <= 96 for one in text.split("/"))
    )


def _name(text: str) -> str:
    if not is_name(text):
        raise ValueError(
            f"{explain.shown(text)} is no name of a repository on the hub. Write user/name, with "
            "letters, digits, '-', '_' and '.'."
        )
    return text


def _branch(text: str) -> str:
    if not re.fullmatch(r"\w[\w./-]*", text, re.ASCII) or ".." in text:
        raise ValueError(
            f"{explain.shown(text)} is no name of a branch. Write letters, digits, '-', '_', '.' "
            "and '/'."
        )
    return text


class Hub(Value):
    """Where the finished model is pushed to, if anywhere; nothing of it changes the training."""

    # A token given by mistake is not shown again.
    model_config = ConfigDict(hide_input_in_errors=True)

    push: Annotated[str, AfterValidator(_name)] | None = None
    """Repository on the hub, `user/name`; nothing is pushed if not given."""
    private: bool = False
    """Make the repository a private one; an existing public one is refused."""
    revision: Annotated[str, AfterValidator(_branch)] | None = None
    """Branch, made if there is none; the main one if not given."""
    adapter_only: bool = False
    """Push the LoRA adapter alone, without the merged model."""


def check(hub: Hub, recipe: Recipe) -> None:
    """Make the repository if there is none, and raise HubError unless it can be pushed to."""
    from finetune import published

    published.check(hub, recipe)
    with _door(hub, "Nothing was trained; the same command starts it.") as api:
        _patiently(lambda: _head(api, hub))
        _patiently(lambda: api.auth_check(str(hub.push), write=True))


def check_card(hub: Hub, text: str) -> None:
    """Raise HubError if the hub does not take the front matter of this model card."""
    from huggingface_hub import ModelCard

    with _door(hub, "Nothing was trained; the same command starts it."):
        _patiently(lambda: ModelCard(text).validate())


def push(run: Run, hub: Hub) -> str:
    """Push a finished run in one commit, and return the address of the repository.

    What is there already is not sent again, so that the same call finishes one that was broken off.
    The run folder is only read. Raises HubError, in plain words, for what the hub refuses.
    """
    from finetune import console, published

    further = {"private": "true" * hub.private, "revision": hub.revision or ""}
    further["adapter_only"] = "true" * hub.adapter_only
    command = shlex.join(
        ["finetune", "push", f"run={run.path}", f"repo={hub.push}"]
        + [f"{key}={value}" for key, value in further.items() if value]
    )
    again = f"The run in {run.path} is whole; when that is mended, push it with: {command}"
    published.check(hub, run.recipe)
    with published.laid_out(run, hub) as folder, _door(hub, again) as api:
        head = _patiently(lambda: _head(api, hub))
        commit = _patiently(lambda: _upload(api, hub, folder, run.recipe.name, head))
        _patiently(lambda: _verify(api, hub, folder, commit))
        address = f"{api.endpoint}/{hub.push}" + (f"/tree/{hub.revision}" * bool(hub.revision))
    told = "held all of it already" if commit == head else f"has it as commit {commit[:8]}"
    console.say(f"{address} {told}; its checksums are those of the run.")
    return address


def _head(api: HfApi, hub: Hub) -> str | None:
    """Return the commit to push onto; make the repository and the branch if there are none."""
    from huggingface_hub import errors

    repo = str(hub.push)
    try:
        info = api.model_info(repo)
    except errors.RepositoryNotFoundError:
        api.create_repo(repo, private=hub.private or None, exist_ok=True)
        info = api.model_info(repo)
    if hub.private and not info.private:
        raise HubError(
            f"{repo} is there already and everyone can read it, but a private repository is asked "
            "for. Give another name, make it private on its page, or leave out private=true."
        )
    if hub.revision is None:
        return info.sha
    api.create_branch(repo, branch=hub.revision, exist_ok=True)
    return api.model_info(repo, revision=hub.revision).sha


def _upload(api: HfApi, hub: Hub, folder: Path, name: str, head: str | None) -> str:
    """Make the repository hold what `folder` does; return its commit, a new one if files differ.

    An earlier push may have left weights of other names, which would be loaded too.
    """
    from finetune import published

    repo = str(hub.push)
    there = api.list_repo_files(repo, revision=hub.revision)
    done = api.upload_folder(
        repo_id=repo,
        folder_path=folder,
        commit_message=f"{name}, by finetune {__version__}",
        revision=hub.revision,
        parent_commit=head,
        delete_patterns=published.stale(folder, there) or None,
    )
    return str(done.oid)


def _verify(api: HfApi, hub: Hub, folder: Path, commit: str) -> None:
    """Raise HubError unless the hub has every file as it is here."""
    found = api.verify_repo_checksums(str(hub.push), revision=commit, local_dir=folder)
    wrong = [*(m["path"] for m in found.mismatches), *found.extra_paths]
    if wrong:
        raise HubError(
            f"{hub.push} does not hold {', '.join(wrong)} as pushed: the checksums differ. The "
            "same command sends what differs again."
        )


@contextmanager
def _door(hub: Hub, again: str) -> Iterator[HfApi]:
    """Yield the hub's client; whatever it raises becomes a HubError that ends in `again`."""
    from huggingface_hub import HfApi, constants, errors, get_token

    # With Xet an upload may become several commits, and a lost answer another one.
    before, constants.HF_HUB_DISABLE_XET = constants.HF_HUB_DISABLE_XET, True
    try:
        token = get_token()
        if token is None:
            raise HubError(
                "There is no token for the hub: set the environment variable HF_TOKEN, or log in "
                f"with `hf auth login`. It needs the right to write. {again}"
            )
        if not re.fullmatch(r"[\x21-\x7e]+", token):  # the client would show it in its error
            raise HubError(f"The token for the hub has characters that none has. {again}")
        yield HfApi(token=token)
    except FinetuneError:
        raise
    except (errors.HTTPError, OSError, ValueError, RuntimeError) as error:  # type: ignore[attr-defined]
        words = _explained(_cause(error), str(hub.push))
        raise HubError(f"{words} {again}") from None
    finally:
        constants.HF_HUB_DISABLE_XET = before


def _patiently(call: Callable[[], T]) -> T:
    """Return what the call returns, made again after a while where its failure may pass."""
    from finetune import console

    for tried in range(1, TRIES + 1):
        try:
            return call()
        except Exception as error:
            seconds = _wait(_cause(error), tried)
            if seconds is None or tried == TRIES:
                raise
        console.say(f"The hub failed; trying again in {seconds:g} s ({tried} of {TRIES - 1}).")
        time.sleep(seconds)
    raise AssertionError("the last try returns or raises")


def _cause(error: BaseException) -> BaseException:
    """Return the error of the hub inside one that only says which file it was."""
    return error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error


def _broken() -> tuple[type[Exception], ...]:
    """Return what is raised where a connection breaks, or its answer is none."""
    from huggingface_hub import errors

    return (errors.HTTPError, json.JSONDecodeError)  # type: ignore[attr-defined]


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _wait(error: BaseException, tried: int) -> float | None:
    """Return how many seconds to wait before the next try; None if a further one is in vain."""
    status = _status(error)
    if status is None:
        return FIRST_WAIT * 2 ** (tried - 1) if isinstance(error, _broken()) else None
    if status not in PASSING:
        return None
    seconds = max(_asked(error), FIRST_WAIT * 2 ** (tried - 1))
    return seconds if seconds <= LONGEST_WAIT else None


def _asked(error: Any) -> float:
    """Return how many seconds the hub asks to wait, 0 where it does not say."""
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    headers = error.response.headers
    limit = parse_ratelimit_headers(headers)
    reset = limit.reset_in_seconds if limit is not None and limit.remaining == 0 else 0
    after = headers.get("Retry-After", "")
    return max(float(reset), float(after) if after.isdigit() else 0.0)


def _explained(error: BaseException, repo: str) -> str:
    """Return in plain words what is wrong and what to do; no token is in it."""
    from huggingface_hub import constants, errors

    owner, status = repo.partition("/")[0], _status(error)
    known = {
        401: "The hub does not know the token (401): it is mistyped, expired or revoked. Make one "
        "with the right to write, and put it into HF_TOKEN or log in with `hf auth login`; "
        "HF_TOKEN goes before the login.",
        403: f"The token may not write to {repo} (403). Check that {owner} is your name or an "
        "organisation that you may write for, and that the token has the right to write.",
        404: f"The hub has no {repo}, or not for this token (404). Check the name; {owner} must "
        "be a user or an organisation.",
        409: f"{repo} is being changed by somebody else (409). Wait until they are done.",
        412: f"{repo} was changed by somebody else during the upload (412); nothing of theirs was "
        "overwritten. Look at what they pushed.",
    }
    if status in known:
        return known[status]
    if status == 429:
        return f"The hub takes no more for now (429); it asks to wait {_asked(error):g} s."
    if status in PASSING:
        return f"The hub failed {TRIES} times ({status}). It may be better later."
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so the hub is not asked: unset it to push."
    if status is None and isinstance(error, _broken()):
        return f"The hub at {constants.ENDPOINT} does not answer ({said(error)})."
    return f"The hub does not take it: {said(error)}"
