"""What a run measures of its model: on dev after each epoch, and of the best model on every split."""

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from bert_jax import run_files
from bert_jax.packing import Tokens
from bert_jax.scores import HALF

from ..config import BEST
from ..metrics import better
from ..report.page import Measured
from ..step import hosts
from ..step.evaluator import Evaluator
from ..tasks import TASKS, measure
from .arrangement import Arrangement
from .record import save_best, saved_best
from .saving import Progress
from .stopping import Interrupts, leave
from .watchdog import Watchdog


class Evaluation:
    """Measures parameters on the splits of a run, and keeps the best model of all epochs in `best/`."""

    def __init__(self, arranged: Arrangement, evaluator: Evaluator, stopping: Interrupts, watchdog: Watchdog):
        self._arranged, self._evaluator = arranged, evaluator
        self._stopping, self._watchdog = stopping, watchdog

    def on_dev(self, params: nnx.State) -> Measured:
        """Return the results on dev, with the threshold that `--threshold` asks for."""
        threshold = self._arranged.config.threshold
        return self.on_split("dev", params, None if threshold == BEST else float(threshold or HALF))

    def on_split(self, name: str, params: nnx.State, threshold: float | None) -> Measured:
        """Return the results of these parameters on a split.

        Labels are predicted from the probability `threshold` on. None stands for the best threshold on this split.
        Raises `Stopped` if the run is asked to stop meanwhile.
        """
        prepared = self._arranged.prepared
        examples, targets, owners, split = prepared.evaluated[name]
        logits = self._evaluator.logits(params, examples, owners, self.look)
        if threshold is None:
            best_threshold = TASKS[prepared.task].best_threshold
            assert best_threshold is not None  # a task without thresholds refuses --threshold
            threshold = best_threshold(logits, targets, prepared.metric)
        return Measured(split, logits, targets, measure(prepared.task, logits, targets, threshold=threshold))

    def keep(self, params: nnx.State, dev: Measured, progress: Progress) -> bool:
        """Save the model in `best/` if it is the best so far on dev, and return whether it is."""
        prepared, metric = self._arranged.prepared, self._arranged.prepared.metric
        score = dev.metrics[metric]
        is_better = better(metric, score, progress.best)
        progress.waited = 0 if is_better else progress.waited + 1
        if is_better:
            directory = self._arranged.config.run_directory / run_files.BEST
            with self._watchdog.long():
                hosts.on_first(lambda: save_best(directory, prepared.checkpoint, params, dev.metrics))
            progress.best, progress.dev = score, dev.metrics
        progress.evaluated, progress.score = progress.step, score
        return is_better

    def of_best(self, progress: Progress) -> dict[str, Measured]:
        """Return the results of the best model, as it was saved, on every evaluated split."""
        prepared, directory = self._arranged.prepared, self._arranged.config.run_directory / run_files.BEST
        tensors = hosts.from_first(saved_best(directory, prepared.checkpoint.config))
        params = self._arranged.layout.put(self._arranged.parameters(tensors))
        threshold = (progress.dev or {}).get("threshold", HALF)  # saved with the best model
        with self._stopping.aside(leave):
            return {name: self.on_split(name, params, threshold) for name in prepared.evaluated}

    def logits(self, params: nnx.State, example: Tokens) -> Float[np.ndarray, "1 C"]:
        """Return the logits of one example."""
        return self._evaluator.logits(params, [example])

    def look(self) -> None:
        """Raise `Stopped`, between the batches of an evaluation, if this process has been asked to stop.

        With several processes, only tell the watchdog of the progress. They stop later, all at the same point.
        """
        self._stopping.check() if jax.process_count() == 1 else self._watchdog.beat()
