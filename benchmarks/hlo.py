"""Optimised HLO as `compiled.as_text()` gives it: instructions, what runs how often, collectives."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "reduce-scatter", "all-gather", "all-to-all", "collective-permute")


class Shape(NamedTuple):
    """An array's element type, as HLO spells it, and its dimensions."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many there are."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Size without the padding that a layout may add."""
        bits = re.search(r"\d+", self.dtype)
        return self.elements * (8 if self.dtype == "pred" else int(bits[0]) if bits else 0) // 8


class Instruction(NamedTuple):
    """One line of a computation; `shapes` are the arrays of its result, a tuple's laid flat."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    rest: str

    @property
    def bytes(self) -> int:
        """Of the whole result."""
        return sum(shape.bytes for shape in self.shapes)

    @property
    def elements(self) -> int:
        """Of the whole result."""
        return sum(shape.elements for shape in self.shapes)

    def attribute(self, pattern: str) -> str:
        """What the first group of `pattern` matches after the operands, or ''."""
        found = re.search(pattern, self.rest)
        return found[1] if found else ""

    @property
    def op_name(self) -> str:
        """Where in the traced function it comes from."""
        return self.attribute(r'op_name="([^"]*)"')

    def called(self) -> list[str]:
        """The computations it runs; not those that only say how to combine two numbers."""
        keys = "calls|body|true_computation|false_computation" + ("|to_apply" if self.opcode == "call" else "")
        names = re.findall(rf"\b(?:{keys})=%?([\w.\-]+)", self.rest)
        lists = re.findall(r"\b(?:branch_computations|called_computations|calls)=\{([^}]*)\}", self.rest)
        return names + [name.strip(" %") for names in lists for name in names.split(",")]


class Computation:
    """Instructions by name, in order, and who uses whom."""

    def __init__(self, name: str):
        self.name, self.root = name, ""
        self.instructions: dict[str, Instruction] = {}
        self.users: dict[str, list[Instruction]] = defaultdict(list)

    def parameter(self, index: int) -> str:
        """The name of parameter `index`, or '' if it is not used."""
        return next((i.name for i in self if i.opcode == "parameter" and i.operands == (str(index),)), "")

    def inputs(self, instruction: Instruction) -> list[Instruction]:
        """The instructions whose results it takes, each once."""
        names = dict.fromkeys(instruction.operands)
        return [self.instructions[name] for name in names if name in self.instructions]

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())


class Exchange(NamedTuple):
    """All collectives of one kind: how many, and the bytes of the whole arrays on one device."""

    count: int  # pyright: ignore[reportIncompatibleMethodOverride]
    bytes: int


class Program:
    """A module's computations; `aliased` are the results that take the place of arguments."""

    def __init__(self, text: str):
        self.computations: dict[str, Computation] = {}
        self.entry = ""
        header, _, _ = text.partition("\n")
        outputs = re.findall(r"\{(\d*)\}: \(\d+, \{[\d, ]*\}, (?:may|must)-alias\)", header)
        self.aliased = {int(index or 0) for index in outputs}
        computation = Computation("")
        for line in text.splitlines()[1:]:
            if line.endswith("{") and not line.startswith(" "):
                title = re.match(r"(ENTRY )?%?([\w.\-]+)", line)
                if title is None:
                    continue
                is_entry, name = title.groups()
                computation = self.computations[name] = Computation(name)
                self.entry = name if is_entry else self.entry
            elif parsed := _parse(line):
                instruction, is_root = parsed
                computation.instructions[instruction.name] = instruction
                for operand in dict.fromkeys(instruction.operands):
                    computation.users[operand].append(instruction)
                if is_root:
                    computation.root = instruction.name

    def executed(self, name: str = "", times: int = 1) -> Iterator[tuple[Computation, Instruction, int]]:
        """What runs when a computation does, with how often: loops repeat their bodies.

        Of a conditional, the branch of most instructions counts. A loop whose trip count the
        compiler does not know counts once.
        """
        computation = self.computations[name or self.entry]
        for instruction in computation:
            called = instruction.called()
            if instruction.opcode == "while":
                trips = int(instruction.attribute(r"known_trip_count\D*(\d+)") or 1)
                yield from self.executed(called[0], times * trips)
            elif instruction.opcode == "conditional":
                yield from self.executed(max(called, key=lambda c: len(self.computations[c].instructions)), times)
            elif instruction.opcode in ("call", "async-start") and called:
                yield from self.executed(called[0], times)
            else:
                yield computation, instruction, times

    def inside(self, instruction: Instruction) -> Iterator[tuple[Computation, Instruction]]:
        """The instructions fused into a kernel, at any depth."""
        for name in instruction.called():
            for inner in self.computations[name]:
                yield self.computations[name], inner
                yield from self.inside(inner)


def _parse(line: str) -> tuple[Instruction, bool] | None:
    line = re.sub(r"/\*.*?\*/", "", line)
    head = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
    if not head:
        return None
    start = head.end()
    end = _closing(line, start) if line[start] == "(" else line.index(" ", start)
    shapes = tuple(
        Shape(dtype, tuple(int(n) for n in dims.split(",") if n))
        for dtype, dims in re.findall(r"([a-z]\w*)\[([\d,<=]*)\]", line[start:end].replace("<=", ""))
    )
    opcode = re.compile(r"\s*([\w\-]+)\(").match(line, end)
    if not opcode:
        return None
    close = _closing(line, opcode.end() - 1)
    inside = line[opcode.end() : close - 1]
    operands = (inside,) if opcode[1] == "parameter" else tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(head[2], opcode[1], shapes, operands, line[close:]), bool(head[1])


def _closing(line: str, start: int) -> int:
    """The place after the parenthesis that closes the one at `start`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(line, start):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.end()
    raise ValueError(f"unbalanced parentheses: {line[:100]}")


def exchanges(text: str) -> Iterator[tuple[str, list[Shape], int]]:
    """Every collective: its kind (`COLLECTIVES`), its arrays on one device, how often it runs.

    The arrays are an all-gather's results, any other's operands; an asynchronous one counts once.
    """
    program = Program(text)
    for computation, instruction, times in program.executed():
        for owner, inner in [(computation, instruction), *program.inside(instruction)]:
            if not is_collective(inner.opcode):
                continue
            kind = inner.opcode.removesuffix("-start")
            operands = [shape for name in inner.operands for shape in owner.instructions[name].shapes]
            if kind == "all-gather":  # a start's result has the operands, too
                yield kind, list(inner.shapes[len(operands) if inner.opcode != kind else 0 :]), times
            else:
                yield kind, operands, times


def collectives(text: str) -> dict[str, Exchange]:
    """Collectives by kind, those in loops as often as they run."""
    totals: dict[str, Exchange] = {}
    for kind, shapes, times in exchanges(text):
        count, size = totals.get(kind, Exchange(0, 0))
        totals[kind] = Exchange(count + times, size + times * sum(shape.bytes for shape in shapes))
    return totals


def cycles(text: str) -> int:
    """The TPU compiler's estimate of a run, in cycles, without the time that collectives wait; 0 from others."""
    return sum(
        times * int(instruction.attribute(r'"estimated_cycles":"(\d+)"') or 0)
        for _, instruction, times in Program(text).executed()
    )


def is_collective(opcode: str) -> bool:
    """Does it, or its start, exchange arrays between devices?"""
    return opcode.removesuffix("-start") in COLLECTIVES
