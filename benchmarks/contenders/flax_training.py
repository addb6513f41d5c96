"""transformers 4.57's Flax BERT, in an interpreter of its own: one jitted optax step.

What `run_flax_glue` does, on one device. Imports nothing of bert_jax.
"""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import transformers

from ..workload import Job, learning_rate


class Contender:
    """`argument` is the padded length."""

    def __init__(self, job: Job, argument: str):
        self.notes = ["its attention dropout draws one mask for all rows and heads, the others one for each"]
        self._settings, self._train, self._dev = job.settings, job.examples("train"), job.examples("dev")
        self._layout = argument
        model: Any = transformers.FlaxBertForSequenceClassification.from_pretrained(job.huggingface)
        settings = self._settings
        rates = jnp.array([learning_rate(settings, step) for step in range(settings["schedule_steps"] + 1)])
        self._optimizer = optax.chain(
            optax.clip_by_global_norm(settings["clip_norm"]),
            optax.adamw(
                lambda count: rates[count],
                eps=1e-8,
                weight_decay=settings["weight_decay"],
                mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
            ),
        )
        self._start, self._seed = jax.tree.map(np.asarray, model.params), settings["seed"]

        def step(params: Any, state: Any, key: Any, ids: Any, mask: Any, labels: Any) -> Any:
            key, dropout = jax.random.split(key)

            def loss(params: Any) -> Any:
                logits = model(ids, mask, params=params, dropout_rng=dropout, train=True).logits
                return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

            gradients = jax.grad(loss)(params)
            updates, state = self._optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), state, key

        self._step = jax.jit(step, donate_argnums=(0, 1))
        self._logits = jax.jit(lambda params, ids, mask: model(ids, mask, params=params, train=False).logits)
        self.restart()

    def restart(self) -> None:
        """Back to the state before step 0."""
        self._params = jax.tree.map(jnp.array, self._start)
        self._state, self._key = self._optimizer.init(self._params), jax.random.key(self._seed)

    def prepare(self, first: int, steps: int) -> None:
        """Warm up."""
        self.train(first, min(2, steps))

    def train(self, first: int, steps: int) -> int:
        """Take these steps to their end; returns the tokens computed, padding included."""
        computed = 0
        for indices, length in self._train.batches(self._layout, first, steps):
            batch = [array.astype(np.int32) for array in self._train.padded(indices, length)]
            computed += batch[0].size
            self._params, self._state, self._key = self._step(self._params, self._state, self._key, *batch)
        jax.block_until_ready(self._params)
        return computed

    def logits(self, count: int) -> list[list[float]]:
        """Of the first `count` dev examples, without dropout."""
        out: list[list[float]] = []
        for indices, _ in self._dev.in_order(count):
            ids, mask, _ = self._dev.padded(indices, int(self._layout))
            out += self._logits(self._params, ids.astype(np.int32), mask.astype(np.int32)).tolist()
        return out


def versions() -> dict[str, str]:
    """What it runs on."""
    return {
        "transformers": transformers.__version__,
        "flax": flax.__version__,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }
