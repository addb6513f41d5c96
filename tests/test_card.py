"""The model card of a run handed on."""

import math
from pathlib import Path

import pytest

from bert_jax.command import MINILM
from bert_jax.config import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bert_jax.errors import UserError
from convert import card, scores
from convert.__main__ import main
from convert.markdown import code, table
from tests.test_export import SECRET, exported, record_of, write_run


def test_the_front_matter(tmp_path):
    front, _ = exported(write_run(tmp_path / "run"), tmp_path / "handed on")
    index = front.pop("model-index")
    assert front == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["bert", "text-classification", "bert_jax"],
        "base_model": MINILM,
        "metrics": ["loss", "accuracy", "f1", "matthews_correlation"],
    }
    [entry] = index
    assert entry["name"] == "handed on"
    assert [result["dataset"] for result in entry["results"]] == [
        {"name": "reviews", "type": "custom", "split": split} for split in ("dev", "test")
    ]
    found = {metric["name"]: metric["value"] for metric in entry["results"][1]["metrics"]}
    assert found == {"Loss": 0.25, "Accuracy": 0.625, "Macro F1": 0.8125, "Matthews correlation": 0.75}


def test_the_text(tmp_path):
    _, body = exported(write_run(tmp_path / "run"), tmp_path / "out")
    assert f"[`{MINILM}`](https://huggingface.co/{MINILM}) fine-tuned on `reviews`" in body
    for line in (
        "# `out`",
        "| 1 | `good` |",
        "| Examples | 8 | 8 |",
        "| Accuracy | 0.8750 | 0.6250 |",
        "| `good` | 0.9375 | 0.9375 |",
        "`reviews`, with 1,234 in `train`, 8 in `dev`.",
        f"| `train.tsv` | `{'1' * 64}` |",
        "| `--learning-rate` | `5e-05` |",
        "| `--seed` | `0` |",
        'classify = pipeline("text-classification", model="out")',
        "python -m convert out model",
        "- Training saw at most 128 tokens of a text at once; what was longer was cut.",
    ):
        assert line in body.splitlines(), line
    assert "27 steps on 1 x `cpu`, 9 seconds of training" in body
    assert "No licence is stated here" in body
    assert "freeze" not in body


def test_of_windows_the_limits_say_that_a_pipeline_cuts(tmp_path):
    record = record_of()
    record["config"]["long_texts"] = "windows"
    _, body = exported(write_run(tmp_path / "run", record), tmp_path / "out")
    assert "128 tokens of a text at once; longer ones were read in windows, where a pipeline cuts them.\n" in body


