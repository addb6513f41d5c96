"""Reading compiled programs: kernels, bytes, FLOPs, collectives. No GPU or TPU compiler is needed."""

import ast
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from benchmarks.floor import BANDWIDTH, PRODUCT_RATE, by_kind
from benchmarks.hlo import Exchange, Shape, collectives, cycles
from benchmarks.kernels import Kernel, kernels
from tests.conftest import ROOT

KINDS = """\
HloModule step, is_scheduled=true, input_output_alias={ {0}: (0, {}, may-alias) }, entry_computation_layout={()->()}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%sliced (p0: f32[100,8], p1: s32[]) -> f32[10,8] {
  %p0 = f32[100,8]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %doubled = f32[100,8]{1,0} add(%p0, %p0)
  ROOT %cut = f32[10,8]{1,0} dynamic-slice(%doubled, %p1, %zero), dynamic_slice_sizes={10,8}
}

%written (p0.1: f32[100,8], p1.1: f32[10,8], p2.1: s32[]) -> f32[100,8] {
  %p0.1 = f32[100,8]{1,0} parameter(0)
  %p1.1 = f32[10,8]{1,0} parameter(1)
  %p2.1 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  ROOT %put = f32[100,8]{1,0} dynamic-update-slice(%p0.1, %p1.1, %p2.1, %zero.1)
}

%summed (p0.2: bf16[10,8]) -> (f32[10], bf16[10,8]) {
  %p0.2 = bf16[10,8]{1,0} parameter(0)
  %wide = f32[10,8]{1,0} convert(%p0.2)
  %none = f32[] constant(0)
  %total = f32[10]{0} reduce(%wide, %none), dimensions={1}, to_apply=%add
  %twice = bf16[10,8]{1,0} add(%p0.2, %p0.2)
  ROOT %both = (f32[10]{0}, bf16[10,8]{1,0}) tuple(%total, %twice)
}

%bits (p0.3: u32[2]) -> pred[10,8] {
  %p0.3 = u32[2]{0} parameter(0)
  %word = u32[1]{0} slice(%p0.3), slice={[0:1]}
  %wide.1 = u32[10,8]{1,0} broadcast(%word), dimensions={}
  %mixed = u32[10,8]{1,0} xor(%wide.1, %wide.1)
  ROOT %keep = pred[10,8]{1,0} compare(%mixed, %wide.1), direction=GE
}

%step (p: f32[100,8], g: f32[100,8]) -> f32[100,8] {
  %p = f32[100,8]{1,0} parameter(0)
  %g = f32[100,8]{1,0} parameter(1)
  ROOT %new = f32[100,8]{1,0} subtract(%p, %g)
}

%body (b0: (s32[], f32[100,8])) -> (s32[], f32[100,8]) {
  %b0 = (s32[], f32[100,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%b0), index=0
  %x = f32[100,8]{1,0} get-tuple-element(%b0), index=1
  %copied = f32[100,8]{1,0} copy(%x)
  ROOT %next = (s32[], /*index=1*/f32[100,8]{1,0}) tuple(%i, %copied)
}

%condition (c0: (s32[], f32[100,8])) -> pred[] {
  %c0 = (s32[], f32[100,8]{1,0}) parameter(0)
  ROOT %more = pred[] constant(true)
}

ENTRY %main (w: f32[100,8], x: f32[100,8], n: s32[], k: u32[2], q: bf16[4,16,32]) -> (f32[100,8], f32[10]) {
  %w = f32[100,8]{1,0} parameter(0), metadata={op_name="state"}
  %x.1 = f32[100,8]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  %n = s32[] parameter(2)
  %k = u32[2]{0} parameter(3)
  %q = bf16[4,16,32]{2,1,0} parameter(4)
  %cut.1 = f32[10,8]{1,0} fusion(%x.1, %n), kind=kLoop, calls=%sliced, metadata={op_name="jit(f)/a (odd) name"}
  %put.1 = f32[100,8]{1,0} fusion(%x.1, %cut.1, %n), kind=kLoop, calls=%written
  %half = bf16[10,8]{1,0} convert(%cut.1)
  %rows = (f32[10]{0}, bf16[10,8]{1,0}) fusion(%half), kind=kInput, calls=%summed
  %row = f32[10]{0} get-tuple-element(%rows), index=0
  %mask = pred[10,8]{1,0} fusion(%k), kind=kLoop, calls=%bits
  %scores = bf16[4,16,16]{2,1,0} dot(%q, %q), lhs_batch_dims={0}, lhs_contracting_dims={2}, \
rhs_batch_dims={0}, rhs_contracting_dims={2}
  %fast = (bf16[4,32,32]{2,1,0}, s8[999]{0}) custom-call(%q, %q), custom_call_target="__cublas$lt$matmul", \
backend_config={"gemm_backend_config":{"dot_dimension_numbers":\
{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["1"]}}}
  %attended = bf16[4,16,32]{2,1,0} custom-call(%q, %scores), custom_call_target="ours"
  %start = (s32[], f32[100,8]{1,0}) tuple(%n, %put.1)
  %loop = (s32[], f32[100,8]{1,0}) while(%start), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"7"}}
  %gradient = f32[100,8]{1,0} get-tuple-element(%loop), index=1
  %w.new = f32[100,8]{1,0} fusion(%w, %gradient), kind=kLoop, calls=%step
  ROOT %out = (f32[100,8]{1,0}, f32[10]{0}) tuple(%w.new, %row)
}
"""

