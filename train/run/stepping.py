"""Steps of a run on the devices, and the metrics that they leave there until the host reads them."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import jax

from ..data.token_set import TokenSet
from ..report.console import CompileClock, Speed, Ticker
from ..step import hosts, memory
from ..step.train_step import State, StepMetrics
from .arrangement import Arrangement, Built
from .finite import log_steps
from .run_directory import MetricsLog
from .watchdog import Watchdog


class Stepping:
    """Dispatches steps to the devices, and logs their metrics later, so that the host never waits for a single step.

    `state` is set before the first step, and belongs to the devices while a step runs, which donates it.
    """

    state: State

    def __init__(self, arranged: Arrangement, built: Built, clock: CompileClock, watchdog: Watchdog):
        self._arranged, self._trainer, self._rates, self._watchdog = arranged, built.trainer, built.rates, watchdog
        self.speed = Speed(clock)
        self._pending: list[tuple[int, int, StepMetrics]] = []
        self._data: TokenSet | None = None

    def place_data(self) -> None:
        """Put the random key on the devices, and the examples too if they fit there on every process."""
        data = self._arranged.prepared.data
        self._key = self._trainer.key(self._arranged.config.seed)
        self._data = self._trainer.place(data) if hosts.everyone(memory.fits(data)) else None

    def log_to(self, log: MetricsLog, ticker: Ticker) -> None:
        """Write metrics to `log`, and show them with `ticker`."""
        self._log, self._ticker = log, ticker

    def dispatch(self, step: int, aside: Callable[[], AbstractContextManager[None]]) -> int:
        """Dispatch the next window of steps, after `step` steps, and return the number of steps in the window.

        A program that is not compiled yet is compiled within `aside()`.
        """
        batches, trainer = self._arranged.batches, self._trainer
        count = batches.window_at(step)
        with jax.transfer_guard("disallow"):  # every transfer to the device must be explicit
            plan, num_rows = batches.plan(step, count)
            if num_rows not in trainer.compiled:
                self._watchdog.unknown()
            data = self._data
            if data is None:
                own, plan = batches.streamed(plan, self._arranged.layout.own_shards)
                data = trainer.place_own(own)
            placed = trainer.place_plan(plan, count, step)
            # Whoever saves the run meanwhile sees the old state, and notices if a step has it already.
            with aside():
                state, metrics = trainer(self.state, data, placed, self._key, num_rows)
            self.state = state
        self.speed.count(batches.computed(num_rows), batches.useful_tokens(step, count), count)
        self._watchdog.step = step
        self._watchdog.beat()
        self._pending.append((step, count, metrics))
        return count

    @property
    def unread(self) -> int:
        """The number of steps whose metrics have not been read."""
        return sum(count for _, count, _ in self._pending)

    def forget(self) -> None:
        """Leave metrics that have not been read unread."""
        self._pending = []

    def read_metrics(self, *, all: bool = True) -> None:
        """Log the steps whose metrics have not been read. Raises `NotFinite` at a step that was not taken.

        Unless `all` is true, the window that was dispatched last is left out. The devices then have work while the host
        plans the next steps.
        """
        ready = self._pending if all else self._pending[:-1]
        if not ready:
            return
        windows = []
        for step, count, metrics in ready:
            windows.append((step, count, self._trainer.metrics(metrics)))
            self._watchdog.beat()
        self._watchdog.lap()
        self._pending = [] if all else self._pending[-1:]
        loss = log_steps(self._log, windows, self._rates)
        self.speed.lap()
        self._ticker.update(ready[-1][0] + ready[-1][1], loss, self.speed.tokens_per_second)
