"""Evaluation: every example is computed once, for any batch size and any number of devices."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int, Shaped

from bert_jax.heads import SequenceClassifier
from bert_jax.logits import IN_FLIGHT, batch_tokens, late, make_apply, pooled
from bert_jax.packing import Rows, Tokens, prediction_batches
from bert_jax.tasks import DEFAULT

from ..metrics import Metrics
from ..tasks import measure
from .layouts import Layout

_Dealt = tuple[Rows, list[list[int]]]


class Evaluator:
    """Compute metrics over all examples. Batches are divided over a layout's shards; every process gets all logits."""

    def __init__(
        self, layout: Layout, graphdef: nnx.GraphDef[SequenceClassifier], num_labels: int, task: str = DEFAULT
    ):
        self._layout, self._num_labels, self._task = layout, num_labels, task
        self._apply = make_apply(graphdef, layout.everywhere())

    def __call__(
        self,
        params: nnx.State,
        examples: Sequence[Tokens],
        targets: Shaped[np.ndarray, "N ..."] | Sequence[int],
        owners: Int[np.ndarray, " M"] | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> Metrics:
        """Return the metrics of `params`, which are replicated on every device (`Layout.put`).

        Rows are padded, and no example is dropped. If examples are windows of texts, `owners` is the index of the text
        of each example, and `targets` has a target for each text. `between` is called after each group of batches that
        the shards compute side by side.
        """
        return measure(self._task, self.logits(params, examples, owners, between), np.asarray(targets))

    def logits(
        self,
        params: nnx.State,
        examples: Sequence[Tokens],
        owners: Int[np.ndarray, " M"] | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> Float[np.ndarray, "N C"]:
        """Return only the logits, in the order of the texts. With `owners`, they are the mean over a text's windows."""
        logits = np.empty((len(examples), self._num_labels), np.float32)
        batches = prediction_batches(examples, batch_tokens=batch_tokens())
        with self._layout.context():
            dealt = deal(batches, self._layout.shards)
            placed = ((self._layout.put(rows, P("data")), members) for rows, members in dealt)
            for members, outputs in late(lambda rows: self._apply(params, rows), placed, IN_FLIGHT):
                for indices, shard_logits in zip(
                    members, outputs.reshape(len(members), -1, self._num_labels), strict=True
                ):
                    logits[indices] = shard_logits[: len(indices)]
                between()
        return logits if owners is None else pooled(logits, owners)


def deal(batches: Iterator[tuple[Rows, list[int]]], shards: int) -> Iterator[_Dealt]:
    """Group batches of one shape, one batch for each shard, and yield the rows of all shards with their examples.

    The examples are one list of indices for each shard. `first_tokens` has a leading axis of shards. If there are fewer
    batches than shards, the last shards have only padding and no example.
    """
    for _, same_shape in itertools.groupby(batches, key=lambda batch: batch[0].input_ids.shape):
        while group := list(itertools.islice(same_shape, shards)):
            padding = Rows(*(np.zeros_like(array) for array in group[0][0])), []
            group += [padding] * (shards - len(group))
            *tokens, first_tokens = zip(*(rows for rows, _ in group), strict=True)
            ids, types, positions, segments = map(np.concatenate, tokens)
            yield Rows(ids, types, positions, segments, np.stack(first_tokens)), [members for _, members in group]
