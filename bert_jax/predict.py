"""Strings in, labels and scores out."""

import functools
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from flax import nnx
from jaxtyping import Float, Int

from bert_jax import checkpoint as checkpoints
from bert_jax.checkpoint import Checkpoint
from bert_jax.command import check_choice
from bert_jax.config import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bert_jax.errors import UserError
from bert_jax.logits import IN_FLIGHT, batch_tokens, late, make_apply, packed_logits, pooled
from bert_jax.long_texts import LONG_TEXTS, Cutting
from bert_jax.packing import Rows, Tokens, prediction_batches
from bert_jax.parameters import build_classifier
from bert_jax.scores import scores_of, threshold_of
from bert_jax.texts import check_list, checked, whole_number
from bert_jax.tokenizer import Tokenizer, check_max_length

_CHARACTERS = 256
"""Characters a text on average: a window of longer texts ends early, so that its memory is bounded."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Prediction(NamedTuple):
    """What the model says of one text, or pair; `scores` and `logits` are in order of label id.

    `label` is the likeliest and `score` its probability. `labels` are all that hold: of a model of several labels
    those whose probability reaches its threshold, else `label` alone. Of a regression `score` is the number, and
    `label` its name.
    """

    text: str
    label: str
    score: float
    scores: dict[str, float]
    logits: list[float]
    truncated: bool
    pair: str | None = None
    labels: tuple[str, ...] = ()
    task: str = SINGLE_LABEL

    def to_dict(self, *, logits: bool = False) -> dict[str, Any]:
        """The JSON object for this prediction.

        `pair` appears only of pairs, `truncated` only where text was cut, and of a regression there are no `scores`.
        """
        out: dict[str, Any] = {"text": self.text}
        if self.pair is not None:
            out["pair"] = self.pair
        if self.task == MULTI_LABEL:
            out |= {"labels": list(self.labels), "scores": self.scores}
        elif self.task == REGRESSION and len(self.scores) == 1:
            out["score"] = self.score
        else:
            out |= {"label": self.label, "score": self.score, "scores": self.scores}
        if logits:
            out["logits"] = self.logits
        if self.truncated:
            out["truncated"] = True
        return out


def window_texts() -> int:
    """Texts that are read, packed and answered together: enough to fill the rows of many batches."""
    return max(4096, batch_tokens())


class TextClassifier:
    """A fine-tuned checkpoint with its tokenizer, ready to label strings."""

    def __init__(
        self, checkpoint: Checkpoint, tokenizer: Tokenizer, dtype: Any = "float32", precision: str = "highest"
    ):
        self.config, self.tokenizer = checkpoint.config, tokenizer
        self.cutting, self.threshold = cutting_of(checkpoint, tokenizer), threshold_of(checkpoint.metadata)
        model = build_classifier(checkpoint.config, checkpoint.tensors, dtype, precision=precision)
        graphdef, params = nnx.split(model)
        self._apply = functools.partial(make_apply(graphdef), params)

    @classmethod
    def load(cls, directory: Path | str, *, dtype: Any = "float32", precision: str = "highest") -> "TextClassifier":
        """Load a native checkpoint that has a classifier, or a training run's best; `UserError` where it is unfit.

        `dtype` and `precision` are those of `bert_jax.load`, and of the command.
        """
        return cls(*checkpoints.read_classifier(directory), dtype, precision)

    def logits(self, examples: Sequence[Tokens]) -> Float[np.ndarray, "N C"]:
        """Raw logits of tokenised examples, packed into few batches."""
        return packed_logits(self._apply, examples, len(self.config.labels))

    def __call__(
        self,
        texts: Iterable[str],
        pairs: Iterable[str] | None = None,
        *,
        max_length: int | None = None,
        long_texts: str | None = None,
    ) -> list[Prediction]:
        """Classify texts, or pairs of texts; as many predictions as texts, in their order.

        Texts longer than `max_length` tokens are cut and flagged, or read in windows whose logits are averaged, as
        `long_texts` says (`bert_jax.long_texts.LONG_TEXTS`). Both are by default as in training. A model not trained
        here reads all that it takes, from the head unless its tokenizer says `truncation_side` left. Windows begin as
        far apart as in training; where that is more than a window of `max_length` holds, half a window apart, with a
        warning. Raises `UserError` for a text that is no whole string, with its place in the list, for one that holds a
        token the model has no embedding of, and for an option that the model does not take.
        """
        return list(self.stream(texts, pairs, max_length=max_length, long_texts=long_texts))

    def stream(
        self,
        texts: Iterable[str],
        pairs: Iterable[str] | None = None,
        *,
        max_length: int | None = None,
        long_texts: str | None = None,
        interactive: bool = False,
    ) -> Generator[Prediction, None, None]:
        """Classify texts as they come: predictions in their order, in bounded memory.

        While the device computes, a thread of its own tokenises and packs what comes next, so up to
        three windows of `window_texts()` texts are read ahead, by the thread that asks for
        predictions. With `interactive`, each text is answered before the next is read. Closing the
        generator, or an error in `texts`, ends the thread. Raises as `__call__` does, `TypeError` where
        `texts` or `pairs` are no list of texts but a string, a table or a dictionary, and
        `ValueError` where `pairs` is shorter or longer than `texts`.
        """
        check_list(texts)
        if pairs is not None:
            check_list(pairs)
        paired, cutting = pairs is not None, self.cutting
        if max_length is not None:
            cutting = cutting._replace(max_length=whole_number("--max-length", max_length))
        if long_texts is not None:
            check_choice("--long-texts", long_texts, LONG_TEXTS)
            cutting = cutting._replace(long_texts=long_texts)
        check_max_length(cutting.max_length, self.config, pairs=paired)
        if paired and self.config.type_vocab_size < 2:
            raise UserError(f"this model takes no pairs: its type_vocab_size is {self.config.type_vocab_size}")
        room = self.tokenizer.room(cutting, pairs=paired)
        if cutting.reads_all and cutting.stride and cutting.stride > room:
            warnings.warn(
                f"windows began {cutting.stride} tokens apart in training, and {cutting.max_length} tokens at once "
                f"leave {room} to a window: they begin {max(1, room // 2)} apart",
                stacklevel=2,
            )
            cutting = cutting._replace(stride=None)
        if isinstance(texts, Sized) and isinstance(pairs, Sized) and len(texts) != len(pairs):
            raise ValueError(f"{len(texts)} texts but {len(pairs)} pairs; expected one for each")
        columns = [checked("texts", texts)] + ([] if pairs is None else [checked("pairs", pairs)])
        inputs = zip(*columns, strict=True)
        return self._stream(inputs, cutting, interactive)

    def _stream(
        self, inputs: Iterable[tuple[str, ...]], cutting: Cutting, interactive: bool
    ) -> Generator[Prediction, None, None]:
        size, ahead, in_flight = (1, 0, 0) if interactive else (window_texts(), 1, IN_FLIGHT)
        pool = ThreadPoolExecutor(1, "bert_jax-prepare")
        try:
            prepare = functools.partial(self._prepare, cutting=cutting)
            windows = _ahead(pool, prepare, _windows(inputs, size), ahead)
            batches = (batch for window in windows for batch in window.tagged())
            for (window, members, is_last), logits in late(self._apply, batches, in_flight):
                window.logits[members] = logits[: len(members)]
                if is_last:
                    yield from self._predictions(window)
        finally:
            pool.shutdown(cancel_futures=True)

    def _prepare(self, inputs: list[tuple[str, ...]], cutting: Cutting) -> "_Window":
        texts, *pairs = (list(column) for column in zip(*inputs, strict=True))
        owners, examples = zip(*self.tokenizer.examples(texts, pairs[0] if pairs else None, cutting), strict=True)
        return _Window(
            inputs,
            np.array(owners),
            [tokens.truncated for tokens in examples],
            list(prediction_batches(examples, batch_tokens=batch_tokens())),
            np.empty((len(examples), len(self.config.labels)), np.float32),
        )

    def _predictions(self, window: "_Window") -> Iterator[Prediction]:
        names, task = self.config.labels, self.config.problem_type or SINGLE_LABEL
        logits = pooled(window.logits, window.owners)
        truncated = np.zeros(len(logits), bool)
        truncated[window.owners[window.truncated]] = True
        scores = scores_of(logits.astype(np.float64), task)
        best = scores.argmax(1).tolist()
        columns = window.inputs, best, scores.tolist(), logits.tolist(), truncated.tolist()
        for (text, *pair), top, values, row, was_cut in zip(*columns, strict=True):
            held = [i for i, value in enumerate(values) if value >= self.threshold] if task == MULTI_LABEL else [top]
            yield Prediction(
                text,
                names[top],
                values[top],
                dict(zip(names, values, strict=True)),
                row,
                was_cut,
                pair[0] if pair else None,
                tuple(names[i] for i in held),
                task,
            )


def cutting_of(checkpoint: Checkpoint, tokenizer: Tokenizer) -> Cutting:
    """How texts are cut for a checkpoint: as in its training, or to all it takes, as its tokenizer says."""
    said, most = checkpoint.metadata, checkpoint.config.max_position_embeddings
    length, stride = said.get("max_length", ""), said.get("stride", "")
    return Cutting(
        min(int(length), most) if length.isdecimal() else most,
        said["long_texts"] if said.get("long_texts") in LONG_TEXTS else tokenizer.long_texts,
        int(stride) if stride.isdecimal() else None,
    )


class _Window(NamedTuple):
    """Texts read together, packed, and their logits, which come in batch by batch; an example may be part of a text."""

    inputs: list[tuple[str, ...]]
    owners: Int[np.ndarray, " M"]
    truncated: list[bool]
    batches: list[tuple[Rows, list[int]]]
    logits: Float[np.ndarray, "M C"]

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
