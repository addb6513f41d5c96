"""Render report.html, a single file that shows a run or an evaluation to a person."""

import dataclasses
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bert_jax import __version__
from bert_jax.command import printable
from bert_jax.errors import UserError
from bert_jax.scores import HALF, scores_of

from ..config import HOSTS, IN_MEMORY, TrainConfig, parse
from ..metrics import METRICS, WORDS, Metrics
from ..options import flag
from ..rows import Split
from ..tasks import TASKS
from . import plots
from .console import shown
from .statistics import Calibration, absent, calibration, intervals, worst

_OF_HOSTS = {one.name for one in dataclasses.fields(TrainConfig) if one.metadata["group"] == HOSTS}
"""Options that only the command line takes."""

_SHORT = 300
"""Number of characters of a text that the page shows at first. The page hides the rest until it is opened."""


class Measured(NamedTuple):
    """A split with the logits and targets of its texts, and the metrics computed from them."""

    split: Split
    logits: np.ndarray
    targets: np.ndarray
    metrics: Metrics

    @property
    def threshold(self) -> float:
        """Probability from which the metrics count a label as predicted, for tasks that have a threshold."""
        return self.metrics.get("threshold", HALF)

    def intervals(self, task: str) -> dict[str, tuple[float, float]]:
        """Return the 95% confidence intervals of the metrics (`statistics.intervals`)."""
        return intervals(task, self.logits, self.targets, threshold=self.threshold)


class Subject(NamedTuple):
    """Content of a page, apart from the results. `facts`, `speed` and `hashes` are names and values to print.

    `task` is the name of the task. `log` has the lines of metrics.jsonl. `options` are the options of a run that the
    page shows. `metric` is the metric that chose the model of the run.
    """

    title: str
    subtitle: str
    task: str
    labels: Sequence[str]
    facts: Mapping[str, str]
    command: str
    log: Sequence[Mapping[str, Any]] = ()
    metric: str | None = None
    speed: Mapping[str, str] = {}
    options: Mapping[str, str] = {}
    hashes: Mapping[str, str] = {}


def changed(config: TrainConfig) -> dict[str, Any]:
    """Return the options of a run that differ from their defaults, without `restart`, in the order of the help."""
    options = {option.name: option.default for option in dataclasses.fields(TrainConfig) if option.name != "restart"}
    return {name: getattr(config, name) for name, default in options.items() if getattr(config, name) != default}


def command_of(config: TrainConfig) -> str:
    """Return the command line of a run, or the call from Python.

    The call is returned for data in memory, and for options that no command line can give.
    """
    changed_options = changed(config)
    argv = ["python", "-m", "train"]
    for name, value in changed_options.items():
        argument = ",".join(value) if isinstance(value, tuple) else str(value)
        if value is True:
            argv.append(flag(name))
        elif argument.startswith("-"):
            argv.append(f"{flag(name)}={argument}")
        else:
            argv += [flag(name), argument]
    in_memory, of_hosts = config.data == IN_MEMORY, any(name in changed_options for name in _OF_HOSTS)
    if not in_memory and (of_hosts or _gives(argv, config)):
        return as_shell(argv)
    options = "".join(f", {name}={value!r}" for name, value in changed_options.items() if name != "data")
    data, note = ("data", "data: the tables it was given") if in_memory else (repr(config.data), "no command says this")
    return f"from train import fine_tune\n\nfine_tune({data}{options})  # {note}"


def as_shell(words: Sequence[str]) -> str:
    """Return a command quoted for a shell.

    A command with unprintable characters is escaped, with a remark that it cannot be copied from a page.
    """
    is_printable = all(map(str.isprintable, words))
    return (
        shlex.join(words)
        if is_printable
        else f"{printable(shlex.join(words))}  # escaped: it cannot be copied from here"
    )


def _gives(argv: Sequence[str], config: TrainConfig) -> bool:
    """Return whether a command line that is copied from a page gives the options in `config`."""
    try:
        return all(map(str.isprintable, argv)) and parse([*argv[3:]]) == dataclasses.replace(config, restart=False)
    except (UserError, ValueError):
        return False


