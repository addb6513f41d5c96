"""BERT in JAX and Flax NNX: load a checkpoint, call the model, classify text, embed text.

Letters in array shapes and einsums, everywhere in the project:

    B rows              D hidden size        N examples in a batch
    T tokens in a row   H attention heads    C classes
    S key tokens        K size of a head     L layers
    V vocabulary        F feed-forward size  P size of an embedding
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bert_jax.checkpoint import load
    from bert_jax.config import BertConfig
    from bert_jax.embedder import Embedder, Embedding
    from bert_jax.errors import UserError
    from bert_jax.heads import SequenceClassifier, cross_entropy
    from bert_jax.model import Model
    from bert_jax.packing import Rows, from_attention_mask
    from bert_jax.predict import Prediction, TextClassifier
    from bert_jax.tokenizer import Tokenizer

_HOME = {
    "BertConfig": "config",
    "Embedder": "embedder",
    "Embedding": "embedder",
    "Model": "model",
    "Prediction": "predict",
    "Rows": "packing",
    "SequenceClassifier": "heads",
    "TextClassifier": "predict",
    "Tokenizer": "tokenizer",
    "UserError": "errors",
    "cross_entropy": "heads",
    "from_attention_mask": "packing",
    "load": "checkpoint",
}

__version__ = "0.1.0"
__all__ = [
    "BertConfig",
    "Embedder",
    "Embedding",
    "Model",
    "Prediction",
    "Rows",
    "SequenceClassifier",
    "TextClassifier",
    "Tokenizer",
    "UserError",
    "cross_entropy",
    "from_attention_mask",
    "load",
]


def __getattr__(name: str):
    # Each name is imported on its first use, so that a command can check its input before it waits for JAX.
    if name in _HOME:
        return getattr(importlib.import_module(f"bert_jax.{_HOME[name]}"), name)
    raise AttributeError(f"module 'bert_jax' has no attribute {name!r}")
