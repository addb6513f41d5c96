"""Statistics of an evaluation besides its metrics: confidence intervals, calibration and the worst mistakes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from bert_jax.command import printable
from bert_jax.errors import some
from bert_jax.scores import HALF, scores_of
from bert_jax.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL

from ..metrics import METRICS, Metrics, measure

_RESAMPLES, _FEWEST, _WORK = 1000, 200, 20_000_000
"""Number of bootstrap resamples: at most `_RESAMPLES`, at least `_FEWEST`, and else at most `_WORK` logits in all."""

_SHOWN = 10
"""Maximum number of classes that a remark names."""


def intervals(
    task: str,
    logits: Float[np.ndarray, "N C"],
    targets: Shaped[np.ndarray, "N ..."],
    seed: int = 0,
    threshold: float = HALF,
) -> dict[str, tuple[float, float]]:
    """Return 95% confidence intervals of a task's metrics, by the stratified percentile bootstrap (Efron, 1979).

    Examples are drawn with replacement within their class, so that no class grows or vanishes. A text with several
    labels is drawn within its rarest label. Classes of one example are drawn from together (collapsed strata), because
    they would never vary on their own. A metric that is undefined for a resample is left out of that resample. Each
    interval includes the metric itself, whatever the bias of the bootstrap. There are up to 1,000 resamples, and at
    least 200 for large sets. The same seed gives the same resamples.
    """
    whole = measure(task, logits, targets, threshold=threshold)
    strata = _strata(task, targets)
    order, counts = np.argsort(strata, kind="stable"), np.bincount(strata)
    first, sizes = np.repeat(np.cumsum(counts) - counts, counts), np.repeat(counts, counts)
    held = targets.any(axis=0) if task == MULTI_LABEL else np.ones(1, bool)
    how = {"threshold": threshold, "undefined": np.nan}
    generator = np.random.default_rng(seed)
    found = np.empty((int(np.clip(_WORK // logits.size, _FEWEST, _RESAMPLES)), len(METRICS[task])))
    for values in found:
        chosen = order[first + generator.integers(0, sizes)]
        metrics = measure(task, logits[chosen], targets[chosen], **how)
        if held.any() and not held.all():  # labels without examples count as 0 in each resample
            of_held = measure(task, logits[chosen][:, held], targets[chosen][:, held], **how)
            metrics |= {name: held.mean() * of_held[name] for name in ("macro_f1", "map")}
        values[:] = [metrics[name] for name in METRICS[task]]
    return {name: _bounds(values, whole[name]) for name, values in zip(METRICS[task], found.T, strict=True)}


def _bounds(values: Float[np.ndarray, " B"], figure: float) -> tuple[float, float]:
    """Return the interval of the middle 95% of the resampled values, widened to include the metric `figure` itself."""
    known = values[~np.isnan(values)]
    low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (figure, figure)
    return float(min(low, figure)), float(max(high, figure))


def _strata(task: str, targets: Shaped[np.ndarray, "N ..."]) -> Int[np.ndarray, " N"]:
    """Return the stratum of each example. Strata are numbered from 0 without gaps."""
    if task == REGRESSION:
        return np.zeros(len(targets), np.int64)
    if task == MULTI_LABEL:
        held = targets > 0.5
        counts = np.where(held, held.sum(axis=0), len(targets) + 1)
        targets = np.where(held.any(axis=1), counts.argmin(axis=1), targets.shape[1])
    _, strata, sizes = np.unique(targets, return_inverse=True, return_counts=True)
    alone = sizes[strata] == 1
    return np.unique(np.where(alone, -1, strata), return_inverse=True)[1]


def absent(task: str, targets: Shaped[np.ndarray, "N ..."], metrics: Metrics, labels: Sequence[str]) -> str:
    """Return a remark on how macro averages count classes that the targets lack, or an empty string if none is due."""
    if task == REGRESSION:
        return ""
    if task == MULTI_LABEL:
        names = [name for name, some in zip(labels, (targets > 0.5).sum(axis=0), strict=True) if not some]
        said = "no text has {}: 0 in macro F1 and mAP"
    else:
        names = [name for name, f1 in zip(labels, metrics["f1"], strict=True) if f1 is None]
        said = "no text is, or is taken for, {}: not in macro F1"
    return said.format(some([*map(printable, names)], _SHOWN)) if names else ""


class Calibration(NamedTuple):
    """Calibration of predictions in bins of predicted probability.

    For each bin, `counts` is the number of predictions, `stated` their mean predicted probability, and `true` the share
    of them that came true. `error` is the expected calibration error: the mean absolute difference of `stated` and
    `true`, weighted by `counts` (Naeini et al., 2015).
    """

    counts: Int[np.ndarray, " bins"]
    stated: Float[np.ndarray, " bins"]
    true: Float[np.ndarray, " bins"]
    error: float


def calibration(
    task: str, logits: Float[np.ndarray, "N C"], targets: Shaped[np.ndarray, "N ..."], bins: int = 10
) -> Calibration | None:
    """Return the calibration in bins of equal width, or None for a regression.

    The predictions are the predicted class of each text for single labels, and every label of each text for several.
    """
    if task == REGRESSION:
        return None
    scores = scores_of(logits.astype(np.float64), task)
    if task == SINGLE_LABEL:
        stated, true = scores.max(axis=1), scores.argmax(axis=1) == targets
    else:
        stated, true = scores.ravel(), targets.ravel() > 0.5
    bin_of = np.minimum((stated * bins).astype(int), bins - 1)
    counts = np.bincount(bin_of, minlength=bins)
    some = np.maximum(counts, 1)
    means = [np.bincount(bin_of, weights=values, minlength=bins) / some for values in (stated, true)]
    error = float((counts * np.abs(means[0] - means[1])).sum() / counts.sum())
    return Calibration(counts, means[0], means[1], error)


def worst(
    task: str,
    logits: Float[np.ndarray, "N C"],
    targets: Shaped[np.ndarray, "N ..."],
    count: int = 20,
    threshold: float = HALF,
) -> list[int]:
    """Return the indices of the examples that are most wrong, at most `count`, the worst first.

    For single labels, these are the wrong predictions with the highest probability. For several labels, they are the
    examples with a wrong label, by the probability of the wrong answer summed over all labels. For a regression, they
    are the examples with the largest error.
    """
    scores = scores_of(logits.astype(np.float64), task)
    if task == SINGLE_LABEL:
        wrong = np.where(scores.argmax(axis=1) != targets, scores.max(axis=1), 0)
    elif task == MULTI_LABEL:
        held = targets > 0.5
        wrong = np.where((held == (scores >= threshold)).all(axis=1), 0, np.abs(held - scores).sum(axis=1))
    else:
        wrong = np.abs(scores - targets).max(axis=1)
    order = np.argsort(-wrong, kind="stable")[:count]
    return [int(i) for i in order if wrong[i] > 0]
