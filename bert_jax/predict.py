"""Strings in, labels and scores out."""

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from bert_jax import checkpoint as checkpoints
from bert_jax.checkpoint import Checkpoint
from bert_jax.errors import UserError
from bert_jax.heads import SequenceClassifier
from bert_jax.packing import Rows, Tokens, prediction_batches
from bert_jax.parameters import build_classifier
from bert_jax.tokenizer import Tokenizer, check_max_length


class Prediction(NamedTuple):
    """What the model says of one text; `scores` and `logits` are in order of label id."""

    text: str
    label: str
    score: float
    scores: dict[str, float]
    logits: list[float]
    truncated: bool

    def to_dict(self, *, logits: bool = False) -> dict[str, Any]:
        """The JSON object for this prediction; `truncated` appears only where the text was cut."""
        out: dict[str, Any] = {"text": self.text, "label": self.label, "score": self.score, "scores": self.scores}
        if logits:
            out["logits"] = self.logits
        if self.truncated:
            out["truncated"] = True
        return out


def make_apply(graphdef: nnx.GraphDef[SequenceClassifier]) -> Callable[[nnx.State, Rows], Float[Array, "N C"]]:
    """Compile the forward pass, without dropout, of a classifier split as `graphdef, params`."""
    return jax.jit(lambda params, rows: nnx.merge(graphdef, params)(rows))


def batch_tokens() -> int:
    """Tokens a prediction batch holds: enough to keep the device busy, small enough for caches."""
    return 2048 if jax.default_backend() == "cpu" else 32768


def packed_logits(
    apply: Callable[[Rows], Float[Array, "N C"]], examples: Sequence[Tokens], num_labels: int
) -> Float[np.ndarray, "N C"]:
    """Logits of every example, each computed once, in the order given.

    `apply` is a jitted function of packed rows; it sees few different shapes.
    """
    out = np.empty((len(examples), num_labels), np.float32)
    pending: list[tuple[list[int], Array]] = []
    for rows, members in prediction_batches(examples, batch_tokens=batch_tokens()):
        pending.append((members, apply(rows)))
        if len(pending) > 2:  # keep the device a little ahead, but not all results on it
            done, logits = pending.pop(0)
            out[done] = np.asarray(logits)[: len(done)]
    for done, logits in pending:
        out[done] = np.asarray(logits)[: len(done)]
    return out


class TextClassifier:
    """A fine-tuned checkpoint with its tokenizer, ready to label strings."""

    def __init__(self, checkpoint: Checkpoint, tokenizer: Tokenizer, dtype: Any = "float32"):
        self.config, self.tokenizer = checkpoint.config, tokenizer
        graphdef, params = nnx.split(build_classifier(checkpoint.config, checkpoint.tensors, dtype))
        self._apply = functools.partial(make_apply(graphdef), params)

    @classmethod
    def load(cls, directory: Path | str, *, dtype: Any = "float32") -> "TextClassifier":
        """Load a native checkpoint that has a classifier; `UserError` where it is unfit."""
        return cls(*checkpoints.read_classifier(directory), dtype)

    def logits(self, examples: Sequence[Tokens]) -> Float[np.ndarray, "N C"]:
        """Raw logits of tokenised examples, packed into few batches."""
        return packed_logits(self._apply, examples, len(self.config.labels))

    def __call__(
        self, texts: Iterable[str], pairs: Iterable[str] | None = None, *, max_length: int | None = None
    ) -> list[Prediction]:
        """Classify texts, or pairs of texts; as many predictions as texts, in their order.

        Texts longer than `max_length` tokens (default: all the model takes) are cut and flagged.
        """
        if isinstance(texts, str):
            raise TypeError("expected a list of texts, got one string: write [text]")
        texts = list(texts)
        max_length = self.config.max_position_embeddings if max_length is None else max_length
        check_max_length(max_length, self.config)
        if pairs is not None and self.config.type_vocab_size < 2:
            raise UserError(f"this model takes no pairs: its type_vocab_size is {self.config.type_vocab_size}")
        examples = self.tokenizer(texts, None if pairs is None else list(pairs), max_length=max_length)
        out = []
        for text, tokens, logits in zip(texts, examples, self.logits(examples), strict=True):
            probabilities = _softmax(logits.astype(np.float64))
            scores = dict(zip(self.config.labels, map(float, probabilities), strict=True))
            label = max(scores, key=scores.__getitem__)
            out.append(Prediction(text, label, scores[label], scores, [float(x) for x in logits], tokens.truncated))
        return out


def _softmax(logits: Float[np.ndarray, " C"]) -> Float[np.ndarray, " C"]:
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()
