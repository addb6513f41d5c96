"""What several simulated devices make of examples and of a state; run as a program, prints it as JSON.

XLA_FLAGS must say how many devices there are. `evaluation` gives metrics on all devices and on one
of 1 to 64 examples; `state` says whether a state saved on so many devices is the same, byte for
byte, once others have restored it.
"""

import json
import sys
import tempfile
from pathlib import Path
from unittest import mock

import jax
import numpy as np
from flax import nnx

from bert_jax.compilation import use_cache
from bert_jax.packing import Tokens
from bert_jax.parameters import build_classifier
from tests.conftest import PRIMES, random_checkpoint
from train.data.token_set import TokenSet
from train.run.checkpoints import Checkpoints, filled, named
from train.step.batches import Batches
from train.step.evaluator import Evaluator
from train.step.layouts import make_layout
from train.step.optimizer import fine_tuning
from train.step.trainer import Trainer

# Devices, then what else the layout is made with.
LAYOUTS = {
    "1": (1, {}),
    "2": (2, {}),
    "4": (4, {}),
    "4, parameters sharded": (4, {"shard_parameters": True}),
    "4, by pmap": (4, {"parallel": "pmap"}),
}

SAVERS = ("1", "2", "4")


def _examples(count: int) -> list[Tokens]:
    generator = np.random.default_rng(0)
    lengths = generator.integers(3, 24, count)
    return [Tokens(generator.integers(5, 101, n).astype(np.int32), np.zeros(n, np.int32)) for n in lengths]


def _model() -> tuple[nnx.GraphDef, nnx.State]:
    config = PRIMES.replace(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    start = random_checkpoint(config, Path(tempfile.mkdtemp()))
    return nnx.split(build_classifier(config, start.tensors))


def evaluation() -> list[dict]:
    """Of N = 1 to 64 examples: the metrics on all devices, and on one."""
    graphdef, params = _model()
    examples, labels = _examples(64), [i % 5 for i in range(64)]
    layouts = [make_layout(PRIMES), make_layout(PRIMES, devices=jax.devices()[:1])]
    evaluators = [(layout.put(params), Evaluator(layout, graphdef, 5)) for layout in layouts]
    found = []
    # So that there are as many batches as devices, and more.
    with mock.patch("train.step.evaluator.batch_tokens", return_value=64):
        for count in range(1, 65):
            every, one = (evaluate(here, examples[:count], labels[:count]) for here, evaluate in evaluators)
            found.append({"every": every, "one": one})
    return found


def state() -> dict[str, list[str]]:
    """For each layout that saves: those that restore another state than was saved."""
    graphdef, params = _model()
    examples = TokenSet.of(_examples(20), [i % 5 for i in range(20)])
    optimizer = fine_tuning(1e-3, steps=10, warmup_steps=2, weight_decay=0.01, clip_norm=1.0)

    trainers = {}
    for name, (count, how) in LAYOUTS.items():
        layout = make_layout(PRIMES, devices=jax.devices()[:count], **how)
        batches = Batches(examples, batch_size=10, seed=0, shards=layout.shards)
        trainers[name] = Trainer(layout, graphdef, optimizer, params, batches.shapes.row_length), batches

    wrong = {}
    for saver in SAVERS:
        this, batches = trainers[saver]
        trained, data, key = this.start(params), this.place(batches.data), this.key(0)
        for step in range(2):
            plan, rows = batches.plan(step)
            trained, _ = this(trained, data, this.place_plan(plan, 1), key, rows)
        saved = named(this.whole(trained))
        assert saved["step"] == 2
        with tempfile.TemporaryDirectory() as directory, Checkpoints(Path(directory) / "checkpoints", print) as kept:
            kept.save(2, saved, {"step": 2})
            kept.finish()
            _, arrays = kept.newest() or ({}, {})
        wrong[saver] = []
        for restorer, (other, _) in trainers.items():
            template = jax.eval_shape(other.first_state, params)
            found = named(other.whole(other.restored(filled(template, arrays))))
            same = found.keys() == saved.keys() and all(_bytes(found[name]) == _bytes(saved[name]) for name in saved)
            wrong[saver] += [] if same else [restorer]
    return wrong


def _bytes(array: np.ndarray) -> tuple[object, object, bytes]:
    return array.shape, array.dtype, np.asarray(array).tobytes()


if __name__ == "__main__":
    use_cache()
    print(json.dumps({"evaluation": evaluation, "state": state}[sys.argv[1]]()))
