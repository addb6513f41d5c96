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
from bert_jax.config import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bert_jax.errors import UserError
from bert_jax.scores import HALF, scores_of

from ..config import HOSTS, IN_MEMORY, TrainConfig, parse
from ..data.rows import Split
from ..metrics import METRICS, Metrics
from ..options import flag
from . import plots
from .console import shown, word
from .statistics import absent, calibration, intervals, worst

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
        """Probability from which the metrics count a label as predicted. Only the multi-label task depends on it."""
        return self.metrics.get("threshold", HALF)

    def intervals(self, task: str) -> dict[str, tuple[float, float]]:
        """Return the 95% confidence intervals of the metrics (`statistics.intervals`)."""
        return intervals(task, self.logits, self.targets, threshold=self.threshold)


class Subject(NamedTuple):
    """Content of a page, apart from the results. `facts`, `speed` and `hashes` are names and values to print.

    `log` has the lines of metrics.jsonl. `options` are the options of a run that the page shows. `metric` is the metric
    that chose the model of the run.
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
    given = changed(config)
    words = ["python", "-m", "train"]
    for name, value in given.items():
        word = ",".join(value) if isinstance(value, tuple) else str(value)
        if value is True:
            words.append(flag(name))
        elif word.startswith("-"):
            words.append(f"{flag(name)}={word}")
        else:
            words += [flag(name), word]
    in_memory, of_hosts = config.data == IN_MEMORY, any(name in given for name in _OF_HOSTS)
    if not in_memory and (of_hosts or _gives(words, config)):
        return as_shell(words)
    options = "".join(f", {name}={value!r}" for name, value in given.items() if name != "data")
    data, why = ("data", "data: the tables it was given") if in_memory else (repr(config.data), "no command says this")
    return f"from train import fine_tune\n\nfine_tune({data}{options})  # {why}"


def as_shell(words: Sequence[str]) -> str:
    """Return a command quoted for a shell.

    A command with unprintable characters is escaped, with a remark that it cannot be copied from a page.
    """
    whole = all(map(str.isprintable, words))
    return shlex.join(words) if whole else f"{printable(shlex.join(words))}  # escaped: it cannot be copied from here"


def _gives(words: Sequence[str], config: TrainConfig) -> bool:
    """Return whether a command line that is copied from a page gives the options in `config`."""
    try:
        return all(map(str.isprintable, words)) and parse([*words[3:]]) == dataclasses.replace(config, restart=False)
    except (UserError, ValueError):
        return False


Intervals = Mapping[str, Mapping[str, tuple[float, float]]]


def mistakes(subject: Subject, one: Measured, count: int) -> list[str]:
    """Return the worst mistakes, at most `count`, one line each."""
    found = [_error(subject, one, i) for i in worst(subject.task, one.logits, one.targets, count, one.threshold)]
    return [
        f"{error['place']}: {error['true']}, predicted {error['said']} ({error['score']}): "
        f"{textwrap.shorten(error['text'], 100, placeholder='…')}"
        for error in found
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
    last, closest = list(measured.items())[-1]
    splits = [
        {
            "name": name,
            "examples": f"{one.metrics['examples']:,}",
            "figures": [(f"{one.metrics[figure]:.4f}", _interval(sure[name][figure])) for figure in names],
        }
        for name, one in measured.items()
    ]
    headline = [
        {
            "name": f"{word(figure)} on {last}",
            "value": f"{closest.metrics[figure]:.3f}",
            "interval": _interval(sure[last][figure], 3),
        }
        for figure in names[:3]
    ]
    found = calibration(task, closest.logits, closest.targets)
    metric = subject.metric or names[0]
    f1 = closest.metrics.get("f1")
    text = environment.get_template("page.html").render(
        title=subject.title,
        subtitle=subject.subtitle,
        headline=headline,
        facts=subject.facts,
        figures=[word(name) for name in names],
        splits=splits,
        chosen=subject.metric is not None,
        f1=[(name, shown(value)) for name, value in zip(subject.labels, f1, strict=True)] if f1 else None,
        threshold=closest.metrics.get("threshold"),
        absent={name: said for name, one in measured.items() if (said := _absent(subject, one))},
        last=last,
        curves=plots.drawn(plots.curves, subject.log, metric, word(metric)),
        plots=plots.drawn(_plots, subject, closest, found),
        calibration=found
        and f"Expected calibration error {found.error:.4f}: how far stated probabilities are from "
        "how often they came true, on average.",
        regression=task == REGRESSION,
        errors=[
            _error(subject, closest, i)
            for i in worst(task, closest.logits, closest.targets, threshold=closest.threshold)
        ],
        speed=subject.speed,
        command=subject.command,
        options=subject.options,
        hashes=subject.hashes,
        version=__version__,
    )
    return text.encode(errors="backslashreplace").decode()  # file names may not be valid UTF-8


def _absent(subject: Subject, one: Measured) -> str:
    return absent(subject.task, one.targets, one.metrics, subject.labels)


def _interval(bounds: tuple[float, float], digits: int = 4) -> str:
    return f"{bounds[0]:.{digits}f} to {bounds[1]:.{digits}f}"


def _plots(subject: Subject, one: Measured, found: Any) -> list[tuple[str, str]]:
    scores, labels = scores_of(one.logits.astype(np.float64), subject.task), subject.labels
    if subject.task == REGRESSION:
        said, true = scores[:, 0], one.targets[:, 0]
        off = np.abs(said - true).max()
        return [
            ("Predicted and true", plots.scatter(said, true, plots.short(labels[0]))),
            ("Errors", plots.histogram({"": said - true}, "predicted less true", (-off, off + 1e-9))),
        ]
    out = []
    if subject.task == SINGLE_LABEL:
        out.append(plots.confusion(one.metrics["confusion"], labels))
    else:
        out.append(("F1 of each label", plots.bars(one.metrics["f1"], labels, "F1")))
    out.append(("Calibration", plots.calibrated(found)))
    if subject.task == MULTI_LABEL:
        held = one.targets > 0.5
        groups, what = {"hold": scores[held], "do not": scores[~held]}, "probability of labels"
    elif len(labels) == 2:
        groups = {plots.short(labels[i]): scores[one.targets == i, 1] for i in (1, 0)}
        what = f"probability of {plots.short(labels[1])}"
    else:
        right = scores.argmax(axis=1) == one.targets
        groups, what = {"right": scores.max(axis=1)[right], "wrong": scores.max(axis=1)[~right]}, "highest probability"
    out.append(("Scores", plots.histogram(groups, what, (0.0, 1.0))))
    return out


def _error(subject: Subject, one: Measured, index: int) -> dict[str, str]:
    row, labels = one.split.rows[index], subject.labels
    scores = scores_of(one.logits[index : index + 1].astype(np.float64), subject.task)[0]
    if subject.task == REGRESSION:
        values = one.targets[index, 0], scores[0], scores[0] - one.targets[index, 0]
        right, said, score = (f"{value:.3g}" for value in values)
    elif subject.task == MULTI_LABEL:
        held = one.targets[index] > 0.5
        claimed = scores >= one.threshold
        right, said = (", ".join(np.array(labels, object)[which]) or "none" for which in (held, claimed))
        score = f"{np.abs(held - scores).max():.3f}"
    else:
        right, said = labels[int(one.targets[index])], labels[int(scores.argmax())]
        score = f"{scores.max():.3f}"
    return {
        "text": row.text[:_SHORT],
        "rest": row.text[_SHORT:],
        "pair": row.pair or "",
        "place": one.split.place(row.number),
        "true": right,
        "said": said,
        "score": score,
    }
