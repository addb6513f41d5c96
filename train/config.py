"""Every option of a training run; the command line is made from it."""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bert_jax.command import Parser
from bert_jax.errors import UserError
from convert.huggingface import MINILM, label_names

DEMO = Path(__file__).parent / "demo"
"""The bundled reviews."""


def _option(default: Any, help: str, *, kind: Any = str, **more: Any) -> Any:
    return field(default=default, metadata={"help": help, "type": kind, **more})


@dataclass(frozen=True)
class TrainConfig:
    """What a run depends on; validated on construction (`UserError` names the option)."""

    model: str = _option(
        MINILM, "checkpoint to start from: native or Hugging Face directory, or hub id", metavar="DIR|ID"
    )
    revision: str | None = _option(None, "branch, tag or commit of a hub id", metavar="R")
    data: str = _option(
        str(DEMO), "directory with train, dev and test files, or one file (tsv, csv, jsonl, parquet)", metavar="PATH"
    )
    out: str | None = _option(None, "run directory to make (default: runs/NAME-OF-DATA)", metavar="RUN")
    restart: bool = _option(False, "start over, in place of the run in RUN, which otherwise goes on", kind=bool)
    epochs: int = _option(5, "passes over the training examples", kind=int, metavar="N")
    batch_size: int = _option(32, "examples a step", kind=int, metavar="N")
    learning_rate: float = _option(5e-5, "peak learning rate", kind=float, metavar="X")
    warmup: float = _option(0.06, "share of the steps over which the learning rate rises", kind=float, metavar="X")
    weight_decay: float = _option(0.01, "AdamW's decay, on all but biases and LayerNorm", kind=float, metavar="X")
    clip_norm: float = _option(1.0, "clip the global norm of the gradients at this", kind=float, metavar="X")
    max_length: int = _option(128, "cut texts to N tokens", kind=int, metavar="N")
    dtype: str = _option("float32", "what matrix products compute in", choices=("float32", "bfloat16"))
    seed: int = _option(0, "decides order, dropout, split and new parameters", kind=int, metavar="N")
    labels: tuple[str, ...] = _option((), "names of integer labels 0, 1, ...", kind=label_names, metavar="A,B")
    text_column: str | None = _option(None, "column with the text (default: found by name)", metavar="NAME")
    label_column: str | None = _option(None, "column with the label (default: found by name)", metavar="NAME")
    dev_fraction: float = _option(
        0.1, "share of the training file held out where there is no dev file", kind=float, metavar="X"
    )
    skip_bad: bool = _option(False, "count and leave out rows without a usable text and label", kind=bool)
    parallel: str = _option("jit", "how the step is compiled for all devices", choices=("jit", "pmap"))
    model_parallel: int = _option(1, "devices that share one copy of the network (with jit)", kind=int, metavar="N")
    shard_parameters: bool = _option(False, "divide the parameters too over devices (with jit)", kind=bool)
    accumulate: int = _option(1, "compute a step's gradients in N parts, for less memory", kind=int, metavar="N")
    remat: bool = _option(False, "compute layers twice in a step, for less memory", kind=bool)
    attention: str = _option(
        "auto", "plain XLA, or the fused kernel for GPU or TPU", choices=("auto", "plain", "triton", "mosaic")
    )
    steps_per_dispatch: int | None = _option(
        None, "steps the device takes without the host (default: 1 on CPU, else 16)", kind=int, metavar="N"
    )
    distributed: bool = _option(
        False, "join the other processes of a Slurm, Kubernetes, Open MPI or TPU job", kind=bool
    )
    coordinator: str | None = _option(None, "join at this address of process 0", metavar="HOST:PORT")
    num_processes: int | None = _option(None, "processes that meet there", kind=int, metavar="N")
    process_id: int | None = _option(None, "this process's number, from 0", kind=int, metavar="I")
    join_timeout: int = _option(300, "wait so long for the other processes", kind=int, metavar="SECONDS")
    checkpoint_every: str = _option("10m", "save the run every N steps, or every N minutes (Nm)", metavar="N|Nm")
    metric: str = _option("accuracy", "what the best model is best by, on dev", choices=("accuracy", "macro_f1"))
    new_pooler: bool = _option(False, "train a new pooler where the checkpoint has none", kind=bool)

    def __post_init__(self):
        for name in ("epochs", "batch_size", "model_parallel", "accumulate", "steps_per_dispatch", "join_timeout"):
            value = getattr(self, name)
            self._require(name, value is None or value >= 1, "at least 1")
        self._require("accumulate", self.accumulate <= self.batch_size, "at most --batch-size")
        if self.parallel == "pmap" and (self.model_parallel > 1 or self.shard_parameters):
            raise UserError("--parallel pmap divides batches alone; leave out --model-parallel and --shard-parameters")
        self._check_processes()
        number = self.checkpoint_every.removesuffix("m")
        self._require("checkpoint_every", number.isdecimal() and int(number) > 0, "steps (100) or minutes (10m)")
        for name in ("learning_rate", "clip_norm"):
            self._require(name, 0 < getattr(self, name) < float("inf"), "a number above 0")
        self._require("weight_decay", 0 <= self.weight_decay < float("inf"), "a number of at least 0")
        self._require("warmup", 0 <= self.warmup < 1, "a share in [0, 1)")
        self._require("dev_fraction", 0 < self.dev_fraction < 1, "a share between 0 and 1")
        self._require("seed", 0 <= self.seed < 2**32, "a whole number from 0 to 2^32 - 1")
        self._require("max_length", self.max_length >= 3, "at least 3 ([CLS], one token, [SEP])")

    @property
    def run_directory(self) -> Path:
        """Where the run is written."""
        if self.out is not None:
            return Path(self.out)
        path = Path(self.data).resolve()
        return Path("runs") / (path.name if path.is_dir() else path.name.split(".")[0])

    @property
    def checkpoint_interval(self) -> tuple[float, float]:
        """Steps, and seconds, after which the run is saved; one of them is infinite."""
        number = int(self.checkpoint_every.removesuffix("m"))
        return (math.inf, 60.0 * number) if self.checkpoint_every.endswith("m") else (number, math.inf)

    def _check_processes(self) -> None:
        names = ("coordinator", "num_processes", "process_id")
        given = [name for name in names if getattr(self, name) is not None]
        if given and len(given) < len(names):
            raise UserError("--coordinator, --num-processes and --process-id are given together, or none of them")
        if self.coordinator is None or self.num_processes is None or self.process_id is None:
            return
        host, _, port = self.coordinator.rpartition(":")
        self._require("coordinator", bool(host) and port.isdecimal() and 0 < int(port) < 2**16, "HOST:PORT")
        self._require("num_processes", self.num_processes >= 1, "at least 1")
        self._require("process_id", 0 <= self.process_id < self.num_processes, f"0 to {self.num_processes - 1}")

    def _require(self, name: str, good: bool, expected: str) -> None:
        if not good:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}; expected {expected}")


def parse(argv: list[str] | None = None) -> TrainConfig:
    """The command line as a `TrainConfig`; an option that is not a field of it is an error."""
    parser = Parser(prog="python -m train", description="Fine-tune BERT as a text classifier.")
    for option in dataclasses.fields(TrainConfig):
        settings = dict(option.metadata)
        if settings["type"] is bool:
            settings.pop("type")
            settings["action"] = "store_true"
        parser.add_argument(f"--{option.name.replace('_', '-')}", default=option.default, **settings)
    return TrainConfig(**vars(parser.parse_args(argv)))
