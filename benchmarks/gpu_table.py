"""What a run of `benchmarks.gpu` found: its JSON, a line a case, and the table of what was to be shown."""

import os
import platform
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .gpu_cases import ATTENTION, FINE_TUNING, LARGE_BATCH, MINILM, NOTEBOOK, SMALL_BATCH


def empty(command: str, tiny: bool) -> dict[str, Any]:
    """A result without cases; `tiny` says that its figures mean nothing."""
    return {
        "command": command.strip(),
        "tiny": tiny,
        "inputs": "sst2: SST-2-like, drawn; 128 and 512: drawn, all of that many tokens",
        "precision": "float32: TF32 products on a GPU, ours and torch's; bfloat16: products, parameters are float32",
        "machine": {"platform": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()},
        "device": "no device",
        "versions": {},
        "products": {},
        "cases": {},
        "not_run": {},
        "seconds": 0.0,
    }


def line(entry: Mapping[str, Any]) -> str:
    """A case in a line."""
    if "rows" in entry:
        return "; ".join(_kernels(about, found) for about, found in entry["rows"].items())
    share = f", {entry['share_of_peak']:.1%} of the product" if "share_of_peak" in entry else ""
    epoch = f", {'an epoch' if entry['epoch_measured'] else 'an epoch would be'} {entry['epoch_seconds']:.1f} s"
    accuracy = f", dev accuracy {entry['dev_accuracy']:.4f}" if "dev_accuracy" in entry else ""
    memory = f", {entry['device_memory_bytes'] / 2**30:.1f} GiB" if entry.get("device_memory_bytes") else ""
    return (
        f"{1 / entry['step_seconds']:.2f} steps/s, {entry['useful_tokens_per_second']:,.0f} useful tokens/s{share}, "
        f"padding {entry['padding']:.1%}{memory}{epoch}{accuracy}, {entry['prepare_seconds']:.1f} s to compile"
        f"{''.join(f'; {note}' for note in entry['notes'])}{'; ' + entry['cut_short'] if 'cut_short' in entry else ''}"
    )


def _kernels(about: str, found: Mapping[str, Any]) -> str:
    parts = [f"{name} {seconds * 1e6:,.0f} us" for name, seconds in found["seconds"].items()]
    parts += [f"{name} failed ({reason})" for name, reason in found["failed"].items()]
    if "differences" in found:
        worst = {who: max(each[who] for each in found["differences"].values()) for who in ("plain", "fused")}
        parts.append(f"largest difference from float32: plain {worst['plain']:.1e}, fused {worst['fused']:.1e}")
    return f"{about}: {', '.join(parts)}"


def table(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """What was asked, the answer, and why there is none where that is so."""
    cases = found["cases"]
    rows: list[dict[str, str]] = []

    def row(what: str, names: tuple[str, ...], answer: Any) -> None:
        missing = [name for name in names if name not in cases]
        why = "; ".join(f"{name}: {found['not_run'].get(name, 'not asked for')}" for name in missing)
        rows.append({"what": what, "answer": "-" if missing else answer(*(cases[name] for name in names)), "why": why})

    def speed(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
        return f"{ours['useful_tokens_per_second'] / theirs['useful_tokens_per_second']:.2f}"

    def steps(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
        return f"{theirs['step_seconds'] / ours['step_seconds']:.2f}"

    ours = f"{LARGE_BATCH} ours"
    row("BERT-base, SST-2-like, bfloat16: share of the measured product, useful tokens alone", (ours,), _share)
    row("the same, rows of 128 tokens", (f"{LARGE_BATCH} packed rows of 128",), _share)
    for layout, words in (("longest", "padded to the longest"), ("grouped", "grouped by length")):
        for who, how in (("torch.compile", "torch.compile"), ("torch", "eager")):
            names = ours, f"{LARGE_BATCH} {who} {layout}"
            row(f"the first, times torch's speed: {words}, sdpa, {how}", names, speed)
    ours_small = f"{SMALL_BATCH} ours"
    for who, how in (("torch", "torch, eager"), ("torch.compile", "torch.compile")):
        names = ours_small, f"{SMALL_BATCH} {who} longest"
        row(f"batch 32, times the steps/s of {how}, padded to the longest", names, steps)
    for who, how in (("scanned", "a scan"), ("scanned by 4", "a scan of 4 steps at a time")):
        row(f"the same, ours as {how}, times the steps/s of a while loop", (f"{SMALL_BATCH} {who}", ours_small), steps)
    row("20,000 x 128 tokens, BERT-base, batch 32: an epoch", (f"{NOTEBOOK} ours",), _epoch)
    for who, how in (("torch", "torch, eager"), ("torch.compile", "torch.compile")):
        row(f"the same, {how}", (f"{NOTEBOOK} {who} 128",), _epoch)
    row("67,349 SST-2-like, MiniLM, batch 32: an epoch", (f"{MINILM} ours",), _epoch)
    row("--checkpoint on --data: an epoch and accuracy on dev", (f"{FINE_TUNING} ours",), _epoch)
    row("attention alone: fused over plain, both ways", (ATTENTION.name,), _fused)
    return rows


def _share(entry: Mapping[str, Any]) -> str:
    if "share_of_peak" not in entry:
        return "no product was measured"
    return f"{entry['share_of_peak']:.1%} at {entry['useful_tokens_per_step']:,.0f} useful tokens a step"


def _epoch(entry: Mapping[str, Any]) -> str:
    how = "measured" if entry["epoch_measured"] else f"extrapolated from {entry['steps_timed']} steps"
    accuracy = f", {entry['dev_accuracy']:.4f}" if "dev_accuracy" in entry else ""
    return f"{entry['epoch_seconds']:.1f} s ({how}){accuracy}"


def _fused(entry: Mapping[str, Any]) -> str:
    parts = []
    for about, found in entry["rows"].items():
        seconds = found["seconds"]
        both = {"plain", "fused"} <= set(seconds)
        parts.append(f"{about} {seconds['plain'] / seconds['fused']:.2f} times" if both else f"{about} failed")
    return ", ".join(parts)


def show(found: Mapping[str, Any]) -> None:
    """Print the table, and what was not run."""
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    title = f"On {found['device']}"
    out = Table("what", "answer", title=f"{title}: tiny stand-ins, figures mean nothing" if found["tiny"] else title)
    for row in table(found):
        out.add_row(row["what"], escape(f"not run: {row['why']}" if row["why"] else row["answer"]))
    console.print(out)
    for name, reason in found["not_run"].items():
        console.print(f"not run: {name}: {reason}", markup=False)
