"""The training loop of a run, from first line to last."""

import contextlib
import functools
import math
import os
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import jax
from rich.console import Console

from bert_jax.command import printable
from bert_jax.errors import UserError
from bert_jax.run_files import CHECKPOINTS, LOG

from ..config import TrainConfig
from ..data.prepare import Prepared
from ..metrics import SMALLER_IS_BETTER, Metrics
from ..report.console import CompileClock, in_words, ticker
from ..report.page import Measured
from ..step import hosts, memory
from .arrangement import Arrangement, arrange, build
from .checkpoints import Checkpoints
from .evaluation import Evaluation
from .finish import Figures, finish
from .finite import NotFinite, explain
from .record import record
from .run_directory import MetricsLog, RunDirectory
from .saving import Progress, Saving
from .stepping import Stepping
from .stopping import Interrupts, Stopped, leave
from .watchdog import Watchdog

LOG_EVERY = 10
"""Number of steps between two reads of metrics. A read waits until the steps are done."""


def run(
    config: TrainConfig,
    prepared: Prepared,
    console: Console,
    signals: Interrupts | None = None,
    watchdog: AbstractContextManager[Watchdog] | None = None,
) -> dict[str, Metrics]:
    """Train, keep the best model by `prepared.metric` on dev, and return its metrics on every evaluated split.

    Writes `run.json`, `metrics.jsonl`, `best/` and `checkpoints/` into the run directory, and resumes from the newest
    checkpoint there. Raises `UserError` before a step whose loss or gradients are not finite, and `Stopped` after a
    signal has asked the run to stop. In both cases, all steps before are saved.

    A command owns its process, so it passes `signals` and a `watchdog` that may end the process. Without them, Ctrl-C
    stops the run if the main thread calls this function, and nothing ends the process.
    """
    with contextlib.ExitStack() as stack:
        clock = stack.enter_context(CompileClock())
        arranged = arrange(config, prepared, console)
        facts = record(config, prepared, arranged.batches, arranged.steps) | {"attention": arranged.kernel}
        active_watchdog = stack.enter_context(watchdog or contextlib.nullcontext(Watchdog()))
        directory = hosts.on_first(
            lambda: stack.enter_context(RunDirectory(config.run_directory, facts, restart=config.restart))
        )
        checkpoints = directory and stack.enter_context(
            Checkpoints(
                directory.path / CHECKPOINTS, console.print, smaller_is_better=prepared.metric in SMALLER_IS_BETTER
            )
        )
        stopping = stack.enter_context(signals or Interrupts())
        training = None
        try:
            with stopping.aside(leave):
                training = Training(arranged, console, clock, checkpoints, stopping, active_watchdog)
                memory.preflight(config, arranged.batches_of, arranged.graph_of, training.trainer, arranged.batches)
            training.train(directory and directory.earlier)
            measured = training.evaluate_best()
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if not memory.is_lack(error):
                raise
            trainer = training and training.trainer
            raise memory.explain(
                config, arranged.batches_of, arranged.graph_of, trainer, arranged.batches, memory.limit()
            ) from None
        finish(arranged, console, facts, training.figures(), training.progress, measured, active_watchdog)
    return {name: result.metrics for name, result in measured.items()}


