"""The kernels of a compiled program: what kind each is, the bytes it must move, the FLOPs of its products.

Bytes are each operand once, as far as it is used, and each result once. Caches may save some of
them and bad access patterns may add to them, so they are a floor and not a measurement.
"""

import functools
import math
import re
from collections import Counter
from typing import NamedTuple

from benchmarks.hlo import Computation, Instruction, Program, is_collective

_NOT_KERNELS = set(
    "parameter constant tuple get-tuple-element bitcast after-all add-dependency opt-barrier partition-id replica-id "
    "copy-done async-done async-update custom-call-done domain".split()
)
_MOVES = set("transpose copy bitcast reshape slice concatenate pad reverse dynamic-slice dynamic-update-slice".split())
_TRIVIAL = set("parameter constant tuple get-tuple-element bitcast broadcast iota".split())


class Kernel(NamedTuple):
    """Something the device is told to do: what kind, how often, and what it moves and computes a time."""

    name: str
    kind: str
    op_name: str
    read: int
    written: int
    flops: int
    times: int
    signature: str


def kernels(text: str) -> list[Kernel]:
    """Every kernel the program launches, in order; one in a loop is listed once, with its `times`."""
    program = Program(text)
    share = functools.cache(functools.partial(_share, program))
    found = []
    for computation, instruction, times in program.executed():
        if instruction.opcode in _NOT_KERNELS or instruction.opcode.endswith("-done"):
            continue
        body = program.computations[instruction.called()[0]] if instruction.called() else None
        if body is None:
            read, written = _moved(computation, instruction)
        else:
            read = round(
                sum(
                    computation.instructions[name].bytes * share(body.name, body.parameter(index))
                    for index, name in enumerate(instruction.operands)
                )
            )
            written = sum(_written(body, name) for name in _results(body))
        inputs = computation.inputs(instruction)
        signature = f"{_spell(instruction)} <- {', '.join(_spell(i) for i in inputs if i.elements > 1) or 'nothing'}"
        flops = _flops(computation, instruction) + sum(_flops(*inner) for inner in program.inside(instruction))
        kind = _kind(program, computation, instruction)
        found.append(Kernel(instruction.name, kind, instruction.op_name, read, written, flops, times, signature))
    return found


def _spell(instruction: Instruction) -> str:
    return ", ".join(f"{shape.dtype}[{','.join(map(str, shape.dims))}]" for shape in instruction.shapes)


def _share(program: Program, name: str, value: str) -> float:
    """The share of a value's elements that the computation `name` uses."""
    computation = program.computations[name]
    if value == computation.root:
        return 1.0
    total = 0.0
    for user in computation.users[value] if value else ():
        first = user.operands[0] == value
        if user.opcode in ("slice", "dynamic-slice", "gather") and first:
            whole = computation.instructions[value].elements
            total += _share(program, name, user.name) * user.elements / max(whole, 1)
        elif user.opcode in ("dynamic-update-slice", "scatter") and first and user.name in _results(computation):
            pass  # done in place
        elif user.opcode == "fusion":
            body = program.computations[user.called()[0]]
            places = [index for index, operand in enumerate(user.operands) if operand == value]
            total += sum(_share(program, body.name, body.parameter(index)) for index in places)
        elif user.opcode in ("bitcast", "convert", "copy", "reshape", "transpose", "multiply", "add", "subtract"):
            total += _share(program, name, user.name)
        else:
            return 1.0
    return min(total, 1.0)


def _results(body: Computation) -> list[str]:
    root = body.instructions[body.root]
    return list(root.operands) if root.opcode == "tuple" else [root.name]


def _written(body: Computation, name: str) -> int:
    result = body.instructions[name]
    while result.opcode == "bitcast":
        result = body.instructions[result.operands[0]]
    if result.opcode == "parameter":
        return 0
    return _moved(body, result)[1]


def _moved(computation: Computation, instruction: Instruction) -> tuple[int, int]:
    """Bytes read and written by an instruction that is a kernel of its own."""
    sizes = [i.bytes for i in computation.inputs(instruction)]
    match instruction.opcode:
        case "dynamic-update-slice":  # in place
            update = computation.instructions[instruction.operands[1]].bytes
            return update, update
        case "scatter":  # in place: what the updates fall on is read and written
            updates = sum(sizes[len(instruction.shapes) + 1 :])
            return sum(sizes[len(instruction.shapes) :]), 2 * updates
        case "slice" | "dynamic-slice" | "gather":
            return instruction.bytes + sum(sizes[1:]), instruction.bytes
        case "custom-call" if "__cublas" in instruction.rest:  # the last result is scratch memory
            return sum(sizes), instruction.shapes[0].bytes
        case _ if is_collective(instruction.opcode):
            return sum(sizes), sum(sizes)
    return sum(sizes), instruction.bytes


def _flops(computation: Computation, instruction: Instruction) -> int:
    """Of a matrix product: twice its multiplications."""
    contracted = instruction.attribute(r"lhs_contracting_dim(?:s=|ensions\":)[\[{]([^\]}]*)[\]}]")
    if not contracted:
        return 0
    left = computation.instructions[instruction.operands[0]].shapes[0].dims
    depth = math.prod(left[int(axis)] for axis in re.findall(r"\d+", contracted))
    return 2 * instruction.shapes[0].elements * depth


def _kind(program: Program, computation: Computation, instruction: Instruction) -> str:
    inner = [i for _, i in program.inside(instruction)]
    ops = Counter(i.opcode for i in inner) or Counter([instruction.opcode])
    target = instruction.attribute(r'custom_call_target="([^"]*)"')
    dtypes = {shape.dtype for shape in instruction.shapes}
    if any(is_collective(op) for op in ops):
        return "collective"
    if ops["dot"] or ops["convolution"] or "__cublas" in target or "matmul" in target:
        return "product"
    if target:
        return f"custom kernel {target}"
    if ops["scatter"] or ops["sort"]:
        return "scatter, sort"
    if _updates_state(program, computation, instruction):
        return "state update"
    if ops["rng-bit-generator"] or (ops["xor"] and all(d == "pred" or d[0] in "su" for d in dtypes)):
        return "random bits"
    if ops["reduce"] or ops["reduce-window"]:
        return "reduction"
    if ops["gather"]:
        return "gather"
    work = set(ops) - _TRIVIAL
    if not work:
        return "fill"
    if work <= {"convert"}:
        return "cast"
    if work <= _MOVES | {"convert"} or ops["transpose"]:
        return "transpose, copy"
    return "elementwise"


def _updates_state(program: Program, computation: Computation, instruction: Instruction) -> bool:
    """Are all its results, and nothing else, results that take the place of arguments?"""
    root = computation.instructions[computation.root]
    if computation.name != program.entry or root.opcode != "tuple":
        return False
    values, ends = [instruction.name], []
    for name in values:
        for user in computation.users[name]:
            if user.opcode in ("get-tuple-element", "bitcast"):
                values.append(user.name)
            else:
                ends.append(user is root and root.operands.index(name) in program.aliased)
    return bool(ends) and all(ends)
