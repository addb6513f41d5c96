"""Upload an exported directory to the hub, as one commit."""

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bert_jax.errors import UserError

_OURS = ["conversion.json"]
"""Files that are not uploaded, as they name paths of this machine."""


class Pushed(NamedTuple):
    """The result of an upload: the repository's address, and the commit."""

    url: str
    commit: str


def check(repository: str) -> None:
    """Raise `UserError` if a repository's name is malformed, HF_HUB_OFFLINE is set, or the hub's token is missing."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except ValueError:
        good = False
    else:
        good = re.fullmatch(r"[^/]+/[^/]+", repository) is not None
    if not good:
        raise UserError(f"--push-to is {repository!r}; expected a hub id ORG/NAME of letters, digits, - _ and .")
    if constants.HF_HUB_OFFLINE:
        raise UserError("--push-to needs the hub, and HF_HUB_OFFLINE says to stay offline; unset it")
    official = constants.ENDPOINT.endswith("huggingface.co")  # others may need no token, and raise an error if they do
    if official and not get_token():
        raise UserError("--push-to needs a token that may write; run `hf auth login`, or set HF_TOKEN")


def push(directory: Path, repository: str, *, private: bool) -> Pushed:
    """Make the repository if it does not exist, and upload the directory's files to it.

    Raises `UserError` if the hub refuses, or if `private` is true and the repository exists and is public.
    """
    from huggingface_hub import HfApi, get_token

    api = HfApi(token=get_token() or False)
    try:
        with _quietly():
            url = api.create_repo(repository, private=private or None, exist_ok=True)
            if private and not api.repo_info(repository).private:
                raise UserError("it is there, and public; make it private on the hub, or leave out --private")
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=directory,
                commit_message="Export from bert_jax",
                ignore_patterns=_OURS,
            )
    except Exception as error:  # the library raises many kinds of errors, all caused by the hub or the user
        raise UserError(f"{directory} is written, but {repository} did not take it: {_reason(error)}") from None
    return Pushed(str(url), str(commit.oid))


@contextmanager
def _quietly() -> Iterator[None]:
    """Make the hub's library print nothing but errors, and progress bars only to a terminal."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

    level, hides_bars = logging.get_verbosity(), not (sys.stderr.isatty() or are_progress_bars_disabled())
    logging.set_verbosity_error()
    with warnings.catch_warnings(action="ignore"):  # the library warns if HF_HUB_DISABLE_PROGRESS_BARS is set
        disable_progress_bars() if hides_bars else None
        try:
            yield
        finally:
            enable_progress_bars() if hides_bars else None
            logging.set_verbosity(level)


def _reason(error: BaseException) -> str:
    """Return the first line of an error, the server's message about it, and the reason of the error that caused it."""
    first_line = str(error).strip().split("\n")[0] or type(error).__name__
    message = getattr(error, "server_message", None)
    parts = [first_line.rstrip(".: "), " ".join(message.split()) if message and message not in first_line else ""]
    if error.__cause__ is not None:
        parts.append(_reason(error.__cause__))
    return ": ".join(part for part in parts if part)
