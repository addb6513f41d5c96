"""What is in hostile repositories: functions that turn a sound one into an attack."""

import gzip
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

MODEL, DATA = "convert", "train"


Make = Callable[[Path, Path], None]
"""Turns a sound repository into an attack on the bait beside it: `make(repository, bait)`."""


class Attack(NamedTuple):
    """What is given to which command, whether it must be refused or may be ignored, its row in the catalogue."""

    name: str
    command: str
    refused: bool
    row: int | None
    make: Make


ATTACKS: list[Attack] = []


def attack(command: str, *, refused: bool, row: int | None = None) -> Callable[[Make], Make]:
    """Add the decorated function to `ATTACKS`."""

    def register(make: Make) -> Make:
        ATTACKS.append(Attack(make.__name__.replace("_", " "), command, refused, row, make))
        return make

    return register


class _Runs:
    """A pickle of this calls a function."""

    def __init__(self, function: Callable, *arguments: object):
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable, tuple[object, ...]]:
        return self.call


def _executed(bait: Path) -> _Runs:
    return _Runs(os.system, f"touch {bait}/executed")


def _script(bait: Path) -> str:
    return f"open({str(bait / 'executed')!r}, 'w').close()\n"


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **changes}))


def _torch_zip(repository: Path, program: bytes, storage: bytes = b"", kind: int = zipfile.ZIP_STORED) -> None:
    (repository / "model.safetensors").unlink()
    with zipfile.ZipFile(repository / "pytorch_model.bin", "w", kind) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/data/0", storage)


