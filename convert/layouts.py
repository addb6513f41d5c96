"""The few array layouts in which a tensor can differ between two projects, each invertible."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """How an array is turned from the foreign form into the native one, and back."""

    to_native: Callable[[np.ndarray], np.ndarray]
    from_native: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda array: array, lambda array: array)
"""Vectors and embedding tables."""

TRANSPOSED = Layout(np.transpose, np.transpose)
"""Kernels: torch keeps (outputs, inputs), Flax (inputs, outputs)."""
