"""bert_jax: packed rows, or for the case of equal shapes one example in a row of 128.

All that the benchmark knows of `train`'s interface is here.
"""

import jax
from flax import nnx

import bert_jax
from bert_jax import checkpoint
from bert_jax.optimizer import fine_tuning
from bert_jax.packing import Tokens
from bert_jax.parameters import build_classifier
from bert_jax.predict import make_apply, packed_logits
from train.batches import Batches, Shapes
from train.step import initial_state, make_train_step

from ..workload import Examples, Job


class Contender:
    """Trains as `train.loop` does. `argument` is `packed`, or the row length for one example a row."""

    def __init__(self, job: Job, argument: str):
        self.notes: list[str] = []
        settings = job.settings
        self._dev, self._num_labels = job.examples("dev"), settings["num_labels"]
        train = job.examples("train")
        self.batches = Batches(
            tokens_of(train),
            train.labels.tolist(),
            batch_size=settings["batch_size"],
            seed=settings["seed"],
            packed=argument == "packed",
        )
        if argument != "packed":
            self.batches.shapes = Shapes(int(argument), (settings["batch_size"],))
        start = checkpoint.read(job.native)
        graphdef, self._params = nnx.split(build_classifier(start.config, start.tensors))
        self._optimizer = fine_tuning(
            settings["learning_rate"],
            steps=settings["schedule_steps"],
            warmup_steps=settings["warmup_steps"],
            weight_decay=settings["weight_decay"],
            clip_norm=settings["clip_norm"],
        )
        self._step, self._apply = make_train_step(graphdef, self._optimizer), make_apply(graphdef)
        self._key = jax.random.key(settings["seed"])
        self.restart()

    def restart(self) -> None:
        """Back to the state before step 0."""
        # The step donates its state, and the start is needed again.
        self._state = initial_state(jax.tree.map(lambda x: x.copy(), self._params), self._optimizer)

    def prepare(self, first: int, steps: int) -> None:
        """Compile for the shapes of these steps, by running one step of each."""
        seen: dict[tuple[int, ...], int] = {}
        for step in range(first, first + steps):
            seen.setdefault(self.batches.batch(step).rows.input_ids.shape, step)
        for step in seen.values():
            self.train(step, 1)
        self.notes = [f"rows of {self.batches.shapes.row_length}, {len(seen)} shapes of the step"]

    def train(self, first: int, steps: int) -> int:
        """Take these steps to their end; returns the tokens computed, padding included."""
        computed = 0
        for step in range(first, first + steps):
            batch = self.batches.batch(step)
            computed += batch.rows.input_ids.size
            self._state, _ = self._step(self._state, batch, self._key)
        jax.block_until_ready(self._state)
        return computed

    def logits(self, count: int) -> list[list[float]]:
        """Of the first `count` dev examples, without dropout."""
        found = packed_logits(
            lambda rows: self._apply(self._state.params, rows), tokens_of(self._dev)[:count], self._num_labels
        )
        return found.tolist()


def tokens_of(examples: Examples) -> list[Tokens]:
    """The library's form of the same examples."""
    return [Tokens(ids, ids * 0) for ids in (examples[i] for i in range(len(examples)))]


def versions() -> dict[str, str]:
    """What it runs on."""
    return {"bert_jax": bert_jax.__version__, "jax": jax.__version__, "device": jax.devices()[0].device_kind}
