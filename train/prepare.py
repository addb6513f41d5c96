"""Everything before the first step that needs no accelerator: read, check, tokenise, pack."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from bert_jax.checkpoint import Checkpoint, parameter_shapes
from bert_jax.config import CLASSIFIER, BertConfig
from bert_jax.errors import UserError
from bert_jax.packing import Tokens
from bert_jax.tokenizer import Tokenizer, check_max_length
from convert import conversion

from .batches import Batches
from .config import TrainConfig
from .data import label_ids, read_splits


class Prepared(NamedTuple):
    """A run's input: the starting parameters, the batches, the splits to evaluate on."""

    checkpoint: Checkpoint
    batches: Batches
    evaluated: dict[str, tuple[list[Tokens], list[int]]]
    files: list[Path]
    counts: dict[str, int]
    notes: list[str]


def prepare(config: TrainConfig) -> Prepared:
    """Read model and data and check that they fit each other and the options.

    Raises `UserError`; nothing is written and JAX is not needed.
    """
    _check_run_directory(config.run_directory, config.overwrite)
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
    if config.labels and start.config.architecture == CLASSIFIER and config.labels != start.config.labels:
        raise UserError(
            f"--labels is {','.join(config.labels)} but {config.model} is a classifier of "
            f"{','.join(start.config.labels)}; leave --labels out"
        )
    names, ids = label_ids(splits, config.labels or start.config.labels)
    start, new = with_classifier(start, names, config)
    tokenizer = Tokenizer.load(source.location.directory)
    tokens = {
        name: tokenizer([row.text for row in split.rows], max_length=config.max_length)
        for name, split in splits.items()
    }
    batches = Batches(tokens["train"], ids["train"], batch_size=config.batch_size, seed=config.seed)
    notes = [conversion.describe(source)]
    if new:
        notes.append(f"new      {', '.join(new)} (normal, {start.config.initializer_range}, seed {config.seed})")
    for name, split in splits.items():
        cut = sum(example.truncated for example in tokens[name])
        notes.append(
            f"{name:<8} {len(split.rows):,} examples from {split.path}"
            + (f", {cut:,} cut to {config.max_length} tokens" if cut else "")
            + (f", {split.skipped:,} bad rows skipped" if split.skipped else "")
        )
    notes.append(
        f"batches  {batches.steps_per_epoch:,} steps an epoch of {config.batch_size} examples in "
        f"{' or '.join(map(str, batches.shapes.row_counts))} rows of {batches.shapes.row_length} tokens"
    )
    return Prepared(
        start,
        batches,
        {name: (tokens[name], ids[name]) for name in splits if name != "train"},
        sorted({split.path for split in splits.values()}),
        {name: len(split.rows) for name, split in splits.items()},
        notes,
    )


def with_classifier(start: Checkpoint, labels: tuple[str, ...], config: TrainConfig) -> tuple[Checkpoint, list[str]]:
    """The checkpoint as a classifier of these labels, and the names of parameters made new for it.

    New kernels are normal(0, initializer_range) by the seed, new biases 0. Raises `UserError`
    where there is no pooler and none was asked for.
    """
    model = start.config
    if not model.add_pooling_layer and not config.new_pooler:
        raise UserError(f"{config.model}: the checkpoint has no pooler; pass --new-pooler to train a new one")
    wanted: BertConfig = model.replace(
        architecture=CLASSIFIER,
        labels=labels,
        add_pooling_layer=True,
        problem_type="single_label_classification",
    )
    generator = np.random.default_rng(config.seed)
    tensors, new = dict(start.tensors), []
    for name, shape in parameter_shapes(wanted).items():
        if name not in tensors:
            new.append(name)
            scale = wanted.initializer_range if name.endswith("kernel") else 0.0
            tensors[name] = (scale * generator.standard_normal(shape)).astype(np.float32)
    metadata = {name: value for name, value in start.metadata.items() if name != "position_ids"}
    return Checkpoint(wanted, tensors, _tokenizer_files(start), metadata), new


def _tokenizer_files(start: Checkpoint) -> dict[str, Path]:
    """The files a classifier keeps: sentence-transformers' describe an embedding it no longer is."""
    from bert_jax.tokenizer import FILES

    return {name: path for name, path in start.files.items() if name in FILES}


def _check_run_directory(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise UserError(f"{out}: exists; choose another --out or pass --overwrite")
    if not (out / "run.json").is_file():
        raise UserError(f"{out}: exists and is not a run (no run.json), so --overwrite leaves it alone")
