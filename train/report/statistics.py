"""Statistics of an evaluation besides its metrics: confidence intervals, calibration and the worst mistakes.

`task` is the name of a task. The task's own part of each statistic is in `train.tasks`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from bert_jax.scores import HALF, scores_of

from ..metrics import METRICS, Metrics
from ..tasks import TASKS, measure

_RESAMPLES, _FEWEST, _WORK = 1000, 200, 20_000_000
"""Number of bootstrap resamples: at most `_RESAMPLES`, at least `_FEWEST`, and else at most `_WORK` logits in all."""


def intervals(
    task: str,
    logits: Float[np.ndarray, "N C"],
    targets: Shaped[np.ndarray, "N ..."],
    seed: int = 0,
    threshold: float = HALF,
) -> dict[str, tuple[float, float]]:
    """Return 95% confidence intervals of a task's metrics, by the stratified percentile bootstrap (Efron, 1979).

    Examples are drawn with replacement within their stratum, such as their class, so that no class grows or vanishes.
    Strata of one example are drawn from together (collapsed strata), because they would never vary on their own. A
    metric that is undefined for a resample is left out of that resample. Each interval includes the metric itself,
    whatever the bias of the bootstrap. There are up to 1,000 resamples, and at least 200 for large sets. The same seed
    gives the same resamples.
    """
    training, names = TASKS[task], METRICS[task]
    overall = measure(task, logits, targets, threshold=threshold)

    def as_whole(indices: np.ndarray) -> Metrics:
        return measure(task, logits[indices], targets[indices], threshold=threshold, undefined=np.nan)

    resampled = as_whole if training.resampling is None else training.resampling(logits, targets, threshold)
    strata = _collapsed(training.strata(targets))
    order, counts = np.argsort(strata, kind="stable"), np.bincount(strata)
    starts, sizes = np.repeat(np.cumsum(counts) - counts, counts), np.repeat(counts, counts)
    generator = np.random.default_rng(seed)
    figures = np.empty((int(np.clip(_WORK // logits.size, _FEWEST, _RESAMPLES)), len(names)))
    for values in figures:
        metrics = resampled(order[starts + generator.integers(0, sizes)])
        values[:] = [metrics[name] for name in names]
    return {name: _bounds(values, overall[name]) for name, values in zip(names, figures.T, strict=True)}


def _bounds(values: Float[np.ndarray, " B"], figure: float) -> tuple[float, float]:
    """Return the interval of the middle 95% of the resampled values, widened to include the metric `figure` itself."""
    defined = values[~np.isnan(values)]
    low, high = np.percentile(defined, [2.5, 97.5]) if len(defined) else (figure, figure)
    return float(min(low, figure)), float(max(high, figure))


def _collapsed(ids: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Return the stratum of each example, numbered from 0 without gaps. Strata of one example become one stratum."""
    _, strata, sizes = np.unique(ids, return_inverse=True, return_counts=True)
    alone = sizes[strata] == 1
    return np.unique(np.where(alone, -1, strata), return_inverse=True)[1]


def absent(task: str, targets: Shaped[np.ndarray, "N ..."], metrics: Metrics, labels: Sequence[str]) -> str:
    """Return a remark on how macro averages count classes that the targets lack, or an empty string if none is due."""
    return TASKS[task].absent(targets, metrics, labels)


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
    """Return the calibration in bins of equal width, or None for a task without probabilities."""
    of_predictions = TASKS[task].stated
    if of_predictions is None:
        return None
    stated, true = of_predictions(scores_of(logits.astype(np.float64), task), targets)
    bin_of = np.minimum((stated * bins).astype(int), bins - 1)
    counts = np.bincount(bin_of, minlength=bins)
    divisors = np.maximum(counts, 1)
    means = [np.bincount(bin_of, weights=values, minlength=bins) / divisors for values in (stated, true)]
    error = float((counts * np.abs(means[0] - means[1])).sum() / counts.sum())
    return Calibration(counts, means[0], means[1], error)


def worst(
    task: str,
    logits: Float[np.ndarray, "N C"],
    targets: Shaped[np.ndarray, "N ..."],
    count: int = 20,
    threshold: float = HALF,
) -> list[int]:
    """Return the indices of the examples that are most wrong, at most `count`, the worst first."""
    wrong = TASKS[task].wrongness(scores_of(logits.astype(np.float64), task), targets, threshold)
    order = np.argsort(-wrong, kind="stable")[:count]
    return [int(i) for i in order if wrong[i] > 0]
