"""A run that is there already: it is finished, goes on, or is refused with the difference."""

import json
import shutil

import numpy as np
import pytest

from bert_jax import files
from bert_jax.errors import UserError
from tests.conftest import write_random
from tests.test_recipe import CONFIG
from train import fine_tune
from train.__main__ import main
from train.config import IN_MEMORY, TrainConfig
from train.report import page
from train.run import evaluation
from train.run.stepping import Stepping

ROWS = [(f"the {'very ' * (i % 7)}{('bad', 'good')[i % 2]} film", ("no", "yes")[i % 2]) for i in range(40)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return write_random(CONFIG.replace(num_hidden_layers=1), tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def options(encoder):
    return {"model": str(encoder), "batch_size": 8, "max_length": 32, "epochs": 2, "learning_rate": 1e-3}


def write(directory, **changes):
    """Train, dev and test files, of which some may be others."""
    directory.mkdir(exist_ok=True)
    for name, rows in {"train": ROWS, "dev": ROWS[:12], "test": ROWS[20:30], **changes}.items():
        (directory / f"{name}.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return directory


@pytest.fixture(scope="module")
def trained(options, tmp_path_factory):
    """A finished run, and its data."""
    folder = tmp_path_factory.mktemp("finished")
    fine_tune(write(folder / "data"), out=folder / "run", **options)
    return folder


@pytest.fixture
def finished(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "copy")
    return tmp_path / "copy"


def log(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def contents(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


OTHERS = {
    "an edited file": (lambda data: write(data, train=[*ROWS[:-1], ("another film", "yes")]), "the data (train)"),
    "labels that are others": (
        lambda data: write(data, **{name: [("a film", "NO"), ("a", "YES")] for name in ("train", "dev", "test")}),
        "the data (train) and the data (dev) and the data (test)",
    ),
    "a test file more": (lambda data: (data / "test.csv").unlink(), "the data (test)"),
    "dev and test exchanged": (
        lambda data: write(data, dev=ROWS[20:30], test=ROWS[:12]),
        "the data (dev) and the data (test)",
    ),
}


@pytest.mark.fault(71)
@pytest.mark.parametrize("name", OTHERS)
def test_a_finished_run_of_other_data_is_refused(name, options, finished):
    change, said = OTHERS[name]
    before = contents(finished / "run")
    change(finished / "data")
    with pytest.raises(UserError) as caught:
        fine_tune(finished / "data", out=finished / "run", quiet=True, **options)
    assert str(caught.value) == (
        f"{finished / 'run'}: the run there had other contents of {said}; choose another --out or --restart"
    )
    assert contents(finished / "run") == before


def parts(directory, **splits):
    """Files train-00000-of-00002.csv and so on, of each split's parts."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for name, rows in splits.items():
        for i, part in enumerate(rows):
            text = "text,label\n" + "".join(f"{text},{label}\n" for text, label in part)
            (directory / f"{name}-{i:05}-of-{len(rows):05}.csv").write_text(text)
    return directory


@pytest.mark.fault(71)
def test_parts_that_are_others_are_named(options, tmp_path):
    train, dev = [ROWS[:16], ROWS[16:24], ROWS[24:]], [ROWS[:6], ROWS[6:12]]
    call = {**options, "epochs": 1, "out": tmp_path / "run", "quiet": True}
    found = fine_tune(parts(tmp_path / "data", train=train, dev=dev), **call)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["data"] == {
        name: {str(path): files.sha256(path) for path in sorted((tmp_path / "data").glob(f"{name}-*"))}
        for name in ("train", "dev")
    }
    assert all(digest in (tmp_path / "run" / "report.html").read_text() for digest in record["data"]["dev"].values())
    assert fine_tune(parts(tmp_path / "moved", train=train, dev=dev), **call) == found
    for changes, said in (
        ({"dev": [dev[0], ROWS[21:27]]}, "the data (dev: dev-00001-of-00002.csv changed)"),
        ({"train": [*train[:2], ROWS[:9]]}, "the data (train: train-00002-of-00003.csv changed)"),
        ({"dev": [ROWS[:12]]}, "the data (dev: dev-00000-of-00001.csv added, dev-00000-of-00002.csv removed, "
         "dev-00001-of-00002.csv removed)"),
        ({"test": [ROWS[:4], ROWS[4:8]]}, "the data (test)"),
    ):  # fmt: skip
        parts(tmp_path / "data", **{"train": train, "dev": dev, **changes})
        with pytest.raises(UserError) as caught:
            fine_tune(tmp_path / "data", **call)
        assert f"had other contents of {said}; choose another" in str(caught.value)
    folder = tmp_path / "folders"
    for name, part in (("train", "a"), ("train", "b"), ("dev", "a"), ("dev", "b")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{part}.csv").write_text("text,label\n" + "".join(f"{x},{y}\n" for x, y in ROWS[:12]))
    call["out"] = tmp_path / "other"
    fine_tune(folder, **call)
    shutil.copy(folder / "dev" / "a.csv", folder / "dev" / "c.csv")
    (folder / "train" / "b.csv").unlink()
    with pytest.raises(UserError) as caught:
        fine_tune(folder, **call)
    assert "of the data (train: b.csv removed) and the data (dev: c.csv added); choose" in str(caught.value)


@pytest.mark.fault(71)
def test_a_finished_run_of_another_model_tokenizer_or_options_is_refused(options, encoder, finished, tmp_path):
    before = contents(finished / "run")
    other = write_random(CONFIG.replace(num_hidden_layers=1), tmp_path / "other")
    where = {"data": finished / "data", "out": finished / "run"}
    assert fine_tune(**where, quiet=True, **{**options, "model": other})["dev"]  # the same one elsewhere
    (other / "vocab.txt").write_text((encoder / "vocab.txt").read_text().replace("good", "fine"))
    config = json.loads((encoder / "config.json").read_text())
    for changes, said in (
        ({"model": str(other)}, "the run there had other contents of the tokenizer; choose"),
        ({"learning_rate": 2e-3}, "the run there has --learning-rate 0.001, now 0.002; choose another --out, or"),
        ({"seed": 1, "max_length": 16}, "the run there has --max-length 32, now 16; --seed 0, now 1; choose"),
        ({"epochs": 1}, "the run there is at step 10, and --epochs 1 ends at 5; give more epochs, choose"),
    ):
        with pytest.raises(UserError) as caught:
            fine_tune(**where, quiet=True, **{**options, **changes})
        assert said in str(caught.value)
    (other / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-6}))
    with pytest.raises(UserError, match="had other contents of the model and the tokenizer; choose"):
        fine_tune(**where, quiet=True, **{**options, "model": str(other)})
    assert contents(finished / "run") == before


def test_other_rows_from_python_are_refused_and_the_same_are_done(options, tmp_path, capsys):
    options = {**options, "epochs": 1, "out": tmp_path / "run"}
    found = fine_tune(ROWS, quiet=True, **options)
    assert fine_tune(list(map(list, ROWS)), **options) == found
    assert "this run is finished (dev accuracy" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"had other contents of the data \(train\) and the data \(dev\)"):
        fine_tune([*ROWS[1:], ROWS[0]], quiet=True, **options)
    # The report says how to do it again: with data in memory, from Python.
    again = page.command_of(TrainConfig(data=IN_MEMORY, **options))
    assert again.replace("'", "&#39;") in (tmp_path / "run" / "report.html").read_text()
    place = {"data": ROWS}
    exec(again.replace("fine_tune(data", "found = fine_tune(data"), place)
    assert place["found"] == found


def test_the_command_says_that_a_run_is_finished_or_refuses(options, finished, capsys):
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words += ["--data", str(finished / "data"), "--out", str(finished / "run")]
    assert main(words) == 0
    assert "this run is finished (dev accuracy" in capsys.readouterr().out
    write(finished / "data", test=ROWS)
    with pytest.raises(UserError, match=r"had other contents of the data \(test\)"):
        main(words)


def test_a_run_of_an_older_version_goes_on_or_is_refused_in_a_line(options, finished):
    path = finished / "run" / "run.json"
    record = json.loads(path.read_text())
    del record["intervals"]
    record["splits"] = {name: record["contents"][f"the data ({name})"] for name in record["data"]}
    record["data"] = {file: digest for files in record["data"].values() for file, digest in files.items()}
    path.write_text(json.dumps(record))
    assert fine_tune(finished / "data", out=finished / "run", quiet=True, **options) == record["best"]
    parts(finished / "parts", train=[ROWS[:20], ROWS[20:39]], dev=[ROWS[:12]], test=[ROWS[20:30]])
    with pytest.raises(UserError, match=r"had other contents of the data \(train\); choose another"):
        fine_tune(finished / "parts", out=finished / "run", quiet=True, **options)
    fine_tune(finished / "data", out=finished / "run", quiet=True, **{**options, "epochs": 3})
    after = json.loads(path.read_text())
    assert "splits" not in after
    assert set(after["data"]) == set(after["intervals"]) | {"train"}


def test_a_run_of_an_older_version_is_not_taken_for_this_one(options, finished):
    record = json.loads((finished / "run" / "run.json").read_text())
    del record["contents"]
    (finished / "run" / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="the run there is of an older version, and what it read is not known"):
        fine_tune(finished / "data", out=finished / "run", quiet=True, **options)


@pytest.mark.fault(72)
def test_a_finished_run_goes_on_with_more_epochs_and_their_schedule(options, finished, tmp_path, capsys):
    run = finished / "run"
    before = log(run)
    found = fine_tune(finished / "data", out=run, **{**options, "epochs": 3})
    said = capsys.readouterr().out
    assert "resumed  at step 10 of 15" in said
    assert "rate     0.000357 in the next step: the schedule is that of 3 epochs now, and was that of 2" in said
    after = log(run)
    assert after[: len(before)] == before
    assert [line["step"] for line in after if "grad_norm" in line] == list(range(1, 16))
    assert [line["epoch"] for line in after if "epoch" in line] == [1, 2, 3]
    whole = tmp_path / "whole"
    fine_tune(finished / "data", out=whole, quiet=True, **{**options, "epochs": 3})
    rates = [[line["learning_rate"] for line in log(out) if "grad_norm" in line] for out in (run, whole)]
    assert rates[0][10:] == rates[1][10:]
    assert rates[0][9] < rates[0][10]
    assert rates[0][9] < rates[1][9]
    record = json.loads((run / "run.json").read_text())
    assert (record["best"], record["ended"]) == (found, {"step": 15, "waited": record["ended"]["waited"]})
    assert fine_tune(finished / "data", out=run, quiet=True, **{**options, "epochs": 3}) == found


@pytest.mark.fault(72)
def test_without_its_checkpoints_a_finished_run_cannot_go_on(options, finished):
    shutil.rmtree(finished / "run" / "checkpoints")
    before = contents(finished / "run")
    with pytest.raises(UserError, match="is finished, and has no checkpoints from which it could go on to epoch 3"):
        fine_tune(finished / "data", out=finished / "run", quiet=True, **{**options, "epochs": 3})
    with pytest.raises(UserError, match="the run there is at step 10, and --epochs 1 ends at 5"):
        fine_tune(finished / "data", out=finished / "run", quiet=True, **{**options, "epochs": 1})
    assert contents(finished / "run") == before
    assert fine_tune(finished / "data", out=finished / "run", quiet=True, **options)["dev"]


def test_a_run_that_lost_patience_goes_on_with_more_of_it(options, tmp_path, capsys):
    data = write(tmp_path / "data")
    still = {**options, "out": tmp_path / "run", "epochs": 6, "learning_rate": 1e-30, "quiet": True}
    found = fine_tune(data, patience=1, **still)
    assert [line["epoch"] for line in log(tmp_path / "run") if "epoch" in line] == [1, 2]
    for epochs in (6, 9):
        assert fine_tune(data, patience=1, **{**still, "epochs": epochs, "quiet": False}) == found
        assert "a larger --patience lets it go on" in capsys.readouterr().out
    fine_tune(data, patience=3, **still)
    assert [line["epoch"] for line in log(tmp_path / "run") if "epoch" in line] == [1, 2, 3, 4]
    fine_tune(data, **{**still, "epochs": 5})
    assert [line["epoch"] for line in log(tmp_path / "run") if "epoch" in line] == [1, 2, 3, 4, 5]


@pytest.mark.fault(73)
@pytest.mark.parametrize(
    "changes",
    [{"accumulate": 2, "remat": True}, {"steps_per_dispatch": 3, "attention": "plain", "checkpoint_every": 2}],
    ids=["memory", "speed"],
)
def test_what_changes_no_result_may_change_on_the_way(changes, options, trained, tmp_path, monkeypatch):
    """As after "out of memory", with the options that its message proposes."""
    out, dispatch = tmp_path / "run", Stepping.dispatch

    def fails(self, step, aside):
        if step == 7:
            raise MemoryError("RESOURCE_EXHAUSTED")
        return dispatch(self, step, aside)

    with monkeypatch.context() as patched:
        patched.setattr(Stepping, "dispatch", fails)
        with pytest.raises(UserError, match="not enough memory"):
            fine_tune(trained / "data", out=out, quiet=True, checkpoint_every=5, **options)
    assert max(int(path.stem) for path in (out / "checkpoints").glob("*.json")) == 5
    fine_tune(trained / "data", out=out, quiet=True, **{**options, **changes})
    curves = [[line["loss"] for line in log(run)] for run in (out, trained / "run")]
    np.testing.assert_allclose(*curves, atol=1e-5)


@pytest.mark.parametrize(("metric", "kept"), [("loss", [10, 24, 25]), ("accuracy", [5, 24, 25])])
def test_the_best_checkpoint_is_kept_whatever_better_means(metric, kept, options, trained, tmp_path, monkeypatch):
    figures = iter([0.5, 0.3, 0.4, 0.4, 0.45, 0.3])  # five evaluations, and one more of the best
    measure = evaluation.measure

    def scripted(task, logits, targets, **how):
        found = measure(task, logits, targets, **how)
        return {**found, metric: next(figures)} if len(targets) == 12 else found

    monkeypatch.setattr(evaluation, "measure", scripted)
    out = tmp_path / "run"
    fine_tune(trained / "data", out=out, quiet=True, metric=metric, checkpoint_every=1, **{**options, "epochs": 5})
    assert sorted(int(path.stem) for path in (out / "checkpoints").glob("*.json")) == kept