EXCHANGES = """\
HloModule exchanges, is_scheduled=true

%inner (p: f32[64]) -> f32[8] {
  %p = f32[64]{0} parameter(0)
  ROOT %scattered = f32[8]{0} reduce-scatter(%p), dimensions={0}, to_apply=%add
}

ENTRY %main (a: f32[64], b: bf16[16]) -> f32[64] {
  %a = f32[64]{0} parameter(0)
  %b = bf16[16]{0} parameter(1)
  %r0 = (f32[64]{0}, bf16[16]{0}) all-reduce-start(%a, %b), to_apply=%add
  %r1 = (f32[64]{0}, bf16[16]{0}) all-reduce-done(%r0)
  %g0 = (bf16[16]{0}, bf16[128]{0}) all-gather-start(%b), dimensions={0}
  %g1 = bf16[128]{0} all-gather-done(%g0)
  %g2 = f32[512]{0} all-gather(%a), dimensions={0}
  %c0 = (f32[64]{0}, f32[64]{0}, u32[], u32[]) collective-permute-start(%a), source_target_pairs={{0,1}}
  %c1 = f32[64]{0} collective-permute-done(%c0)
  %s0 = ((f32[64]{0}), f32[8]{0}) async-start(%a), calls=%inner, backend_config={"estimated_cycles":"1500"}
  %s1 = f32[8]{0} async-done(%s0)
  ROOT %t = f32[64]{0} all-to-all(%a), dimensions={0}, backend_config={"estimated_cycles":"20"}
}
"""


@pytest.mark.parametrize(
    ("shape", "size"),
    [(Shape("bf16", (3, 5)), 30), (Shape("pred", (7,)), 7), (Shape("f8e4m3fn", (8,)), 8), (Shape("s4", (8,)), 4)],
)
def test_sizes_of_arrays(shape, size):
    assert shape.bytes == size


def test_kinds_bytes_and_flops():
    found = {kernel.name: kernel for kernel in kernels(KINDS)}
    whole, cut = 100 * 8 * 4, 10 * 8 * 4
    expected = {  # kind, read, written, flops, times
        "cut.1": ("elementwise", cut + 4, cut, 0, 1),  # the slice is of a sum
        "put.1": ("transpose, copy", cut + 4, cut, 0, 1),
        "half": ("cast", cut, cut // 2, 0, 1),
        "rows": ("reduction", cut // 2, 40 + cut // 2, 0, 1),
        "mask": ("random bits", 4, 80, 0, 1),
        "scores": ("product", 4096, 2048, 2 * 4 * 16 * 16 * 32, 1),
        "fast": ("product", 4096, 8192, 2 * 4 * 32 * 32 * 16, 1),
        "attended": ("custom kernel ours", 4096 + 2048, 4096, 0, 1),
        "copied": ("transpose, copy", whole, whole, 0, 7),
        "w.new": ("state update", 2 * whole, whole, 0, 1),
    }
    assert {name: tuple(k[i] for i in (1, 3, 4, 5, 6)) for name, k in found.items()} == expected
    assert found["cut.1"].op_name == "jit(f)/a (odd) name"
    assert found["cut.1"].signature == "f32[10,8] <- f32[100,8]"


def test_exchanges():
    assert collectives(EXCHANGES) == {
        "all-reduce": Exchange(1, 64 * 4 + 16 * 2),
        "all-gather": Exchange(2, 128 * 2 + 512 * 4),
        "collective-permute": Exchange(1, 256),
        "reduce-scatter": Exchange(1, 256),
        "all-to-all": Exchange(1, 256),
    }
    assert cycles(EXCHANGES) == 20
    assert collectives(KINDS) == {}


def test_what_this_machine_compiles():
    def f(a, b):
        return jnp.tanh(a @ b).sum(axis=0)

    text = jax.jit(f).lower(jnp.zeros((24, 40)), jnp.zeros((40, 56))).compile().as_text()
    found = kernels(text)
    assert sum(kernel.flops for kernel in found) == 2 * 24 * 40 * 56
    (product,) = [kernel for kernel in found if kernel.kind == "product"]
    assert product.read >= 4 * (24 * 40 + 40 * 56)
    assert sum(kernel.written for kernel in found) >= 4 * 56


def test_a_loop_is_counted_as_often_as_it_runs():
    def f(x):
        return jax.lax.fori_loop(0, 5, lambda _, x: jnp.tanh(x @ x), x)

    text = jax.jit(f).lower(jnp.zeros((32, 32))).compile().as_text()
    assert sum(kernel.times * kernel.flops for kernel in kernels(text)) == 5 * 2 * 32**3


EXCHANGING = """
import jax, jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec as P
from benchmarks.hlo import collectives

def f(x):
    return jax.lax.psum(x, "data"), jax.lax.all_gather(x, "data"), jax.lax.ppermute(x, "data", [(0, 1), (1, 0)])

mesh = Mesh(jax.devices(), ("data",))
f = jax.shard_map(f, mesh=mesh, in_specs=P("data"), out_specs=(P(), P("data"), P("data")))
found = collectives(jax.jit(f).lower(jnp.zeros((8, 3))).compile().as_text())
print({kind: tuple(exchange) for kind, exchange in found.items()})
"""


def test_what_four_devices_exchange():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run([sys.executable, "-c", EXCHANGING], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ast.literal_eval(done.stdout) == {
        "all-reduce": (1, 2 * 3 * 4),
        "all-gather": (1, 8 * 3 * 4),
        "collective-permute": (1, 2 * 3 * 4),
    }


def test_a_kernel_takes_the_slower_of_its_two_rates():
    small = Kernel("a", "product", "", 100, 50, 3, 2, "")
    large = Kernel("b", "product", "", 100, 50, 10**12, 1, "")
    (floor,) = by_kind([small, large]).values()
    assert floor[:3] == (3, 450, 6 + 10**12)
    assert floor.seconds == pytest.approx(2 * 150 / BANDWIDTH + 10**12 / PRODUCT_RATE)
