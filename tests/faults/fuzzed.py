"""What is mutated: for each kind a sound file, the reader that is tried, and an independent check of what it took."""

import csv
import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from tokenizers import processors

from bert_jax import checkpoint
from bert_jax.config import BertConfig
from bert_jax.packing import Tokens
from bert_jax.tasks import SINGLE_LABEL
from bert_jax.tensors import TensorFile, read_tensors, write_tensors
from bert_jax.tokenizer import Tokenizer
from convert.weights import INDEX, read_weights
from tests.conftest import ROOT, VOCABULARY
from tests.faults import mutations
from train.config import TrainConfig
from train.data.reading import read_split
from train.data.sources import find
from train.rows import Data, Split
from train.tasks.labels import label_ids


class Broken(Exception):
    """Something was taken that should not have been, or not as it is."""


class Kind:
    """A sound file `name` in `directory`, what may be done to it, its reader and its check."""

    def __init__(
        self,
        directory: Path,
        name: str,
        mutate: Callable[[random.Random], bytes],
        read: Callable[[Path], Any],
        check: Callable[[bytes, Any, Path], None],
    ):
        self.directory, self.path = directory, directory / name
        self.mutated, self._read, self._check = mutate, read, check

    def here(self, directory: Path) -> "Kind":
        """The same in a directory of its own."""
        shutil.copytree(self.directory, directory)
        return Kind(directory, self.path.name, self.mutated, self._read, self._check)

    def read(self) -> Any:
        """What the project's reader makes of the file there is now."""
        return self._read(self.path)

    def check(self, content: bytes, found: Any) -> None:
        """Raise `Broken` unless `found` is what `content` says."""
        self._check(content, found, self.path)


def _require(good: bool, what: str) -> None:
    if not good:
        raise Broken(what)


# --- safetensors


def _tensors(directory: Path) -> Kind:
    directory.mkdir()
    arrays = {
        "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a.bias": np.arange(3, dtype=np.float16),
        "ids": np.arange(4)[None],
        "é": np.ones((2, 2), np.uint8),
        "none": np.zeros((0, 3), np.float32),
        "one": np.array(1.5),
    }
    bases = []
    for number, chosen in enumerate((arrays, {"x": arrays["a.weight"]}, {})):
        write_tensors(directory / str(number), chosen, {"format": "pt"} if number else {})
        bases.append((directory / str(number)).read_bytes())

    def mutate(rng: random.Random) -> bytes:
        content = mutations.safetensors_file(rng.choice((bases[0], bases[0], *bases)), rng)
        return content[: rng.randrange(len(content) + 1)] + bases[1][20:] if rng.random() < 0.02 else content

    return Kind(directory, "model.safetensors", mutate, read_tensors, _check_tensors)


def _check_tensors(content: bytes, found: TensorFile, _: Path) -> None:
    try:
        theirs = dict(safetensors.deserialize(content))
    except safetensors.SafetensorError as error:
        raise Broken(f"the library refuses it: {error}") from None
    _require(set(theirs) == set(found.tensors), "other names than the library finds")
    for name, array in found.tensors.items():
        _require(list(array.shape) == list(theirs[name]["shape"]), f"shape of {name}")
        _require(array.tobytes() == bytes(theirs[name]["data"]), f"bytes of {name}")
    size = int.from_bytes(content[:8], "little")
    _once(content[8 : 8 + size].decode())
    used = sum(array.nbytes for array in found.tensors.values())
    _require(used == len(content) - 8 - size, "bytes that belong to no tensor")


def _once(text: str) -> None:
    """No name twice in an object of this JSON."""

    def pairs(found: list[tuple[str, Any]]) -> None:
        names = [name for name, _ in found]
        _require(len(set(names)) == len(names), "a name twice")

    json.loads(text, object_pairs_hook=pairs)


# --- JSON


def _config(directory: Path) -> Kind:
    directory.mkdir()
    shutil.copyfile(ROOT / "tests" / "golden" / "odd" / "sharded_classifier" / "config.json", directory / "config.json")
    base = (directory / "config.json").read_text()

    def read(path: Path) -> BertConfig:
        config, _ = checkpoint.read_config(path)
        checkpoint.parameter_shapes(config)
        return config

    return Kind(directory, "config.json", lambda rng: mutations.json_file(base, rng), read, _check_config)


