"""What one training step costs on accelerators that are not here, from the compiler alone.

    python -m benchmarks.floor --model base --rows 128 --length 128 --dtype bfloat16
    python -m benchmarks.floor --model large --rows 32 --target v5e:2x2 --target v5e:16x16

Needs `jax[cuda13]` for the H200 and `jax[tpu]` for TPUs, and neither a GPU nor a TPU. For the H200
it prints, by kind of kernel, how many there are, the bytes they must move, the FLOPs of their
products, and the time that follows at the rates measured on that card; for TPUs, what the
compiler says of memory and time a chip, and what the chips exchange. Nothing is run: times are
floors, from which a real step can only be further away.
"""

import importlib.util
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.hlo import collectives, cycles
from benchmarks.kernels import Kernel, kernels
from bert_jax.command import Parser, run
from bert_jax.config import CLASSIFIER, BertConfig
from bert_jax.errors import UserError

MODELS = {
    "base": {},
    "large": dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
    "minilm": dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536),
}
BANDWIDTH = 4.3e12  # bytes/s of a copy and FLOP/s of a large bfloat16 product, measured on an H200
PRODUCT_RATE = 700e12
EXAMPLES_A_ROW = 9.375  # as SST-2 packs into rows of 128: 1,200 examples in 128 rows
# Cycles a second: the chip's stated bfloat16 rate over what a cycle of its matrix units computes.
CLOCKS = {"v5e": 197e12 / (4 * 2 * 128**2), "v6e": 920e12 / (4 * 2 * 256**2)}
H200 = Path(__file__).with_name("h200.txtpb")


class Floor(NamedTuple):
    """Of all kernels of one kind in one step: launches, bytes, FLOPs and seconds at the measured rates."""

    launches: int
    bytes: int
    flops: int
    seconds: float


def devices_of(target: str) -> Sequence[Any]:
    """The devices of a target, to compile for: `h200`, or a TPU topology such as `v5e:2x2`.

    Raises `UserError` where the plugin that compiles for it is not installed, or does not know it.
    """
    from jax.experimental import topologies

    plugin, extra = ("jax_cuda13_plugin", "cuda") if target == "h200" else ("libtpu", "tpu")
    if importlib.util.find_spec(plugin) is None:
        raise UserError(f"--target {target} needs the compiler in {plugin}; pip install '.[{extra}]'")
    try:
        if target == "h200":
            description = H200.read_text(encoding="utf-8")
            topology = topologies.get_topology_desc("", platform="cuda", topology="1x1x1", target_config=description)
        else:
            topology = topologies.get_topology_desc(target, platform="tpu")
    except Exception as error:  # whatever the plugin raises
        raise UserError(f"--target {target}: {str(error).splitlines()[0]}") from None
    return topology.devices


def lowered_step(
    config: BertConfig, devices: Sequence[Any], *, rows: int, length: int, dtype: str, attention: str = "fused"
) -> Any:
    """The training step, lowered for `devices` with `rows` packed rows of `length` tokens on each.

    Data parallel, as `train` does it. `attention` is "plain", or "fused" for the kernel of the platform.
    """
    import jax
    import numpy as np
    from flax import nnx

    from bert_jax.heads import SequenceClassifier
    from train.data.token_set import TokenSet
    from train.step.batches import Plan
    from train.step.layouts import make_layout
    from train.step.optimizer import fine_tuning
    from train.step.trainer import Trainer

    platform = "tpu" if devices[0].platform == "tpu" else "cuda"
    kernel = {"tpu": "mosaic", "cuda": "triton"}[platform] if attention == "fused" else attention
    layout = make_layout(config, devices=devices)
    model = nnx.eval_shape(
        lambda: SequenceClassifier(config, dtype=jax.numpy.dtype(dtype), attention=kernel, rngs=nnx.Rngs(0))
    )
    graphdef, params = nnx.split(model)
    optimizer = fine_tuning(5e-5, steps=1000, warmup_steps=60, weight_decay=0.01, clip_norm=1.0)
    trainer = Trainer(layout, graphdef, optimizer, params, length)

    def laid(tree, shardings):
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)

    def whole(*shape: int, dtype: Any = np.int32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=layout.everywhere())

    state = laid(jax.eval_shape(trainer.first_state, params), trainer.shardings)
    examples = 70_000  # SST-2's size
    data = TokenSet(whole(14 * examples, dtype=np.uint16), *(whole(examples) for _ in range(4)))
    slots = math.ceil(rows * EXAMPLES_A_ROW * length / 128)
    plan = Plan(*[jax.ShapeDtypeStruct((1, 1, len(devices), slots), np.int32, sharding=layout.of_plan())] * 2)
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=layout.everywhere())
    with trainer.context():
        program: Any = trainer.program(rows)
        traced = program.trace(state, data, plan, whole(2), key)
        return traced.lower(lowering_platforms=(platform,))


