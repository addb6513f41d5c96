"""Stop a run after a signal: the current step is finished and saved, then the run ends.

A library leaves the process to its owner (`Interrupts`). A command owns its process, and ends the process as a shell
expects (`Signals`).
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Any

import jax

from ..step import hosts

PATIENCE, LOOKS = 4.0, 0.5
"""Seconds that the main thread has to answer a signal, and seconds between two checks whether it has answered."""

Rescue = Callable[[int, bool], None]


class Stopped(Exception):
    """Raised at a point where a run can stop, after signal `number` has asked it to stop."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


def leave(number: int, late: bool = False) -> None:
    """End the process with the exit code for signal `number`. This is a `Rescue` for when there is nothing to save."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # the stream may be broken, closed or None
            stream.flush()
    os._exit(128 + number)


class Interrupts:
    """Within `with`, note the first Ctrl-C (SIGINT), so that the run stops after its step. Python handles the second.

    Only the handler of SIGINT is changed, only in the main thread, and only if it is Python's own handler. The handler
    is restored at the end. A Ctrl-C that came too late to stop the run then raises `KeyboardInterrupt`.
    """

    def __init__(self):
        self._number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._put_back()
        if self._number and kind is None:
            raise KeyboardInterrupt

    @property
    def asked(self) -> bool:
        """Return whether this process has been asked to stop."""
        return self._number != 0

    def check(self) -> None:
        """Raise `Stopped` if this process has been asked to stop.

        In a run of several processes, all of them must call `check_all` instead.
        """
        if self._number:
            raise Stopped(self._number)

    def check_all(self) -> None:
        """Raise `Stopped`, on every process of the run, if any process has been asked to stop."""
        if number := hosts.largest(self._number):
            raise Stopped(number)

    def aside(self, rescue: Rescue) -> AbstractContextManager[None]:
        """Return a context for code during which no signal handler can run. Only `Signals` calls `rescue`."""
        return contextlib.nullcontext()

    def _note(self, number: int, _: FrameType | None) -> None:
        self._number = number
        self._put_back()

    def _put_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Signals(Interrupts):
    """Within `with`, note the first SIGTERM or SIGINT; a second one ends the process at once. For commands only.

    A separate thread also receives the signals, because the main thread may be in the compiler, where Python's handlers
    have to wait. Orbax has a handler of its own, but it waits for `jax.distributed`, and does nothing for one process.
    """

    def __init__(self):
        super().__init__()
        self._lock = threading.Lock()
        self._rescue: Rescue | None = None

    def __enter__(self) -> "Signals":
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._wakeup = signal.set_wakeup_fd(self._write)
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        self._thread = threading.Thread(target=self._watch, name="bert_jax-signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._put_back()
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._write)
        self._thread.join()
        os.close(self._read)

    @contextlib.contextmanager
    def aside(self, rescue: Rescue) -> Iterator[None]:
        """Within this block of the main thread, `rescue(number, late)` may end the process from another thread.

        `rescue` is called when a signal comes, and then every `LOOKS` seconds. `late` is true from `PATIENCE` seconds
        after the signal on. `rescue` returns if it cannot end the process yet. With several processes, `rescue` is
        never called.
        """
        self._set(rescue if jax.process_count() == 1 else None)
        try:
            yield
        finally:
            self._set(None)  # waits until a `rescue` that is running returns

    def _set(self, rescue: Rescue | None) -> None:
        with self._lock:
            self._rescue = rescue

    def _note(self, number: int, _: FrameType | None) -> None:
        self._number = self._number or number

    def _watch(self) -> None:
        """Read the numbers of signals as they come, and after the first one keep calling the `rescue` that is set.

        A second signal ends the process.
        """
        first, since = 0, 0.0
        while True:
            if select.select([self._read], [], [], LOOKS if first else None)[0]:
                received = os.read(self._read, 1)
                if not received:
                    return
                if received[0] not in self._before:
                    continue
                if first:
                    os._exit(128 + received[0])
                first, since = received[0], time.monotonic()
                self._note(first, None)
            threading.Thread(target=self._try, args=(first, time.monotonic() - since > PATIENCE), daemon=True).start()

    def _try(self, number: int, late: bool) -> None:
        if self._lock.acquire(blocking=False):
            try:
                if self._rescue is not None:
                    self._rescue(number, late)
            finally:
                self._lock.release()
