"""Strings in, labels and scores out."""

import functools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

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

IN_FLIGHT = 4
"""Batches given to the device before the first of them is fetched; stopping early waits for these."""

_CHARACTERS = 256
"""Characters a text on average: a window of longer texts ends early, so that its memory is bounded."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Tag = TypeVar("_Tag")


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


def make_apply(
    graphdef: nnx.GraphDef[SequenceClassifier], out_shardings: jax.sharding.Sharding | None = None
) -> Callable[[nnx.State, Rows], Float[Array, "N C"]]:
    """Compile the forward pass, without dropout, of a classifier split as `graphdef, params`.

    `out_shardings` says where the logits are to lie, if not where the compiler leaves them.
    """
    return jax.jit(lambda params, rows: nnx.merge(graphdef, params)(rows), out_shardings=out_shardings)


def batch_tokens() -> int:
    """Tokens a prediction batch holds: enough to keep the device busy, small enough for caches."""
    return 1024 if jax.default_backend() == "cpu" else 32768


def window_texts() -> int:
    """Texts that are read, packed and answered together: enough to fill the rows of many batches."""
    return max(4096, batch_tokens())


def packed_logits(
    apply: Callable[[Rows], Float[Array, "N C"]], examples: Sequence[Tokens], num_labels: int
) -> Float[np.ndarray, "N C"]:
    """Logits of every example, each computed once, in the order given.

    `apply` is a jitted function of packed rows; it sees few different shapes.
    """
    out = np.empty((len(examples), num_labels), np.float32)
    for members, logits in late(apply, prediction_batches(examples, batch_tokens=batch_tokens()), IN_FLIGHT):
        out[members] = logits[: len(members)]
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
        return list(self.stream(texts, pairs, max_length=max_length))

    def stream(
        self,
        texts: Iterable[str],
        pairs: Iterable[str] | None = None,
        *,
        max_length: int | None = None,
        interactive: bool = False,
    ) -> Generator[Prediction, None, None]:
        """Classify texts as they come: predictions in their order, in bounded memory.

        While the device computes, a thread of its own tokenises and packs what comes next, so up to
        three windows of `window_texts()` texts are read ahead, by the thread that asks for
        predictions. With `interactive`, each text is answered before the next is read. Closing the
        generator, or an error in `texts`, ends the thread. Raises as `__call__` does, and
        `ValueError` where `pairs` is shorter or longer than `texts`.
        """
        if isinstance(texts, str) or isinstance(pairs, str):
            raise TypeError("expected a list of texts, got one string: write [text]")
        max_length = self.config.max_position_embeddings if max_length is None else max_length
        check_max_length(max_length, self.config)
        if pairs is not None and self.config.type_vocab_size < 2:
            raise UserError(f"this model takes no pairs: its type_vocab_size is {self.config.type_vocab_size}")
        if isinstance(texts, Sized) and isinstance(pairs, Sized) and len(texts) != len(pairs):
            raise ValueError(f"{len(texts)} texts but {len(pairs)} pairs; expected one for each")
        inputs = zip(texts) if pairs is None else zip(texts, pairs, strict=True)
        return self._stream(inputs, max_length, interactive)

    def _stream(
        self, inputs: Iterable[tuple[str, ...]], max_length: int, interactive: bool
    ) -> Generator[Prediction, None, None]:
        size, ahead, in_flight = (1, 0, 0) if interactive else (window_texts(), 1, IN_FLIGHT)
        pool = ThreadPoolExecutor(1, "bert_jax-prepare")
        try:
            prepare = functools.partial(self._prepare, max_length=max_length)
            windows = _ahead(pool, prepare, _windows(inputs, size), ahead)
            batches = (batch for window in windows for batch in window.tagged())
            for (window, members, is_last), logits in late(self._apply, batches, in_flight):
                window.logits[members] = logits[: len(members)]
                if is_last:
                    yield from self._predictions(window)
        finally:
            pool.shutdown(cancel_futures=True)

    def _prepare(self, inputs: list[tuple[str, ...]], max_length: int) -> "_Window":
        texts, *pairs = (list(column) for column in zip(*inputs, strict=True))
        examples = self.tokenizer(texts, *pairs, max_length=max_length)
        return _Window(
            texts,
            [tokens.truncated for tokens in examples],
            list(prediction_batches(examples, batch_tokens=batch_tokens())),
            np.empty((len(texts), len(self.config.labels)), np.float32),
        )

    def _predictions(self, window: "_Window") -> Iterator[Prediction]:
        names = self.config.labels
        probabilities = _softmax(window.logits.astype(np.float64))
        best = probabilities.argmax(1).tolist()
        columns = window.texts, best, probabilities.tolist(), window.logits.tolist(), window.truncated
        for text, label, scores, logits, truncated in zip(*columns, strict=True):
            yield Prediction(
                text, names[label], scores[label], dict(zip(names, scores, strict=True)), logits, truncated
            )


class _Window(NamedTuple):
    """Texts read together, packed, and their logits, which come in batch by batch."""

    texts: list[str]
    truncated: list[bool]
    batches: list[tuple[Rows, list[int]]]
    logits: Float[np.ndarray, "N C"]

    def tagged(self) -> Iterator[tuple[Rows, tuple["_Window", list[int], bool]]]:
        """Every batch with its window, the texts it holds, and whether it is the window's last."""
        for number, (rows, members) in enumerate(self.batches, 1):
            yield rows, (self, members, number == len(self.batches))


def _windows(inputs: Iterable[tuple[str, ...]], size: int) -> Iterator[list[tuple[str, ...]]]:
    """Cut inputs into windows of `size`, or fewer where they are long."""
    window, characters = [], 0
    for item in inputs:
        window.append(item)
        characters += sum(map(len, item))
        if len(window) == size or characters >= size * _CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[_Item], _Result], items: Iterable[_Item], ahead: int
) -> Iterator[_Result]:
    """`function` of every item, in order, computed in the pool up to `ahead` items early."""
    futures: deque[Future[_Result]] = deque()
    for item in items:
        futures.append(pool.submit(function, item))
        if len(futures) > ahead:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


def late(
    apply: Callable[[Rows], Float[Array, "N C"]], batches: Iterable[tuple[Rows, _Tag]], in_flight: int
) -> Iterator[tuple[_Tag, Float[np.ndarray, "N C"]]]:
    """Logits of every batch, in order, with its tag, fetched while the device has `in_flight` more to do."""
    pending: deque[tuple[_Tag, Array]] = deque()
    for rows, tag in batches:
        pending.append((tag, apply(rows)))
        if len(pending) > in_flight:
            done, logits = pending.popleft()
            yield done, np.asarray(logits)
    for tag, logits in pending:
        yield tag, np.asarray(logits)


def _softmax(logits: Float[np.ndarray, "N C"]) -> Float[np.ndarray, "N C"]:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
