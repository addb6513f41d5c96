"""The training run, from its first printed line to its last."""

import contextlib
import functools
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console

from bert_jax.attention import kernel_for
from bert_jax.command import printable
from bert_jax.config import MULTI_LABEL
from bert_jax.errors import UserError
from bert_jax.files import write_json
from bert_jax.heads import SequenceClassifier, example_losses
from bert_jax.optimizer import fine_tuning, linear_schedule
from bert_jax.packing import Tokens
from bert_jax.parameters import build_classifier
from bert_jax.scores import HALF

from ..config import BEST, TrainConfig
from ..data.prepare import Prepared
from ..data.token_set import TokenSet
from ..metrics import SMALLER_IS_BETTER, Metrics, best_threshold, better, measure
from ..report import outcome, page
from ..report.console import CompileClock, Speed, closing_table, in_words, ticker
from ..report.page import Measured
from ..report.statistics import absent
from ..step import hosts, memory
from ..step.batches import Batches
from ..step.evaluator import Evaluator
from ..step.layouts import Layout, default_window, make_layout, row_multiple
from ..step.network import agreed_attention, check_attention, settings
from ..step.train_step import State, StepMetrics
from ..step.trainer import Trainer
from .checkpoints import Checkpoints, filled, named
from .finite import NotFinite, explain, log_steps
from .record import describe, record, save_best, saved_best
from .run_directory import MetricsLog, RunDirectory, writing
from .stopping import Interrupts, Stopped, leave
from .watchdog import Watchdog

T = TypeVar("T")

LOG_EVERY = 10
"""Number of steps between two reads of metrics. A read waits until the steps are done."""


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
    with CompileClock() as clock:
        watching = contextlib.nullcontext(Watchdog()) if watchdog is None else watchdog
        return _run(config, prepared, console, clock, signals or Interrupts(), watching)


def _run(
    config: TrainConfig,
    prepared: Prepared,
    console: Console,
    clock: CompileClock,
    stopping: Interrupts,
    watching: AbstractContextManager[Watchdog],
) -> dict[str, Metrics]:
    network = prepared.checkpoint.config
    layout = make_layout(network, config.parallel, config.model_parallel, config.shard_parameters)

    def make(config: TrainConfig, data: TokenSet) -> Batches:
        return Batches(
            data,
            batch_size=config.batch_size,
            seed=config.seed,
            micro=config.accumulate,
            shards=layout.shards,
            window=config.steps_per_dispatch or default_window(),
            multiple=row_multiple(),
        )

    def graph(config: TrainConfig) -> nnx.GraphDef:
        how: dict[str, Any] = settings(config, attention) | {"dtype": jnp.dtype(config.dtype)}
        return nnx.split(nnx.eval_shape(lambda: SequenceClassifier(network, rngs=nnx.Rngs(0), **how)))[0]

    batches = make(config, prepared.data)
    check_attention(config.attention, batches.shapes.row_length, network.head_size)
    attention = agreed_attention(config.attention, console)
    console.print(describe(batches, layout))
    facts = record(config, prepared, batches, config.epochs * batches.steps_per_epoch)
    facts["attention"] = kernel_for(attention, batches.shapes.row_length, network.head_size)
    with contextlib.ExitStack() as stack:
        watchdog = stack.enter_context(watching)
        first = hosts.on_first(
            lambda: stack.enter_context(RunDirectory(config.run_directory, facts, restart=config.restart))
        )
        smaller = prepared.metric in SMALLER_IS_BETTER
        checkpoints = first and stack.enter_context(
            Checkpoints(first.path / "checkpoints", console.print, smaller_is_better=smaller)
        )
        signals = stack.enter_context(stopping)
        trainer = None
        try:
            with signals.aside(leave):
                this = _Run(
                    config, prepared, console, clock, layout, batches, attention, checkpoints, signals, watchdog
                )
                trainer = this.trainer
                memory.preflight(config, make, graph, trainer, batches)
            measured = this.train(first and first.earlier)
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if not memory.is_lack(error):
                raise
            raise memory.explain(config, make, graph, trainer, batches, memory.limit()) from None
        this.finish(facts, measured)
    return {name: one.metrics for name, one in measured.items()}