Intervals = Mapping[str, Mapping[str, tuple[float, float]]]


def mistakes(subject: Subject, one: Measured, count: int) -> list[str]:
    """Return the worst mistakes, at most `count`, one line each."""
    errors = [_error(subject, one, i) for i in worst(subject.task, one.logits, one.targets, count, one.threshold)]
    return [
        f"{error['place']}: {error['true']}, predicted {error['predicted']} ({error['score']}): "
        f"{textwrap.shorten(error['text'], 100, placeholder='…')}"
        for error in errors
    ]


def render(subject: Subject, measured: Mapping[str, Measured], sure: Intervals) -> str:
    """Return the HTML of the page.

    `measured` maps the name of each split to its results. The page shows the last split in most detail. `sure` maps the
    names to the confidence intervals that `Measured.intervals` returns.
    """
    import jinja2

    task, names = subject.task, METRICS[subject.task]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    last_name, last_result = list(measured.items())[-1]
    splits = [
        {
            "name": name,
            "examples": f"{result.metrics['examples']:,}",
            "figures": [(f"{result.metrics[figure]:.4f}", _interval(sure[name][figure])) for figure in names],
        }
        for name, result in measured.items()
    ]
    headline = [
        {
            "name": f"{WORDS[figure]} on {last_name}",
            "value": f"{last_result.metrics[figure]:.3f}",
            "interval": _interval(sure[last_name][figure], 3),
        }
        for figure in names[:3]
    ]
    bins = calibration(task, last_result.logits, last_result.targets)
    metric = subject.metric or names[0]
    f1 = last_result.metrics.get("f1")
    text = environment.get_template("page.html").render(
        title=subject.title,
        subtitle=subject.subtitle,
        headline=headline,
        facts=subject.facts,
        figures=[WORDS[name] for name in names],
        splits=splits,
        chosen=subject.metric is not None,
        f1=[(name, shown(value)) for name, value in zip(subject.labels, f1, strict=True)] if f1 else None,
        threshold=last_result.metrics.get("threshold"),
        absent={name: remark for name, result in measured.items() if (remark := _absent(subject, result))},
        last=last_name,
        curves=plots.drawn(plots.curves, subject.log, metric, WORDS[metric]),
        plots=plots.drawn(_plots, subject, last_result, bins),
        calibration=bins
        and f"Expected calibration error {bins.error:.4f}: how far stated probabilities are from "
        "how often they came true, on average.",
        wording=TASKS[task].wording,
        errors=[
            _error(subject, last_result, i)
            for i in worst(task, last_result.logits, last_result.targets, threshold=last_result.threshold)
        ],
        speed=subject.speed,
        command=subject.command,
        options=subject.options,
        hashes=subject.hashes,
        version=__version__,
    )
    return text.encode(errors="backslashreplace").decode()  # file names may not be valid UTF-8


def _absent(subject: Subject, measured: Measured) -> str:
    return absent(subject.task, measured.targets, measured.metrics, subject.labels)


def _interval(bounds: tuple[float, float], digits: int = 4) -> str:
    return f"{bounds[0]:.{digits}f} to {bounds[1]:.{digits}f}"


def _plots(subject: Subject, measured: Measured, bins: Calibration | None) -> list[tuple[str, str]]:
    scores = scores_of(measured.logits.astype(np.float64), subject.task)
    figures = TASKS[subject.task].figures(scores, measured.targets, measured.metrics, subject.labels)
    titled = [plots.draw(figure) for figure in figures]
    if bins is not None:
        titled.insert(1, ("Calibration", plots.calibrated(bins)))
    return titled


def _error(subject: Subject, measured: Measured, index: int) -> dict[str, str]:
    row = measured.split.rows[index]
    scores = scores_of(measured.logits[index : index + 1].astype(np.float64), subject.task)[0]
    mistake = TASKS[subject.task].mistake(scores, measured.targets[index], subject.labels, measured.threshold)
    return {
        "text": row.text[:_SHORT],
        "rest": row.text[_SHORT:],
        "pair": row.pair or "",
        "place": measured.split.place(row.number),
        **mistake._asdict(),
    }
