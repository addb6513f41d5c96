"""bert_jax: packed rows, or for the case of equal shapes one example in a row.

All that the benchmark knows of `train`'s interface is here.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

import bert_jax
from bert_jax import allocator, checkpoint
from bert_jax.attention import kernel_for
from bert_jax.config import BertConfig
from bert_jax.heads import SequenceClassifier
from bert_jax.logits import make_apply, packed_logits
from bert_jax.packing import Tokens
from bert_jax.parameters import build_classifier
from train.data.token_set import TokenSet
from train.step.batches import Batches
from train.step.layouts import default_window, make_layout, row_multiple
from train.step.optimizer import fine_tuning
from train.step.shapes import Shapes
from train.step.train_step import State
from train.step.trainer import Trainer

from ..workload import Examples, Job


class Contender:
    """Trains as `train.run.loop` does. `argument` is `packed`, or the row length for one example a row.

    `packed-T` packs into rows of T tokens instead of a length chosen by what is left over. Of the
    job's settings, `dtype`, `attention`, `scan` and `window` (steps in a dispatch) are optional, and
    `one_shape` keeps to one shape of the step.
    """

    def __init__(self, job: Job, argument: str):
        allocator.keep_freed_memory()  # as the command does
        self.notes: list[str] = []
        settings = job.settings
        how, _, row_length = argument.partition("-")
        self._dev, self._num_labels = job.examples("dev"), settings["num_labels"]
        train = job.examples("train")
        self.batches = Batches(
            TokenSet.of(tokens_of(train), train.labels.tolist()),
            batch_size=settings["batch_size"],
            seed=settings["seed"],
            packed=how == "packed",
            window=settings.get("window") or default_window(),
            multiple=row_multiple(),
        )
        if how != "packed":
            self.batches.shapes = Shapes(int(how), (settings["batch_size"],))
        elif settings.get("one_shape") or row_length:
            self.batches.shapes = fullest(self.batches, int(row_length or self.batches.shapes.row_length))
        model = classifier(job)
        self._attention, self._head_size = settings.get("attention", "auto"), model.config.head_size
        graphdef, self._params = nnx.split(model)
        self._optimizer = fine_tuning(
            settings["learning_rate"],
            steps=settings["schedule_steps"],
            warmup_steps=settings["warmup_steps"],
            weight_decay=settings["weight_decay"],
            clip_norm=settings["clip_norm"],
        )
        layout = make_layout(model.config)
        self._trainer = Trainer(
            layout,
            graphdef,
            self._optimizer,
            self._params,
            self.batches.shapes.row_length,
            scan=settings.get("scan"),
        )
        self._apply = make_apply(graphdef)
        self._key, self._data = self._trainer.key(settings["seed"]), self._trainer.place(self.batches.data)
        self.restart()

    def restart(self) -> None:
        """Back to the state before step 0."""
        # The step donates its state, and the start is needed again.
        self._state = self._trainer.start(jax.tree.map(lambda x: x.copy(), self._params))

    def prepare(self, first: int, steps: int) -> None:
        """Compile for the shapes of these steps, by running one window of each."""
        seen: dict[int, tuple[int, int]] = {}
        for step, count in self._windows(first, steps):
            seen.setdefault(self.batches.plan(step, count)[1], (step, count))
        for step, count in seen.values():
            self.train(step, count)
        length = self.batches.shapes.row_length
        kernel = kernel_for(self._attention, length, self._head_size)
        self.notes = [f"rows of {length}, {len(seen)} shapes of the step, {kernel} attention"]

    def train(self, first: int, steps: int) -> int:
        """Take these steps to their end; returns the tokens computed, padding included."""
        computed = 0
        for step, count in self._windows(first, steps):
            plan, num_rows = self.batches.plan(step, count)
            rows, row_length = self.batches.computed(num_rows)
            computed += count * rows * row_length
            placed = self._trainer.place_plan(plan, count)
            self._state, _ = self._trainer(self._state, self._data, placed, self._key, num_rows)
        jax.block_until_ready(self._state)
        return computed

    def whole_state(self) -> State:
        """A copy of the state on the host, as a checkpoint takes it."""
        return self._trainer.whole(self._state)

    def _windows(self, first: int, steps: int) -> Iterator[tuple[int, int]]:
        step = first
        while step < first + steps:
            count = min(self.batches.window_at(step), first + steps - step)
            yield step, count
            step += count

    def device_memory(self) -> int:
        """Most bytes of the device's memory held at once, where it keeps count."""
        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)

    def logits(self, count: int) -> list[list[float]]:
        """Of the first `count` dev examples, without dropout."""
        found = packed_logits(
            lambda rows: self._apply(self._state.params, rows), tokens_of(self._dev)[:count], self._num_labels
        )
        return found.tolist()


def classifier(job: Job) -> SequenceClassifier:
    """The job's checkpoint as a model, or where it has none, one drawn from the seed.

    A GPU's float32 products are TF32, as its peers' are in these comparisons.
    """
    settings = job.settings
    dtype, attention = settings.get("dtype", "float32"), settings.get("attention", "auto")
    if job.native.is_dir():
        start = checkpoint.read(job.native)
        return build_classifier(start.config, start.tensors, dtype, precision="high", attention=attention)
    config, rngs = BertConfig.from_dict(settings["config"]), nnx.Rngs(settings["seed"])
    return SequenceClassifier(config, dtype=jnp.dtype(dtype), precision="high", attention=attention, rngs=rngs)


def fullest(batches: Batches, row_length: int) -> Shapes:
    """The one shape that takes every step of the first epoch: the largest, so what it computes is no less."""
    batches.shapes = Shapes(row_length, ())
    starts = range(0, batches.steps_per_epoch, batches.window)
    return Shapes(row_length, (max(batches.plan(first, batches.window_at(first))[1] for first in starts),))


def tokens_of(examples: Examples) -> list[Tokens]:
    """The library's form of the same examples."""
    return [Tokens(ids, ids * 0) for ids in (examples[i] for i in range(len(examples)))]


def versions() -> dict[str, str]:
    """What it runs on."""
    return {"bert_jax": bert_jax.__version__, "jax": jax.__version__, "device": jax.devices()[0].device_kind}
