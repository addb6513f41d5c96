"""Growth: each kind of case, small; the table and the file of the command; what reading may hold in memory."""

import json

import numpy as np
import pytest

from benchmarks import growth, growth_case
from bert_jax.errors import UserError


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Run a table in processes of its own: its rows as the file has them."""

    def run(table, size):
        out = tmp_path_factory.mktemp(table) / "found.json"
        growth.main(["--tables", table, "--sizes", str(size), "--model", "tiny", "--json", str(out)])
        found = json.loads(out.read_text())
        assert found["machine"]["cores"] >= 1
        return found["tables"][table]

    return run


def test_sentences_are_as_long_as_those_of_sst2():
    found = growth_case.drawn_lengths(growth_case.SST2, np.random.default_rng(0))
    assert (found.min(), found.max()) == (3, 66)
    assert found.mean() == pytest.approx(13.1, abs=0.1)


@pytest.mark.slow
def test_a_training_set_is_read_in_little_memory(command, capsys):
    (found,) = command("examples", 20_000)
    assert found["examples"] == 20_000
    assert found["steps"] == 313
    assert found["useful_tokens_per_second"] > 0
    # 2 bytes a token, 16 an example, and what is more is the words left out.
    assert 40 * 20_000 < found["set_bytes"] < 45 * 20_000
    # A window's texts as the tokenizers library holds them, and then 400 bytes an example.
    held = found["reading_peak_bytes"] - found["before_reading_bytes"]
    assert held < 20e6 + 400 * 20_000
    assert found["peak_bytes"] >= found["reading_peak_bytes"]
    assert "20,000" in capsys.readouterr().out


@pytest.mark.slow
def test_devices_exchange_gradients_and_divide_the_moments(command):
    (found,) = command("devices", 2)
    assert found["devices"] == 2
    jit, pmap = found["jit"], found["pmap"]
    assert list(pmap["collectives"]) == ["all-reduce"]
    assert pmap["collectives"]["all-reduce"]["bytes"] == pmap["parameter_bytes"] + 8  # and two numbers
    assert jit["collectives"]["all-gather"]["bytes"] > 0.9 * jit["parameter_bytes"]  # what the other has updated
    assert pmap["optimizer_bytes"] == pytest.approx(2 * pmap["parameter_bytes"], rel=1e-3)
    assert jit["optimizer_bytes"] == pytest.approx(jit["parameter_bytes"], rel=0.01)


def test_steps_are_timed_by_length():
    found = growth_case.lengths("tiny", 32, 128, rounds=2)
    assert (found["row_counts"], found["row_length"], found["useful_share"]) == ((4,), 32, 1.0)
    assert found["useful_tokens_per_second"] == pytest.approx(128 / found["step_seconds"], rel=0.5)


def test_steps_in_parts_are_timed(monkeypatch):
    monkeypatch.setattr(growth_case, "SST2", 2000)
    found = growth_case.batches("tiny", 128, 4, rounds=1)
    assert (found["batch_size"], found["micro"]) == (128, 4)
    assert 0.7 < found["useful_share"] <= 1
    assert found["temporary_bytes"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tables", "lengths,widths"], "--tables names widths"),
        (["--sizes", "8"], "--sizes is for one table"),
        (["--tables", "lengths", "--sizes", "0"], "'0' is not a whole number"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        growth.main(options)
