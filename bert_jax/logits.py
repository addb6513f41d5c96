"""Logits of examples: batches of few shapes, sent to the device before the logits of earlier batches are fetched."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from bert_jax.compilation import compiler_options
from bert_jax.heads import SequenceClassifier
from bert_jax.packing import Rows, Tokens, prediction_batches

IN_FLIGHT = 4
"""Batches that the device still has to compute while the logits of an earlier batch are fetched.

Stopping early waits for these batches.
"""

_Tag = TypeVar("_Tag")


def make_apply(
    graphdef: nnx.GraphDef[SequenceClassifier], out_shardings: jax.sharding.Sharding | None = None
) -> Callable[[nnx.State, Rows], Float[Array, "N C"]]:
    """Return the jitted forward pass, without dropout, of a classifier that is split as `graphdef, params`.

    `out_shardings` is the sharding of the logits; without it, the compiler chooses one.
    """
    return jax.jit(
        lambda params, rows: nnx.merge(graphdef, params)(rows),
        out_shardings=out_shardings,
        compiler_options=compiler_options(),
    )


def batch_tokens() -> int:
    """Return the number of tokens in a prediction batch: enough to keep the device busy, few enough for caches."""
    return 1024 if jax.default_backend() == "cpu" else 32768


def packed_logits(
    apply: Callable[[Rows], Float[Array, "N C"]], examples: Sequence[Tokens], num_labels: int
) -> Float[np.ndarray, "N C"]:
    """Return the logits of every example, in the order given; each example is computed once.

    `apply` is a jitted function of packed rows. It is called with few different shapes.
    """
    out = np.empty((len(examples), num_labels), np.float32)
    for members, logits in late(apply, prediction_batches(examples, batch_tokens=batch_tokens()), IN_FLIGHT):
        out[members] = logits[: len(members)]
    return out


def late(
    apply: Callable[[Rows], Float[Array, "N C"]], batches: Iterable[tuple[Rows, _Tag]], in_flight: int
) -> Iterator[tuple[_Tag, Float[np.ndarray, "N C"]]]:
    """Yield the tag and the logits of every batch, in order.

    The logits of a batch are fetched while the device has up to `in_flight` later batches to compute.
    """
    pending: deque[tuple[_Tag, Array]] = deque()
    for rows, tag in batches:
        pending.append((tag, apply(rows)))
        if len(pending) > in_flight:
            first_tag, logits = pending.popleft()
            yield first_tag, np.asarray(logits)
    for tag, logits in pending:
        yield tag, np.asarray(logits)


def pooled(logits: Float[np.ndarray, "M C"], owners: Int[np.ndarray, " M"]) -> Float[np.ndarray, "N C"]:
    """Return the mean logits of each text over its windows.

    `owners` holds the index of the text that each window belongs to, in ascending order. Every text has at least one
    window.
    """
    count = int(owners[-1]) + 1 if len(owners) else 0
    if count == len(owners):
        return logits
    sums = np.zeros((count, logits.shape[1]), logits.dtype)
    np.add.at(sums, owners, logits)
    return sums / np.bincount(owners, minlength=count)[:, None].astype(logits.dtype)
