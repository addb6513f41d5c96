"""Being asked to stop: the step in hand is finished and saved, then the run ends as a shell expects."""

import os
import signal
from types import FrameType, TracebackType

from . import hosts


class Stopped(Exception):
    """Raised where a run may stop, once it was asked to by signal `number`."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


class Signals:
    """Within `with`, SIGTERM and SIGINT are noted; a second one ends the process at once.

    Orbax's own handler waits for `jax.distributed`, and does nothing for one process.
    """

    def __init__(self):
        self._number = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Signals":
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    @property
    def asked(self) -> bool:
        """Whether this process has been asked to stop."""
        return self._number != 0

    def check(self) -> None:
        """Raise `Stopped` if this process has been asked to; of several, all have to call `check_all` instead."""
        if self._number:
            raise Stopped(self._number)

    def check_all(self) -> None:
        """Raise `Stopped`, on every process of the run, if any has been asked to."""
        if number := hosts.largest(self._number):
            raise Stopped(number)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self._number:
            os._exit(128 + number)
        self._number = number
