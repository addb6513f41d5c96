"""Sound inputs and what can be done to them: bytes, JSON by its structure, safetensors by their header.

Every mutation draws from the generator it is given and from nothing else.
"""

import copy
import json
import random
import struct
from typing import Any


class Raw(str):
    """JSON text that stands as it is."""


class Pair(list):
    """A name and a value in a JSON object."""


class Pairs(list):
    """A JSON object as a list of pairs, in which a name may be there twice."""


DEEP = tuple(Raw("[" * n + "]" * n) for n in (60, 2_000, 100_000))
NUMBERS = tuple(
    Raw(text)
    for text in (
        *("0", "-0", "-1", "1", "2", "3", "7", "1.0", "1.5", "1e2"),
        *("1e999", "-1e999", "NaN", "Infinity", "-Infinity"),
        *(str(2**n + more) for n in (8, 16, 31, 32, 53, 63, 64, 128) for more in (-1, 0, 8)),
        *("9" * 400, "9" * 5_000),
    )
)
TEXTS = tuple(
    Raw(text)
    for text in (
        *('""', '"a"', '"\\ud800"', '"\\udc00x"', '"\\u0000"', '"\\u001b[2J"', '"é中😀"', f'"{"a" * 20_000}"'),
        *('"F32"', '"F16"', '"BF16"', '"I64"', '"U8"', '"BOOL"', '"F99"', '"f32"'),
        *('"__metadata__"', '"bert"', '"gelu"'),
        *('"../x"', '"/etc/passwd"', '"model-1.safetensors"', '"[PAD]"', '"[CLS]"', '"##a"', '"WordPiece"', '"BPE"'),
        *('"Unigram"', '"Replace"', '"BertNormalizer"', '"Split"', '"ByteLevel"', '"Strip"'),
        *('"Metaspace"', '"Sequence"'),
    )
)
OTHERS = tuple(map(Raw, ("null", "true", "false", "[]", "{}", "[[]]", '{"a":1}', "[0]", "[1,2,3]", "[0,0]", "tru", "")))
ODD = (*NUMBERS, *TEXTS, *OTHERS, *DEEP)


def parsed(text: str) -> Any:
    """JSON with its objects as `Pairs`."""
    return json.loads(text, object_pairs_hook=lambda pairs: Pairs(map(Pair, pairs)))


def written(tree: Any) -> str:
    """A tree with `Pairs` and `Raw` in it as JSON text."""
    if isinstance(tree, Raw):
        return str(tree)
    if isinstance(tree, Pairs):
        return "{" + ",".join(f"{written(name)}:{written(value)}" for name, value in tree) + "}"
    if isinstance(tree, list):
        return "[" + ",".join(map(written, tree)) + "]"
    return json.dumps(tree)


def _slots(tree: Any) -> list[tuple[list, int]]:
    """Every place in a tree, as a list and an index: elements of arrays, pairs of objects and their two halves."""
    found, todo = [], [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, list):
            found += [(node, i) for i in range(len(node))]
            todo += node
    return found


def in_json(tree: Any, rng: random.Random) -> Any:
    """Change one place of a tree, in place."""
    slots = _slots(tree)
    if not slots:
        return rng.choice(ODD)
    holder, i = rng.choice(slots)
    value, kind = holder[i], rng.randrange(8)
    if kind == 0 and not isinstance(holder, Pair):
        del holder[i]
    elif kind == 1 and not isinstance(holder, Pair):
        holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(value))  # twice
    elif kind == 2:
        other, j = rng.choice(slots)
        if isinstance(other, Pairs) == isinstance(holder, Pairs):
            holder[i], other[j] = other[j], holder[i]
    elif kind == 3 and isinstance(value, int) and not isinstance(value, bool):
        holder[i] = max(value + rng.choice((-8, -4, -1, 1, 4, 8)), rng.choice((0, -8)))
    elif kind == 4 and isinstance(value, str) and not isinstance(value, Raw):
        holder[i] = rng.choice((value + "x", value[:-1], value.upper(), value * 2, f" {value}"))
    elif isinstance(holder, Pairs):
        holder.insert(i, Pair((rng.choice(TEXTS), rng.choice(ODD))))
    else:
        holder[i] = rng.choice(ODD)
    return tree


