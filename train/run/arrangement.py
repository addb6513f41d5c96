"""Everything about a run that is fixed before its first step: devices, batches, network, optimizer, learning rates."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float
from rich.console import Console

from bert_jax.attention import kernel_for
from bert_jax.heads import SequenceClassifier, example_losses
from bert_jax.parameters import build_classifier

from ..config import TrainConfig
from ..data.prepare import Prepared
from ..data.token_set import TokenSet
from ..step.batches import Batches
from ..step.evaluator import Evaluator
from ..step.layouts import Layout, default_window, make_layout, row_multiple
from ..step.network import agreed_attention, check_attention, settings
from ..step.optimizer import fine_tuning, linear_schedule
from ..step.trainer import Trainer
from .record import describe


class Arrangement(NamedTuple):
    """The devices, batches and attention of a run, on which all its processes have agreed.

    `steps` is the number of steps of the whole run.
    """

    config: TrainConfig
    prepared: Prepared
    layout: Layout
    batches: Batches
    attention: str
    steps: int

    @property
    def kernel(self) -> str:
        """The name of the attention kernel that `attention` stands for."""
        return kernel_for(self.attention, self.batches.shapes.row_length, self.prepared.checkpoint.config.head_size)

    @property
    def settings(self) -> dict[str, Any]:
        """How the network computes, as keyword arguments of `build_classifier`."""
        return settings(self.config, self.attention)

    def batches_of(self, config: TrainConfig, data: TokenSet) -> Batches:
        """Return the batches of `data` with other options, on the same devices."""
        return _batches(config, data, self.layout)

    def graph_of(self, config: TrainConfig) -> nnx.GraphDef:
        """Return the network's graph with other options."""
        network = self.prepared.checkpoint.config
        arguments: dict[str, Any] = settings(config, self.attention) | {"dtype": jnp.dtype(config.dtype)}
        return nnx.split(nnx.eval_shape(lambda: SequenceClassifier(network, rngs=nnx.Rngs(0), **arguments)))[0]

    def parameters(self, tensors: Any) -> nnx.State:
        """Return the parameters of a network that is built from these tensors, by name."""
        return nnx.split(build_classifier(self.prepared.checkpoint.config, tensors, **self.settings))[1]


class Built(NamedTuple):
    """The trainer, the evaluator, the first parameters, and the learning rate of each step."""

    trainer: Trainer
    evaluator: Evaluator
    params: nnx.State
    rates: Float[np.ndarray, " steps"]


def arrange(config: TrainConfig, prepared: Prepared, console: Console) -> Arrangement:
    """Lay the examples out over the devices, choose the attention, and print both.

    Raises `UserError` if this machine cannot do what the options ask for.
    """
    network = prepared.checkpoint.config
    layout = make_layout(network, config.parallel, config.model_parallel, config.shard_parameters)
    batches = _batches(config, prepared.data, layout)
    check_attention(config.attention, batches.shapes.row_length, network.head_size)
    attention = agreed_attention(config.attention, console)
    console.print(describe(batches, layout))
    return Arrangement(config, prepared, layout, batches, attention, config.epochs * batches.steps_per_epoch)


def build(arranged: Arrangement) -> Built:
    """Build the network from the checkpoint, and the optimizer and the compiled step for it."""
    config, prepared, steps = arranged.config, arranged.prepared, arranged.steps
    network, warmup_steps = prepared.checkpoint.config, round(config.warmup * steps)
    graphdef, params = nnx.split(build_classifier(network, prepared.checkpoint.tensors, **arranged.settings))
    optimizer = fine_tuning(
        config.learning_rate,
        steps=steps,
        warmup_steps=warmup_steps,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
        layer_decay=config.layer_decay,
        frozen=arranged.settings["frozen"],
    )
    loss = functools.partial(
        example_losses,
        task=prepared.task,
        smoothing=config.label_smoothing,
        class_weights=prepared.class_weights,
    )
    trainer = Trainer(arranged.layout, graphdef, optimizer, params, arranged.batches.shapes.row_length, loss)
    evaluator = Evaluator(arranged.layout, graphdef, len(network.labels), prepared.task)
    schedule = linear_schedule(config.learning_rate, steps, warmup_steps)
    return Built(trainer, evaluator, params, np.asarray(jax.jit(jax.vmap(schedule))(np.arange(steps))))


def _batches(config: TrainConfig, data: TokenSet, layout: Layout) -> Batches:
    return Batches(
        data,
        batch_size=config.batch_size,
        seed=config.seed,
        micro=config.accumulate,
        shards=layout.shards,
        window=config.steps_per_dispatch or default_window(),
        multiple=row_multiple(),
    )
