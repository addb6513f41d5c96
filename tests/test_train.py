"""Fine-tuning: batches, the step, the run, its directory."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from rich.console import Console

from bert_jax import checkpoint, files
from bert_jax.checkpoint import parameter_shapes
from bert_jax.config import SINGLE_LABEL, BertConfig
from bert_jax.errors import UserError
from bert_jax.packing import Tokens
from bert_jax.parameters import build
from bert_jax.predict import TextClassifier
from bert_jax.tokenizer import Tokenizer
from tests.conftest import ROOT, VOCABULARY, random_checkpoint, read_splits
from train.__main__ import main as train
from train.config import TrainConfig, parse
from train.data.prepare import prepare
from train.data.token_set import TokenSet
from train.metrics import measure
from train.run import loop
from train.step import network
from train.step.batches import Batches, Counter
from train.step.evaluator import Evaluator
from train.step.gather import assemble
from train.step.layouts import make_layout
from train.step.optimizer import adamw, clip_by_norm, fine_tuning, linear_schedule
from train.step.shapes import Shapes, fewest_rows
from train.step.trainer import Trainer

ENCODER = BertConfig(
    vocab_size=len(VOCABULARY),
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=64,
)


def random_examples(count, low, high, seed=0):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(low, high, count)
    return [Tokens(generator.integers(5, 101, n).astype(np.int32), np.zeros(n, np.int32)) for n in lengths]


def batches_of(examples, labels, **options):
    return Batches(TokenSet.of(examples, labels), **options)


def batch_of(batches, step):
    """A step's arrays, as the compiled step gathers them."""
    plan, num_rows = batches.plan(step)
    return assemble(batches.data, jax.tree.map(lambda x: x[0, 0], plan), num_rows, batches.shapes.row_length)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("encoder")
    start = random_checkpoint(ENCODER, directory / "files")
    with files.new_directory(directory / "model") as scratch:
        checkpoint.write(scratch, start)
    return directory / "model"


@pytest.fixture(scope="session")
def reviews(tmp_path_factory):
    """120 reviews whose label is whether an odd number of words turn it round."""
    directory = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)

    def rows(count):
        for _ in range(count):
            good = bool(generator.integers(2))
            words = ["a", *["very"] * generator.integers(0, 12), "good" if good else "bad", "film"]
            yield f"{' '.join(words)}\t{'fresh' if good else 'rotten'}"

    for name, count in (("train", 120), ("dev", 37), ("test", 23)):
        (directory / f"{name}.tsv").write_text("\n".join(["text\tlabel", *rows(count)]) + "\n")
    return directory


def arguments(encoder, reviews, out, *more):
    return ["--model", str(encoder), "--data", str(reviews), "--out", str(out), "--max-length", "32", *more]


# --- batches


EXAMPLES = random_examples(103, 3, 30)


@pytest.fixture(scope="module")
def batches():
    return batches_of(EXAMPLES, [i % 5 for i in range(103)], batch_size=8, seed=3)


def test_an_epoch_holds_every_example_once_and_a_step_exactly_batch_size(batches):
    assert batches.steps_per_epoch == 13
    for epoch in range(2):
        steps = range(epoch * 13, epoch * 13 + 13)
        seen = np.concatenate([batches.indices(step) for step in steps])
        assert sorted(seen) == list(range(103))
        sizes = [int(batch_of(batches, step).weights.sum()) for step in steps]
        assert sizes == [8] * 12 + [7]
    assert not np.array_equal(batches.indices(0), batches.indices(13))


def test_a_batch_is_a_function_of_seed_and_step(batches):
    again = Batches(batches.data, batch_size=8, seed=3)
    for step in (20, 3):
        for a, b in zip(jax.tree.leaves(batch_of(batches, step)), jax.tree.leaves(batch_of(again, step)), strict=True):
            np.testing.assert_array_equal(a, b)
    other = Batches(batches.data, batch_size=8, seed=4)
    assert not np.array_equal(batches.indices(0), other.indices(0))


