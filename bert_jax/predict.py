"""Classify strings: texts in, labels and scores out."""

import functools
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence, Sized
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import nnx
from jaxtyping import Float

from bert_jax import checkpoint as checkpoints
from bert_jax.checkpoint import Checkpoint
from bert_jax.command import check_choice
from bert_jax.errors import UserError
from bert_jax.logits import batch_tokens, make_apply, packed_logits, pooled
from bert_jax.long_texts import LONG_TEXTS, Cutting
from bert_jax.packing import Tokens, prediction_batches
from bert_jax.parameters import build_classifier
from bert_jax.scores import threshold_of
from bert_jax.streaming import Window, computed, window_texts
from bert_jax.tasks import DEFAULT, TASKS
from bert_jax.texts import check_list, checked, whole_number
from bert_jax.tokenizer import Tokenizer, check_max_length


class Prediction(NamedTuple):
    """The prediction for one text, or pair of texts; `scores` and `logits` are in order of label id.

    `label` is the most likely label, and `score` is its probability. `labels` are all predicted labels: in multi-label
    classification those whose probability reaches the model's threshold, otherwise `label` alone. In regression,
    `score` is the predicted number, and `label` is the number's name; of several numbers they are the first's, and
    `scores` has all. `task` is the name of the task.
    """

    text: str
    label: str
    score: float
    scores: dict[str, float]
    logits: list[float]
    truncated: bool
    pair: str | None = None
    labels: tuple[str, ...] = ()
    task: str = DEFAULT

    def to_dict(self, *, logits: bool = False) -> dict[str, Any]:
        """Return the JSON object for this prediction.

        `pair` appears only for pairs, and `truncated` only if text was cut. A regression has `score`, or `scores` if it
        has several numbers, but no `label`. A multi-label prediction has `labels` and `scores`, but no `label` or
        `score`.
        """
        out: dict[str, Any] = {"text": self.text}
        if self.pair is not None:
            out["pair"] = self.pair
        out |= TASKS[self.task].answer(self)
        if logits:
            out["logits"] = self.logits
        if self.truncated:
            out["truncated"] = True
        return out


class TextClassifier:
    """A fine-tuned checkpoint with its tokenizer, ready to classify strings."""

    def __init__(
        self, checkpoint: Checkpoint, tokenizer: Tokenizer, dtype: Any = "float32", precision: str = "highest"
    ):
        task = checkpoint.config.task
        assert task is not None  # `read_classifier` refuses an encoder alone
        self.config, self.tokenizer, self.task = checkpoint.config, tokenizer, task
        self.cutting, self.threshold = cutting_of(checkpoint, tokenizer), threshold_of(checkpoint.metadata)
        model = build_classifier(checkpoint.config, checkpoint.tensors, dtype, precision=precision)
        graphdef, params = nnx.split(model)
        self._apply = functools.partial(make_apply(graphdef), params)

    @classmethod
    def load(cls, directory: Path | str, *, dtype: Any = "float32", precision: str = "highest") -> "TextClassifier":
        """Load a native checkpoint that has a classifier, or a training run's best model.

        `dtype` and `precision` are those of `bert_jax.load`, and of the command. Raises `UserError` as
        `bert_jax.checkpoint.read_classifier` does.
        """
        return cls(*checkpoints.read_classifier(directory), dtype, precision)

    def logits(self, examples: Sequence[Tokens]) -> Float[np.ndarray, "N C"]:
        """Return the raw logits of tokenised examples, which are packed into few batches."""
        return packed_logits(self._apply, examples, len(self.config.labels))

    def __call__(
        self,
        texts: Iterable[str],
        pairs: Iterable[str] | None = None,
        *,
        max_length: int | None = None,
        long_texts: str | None = None,
    ) -> list[Prediction]:
        """Classify texts, or pairs of texts, and return one prediction for each, in their order.

        Texts longer than `max_length` tokens are truncated and flagged, or read in windows whose logits are averaged,
        as `long_texts` says (one of `bert_jax.long_texts.LONG_TEXTS`). The defaults of both are the values of training.
        For a model that this project did not train, the defaults are all tokens that the model takes, and the head of a
        text, or the tail if the tokenizer's `truncation_side` is left.

        Windows begin as many tokens apart as in training. If a window of `max_length` tokens has room for fewer tokens
        than that, windows begin half a window apart, with a warning. Raises `UserError` for a text that is not a string
        or that UTF-8 cannot encode, with its index in the list, for a text with a token that the model has no embedding
        for, and for an option that the model does not take.
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
        """Classify texts as they come; yield the predictions in order of the texts, in bounded memory.

        While the device computes, a separate thread tokenises and packs the next texts. So up to three windows of
        `window_texts()` texts are read ahead. The thread that asks for predictions reads them. With `interactive`, each
        text is predicted before the next text is read. The separate thread ends when the generator is closed, or when
        `texts` raises an error.

        Raises `UserError` as `__call__` does, `TypeError` if `texts` or `pairs` is not a list of texts but a string, a
        table or a dictionary, and `ValueError` if `pairs` is shorter or longer than `texts`.
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
        prepare = functools.partial(self._prepare, cutting=cutting)
        with closing(computed(self._apply, prepare, inputs, window_texts(), interactive=interactive)) as windows:
            for window in windows:
                yield from self._predictions(window)

    def _prepare(self, inputs: list[tuple[str, ...]], cutting: Cutting) -> Window:
        texts, *pairs = (list(column) for column in zip(*inputs, strict=True))
        owners, examples = zip(*self.tokenizer.examples(texts, pairs[0] if pairs else None, cutting), strict=True)
        return Window(
            inputs,
            np.array(owners),
            [tokens.truncated for tokens in examples],
            list(prediction_batches(examples, batch_tokens=batch_tokens())),
            np.empty((len(examples), len(self.config.labels)), np.float32),
        )

    def _predictions(self, window: Window) -> Iterator[Prediction]:
        names, task = self.config.labels, self.task
        logits = pooled(window.outputs, window.owners)
        truncated = np.zeros(len(logits), bool)
        truncated[window.owners[window.truncated]] = True
        scores = task.scores(logits.astype(np.float64))
        labels = task.best(scores), task.predicted(scores, self.threshold)
        columns = window.inputs, *labels, scores.tolist(), logits.tolist(), truncated.tolist()
        for (text, *pair), best, predicted, values, row, was_cut in zip(*columns, strict=True):
            yield Prediction(
                text,
                names[best],
                values[best],
                dict(zip(names, values, strict=True)),
                row,
                was_cut,
                pair[0] if pair else None,
                tuple(names[i] for i in predicted),
                task.name,
            )


def cutting_of(checkpoint: Checkpoint, tokenizer: Tokenizer) -> Cutting:
    """Return how a checkpoint's texts are cut: as in its training, as far as the metadata record that.

    Otherwise texts are cut to the number of positions of the model, at the side that its tokenizer gives.
    """
    metadata, limit = checkpoint.metadata, checkpoint.config.max_position_embeddings
    length, stride = metadata.get("max_length", ""), metadata.get("stride", "")
    return Cutting(
        min(int(length), limit) if length.isdecimal() else limit,
        metadata["long_texts"] if metadata.get("long_texts") in LONG_TEXTS else tokenizer.long_texts,
        int(stride) if stride.isdecimal() else None,
    )
