"""Fine-tuning on one GPU beside transformers on torch, in one command of under eight minutes.

    python -m benchmarks.gpu --json runs/gpu.json
    python -m benchmarks.gpu --checkpoint runs/minilm --data sst2     # and accuracy after one epoch
    python -m benchmarks.gpu --tiny --cases "sst2 32"                 # on a CPU, to see that it runs

Needs neither network, checkpoint nor data: weights and token ids are drawn, lengths like SST-2's. Each
case has a process and a time limit of its own, the most important first; what no longer fits into
--minutes is named, and so is what fails. The JSON is whole after every case. float32 products are
TF32 on both sides; bfloat16 is autocast in torch, with float32 parameters on both sides.
"""

import contextlib
import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from bert_jax.command import Parser, run
from bert_jax.errors import UserError
from bert_jax.files import write_json

from . import gpu_measure, gpu_table
from .driver import Entry, Failed, Worker
from .gpu_cases import CASES, CHECKPOINT, Case, make_job, shrunk
from .options import TORCH_ABSENT, has_torch, positive, wanted
from .workload import Job

PRODUCT = Entry("product", "product", "")

_PATIENCE = 3.0  # a case is stopped at so many times the seconds it should need
_START_SECONDS = 90.0


def main(argv: list[str] | None = None) -> None:
    """Measure case after case, print and write each, then the table."""
    started = time.monotonic()
    args = _options(argv)
    # Two processes share the card for a moment, and jax would take three quarters of it for one.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    found = gpu_table.empty(f"python -m benchmarks.gpu {' '.join(sys.argv[1:] if argv is None else argv)}", args.tiny)
    cases = [shrunk(case) if args.tiny else case for case in CASES if wanted(case.name, args.cases)]
    with tempfile.TemporaryDirectory() as scratch, open(args.json.with_suffix(".log"), "wb") as log:
        with contextlib.closing(Bench(args, Path(scratch), log, started + 60 * args.minutes, found)) as bench:
            _say(f"{len(cases)} cases in {args.minutes:g} minutes; sst2 is SST-2-like, drawn")
            bench.products(cases)
            for number, case in enumerate(cases, 1):
                bench.case(case, cases[number:])
                found["seconds"] = time.monotonic() - started
                bench.write()
    gpu_table.show(found)
    print(f"{found['seconds']:.0f} s in all; every figure: {args.json}; what the contenders printed: {log.name}")


def _options(argv: list[str] | None) -> Any:
    parser = Parser(prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=7.5, metavar="X", help="time for everything")
    parser.add_argument("--cases", default="", metavar="A,B", help="only cases with one of these in the name")
    parser.add_argument("--repeats", type=positive, default=5, metavar="N", help="timed repeats of a case")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="X", help="time of a repeat, about")
    parser.add_argument("--checkpoint", metavar="DIR", help="with --data: train this for an epoch and evaluate")
    parser.add_argument("--data", type=Path, metavar="PATH", help="with --checkpoint: as `python -m train` takes it")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="weights, examples, order, dropout")
    parser.add_argument("--json", type=Path, default=Path("runs/gpu.json"), metavar="FILE", help="write figures here")
    parser.add_argument("--tiny", action="store_true", help="small stand-ins for everything; a CPU will do")
    args = parser.parse_args(argv)
    if (args.checkpoint is None) != (args.data is None):
        raise UserError("--checkpoint and --data go together; give both or neither")
    if args.checkpoint is not None and not Path(args.checkpoint).is_dir():
        raise UserError(f"{args.checkpoint}: no such directory; --checkpoint is a native or Hugging Face directory")
    if args.cases and not any(wanted(case.name, args.cases) for case in CASES):
        raise UserError(f"--cases {args.cases}: no such case; there are: {'; '.join(case.name for case in CASES)}")
    try:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.with_suffix(".log").touch()
    except OSError as error:
        raise UserError(f"{args.json}: cannot write there: {error.strerror}") from None
    return args


