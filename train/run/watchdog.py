"""A run of several processes ends where one of them is stuck, and says where; the others would wait for ever."""

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
"""Seconds between two looks. Looks are counted, not seconds: a machine that was asleep has made no progress, either."""

SHORT = 10
"""Ticks without a beat after which a run is stuck, at least."""

FACTOR = 4
"""It is given this many times the longest time between two beats so far, where that is more."""

GRACE = 2
"""Ticks that the first process, which found the same, waits before it ends: JAX ends the others at once with it."""

LONG = 1800
"""Ticks given to what may take long and has not been measured: compiling, reading, writing."""

LAPS = 2
"""Of what is new, the first time is not measured (it compiles), the second is, and then the limit holds."""


class Watchdog:
    """Within `with`, ends the process with code 1 and all threads' stacks where `beat` is not called in time.

    Does nothing in a run of one process, which anybody can see is stuck, and which keeps nobody waiting.
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
        """Ticks without a beat that are too many, now."""
        return LONG if self._within or self._unknown else max(SHORT, FACTOR * self._longest)

    def beat(self) -> None:
        """The run makes progress."""
        now = self._ticks
        if not self._within and self._unknown < LAPS:
            self._longest = max(self._longest, now - self._last)
        self._last = now

    def unknown(self) -> None:
        """A new program comes: no limit holds until two laps with it are over, of which the second is measured."""
        self._unknown = LAPS
        self.beat()

    def lap(self) -> None:
        """What was begun is done."""
        self.beat()
        self._unknown = max(0, self._unknown - 1)

    @contextlib.contextmanager
    def long(self) -> Iterator[None]:
        """What is done in here may take long, by this process or by one that it waits for."""
        self.beat()
        self._within += 1
        try:
            yield
        finally:
            self._last = self._ticks
            self._within -= 1

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """Around each evaluation of the same examples, with a beat for each batch."""
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
        if jax.process_index() == 0:  # the one that is stuck is to say where
            time.sleep(GRACE * TICK)
        os._exit(1)
