"""The native checkpoint: a directory with `config.json`, `model.safetensors` and the tokenizer's files.

Tensor names are Flax paths joined by dots. Layouts are Flax's: kernels have shape inputs x outputs. The encoder of a
classifier has the same tensor names as an encoder alone. Label names are in `config.json`. In this module, only `load`
needs JAX.
"""

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bert_jax import tokenizer as tokenizers
from bert_jax.config import ENCODER, BertConfig
from bert_jax.errors import UserError
from bert_jax.files import parse_json, read_bytes, write_json
from bert_jax.misplaced import check_config_lies_in
from bert_jax.run_files import best_of, is_run
from bert_jax.sentence_files import MODULES, parse_modules
from bert_jax.tasks import DEFAULT, TASKS
from bert_jax.tensors import physical_memory, read_tensors, write_tensors

if TYPE_CHECKING:
    from bert_jax.heads import SequenceClassifier
    from bert_jax.model import Model

FORMAT = "bert_jax"
VERSION = "1"


@dataclass(frozen=True)
class Checkpoint:
    """A model as data: config, named arrays in their stored dtypes, provenance, other files.

    `metadata` holds the entries of the safetensors header other than format and version: `source`, `source_sha256` and
    the like, all strings. `files` maps relative names to contents, for the tokenizer's files and the files that
    sentence-transformers needs. `sha256` maps the names of the files that config and tensors were read from to the
    SHA-256 of exactly the bytes that were read.
    """

    config: BertConfig
    tensors: Mapping[str, np.ndarray]
    files: Mapping[str, bytes]
    metadata: Mapping[str, str] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)


def parameter_shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """Return the name and native shape of every parameter in a checkpoint with this config."""
    size, intermediate = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {}

    def dense(name: str, inputs: int, outputs: int) -> None:
        shapes[f"{name}.kernel"] = (inputs, outputs)
        shapes[f"{name}.bias"] = (outputs,)

    def norm(name: str) -> None:
        shapes[f"{name}.scale"] = shapes[f"{name}.bias"] = (size,)

    shapes["embeddings.word_embeddings.embedding"] = (config.vocab_size, size)
    shapes["embeddings.token_type_embeddings.embedding"] = (config.type_vocab_size, size)
    shapes["embeddings.position_embeddings.embedding"] = (config.max_position_embeddings, size)
    norm("embeddings.layer_norm")
    for i in range(config.num_hidden_layers):
        layer = f"encoder.layers.{i}"
        for part in ("query", "key", "value", "output"):
            dense(f"{layer}.attention.{part}", size, size)
        norm(f"{layer}.attention_norm")
        dense(f"{layer}.intermediate", size, intermediate)
        dense(f"{layer}.output", intermediate, size)
        norm(f"{layer}.output_norm")
    if config.add_pooling_layer:
        dense("pooler", size, size)
    if config.head is not None:
        shapes |= config.head.shapes(config)
    return shapes


def misfits(shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, np.ndarray]) -> list[str]:
    """Describe every way in which `tensors` does not match `shapes`.

    The misfits are missing and unexpected names, other shapes, dtypes that are not floating point, values that are NaN
    or infinite, and values too large for float32.
    """
    problems = [f"missing {name}" for name in shapes if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in shapes]
    for name, shape in shapes.items():
        if name not in tensors:
            continue
        array = tensors[name]
        if array.shape != shape:
            problems.append(f"{name} has shape {list(array.shape)}, expected {list(shape)}")
        elif array.dtype.name not in ("float32", "float16", "bfloat16", "float64"):
            problems.append(f"{name} has dtype {array.dtype.name}, expected floating point")
        elif not np.isfinite(array).all():
            problems.append(f"{name} has NaN or infinite values")
        elif array.dtype == np.float64 and array.size and np.abs(array).max() > np.finfo(np.float32).max:
            problems.append(f"{name} has values too large for float32")
    return problems