def test_private_paths_and_hosts_stay_out(tmp_path):
    run = write_run(tmp_path / "private" / "run")
    exported(run, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert not [word for word in ("secret", "/home", str(tmp_path), "private") if word in text]


@pytest.mark.parametrize(
    ("source", "base", "said"),
    [
        ("google-bert/bert-base-uncased", "google-bert/bert-base-uncased", "google-bert/bert-base-uncased"),
        ("bert-base-uncased", "bert-base-uncased", "bert-base-uncased"),
        (f"{SECRET}/my-bert", None, "`minilm` fine-tuned"),
    ],
)
def test_the_base_model_is_a_hub_id_or_not_said(source, base, said, tmp_path):
    record = record_of(source={"source": source, "source_revision": "c" * 40})
    front, body = exported(write_run(tmp_path / "run", record), tmp_path / "out")
    assert front.get("base_model") == base
    assert said in body
    assert (f"at `{'c' * 40}`" in body) == (base is not None)


@pytest.mark.parametrize(
    ("data", "read", "datasets"),
    [
        ("stanfordnlp/imdb", {"stanfordnlp/imdb@main/train": "1" * 64}, ["stanfordnlp/imdb"]),
        ("data/reviews", {"data/reviews/train.tsv": "1" * 64}, None),
        ("data/reviews.csv", {"data/reviews.csv": "1" * 64}, None),
        ("./reviews", {"reviews/train.tsv": "1" * 64}, None),
    ],
)
def test_datasets_are_those_of_the_hub(data, read, datasets, tmp_path):
    older, record = record_of(data=read), record_of(data={"train": read})
    for each in (older, record):
        each["config"] |= {"data": data, "data_revision": "abc"}
    front, body = exported(write_run(tmp_path / "run", record), tmp_path / "out")
    assert (front, body) == exported(write_run(tmp_path / "older", older), tmp_path / "out", "--overwrite")
    assert front.get("datasets") == datasets
    dataset = front["model-index"][0]["results"][0]["dataset"]
    assert dataset["type"] == (data if datasets else "custom")
    assert dataset["name"] == (data if datasets else Path(data).name)


@pytest.mark.parametrize(
    ("kind", "figures", "metrics", "text"),
    [
        (
            MULTI_LABEL,
            {
                "loss": 0.5,
                "macro_f1": 0.5,
                "micro_f1": 0.5,
                "map": 0.5,
                "exact_match": 0.5,
                "threshold": 0.37,
                "f1": [0.5, 0.5],
            },
            ["loss", "f1", "mean_average_precision", "exact_match"],
            "probability of each label by itself; those labels hold whose probability is at least 0.37.",
        ),
        (
            REGRESSION,
            {"loss": 0.5, "mse": 0.5, "pearson": 0.5, "spearman": 0.5},
            ["loss", "mse", "pearsonr", "spearmanr"],
            "the output is the number itself",
        ),
        (SINGLE_LABEL, {"loss": math.nan, "new_one": 0.5, "f1": [0.5, None]}, ["new_one"], "| - |"),
    ],
)
def test_every_task_has_its_metrics(kind, figures, metrics, text, tmp_path):
    run = write_run(tmp_path / "run", record_of(best={"dev": {"examples": 8, **figures}}), kind=kind)
    front, body = exported(run, tmp_path / "out")
    assert front["metrics"] == metrics
    assert text in body
    assert ("F1 of" in body) == ("f1" in figures)


ODD = [
    "a: b",
    "- x",
    "# y",
    "<script>",
    "`",
    "a|b",
    "*_~",
    "\\",
    "---",
    "\x1b[2J",
    "  ",
    "{{ x }}",
    "naïve ☃",
    "![](x)",
]


def test_odd_names_do_no_harm(tmp_path):
    record = record_of(source={"source": "/x/y"})
    record["config"] |= {"data": "/data/a: `b` | #c\n---\nx", "model": "/m/[x](javascript:y)"}
    record["data"] = {"/data/| `x` |.tsv": "1" * 64}
    record["best"] = {"dev": {"examples": 1, "loss": 0.5, "f1": [0.5] * len(ODD)}}
    run = write_run(tmp_path / "run", record, labels=ODD)
    front, body = exported(run, tmp_path / "a: {b} `c` #d\n---\n")
    assert front["model-index"][0]["name"] == r"a: {b} `c` #d\n---\n"
    assert front["model-index"][0]["results"][0]["dataset"]["name"] == r"a: `b` | #c\n---\nx"
    rows = [line for line in body.splitlines() if line.startswith("| ")]
    assert all(line.count("|") == rows[0].count("|") for line in rows[: 2 + len(ODD)])
    assert "<script>" not in body.replace("`<script>`", "")
    assert "\x1b" not in body
    assert "](javascript" not in body.replace("`[x](javascript:y)`", "")
    assert "`a: b`" in body


def test_names_as_code():
    assert code("plain-name_1 *") == "`plain-name_1 *`"
    assert code("a|b") == "<code>a&#124;b</code>"
    assert code("`") == "<code>&#96;</code>"
    assert code(" ") == "<code>&#32;</code>"
    assert code("") == "<code></code>"
    assert code("a\nb") == "<code>a&#92;nb</code>"
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


@pytest.mark.parametrize("change", [{"best": {"dev": 3}}, {"device": None}, {"config": {}}, {"data": []}])
def test_a_record_that_is_none_is_one_line(change, tmp_path):
    run = write_run(tmp_path / "run", record_of(**change))
    with pytest.raises(UserError, match="run.json: not as a run writes it .*; restore it, or convert best/ alone"):
        main([str(run), str(tmp_path / "out"), "--to", "hf"])
    assert not (tmp_path / "out").exists()


def test_a_long_list_of_files_is_cut(tmp_path):
    record = record_of(data={f"/data/{i:03d}.tsv": "1" * 64 for i in range(33)})
    _, body = exported(write_run(tmp_path / "run", record), tmp_path / "out")
    assert "`019.tsv`" in body
    assert "`020.tsv`" not in body
    assert "\nand 13 more.\n" in body


def test_what_a_run_writes_is_what_the_card_reads():
    """The names of options and figures, which live on the other side of the house."""
    from dataclasses import fields

    from train.config import TrainConfig
    from train.metrics import ALL_METRICS

    assert set(ALL_METRICS) == set(scores.METRICS)
    assert set(card.RECIPE) <= {option.name for option in fields(TrainConfig)}
