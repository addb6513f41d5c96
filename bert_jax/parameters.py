"""Named arrays to a model, and a model to named arrays."""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bert_jax.command import PRODUCTS, check_choice
from bert_jax.config import CLASSIFIER, BertConfig
from bert_jax.heads import SequenceClassifier
from bert_jax.model import Model

M = TypeVar("M", bound=nnx.Module)


def name_of(path: tuple[Any, ...]) -> str:
    """The checkpoint's name for a parameter at an NNX path: dotted, without a leading `bert`."""
    return ".".join(str(part) for part in (path[1:] if path[0] == "bert" else path))


def depth_of(name: str) -> float:
    """How far up a parameter is: 0 in the embeddings, 1 in the first layer, and infinity in the heads."""
    part, *rest = name.split(".")
    return 0.0 if part == "embeddings" else int(rest[1]) + 1.0 if part == "encoder" else math.inf


def build(
    config: BertConfig, tensors: Mapping[str, np.ndarray | jax.Array], dtype: Any = "float32", **settings: Any
) -> SequenceClassifier | Model:
    """A model of this config with float32 copies of exactly these parameters.

    `settings` are the model's own (`precision`, `attention`, `remat`). Raises `KeyError` for a parameter that
    `tensors` lacks, and `UserError` for a dtype or a precision that there is not.
    """
    if config.architecture == CLASSIFIER:
        return build_classifier(config, tensors, dtype, **settings)
    return _filled(lambda: Model(config, dtype=_known(dtype), rngs=_NoKeys(), **settings), tensors)


def build_classifier(
    config: BertConfig, tensors: Mapping[str, np.ndarray | jax.Array], dtype: Any = "float32", **settings: Any
) -> SequenceClassifier:
    """`build` for a config known to be a classifier's."""
    return _filled(lambda: SequenceClassifier(config, dtype=_known(dtype), rngs=_NoKeys(), **settings), tensors)


def _known(dtype: Any) -> jnp.dtype:
    """A dtype that products are computed in, from its name or a type of JAX's or numpy's."""
    try:
        name = jnp.dtype(dtype).name
    except TypeError:
        name = dtype  # which numpy does not know
    check_choice("--dtype", name, PRODUCTS["--dtype"]["choices"])
    return jnp.dtype(name)


class _NoKeys(nnx.Rngs):
    """For a model whose parameters a checkpoint fills: initial values need no keys, which take a while to trace."""

    def params(self) -> None:
        """In place of a key (`bert_jax.attention.initial`)."""


def _filled(make: Callable[[], M], tensors: Mapping[str, np.ndarray | jax.Array]) -> M:
    graphdef, state = nnx.split(nnx.eval_shape(make))
    flat = [
        (path, variable.replace(jnp.asarray(tensors[name_of(path)], jnp.float32)))
        for path, variable in nnx.to_flat_state(state)
    ]
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def named_arrays(state: nnx.State) -> dict[str, Any]:
    """The arrays of a state split from a model, under the checkpoint's names, still on the device."""
    return {name_of(path): variable[...] for path, variable in nnx.to_flat_state(state)}