def _link(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _sparse(path: Path, head: bytes = b"") -> None:
    path.write_bytes(head)
    os.truncate(path, 2**40)


# --- models


@attack(MODEL, refused=True, row=56)
def a_pickle_that_runs_a_program(repository: Path, bait: Path) -> None:
    _torch_zip(repository, pickle.dumps({"weight": _executed(bait)}))


@attack(MODEL, refused=True, row=56)
def a_pickle_of_the_old_kind(repository: Path, bait: Path) -> None:
    (repository / "model.safetensors").unlink()
    (repository / "pytorch_model.bin").write_bytes(pickle.dumps(_executed(bait)))


@attack(MODEL, refused=True, row=56)
def a_pickle_that_evaluates_text(repository: Path, bait: Path) -> None:
    _torch_zip(repository, pickle.dumps(_Runs(eval, _script(bait)[:-1])))


@attack(MODEL, refused=True, row=56)
def a_pickle_that_climbs_through_attributes(repository: Path, bait: Path) -> None:
    _torch_zip(repository, b"\x80\x04\x8c\x0bcollections\x8c\x1fOrderedDict.__init__.__globals__\x93.")


@attack(MODEL, refused=True, row=56)
def a_pickle_hidden_in_a_persistent_id(repository: Path, bait: Path) -> None:
    _torch_zip(repository, pickle.dumps(("storage", _executed(bait)), 2)[:-1] + b"Q.")


@attack(MODEL, refused=True, row=56)
def a_pickle_of_numpy_objects(repository: Path, bait: Path) -> None:
    _torch_zip(repository, pickle.dumps({"w": np.array([_executed(bait)], object)}))


@attack(MODEL, refused=True, row=56)
def a_pickle_in_a_zip_bomb(repository: Path, bait: Path) -> None:
    _torch_zip(repository, bytes(2**28), kind=zipfile.ZIP_DEFLATED)


@attack(MODEL, refused=True, row=56)
def a_tensor_larger_than_its_storage(repository: Path, bait: Path) -> None:
    program = (  # _rebuild_tensor_v2(storage of 1 float, 0, (2**40,), (0,))
        b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n("
        b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + b"0X\x03\0\0\0cpuK\x01tQ"
        b"K\0\x8a\x06\0\0\0\0\0\x01\x85K\0\x85\x89NtRs."
    )
    _torch_zip(repository, program, struct.pack("<f", 1))


@attack(MODEL, refused=False, row=56)
def a_pickle_beside_the_weights(repository: Path, bait: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt"):
        (repository / name).write_bytes(pickle.dumps(_executed(bait)))
    np.save(repository / "weights.npy", np.array([_executed(bait)], object), allow_pickle=True)


@attack(MODEL, refused=True, row=13)
def code_of_its_own_by_auto_map(repository: Path, bait: Path) -> None:
    (repository / "modeling_evil.py").write_text(_script(bait))
    _edit(repository / "config.json", auto_map={"AutoModel": "modeling_evil.Model"})


@attack(MODEL, refused=True)
def a_tokenizer_of_its_own_by_auto_map(repository: Path, bait: Path) -> None:
    (repository / "tokenization_evil.py").write_text(_script(bait))
    _edit(repository / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_evil.T", None]})


@attack(MODEL, refused=False)
def scripts_that_python_or_others_pick_up(repository: Path, bait: Path) -> None:
    for name in ("__init__.py", "setup.py", "conftest.py", "sitecustomize.py", "numpy.py", "model.py", ".pth"):
        (repository / name).write_text(_script(bait))


@attack(MODEL, refused=False)
def a_chat_template_that_climbs(repository: Path, bait: Path) -> None:
    climbing = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    _edit(repository / "tokenizer_config.json", chat_template=climbing)


@attack(MODEL, refused=True)
def modules_that_name_code_and_places(repository: Path, bait: Path) -> None:
    modules = [{"idx": 0, "name": "0", "path": f"../{bait.name}", "type": "os.system"}]
    (repository / "modules.json").write_text(json.dumps(modules))


@attack(MODEL, refused=True, row=57)
def a_module_folder_that_is_a_link(repository: Path, bait: Path) -> None:
    (repository / "modules.json").write_text("[]")
    (bait / "config.json").write_text("{}")
    _link(repository / "1_Pooling", bait)


def _index(repository: Path, name: str) -> None:
    os.rename(repository / "model.safetensors", repository / "shard.safetensors")
    (repository / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))


@attack(MODEL, refused=True, row=7)
def an_index_that_climbs(repository: Path, bait: Path) -> None:
    _index(repository, f"../{bait.name}/model.safetensors")


@attack(MODEL, refused=True, row=7)
def an_index_with_an_absolute_path(repository: Path, bait: Path) -> None:
    _index(repository, str(bait / "model.safetensors"))


@attack(MODEL, refused=True, row=7)
def a_shard_that_is_a_link(repository: Path, bait: Path) -> None:
    _index(repository, "model-1.safetensors")
    _link(repository / "model-1.safetensors", bait / "model.safetensors")


@attack(MODEL, refused=True, row=57)
def weights_that_are_a_link(repository: Path, bait: Path) -> None:
    _link(repository / "model.safetensors", bait / "model.safetensors")


@attack(MODEL, refused=True, row=57)
def a_config_that_is_a_link(repository: Path, bait: Path) -> None:
    _link(repository / "config.json", bait / "secret.json")


@attack(MODEL, refused=True, row=57)
def a_tokenizer_that_is_a_link(repository: Path, bait: Path) -> None:
    _link(repository / "tokenizer.json", bait / "secret.json")


@attack(MODEL, refused=True, row=57)
def a_vocabulary_that_links_to_a_link(repository: Path, bait: Path) -> None:
    _link(repository / "other.txt", bait / "secret.json")
    _link(repository / "vocab.txt", repository / "other.txt")


@attack(MODEL, refused=True, row=57)
def links_in_a_circle(repository: Path, bait: Path) -> None:
    _link(repository / "config.json", repository / "other.json")
    _link(repository / "other.json", repository / "config.json")


@attack(MODEL, refused=False, row=16)
def settings_that_name_files_elsewhere(repository: Path, bait: Path) -> None:
    names = ("vocab_file", "tokenizer_file", "special_tokens_map_file", "name_or_path", "merges_file")
    _edit(repository / "tokenizer_config.json", **dict.fromkeys(names, str(bait / "secret.json")))
    _edit(repository / "config.json", _name_or_path=f"../{bait.name}", vocab_file=f"../{bait.name}/secret.json")


@attack(MODEL, refused=True)
def a_config_that_is_a_pipe(repository: Path, bait: Path) -> None:
    _pipe(repository / "config.json")


@attack(MODEL, refused=True)
def weights_that_are_a_pipe(repository: Path, bait: Path) -> None:
    _pipe(repository / "model.safetensors")


@attack(MODEL, refused=True)
def a_config_of_a_terabyte(repository: Path, bait: Path) -> None:
    _sparse(repository / "config.json")


@attack(MODEL, refused=True)
def a_tokenizer_of_a_terabyte(repository: Path, bait: Path) -> None:
    _sparse(repository / "tokenizer.json")


@attack(MODEL, refused=True)
def weights_of_a_terabyte(repository: Path, bait: Path) -> None:
    header = b'{"x":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}'
    size = 2**40 - 8 - len(header % (2**40, 2**40))
    content = header % (size, size)
    _sparse(repository / "model.safetensors", struct.pack("<Q", len(content)) + content)


@attack(MODEL, refused=True)
def json_nested_a_million_deep(repository: Path, bait: Path) -> None:
    (repository / "config.json").write_text('{"a":' + "[" * 10**6)


@attack(MODEL, refused=True)
def a_layer_for_every_byte_of_memory(repository: Path, bait: Path) -> None:
    _edit(repository / "config.json", num_hidden_layers=10**12)


@attack(MODEL, refused=True)
def a_regular_expression_that_never_ends(repository: Path, bait: Path) -> None:
    words = {token: i for i, token in enumerate((repository / "vocab.txt").read_text().split())}
    normalizer = {"type": "Replace", "pattern": {"Regex": "(x+x+)+y"}, "content": ""}
    model = {"type": "WordPiece", "vocab": words, "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    made = {"version": "1.0", "added_tokens": [], "normalizer": normalizer, "pre_tokenizer": None, "decoder": None}
    (repository / "tokenizer.json").write_text(
        json.dumps({**made, "post_processor": None, "model": {**model, "max_input_chars_per_word": 100}})
    )


@attack(MODEL, refused=False, row=62)
def names_that_drive_the_terminal(repository: Path, bait: Path) -> None:
    _edit(repository / "config.json", id2label={"0": "\x1b]0;owned\x07", "1": "\x9b2J"}, num_labels=2)


# --- data


@attack(DATA, refused=True, row=26)
def a_dataset_that_is_a_script(repository: Path, bait: Path) -> None:
    (repository / "train.tsv").unlink()
    (repository / f"{repository.name}.py").write_text(_script(bait))


@attack(DATA, refused=True, row=57)
def data_that_are_a_link(repository: Path, bait: Path) -> None:
    (bait / "train.tsv").write_bytes((repository / "train.tsv").read_bytes())
    _link(repository / "train.tsv", bait / "train.tsv")


@attack(DATA, refused=True)
def data_that_are_a_pipe(repository: Path, bait: Path) -> None:
    _pipe(repository / "train.tsv")


@attack(DATA, refused=True, row=25)
def a_gzip_bomb(repository: Path, bait: Path) -> None:
    (repository / "train.tsv").unlink()
    with gzip.open(repository / "train.tsv.gz", "wb", 9) as file:
        file.write(b"text\tlabel\n")
        for _ in range(16):
            file.write(b"x" * 2**24)


@attack(DATA, refused=True, row=25)
def a_parquet_bomb(repository: Path, bait: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (repository / "train.tsv").unlink()
    rows = pa.table({"text": pa.array(["x"] * 2**24).dictionary_encode(), "label": np.zeros(2**24, np.int8)})
    pq.write_table(rows, repository / "train.parquet")


@attack(DATA, refused=True)
def a_parquet_file_that_asks_for_a_pickle(repository: Path, bait: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (repository / "train.tsv").unlink()
    program = pickle.dumps(_executed(bait))
    extension = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": program}
    schema = pa.schema([pa.field("text", pa.binary(), metadata=extension), ("label", pa.int64())])
    pq.write_table(pa.table([[b"a", b"b"], [0, 1]], schema), repository / "train.parquet")


@attack(DATA, refused=True)
def a_number_of_a_million_digits(repository: Path, bait: Path) -> None:
    (repository / "train.tsv").unlink()
    (repository / "train.jsonl").write_text('{"text": "a", "label": ' + "1" * 10**6 + "}\n")
