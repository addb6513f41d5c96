"""The arithmetic: what the work costs, medians over rounds, ratios between contenders."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Round(NamedTuple):
    """One contender's work in one round, and the plain product's rate measured in that round.

    `useful` counts tokens that are not padding, `computed` those with it; `useful_flops` is what
    the useful tokens ask for; `peak` is in FLOP/s.
    """

    seconds: float
    steps: int
    examples: int
    useful: int
    computed: int
    useful_flops: float
    peak: float


def encoder_parameters(num_layers: int, hidden_size: int, intermediate_size: int) -> int:
    """Parameters of the layers, biases and LayerNorm included: each token meets all of them once."""
    attention = 4 * hidden_size * (hidden_size + 1)
    feed_forward = 2 * hidden_size * intermediate_size + hidden_size + intermediate_size
    return num_layers * (attention + feed_forward + 4 * hidden_size)


def useful_flops(settings: dict[str, Any], lengths: np.ndarray, *, training: bool) -> float:
    """FLOPs that examples of these lengths ask for: a token 6 P + 12 L D T in training, a third without.

    T is the example's own length: attention to padding, or across examples, is not asked for.
    """
    per_token = 6 * settings["encoder_parameters"] + 12 * settings["num_layers"] * settings["hidden_size"] * lengths
    return float(np.sum(per_token * lengths)) / (1 if training else 3)


def summary(rounds: Sequence[Round]) -> dict[str, float]:
    """Medians over rounds of what each round gives."""

    def median(values: Sequence[float]) -> float:
        return float(statistics.median(values))

    return {
        "useful_tokens_per_second": median([r.useful / r.seconds for r in rounds]),
        "examples_per_second": median([r.examples / r.seconds for r in rounds]),
        "step_seconds": median([r.seconds / r.steps for r in rounds]),
        "padding": 1 - sum(r.useful for r in rounds) / sum(r.computed for r in rounds),
        "share_of_peak": median([r.useful_flops / r.seconds / r.peak for r in rounds]),
        "share_of_peak_with_padding": median(
            [r.useful_flops * r.computed / r.useful / r.seconds / r.peak for r in rounds]
        ),
        "slowest_over_fastest": max(r.seconds / r.useful for r in rounds) / min(r.seconds / r.useful for r in rounds),
    }


def ratio(ours: Sequence[Round], theirs: Sequence[Round]) -> dict[str, float]:
    """Our useful tokens per second over theirs: of the medians, and the median of each round's ratio.

    A round's two runs lie side by side in time, so on a noisy machine the second is the firmer.
    """
    a, b = ([r.useful / r.seconds for r in rounds] for rounds in (ours, theirs))
    each = [x / y for x, y in zip(a, b, strict=True)]
    return {
        "of_medians": statistics.median(a) / statistics.median(b),
        "median_of_rounds": statistics.median(each),
        "least": min(each),
        "most": max(each),
    }
