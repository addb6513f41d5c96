"""Packages that only a part of the project needs: the extras of pyproject.toml, and an error where they are missing."""

import importlib.metadata

from bert_jax.errors import UserError

_CONVERT = ("huggingface_hub", "optax", "rich")
_PARQUET = ("pandas", "pyarrow")

EXTRAS = {
    "convert": _CONVERT,
    "parquet": _PARQUET,
    "tensorboard": ("tensorboardX",),
    "train": (*_CONVERT, *_PARQUET, "datasets", "jinja2", "matplotlib", "orbax-checkpoint"),
}
"""The packages of each extra, as pip names them. A test compares them with pyproject.toml."""

_OF_THE_WHEEL = ("parquet",)
"""Extras of the library; the others are for what only a clone has."""


def check(extra: str, what: str) -> None:
    """Raise `UserError` if packages of `extra`, which `what` needs, are not installed."""
    missing = [name for name in EXTRAS[extra] if not _is_installed(name)]
    if missing:
        source = f"'bert_jax[{extra}]'" if extra in _OF_THE_WHEEL else f"-e '.[{extra}]'"
        raise UserError(f"{what} needs {', '.join(sorted(missing))}; run: pip install {source}")


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