class _Run:
    """The parts of one run, and its progress."""

    def __init__(
        self,
        config: TrainConfig,
        prepared: Prepared,
        console: Console,
        clock: CompileClock,
        layout: Layout,
        batches: Batches,
        attention: str,
        checkpoints: Checkpoints | None,
        signals: Interrupts,
        watchdog: Watchdog,
    ):
        self.start = time.monotonic()
        self.config, self.prepared, self.console, self.clock = config, prepared, console, clock
        self.layout, self.batches, self.checkpoints, self.signals = layout, batches, checkpoints, signals
        self.watchdog = watchdog
        self.network, self.out = prepared.checkpoint.config, config.run_directory
        self.steps = config.epochs * batches.steps_per_epoch
        self.settings = settings(config, attention)
        model = build_classifier(self.network, prepared.checkpoint.tensors, **self.settings)
        graphdef, self.params = nnx.split(model)
        optimizer = fine_tuning(
            config.learning_rate,
            steps=self.steps,
            warmup_steps=round(config.warmup * self.steps),
            weight_decay=config.weight_decay,
            clip_norm=config.clip_norm,
            layer_decay=config.layer_decay,
            frozen=self.settings["frozen"],
        )
        rates = linear_schedule(config.learning_rate, self.steps, round(config.warmup * self.steps))
        self.rates = np.asarray(jax.jit(jax.vmap(rates))(np.arange(self.steps)))
        loss = functools.partial(
            example_losses,
            task=prepared.task,
            smoothing=config.label_smoothing,
            class_weights=prepared.class_weights,
        )
        self.trainer = Trainer(layout, graphdef, optimizer, self.params, batches.shapes.row_length, loss)
        self.evaluate = Evaluator(layout, graphdef, len(self.network.labels), prepared.task)
        self.speed = Speed(clock)
        self.pending: list[tuple[int, int, StepMetrics]] = []
        self.progress, self.saved, self.saved_at = Progress(), 0, time.monotonic()

    def train(self, earlier: Mapping[str, Any] | None) -> dict[str, Measured]:
        """Train from the newest checkpoint, or from the start, to the end. Return the best model's results by split.

        `earlier` is the record of the earlier run in the directory, or None.
        """
        config, batches, data = self.config, self.batches, self.prepared.data
        with self.signals.aside(leave):
            self.state = self._begin(earlier)
            key = self.trainer.key(config.seed)
            resident = self.trainer.place(data) if hosts.everyone(memory.fits(data)) else None
        here = self.progress
        path = self.out / "metrics.jsonl" if hosts.is_first() else None
        with (
            MetricsLog(path, here.log_bytes, events=config.tensorboard) as self.log,
            ticker(self.console, self.steps, here.step) as self.show,
        ):
            try:
                self._take_steps(key, resident)
                self.watchdog.unknown()
                self._save_all()
            except NotFinite as found:
                self.watchdog.unknown()
                here.step, self.pending = found.step - 1, []
                self._save_all()
                raise explain(found, self.prepared, batches.indices(here.step), self._answers, config.dtype) from None
        tensors = hosts.from_first(saved_best(self.out / "best", self.network))  # the model as it was saved
        kept = self.layout.put(nnx.split(build_classifier(self.network, tensors, **self.settings))[1])
        with self.signals.aside(leave):
            threshold = (here.dev or {}).get("threshold", HALF)  # saved with the best model
            return {name: self._measure(kept, name, threshold) for name in self.prepared.evaluated}

    def finish(self, record: dict[str, Any], measured: dict[str, Measured]) -> None:
        """Write the report, complete run.json, and print the closing table."""
        speed, clock = self.speed, self.clock
        seconds = time.monotonic() - self.start
        figures = {**speed.figures(), **clock.figures(), "total_seconds": seconds}
        results = {name: one.metrics for name, one in measured.items()}
        here = self.progress
        record |= {"figures": figures, "ended": {"step": here.step, "waited": here.waited}, "best": results}
        facts = {
            "compiled": f"{len(speed.shapes)} shapes of the step; {clock.describe()}",
            "speed": f"{speed.steps_per_second:.2f} steps/s, {speed.tokens_per_second:,.0f} useful tokens/s",
            "useful tokens": f"{speed.useful_share:.1%} of those computed",
            "time": f"{seconds:.0f} s",
            "model": str(self.out / "best"),
            "report": str(self.out / page.NAME),
        }
        if self.prepared.task == MULTI_LABEL:
            facts["threshold"] = f"{results['dev']['threshold']:g}: the probability from which a label holds"
        with writing(self.out / page.NAME), self.watchdog.long():
            record["intervals"] = hosts.on_first(
                lambda: {name: one.intervals(self.prepared.task) for name, one in measured.items()}
            )
            hosts.on_first(lambda: outcome.write(self.out, self.config, self.prepared, record, facts, measured))
        with writing(self.out / "run.json"):  # last, because a run with results in run.json is finished
            hosts.on_first(lambda: write_json(self.out / "run.json", record))
        closing_table(self.console, self.prepared.task, self.network.labels, results, facts)
        for name, one in measured.items():
            if said := absent(self.prepared.task, one.targets, one.metrics, self.network.labels):
                self.console.print(f"on {name}: {said}", soft_wrap=True)

    def _look(self) -> None:
        """Raise `Stopped`, between the batches of an evaluation, if this process has been asked to stop.

        With several processes, only tell the watchdog of the progress. They stop later, all at the same point.
        """
        self.signals.check() if jax.process_count() == 1 else self.watchdog.beat()

    def _answers(self, example: Tokens) -> np.ndarray:
        """Return the logits of one example with the current parameters."""
        return self.evaluate.logits(self.trainer.parameters(self.state), [example])

    def _measure(self, params: nnx.State, name: str, threshold: float | None) -> Measured:
        """Return the results of these parameters on a split.

        Labels are predicted from the probability `threshold` on. None stands for the best threshold on this split.
        """
        task, metric = self.prepared.task, self.prepared.metric
        examples, targets, owners, split = self.prepared.evaluated[name]
        logits = self.evaluate.logits(params, examples, owners, self._look)
        if threshold is None:
            threshold = best_threshold(logits, targets, metric)
        return Measured(split, logits, targets, measure(task, logits, targets, threshold=threshold))

    def _begin(self, earlier: Mapping[str, Any] | None) -> State:
        """Return the state to start or resume from, and set `progress` and `saved` to match."""
        trainer, params = self.trainer, self.params
        del self.params  # the state will have its own copy
        found = self._on_checkpoints(lambda checkpoints: checkpoints.newest() if earlier else None)
        facts = hosts.facts_from_first(found and found[0])
        if facts is None:
            return trainer.start(params)
        self.progress = Progress(**facts)
        self.saved = self.progress.step
        template = jax.eval_shape(trainer.first_state, params)
        state = filled(template, found[1]) if found else jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), template)
        self.console.print(f"resumed  at step {self.saved} of {self.steps}")
        epochs = earlier["config"]["epochs"] if earlier else self.config.epochs
        if epochs != self.config.epochs and self.saved < self.steps:
            self.console.print(
                f"rate     {self.rates[self.saved]:.3g} in the next step: the schedule is that of "
                f"{self.config.epochs} epochs now, and was that of {epochs}",
                soft_wrap=True,
            )
        return trainer.restored(hosts.from_first(state))

    def _take_steps(self, key: jax.Array, resident: TokenSet | None) -> None:
        """Take all remaining steps, and evaluate after each epoch.

        Raises `Stopped`, after the current step is saved, if the run has been asked to stop.
        """
        here, each = self.progress, self.batches.steps_per_epoch
        try:
            self.signals.check_all()
            while True:
                if here.step % each == 0 and here.evaluated < here.step:
                    self._evaluate_epoch()
                if here.step >= self.steps or here.waited >= (self.config.patience or math.inf):
                    break
                self._dispatch(key, resident)
                self._between()
        except Stopped as stopped:
            self.watchdog.unknown()
            self._leave(stopped)
            raise

    def _dispatch(self, key: jax.Array, resident: TokenSet | None) -> None:
        """Dispatch the next window of steps to the devices."""
        step, batches, trainer = self.progress.step, self.batches, self.trainer
        count = batches.window_at(step)
        with jax.transfer_guard("disallow"):  # every transfer to the device must be explicit
            plan, num_rows = batches.plan(step, count)
            if num_rows not in trainer.compiled:
                self.watchdog.unknown()
            data = resident
            if data is None:
                own, plan = batches.streamed(plan, self.layout.own_shards)
                data = trainer.place_own(own)
            placed = trainer.place_plan(plan, count, step)
            with self.signals.aside(self._rescue):
                self.state, metrics = trainer(self.state, data, placed, key, num_rows)
        self.speed.count(batches.computed(num_rows), batches.useful_tokens(step, count), count)
        self.watchdog.step = step
        self.watchdog.beat()
        self.pending.append((step, count, metrics))
        self.progress.step += count

    def _between(self) -> None:
        """Between two dispatches: read metrics, stop and save, if each is due.

        Metrics are read for several steps at once, because reading waits for the steps.
        """
        step, alone = self.progress.step, jax.process_count() == 1
        urgent = alone and (self.signals.asked or self._due())
        ends = step % self.batches.steps_per_epoch == 0
        if not (ends or urgent or step - self.pending[0][0] >= LOG_EVERY):
            return
        self._flush(all=bool(ends or urgent))
        self._on_checkpoints(Checkpoints.check)
        self.signals.check_all()
        if not ends and hosts.largest(self._due()):  # at the end of an epoch, the save follows the evaluation
            self._save()

    def _on_checkpoints(self, action: Callable[[Checkpoints], T]) -> T | None:
        """Call `action` by `hosts.on_first` with the checkpoints, which only the first process has."""
        return hosts.on_first(lambda: action(self.checkpoints) if self.checkpoints else None)

    def _due(self) -> bool:
        steps, seconds = self.config.checkpoint_interval
        return self.progress.step - self.saved >= steps or time.monotonic() - self.saved_at >= seconds

    def _flush(self, *, all: bool = True) -> None:
        """Log the steps whose metrics have not been read.

        Unless `all` is true, the window that was dispatched last is left out. The devices then have work while the host
        plans the next steps.
        """
        ready = self.pending if all else self.pending[:-1]
        if not ready:
            return
        windows = []
        for first, n, values in ready:
            windows.append((first, n, self.trainer.metrics(values)))
            self.watchdog.beat()
        self.watchdog.lap()
        self.pending = [] if all else self.pending[-1:]
        loss = log_steps(self.log, windows, self.rates)
        self.speed.lap()
        self.show.update(ready[-1][0] + ready[-1][1], loss, self.speed.tokens_per_second)

    def _save(self) -> None:
        """Begin to write a checkpoint of the current step.

        Raises `RuntimeError` if a step has been dispatched meanwhile, because a step donates the state.
        """
        self._flush()
        here = self.progress
        with self.watchdog.long():
            arrays = named(self.trainer.whole(self.state))
            if any(array.is_deleted() for array in jax.tree.leaves(self.state)):
                raise RuntimeError("a step has taken the state meanwhile")
            here.log_bytes = self.log.sync()
            facts = asdict(here) | {"score": here.score if here.evaluated == here.step else None}
            self._on_checkpoints(lambda checkpoints: checkpoints.save(here.step, arrays, facts))
        self.saved, self.saved_at = here.step, time.monotonic()

    def _save_all(self) -> None:
        """Save the current step if it is not saved, and wait until its checkpoint is on the disk."""
        if self.saved < self.progress.step:
            self._save()
        self._on_checkpoints(Checkpoints.finish)

    def _leave(self, stopped: Stopped) -> None:
        self._save_all()
        where = f"saved at step {self.saved}" if self.saved else "no step was done"
        self.console.print(f"{stopped}: {where}; the same again goes on from there")

    def _rescue(self, number: int, late: bool) -> None:
        """Save the run and end the process, from another thread, while the main thread compiles or evaluates.

        Return without doing so if there is something to save and `late` is false, or if a running step has the state.
        """
        if self.saved < self.progress.step and not late:
            return
        try:
            self._leave(Stopped(number))
        except NotFinite:
            pass  # the resumed run will report this step
        except UserError as error:
            print(f"error: {printable(str(error))}", file=sys.stderr, flush=True)
            os._exit(2)
        except RuntimeError:  # a step is running; the main thread will see the signal after it
            return
        self.show.close()
        leave(number)

    def _evaluate_epoch(self) -> None:
        """Evaluate on dev, and save the model if it is the best so far."""
        here, config = self.progress, self.config
        params = self.trainer.parameters(self.state)
        with self.watchdog.evaluation(), self.signals.aside(self._rescue):
            threshold = None if config.threshold == BEST else float(config.threshold or HALF)
            dev = self._measure(params, "dev", threshold).metrics
        metric = self.prepared.metric
        score = dev[metric]
        is_better = better(metric, score, here.best)
        here.waited = 0 if is_better else here.waited + 1
        if is_better:
            with self.watchdog.long():
                hosts.on_first(lambda: save_best(self.out / "best", self.prepared.checkpoint, params, dev))
            here.best, here.dev = score, dev
        epoch = here.step // self.batches.steps_per_epoch
        self.log.write(step=here.step, epoch=epoch, split="dev", **dev)
        here.evaluated, here.score = here.step, score
        if hosts.largest(self._due()):
            self._save()
        self.console.print(
            f"epoch {epoch}/{config.epochs}  dev {in_words(self.prepared.task, dev)}"
            f"{'  (best so far)' if is_better else ''}",
            soft_wrap=True,
        )
        if config.patience is not None and here.waited >= config.patience and here.step < self.steps:
            self.console.print(f"stopped  {here.waited} epochs without a better {metric} (--patience)")
        self.speed.restart()
        self._look()