def test_a_batch_holds_its_examples_with_their_labels_positions_and_types(batches):
    examples = [t._replace(token_type_ids=(np.arange(len(t.input_ids)) >= 7).astype(np.int32)) for t in EXAMPLES]
    batches = batches_of(examples, [i % 5 for i in range(103)], batch_size=8, seed=3)
    batch, seen = batch_of(batches, 5), []
    ids, types, positions, segments = (np.asarray(array).reshape(-1) for array in batch.rows[:4])
    for slot, first in enumerate(batch.rows.first_tokens[0]):
        here = segments == segments[first]
        i = next(i for i in batches.indices(5) if np.array_equal(examples[i].input_ids, ids[here]))
        np.testing.assert_array_equal(types[here], examples[i].token_type_ids)
        np.testing.assert_array_equal(positions[here], np.arange(here.sum()))
        assert here[first]
        assert positions[first] == 0
        assert batch.targets[slot] == i % 5
        seen.append(i)
    assert sorted(seen) == sorted(batches.indices(5))
    assert not ids[segments == 0].any()
    row_segments = np.asarray(batch.rows.segment_ids)
    assert all(len(set(np.where(row_segments == n)[0])) == 1 for n in set(segments) - {0})  # none lies in two rows


def test_parts_share_examples_and_tokens_evenly():
    batches = batches_of(EXAMPLES, [0] * 103, batch_size=30, seed=3, micro=2, shards=4)
    for step in range(4):
        plan, num_rows = batches.plan(step)
        assert plan.examples.shape == (1, 2, 4, 4)
        inside = plan.places < num_rows * batches.shapes.row_length
        assert sorted(plan.examples[inside]) == sorted(batches.indices(step))
        assert set(inside.sum(-1).flat) <= {len(batches.indices(step)) // 8, len(batches.indices(step)) // 8 + 1}
        tokens = np.where(inside, batches.data.lengths[plan.examples], 0).sum(-1)
        assert tokens.max() - tokens.min() <= 30


@pytest.mark.parametrize("shards", [1, 3])
def test_streamed_examples_give_the_same_batch(shards):
    batches = batches_of(EXAMPLES, [i % 5 for i in range(103)], batch_size=8, seed=3, window=3, shards=shards)
    shapes = set()
    for first in (0, 3, 12):
        plan, num_rows = batches.plan(first, batches.window_at(first))
        data, moved = batches.streamed(plan, range(shards))
        for i in range(3):
            one, other = (type(p)(p.examples[i, 0], p.places[i, 0]) for p in (plan, moved))
            a = assemble(batches.data, one, num_rows, batches.shapes.row_length)
            b = assemble(data, other, num_rows, batches.shapes.row_length)
            jax.tree.map(np.testing.assert_array_equal, a, b)
        shapes.add(tuple(array.shape for array in data))
        own, _ = batches.streamed(plan, [shards - 1])  # another host has the others
        jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[-1:], y), data, own)
    assert len(shapes) == 1


def test_token_ids_are_kept_in_16_bits_where_they_fit():
    small = TokenSet.of(EXAMPLES, [0] * 103)
    assert small.ids.dtype == np.uint16
    large = TokenSet.of([Tokens(np.array([70000, 3], np.int32), np.zeros(2, np.int32))], [0])
    assert large.ids.tolist() == [70000, 3]


def test_rows_are_as_long_as_a_kernel_wants_them():
    for longest, expected in ((66, 128), (24, 64), (128, 128), (130, 192)):
        lengths = batches_of(random_examples(64, 4, longest + 1), [0] * 64, batch_size=8, seed=0, multiple=64)
        assert lengths.shapes.row_length % 64 == 0
        assert lengths.shapes.row_length >= expected
        alone = batches_of(
            random_examples(8, longest, longest + 1), [0] * 8, batch_size=8, seed=0, multiple=64, packed=False
        )
        assert alone.shapes.row_length == expected


def test_an_attention_this_machine_lacks_is_refused(monkeypatch):
    network.check_attention("auto", 72, 7)
    with pytest.raises(UserError, match="--attention triton needs a GPU, and this run is on a cpu"):
        network.check_attention("triton", 128, 64)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    network.check_attention("mosaic", 128, 64)
    with pytest.raises(UserError, match="--attention mosaic does not take rows of 128 tokens with heads of 7 numbers"):
        network.check_attention("mosaic", 128, 7)


