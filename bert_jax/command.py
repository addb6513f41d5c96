"""What every command line of the project shares: its parser and its way to fail."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from bert_jax.errors import UserError


class _Formatter(argparse.HelpFormatter):
    """Shows defaults, but for those that say nothing."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if any(action.default is nothing for nothing in (None, False, (), argparse.SUPPRESS)):
            return action.help
        return f"{action.help} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """An argparse parser without abbreviations whose errors are one line (`UserError`)."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, **options)

    def error(self, message: str) -> NoReturn:
        """Raise `UserError` instead of printing the usage and exiting."""
        raise UserError(f"{message}; see `{self.prog} --help`")


def printable(text: str) -> str:
    """`text` with control characters escaped, so that data cannot drive the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call `main` and exit with its code.

    `UserError` becomes one line on standard error and exit code 2. A reader that went away
    (SIGPIPE) ends the command quietly with code 141, Ctrl-C with code 130, as a shell expects.
    """
    try:
        code = main() or 0
        sys.stdout.flush() if sys.stdout else None
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        code = 2
    except BrokenPipeError:
        # The interpreter flushes stdout at exit and would complain about the same pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 141
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
