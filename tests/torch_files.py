"""Files as torch.save writes them, put together without torch."""

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

_KINDS = {"float32": "Float", "float16": "Half", "bfloat16": "BFloat16", "float64": "Double", "int64": "Long"}


def write(path: Path, tensors: Mapping[str, np.ndarray], *, old: bool = False) -> None:
    """A state dict, a storage for each tensor; transposed views have a stride, as there; `old` as before torch 1.6."""
    entries = {}
    end_of_storage = _plain(None) if old else b""
    program = b"\x80\x02ccollections\nOrderedDict\n)R("
    for number, (name, array) in enumerate(tensors.items()):
        array = array if array.flags.f_contiguous else np.asarray(array, order="C")
        entries[f"data/{number}"] = array.tobytes("A")  # as it lies in memory
        kind = f"ctorch\n{_KINDS[array.dtype.name]}Storage\n".encode()
        storage = _plain("storage") + kind + _plain(str(number)) + _plain("cpu") + _plain(array.size) + end_of_storage
        shape = _plain(array.shape), _plain(tuple(step // array.itemsize for step in array.strides))
        made = b"ctorch._utils\n_rebuild_tensor_v2\n((" + storage + b"tQ" + _plain(0) + shape[0] + shape[1]
        program += _plain(name) + made + b"\x89ccollections\nOrderedDict\n)RtR"
    # What torch adds to it by the attributes of the dictionary.
    program += b"u}(" + _plain("_metadata") + b"ccollections\nOrderedDict\n)Rub."
    if old:
        system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
        said = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, system)]
        keys = [name.removeprefix("data/") for name in entries]
        sizes = [array.size.to_bytes(8, "little") for array in tensors.values()]
        storages = [size + content for size, content in zip(sizes, entries.values(), strict=True)]
        path.write_bytes(b"".join([*said, program, pickle.dumps(keys, 2), *storages]))
        return
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", "little")
        for name, content in entries.items():
            archive.writestr(f"archive/{name}", content)
        archive.writestr("archive/version", "3\n")


def _plain(value: object) -> bytes:
    """A pickle of a number, text or tuple, without its frame."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file, 2)
    pickler.fast = True
    pickler.dump(value)
    return file.getvalue()[2:-1]


DTYPES = {name: np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name) for name in _KINDS}
