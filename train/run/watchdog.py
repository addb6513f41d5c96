"""End a run of several processes if one of them is stuck, and say where. The others would wait for ever."""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType

import jax

TICK = 1.0
"""Seconds between two ticks of the watchdog.

Ticks are counted instead of seconds, because a machine that sleeps makes no ticks and no progress.
"""

SHORT = 10
"""Minimum number of ticks without a beat after which a run counts as stuck."""

FACTOR = 4
"""The limit is this many times the longest time between two beats so far, if that is more than `SHORT`."""

GRACE = 2
"""Ticks that the first process waits before it ends.

All processes find out that the run is stuck, and JAX ends the others as soon as the first one ends.
"""

LONG = 1800
"""Limit in ticks for work that may take long and has not been measured: compiling, reading, writing."""

LAPS = 2
"""Laps of a new program before the usual limit holds: the first one compiles, and the second one is measured."""


class Watchdog:
    """Within `with`, end the process with code 1 if `beat` is not called in time, and print the stacks of all threads.

    Does nothing in a run of one process: its user can see that it is stuck, and no other process waits for it.
    """

    def __init__(self):
        self.step = 0
        self._ticks = self._last = self._longest = self._within = self._evaluations = 0
        self._unknown = LAPS
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if jax.process_count() > 1:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()

    @property
    def limit(self) -> int:
        """Number of ticks without a beat that are allowed at present."""
        return LONG if self._within or self._unknown else max(SHORT, FACTOR * self._longest)

    def beat(self) -> None:
        """Note that the run makes progress."""
        now = self._ticks
        if not self._within and self._unknown < LAPS:
            self._longest = max(self._longest, now - self._last)
        self._last = now

    def unknown(self) -> None:
        """Note that a new program comes. The limit is `LONG` until `LAPS` laps with this program are over."""
        self._unknown = LAPS
        self.beat()

    def lap(self) -> None:
        """Note that all work begun so far is done, and count one lap."""
        self.beat()
        self._unknown = max(0, self._unknown - 1)

    @contextlib.contextmanager
    def long(self) -> Iterator[None]:
        """Set the limit to `LONG` within the block, for work of this process, or of one that it waits for."""
        self.beat()
        self._within += 1
        try:
            yield
        finally:
            self._last = self._ticks
            self._within -= 1

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """Wrap each evaluation of the same examples, with a beat for each batch.

        The first `LAPS` evaluations have the limit `LONG`.
        """
        self.beat()
        before, self._unknown = self._unknown, max(self._unknown, LAPS - self._evaluations)
        self._evaluations += 1
        try:
            yield
        finally:
            self.beat()
            self._unknown = before

    def _watch(self) -> None:
        while not self._end.wait(TICK):
            self._ticks += 1
            if self._ticks - self._last > self.limit:
                self._give_up(self._ticks - self._last)

    def _give_up(self, idle: int) -> None:
        faulthandler.dump_traceback(all_threads=True)
        print(
            f"error: process {jax.process_index()} of {jax.process_count()} has made no progress for "
            f"{idle * TICK:.0f} s at step {self.step} (its threads are above): it is stuck, or waits for one "
            "that is; the same commands go on from the newest checkpoint",
            file=sys.stderr,
            flush=True,
        )
        if jax.process_index() == 0:  # so that the process that is stuck can say where
            time.sleep(GRACE * TICK)
        os._exit(1)
