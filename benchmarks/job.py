"""From the command line's model and data to a job directory (`workload.Job`)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax import checkpoint
from bert_jax.checkpoint import with_classifier
from bert_jax.config import BertConfig
from bert_jax.packing import Tokens
from bert_jax.tasks import SINGLE_LABEL
from bert_jax.tokenizer import check_max_length
from convert import conversion, huggingface
from train.config import TrainConfig
from train.data.reading import read
from train.tasks import targets_of

from .figures import encoder_parameters
from .workload import Job


def make(directory: Path, model: str, data: Path, settings: dict[str, Any], *, sentences: int = 0) -> Job:
    """Write a job: tokenised train and dev examples, or with `sentences`, that many raw train texts.

    The classifier is the checkpoint's own, or drawn from the seed: the same for every contender.
    Raises `UserError` for a model or data that `python -m train` would not take.
    """
    found = read(TrainConfig(data=str(data), seed=settings["seed"]), SINGLE_LABEL)
    splits = found.splits
    source = conversion.read(model)
    check_max_length(settings["max_length"], source.checkpoint.config)
    names, targets = targets_of(found, source.checkpoint.config.labels)
    labels = {name: ids.tolist() for name, ids in targets.items()}
    start, _ = with_classifier(source.checkpoint, names, settings["seed"])
    for name, layout in (("native", checkpoint), ("hf", huggingface)):
        (directory / name).mkdir(parents=True)
        layout.write(directory / name, start)
    tokenizer = source.tokenizer
    if sentences:
        texts = [row.text for row in splits["train"].rows]
        order = np.random.default_rng(settings["seed"]).permutation(len(texts))
        order = np.resize(order, sentences)  # a small set is gone through again
        (directory / "texts.json").write_text(json.dumps([texts[i] for i in order]), encoding="utf-8")
        splits = {"train": splits["train"]._replace(rows=[splits["train"].rows[i] for i in order])}
        labels = {"train": [labels["train"][i] for i in order]}
    for name in {"train", "dev"} & set(splits):
        tokens = tokenizer([row.text for row in splits[name].rows], max_length=settings["max_length"])
        write_examples(directory / f"{name}.npz", tokens, labels[name])
    known = {**facts(start.config), "source": source.location.origin, **settings}
    if not sentences:
        known |= schedule(settings, len(labels["train"]))
    (directory / "job.json").write_text(json.dumps(known), encoding="utf-8")
    return Job(directory)


def texts(data: Path, seed: int, count: int) -> list[str]:
    """Return `count` raw train texts in an order drawn from the seed; a small set is gone through again."""
    rows = read(TrainConfig(data=str(data), seed=seed), SINGLE_LABEL).splits["train"].rows
    order = np.random.default_rng(seed).permutation(len(rows))
    return [rows[i].text for i in np.resize(order, count)]


def write_examples(path: Path, tokens: Sequence[Tokens], labels: Sequence[int]) -> None:
    """Write a split as `workload.Job.examples` reads it."""
    ids = np.concatenate([example.input_ids for example in tokens])
    lengths = np.array([len(example.input_ids) for example in tokens], np.int64)
    np.savez(path, ids=ids, lengths=lengths, labels=np.array(labels, np.int64))


def schedule(settings: dict[str, Any], count: int) -> dict[str, int]:
    """Steps of the learning rate's schedule: through the examples asked for, or all of them, once."""
    steps = -(-min(count, settings["train_examples"] or count) // settings["batch_size"])
    return {"schedule_steps": steps, "warmup_steps": round(settings["warmup"] * steps)}


def facts(config: BertConfig) -> dict[str, Any]:
    """What contenders and the arithmetic must know of the network."""
    return {
        "num_labels": len(config.labels),
        "num_layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "encoder_parameters": encoder_parameters(
            config.num_hidden_layers, config.hidden_size, config.intermediate_size
        ),
    }
