"""`python -m train.evaluate`, `train.fine_tune`, and every task from its data to its predictions."""

import json
import random
import subprocess
import sys

import numpy as np
import pytest

from bert_jax import checkpoint
from bert_jax.errors import UserError
from bert_jax.predict import TextClassifier
from bert_jax.scores import threshold_of
from bert_jax.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from tests.conftest import ROOT, write_random
from tests.test_recipe import CONFIG
from train import fine_tune
from train.config import TrainConfig, parse
from train.evaluate import main as evaluate
from train.evaluate import seen_before
from train.metrics import METRICS

WORDS = ["good", "bad", "film", "not", "a", "the", "very"]


def text(i):
    return " ".join(random.Random(i).choices(WORDS[:7], k=6))


def rows(task, count=120):
    for i in range(count):
        good, film = "good" in text(i), "film" in text(i)
        label = {
            SINGLE_LABEL: ["no", "yes"][good],
            MULTI_LABEL: [name for name, holds in (("good", good), ("film", film)) if holds],
            REGRESSION: 0.5 + 2 * good,
        }[task]
        yield {"text": text(i), "label": label}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return write_random(CONFIG, tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module", params=[SINGLE_LABEL, MULTI_LABEL, REGRESSION])
def trained(request, encoder, tmp_path_factory):
    """Of each task: its name, a run from a file, and that file."""
    folder = tmp_path_factory.mktemp("run")
    data = folder / "texts.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(request.param)))
    epochs = 15 if request.param == REGRESSION else 8
    options = {"model": str(encoder), "out": str(folder / "run"), "epochs": epochs, "learning_rate": 3e-3}
    options |= {"metric": "mse"} if request.param == REGRESSION else {}  # ranks of two values tie
    found = fine_tune(data, quiet=True, dev_fraction=0.25, batch_size=8, max_length=32, **options)
    return request.param, folder / "run", data, found


def test_a_run_of_each_task(trained):
    task, run, _, found = trained
    record = json.loads((run / "run.json").read_text())
    assert record["task"] == task
    assert record["best"] == found
    best = checkpoint.read(run / "best").config
    assert best.problem_type == task
    assert best.labels == {SINGLE_LABEL: ("no", "yes"), MULTI_LABEL: ("film", "good"), REGRESSION: ("score",)}[task]
    name = {SINGLE_LABEL: "accuracy", MULTI_LABEL: "macro_f1", REGRESSION: "pearson"}[task]
    assert found["dev"][name] > 0.7
    page = (run / "report.html").read_text()
    assert f"{found['dev'][name]:.4f}" in page
    assert {split: set(sure) for split, sure in record["intervals"].items()} == {
        split: set(METRICS[task]) for split in found
    }
    for split, sure in record["intervals"].items():
        for figure, (low, high) in sure.items():
            assert low <= found[split][figure] <= high
            assert f"{low:.4f} to {high:.4f}" in page
    assert f"python -m train --model {record['config']['model']}" in page


def test_predictions_of_each_task(trained):
    task, run, _, _ = trained
    prediction = TextClassifier.load(run / "best")(["good film"])[0]
    said = prediction.to_dict()
    logits = np.array(prediction.logits)
    if task == SINGLE_LABEL:
        assert list(said) == ["text", "label", "score", "scores"]
        assert said["scores"]["yes"] == pytest.approx(np.exp(logits[1]) / np.exp(logits).sum())
    elif task == MULTI_LABEL:
        assert list(said) == ["text", "labels", "scores"]
        assert list(said["scores"].values()) == pytest.approx(1 / (1 + np.exp(-logits)))
        assert said["labels"] == [name for name, score in said["scores"].items() if score >= 0.5]  # by default
    else:
        assert said == {"text": "good film", "score": pytest.approx(logits[0])}


def test_evaluating_gives_what_training_found(trained, tmp_path, capsys):
    _, run, data, found = trained
    held = tmp_path / "dev.jsonl"
    # The rows that were held out, from the record of where the report found them: all are on some line of the file.
    from train.config import TrainConfig
    from train.data.reading import read

    split = read(TrainConfig(data=str(data), dev_fraction=0.25)).splits["dev"]
    lines = data.read_text().splitlines(keepends=True)
    held.write_text("".join(lines[row.number - 1] for row in split.rows))
    evaluate(["--model", str(run), "--data", str(held), "--out", str(tmp_path / "out")])
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    for name, value in found["dev"].items():
        assert np.array(record["metrics"][name]) == pytest.approx(np.array(value), abs=1e-5), name
    for name, (low, high) in record["intervals"].items():
        assert low <= record["metrics"][name] <= high, name
    assert f"{found['dev']['loss']:.4f}" in capsys.readouterr().out
    assert "<h1>run on dev.jsonl</h1>" in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(UserError, match="out: exists; choose another directory or pass --overwrite"):
        evaluate(["--model", str(run), "--data", str(held), "--out", str(tmp_path / "out")])


@pytest.mark.fault(79)
def test_data_that_the_run_has_seen_is_said(trained, tmp_path, capsys):
    _, run, data, _ = trained
    copy = tmp_path / "renamed.jsonl"
    copy.write_bytes(data.read_bytes())
    said = "the model was trained on this very data: these figures say little of other texts"
    for number, model in enumerate((run, run / "best")):
        evaluate(["--model", str(model), "--data", str(copy), "--out", str(tmp_path / str(number))])
        assert f"warning  {said}\n" in capsys.readouterr().out
        record = json.loads((tmp_path / str(number) / "evaluation.json").read_text())
        assert record["facts"]["warning"] == said
        assert said in (tmp_path / str(number) / "report.html").read_text()
    copy.write_text(data.read_text() + json.dumps(next(rows(trained[0]))) + "\n")
    evaluate(["--model", str(run), "--data", str(copy), "--out", str(tmp_path / "other")])
    assert "warning" not in capsys.readouterr().out
    record = json.loads((run / "run.json").read_text())
    assert seen_before(record["contents"]["the data (train)"], [], record) == said
    chosen = {"contents": {"the model": "e", "the data (train)": "t", "the data (dev)": "d", "the data (test)": "e"}}
    assert seen_before("d", [], chosen).startswith("the best model was chosen")
    assert not seen_before("e", [], chosen)
    parts = {
        "data": {"train": {"train-00000-of-00002.csv": "p", "train-00001-of-00002.csv": "q"}, "dev": {"dev.csv": "r"}}
    }
    assert seen_before("q", ["q"], parts) == said
    assert seen_before("r", ["r", "s"], parts).startswith("the best model was chosen")
    assert not seen_before("s", ["s"], parts)
    # What runs of an older version say.
    assert seen_before("d", [], {"splits": {"train": "t", "dev": "d", "test": "e"}}).startswith(
        "the best model was chosen"
    )
    assert not seen_before("e", [], {"splits": {"train": "t", "dev": "d", "test": "e"}})
    assert not seen_before("e", [], {})


@pytest.mark.parametrize("threshold", [0.12, "best"])
def test_a_threshold_is_kept_with_the_model(threshold, encoder, tmp_path):
    table = list(rows(MULTI_LABEL, 60))
    options = {"model": str(encoder), "epochs": 2, "max_length": 32, "quiet": True, "out": str(tmp_path / "run")}
    found = fine_tune({"train": table, "dev": table, "test": table[:20]}, threshold=threshold, **options)
    kept = float(checkpoint.read(tmp_path / "run" / "best").metadata["threshold"])
    assert {figures["threshold"] for figures in found.values()} == {kept}
    assert kept == threshold or threshold == "best"
    predictions = TextClassifier.load(tmp_path / "run" / "best")([row["text"] for row in table])
    scores = np.array([list(one.scores.values()) for one in predictions])
    held = np.array([[name in row["label"] for name in ("film", "good")] for row in table])
    said = np.array([[name in one.labels for name in ("film", "good")] for one in predictions])
    np.testing.assert_array_equal(said, scores >= kept)
    assert found["dev"]["exact_match"] == pytest.approx((said == held).all(axis=1).mean())
    if threshold == "best":
        f1 = [
            2 * (held & (scores >= t / 100)).sum(0) / (held + (scores >= t / 100).astype(int)).sum(0)
            for t in range(1, 100)
        ]
        assert found["dev"]["macro_f1"] == pytest.approx(np.mean(f1, axis=1).max())
    on = tmp_path / "test.jsonl"
    on.write_text("".join(json.dumps(row) + "\n" for row in table[:20]))
    evaluate(["--model", str(tmp_path / "run"), "--data", str(on), "--out", str(tmp_path / "out")])
    metrics = json.loads((tmp_path / "out" / "evaluation.json").read_text())["metrics"]
    assert metrics["f1"] == pytest.approx(found["test"]["f1"])
    assert metrics["threshold"] == kept
    # A model that is trained on from there has its own.
    again = fine_tune(
        {"train": table, "dev": table}, **{**options, "model": str(tmp_path / "run"), "out": str(tmp_path / "2")}
    )
    assert again["dev"]["threshold"] == 0.5


def test_a_threshold_is_a_probability_of_several_labels(encoder, tmp_path):
    for wrong in ("0", "1", "nan", "-0.5", "worst", ""):
        with pytest.raises(UserError, match=f"--threshold is {wrong}.*; expected a number between 0 and 1, or best"):
            parse(["--threshold", wrong])
    assert parse(["--threshold", "0.25"]).threshold == 0.25
    assert parse(["--threshold", "best"]).threshold == "best"
    table = [(row["text"], row["label"]) for row in rows(SINGLE_LABEL)]
    with pytest.raises(UserError, match="--threshold is for several labels a text, and the task is single-label"):
        fine_tune(table, model=str(encoder), max_length=32, threshold=0.4, out=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="the checkpoint's threshold is 'half'; expected a number between 0 and 1"):
        threshold_of({"threshold": "half"})


def test_a_directory_gives_its_test_split(trained, tmp_path):
    _, run, data, _ = trained
    folder = tmp_path / "data"
    folder.mkdir()
    lines = data.read_text().splitlines(keepends=True)
    (folder / "test.jsonl").write_text("".join(lines[:8]))
    (folder / "dev.jsonl").write_text("".join(lines[:12]))
    evaluate(["--model", str(run / "best"), "--data", str(folder), "--out", str(tmp_path / "out")])
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["metrics"]["examples"] == 8
    evaluate(["--model", str(run / "best"), "--data", str(folder), "--split", "dev", "--out", str(tmp_path / "other")])
    assert json.loads((tmp_path / "other" / "evaluation.json").read_text())["metrics"]["examples"] == 12
    with pytest.raises(UserError, match="no train split; there are: dev, test"):
        evaluate(["--model", str(run), "--data", str(folder), "--split", "train", "--out", str(tmp_path / "third")])


def test_the_command_is_one_line_of_error(trained, encoder, tmp_path):
    command = [sys.executable, "-m", "train.evaluate", "--data", str(trained[2]), "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, "--model", str(encoder)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "has no classifier yet; fine-tune it" in done.stderr
    assert not (tmp_path / "out").exists()


def test_fine_tuning_from_tables(encoder, tmp_path):
    table = [(row["text"], row["label"]) for row in rows(SINGLE_LABEL)]
    options = {"model": str(encoder), "epochs": 1, "max_length": 32, "quiet": True, "out": str(tmp_path / "run")}
    found = fine_tune(table, **options)
    assert set(found) == {"dev"}
    assert fine_tune(table, **options) == found  # it is finished
    more = fine_tune(
        {"train": table, "dev": table[:9], "test": table[:5]}, **{**options, "out": str(tmp_path / "more")}
    )
    assert (more["dev"]["examples"], more["test"]["examples"]) == (9, 5)
    with pytest.raises(UserError, match="out is missing"):
        fine_tune(table)
    with pytest.raises(UserError, match="--task is regression but .* is a classifier of single_label_classification"):
        fine_tune(
            table, **{**options, "out": str(tmp_path / "x"), "model": str(tmp_path / "run"), "task": "regression"}
        )


def test_pairs_from_a_table_to_predictions(encoder, tmp_path):
    table = [(text(i), text(i + i % 2), i % 2) for i in range(48)]
    options = {"model": str(encoder), "epochs": 1, "max_length": 32, "quiet": True, "out": str(tmp_path / "run")}
    fine_tune({"train": table, "dev": table}, **options)
    classifier = TextClassifier.load(tmp_path / "run" / "best")
    one, other = (prediction.logits for prediction in classifier([text(0)] * 2, [text(0), text(1)]))
    assert one != pytest.approx(other, abs=1e-4)
    evaluate_on = tmp_path / "pairs.jsonl"
    evaluate_on.write_text("".join(json.dumps({"text": a, "pair": b, "label": y}) + "\n" for a, b, y in table))
    evaluate(["--model", str(tmp_path / "run"), "--data", str(evaluate_on), "--out", str(tmp_path / "out")])
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    best = json.loads((tmp_path / "run" / "run.json").read_text())["best"]["dev"]
    assert record["metrics"]["loss"] == pytest.approx(best["loss"], abs=1e-5)
    command = [sys.executable, "-m", "bert_jax", "--model", str(tmp_path / "run" / "best"), "--pairs"]
    given = subprocess.run([*command, text(0), text(1)], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = subprocess.run(
        command, cwd=ROOT, input=f"{text(0)}\t{text(1)}\n", capture_output=True, text=True, check=True
    )
    assert json.loads(given.stdout) == json.loads(lines.stdout)
    assert json.loads(given.stdout)["pair"] == text(1)
    wrong = subprocess.run(command, cwd=ROOT, input=f"{text(0)}\n", capture_output=True, text=True)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "line 1 has 0 tabs; expected one, between the texts of a pair" in wrong.stderr


@pytest.mark.parametrize("long_texts", ["windows", "tail"])
def test_long_texts_are_evaluated_as_they_are_read(long_texts, encoder, tmp_path):
    table = [(f"{text(i)} {text(i + 1)} {text(i + 2)}", ["no", "yes"]["good" in text(i)]) for i in range(40)]
    options = {"model": str(encoder), "epochs": 1, "max_length": 10, "quiet": True, "out": str(tmp_path / "run")}
    found = fine_tune({"train": table, "dev": table}, long_texts=long_texts, **options)
    assert found["dev"]["examples"] == 40
    predictions = TextClassifier.load(tmp_path / "run" / "best")([text for text, _ in table])
    right = [prediction.label == label for prediction, (_, label) in zip(predictions, table, strict=True)]
    assert np.mean(right) == pytest.approx(found["dev"]["accuracy"])
    assert any(prediction.truncated for prediction in predictions) == (long_texts == "tail")


def test_data_without_a_label_are_refused(tmp_path):
    from train.data.reading import read

    path = tmp_path / "test.csv"
    path.write_text("text,label\na film,-1\na play,-1\n")
    with pytest.raises(UserError, match=r"test.csv: no row has a label; left out test of .*: it has no labels \(-1\)"):
        read(TrainConfig(data=str(path)), alone=True)
