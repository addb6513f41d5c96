"""What a run found, as tables and as JSON."""

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bert_jax.errors import UserError

from . import figures
from .driver import Pool
from .figures import Round

CPUINFO = Path("/proc/cpuinfo")
_TELLING = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "bf16", "sve")


def contender(pool: Pool, name: str, rounds: Sequence[Round], **more: Any) -> dict[str, Any]:
    """One contender's entry in a case's JSON."""
    worker = pool.workers[name]
    return {
        **figures.summary(rounds),
        "first_step_seconds": pool.first_seconds[name],
        "peak_memory_bytes": worker.peak_memory,
        **more,
        "notes": worker.notes,
        "rounds": [found._asdict() for found in rounds],
    }


def case(about: str, ours: str, contenders: Mapping[str, dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A case's JSON: what it is about, its contenders, and `ours` over each of the others."""
    rounds = {name: [Round(**found) for found in entry["rounds"]] for name, entry in contenders.items()}
    ratios = {
        name: figures.ratio(rounds[ours], rounds[name]) for name in contenders if name != ours and ours in contenders
    }
    return {"about": about, "ours": ours, **more, "contenders": dict(contenders), "ratios": ratios}


def run(command: str, settings: dict[str, Any], pool: Pool, cases: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a whole run."""
    return {
        "command": command,
        "machine": machine(),
        "settings": settings,
        "versions": pool.versions,
        "cases": dict(cases),
        "not_run": pool.absent,
    }


def machine() -> dict[str, Any]:
    """What it runs on, for the JSON."""
    return {
        "platform": platform.platform(),
        "processor": _of_cpuinfo("model name") or platform.processor(),
        "instruction_sets": instruction_sets(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def instruction_sets() -> list[str]:
    """Those of this processor that decide how fast numbers are multiplied, as the kernel names them."""
    has = _of_cpuinfo("flags").split() or _of_cpuinfo("Features").split()
    return [name for name in _TELLING if name in has]


def describe(machine: Mapping[str, Any], versions: Mapping[str, Mapping[str, str]]) -> str:
    """One line: the processor, its instruction sets and cores, Python, and each package's version."""
    packages = {name: number for each in versions.values() for name, number in each.items() if name != "device"}
    sets = " ".join(machine["instruction_sets"]) or "no instruction set that matters here"
    return (
        f"{machine['cores']} cores of {machine['processor'] or 'an unknown processor'} ({sets}), "
        f"Python {machine['python']}, {', '.join(f'{name} {number}' for name, number in packages.items())}"
    )


def show(found: Mapping[str, Any]) -> None:
    """Print every case's two tables, then what could not be run and why."""
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(describe(found["machine"], found["versions"]), markup=False, soft_wrap=True)
    for name, entry in found["cases"].items():
        console.print()
        console.print(_figures(name, entry))
        for who, values in entry["contenders"].items():
            for note in values["notes"]:
                console.print(f"  {who}: {note}", markup=False)
        if entry["ratios"]:
            console.print(_ratios(entry))
    for who, reason in found["not_run"].items():
        console.print(f"not run: {who}: {reason}", markup=False)


def write(path: Path, found: Mapping[str, Any]) -> None:
    """Write the JSON; `UserError` where that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot write there: {error.strerror}") from None


def _figures(name: str, entry: Mapping[str, Any]) -> Table:
    extra = sorted(
        {key for values in entry["contenders"].values() for key in ("accuracy", "agreement") if key in values}
    )
    table = Table(title=f"{name}: {entry['about']}")
    table.add_column("contender", no_wrap=True)
    headings = (
        "useful tokens/s",
        "examples/s",
        "padding",
        "step",
        "to first step",
        "peak memory",
        "of the peak",
        "with padding",
    )
    for heading in (*headings, *extra):
        table.add_column(heading, justify="right")
    for who, values in entry["contenders"].items():
        table.add_row(
            who,
            f"{values['useful_tokens_per_second']:,.0f}",
            f"{values['examples_per_second']:,.1f}",
            f"{values['padding']:.1%}",
            f"{values['step_seconds'] * 1000:,.0f} ms",
            f"{values['first_step_seconds']:.1f} s",
            f"{values['peak_memory_bytes'] / 2**20:,.0f} MiB",
            f"{values['share_of_peak']:.1%}",
            f"{values['share_of_peak_with_padding']:.1%}",
            *(f"{values[key]:.4f}" if key in values else "-" for key in extra),
        )
    return table


def _ratios(entry: Mapping[str, Any]) -> Table:
    table = Table(title=f"{entry['ours']} over theirs, useful tokens/s")
    for heading in ("contender", "of medians", "median of rounds", "least", "most"):
        table.add_column(heading, justify="left" if heading == "contender" else "right")
    for who, values in entry["ratios"].items():
        shown = (values[key] for key in ("of_medians", "median_of_rounds", "least", "most"))
        table.add_row(who, *(f"{value:.2f}" for value in shown))
    return table


def _of_cpuinfo(field: str) -> str:
    """What the kernel says under this name of the first processor, or nothing."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == field), "")
