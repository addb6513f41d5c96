"""The array layouts in which a tensor can differ between two projects; each is invertible."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """A pair of functions that convert an array from the foreign layout to the native one, and back."""

    to_native: Callable[[np.ndarray], np.ndarray]
    from_native: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda array: array, lambda array: array)
"""Layout of vectors and embedding tables, which do not differ."""

TRANSPOSED = Layout(np.transpose, np.transpose)
"""Layout of kernels: their shape is (outputs, inputs) in torch and (inputs, outputs) in Flax."""
