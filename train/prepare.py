"""Everything before the first step that needs no accelerator: read, check, tokenise."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bert_jax.checkpoint import Checkpoint, with_classifier
from bert_jax.config import CLASSIFIER
from bert_jax.errors import UserError
from bert_jax.packing import Tokens
from bert_jax.tokenizer import check_max_length
from convert import conversion

from .batches import TokenSet
from .config import TrainConfig
from .data import Split, label_ids, read_splits


class Prepared(NamedTuple):
    """A run's input: the starting parameters, the training examples, the splits to evaluate on.

    `train` has no rows: the text of example i is on line `lines[i]` of its file.
    """

    checkpoint: Checkpoint
    data: TokenSet
    train: Split
    lines: np.ndarray
    evaluated: dict[str, tuple[list[Tokens], list[int]]]
    sha256: dict[Path, str]
    counts: dict[str, int]
    notes: list[str]


def prepare(config: TrainConfig) -> Prepared:
    """Read model and data and check that they fit each other and the options.

    Raises `UserError`; nothing is written and JAX is not needed.
    """
    splits = read_splits(
        Path(config.data),
        text_column=config.text_column,
        label_column=config.label_column,
        dev_fraction=config.dev_fraction,
        seed=config.seed,
        skip_bad=config.skip_bad,
    )
    source = conversion.read(config.model, config.revision)
    start = source.checkpoint
    check_max_length(config.max_length, start.config)
    if start.config.problem_type not in (None, "single_label_classification"):
        raise UserError(f"{config.model}: problem_type is {start.config.problem_type}; only single labels are trained")
    if config.labels and start.config.architecture == CLASSIFIER and config.labels != start.config.labels:
        raise UserError(
            f"--labels is {','.join(config.labels)} but {config.model} is a classifier of "
            f"{','.join(start.config.labels)}; leave --labels out"
        )
    names, ids = label_ids(splits, config.labels or start.config.labels)
    if not start.config.add_pooling_layer and not config.new_pooler:
        raise UserError(f"{config.model}: the checkpoint has no pooler; pass --new-pooler to train a new one")
    start, new = with_classifier(start, names, config.seed)
    cut: Counter[str] = Counter()

    def tokens(name: str) -> Iterator[Tokens]:
        for example in source.tokenizer.stream((row.text for row in splits[name].rows), max_length=config.max_length):
            cut[name] += example.truncated
            yield example

    data = TokenSet.of(tokens("train"), ids["train"])
    evaluated = {name: (list(tokens(name)), ids[name]) for name in splits if name != "train"}
    notes = [conversion.describe(source)]
    if new:
        notes.append(f"new      {', '.join(new)} (normal, {start.config.initializer_range}, seed {config.seed})")
    for name, split in splits.items():
        notes.append(
            f"{name:<8} {len(split.rows):,} examples from {split.path}"
            + (f", {cut[name]:,} cut to {config.max_length} tokens" if cut[name] else "")
            + (f", {split.skipped:,} bad rows skipped" if split.skipped else "")
        )
    return Prepared(
        start,
        data,
        splits["train"]._replace(rows=[]),
        np.array([row.number for row in splits["train"].rows], np.int32),
        evaluated,
        {split.path: split.sha256 for split in splits.values()},
        {name: len(split.rows) for name, split in splits.items()},
        notes,
    )
