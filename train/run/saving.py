"""What a run saves of itself while it trains, and how it resumes."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx

from ..step import hosts
from ..step.train_step import State
from ..step.trainer import Trainer
from .checkpoints import Checkpoints, filled, named
from .run_directory import MetricsLog
from .watchdog import Watchdog

T = TypeVar("T")


@dataclass
class Progress:
    """The progress of a run, which a checkpoint stores besides the arrays.

    `step` is the number of steps taken, and `evaluated` the step of the last evaluation, with its `score` on dev.
    `best` is the best score so far, and `dev` has all dev metrics of that model. `waited` is the number of epochs since
    then. `log_bytes` is the size of metrics.jsonl.
    """

    step: int = 0
    evaluated: int = 0
    best: float | None = None
    waited: int = 0
    dev: dict[str, Any] | None = None
    score: float | None = None
    log_bytes: int = 0


class Saving:
    """Saves a run's state and progress as checkpoints, and resumes from the newest one.

    Only the first process has `checkpoints`. All processes call the same methods, because a state that is sharded over
    processes is gathered, and a state that is read is sent to all. `interval` is a number of steps and of seconds
    after which a save is due.
    """

    def __init__(
        self, checkpoints: Checkpoints | None, trainer: Trainer, interval: tuple[float, float], watchdog: Watchdog
    ):
        self.progress, self.step = Progress(), 0
        self._checkpoints, self._trainer, self._interval, self._watchdog = checkpoints, trainer, interval, watchdog
        self._time = time.monotonic()

    def start(self, params: nnx.State, announce: Callable[[], None], *, resume: bool) -> State:
        """Return the state of the newest checkpoint, or without one that of step 0 with these parameters.

        Sets `progress` to match, and `step`, which is the step of the newest checkpoint. `announce` is called once a
        checkpoint has been read, and before its state is placed on the devices.
        """
        newest = self._on_first(lambda checkpoints: checkpoints.newest() if resume else None)
        progress = hosts.facts_from_first(newest and newest[0])
        if progress is None:
            return self._trainer.start(params)
        self.progress = Progress(**progress)
        self.step = self.progress.step
        template = jax.eval_shape(self._trainer.first_state, params)
        # A process that has not read the checkpoint receives it in place of these zeros.
        state = filled(template, newest[1]) if newest else jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), template)
        announce()
        return self._trainer.restored(hosts.from_first(state))

    @property
    def is_due(self) -> bool:
        """Whether so many steps, or so much time, have passed since the last save that another one is due."""
        steps, seconds = self._interval
        return self.progress.step - self.step >= steps or time.monotonic() - self._time >= seconds

    @property
    def is_behind(self) -> bool:
        """Whether steps have been taken that no checkpoint has."""
        return self.step < self.progress.step

    def save(self, state: State, log: MetricsLog) -> None:
        """Begin to write a checkpoint of this state, whose steps are in the log.

        Raises `RuntimeError` if a step has been dispatched meanwhile, because a step donates the state.
        """
        progress = self.progress
        with self._watchdog.long():
            arrays = named(self._trainer.whole(state))
            if any(array.is_deleted() for array in jax.tree.leaves(state)):
                raise RuntimeError("a step has taken the state meanwhile")
            progress.log_bytes = log.sync()
            facts = asdict(progress) | {"score": progress.score if progress.evaluated == progress.step else None}
            self._on_first(lambda checkpoints: checkpoints.save(progress.step, arrays, facts))
        self.step, self._time = progress.step, time.monotonic()

    def check(self) -> None:
        """Raise `UserError` if the checkpoint that is being written could not be written."""
        self._on_first(Checkpoints.check)

    def finish(self) -> None:
        """Wait until the newest checkpoint is on the disk. Raises `UserError` if it could not be written."""
        self._on_first(Checkpoints.finish)

    def _on_first(self, action: Callable[[Checkpoints], T]) -> T | None:
        """Call `action` by `hosts.on_first` with the checkpoints, which only the first process has."""
        return hosts.on_first(lambda: action(self._checkpoints) if self._checkpoints else None)
