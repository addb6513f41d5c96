"""The error for a step that was not taken because its loss or gradients are not finite, with the cause if known."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from bert_jax.errors import UserError
from bert_jax.packing import Tokens

from ..data.prepare import Prepared
from ..data.token_set import TokenSet
from ..step.train_step import StepMetrics
from .run_directory import MetricsLog

_ALONE = 512
"""Maximum number of a step's examples that are computed one by one to find the cause."""


class NotFinite(Exception):
    """Step `step`, counted from 1, was not taken: its loss `loss` or its gradient norm `norm` is not finite."""

    def __init__(self, step: int, loss: float, norm: float):
        super().__init__(step)
        self.step, self.loss, self.norm = step, loss, norm


def log_steps(log: MetricsLog, windows: list[tuple[int, int, StepMetrics]], rates: np.ndarray) -> float:
    """Log the steps of each window, and return the loss of the last step, or NaN if there are no windows.

    A window is `(first, count, metrics)`: the number of steps before the window, the number of steps to log, and the
    metrics of the window. `rates` are the learning rates of all steps. Raises `NotFinite` at the first step that was
    not taken. That step is not logged.
    """
    loss = math.nan
    for first, count, metrics in windows:
        for number, loss, norm in zip(range(count), metrics.loss.tolist(), metrics.grad_norm.tolist(), strict=False):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise NotFinite(first + number + 1, loss, norm)
            rate = float(rates[first + number])
            log.write(step=first + number + 1, loss=loss, grad_norm=norm, learning_rate=rate)
    return loss


def explain(
    found: NotFinite,
    prepared: Prepared,
    indices: Int[np.ndarray, " N"],
    answers: Callable[[Tokens], np.ndarray],
    dtype: str,
) -> UserError:
    """Return an error that names the step, its examples by file and line, and what to do.

    `indices` are the step's examples, and `answers` returns the logits of an example before the step. If the logits of
    some examples are not finite, the error names only these examples, because the other examples only shared rows or a
    sum with them.
    """
    culprits = [i for i in indices[:_ALONE] if not np.isfinite(answers(_tokens(prepared.data, i))).all()]
    place = prepared.train.place(*sorted(prepared.lines[culprits or indices].tolist()))
    value = f"the loss is {found.loss}" if not math.isfinite(found.loss) else f"the gradients' norm is {found.norm}"
    saved = f" (the run is saved at step {found.step - 1})" if found.step > 1 else ""
    cause = f"the model gives no finite answer to {place}" if culprits else f"its examples are {place}"
    only_some = 0 < len(culprits) < len(indices)
    remedy = "mend the model or leave these rows out" if only_some else "lower --learning-rate, or look at these rows"
    remedy += "" if dtype == "float32" else ", or use --dtype float32"
    return UserError(f"{value} at step {found.step}, which was not taken{saved}; {cause}; {remedy}")


def _tokens(data: TokenSet, i: int) -> Tokens:
    ids = data.ids[data.starts[i] :][: data.lengths[i]].astype(np.int32)
    return Tokens(ids, (np.arange(len(ids)) >= data.second[i]).astype(np.int32))
