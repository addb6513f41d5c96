"""Numbers against torch's, kept in tests/golden (made by tests/golden/make.py); no torch needed."""

import json
from pathlib import Path

import numpy as np
import pytest

from bert_jax.command import MINILM
from bert_jax.errors import UserError
from bert_jax.tensors import read_tensors, write_tensors
from convert import comparison, conversion, parity, reference
from tests.conftest import ROOT

GOLDEN = ROOT / "tests" / "golden"
ODD = sorted(path.name for path in (GOLDEN / "odd").iterdir())


def findings(source: str, file: Path):
    read = conversion.read(source)
    probed = parity.with_probe(read.checkpoint)
    against = reference.load(file)
    assert against.parameters_sha256 == reference.fingerprint(probed)
    return list(comparison.compare(probed, read.tokenizer, against)), against


def check(found, against, layers):
    missed = [finding for finding in found if not finding.holds]
    assert not missed, missed
    names = [finding.name for finding in found]
    assert names[: layers + 2] == ["token ids", "embeddings", *(f"layer.{i + 1}" for i in range(layers))]
    assert all(quantity.torch_error.rms > 0 for quantity in against.forward.values())
    # The rule itself, once more and without the code under test: per checkpoint, over every array.
    for finding in found:
        if finding.name in against.forward and finding.name != "loss":
            values = against.forward[finding.name].values
            unit = np.sqrt(np.mean(values**2)) / 2**23
            assert finding.ours.rms <= 1.25 * max(finding.torch.rms, 0.75 * unit)
            assert finding.ours.largest <= 2 * max(finding.torch.largest, 4 * unit)


def test_there_are_enough_references():
    assert len(ODD) >= 12
    texts = json.loads(read_tensors(GOLDEN / "minilm.safetensors")[1]["texts"])
    assert len(texts) >= 32


@pytest.mark.parametrize("name", ODD)
def test_odd_configurations(name):
    directory = GOLDEN / "odd" / name
    found, against = findings(str(directory), directory / "reference.safetensors")
    config = json.loads((directory / "config.json").read_text())
    check(found, against, config["num_hidden_layers"])
    names = " ".join(finding.name for finding in found)
    assert ("logits" in names) == ("gradient" in names) == ("AdamW" in names) == (name != "no_pooler")


def test_minilm(minilm):
    found, against = findings(MINILM, GOLDEN / "minilm.safetensors")
    check(found, against, layers=6)
    for finding in found:
        if finding.name in against.forward:
            assert finding.ours.largest < 1e-5


@pytest.fixture
def copy(tmp_path):
    """A golden checkpoint whose tensors a test may change, and the reference of the original."""
    source = GOLDEN / "odd" / "one_layer"
    directory = tmp_path / "copy"
    directory.mkdir()
    for path in source.iterdir():
        if path.name != "model.safetensors":
            (directory / path.name).write_bytes(path.read_bytes())
    tensors, metadata, _ = read_tensors(source / "model.safetensors")
    return directory, tensors, metadata


def run(directory):
    return parity.main([str(directory), "--reference", str(directory / "reference.safetensors")])


def test_command_exits_0_on_a_match_and_prints_the_table(copy, capsys):
    directory, tensors, metadata = copy
    write_tensors(directory / "model.safetensors", tensors, metadata)
    assert run(directory) == 0
    printed = capsys.readouterr().out
    assert "parity: all bounds hold" in printed
    for word in ("embeddings", "layer.1", "pooled", "logits", "loss", "gradients", "AdamW", "bfloat16"):
        assert word in printed


def test_command_refuses_a_length_beside_a_reference(copy):
    directory, *_ = copy
    words = [str(directory), "--reference", str(directory / "reference.safetensors"), "--max-length", "64"]
    with pytest.raises(UserError, match="--max-length is that of the reference file; leave it out"):
        parity.main(words)


def test_command_refuses_a_reference_of_other_weights(copy):
    directory, tensors, metadata = copy
    tensors["bert.pooler.dense.bias"] = tensors["bert.pooler.dense.bias"] + 1e-3
    write_tensors(directory / "model.safetensors", tensors, metadata)
    with pytest.raises(UserError, match="other weights"):
        run(directory)


