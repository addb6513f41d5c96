"""How `benchmarks.gpu` times one case: the same steps again and again, an epoch, attention alone."""

from collections.abc import Callable
from typing import Any

import numpy as np

from . import figures
from .driver import Failed, Worker
from .figures import Round, useful_flops
from .gpu_cases import CHECKPOINT, Case
from .workload import MEGABATCH, Job

KERNELS = ("plain", "fused", "plain whole", "fused whole", "jax xla", "jax cudnn")
"""As `contenders.attention` knows them; most important first."""

ROWS = ((128, True), (512, False))
"""Tokens of a row of the attention case, and whether rows are packed."""

_WINDOW = 16  # steps of ours in one dispatch
_EPOCH_SECONDS = 12.0  # an epoch that would take longer is extrapolated from the timed steps


def training(
    worker: Worker, case: Case, job: Job, peak: float | None, target: float, repeats: int, settle: Callable[[], None]
) -> dict[str, Any]:
    """Compile and warm up, then time the same steps `repeats` times, for about `target` seconds each.

    `peak` is the product's rate in FLOP/s, if it is known; `settle` is called before anything is timed.
    """
    examples = job.examples("train")
    total = examples.steps_per_epoch
    together = _WINDOW if case.kind == "ours" else MEGABATCH if "grouped" in case.argument else 4
    first = min(together, total)
    _, preparing = worker.ask("prepare", first=0, steps=first)
    _, seconds = worker.ask("train", first=0, steps=first)
    steps = max(1, round(target * first / seconds / together)) * together
    steps = min(steps, total // together * together or total)
    worker.ask("prepare", first=0, steps=steps)
    settle()
    lengths = np.concatenate([examples.lengths[examples.indices(step)] for step in range(steps)])
    useful, flops = int(lengths.sum()), useful_flops(job.settings, lengths, training=True)
    rounds: list[Round] = []
    cut = {}
    for _ in range(repeats):
        try:
            computed, seconds = worker.ask("train", first=0, steps=steps)
        except Failed as failure:
            if not rounds:
                raise
            cut = {"cut_short": f"after {len(rounds)} repeats: {failure}"}
            break
        rounds.append(Round(seconds, steps, len(lengths), useful, computed, flops, peak or 1.0))
    entry: dict[str, Any] = {**figures.summary(rounds)}
    if peak is None:
        del entry["share_of_peak"], entry["share_of_peak_with_padding"]
    entry |= {
        "useful_tokens_per_step": useful / steps,
        "prepare_seconds": preparing,
        "steps_timed": steps,
        "seconds": [found.seconds for found in rounds],
        "epoch_steps": total,
        "epoch_seconds": total * entry["step_seconds"],
        "epoch_measured": False,
        "notes": worker.notes,
        **cut,
    }
    try:
        if not cut:
            entry["device_memory_bytes"], _ = worker.ask("device_memory")
            if case.epoch and (case.model == CHECKPOINT or entry["epoch_seconds"] <= _EPOCH_SECONDS):
                entry |= _epoch(worker, case, job)
    except Failed as failure:
        entry["cut_short"] = f"after the repeats: {failure}"
    return entry


def _epoch(worker: Worker, case: Case, job: Job) -> dict[str, Any]:
    """A whole epoch from the start, and for a real checkpoint the accuracy after it."""
    worker.ask("restart")
    _, seconds = worker.ask("train", first=0, steps=job.examples("train").steps_per_epoch)
    found: dict[str, Any] = {"epoch_seconds": seconds, "epoch_measured": True}
    if case.model == CHECKPOINT:
        dev = job.examples("dev")
        logits, _ = worker.ask("logits", count=len(dev))
        found["dev_accuracy"] = float((np.argmax(logits, axis=1) == dev.labels).mean())
    return found


def kernels(worker: Worker, target: float, settle: Callable[[], None]) -> dict[str, Any]:
    """Each kernel at each kind of row, for about `target` seconds, and how far ours are from the formula.

    One that fails says why, and the rest go on.
    """
    out: dict[str, Any] = {}
    for length, packed in ROWS:
        rows = {"length": length, "packed": packed}
        seconds: dict[str, float] = {}
        failed: dict[str, str] = {}
        found = out[f"{'packed ' if packed else ''}rows of {length}"] = {"seconds": seconds, "failed": failed}
        try:
            found["differences"], _ = worker.ask("differences", **rows)
        except Failed as failure:
            failed["differences"] = str(failure)
        settle()
        for kernel in KERNELS:
            try:
                seconds[kernel], _ = worker.ask("time", kernel=kernel, **rows, seconds=target)
            except Failed as failure:
                failed[kernel] = str(failure)
    return {"rows": out, "notes": worker.notes}
