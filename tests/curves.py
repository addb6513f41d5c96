"""Twenty steps on every layout of eight devices: run as a program, prints what came of them as JSON.

Devices are simulated, so XLA_FLAGS must say how many before JAX is imported; `test_parallel` does.
With ADDRESS and PROCESS set, it is the process of that number of two, which meet at that address.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from benchmarks.hlo import collectives, exchanges
from bert_jax.compilation import use_cache
from bert_jax.config import CLASSIFIER, BertConfig
from bert_jax.packing import Tokens
from bert_jax.parameters import build_classifier
from tests.conftest import random_checkpoint
from train.data.token_set import TokenSet
from train.step.batches import Batches
from train.step.evaluator import Evaluator
from train.step.layouts import make_layout
from train.step.optimizer import fine_tuning
from train.step.trainer import Trainer

STEPS = 20
CONFIG = BertConfig(
    vocab_size=101,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=8,
    intermediate_size=128,
    max_position_embeddings=64,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    architecture=CLASSIFIER,
    labels=("a", "b", "c", "d", "e"),
)

# Name, then what the layout and the batches are made with. A batch has 10 examples.
LAYOUTS = {
    "one device": ({"devices": 1}, {}),
    "jit 8x1": ({}, {}),
    "jit 8x1, windows": ({}, {"window": 4}),
    "jit 8x1, windows, streamed": ({}, {"window": 4, "streamed": True}),
    "jit 4x2": ({"model": 2}, {}),
    "jit 2x4, windows": ({"model": 4}, {"window": 4}),
    "jit 1x8": ({"model": 8}, {}),
    "jit 3x1": ({"devices": 3}, {}),
    "jit 8x1, parameters sharded": ({"shard_parameters": True}, {}),
    "jit 4x2, parameters sharded, micro-batches": ({"model": 2, "shard_parameters": True}, {"micro": 2}),
    "pmap 8": ({"parallel": "pmap"}, {}),
    "pmap 8, windows, micro-batches, streamed": (
        {"parallel": "pmap"},
        {"window": 4, "micro": 2, "streamed": True},
    ),
}


def run(name: str) -> dict:
    """The loss curve, the evaluation after it, and the collectives of the compiled step."""
    where, how = LAYOUTS[name]
    streamed, how = how.get("streamed"), {key: value for key, value in how.items() if key != "streamed"}
    where = {**where, "devices": jax.devices()[: where.get("devices", 8)]}
    generator = np.random.default_rng(0)
    examples = [
        Tokens(generator.integers(5, 101, n).astype(np.int32), np.zeros(n, np.int32))
        for n in generator.integers(3, 24, 103)
    ]
    labels = [i % 5 for i in range(103)]
    start = random_checkpoint(CONFIG, Path(tempfile.mkdtemp()))
    graphdef, params = nnx.split(build_classifier(CONFIG, start.tensors))
    layout = make_layout(CONFIG, **where)
    batches = Batches(TokenSet.of(examples, labels), batch_size=10, seed=0, shards=layout.shards, **how)
    optimizer = fine_tuning(1e-3, steps=STEPS, warmup_steps=2, weight_decay=0.01, clip_norm=1.0)
    trainer = Trainer(layout, graphdef, optimizer, params, batches.shapes.row_length)
    state, data, key = trainer.start(params), trainer.place(batches.data), trainer.key(0)
    sizes = sorted({array.sharding.shard_shape(array.shape) for array in jax.tree.leaves(state.opt_state)})
    curve, step = [], 0
    while step < STEPS:
        count = min(batches.window_at(step), STEPS - step)
        plan, num_rows = batches.plan(step, count)
        with jax.transfer_guard("disallow"):
            if streamed:
                own, plan = batches.streamed(plan, layout.own_shards)
                data = trainer.place_own(own)
            state, metrics = trainer(state, data, trainer.place_plan(plan, count), key, num_rows)
        curve += trainer.metrics(metrics).loss[:count].tolist()
        step += count
    placed = trainer.place_plan(plan, 1)
    with trainer.context():
        compiled = trainer.program(num_rows).lower(state, data, *placed, key).compile()
    found = Evaluator(layout, graphdef, 5)(trainer.parameters(state), examples, labels)
    return {
        "curve": curve,
        "evaluation": found,
        "compiled": len(trainer.compiled),
        "moment_shards": sizes,
        "collectives": collectives(compiled.as_text()),
        "exchanged": [
            (kind, shape.dtype, shape.dims)
            for kind, shapes, times in exchanges(compiled.as_text())
            for shape in shapes * times
        ],
        "rows": (num_rows, batches.shapes.row_length),
        "parameters": [array.shape for array in jax.tree.leaves(params)],
    }


if __name__ == "__main__":
    use_cache()  # every step is compiled twice here: to be run, and to be looked at
    if address := os.environ.get("ADDRESS"):
        jax.distributed.initialize(address, 2, int(os.environ["PROCESS"]))
    print(json.dumps({name: run(name) for name in sys.argv[1:] or LAYOUTS}))
