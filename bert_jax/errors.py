"""The one exception for what a user can put right, and lists in its one line."""

from collections.abc import Sequence


class UserError(Exception):
    """Bad input: one line saying where it is, what was expected and what to do.

    The commands print it on standard error and exit with code 2 (`bert_jax.command.run`).
    """


def some(names: Sequence[str], most: int) -> str:
    """The first `most` names, with commas between them, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