class Bench:
    """A run: one worker is measured at a time, while the next comes up as far as its first question."""

    def __init__(self, args: Any, scratch: Path, log: IO[bytes], deadline: float, found: dict[str, Any]):
        self._args, self._scratch, self._log, self._deadline, self._found = args, scratch, log, deadline, found
        self._waiting: dict[str, tuple[Worker, Job] | Exception] = {}

    @property
    def _left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def write(self) -> None:
        """Write the JSON, whole or not at all."""
        write_json(self._args.json, self._found | {"table": gpu_table.table(self._found)})

    def close(self) -> None:
        """End the process started ahead, if its turn has not come."""
        for waiting in self._waiting.values():
            if isinstance(waiting, tuple):
                waiting[0].kill()

    def products(self, following: Sequence[Case]) -> None:
        """Measure the rates that shares are taken of. Raises `UserError` where there is no accelerator."""
        (self._scratch / "job.json").write_text("{}")
        worker = Worker(PRODUCT, self._scratch, self._log, wait=False)
        worker.limit(_START_SECONDS)
        self._ahead(following)
        try:
            worker.ready()
            device = worker.versions["device"]
            if device == "cpu" and not self._args.tiny:
                raise UserError("jax sees no GPU here, only a CPU; with --tiny, small stand-ins are run on it")
            self._found["device"] = device
            self._settle()
            for dtype in ("bfloat16", "float32"):
                rate, _ = worker.ask("rate", seconds=0.1 if self._args.tiny else 1.5, dtype=dtype)
                self._found["products"][dtype] = rate
                _say(f"product {dtype}: {rate / 1e12:,.2f} TFLOP/s on {device}")
        except Failed as failure:
            self._drop("product", failure)
        finally:
            worker.kill()
            self.write()

    def case(self, case: Case, following: Sequence[Case]) -> None:
        """Measure a case, or say in the result why not; the process of the next one is started on the way."""
        waiting = self._waiting.pop(case.name, None)
        try:
            if self._left < case.seconds:
                raise Failed(f"needs about {case.seconds:.0f} s and {self._left:.0f} s were left")
            if waiting is None:
                waiting = self._start(case)
            if isinstance(waiting, Exception):
                raise waiting
            worker, job = waiting
            worker.limit(min(_PATIENCE * case.seconds, self._left))
            worker.ready()
            if worker.versions["device"].startswith("cpu") and not self._args.tiny:
                raise Failed("sees no GPU")
            self._found["versions"] |= {name: text for name, text in worker.versions.items() if name != "device"}
            self._ahead(following)
            if case.kind == "attention":
                found = gpu_measure.kernels(worker, self._args.seconds / 2, self._settle)
            else:
                peak = self._found["products"].get(case.dtype)
                found = gpu_measure.training(
                    worker, case, job, peak, self._args.seconds, self._args.repeats, self._settle
                )
            entry = {"case": dataclasses.asdict(case), **found}
            self._found["cases"][case.name] = entry
            _say(f"{case.name}: {gpu_table.line(entry)}")
        except Exception as failure:  # whatever it is, the other cases go on
            self._drop(case.name, failure)
        finally:
            if isinstance(waiting, tuple):
                waiting[0].kill()

    def _drop(self, name: str, failure: Exception) -> None:
        kind = "" if isinstance(failure, Failed | UserError) else f"{type(failure).__name__}: "
        self._found["not_run"][name] = f"{kind}{failure}"
        _say(f"{name}: not run: {kind}{failure}")

    def _start(self, case: Case) -> tuple[Worker, Job]:
        source = None if self._args.checkpoint is None else (self._args.checkpoint, self._args.data)
        if case.model == CHECKPOINT and source is None:
            raise Failed("needs --checkpoint and --data")
        if case.kind == "torch" and not has_torch():
            raise Failed(TORCH_ABSENT)
        directory = self._scratch / case.name.replace(" ", "-")
        job = make_job(directory, case, self._args.tiny, self._args.seed, source)
        worker = Worker(case.entry(), directory, self._log, wait=False)
        worker.limit(self._left)
        return worker, job

    def _ahead(self, following: Sequence[Case]) -> None:
        """Start the process of the case whose turn comes next."""
        for case in following:
            if case.name in self._waiting or self._left < case.seconds:
                continue
            try:
                self._waiting[case.name] = self._start(case)
                return
            except Exception as failure:  # said when its turn comes
                self._waiting[case.name] = failure

    def _settle(self) -> None:
        """Wait until the process started ahead is idle, so that it does not disturb what is timed now."""
        for name, waiting in self._waiting.items():
            if isinstance(waiting, tuple):
                worker, _ = waiting
                worker.limit(min(_START_SECONDS, self._left))
                try:
                    worker.ready()
                    worker.limit(self._left)
                except Failed as failure:
                    self._waiting[name] = failure


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    run(main)
