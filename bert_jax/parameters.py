"""Conversion of named arrays to a model, and of a model to named arrays."""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bert_jax.command import PRODUCTS, check_choice
from bert_jax.config import BertConfig
from bert_jax.heads import NETWORKS, SequenceClassifier
from bert_jax.model import Model

M = TypeVar("M", bound=nnx.Module)


def name_of(path: tuple[Any, ...]) -> str:
    """Return the checkpoint name of the parameter at an NNX path: joined by dots, without a leading `bert`."""
    return ".".join(str(part) for part in (path[1:] if path[0] == "bert" else path))


def depth_of(name: str) -> float:
    """Return the depth of a parameter: 0 in the embeddings, 1 in the first layer, infinity in the pooler and heads."""
    part, *rest = name.split(".")
    return 0.0 if part == "embeddings" else int(rest[1]) + 1.0 if part == "encoder" else math.inf


def build(
    config: BertConfig, tensors: Mapping[str, np.ndarray | jax.Array], dtype: Any = "float32", **settings: Any
) -> SequenceClassifier | Model:
    """Return a model of this config whose parameters are those of `tensors`, in float32.

    `settings` are keyword arguments of the model (`precision`, `attention`, `remat`, `frozen`). Raises `KeyError` for
    a parameter that is not in `tensors`, and `UserError` for an unknown dtype or precision.
    """
    network = NETWORKS.get(config.architecture, Model)
    return _filled(lambda: network(config, dtype=_known(dtype), rngs=_NoKeys(), **settings), tensors)


def build_classifier(
    config: BertConfig, tensors: Mapping[str, np.ndarray | jax.Array], dtype: Any = "float32", **settings: Any
) -> SequenceClassifier:
    """Return the model that `build` returns, for a config that is known to be a classifier's."""
    return _filled(lambda: SequenceClassifier(config, dtype=_known(dtype), rngs=_NoKeys(), **settings), tensors)


def _known(dtype: Any) -> jnp.dtype:
    """Return the dtype of matrix products from its name, or from a type of JAX or numpy.

    Raises `UserError` for a dtype that is not one of the choices of `--dtype`.
    """
    try:
        name = jnp.dtype(dtype).name
    except TypeError:
        name = dtype  # numpy does not know this dtype; `check_choice` raises the error
    check_choice("--dtype", name, PRODUCTS["--dtype"]["choices"])
    return jnp.dtype(name)


class _NoKeys(nnx.Rngs):
    """A stand-in for random keys, for a model whose parameters come from a checkpoint.

    Initial values of such a model need no random keys, which take a while to trace.
    """

    def params(self) -> None:
        """Return None in place of a key, for `bert_jax.attention.initial`."""


def _filled(make: Callable[[], M], tensors: Mapping[str, np.ndarray | jax.Array]) -> M:
    graphdef, state = nnx.split(nnx.eval_shape(make))
    flat = [
        (path, variable.replace(jnp.asarray(tensors[name_of(path)], jnp.float32)))
        for path, variable in nnx.to_flat_state(state)
    ]
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def named_arrays(state: nnx.State) -> dict[str, Any]:
    """Return the arrays of a state that was split from a model, by checkpoint name; the arrays stay on the device."""
    return {name_of(path): variable[...] for path, variable in nnx.to_flat_state(state)}