def by_kind(found: Sequence[Kernel]) -> dict[str, Floor]:
    """Kernels summed by kind, those that take longest first; each runs at the slower of its two rates."""
    floors: dict[str, Floor] = {}
    for kernel in found:
        moved = kernel.read + kernel.written
        seconds = max(moved / BANDWIDTH, kernel.flops / PRODUCT_RATE)
        old = floors.get(kernel.kind, Floor(0, 0, 0, 0.0))
        floors[kernel.kind] = Floor(
            old[0] + kernel.times,
            old[1] + kernel.times * moved,
            old[2] + kernel.times * kernel.flops,
            old[3] + kernel.times * seconds,
        )
    return dict(sorted(floors.items(), key=lambda item: -item[1].seconds))


def summary(compiled: Any) -> dict[str, Any]:
    """What a compiled step needs on one device: memory, exchanges, kernels, the compiler's own estimates."""
    text, memory = compiled.as_text(), compiled.memory_analysis()
    costs = compiled.cost_analysis() or {}
    found = kernels(text)
    floors = by_kind(found)
    besides = sum(floor.bytes for kind, floor in floors.items() if kind != "product")
    return {
        "temporary_bytes": memory.temp_size_in_bytes,
        "state_and_batch_bytes": memory.argument_size_in_bytes,
        "kernels": sum(floor.launches for floor in floors.values()),
        "bytes_besides_products": besides,
        "product_flops": sum(floor.flops for floor in floors.values()),
        "seconds": sum(floor.seconds for floor in floors.values()),
        "kinds": {kind: floor._asdict() for kind, floor in floors.items()},
        "collectives": {kind: exchange._asdict() for kind, exchange in collectives(text).items()},
        "compiler": {name: costs[name] for name in ("flops", "bytes accessed") if name in costs}
        | {"cycles": cycles(text)},
        "largest": largest(found),
    }


def largest(found: Sequence[Kernel]) -> list[dict[str, Any]]:
    """Kernels of the same kind and shapes taken together, those that move most first."""
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for kernel in found:
        group = groups.setdefault(
            (kernel.kind, kernel.signature), {"bytes": 0, "launches": 0, "kind": kernel.kind, "what": kernel.signature}
        )
        group["bytes"] += kernel.times * (kernel.read + kernel.written)
        group["launches"] += kernel.times
        group["from"] = kernel.op_name
    return sorted(groups.values(), key=lambda group: -group["bytes"])


def show_kernels(console: Console, title: str, figures: dict[str, Any], top: int) -> None:
    """The table of one GPU."""
    table = Table("kind", title=title)
    for column in ("kernels", "GB moved", "TFLOP", "ms at least"):
        table.add_column(column, justify="right")
    rows = [(kind, Floor(**floor)) for kind, floor in figures["kinds"].items()]
    rows.append(("all", Floor(*(sum(values) for values in zip(*(floor for _, floor in rows), strict=True)))))
    for kind, floor in rows:
        if kind == "all":
            table.add_section()
        flops = f"{floor.flops / 1e12:.2f}" if floor.flops else ""
        table.add_row(kind, f"{floor.launches:,}", f"{floor.bytes / 1e9:.2f}", flops, f"{floor.seconds * 1e3:.2f}")
    console.print(table)
    console.print(f"besides products   {figures['bytes_besides_products'] / 1e9:.1f} GB")
    console.print(f"temporary memory   {figures['temporary_bytes'] / 1e9:.2f} GB")
    console.print(f"state and batch    {figures['state_and_batch_bytes'] / 1e9:.2f} GB")
    share = figures["product_flops"] / PRODUCT_RATE / figures["seconds"]
    console.print(f"of the rate        {share:.0%} of {PRODUCT_RATE / 1e12:.0f} TFLOP/s at best")
    for group in figures["largest"][:top]:
        console.print(
            f"{group['bytes'] / 1e9:6.2f} GB {group['launches']:4} {group['kind']}: {group['what']}  ({group['from']})",
            markup=False,
            soft_wrap=True,
        )


