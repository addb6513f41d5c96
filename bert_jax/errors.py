"""The exception for errors that a user can correct, and a helper for lists in its message."""

from collections.abc import Sequence


class UserError(Exception):
    """Bad input, described in one line: where it is, what was expected and what to do.

    The commands print the line on standard error and exit with code 2 (`bert_jax.command.run`).
    """


def some(names: Sequence[str], most: int) -> str:
    """Return the first `most` names, separated by commas, and the number of further names if there are any."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
