"""Prepare a run before its first step, without an accelerator: read, check and tokenise its input."""

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from bert_jax.checkpoint import Checkpoint, with_classifier, without_classifier
from bert_jax.command import printable
from bert_jax.errors import UserError
from bert_jax.long_texts import Cutting
from bert_jax.packing import Tokens
from bert_jax.tokenizer import Tokenizer, check_max_length
from convert import conversion

from ..config import TrainConfig
from ..metrics import METRICS
from ..rows import Data, Split
from ..tasks import TASKS, by_number, class_weights, targets_of
from .preview import Lengths, preview
from .reading import read
from .token_set import TokenSet


class Evaluated(NamedTuple):
    """A split to evaluate on: the tokens of its examples, the targets of its texts, and the split with the texts.

    `owners` is the index of the text of each example, or None if every text is one example.
    """

    examples: list[Tokens]
    targets: np.ndarray
    owners: np.ndarray | None
    split: Split


class Prepared(NamedTuple):
    """The input of a run: the starting parameters, the training examples, and the splits to evaluate on.

    `train` is the training split without its rows. `lines[i]` is the row number (`Row.number`) of the text of training
    example i. `counts` has the number of texts in each split. `task` is the name of the task, and `metric` that of the
    metric that chooses the best model.
    """

    checkpoint: Checkpoint
    data: TokenSet
    train: Split
    lines: np.ndarray
    evaluated: dict[str, Evaluated]
    counts: dict[str, int]
    notes: list[str]
    task: str
    metric: str
    class_weights: np.ndarray | None = None

    def describe(self) -> str:
        """Return the notes as lines to print, with control characters escaped."""
        return "\n".join(map(printable, "\n".join(self.notes).splitlines()))


def prepare(config: TrainConfig, tables: Mapping[str, Any] | None = None) -> Prepared:
    """Read the model and the data (or `tables` in place of the data), and check that they fit each other and `config`.

    Raises `UserError` if they do not fit. The function writes nothing and does not need JAX.
    """
    source = conversion.read(config.model, config.revision)
    start = source.checkpoint
    if config.new_classifier:
        if start.config.task is None:
            raise UserError(f"--new-classifier is for a classifier, and {config.model} is none; leave it out")
        start = without_classifier(start)
    check_max_length(config.max_length, start.config)
    data = read(config, _task(config, start), tables)
    _check_options(config, start, data, source.tokenizer)
    known_names = config.labels or start.config.labels
    try:
        names, targets = targets_of(data, known_names)
    except UserError as error:
        if not start.config.labels:
            raise
        raise UserError(f"{error} (the model's labels; --new-classifier takes those of the data)") from None
    if not start.config.add_pooling_layer and not config.new_pooler:
        raise UserError(f"{config.model}: the checkpoint has no pooler; pass --new-pooler to train a new one")
    cutting = Cutting(config.max_length, config.long_texts or source.tokenizer.long_texts, config.stride)
    start, new = with_classifier(start, names, config.seed, data.task)
    metadata = {name: value for name, value in start.metadata.items() if name not in (*Cutting._fields, "threshold")}
    start = replace(start, metadata={**metadata, **cutting.said})
    texts = {name: _Texts(source.tokenizer, split, cutting) for name, split in data.splits.items()}
    token_set = TokenSet.of(texts["train"], targets["train"], texts["train"].owners)
    evaluated = {
        name: Evaluated(list(texts[name]), targets[name], texts[name].shared, split)
        for name, split in data.splits.items()
        if name != "train"
    }
    notes = [conversion.describe(source)]
    if new:
        notes.append(f"new      {', '.join(new)} (normal, {start.config.initializer_range}, seed {config.seed})")
    notes += data.notes
    if warning := by_number(data, known_names):
        notes.append(f"warning  {warning}")
    lengths = {name: (split_texts.lengths, split_texts.cut) for name, split_texts in texts.items()}
    notes.append(preview(data, names, targets, lengths, config.max_length))
    numbers = np.array([row.number for row in data.splits["train"].rows], np.int32)
    return Prepared(
        start,
        token_set,
        data.splits["train"]._replace(rows=[]),
        numbers[np.asarray(texts["train"].owners)],
        evaluated,
        {name: len(split.rows) for name, split in data.splits.items()},
        notes,
        data.task,
        config.metric or METRICS[data.task][0],
        class_weights(config.class_weights, data.task, token_set.targets[:-1], names),  # each window is an example
    )