def in_bytes(content: bytes, rng: random.Random) -> bytes:
    """Change some bytes."""
    size = len(content)
    a, b = sorted((rng.randrange(size + 1), rng.randrange(size + 1)))
    b = min(b, a + rng.choice((1, 2, 8, 64, size or 1)))
    match rng.randrange(10):
        case 0:
            return content[:a]
        case 1:
            return content[:a] + content[b:]
        case 2:
            return content[:b] + content[a:]
        case 3:
            return content[:a] + rng.randbytes(b - a) + content[b:]
        case 4:
            run = rng.choice((b"\0", b"\xff", b'"', b"\\", b"{", b"}", b"\n", b"\r", b"\xed", b"\x80"))
            return content[:a] + run * (b - a) + content[b:]
        case 5:
            return content + rng.randbytes(rng.choice((1, 7, 8, 100)))
        case 6:
            return rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b" ", b"\n", b"\0")) + content
        case 7:
            return content.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig")))
        case 8:
            return content[:a] + rng.choice(ODD).encode("utf-8", "surrogatepass") + content[a:]
    if not content:
        return content
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 4, 16))):
        changed[rng.randrange(size)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def json_file(base: str, rng: random.Random) -> bytes:
    """A sound JSON text, changed in one to three places of its structure, of its bytes, or of both."""
    tree, content = parsed(base), None
    for _ in range(rng.choice((1, 1, 2, 3))):
        if content is None and rng.random() < 0.7:
            tree = in_json(tree, rng)
        else:
            content = in_bytes(content if content is not None else _encoded(tree), rng)
    return content if content is not None else _encoded(tree)


def text_file(base: bytes, rng: random.Random) -> bytes:
    """Lines: changed in their bytes, left out, doubled, put elsewhere."""
    content = base
    for _ in range(rng.choice((1, 1, 2, 3))):
        lines = content.splitlines(keepends=True)
        if rng.random() < 0.5 or not lines:
            content = in_bytes(content, rng)
        else:
            i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
            joined, ended = lines[i].rstrip() + lines[j], lines[i].replace(b"\n", b"\r\n")
            lines[i:j] = rng.choice(([], [lines[j]] * 3, [joined], [ended]))
            content = b"".join(lines)
    return content


def safetensors_file(base: bytes, rng: random.Random) -> bytes:
    """A sound safetensors file, changed in its header, the header's length, its data, or anywhere."""
    length = struct.unpack("<Q", base[:8])[0]
    header, data = base[8 : 8 + length], base[8 + length :]
    kind = rng.random()
    if kind < 0.25:
        return in_bytes(base, rng)
    if kind < 0.35:
        near = 0, 1, 8, length - 1, length + 1, length + len(data), len(base)
        return struct.pack("<Q", rng.choice((*near, 2**31, 2**32, 2**63, 2**64 - 1))) + header + data
    tree = parsed(header.decode())
    if kind < 0.6:
        _move_offsets(tree, rng)
    for _ in range(rng.choice((0, 1, 2)) if kind < 0.6 else rng.choice((1, 1, 2, 3))):
        tree = in_json(tree, rng)
    header = _encoded(tree)
    if rng.random() < 0.2:
        header += rng.choice((b" ", b"\n", b"\0", b"x", b" " * 9, b"{}"))
    if rng.random() < 0.2:
        data = rng.choice((data[:-1], data + b"\0", data * 2, b"", in_bytes(data, rng)))
    return struct.pack("<Q", len(header)) + header + data


def _move_offsets(tree: Any, rng: random.Random) -> None:
    """Make tensors overlap, leave holes, or change places."""
    entries = [dict(map(tuple, value)) for _, value in tree if isinstance(value, Pairs)]
    offsets = [entry["data_offsets"] for entry in entries if "data_offsets" in entry]
    if not offsets:
        return
    chosen = rng.choice(offsets)
    match rng.randrange(4):
        case 0:
            chosen[:] = rng.choice(offsets)
        case 1:
            by = rng.choice((-8, -4, -1, 1, 4, 8, 2**31, 2**63))
            for pair in offsets:
                if pair[0] >= chosen[0]:
                    pair[:] = [max(0, n + by) for n in pair]
        case 2:
            chosen.reverse()
        case 3:
            other = rng.choice(offsets)
            chosen[:], other[:] = list(other), list(chosen)


def _encoded(tree: Any) -> bytes:
    return written(tree).encode("utf-8", "surrogatepass")