class Training:
    """One run: its steps, and between them evaluation, the best model, checkpoints, and being asked to stop."""

    def __init__(
        self,
        arranged: Arrangement,
        console: Console,
        clock: CompileClock,
        checkpoints: Checkpoints | None,
        stopping: Interrupts,
        watchdog: Watchdog,
    ):
        self._begun = time.monotonic()
        self._arranged, self._console, self._clock = arranged, console, clock
        self._stopping, self._watchdog = stopping, watchdog
        built = build(arranged)
        self.trainer, self._params, self._rates = built.trainer, built.params, built.rates
        self._evaluation = Evaluation(arranged, built.evaluator, stopping, watchdog)
        self._stepping = Stepping(arranged, built, clock, watchdog)
        self._saving = Saving(checkpoints, self.trainer, arranged.config.checkpoint_interval, watchdog)

    @property
    def progress(self) -> Progress:
        """How far the run has come."""
        return self._saving.progress

    def train(self, earlier: Mapping[str, Any] | None) -> None:
        """Train from the newest checkpoint, or from the start, to the end.

        `earlier` is the record of the earlier run in the directory, or None.
        """
        config = self._arranged.config
        with self._stopping.aside(leave):
            self._start(earlier)
            self._stepping.place_data()
        progress = self.progress
        path = config.run_directory / LOG if hosts.is_first() else None
        with (
            MetricsLog(path, progress.log_bytes, events=config.tensorboard) as self._log,
            ticker(self._console, self._arranged.steps, progress.step) as self._ticker,
        ):
            self._stepping.log_to(self._log, self._ticker)
            try:
                self._take_steps()
                self._watchdog.unknown()
                self._save_and_wait()
            except NotFinite as error:
                self._watchdog.unknown()
                progress.step = error.step - 1
                self._stepping.forget()
                self._save_and_wait()
                indices = self._arranged.batches.indices(progress.step)
                logits = functools.partial(self._evaluation.logits, self.trainer.parameters(self._stepping.state))
                raise explain(error, self._arranged.prepared, indices, logits, config.dtype) from None

    def evaluate_best(self) -> dict[str, Measured]:
        """Return the results of the best model, as it was saved, on every evaluated split."""
        return self._evaluation.of_best(self.progress)

    def figures(self) -> Figures:
        """Return how fast the run was."""
        return Figures(self._stepping.speed, self._clock, time.monotonic() - self._begun)

    def _start(self, earlier: Mapping[str, Any] | None) -> None:
        """Set the state to start or resume from, and print where the run resumes."""
        saving, config, steps = self._saving, self._arranged.config, self._arranged.steps
        params = self._params
        del self._params  # the state will have its own copy

        def announce() -> None:
            self._console.print(f"resumed  at step {saving.step} of {steps}")
            epochs = earlier["config"]["epochs"] if earlier else config.epochs
            if epochs != config.epochs and saving.step < steps:
                self._console.print(
                    f"rate     {self._rates[saving.step]:.3g} in the next step: the schedule is that of "
                    f"{config.epochs} epochs now, and was that of {epochs}",
                    soft_wrap=True,
                )

        self._stepping.state = saving.start(params, announce, resume=bool(earlier))

    def _take_steps(self) -> None:
        """Take all remaining steps, and evaluate after each epoch.

        Raises `Stopped`, after the current step is saved, if the run has been asked to stop.
        """
        progress, steps_per_epoch = self.progress, self._arranged.batches.steps_per_epoch
        patience = self._arranged.config.patience or math.inf
        try:
            self._stopping.check_all()
            while True:
                if progress.step % steps_per_epoch == 0 and progress.evaluated < progress.step:
                    self._evaluate_epoch()
                if progress.step >= self._arranged.steps or progress.waited >= patience:
                    break
                progress.step += self._stepping.dispatch(progress.step, lambda: self._stopping.aside(self._rescue))
                self._between()
        except Stopped as stopped:
            self._watchdog.unknown()
            self._save_before(stopped)
            raise

    def _between(self) -> None:
        """Between two dispatches: read metrics, stop and save, if each is due.

        Metrics are read for several steps at once, because reading waits for the steps.
        """
        step, alone = self.progress.step, jax.process_count() == 1
        urgent = alone and (self._stopping.asked or self._saving.is_due)
        ends_epoch = step % self._arranged.batches.steps_per_epoch == 0
        if not (ends_epoch or urgent or self._stepping.unread >= LOG_EVERY):
            return
        self._stepping.read_metrics(all=bool(ends_epoch or urgent))
        self._saving.check()
        self._stopping.check_all()
        # At the end of an epoch, the save follows the evaluation.
        if not ends_epoch and hosts.largest(self._saving.is_due):
            self._save()

    def _save(self) -> None:
        """Begin to write a checkpoint of the current step."""
        self._stepping.read_metrics()
        self._saving.save(self._stepping.state, self._log)

    def _save_and_wait(self) -> None:
        """Save the current step if it is not saved, and wait until its checkpoint is on the disk."""
        if self._saving.is_behind:
            self._save()
        self._saving.finish()

    def _save_before(self, stopped: Stopped) -> None:
        """Save the current step, and print that the run was stopped there."""
        self._save_and_wait()
        outcome = f"saved at step {self._saving.step}" if self._saving.step else "no step was done"
        self._console.print(f"{stopped}: {outcome}; the same again goes on from there")

    def _rescue(self, number: int, late: bool) -> None:
        """Save the run and end the process, from another thread, while the main thread compiles or evaluates.

        Return without doing so if there is something to save and `late` is false, or if a running step has the state.
        """
        if self._saving.is_behind and not late:
            return
        try:
            self._save_before(Stopped(number))
        except NotFinite:
            pass  # the resumed run will report this step
        except UserError as error:
            print(f"error: {printable(str(error))}", file=sys.stderr, flush=True)
            os._exit(2)
        except RuntimeError:  # a step is running; the main thread will see the signal after it
            return
        self._ticker.close()
        leave(number)

    def _evaluate_epoch(self) -> None:
        """Evaluate on dev, and save the model if it is the best so far."""
        progress, config, metric = self.progress, self._arranged.config, self._arranged.prepared.metric
        params = self.trainer.parameters(self._stepping.state)
        with self._watchdog.evaluation(), self._stopping.aside(self._rescue):
            dev = self._evaluation.on_dev(params)
        is_best = self._evaluation.keep(params, dev, progress)
        epoch = progress.step // self._arranged.batches.steps_per_epoch
        self._log.write(step=progress.step, epoch=epoch, split="dev", **dev.metrics)
        if hosts.largest(self._saving.is_due):
            self._save()
        summary = in_words(self._arranged.prepared.task, dev.metrics) + ("  (best so far)" if is_best else "")
        self._console.print(f"epoch {epoch}/{config.epochs}  dev {summary}", soft_wrap=True)
        if config.patience is not None and progress.waited >= config.patience and progress.step < self._arranged.steps:
            self._console.print(f"stopped  {progress.waited} epochs without a better {metric} (--patience)")
        self._stepping.speed.restart()
        self._evaluation.look()