class _Texts:
    """The examples of a split, tokenised while they are iterated over. Iterate over them only once.

    The iteration fills `owners` with the index of each example's text, `cut` with the number of texts of which an
    example is truncated, and `lengths` with the lengths of the examples.
    """

    def __init__(self, tokenizer: Tokenizer, split: Split, cutting: Cutting):
        self._tokenizer, self._split, self._cutting = tokenizer, split, cutting
        self.owners, self.cut, self.lengths = array("i"), 0, Lengths()

    def __iter__(self) -> Iterator[Tokens]:
        rows = self._split.rows
        pairs = (row.pair or "" for row in rows) if any(row.pair is not None for row in rows) else None
        last = None  # the last text that was truncated; the windows of a text follow one another
        for owner, tokens in self._tokenizer.examples((row.text for row in rows), pairs, self._cutting):
            self.owners.append(owner)
            if tokens.truncated and owner != last:
                self.cut, last = self.cut + 1, owner
            self.lengths.add(tokens)
            yield tokens

    @property
    def shared(self) -> np.ndarray | None:
        """`owners` as an array, or None if every text is one example."""
        return None if len(self.owners) == len(self._split.rows) else np.array(self.owners)


def _task(config: TrainConfig, start: Checkpoint) -> str | None:
    """Return the name of the task of `--task`, or of the task that the model was trained for, or else None.

    Raises `UserError` if `--task` and the model contradict each other.
    """
    own = start.config.task
    task = next((training.task for training in TASKS.values() if training.task.option == config.task), own)
    if own is not None and task != own:
        raise UserError(
            f"--task is {config.task} but {config.model} is a classifier of {own.name}; "
            "leave --task out, or pass --new-classifier"
        )
    return None if task is None else task.name


def _check_options(config: TrainConfig, start: Checkpoint, data: Data, tokenizer: Tokenizer) -> None:
    """Raise `UserError` if an option does not fit the model or the task."""
    network, training = start.config, TASKS[data.task]
    if config.labels and network.task is not None and config.labels != network.labels:
        raise UserError(
            f"--labels is {','.join(config.labels)} but {config.model} is a classifier of "
            f"{','.join(network.labels)}; leave --labels out, or pass --new-classifier"
        )
    metrics = METRICS[data.task]
    if config.metric is not None and config.metric not in metrics:
        expected = f"the task is {training.task.option}: expected one of {', '.join(metrics)}"
        raise UserError(f"--metric is {config.metric}; {expected}")
    if config.threshold is not None and training.best_threshold is None:
        raise UserError(
            f"--threshold is for several labels a text, and the task is {training.task.option}; leave it out"
        )
    for option, refusal in training.refused.items():
        if getattr(config, option):
            raise UserError(refusal)
    if config.freeze_layers > network.num_hidden_layers:
        raise UserError(f"--freeze-layers is {config.freeze_layers}; the model has {network.num_hidden_layers} layers")
    paired = any(row.pair is not None for split in data.splits.values() for row in split.rows)
    if paired and network.type_vocab_size < 2:
        raise UserError(f"{config.model}: takes no pairs: its type_vocab_size is {network.type_vocab_size}")
    check_max_length(config.max_length, network, pairs=paired)
    if config.stride is None:
        return
    room = tokenizer.room(Cutting(config.max_length, "windows"), pairs=paired)
    if config.stride > room:
        raise UserError(f"--stride is {config.stride}; expected at most {room}, the tokens of a window")
