"""Console output of a run: the progress during training, and the closing table."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from bert_jax.command import printable

from ..metrics import METRICS, WORDS, Metrics

PLAIN_SECONDS = 10.0
"""Seconds between two lines of progress if the output is not a terminal."""


class CompileClock:
    """Number of programs that this process has compiled or found in the cache, and the seconds of compilation.

    The clock counts from its creation, and `seconds` includes tracing. It listens to the events of JAX until the end of
    its `with` block.
    """

    def __init__(self):
        self.seconds = 0.0
        self.programs = self.cached = 0
        jax.monitoring.register_event_duration_secs_listener(self._add)
        jax.monitoring.register_event_listener(self._count)

    def __enter__(self) -> "CompileClock":
        return self

    def __exit__(self, *details: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._add)
        jax.monitoring.unregister_event_listener(self._count)

    def figures(self) -> dict[str, Any]:
        """Return the figures for `run.json`."""
        return {
            "compile_seconds": self.seconds,
            "compiled_programs": self.programs - self.cached,
            "cached_programs": self.cached,
        }

    def describe(self) -> str:
        """Return the figures in words."""
        cached = f" ({self.cached} of them found in the cache)" if self.cached else ""
        return f"{self.programs} programs{cached}, {self.seconds:.1f} s in all"

    def _add(self, event: str, duration_secs: float, **_: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            self.seconds += duration_secs
            self.programs += event.endswith("/backend_compile_duration")

    def _count(self, event: str, **_: Any) -> None:
        self.cached += event == "/jax/compilation_cache/cache_hits"


class Speed:
    """Steps, tokens and seconds of training alone, without the time for compilation and evaluation."""

    def __init__(self, clock: CompileClock):
        self.seconds = 0.0
        self.steps = self.tokens = self.computed = 0
        self.shapes: set[tuple[int, ...]] = set()
        self._clock = clock
        self.restart()

    def count(self, shape: tuple[int, ...], useful_tokens: int, steps: int) -> None:
        """Count `steps` steps that begin now.

        `shape` is (rows, tokens in a row) of one step. `useful_tokens` is the number of tokens in all these steps that
        are not padding.
        """
        self.steps += steps
        self.shapes.add(shape)
        self.tokens += useful_tokens
        self.computed += steps * shape[0] * shape[1]

    def restart(self) -> None:
        """Start a new lap, and leave the time since the last lap out of the total."""
        self._mark, self._compiled = time.monotonic(), self._clock.seconds

    def lap(self) -> None:
        """Add the time since the last lap, less the time for compilation. Call this when all counted steps are done."""
        self.seconds += time.monotonic() - self._mark - (self._clock.seconds - self._compiled)
        self.restart()

    @property
    def steps_per_second(self) -> float:
        """Steps per second over all laps."""
        return self.steps / max(self.seconds, 1e-9)

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second over all laps, without padding."""
        return self.tokens / max(self.seconds, 1e-9)

    @property
    def useful_share(self) -> float:
        """Share of the computed tokens that are not padding."""
        return self.tokens / max(self.computed, 1)

    def figures(self) -> dict[str, Any]:
        """Return the figures for `run.json`."""
        return {
            "compiled_shapes": sorted(self.shapes),
            "train_seconds": self.seconds,
            "steps_per_second": self.steps_per_second,
            "useful_tokens_per_second": self.tokens_per_second,
            "useful_share": self.useful_share,
        }


class Ticker:
    """Display of the loss, useful tokens/s and time left: a live bar on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console, bar: Progress | None, steps: int, first: int = 0):
        self.console, self.steps, self.bar, self.first = console, steps, bar, first
        self._task = bar.add_task("training", total=steps, loss=float("nan"), speed=0.0) if bar else None
        self._start = self._last = time.monotonic()

    def close(self) -> None:
        """Stop the bar, which leaves the terminal as it was."""
        if self.bar is not None:
            self.bar.stop()

    def update(self, step: int, loss: float, tokens_per_second: float) -> None:
        """Show that step `step` of `steps` is done."""
        if self.bar is not None and self._task is not None:
            self.bar.update(self._task, completed=step, loss=loss, speed=tokens_per_second)
            return
        now = time.monotonic()
        if now - self._last >= PLAIN_SECONDS or step == self.steps:
            self._last = now
            seconds_left = (now - self._start) / (step - self.first) * (self.steps - step)
            speed = f"{tokens_per_second:,.0f} useful tokens/s"
            self.console.print(f"step {step}/{self.steps}  loss {loss:.4f}  {speed}  {seconds_left:.0f} s left")


@contextmanager
def ticker(console: Console, steps: int, first: int = 0) -> Iterator[Ticker]:
    """Yield a `Ticker` for a run of `steps` steps, of which `first` were done earlier."""
    if not console.is_terminal:
        yield Ticker(console, None, steps, first)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}  {task.fields[speed]:,.0f} useful tokens/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield Ticker(console, bar, steps, first)


def shown(value: float | None) -> str:
    """Return the value of a metric as it is printed, or - for None."""
    return "-" if value is None else f"{value:.4f}"


def in_words(task: str, metrics: Metrics) -> str:
    """Return the metrics of a task in one line: "accuracy 0.9000  macro F1 0.8999  ..."."""
    return "  ".join(f"{WORDS[name]} {metrics[name]:.4f}" for name in METRICS[task])


def figures_table(
    task: str,
    results: Mapping[str, Metrics],
    sure: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
    title: str | None = None,
) -> Table:
    """Return a table with a row of metrics for each split.

    `sure` has the 95% confidence intervals of the metrics by split. If `sure` is given, they are in a second row.
    """
    table = Table(title=title)
    for column in ("split", "examples", *(WORDS[name] for name in METRICS[task])):
        table.add_column(column, justify="left" if column == "split" else "right")
    for name, metrics in results.items():
        table.add_row(name, f"{metrics['examples']:,}", *(f"{metrics[figure]:.4f}" for figure in METRICS[task]))
        if sure is not None:
            bounds = (sure[name][figure] for figure in METRICS[task])
            table.add_row("", "95% within", *(f"{low:.3f}-{high:.3f}" for low, high in bounds))
    return table


def closing_table(
    console: Console, task: str, labels: Sequence[str], results: dict[str, Metrics], facts: dict[str, str]
) -> None:
    """Print the last output of a run: the metrics of each split, the confusion matrix, and the facts about the run.

    The confusion matrix is that of the last split. If there is no confusion matrix, or there are more than 30 labels,
    the F1 of each label is printed in its place.
    """
    console.print(figures_table(task, results, title="Best model"))
    split = list(results)[-1]
    names = [printable(label) for label in labels]
    if (counts := results[split].get("confusion")) and len(labels) <= 30:
        confusion = Table(title=f"Confusion on {split}: true label down, predicted across")
        confusion.add_column("")
        for name in names:
            confusion.add_column(name, justify="right")
        for label, row in zip(names, counts, strict=True):
            confusion.add_row(label, *(f"{count:,}" for count in row))
        console.print(confusion)
    elif f1 := results[split].get("f1"):
        table = Table(title=f"F1 of each label on {split}")
        table.add_column("label")
        table.add_column("F1", justify="right")
        for name, value in zip(names, f1, strict=True):
            table.add_row(name, shown(value))
        console.print(table)
    for name, value in facts.items():
        console.print(f"{name:<18} {value}", soft_wrap=True)