def test_command_exits_1_on_a_miss(copy, capsys, monkeypatch):
    directory, tensors, metadata = copy
    tensors["bert.pooler.dense.bias"] = tensors["bert.pooler.dense.bias"] + 1e-5
    write_tensors(directory / "model.safetensors", tensors, metadata)
    original = reference.load(directory / "reference.safetensors")
    monkeypatch.setattr(reference, "fingerprint", lambda _: original.parameters_sha256)
    assert run(directory) == 1
    printed = capsys.readouterr().out
    assert "MISSED" in printed
    assert "pooled" in printed.split("bounds missed:")[1]
    assert "What this means: " in printed
    assert "What to do: " in printed


def test_a_wrong_activation_is_a_miss(copy, monkeypatch):
    import jax

    from bert_jax.activations import ACTIVATIONS

    directory, tensors, metadata = copy
    write_tensors(directory / "model.safetensors", tensors, metadata)
    monkeypatch.setitem(ACTIVATIONS, "gelu", lambda x: jax.nn.gelu(x, approximate=True))
    assert run(directory) == 1


def test_reference_survives_its_file(tmp_path):
    source = GOLDEN / "odd" / "no_pooler" / "reference.safetensors"
    made = reference.load(source)
    reference.save(tmp_path / "again.safetensors", made)
    again = reference.load(tmp_path / "again.safetensors")
    assert again._replace(forward={}) == made._replace(forward={})
    for name, quantity in made.forward.items():
        np.testing.assert_array_equal(again.forward[name].values, quantity.values)
        assert again.forward[name].torch_error == quantity.torch_error


def test_golden_files_say_what_made_them():
    for file in (GOLDEN / "minilm.safetensors", *GOLDEN.glob("odd/*/reference.safetensors")):
        made_with = reference.load(file).made_with
        assert {"default", "avx2"} <= set(made_with["instruction_sets"])
        assert made_with["torch"]
        assert made_with["transformers"]


def test_the_worst_of_two_instruction_sets_is_kept():
    one = reference.load(GOLDEN / "odd" / "one_layer" / "reference.safetensors")
    name = "logits"
    larger = one.forward[name]._replace(
        torch_error=reference.Error(1.0, 0.0, 3.0), torch_bfloat16_error=reference.Error(0.0, 5.0, 0.0)
    )
    other = one._replace(forward=one.forward | {name: larger}, made_with={"instruction_sets": ["another"]})
    worst = reference.worst(one, other)
    mine = one.forward[name].torch_error
    assert worst.forward[name].torch_error == reference.Error(1.0, mine.largest, 3.0)
    half = one.forward[name].torch_bfloat16_error
    assert half is not None
    assert worst.forward[name].torch_bfloat16_error == half._replace(largest=5.0)
    assert worst.forward["pooled"].torch_error == one.forward["pooled"].torch_error
    assert worst.made_with["instruction_sets"] == [*one.made_with["instruction_sets"], "another"]


@pytest.mark.parametrize("change", [2**-19, -(2**-19)])
def test_a_step_that_is_a_few_units_off_is_missed(change):
    one = reference.load(GOLDEN / "odd" / "one_layer" / "reference.safetensors")
    assert comparison._adamw_step(one).holds
    name = "pooler.kernel"
    before, after = one.steps[name]
    moved = one._replace(steps=one.steps | {name: (before, after * (1 + change))})
    assert not comparison._adamw_step(moved).holds


def test_parity_takes_the_step_of_training():
    import optax

    from convert.adamw import adamw
    from train.step import optimizer

    start = {"kernel": np.ones((3, 5), np.float32), "bias": np.ones(5, np.float32)}
    runs = []
    for one in (adamw(), optimizer.adamw(reference.LEARNING_RATE)):
        params, state = start, one.init(start)
        for scale in (1e-9, 1e-3, 1):  # beside the first gradients, epsilon counts
            gradients = {
                name: scale * np.cos(np.arange(x.size, dtype=np.float32)).reshape(x.shape) for name, x in start.items()
            }
            updates, state = one.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
        runs.append(params)
    for name in start:
        np.testing.assert_array_equal(runs[0][name], runs[1][name])


def test_an_older_reference_is_refused(tmp_path):
    arrays, header, _ = read_tensors(GOLDEN / "odd" / "one_layer" / "reference.safetensors")
    write_tensors(tmp_path / "x.safetensors", arrays, {**header, "format": "bert_jax reference 2"})
    with pytest.raises(UserError, match="not a reference file"):
        reference.load(tmp_path / "x.safetensors")


def test_not_a_reference_is_said(tmp_path):
    write_tensors(tmp_path / "x.safetensors", {"a": np.zeros(2)}, {})
    with pytest.raises(UserError, match="not a reference file"):
        reference.load(tmp_path / "x.safetensors")
