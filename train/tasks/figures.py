"""The plots of a report as data. `train.report.plots` draws them, so that the tasks do not need matplotlib."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Confusion(NamedTuple):
    """A confusion matrix: `counts[i][j]` is the number of examples of class i that are predicted as j."""

    counts: Sequence[Sequence[int]]
    labels: Sequence[str]


class Bars(NamedTuple):
    """A bar for each label; `axis` says what the values are."""

    title: str
    values: Sequence[float]
    labels: Sequence[str]
    axis: str


class Histogram(NamedTuple):
    """A histogram of the values in one or two groups.

    `axis` says what the values are; if they belong to a label, it is named after that.
    """

    title: str
    groups: Mapping[str, np.ndarray]
    axis: str
    bounds: tuple[float, float]
    label: str = ""


class Scatter(NamedTuple):
    """Predicted against true numbers of a label."""

    title: str
    predicted: np.ndarray
    true: np.ndarray
    label: str


Figure = Confusion | Bars | Histogram | Scatter
