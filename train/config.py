"""All options of a training run. The command line is built from them."""

import dataclasses
import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_jax.command import MINILM, Parser, label_names
from bert_jax.config import PRECISIONS
from bert_jax.errors import UserError
from bert_jax.long_texts import LONG_TEXTS
from bert_jax.tasks import TASKS

from .metrics import ALL_METRICS
from .options import argument, flag, number_or_word, taken
from .options import option as _option

BEST = "best"
"""Value of `threshold` for the best threshold on dev."""

DEMO = Path(__file__).parent / "demo"
"""Directory of the bundled reviews."""

IN_MEMORY = "tables in memory"
"""Value of `data` if tables were given from Python in place of a name."""


MODEL, DATA, TASK, LENGTH = "model", "data", "task", "length of texts"
RECIPE, RUN, DEVICES, HOSTS = "recipe", "run", "devices and memory", "several hosts"

_free = functools.partial(_option, may_change=True)
"""Define an option that may change when a run is resumed.

Such an option changes no result, sets how long the run is, or names something that is compared by its contents.
"""


@dataclass(frozen=True)
class TrainConfig:
    """Options of a run, validated on construction (`UserError` names the option)."""

    model: str = _free(
        MODEL,
        MINILM,
        "checkpoint to start from: native or Hugging Face directory, or hub id",
        metavar="DIR|ID",
        may_differ=True,
    )
    revision: str | None = _free(MODEL, None, "branch, tag or commit of a hub id", metavar="R", may_differ=True)
    new_classifier: bool = _option(
        MODEL, False, "put a new classifier in place of the model's, for other labels or another task", kind=bool
    )
    new_pooler: bool = _option(MODEL, False, "train a new pooler where the checkpoint has none", kind=bool)

    data: str = _free(
        DATA,
        str(DEMO),
        "labelled texts: a directory with train, dev and test files, one file (csv, tsv, jsonl, json, parquet, "
        "txt with labels beside it), an aclImdb tree, or a hub id",
        metavar="PATH|ID",
        may_differ=True,
    )
    data_name: str | None = _free(DATA, None, "configuration of a hub dataset", metavar="NAME")
    data_revision: str | None = _free(DATA, None, "branch, tag or commit of a hub dataset", metavar="R")
    text_column: str | None = _option(DATA, None, "column with the text (default: found)", metavar="NAME")
    pair_column: str | None = _option(
        DATA,
        None,
        "column with the second text of a pair (default: found, unless --text-column is given)",
        metavar="NAME",
    )
    label_column: str | None = _option(
        DATA, None, "column with the label (default: found), or several columns of 0 and 1", metavar="NAME[,NAME]"
    )
    labels: tuple[str, ...] = _option(DATA, (), "names of integer labels 0, 1, ...", kind=label_names, metavar="A,B")
    label_separator: str = _option(DATA, ",", "what parts several labels in one cell", metavar="S")
    dev_fraction: float = _option(
        DATA, 0.1, "share of the training file held out where there is no dev file", kind=float, metavar="X"
    )
    split_seed: int = _option(DATA, 0, "decides which rows are held out", kind=int, metavar="N")
    skip_bad: bool = _option(DATA, False, "count and leave out rows without a usable text and label", kind=bool)
    inspect: bool = _free(DATA, False, "say what was understood of the data, and stop there", kind=bool)

    task: str = _option(
        TASK,
        "auto",
        "what a label is: one class, any number of classes, or a number; auto: as model and labels look",
        choices=("auto", *(task.option for task in TASKS.values())),
    )
    class_weights: str | None = _option(
        TASK, None, "weights of classes in the loss: balanced, or one for each", metavar="balanced|X,Y"
    )
    threshold: float | str | None = _option(
        TASK,
        None,
        "of several labels, the probability from which one holds, kept with the model; best: of the best F1 on dev "
        "(default: 0.5)",
        kind=number_or_word,
        metavar="X|best",
    )
    label_smoothing: float = _option(TASK, 0.0, "share of each target spread over all classes", kind=float, metavar="X")
    metric: str | None = _option(
        TASK, None, "what the best model is best by, on dev (default: the first of its task)", choices=ALL_METRICS
    )
    patience: int | None = _free(
        TASK, None, "stop after so many epochs without a better model (default: never)", kind=int, metavar="N"
    )

    max_length: int = _option(LENGTH, 128, "tokens of a text, or of a window", kind=int, metavar="N")
    long_texts: str | None = _option(
        LENGTH,
        None,
        "of a longer text keep its head, tail or both ends, or read all in windows (default: head, or tail if the "
        "model's tokenizer truncates at the left)",
        choices=LONG_TEXTS,
    )
    stride: int | None = _option(
        LENGTH, None, "tokens from a window's start to the next one's (default: half a window)", kind=int, metavar="N"
    )

    epochs: int = _free(RECIPE, 5, "passes over the training examples", kind=int, metavar="N")
    batch_size: int = _option(RECIPE, 32, "examples a step", kind=int, metavar="N")
    learning_rate: float = _option(RECIPE, 5e-5, "peak learning rate", kind=float, metavar="X")
    warmup: float = _option(RECIPE, 0.06, "share of the steps over which the rate rises", kind=float, metavar="X")
    weight_decay: float = _option(
        RECIPE, 0.01, "AdamW's decay, on all but biases and LayerNorm", kind=float, metavar="X"
    )
    clip_norm: float = _option(RECIPE, 1.0, "clip the global norm of the gradients at this", kind=float, metavar="X")
    layer_decay: float = _option(
        RECIPE, 1.0, "multiply the learning rate by this for each layer further down", kind=float, metavar="X"
    )
    freeze_embeddings: bool = _option(RECIPE, False, "do not train the embeddings", kind=bool)
    freeze_layers: int = _option(RECIPE, 0, "do not train the embeddings and the first N layers", kind=int, metavar="N")
    dtype: str = _option(RECIPE, "float32", "what matrix products compute in", choices=("float32", "bfloat16"))
    precision: str = _option(
        RECIPE, "highest", "how exactly float32 is multiplied on GPU and TPU; highest: as on a CPU", choices=PRECISIONS
    )
    seed: int = _option(RECIPE, 0, "decides order, dropout and new parameters", kind=int, metavar="N")

    out: str | None = _free(
        RUN, None, "run directory to make (default: runs/NAME-OF-DATA)", metavar="RUN", may_differ=True
    )
    restart: bool = _free(
        RUN, False, "start over, in place of the run in RUN, which otherwise goes on", kind=bool, may_differ=True
    )
    checkpoint_every: str = _free(RUN, "10m", "save the run every N steps, or every N minutes (Nm)", metavar="N|Nm")
    tensorboard: bool = _free(RUN, False, "write TensorBoard event files too (the tensorboard extra)", kind=bool)

    parallel: str = _free(DEVICES, "jit", "how the step is compiled for all devices", choices=("jit", "pmap"))
    model_parallel: int = _free(
        DEVICES, 1, "devices that share one copy of the network (with jit)", kind=int, metavar="N"
    )
    shard_parameters: bool = _free(DEVICES, False, "divide the parameters too over devices (with jit)", kind=bool)
    accumulate: int = _free(DEVICES, 1, "compute a step's gradients in N parts, for less memory", kind=int, metavar="N")
    remat: bool = _free(DEVICES, False, "compute layers twice in a step, for less memory", kind=bool)
    attention: str = _free(
        DEVICES, "auto", "plain XLA, or the fused kernel for GPU or TPU", choices=("auto", "plain", "triton", "mosaic")
    )
    steps_per_dispatch: int | None = _free(
        DEVICES, None, "steps the device takes without the host (default: 1 on CPU, else 16)", kind=int, metavar="N"
    )

    distributed: bool = _free(
        HOSTS, False, "join the other processes of a Slurm, Kubernetes, Open MPI or TPU job", kind=bool
    )
    coordinator: str | None = _free(
        HOSTS, None, "join at this address of process 0", metavar="HOST:PORT", may_differ=True
    )
    num_processes: int | None = _free(HOSTS, None, "processes that meet there", kind=int, metavar="N")
    process_id: int | None = _free(HOSTS, None, "this process's number, from 0", kind=int, metavar="I", may_differ=True)
    join_timeout: int = _free(
        HOSTS, 300, "wait so long for the other processes", kind=int, metavar="SECONDS", may_differ=True
    )

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, taken(field, getattr(self, field.name)))
        for name in ("epochs", "batch_size", "model_parallel", "accumulate", "steps_per_dispatch", "join_timeout"):
            value = getattr(self, name)
            self._require(name, value is None or value >= 1, "at least 1")
        self._require("accumulate", self.accumulate <= self.batch_size, "at most --batch-size")
        if self.parallel == "pmap" and (self.model_parallel > 1 or self.shard_parameters):
            raise UserError("--parallel pmap divides batches alone; leave out --model-parallel and --shard-parameters")
        self._check_processes()
        for name, least in (("patience", 1), ("stride", 1), ("freeze_layers", 0)):
            value = getattr(self, name)
            self._require(name, value is None or value >= least, f"at least {least}")
        value = self.threshold
        is_share = not isinstance(value, str | bool | None) and 0 < value < 1
        self._require("threshold", value in (None, BEST) or is_share, f"a number between 0 and 1, or {BEST}")
        self._require("layer_decay", 0 < self.layer_decay <= 1, "a share above 0, at most 1")
        self._require("label_smoothing", 0 <= self.label_smoothing < 1, "a share in [0, 1)")
        self._require("label_separator", bool(self.label_separator), "at least one character")
        if self.stride is not None and self.long_texts != "windows":
            raise UserError("--stride is for --long-texts windows")
        number = self.checkpoint_every.removesuffix("m")
        self._require("checkpoint_every", number.isdecimal() and int(number) > 0, "steps (100) or minutes (10m)")
        for name in ("learning_rate", "clip_norm"):
            self._require(name, 0 < getattr(self, name) < float("inf"), "a number above 0")
        self._require("weight_decay", 0 <= self.weight_decay < float("inf"), "a number of at least 0")
        self._require("warmup", 0 <= self.warmup < 1, "a share in [0, 1)")
        self._require("dev_fraction", 0 < self.dev_fraction < 1, "a share between 0 and 1")
        for name in ("seed", "split_seed"):
            self._require(name, 0 <= getattr(self, name) < 2**32, "a whole number from 0 to 2^32 - 1")
        self._require("max_length", self.max_length >= 3, "at least 3 ([CLS], one token, [SEP])")

    @property
    def run_directory(self) -> Path:
        """Directory that the run is written to."""
        if self.out is not None:
            return Path(self.out)
        path = Path(self.data).resolve()
        return Path("runs") / (path.name if path.is_dir() else path.name.split(".")[0])

    @property
    def checkpoint_interval(self) -> tuple[float, float]:
        """Number of steps, and of seconds, after which the run is saved. One of the two is infinite."""
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
            raise UserError(f"{flag(name)} is {getattr(self, name)}; expected {expected}")


def parse(argv: list[str] | None = None) -> TrainConfig:
    """Return the command line as a `TrainConfig`. Raises `UserError` for an option that is not one of its fields."""
    parser = Parser(
        prog="python -m train",
        description="Fine-tune BERT: classes, several labels a text, or a number; texts or pairs of texts. On a CPU "
        "the memory that a step frees is kept for the next one, unless MALLOC_... or GLIBC_TUNABLES is set.",
        epilog="""examples:
  python -m train --data reviews.csv --inspect
  python -m train --model runs/minilm --data reviews.csv --out runs/reviews""",
    )
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(TrainConfig):
        group = field.metadata["group"]
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        groups[group].add_argument(flag(field.name), **argument(field))
    return TrainConfig(**vars(parser.parse_args(argv)))