def test_few_shapes(batches):
    shapes = {batch_of(batches, step).rows.input_ids.shape for step in range(39)}
    allowed = {(rows, batches.shapes.row_length) for rows in batches.shapes.row_counts}
    assert len(shapes) <= 3
    assert shapes <= allowed


def test_fewest_rows_is_the_best_choice_there_is():
    import itertools

    from train.step.shapes import _COMPILATION_STEPS

    counts = Counter({4: 3, 5: 189, 6: 941, 7: 800, 8: 155, 9: 16})
    mean = sum(k * n for k, n in counts.items()) / counts.total()

    def cost(chosen):
        rounded = sum(n * min(c for c in chosen if c >= k) for k, n in counts.items())
        return rounded + len(chosen) * _COMPILATION_STEPS * mean

    options = [(*some, 9) for size in range(6) for some in itertools.combinations([4, 5, 6, 7, 8], size)]
    best = min(options, key=cost)
    chosen, value = fewest_rows(counts)
    assert chosen == best
    assert value == pytest.approx(cost(best))
    # Over a thousand times as many steps, compilations are cheap and every count is worth one.
    assert fewest_rows(counts, scale=1000.0)[0] == (4, 5, 6, 7, 8, 9)


def test_sst2_useful_share(minilm):
    """On SST-2 at 32 examples, at least 90% of the tokens computed are useful."""
    path = ROOT.parent / "shared" / "data" / "sst2" / "train.tsv"
    if not path.exists():
        pytest.skip("SST-2 is not on this machine")
    texts = [line.rsplit("\t", 1)[0] for line in path.read_text().split("\n")[1:] if line]
    examples = Tokenizer.load(minilm)(texts, max_length=128)
    batches = batches_of(examples, [0] * len(examples), batch_size=32, seed=0)
    sizes = [math.prod(batches.computed(batches.plan(step)[1])) for step in range(batches.steps_per_epoch)]
    assert sum(batches.lengths) / sum(sizes) >= 0.9
    assert len(set(sizes)) <= 6


# --- the step


def losses(config, tensors, batches, steps, rate=1e-3, scan=None, **settings):
    """The loss curve, its last state, and the trainer that made them."""
    graphdef, params = nnx.split(build(config, tensors, **settings))
    optimizer = fine_tuning(rate, steps=steps, warmup_steps=2, weight_decay=0.01, clip_norm=1.0)
    trainer = Trainer(make_layout(config), graphdef, optimizer, params, batches.shapes.row_length, scan=scan)
    state, out, step = trainer.start(params), [], 0
    data, key = trainer.place(batches.data), trainer.key(0)
    while step < steps:
        count = min(batches.window_at(step), steps - step)
        plan, num_rows = batches.plan(step, count)
        state, metrics = trainer(state, data, trainer.place_plan(plan, count), key, num_rows)
        out += trainer.metrics(metrics).loss[:count].tolist()
        step += count
    return out, state, trainer