def check_tensors(
    where: object, shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, np.ndarray], *also: str, way: str = ""
) -> None:
    """Raise one `UserError` that lists every misfit, after the misfits in `also` that the caller found before.

    `way` says what to do if unexpected tensors are the only misfits; it ends the message in that case.
    """
    problems = [*also, *misfits(shapes, tensors)]
    if problems:
        ending = f"; {way}" if way and len(problems) == len(tensors.keys() - shapes.keys()) else ""
        raise UserError(f"{where}: {len(problems)} misfits between tensors and config: {'; '.join(problems)}{ending}")


def check_memory(config: BertConfig, where: object) -> None:
    """Raise `UserError` if the config's parameters alone exceed this machine's memory."""
    if config.parameter_bytes > (memory := physical_memory()):
        raise UserError(
            f"{where}: vocab_size, hidden_size and num_hidden_layers ask for {config.parameter_bytes:,} bytes "
            f"of parameters, more than this machine's {memory:,}; check the config"
        )


def read_config(path: Path, reading: Callable[[dict[str, Any]], dict[str, Any]] = dict) -> tuple[BertConfig, str]:
    """Read a `config.json`; return the config and the SHA-256 of the file.

    `reading` converts the file's JSON object before `BertConfig.from_dict` reads it. Every error names the file.
    """
    content = read_bytes(path)
    data = parse_json(content, path)
    try:
        config = BertConfig.from_dict(reading(data))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except TypeError as error:
        raise UserError(f"{path}: wrong type: {error}") from None
    check_memory(config, path)
    return config, hashlib.sha256(content).hexdigest()


_OF_MODULE = ("config.json", "model.safetensors", "pytorch_model.bin")
"""Files in the folder of a sentence-transformers module; `bert_jax.sentence_modules` reads what they say."""


def read_files(directory: Path) -> dict[str, bytes]:
    """Return the tokenizer's and sentence-transformers' files in a checkpoint directory, as bytes by relative name."""
    names = [*tokenizers.FILES, "sentence_bert_config.json", "config_sentence_transformers.json", MODULES]
    if (directory / MODULES).exists():
        folders = [folder for folder in sorted(directory.iterdir()) if re.fullmatch(r"\d+_\w+", folder.name)]
        names += [f"{folder.name}/{name}" for folder in folders for name in _OF_MODULE]
    present = [name for name in names if os.path.lexists(directory / name)]
    if MODULES in present:
        _check_modules(directory / MODULES, present)
    return {name: read_bytes(directory / name, within=directory) for name in present}


_WITHOUT_WEIGHTS = ("Transformer", "Pooling", "Normalize", "Dropout")
"""Modules of sentence-transformers that have only a config file (the weights of `Transformer` are the model's)."""


def _check_modules(path: Path, names: list[str]) -> None:
    """Raise `UserError` if a module of sentence-transformers cannot be carried along whole.

    `path` is `modules.json` and `names` are the files that are there. A malformed `modules.json` is an error too.
    """
    for module in parse_modules(read_bytes(path, within=path.parent), path):
        folder, kind = str(module.get("path")), str(module.get("type"))
        weights = [name for name in names if name.startswith(f"{folder}/") and not name.endswith(".json")]
        if kind.split(".")[-1] not in _WITHOUT_WEIGHTS and not weights:
            raise UserError(f"{path.parent}: modules.json names {folder} ({kind}), whose weights are not there")


def read(directory: Path | str, *, hashed: bool = True) -> Checkpoint:
    """Read and check a native checkpoint, or a training run's best model, without JAX.

    `sha256` of the result is empty unless `hashed`. Raises `UserError` for files that are missing, damaged or do not
    fit together. For a Hugging Face directory, the error gives the command that converts it.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory; expected a checkpoint made by `python -m convert`")
    if is_run(directory):
        directory = best_of(directory)
    check_config_lies_in(directory)
    config, config_sha256 = read_config(directory / "config.json")
    path = directory / "model.safetensors"
    tensors, header, sha256 = read_tensors(path, hashed=hashed)
    if header.get("format") != FORMAT:
        raise UserError(f"{path}: not a native checkpoint; convert it first: python -m convert {directory} OUT")
    if header.get("format_version") != VERSION:
        raise UserError(f"{path}: format version {header.get('format_version')}; this program reads {VERSION}")
    check_tensors(path, parameter_shapes(config), tensors)
    metadata = {name: value for name, value in header.items() if name not in ("format", "format_version")}
    hashes = {path.name: sha256, "config.json": config_sha256} if hashed else {}
    return Checkpoint(config, tensors, read_files(directory), metadata, hashes)


def write(directory: Path, checkpoint: Checkpoint) -> None:
    """Write a native checkpoint into an existing directory (see `files.new_directory`)."""
    header = {"format": FORMAT, "format_version": VERSION, **checkpoint.metadata}
    write_json(directory / "config.json", checkpoint.config.to_dict())
    write_tensors(directory / "model.safetensors", checkpoint.tensors, header)
    write_files(directory, checkpoint.files)


def write_files(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write a checkpoint's other files under their relative names."""
    for name, content in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(content)