def show_chips(console: Console, title: str, results: dict[str, dict[str, Any]]) -> None:
    """The tables of TPU targets; everything is for one chip, and as the compiler sees it."""
    table = Table("target", title=title)
    for column in ("state GB", "temporary GB", "TFLOP", "GB moved", "Mcycles", "ms"):
        table.add_column(column, justify="right")
    exchanged = Table("target", "exchange", title="What a chip exchanges in a step")
    for column in ("operations", "GB"):
        exchanged.add_column(column, justify="right")
    for target, figures in results.items():
        costs, clock = figures["compiler"], CLOCKS.get(target.split(":")[0])
        table.add_row(
            target,
            f"{figures['state_and_batch_bytes'] / 1e9:.2f}",
            f"{figures['temporary_bytes'] / 1e9:.2f}",
            f"{costs.get('flops', 0) / 1e12:.2f}",
            f"{costs.get('bytes accessed', 0) / 1e9:.1f}",
            f"{costs['cycles'] / 1e6:.1f}",
            f"{costs['cycles'] / clock * 1e3:.1f}" if clock else "-",
        )
        for kind, exchange in figures["collectives"].items():
            exchanged.add_row(target, kind, f"{exchange['count']}", f"{exchange['bytes'] / 1e9:.3f}")
    console.print(table)
    console.print(exchanged)


def main() -> int:
    """The command."""
    parser = Parser(prog="python -m benchmarks.floor", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="base", help="which BERT")
    parser.add_argument("--rows", type=int, default=128, metavar="N", help="packed rows on each device")
    parser.add_argument("--length", type=int, default=128, metavar="N", help="tokens in a row")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of matrix products")
    parser.add_argument("--attention", choices=("fused", "plain"), default="fused", help="kernel, or plain XLA")
    parser.add_argument("--target", action="append", metavar="T", help="h200 (the default), v5e:2x2, v6e:2x4, ...")
    parser.add_argument("--top", type=int, default=0, metavar="N", help="list the N groups of kernels that move most")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--hlo", type=Path, metavar="FILE", help="write the optimised HLO there; one target only")
    options = parser.parse_args()
    targets = options.target or ["h200"]
    if options.hlo and len(targets) > 1:
        raise UserError("--hlo takes one --target")

    # Before jax is imported: no GPU or TPU is looked for here, and nothing can be timed to tune by.
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "TPU_SKIP_MDS_QUERY": "1"}
    os.environ["XLA_FLAGS"] = f"--xla_gpu_autotune_level=0 {os.environ.get('XLA_FLAGS', '')}"

    config = BertConfig(architecture=CLASSIFIER, labels=("negative", "positive"), **MODELS[options.model])
    results = {}
    for target in targets:
        lowered = lowered_step(
            config,
            devices_of(target),
            rows=options.rows,
            length=options.length,
            dtype=options.dtype,
            attention=options.attention,
        )
        compiled = lowered.compile()
        if options.hlo:
            options.hlo.write_text(compiled.as_text(), encoding="utf-8")
        results[target] = summary(compiled)

    console = Console()
    title = f"{options.model}, {options.dtype}, {options.rows} rows of {options.length} a device"
    if "h200" in results:
        show_kernels(console, f"One step on one H200: {title}", results["h200"], options.top)
    if chips := {target: figures for target, figures in results.items() if target != "h200"}:
        show_chips(console, f"One step, for one chip: {title}", chips)
    if options.json:
        settings = {name: getattr(options, name) for name in ("model", "rows", "length", "dtype", "attention")}
        options.json.write_text(json.dumps({**settings, "targets": results}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    run(main)