def test_packed_and_unpacked_runs_have_the_same_loss_curve(primes):
    config = primes.config.replace(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    examples, labels = random_examples(64, 3, 24), [i % 5 for i in range(64)]
    packed, unpacked = (batches_of(examples, labels, batch_size=8, seed=0, packed=packed) for packed in (True, False))
    assert packed.plan(0)[1] < unpacked.plan(0)[1] == 8
    a, *_ = losses(config, primes.tensors, packed, 20)
    b, *_ = losses(config, primes.tensors, unpacked, 20)
    np.testing.assert_allclose(a, b, atol=1e-5)
    assert a[-1] < a[0] - 0.1  # the curve is one of learning


def test_windows_and_micro_batches_change_no_result(primes, batches):
    config = primes.config.replace(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    expected, *_ = losses(config, primes.tensors, batches, 20)
    for options in ({"window": 4}, {"micro": 3}, {"window": 7, "micro": 2}):
        parted = Batches(batches.data, batch_size=8, seed=3, **options)
        found, *_ = losses(config, primes.tensors, parted, 20)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_window_is_one_dispatch_with_the_dropout_of_single_steps(primes, batches):
    single, whole = (Batches(batches.data, batch_size=8, seed=3, window=window) for window in (1, 5))
    single.shapes = whole.shapes = Shapes(32, (8,))  # dropout depends on where tokens lie
    expected, *_ = losses(primes.config, primes.tensors, single, 5)
    found, _, trainer = losses(primes.config, primes.tensors, whole, 5)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert len(trainer.compiled) == 1


@pytest.mark.parametrize("scan", [1, 2, 4])
def test_a_scanned_window_takes_the_steps_that_a_while_loop_takes(scan, primes, batches):
    whole = Batches(batches.data, batch_size=8, seed=3, window=4)
    expected, last, _ = losses(primes.config, primes.tensors, whole, 6)  # the second window lacks two
    found, state, trainer = losses(primes.config, primes.tensors, whole, 6, scan=scan)
    assert int(state.step) == int(last.step) == 6
    # Losses, as above: AdamW's first steps make much of the last bits of gradients near 0, which differ by program.
    np.testing.assert_allclose(found, expected, atol=1e-5)
    plan, num_rows = whole.plan(6, 2)
    data, key = trainer.place(batches.data), trainer.key(0)
    state, metrics = trainer(state, data, trainer.place_plan(plan, 2, 6), key, num_rows)
    assert int(state.step) == 8
    assert (np.asarray(metrics.loss) > 0).tolist() == [True, True, False, False]
    # After a step whose number is not the state's, none is taken.
    state, metrics = trainer(state, data, trainer.place_plan(plan, 2, 6), key, num_rows)
    assert int(state.step) == 8
    assert not np.asarray(metrics.loss).any()


def lowered(batches, config, tensors, **settings):
    """The step as it is given to the compiler, and its loss curve over 3 steps."""
    curve, state, trainer = losses(config, tensors, batches, 3, **settings)
    plan, num_rows = batches.plan(0)
    placed = trainer.place_plan(plan, 1)
    return trainer.program(num_rows).lower(state, trainer.place(batches.data), *placed, trainer.key(0)), curve


def test_micro_batches_and_remat_save_memory_and_change_no_result():
    config = BertConfig(
        vocab_size=101, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=128,
        max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        architecture="BertForSequenceClassification", labels=("a", "b"),
    )  # fmt: skip
    generator = np.random.default_rng(0)
    tensors = {n: generator.standard_normal(s).astype(np.float32) * 0.1 for n, s in parameter_shapes(config).items()}
    data = TokenSet.of(random_examples(128, 30, 60), [i % 2 for i in range(128)])
    whole = Batches(data, batch_size=64, seed=0)
    plain, expected = lowered(whole, config, tensors)
    parted, found = lowered(Batches(data, batch_size=64, seed=0, micro=4), config, tensors)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    bytes_of = [program.compile().memory_analysis().temp_size_in_bytes for program in (plain, parted)]
    assert bytes_of[1] < 0.5 * bytes_of[0]
    twice, found = lowered(whole, config, tensors, remat=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # The CPU's compiler takes the second computation out again, so what it is given is looked at:
    # the eight products of a layer's forward pass, once more.
    products = [program.as_text().count("dot_general") for program in (plain, twice)]
    assert products[1] == products[0] + 8 * config.num_hidden_layers


def test_a_step_is_a_function_of_seed_and_step_and_donates_its_state(primes, batches):
    a, state, trainer = losses(primes.config, primes.tensors, batches, 3)
    b, *_ = losses(primes.config, primes.tensors, batches, 3)
    np.testing.assert_allclose(a, b, atol=1e-6)
    assert int(state.step) == 3
    kept = jax.tree.leaves(state.params)[0]
    plan, num_rows = batches.plan(3)
    trainer(state, trainer.place(batches.data), trainer.place_plan(plan, 1), trainer.key(0), num_rows)
    assert kept.is_deleted()


def test_dropout_differs_from_step_to_step(primes):
    batches = batches_of(random_examples(4, 20, 30), [0, 1, 2, 3], batch_size=4, seed=0)
    seen, *_ = losses(primes.config, primes.tensors, batches, 3, rate=1e-30)
    assert len({round(loss, 6) for loss in seen}) == 3
    quiet = primes.config.replace(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    still, *_ = losses(quiet, primes.tensors, batches, 3, rate=1e-30)
    np.testing.assert_allclose(still, still[0], atol=1e-6)


def test_number_of_compilations_is_the_number_of_shapes(primes, batches):
    *_, trainer = losses(primes.config, primes.tensors, batches, 20)
    assert set(trainer.compiled) == {batches.plan(i)[1] for i in range(20)}
    assert all(program._cache_size() == 1 for program in trainer.compiled.values())


def test_schedule_rises_then_falls_to_zero():
    schedule = linear_schedule(1.0, steps=100, warmup_steps=10)
    assert [float(schedule(i)) for i in (0, 5, 10, 55, 100)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert float(linear_schedule(1.0, steps=10, warmup_steps=0)(0)) == 1


def test_adamw_corrects_bias_and_spares_biases_and_layernorm():
    params = {"kernel": np.full((2, 3), 2.0, np.float32), "bias": np.full(3, 2.0, np.float32)}
    gradients = {"kernel": np.full((2, 3), 1e-3, np.float32), "bias": np.zeros(3, np.float32)}
    optimizer = adamw(0.1, weight_decay=0.5)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    # With bias correction the first step is the learning rate, whatever the gradient's size.
    np.testing.assert_allclose(updates["kernel"], -0.1 * (1 + 0.5 * 2.0), rtol=1e-4)
    assert not np.any(updates["bias"])


def test_gradients_are_clipped_by_their_global_norm():
    optimizer = fine_tuning(1.0, steps=10, warmup_steps=0, weight_decay=0.0, clip_norm=1.0)
    params = {"kernel": np.ones((2, 2), np.float32)}
    state = optimizer.init(params)
    _, state = optimizer.update({"kernel": np.full((2, 2), 100.0, np.float32)}, state, params)
    moment = jax.tree.leaves(state)[1]
    assert any(np.allclose(x, 0.05) for x in jax.tree.leaves(state) if np.shape(x) == (2, 2)), moment


@pytest.mark.parametrize(("norm", "factor"), [(None, 0.25), (8.0, 0.125), (0.5, 1.0), (0.0, 1.0)])
def test_a_norm_that_is_known_is_not_computed_again(norm, factor):
    gradients = {"kernel": jnp.full((2, 2), 2.0, jnp.bfloat16)}
    given = {} if norm is None else {"norm": jnp.float32(norm)}
    clipped, _ = clip_by_norm(1.0).update(gradients, optax.EmptyState(), **given)
    assert clipped["kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(clipped["kernel"], np.float32), np.full((2, 2), 2.0 * factor))


# --- metrics and evaluation


def test_metrics_by_hand():
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3]], np.float32))
    found = measure(SINGLE_LABEL, logits, np.array([0, 1, 1, 0]))
    assert found["confusion"] == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert found["accuracy"] == 0.5
    assert found["macro_f1"] == 0.5  # the third class is neither there nor predicted
    assert found["loss"] == pytest.approx(-(math.log(0.7) + math.log(0.8) + math.log(0.3) + math.log(0.2)) / 4)


@pytest.mark.parametrize("count", [1, 2, 7, 64, 65])
def test_evaluation_counts_every_example_once(primes, count):
    graphdef, params = nnx.split(build(primes.config, primes.tensors))
    examples, labels = random_examples(count, 2, 60), [i % 5 for i in range(count)]
    evaluate = Evaluator(make_layout(primes.config), graphdef, 5)
    found = evaluate(params, examples, labels)
    assert found["examples"] == count == sum(map(sum, found["confusion"]))
    one_by_one = [evaluate(params, [e], [label]) for e, label in zip(examples, labels, strict=True)]
    assert found["loss"] == pytest.approx(np.mean([m["loss"] for m in one_by_one]), abs=1e-5)
    assert found["accuracy"] == pytest.approx(np.mean([m["accuracy"] for m in one_by_one]))


# --- the run


def run(*args):
    config = parse(list(args))
    return loop.run(config, prepare(config), Console(quiet=True))


@pytest.fixture(scope="module")
def finished(encoder, reviews, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    results = run(*arguments(encoder, reviews, out, "--epochs", "6", "--batch-size", "8", "--learning-rate", "2e-3"))
    return out, results


def test_a_run_learns_and_keeps_its_best_model(finished, reviews):
    out, results = finished
    assert results["dev"]["accuracy"] > 0.9
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if line.get("split") == "dev"]
    assert len(epochs) == 6
    assert results["dev"]["accuracy"] == max(line["accuracy"] for line in epochs)
    classifier = TextClassifier.load(out / "best")
    rows = read_splits(reviews)["dev"].rows
    said = [p.label for p in classifier([row.text for row in rows])]
    right = np.mean([label == row.label for label, row in zip(said, rows, strict=True)])
    assert right == pytest.approx(results["dev"]["accuracy"])
    assert classifier.config.labels == ("fresh", "rotten")


def test_the_run_directory_says_everything(finished, encoder, reviews):
    out, results = finished
    record = json.loads((out / "run.json").read_text())
    assert record["config"]["learning_rate"] == 2e-3
    assert record["config"]["seed"] == 0
    assert record["versions"]["jax"] == jax.__version__
    assert record["device"]["platform"] == jax.default_backend()
    splits = ("train", "dev", "test")
    assert record["data"] == {
        name: {str(reviews / f"{name}.tsv"): files.sha256(reviews / f"{name}.tsv")} for name in splits
    }
    assert set(record["contents"]) == {"the model", "the tokenizer", *(f"the data ({name})" for name in splits)}
    assert "splits" not in record
    hashes = {name: files.sha256(encoder / name) for name in ("config.json", "model.safetensors")}
    assert record["source"] == {"source": "random", **hashes}
    assert record["best"]["test"]["examples"] == 23
    assert record["best"]["dev"]["accuracy"] == results["dev"]["accuracy"]
    figures = record["figures"]
    assert len(figures["compiled_shapes"]) <= len(record["row_counts"])
    assert 0.5 < figures["useful_share"] <= 1
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "grad_norm" in line]
    assert steps == list(range(1, 91)) == list(range(1, record["steps"] + 1))


def test_what_a_run_prints(encoder, reviews, tmp_path, capsys):
    train(arguments(encoder, reviews, tmp_path / "run", "--epochs", "1"))
    printed = capsys.readouterr().out
    for word in ("loaded", "new      classifier.kernel", "120 examples", "step 4/4", "useful tokens/s", "accuracy"):
        assert word in printed
    for word in (
        "macro F1",
        "Confusion on test",
        "rotten",
        "steps/s",
        "shapes of the step",
        str(tmp_path / "run" / "best"),
    ):
        assert word in printed.replace("\n", "")


def test_on_a_terminal_there_is_a_bar(encoder, reviews, tmp_path):
    import io

    config = parse(arguments(encoder, reviews, tmp_path / "run", "--epochs", "1"))
    screen = io.StringIO()
    loop.run(config, prepare(config), Console(file=screen, force_terminal=True, width=120))
    assert "━" in screen.getvalue()
    assert "4/4" in screen.getvalue()


def test_the_seed_decides(encoder, reviews, tmp_path):
    first = [run(*arguments(encoder, reviews, tmp_path / name, "--epochs", "1", "--seed", seed))["dev"]["loss"]
             for name, seed in (("a", "1"), ("b", "1"), ("c", "2"))]  # fmt: skip
    assert first[0] == pytest.approx(first[1], abs=1e-6)
    assert abs(first[0] - first[2]) > 1e-4


def test_a_hugging_face_source_is_converted_on_the_way(reviews, tmp_path):
    source = ROOT / "tests" / "golden" / "odd" / "old_names"
    run("--model", str(source), "--data", str(reviews), "--out", str(tmp_path / "run"), "--epochs", "1")
    assert TextClassifier.load(tmp_path / "run" / "best")(["bad"])[0].label in ("fresh", "rotten")


def test_fine_tuning_goes_on_from_a_classifier(finished, reviews, tmp_path):
    best = finished[0] / "best"
    results = run(*arguments(best, reviews, tmp_path / "more", "--epochs", "1", "--learning-rate", "1e-6"))
    assert results["dev"]["accuracy"] == pytest.approx(finished[1]["dev"]["accuracy"], abs=0.03)
    with pytest.raises(UserError, match="is a classifier of fresh,rotten"):
        run(*arguments(best, reviews, tmp_path / "other", "--labels", "a,b"))


def test_bfloat16_trains(encoder, reviews, tmp_path):
    results = run(
        *arguments(
            encoder,
            reviews,
            tmp_path / "run",
            "--epochs",
            "6",
            "--batch-size",
            "8",
            "--learning-rate",
            "2e-3",
            "--dtype",
            "bfloat16",
        )
    )
    assert results["dev"]["accuracy"] > 0.9


def test_no_pooler_is_the_users_decision(reviews, tmp_path):
    source = ROOT / "tests" / "golden" / "odd" / "no_pooler"
    options = ["--model", str(source), "--data", str(reviews), "--epochs", "1", "--out", str(tmp_path / "run")]
    with pytest.raises(UserError, match="no pooler; pass --new-pooler"):
        run(*options)
    assert not (tmp_path / "run").exists()
    config = parse([*options, "--new-pooler"])
    prepared = prepare(config)
    assert any("pooler.kernel" in note for note in prepared.notes)
    loop.run(config, prepared, Console(quiet=True))


def test_a_diverging_loss_stops_the_run(encoder, reviews, tmp_path):
    with pytest.raises(UserError, match="the loss is nan at step 3, which was not taken .*; lower --learning-rate"):
        run(
            *arguments(
                encoder, reviews, tmp_path / "run", "--learning-rate", "1e30", "--epochs", "8", "--batch-size", "8"
            )
        )


@pytest.mark.parametrize(
    ("option", "value"),
    [("--epochs", "0"), ("--batch-size", "0"), ("--learning-rate", "-1"), ("--learning-rate", "nan"), ("--warmup", "1"),
     ("--dev-fraction", "0"), ("--seed", "-1"), ("--max-length", "2"), ("--weight-decay", "-1"), ("--clip-norm", "0")],
)  # fmt: skip
def test_options_out_of_range_are_named(option, value):
    with pytest.raises(UserError, match=f"{option} is"):
        parse([f"{option}={value}"])


def test_unknown_options_fail():
    for bad in (["--learning-rat", "1"], ["--no-such"], ["stray"], ["--epochs", "many"], ["--dtype", "float16"]):
        with pytest.raises(UserError):
            parse(bad)


def test_default_run_directories():
    assert TrainConfig().run_directory.name == "demo"
    assert str(TrainConfig(data="some/reviews.csv").run_directory) == "runs/reviews"


def test_one_file_is_split_by_a_fraction(tmp_path):
    path = tmp_path / "all.csv"
    path.write_text("review,sentiment\n" + "".join(f"text {i},{i % 2}\n" for i in range(50)))
    splits = read_splits(path, dev_fraction=0.2, split_seed=1)
    assert [len(splits[name].rows) for name in ("train", "dev")] == [40, 10]
    texts = {row.text for split in splits.values() for row in split.rows}
    assert len(texts) == 50
    assert read_splits(path, dev_fraction=0.2, split_seed=1) == splits
    assert read_splits(path, dev_fraction=0.2, split_seed=2) != splits


def test_parquet_is_read(tmp_path):
    import datasets

    table = datasets.Dataset.from_dict({"text": ["good", "bad"], "label": [1, 0]})
    table.to_parquet(tmp_path / "all.parquet")
    rows = read_splits(tmp_path / "all.parquet", dev_fraction=0.5)
    assert sorted(row.label for split in rows.values() for row in split.rows) == [0, 1]
