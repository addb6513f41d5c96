"""The end of a run: its report, the results in run.json, and the closing table."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from rich.console import Console

from bert_jax.files import write_json
from bert_jax.run_files import BEST, RECORD, REPORT, SCORES

from ..report import outcome
from ..report.console import CompileClock, Speed, closing_table
from ..report.page import Measured
from ..report.statistics import absent
from ..step import hosts
from .arrangement import Arrangement
from .run_directory import writing
from .saving import Progress
from .watchdog import Watchdog


class Figures(NamedTuple):
    """How fast a run was; `seconds` is its whole time."""

    speed: Speed
    clock: CompileClock
    seconds: float


def finish(
    arranged: Arrangement,
    console: Console,
    record: dict[str, Any],
    figures: Figures,
    progress: Progress,
    measured: Mapping[str, Measured],
    watchdog: Watchdog,
) -> None:
    """Write the report, complete run.json, and print the closing table. `record` is what run.json says so far."""
    prepared, out = arranged.prepared, arranged.config.run_directory
    task, labels = prepared.task, prepared.checkpoint.config.labels
    speed, clock, seconds = figures
    results = {name: result.metrics for name, result in measured.items()}
    record = record | {
        "figures": {**speed.figures(), **clock.figures(), "total_seconds": seconds},
        "ended": {"step": progress.step, "waited": progress.waited},
        SCORES: results,
    }
    facts = {
        "compiled": f"{len(speed.shapes)} shapes of the step; {clock.describe()}",
        "speed": f"{speed.steps_per_second:.2f} steps/s, {speed.tokens_per_second:,.0f} useful tokens/s",
        "useful tokens": f"{speed.useful_share:.1%} of those computed",
        "time": f"{seconds:.0f} s",
        "model": str(out / BEST),
        "report": str(out / REPORT),
    }
    if "threshold" in results["dev"]:
        facts["threshold"] = f"{results['dev']['threshold']:g}: the probability from which a label holds"
    with writing(out / REPORT), watchdog.long():
        record["intervals"] = hosts.on_first(
            lambda: {name: result.intervals(task) for name, result in measured.items()}
        )
        hosts.on_first(lambda: outcome.write(out, arranged.config, prepared, record, facts, measured))
    with writing(out / RECORD):  # last, because a run with results in run.json is finished
        hosts.on_first(lambda: write_json(out / RECORD, record))
    closing_table(console, task, labels, results, facts)
    for name, result in measured.items():
        if warning := absent(task, result.targets, result.metrics, labels):
            console.print(f"on {name}: {warning}", soft_wrap=True)
