"""The argument parser, the options and the error handling that the commands of the project share."""

import argparse
import difflib
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from bert_jax.config import PRECISIONS
from bert_jax.errors import UserError

PRODUCTS: dict[str, dict[str, Any]] = {
    "--dtype": {
        "choices": ("float32", "bfloat16"),
        "default": "float32",
        "help": "what products compute in",
    },
    "--precision": {
        "choices": PRECISIONS,
        "default": "highest",
        "help": "how exactly float32 is multiplied on GPU and TPU",
    },
}
"""Options of matrix products that several commands share: keyword arguments of `add_argument`, by option."""

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
"""Hub id of the demo's checkpoint: the default of `python -m train --model`, and the example of a hub id."""

_WIDTH = 80
"""Maximum number of columns of help; longer lines are hard to read on a terminal of any width."""

_DONE, _WRONG = "0 done", "2 something given is wrong or missing (one line on standard error says what)"


class _Formatter(argparse.HelpFormatter):
    """A formatter that shows all informative defaults, in lines of at most 80 columns."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=26, width=min(_WIDTH, shutil.get_terminal_size().columns) - 2)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        choices = f": {', '.join(map(str, action.choices or ()))}" if _has_many_choices(action) else ""
        if any(action.default is unset for unset in (None, False, (), argparse.SUPPRESS)):
            return f"{action.help}{choices}"
        return f"{action.help}{choices} (default: %(default)s)"

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str) -> Callable[[int], tuple[str, ...]]:
        if _has_many_choices(action):
            return lambda size: ("NAME",) * size
        return super()._metavar_formatter(action, default_metavar)


def _has_many_choices(action: argparse.Action) -> bool:
    """Return whether the choices take more than half of a line; if so, they are listed in the help's text."""
    return action.metavar is None and len(",".join(map(str, action.choices or ()))) > _WIDTH // 2


class Parser(argparse.ArgumentParser):
    """An argparse parser without abbreviations; its errors are one line (`UserError`) and suggest what was meant.

    `epilog` is printed with its line breaks. The exit codes follow: 0, 2, and 1 if `exit_1` says what it means.
    """

    def __init__(self, *, epilog: str | None = None, exit_1: str | None = None, **options: Any):
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, **options)
        codes = [_DONE, f"1 {exit_1}" if exit_1 else "", _WRONG]
        self._last = "\n".join([*([epilog, ""] if epilog else []), "exit codes:", *(f"  {c}" for c in codes if c)])

    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the options; raise `UserError` for the first unknown option, even if required options are missing."""
        arguments = sys.argv[1:] if args is None else list(args)
        for argument in arguments[: arguments.index("--")] if "--" in arguments else arguments:
            name = argument.partition("=")[0]
            if re.fullmatch(r"--?[A-Za-z]\S*", argument) and name not in self._option_string_actions:
                suggestion = nearest(name, (o for o in self._option_string_actions if o.startswith("--")))
                raise UserError(f"unknown option {name}; {_did_you_mean(suggestion) or f'see `{self.prog} --help`'}")
        return super().parse_args(arguments, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None:
            name = action.option_strings[-1] if action.option_strings else str(action.metavar or action.dest)
            check_choice(name, value, action.choices)

    def format_help(self) -> str:
        """Return help like a manual page: usage in a line, description, options by group, examples, exit codes."""
        formatter = self._get_formatter()
        formatter.add_usage(f"%(prog)s {' '.join(self._synopsis())}", self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        for group in self._action_groups:
            formatter.start_section(group.title)
            formatter.add_text(group.description)
            formatter.add_arguments(group._group_actions)
            formatter.end_section()
        return f"{formatter.format_help()}\n{self._last}\n"

    def _synopsis(self) -> Iterable[str]:
        yield "[OPTION ...]"
        for action in self._actions:
            metavar = str(action.metavar or action.dest.upper())
            if action.option_strings and action.required:
                yield f"{action.option_strings[-1]} {metavar}"
            elif not action.option_strings:
                yield f"[{metavar} ...]" if action.nargs == "*" else metavar

    def error(self, message: str) -> NoReturn:
        """Raise `UserError` instead of printing the usage and exiting."""
        raise UserError(f"{message}; see `{self.prog} --help`")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that `word` probably means, or None.

    It is the shortest known word that begins with `word`, if `word` has more than two characters. Otherwise it is the
    most similar one.
    """

    def plain(text: str) -> str:
        return text.lstrip("-").replace("_", "-").lower()

    names = {plain(name): name for name in known}
    prefixed = sorted((name for name in names if len(plain(word)) > 2 and name.startswith(plain(word))), key=len)
    matches = prefixed[:1] or difflib.get_close_matches(plain(word), names, n=1, cutoff=0.7)
    return names[matches[0]] if matches else None


def _did_you_mean(suggestion: str | None) -> str:
    return f"did you mean {suggestion}?" if suggestion else ""


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raise `UserError`, with a suggested choice, if `value` is not one of the choices of option `name`."""
    choices = tuple(choices)
    if value in choices:
        return
    hint = _did_you_mean(nearest(str(value), map(str, choices)))
    expected = ", ".join(map(str, choices))
    raise UserError(f"{name} is {value!r}; expected one of {expected}{hint and f'; {hint}'}")


def label_names(text: str) -> tuple[str, ...]:
    """Return the names in a text like `negative,positive`; raise `UserError` if a name is empty or repeated."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) != len(names):
        raise UserError(f"--labels is {text!r}; expected names that differ, like negative,positive")
    return names


def printable(text: str) -> str:
    """Return `text` with control characters escaped, so that data cannot control the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call `main` and exit with its code.

    `UserError` becomes one line on standard error and exit code 2, and so does JAX's error on a processor without AVX.
    As a shell expects, the exit code is 130 after Ctrl-C, and 141 if the reader of standard output goes away (SIGPIPE).
    The latter ends the command without a message. A Python warning becomes one line, too.
    """
    warnings.formatwarning = lambda message, *_: f"warning: {printable(str(message))}\n"
    try:
        code = main() or 0
        sys.stdout.flush() if sys.stdout else None
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        code = 2
    except RuntimeError as error:
        if "jaxlib was built using" not in str(error):
            raise
        print("error: this processor lacks AVX, which JAX needs: jaxlib is built for it", file=sys.stderr)
        code = 2
    except BrokenPipeError:
        # The interpreter flushes stdout at exit and would complain about the same pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 141
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
