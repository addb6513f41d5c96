"""Benchmarks: the arithmetic, the same examples for all, a worker's answers, what is printed and written."""

import json
import os
import platform
import sys

import numpy as np
import pytest

from benchmarks import embed, figures, finetune, job, predict, report, saving, worker
from benchmarks.driver import Entry, Failed, Pool, Worker
from benchmarks.figures import Round
from benchmarks.workload import Examples, learning_rate
from bert_jax.config import BertConfig
from bert_jax.errors import UserError
from bert_jax.packing import Tokens
from tests.conftest import ROOT, VOCABULARY, write_random
from tests.sentence_models import NORMALIZE, Spec, write_native
from tests.test_structure import imports
from train.data.token_set import TokenSet
from train.step.batches import Batches
from train.step.optimizer import linear_schedule

BASE = {"num_layers": 12, "hidden_size": 768, "encoder_parameters": figures.encoder_parameters(12, 768, 3072)}
MINILM = {"num_layers": 6, "hidden_size": 384, "encoder_parameters": figures.encoder_parameters(6, 384, 1536)}
SETTINGS = {
    "batch_size": 8,
    "max_length": 16,
    "learning_rate": 1e-3,
    "weight_decay": 0.01,
    "clip_norm": 1.0,
    "warmup": 0.1,
    "seed": 3,
    "train_examples": None,
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("encoder")
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=40,
        max_position_embeddings=48,
    )
    return write_random(config, directory)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    for name, count in (("train", 50), ("dev", 9)):
        rows = [f"a {'very ' * (i % 7)}{('good', 'bad')[i % 2]} film\t{i % 2}" for i in range(count)]
        (directory / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    return directory


@pytest.fixture(scope="module")
def made(encoder, data, tmp_path_factory):
    return job.make(tmp_path_factory.mktemp("job"), str(encoder), data, SETTINGS)


def examples(batch_size=8, seed=1):
    lengths = np.random.default_rng(0).integers(3, 40, 530)
    ids = np.random.default_rng(1).integers(1, 100, lengths.sum()).astype(np.int32)
    return Examples(ids, lengths, lengths % 2, batch_size=batch_size, seed=seed)


# --- arithmetic


def test_cost_of_a_token():
    assert BASE["encoder_parameters"] == 85_054_464
    for sizes, expected in ((BASE, 524e6), (MINILM, 67e6)):
        per_token = figures.useful_flops(sizes, np.array([128]), training=True) / 128
        assert per_token == pytest.approx(expected, rel=0.01)
        assert figures.useful_flops(sizes, np.array([128]), training=False) / 128 == pytest.approx(per_token / 3)
    two = figures.useful_flops(MINILM, np.array([5, 9]), training=True)
    assert two == sum(figures.useful_flops(MINILM, np.array([n]), training=True) for n in (5, 9))


def test_medians_and_ratios():
    def rounds(*seconds):
        return [Round(s, 4, 32, 600, 1000, 3e9, 1e10) for s in seconds]

    found = figures.summary(rounds(1.0, 2.0, 8.0))
    assert found["useful_tokens_per_second"] == 300
    assert found["examples_per_second"] == 16
    assert found["step_seconds"] == 0.5
    assert found["padding"] == pytest.approx(0.4)
    assert found["share_of_peak"] == pytest.approx(0.15)
    assert found["share_of_peak_with_padding"] == pytest.approx(0.25)
    assert found["slowest_over_fastest"] == 8
    # Ours is twice as fast in two rounds of three, but the machine was slow at different times.
    ratio = figures.ratio(rounds(1.0, 2.0, 4.0), rounds(2.0, 4.0, 4.0))
    assert ratio == {"of_medians": 2.0, "median_of_rounds": 2.0, "least": 1.0, "most": 2.0}


def test_learning_rate_is_ours():
    settings = {"learning_rate": 5e-5, "schedule_steps": 40, "warmup_steps": 7}
    schedule = linear_schedule(5e-5, 40, 7)
    ours = [float(schedule(step)) for step in range(45)]
    np.testing.assert_allclose([learning_rate(settings, step) for step in range(45)], ours, atol=1e-11)


# --- the same examples


def test_a_step_holds_what_ours_holds():
    neutral = examples()
    tokens = [Tokens(ids, ids * 0) for ids in (neutral[i] for i in range(len(neutral)))]
    ours = Batches(TokenSet.of(tokens, neutral.labels.tolist()), batch_size=8, seed=1)
    for step in (0, 5, ours.steps_per_epoch - 1, ours.steps_per_epoch, 3 * ours.steps_per_epoch + 2):
        np.testing.assert_array_equal(neutral.indices(step), ours.indices(step))


@pytest.mark.parametrize("layout", ["longest", "grouped", "40"])
def test_every_layout_holds_the_same_examples(layout):
    neutral = examples()
    expected = np.concatenate([neutral.indices(step) for step in range(2, 62)])
    found = list(neutral.batches(layout, 2, 60))
    assert len(found) == 60
    np.testing.assert_array_equal(np.sort(np.concatenate([i for i, _ in found])), np.sort(expected))
    assert all(length >= neutral.lengths[indices].max() for indices, length in found)


def test_grouping_leaves_little_padding():
    def padding(layout):
        batches = list(examples().batches(layout, 0, 50))
        useful = sum(examples().lengths[indices].sum() for indices, _ in batches)
        return 1 - useful / sum(len(indices) * length for indices, length in batches)

    assert padding("grouped") < 0.05 < padding("longest")


def test_padded_rows():
    neutral = examples()
    ids, mask, labels = neutral.padded(np.array([4, 9]), 40)
    assert ids.shape == mask.shape == (2, 40)
    for row, index in enumerate((4, 9)):
        np.testing.assert_array_equal(ids[row][mask[row] == 1], neutral[index])
        assert not ids[row][mask[row] == 0].any()
    np.testing.assert_array_equal(labels, neutral.labels[[4, 9]])


# --- workers


def test_our_worker_answers(made):
    with Pool(made.directory, sys.stderr.buffer) as pool:
        pool.start(Entry("ours", "ours", "packed"), "train", first=0, steps=1)
        assert not pool.absent
        assert pool.first_seconds["ours"] > 0
        assert pool.versions["ours"].keys() >= {"bert_jax", "jax", "device"}
        before = pool.ask("ours", "restart") and pool.ask("ours", "logits", count=5)
        assert before
        assert np.shape(before[0]) == (5, 2)
        pool.ask("ours", "prepare", first=0, steps=7)
        pool.ask("ours", "restart")
        computed, seconds = pool.ask("ours", "train", first=0, steps=7) or (0, 0)
        train = made.examples("train")
        assert computed >= train.lengths.sum()
        assert seconds > 0
        after = pool.ask("ours", "logits", count=5)
        assert after
        assert after[0] != before[0]
        assert pool.workers["ours"].peak_memory > 2**20
        assert pool.ask("ours", "nonsense") is None
        assert "nonsense" in pool.absent["ours"]
        assert pool.ask("ours", "restart") is None


def test_a_worker_that_does_not_come_up_says_why(made, tmp_path):
    with pytest.raises(Failed, match="No module named"), open(tmp_path / "log", "wb") as log:
        Worker(Entry("x", "keras", "128"), made.directory, log)
    with pytest.raises(Failed, match="No such file"):
        Worker(Entry("x", "flax", "128", str(tmp_path / "python")), made.directory, sys.stderr.buffer)


@pytest.mark.parametrize("name", ["workload", "worker", "contenders/flax_training", "contenders/keras_training"])
def test_what_other_interpreters_run_needs_nothing_of_ours(name):
    found = set(imports(ROOT / "benchmarks" / f"{name}.py"))
    assert not found & {"bert_jax", "convert", "train", "torch"}


def test_every_kind_has_its_module():
    for module in worker.CONTENDERS.values():
        assert (ROOT / "benchmarks" / "contenders" / f"{module}.py").is_file()


# --- the command


@pytest.mark.slow
def test_command_prints_and_writes(encoder, data, tmp_path, capsys):
    out = tmp_path / "found.json"
    options = ["--model", str(encoder), "--data", str(data), "--max-length", "16", "--batch-size", "8"]
    options += ["--cases", "short", "--only", "ours", "--rounds", "2", "--json", str(out)]
    finetune.main([*options, "--train-examples", "32"])
    printed = capsys.readouterr().out
    assert "useful tokens/s" in printed
    found = json.loads(out.read_text())
    entry = found["cases"]["short"]["contenders"]["ours packed"]
    assert [r["steps"] for r in entry["rounds"]] == [2, 2]
    assert sum(r["examples"] for r in entry["rounds"]) == 32
    assert 0 <= entry["accuracy"] <= 1
    assert found["cases"]["short"]["ratios"] == {}
    assert found["settings"]["schedule_steps"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cases", "none"], "--cases names none"),
        (["--max-length", "200"], "more than the 128"),
        (["--rounds", "0"], "at least 1"),
        (["--train-examples", "few"], "'few' is not a whole number"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        finetune.main(options)


def test_absent_peers_are_named():
    known = finetune.contenders(None, None)
    assert known["transformers 4.57 Flax"] == "not installed (--flax-python)"
    assert known["KerasHub on JAX"] == "not installed (--keras-python)"
    for _, ours, peers in finetune.CASES.values():
        assert {ours, *peers} <= set(known)


# --- saving


@pytest.mark.slow
def test_the_cost_of_saving(encoder, data, tmp_path, capsys):
    arguments = ["--model", str(encoder), "--data", str(data), "--steps", "4", "--rounds", "2", "--batch-size", "8"]
    arguments += ["--max-length", "16"]
    saving.main([*arguments, "--json", str(tmp_path / "figures.json")])
    found = json.loads((tmp_path / "figures.json").read_text())
    assert len(found["ratios"]) == 2
    assert found["checkpoint_bytes"] > 3 * 4 * figures.encoder_parameters(1, 32, 40)  # parameters and two moments
    assert 0 < found["wait_seconds"] < found["saving_seconds"]
    assert "cost of saving" in capsys.readouterr().out


def test_a_report_begins_with_the_processor_and_the_versions(tmp_path, monkeypatch):
    machine = report.machine()
    line = report.describe(machine, {"ours": {"jax": "0.10.2", "device": "cpu"}, "torch": {"torch": "2.13.0"}})
    assert f"{os.cpu_count()} cores of " in line
    assert platform.python_version() in line
    assert line.endswith("jax 0.10.2, torch 2.13.0")
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 avx512f avx512_vnni\n")
    monkeypatch.setattr(report, "CPUINFO", cpuinfo)
    assert report.machine()["processor"] == "Some CPU @ 2 GHz"
    assert report.instruction_sets() == ["avx2", "avx512f"]
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd sve\n")
    assert report.instruction_sets() == ["asimd", "sve"]
    monkeypatch.setattr(report, "CPUINFO", tmp_path / "absent")
    assert "no instruction set" in report.describe(report.machine(), {})


def test_runtimes_that_are_not_installed_are_named(encoder, data, capsys, monkeypatch):
    monkeypatch.setattr(predict, "has_runtime", lambda name: False)
    chosen = ["--max-length", "16", "--sentences", "8", "--rounds", "1", "--only", "onnxruntime,OpenVINO"]
    predict.main(["--model", str(encoder), "--data", str(data), *chosen])
    said = " ".join(capsys.readouterr().out.split())
    for name, package in (("onnxruntime sorted", "onnxruntime"), ("OpenVINO sorted", "openvino")):
        assert f"not run: {name}: {package}, torch or onnxscript is not installed: pip install '.[parity,run" in said


@pytest.mark.slow
def test_embedding_is_measured_without_peers(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(embed, "has_sentence_transformers", lambda: False)
    model, out = write_native(Spec(others=[NORMALIZE]), tmp_path), tmp_path / "found.json"
    options = ["--max-length", "16", "--sentences", "70", "--rounds", "2", "--json", str(out)]
    embed.main(["--model", str(model), "--data", str(data), *options])
    entry = json.loads(out.read_text())["cases"]["embedding"]["contenders"]["ours"]
    assert [found["examples"] for found in entry["rounds"]] == [70, 70]
    assert entry["agreement"] == pytest.approx(1)
    said = " ".join(capsys.readouterr().out.split())
    assert "not run: batches of 32: torch or sentence-transformers is not installed: pip install '.[parity]'" in said