def _check_config(content: bytes, found: BertConfig, _: Path) -> None:
    data = json.loads(content.decode("utf-8-sig"))
    default = BertConfig()
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    for name in (*sizes, "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "hidden_act"):
        _require(getattr(found, name) == data.get(name, getattr(default, name)), f"{name} is not what the file says")
    for name in (*sizes, "max_position_embeddings", "type_vocab_size"):
        _require(type(getattr(found, name)) is int and getattr(found, name) >= 1, f"{name} is no size")
    _require(found.hidden_size % found.num_attention_heads == 0, "heads do not divide the hidden size")
    _require(0 < found.layer_norm_eps < 1, "layer_norm_eps")
    again = BertConfig.from_dict(json.loads(json.dumps(found.to_dict())))
    _require(again == found, "it does not survive being written")


def _index(directory: Path) -> Kind:
    directory.mkdir()
    shards = {
        "model-1.safetensors": {"a": np.zeros(2, np.float32), "b": np.ones(3, np.float32)},
        "model-2.safetensors": {"c": np.ones((2, 2), np.float32)},
    }
    for name, arrays in shards.items():
        write_tensors(directory / name, arrays, {"format": "pt"})
    weight_map = {name: shard for shard, arrays in shards.items() for name in arrays}
    base = json.dumps({"metadata": {"total_size": 36}, "weight_map": weight_map})

    def check(content: bytes, found: tuple[dict[str, np.ndarray], dict[str, str]], _: Path) -> None:
        listed = json.loads(content.decode("utf-8-sig"))["weight_map"]
        _require(listed.items() <= weight_map.items(), "an index that is not that of these shards")
        _require(set(found[0]) == set(listed) and set(found[1]) == set(listed.values()), "other tensors or files")

    def read(path: Path) -> Any:
        return read_weights(path.parent)

    return Kind(directory, INDEX, lambda rng: mutations.json_file(base, rng), read, check)


TEXTS = (
    "a good film",
    "",
    "x" * 300,
    "not\u0000\u200b bad, é中😀!",
    "[CLS] good [SEP]",
    "\u0130\u0301 ##ly the very " * 20,
)


def _tokenizer(directory: Path) -> Kind:
    directory.mkdir()
    backend = Tokenizer.of({"vocab.txt": "\n".join(VOCABULARY).encode()}, directory).backend
    template = [("[CLS]", VOCABULARY.index("[CLS]")), ("[SEP]", VOCABULARY.index("[SEP]"))]
    backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", template)
    base = backend.to_str()
    (directory / "tokenizer.json").write_text(base)

    def read(path: Path) -> tuple[int, list[Tokens]]:
        made = Tokenizer.of({path.name: path.read_bytes()}, path.parent)
        return made.size, made(TEXTS, max_length=16)

    return Kind(directory, "tokenizer.json", lambda rng: mutations.json_file(base, rng), read, _check_tokens)


def _check_tokens(_: bytes, found: tuple[int, list[Tokens]], __: Path) -> None:
    size, examples = found
    _require(len(examples) == len(TEXTS), "not as many examples as texts")
    ends = {(int(tokens.input_ids[0]), int(tokens.input_ids[-1])) for tokens in examples}
    _require(len(ends) == 1, "not all begin with [CLS] and end with [SEP]")
    for tokens in examples:
        _require(2 <= len(tokens.input_ids) <= 16, f"{len(tokens.input_ids)} tokens")
        _require(bool((tokens.input_ids >= 0).all() and (tokens.input_ids < size).all()), "an id out of range")


# --- data

ROWS = [("a good film", "0"), ('the "very" bad, film', "1"), ("é中😀\nnot", "0"), ("", "1")] * 2


def _csv(directory: Path) -> Kind:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([("text", "label"), *ROWS])
    return _data(directory, "train.csv", file.getvalue().encode())


def _tsv(directory: Path) -> Kind:
    rows = [("text", "label"), *((text.replace("\n", " "), label) for text, label in ROWS)]
    return _data(directory, "train.tsv", "".join(f"{text}\t{label}\n" for text, label in rows).encode())


def _jsonl(directory: Path) -> Kind:
    rows = [json.dumps({"text": text, "label": int(label), "id": None}) for text, label in ROWS]
    return _data(directory, "train.jsonl", "".join(f"{row}\n" for row in rows).encode())


def _data(directory: Path, name: str, base: bytes) -> Kind:
    directory.mkdir()

    def mutate(rng: random.Random) -> bytes:
        if name.endswith("jsonl") and rng.random() < 0.5:
            lines = base.splitlines()
            chosen = rng.randrange(len(lines))
            lines[chosen] = mutations.json_file(lines[chosen].decode(), rng)
            return b"\n".join(lines) + b"\n"
        return mutations.text_file(base, rng)

    def read(path: Path) -> Split:
        _, split = read_split(find(path)["train"], TrainConfig(), SINGLE_LABEL)
        if split.rows:
            names, ids = label_ids(Data(SINGLE_LABEL, {"train": split}, ()))
            _require(all(0 <= number < len(names) for number in ids["train"]), "a label out of range")
        return split

    return Kind(directory, name, mutate, read, _check_rows)


def _check_rows(content: bytes, found: Split, path: Path) -> None:
    for row in found.rows:
        _require(isinstance(row.text, str) and type(row.label) in (int, str), "a text that is none, or a label")
        row.text.encode()
    if not found.rows and b"\xef\xbb\xbf".startswith(content):
        return  # to Python a part of a byte order mark is nothing
    text = content.decode("utf-8-sig")
    if path.suffix == ".jsonl":
        records = [json.loads(line) for line in text.split("\n") if line.strip()]
    else:
        options = {} if path.suffix == ".csv" else {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
        header, *rows = [cells for cells in csv.reader(io.StringIO(text, newline=""), **options) if cells] or [[]]
        records = [dict(zip(map(str.strip, header), cells, strict=True)) for cells in rows]
    _require(len(records) == len(found.rows), "not as many rows as the file has")
    for record, row in zip(records, found.rows, strict=True):
        _require(row.text in record.values() and row.label in record.values(), f"line {row.number}")


KINDS: dict[str, Callable[[Path], Kind]] = {
    "safetensors": _tensors,
    "config": _config,
    "index": _index,
    "tokenizer": _tokenizer,
    "csv": _csv,
    "tsv": _tsv,
    "jsonl": _jsonl,
}