def with_classifier(
    start: Checkpoint, labels: tuple[str, ...], seed: int, task: str = DEFAULT
) -> tuple[Checkpoint, list[str]]:
    """Return the checkpoint with the head of a task for these labels, and the names of its new parameters.

    `task` is the name of a task.

    New kernels are drawn from normal(0, initializer_range) with the seed; new biases are 0. The classifier keeps the
    tokenizer's files. It drops sentence-transformers' files, as they describe an embedding model.
    """
    head, problem_type = TASKS[task].head, TASKS[task].problem_type
    config = start.config.replace(
        architecture=head.architecture,
        labels=labels,
        add_pooling_layer=head.pooled or start.config.add_pooling_layer,
        problem_type=problem_type,
        source={**start.config.source, "problem_type": problem_type} if start.config.source else {},
    )
    generator = np.random.default_rng(seed)
    tensors, new_names = dict(start.tensors), []
    for name, shape in parameter_shapes(config).items():
        if name not in tensors:
            new_names.append(name)
            scale = config.initializer_range if name.endswith("kernel") else 0.0
            tensors[name] = (scale * generator.standard_normal(shape)).astype(np.float32)
    files = {name: content for name, content in start.files.items() if name in tokenizers.FILES}
    metadata = {name: value for name, value in start.metadata.items() if name != "position_ids"}
    return Checkpoint(config, tensors, files, metadata, start.sha256), new_names


def without_classifier(start: Checkpoint) -> Checkpoint:
    """Return the encoder of a classifier: the checkpoint without the classifier's parameters, labels and threshold."""
    config = start.config.replace(architecture=ENCODER, labels=(), problem_type=None)
    tensors = {name: start.tensors[name] for name in parameter_shapes(config)}
    metadata = {name: value for name, value in start.metadata.items() if name != "threshold"}
    return replace(start, config=config, tensors=tensors, metadata=metadata)


def read_classifier(directory: Path | str) -> tuple[Checkpoint, tokenizers.Tokenizer]:
    """Read the checkpoint and tokenizer for a `bert_jax.predict.TextClassifier`, without JAX.

    Raises `UserError` as `read` does, if the checkpoint has no classifier, and if the tokenizer does not fit it.
    """
    checkpoint = read(directory, hashed=False)
    config = checkpoint.config
    if config.task is None:
        raise UserError(f"{directory}: has no classifier yet; fine-tune it: python -m train --model {directory}")
    tokenizer = tokenizers.Tokenizer.of(checkpoint.files, Path(directory))
    tokenizer.check_fits(config, directory)
    return checkpoint, tokenizer


def load(directory: Path | str, dtype: Any = "float32", precision: str = "highest") -> "SequenceClassifier | Model":
    """Load a native checkpoint, or a training run's best model, as a Flax model.

    Returns a `SequenceClassifier` if the checkpoint has a classifier, otherwise a `Model`. Parameters become float32,
    whatever dtype they are stored in. Matrix products are computed in `dtype`. `precision` (one of
    `bert_jax.config.PRECISIONS`) sets how exactly float32 products are computed. Raises `UserError` as `read` does, and
    for an unknown dtype or precision.
    """
    from bert_jax.parameters import build

    checkpoint = read(directory, hashed=False)
    return build(checkpoint.config, checkpoint.tensors, dtype, precision=precision)
