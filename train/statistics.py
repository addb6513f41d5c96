"""What a report says of an evaluation beyond its figures: how sure they are, calibration, the worst mistakes."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from bert_jax.config import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bert_jax.heads import scores_of

from .metrics import METRICS, measure

_RESAMPLES, _FEWEST, _WORK = 1000, 200, 20_000_000
"""Resamples of a bootstrap, fewer where these would take more than so many numbers, and never fewer than."""


def intervals(
    task: str, logits: Float[np.ndarray, "N C"], targets: Shaped[np.ndarray, "N ..."], seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95% confidence intervals of a task's figures, by the percentile bootstrap over examples (Efron, 1979).

    Up to 1,000 resamples with replacement, and at least 200 of large sets, the same ones for the same seed.
    """
    generator = np.random.default_rng(seed)
    count = int(np.clip(_WORK // logits.size, _FEWEST, _RESAMPLES))
    found = []
    for _ in range(count):
        chosen = generator.integers(0, len(logits), len(logits))
        metrics = measure(task, logits[chosen], targets[chosen])
        found.append([metrics[name] for name in METRICS[task]])
    low, high = np.percentile(found, [2.5, 97.5], axis=0)
    return {name: (float(a), float(b)) for name, a, b in zip(METRICS[task], low, high, strict=True)}


class Calibration(NamedTuple):
    """Of predictions in each bin of stated probability: how many, what was stated, and what share came true.

    `error` is the expected calibration error: the mean difference of the two, by count (Naeini et al., 2015).
    """

    counts: Int[np.ndarray, " bins"]
    stated: Float[np.ndarray, " bins"]
    true: Float[np.ndarray, " bins"]
    error: float


def calibration(
    task: str, logits: Float[np.ndarray, "N C"], targets: Shaped[np.ndarray, "N ..."], bins: int = 10
) -> Calibration | None:
    """In bins of equal width, of the predicted class, or of every label; None for a regression."""
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
    task: str, logits: Float[np.ndarray, "N C"], targets: Shaped[np.ndarray, "N ..."], count: int = 20
) -> list[int]:
    """The examples that are most wrong, at most `count`, the worst first.

    Of single labels those given a wrong one with the highest probability; of several, where the probabilities of
    wrong answers sum to most, if any is wrong; of a regression, those furthest off.
    """
    scores = scores_of(logits.astype(np.float64), task)
    if task == SINGLE_LABEL:
        wrong = np.where(scores.argmax(axis=1) != targets, scores.max(axis=1), 0)
    elif task == MULTI_LABEL:
        held = targets > 0.5
        wrong = np.where((held == (scores >= 0.5)).all(axis=1), 0, np.abs(held - scores).sum(axis=1))
    else:
        wrong = np.abs(scores - targets).max(axis=1)
    order = np.argsort(-wrong, kind="stable")[:count]
    return [int(i) for i in order if wrong[i] > 0]
