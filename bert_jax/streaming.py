"""Streams of texts through a compiled model: windows are prepared ahead, and results come in order of the texts."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from jaxtyping import Array, Float, Int
from numpy import ndarray

from bert_jax.logits import IN_FLIGHT, batch_tokens, late
from bert_jax.packing import Rows

_CHARACTERS = 256
"""Average number of characters of a text; a window of longer texts ends early, so that its memory is bounded."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Window(NamedTuple):
    """Texts that are read and packed together, and their outputs, which are filled in batch by batch.

    M is the number of examples. An example may be part of a text; `owners` holds the index of each example's text.
    `outputs` are what the model returns for the examples, such as logits.
    """

    inputs: list[tuple[str, ...]]
    owners: Int[ndarray, " M"]
    truncated: list[bool]
    batches: list[tuple[Rows, list[int]]]
    outputs: Float[ndarray, "M C"]

    def tagged(self) -> Iterator[tuple[Rows, tuple["Window", list[int], bool]]]:
        """Yield every batch with its window, the indices of its examples, and whether it is the window's last batch."""
        for number, (rows, members) in enumerate(self.batches, 1):
            yield rows, (self, members, number == len(self.batches))


def window_texts() -> int:
    """Return the number of texts that are read, packed and computed together, enough to fill many batches."""
    return max(4096, batch_tokens())


def computed(
    apply: Callable[[Rows], Float[Array, "N C"]],
    prepare: Callable[[list[tuple[str, ...]]], Window],
    inputs: Iterable[tuple[str, ...]],
    size: int,
    *,
    interactive: bool,
) -> Generator[Window, None, None]:
    """Yield windows of `size` inputs, or of fewer long ones, with their outputs, in order and in bounded memory.

    `apply` is a jitted function of packed rows. While the device computes, a separate thread calls `prepare` on the
    next inputs. So up to three windows are read ahead. With `interactive`, each input is computed before the next is
    read. The separate thread ends when the generator is closed, or when `inputs` raises an error.
    """
    size, ahead, in_flight = (1, 0, 0) if interactive else (size, 1, IN_FLIGHT)
    pool = ThreadPoolExecutor(1, "bert_jax-prepare")
    try:
        windows = _ahead(pool, prepare, _windows(inputs, size), ahead)
        batches = (batch for window in windows for batch in window.tagged())
        for (window, members, is_last), outputs in late(apply, batches, in_flight):
            window.outputs[members] = outputs[: len(members)]
            if is_last:
                yield window
    finally:
        pool.shutdown(cancel_futures=True)


def _windows(inputs: Iterable[tuple[str, ...]], size: int) -> Iterator[list[tuple[str, ...]]]:
    """Yield the inputs in windows of `size` inputs, or of fewer if the inputs are long."""
    window, characters = [], 0
    for item in inputs:
        window.append(item)
        characters += sum(map(len, item))
        if len(window) == size or characters >= size * _CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[_Item], _Result], items: Iterable[_Item], ahead: int
) -> Iterator[_Result]:
    """Yield `function(item)` of every item, in order; the pool computes up to `ahead` items in advance."""
    futures: deque[Future[_Result]] = deque()
    for item in items:
        futures.append(pool.submit(function, item))
        if len(futures) > ahead:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()
