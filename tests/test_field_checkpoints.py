"""Checkpoints as people have them: other heads, tensors too many, wrapped models, directories of other things."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from bert_jax import checkpoint
from bert_jax.config import CLASSIFIER
from bert_jax.errors import UserError
from bert_jax.files import read_json, write_json
from bert_jax.tensors import read_tensors, write_tensors
from convert.__main__ import main
from tests.conftest import ROOT

GOLDEN = ROOT / "tests" / "golden" / "odd"
ENCODER, CLASSIFIED = "many_heads", "one_head"  # golden checkpoints: an encoder with a pooler, and a classifier


@pytest.fixture
def made(tmp_path):
    """A function that makes a Hugging Face directory of a golden one, with other names, tensors or settings."""

    def make(name: str, rename=str, more: dict[str, tuple[int, ...]] | None = None, **settings) -> Path:
        directory = tmp_path / "source"
        shutil.copytree(GOLDEN / name, directory, ignore=shutil.ignore_patterns("reference.safetensors"))
        tensors = read_tensors(directory / "model.safetensors").tensors
        tensors = {rename(name): array for name, array in tensors.items() if rename(name)}
        for name, shape in (more or {}).items():
            tensors[name] = np.full(shape, 0.5, np.float32)
        write_tensors(directory / "model.safetensors", tensors, {"format": "pt"})
        config = {**read_json(directory / "config.json"), **settings}
        write_json(directory / "config.json", {name: value for name, value in config.items() if value is not ...})
        return directory

    return make


def convert(source: Path, *options: str) -> checkpoint.Checkpoint:
    out = source.parent / "out"
    main([str(source), str(out), *options])
    return checkpoint.read(out)


def same_tensors(found: checkpoint.Checkpoint, name: str, tmp_path: Path) -> bool:
    """Whether the encoder is the golden checkpoint's."""
    main([str(GOLDEN / name), str(tmp_path / "expected")])
    expected = checkpoint.read(tmp_path / "expected").tensors
    encoder = {name for name in expected if not name.startswith("classifier.")}
    return encoder == found.tensors.keys() and all(np.array_equal(found.tensors[n], expected[n]) for n in encoder)


# --- a classifier whose config does not say so -------------------------------------------------


@pytest.mark.fault(86)
@pytest.mark.parametrize("names", [..., None, []])
def test_a_classifier_without_architectures_is_a_classifier(names, made, tmp_path):
    found = convert(made(CLASSIFIED, architectures=names))
    assert found.config.architecture == CLASSIFIER
    main([str(GOLDEN / CLASSIFIED), str(tmp_path / "expected")])
    expected = checkpoint.read(tmp_path / "expected")
    assert found.config == expected.config
    assert found.tensors.keys() == expected.tensors.keys()


def test_without_a_pooler_it_is_another_head(made):
    """Token classifiers have the same names, and no pooler."""
    source = made(CLASSIFIED, lambda name: "" if "pooler" in name else name, architectures=...)
    with pytest.raises(
        UserError, match=r"unexpected classifier\.weight; if the model does without, add --encoder-only"
    ):
        convert(source)
    assert convert(source, "--encoder-only").config.add_pooling_layer is False


def test_labels_other_than_those_of_the_config_are_refused(made):
    source = made(CLASSIFIED, architectures=..., id2label=..., label2id=...)  # which means two
    with pytest.raises(UserError, match=r"classifier\.weight has shape \[20, \d+\], expected \[2, "):
        convert(source)


# --- more tensors than the model's -------------------------------------------------------------

MORE = {"fit_dense.weight": (5, 3), "fit_dense.bias": (5,)}


@pytest.mark.fault(84)
def test_tensors_too_many_are_refused_with_the_way_on(made):
    source = made(ENCODER, more=MORE)
    with pytest.raises(UserError, match=r"unexpected fit_dense\.bias.* if the model does without, add --ignore NAME"):
        convert(source)


@pytest.mark.parametrize("patterns", [["fit_dense.weight", "fit_dense.bias"], ["fit_dense.*"]])
def test_ignored_tensors_are_named_and_recorded(patterns, made, tmp_path, capsys):
    found = convert(made(ENCODER, more=MORE), *(part for pattern in patterns for part in ("--ignore", pattern)))
    printed = capsys.readouterr().out
    assert same_tensors(found, ENCODER, tmp_path)
    assert "ignored  fit_dense.bias, fit_dense.weight\n" in printed
    assert read_json(tmp_path / "out" / "conversion.json")["ignored"] == ["fit_dense.bias", "fit_dense.weight"]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("fit", "--ignore fit: no tensor has that name"),
        ("*.weight", r"--ignore \*\.weight: the model needs "),
        ("embeddings.LayerNorm.bias", r"the model needs embeddings\.LayerNorm\.bias"),
    ],
)
def test_what_cannot_be_ignored(pattern, said, made):
    with pytest.raises(UserError, match=said):
        convert(made(ENCODER, more=MORE), "--ignore", pattern, "--ignore", "fit_dense.*")


def test_a_missing_tensor_has_no_way_on(made):
    source = made(ENCODER, lambda name: "" if name.endswith("LayerNorm.bias") else name, more=MORE)
    with pytest.raises(UserError) as caught:
        convert(source)
    assert "missing embeddings.LayerNorm.bias" in str(caught.value)
    assert "--ignore" not in str(caught.value)


def test_a_native_checkpoint_has_nothing_to_ignore(made, tmp_path):
    convert(made(ENCODER))
    with pytest.raises(UserError, match="a native checkpoint has nothing to --ignore"):
        main([str(tmp_path / "out"), str(tmp_path / "again"), "--ignore", "y"])


# --- the encoder alone -------------------------------------------------------------------------

HEADS = {
    "BertForTokenClassification": {"classifier.weight": (9, 24), "classifier.bias": (9,)},
    "BertForQuestionAnswering": {"qa_outputs.weight": (2, 24), "qa_outputs.bias": (2,)},
    "BertForMultipleChoice": {"classifier.weight": (1, 24), "classifier.bias": (1,)},
    "BertLMHeadModel": {"cls.predictions.bias": (85,), "cls.other": (1,)},
    "BertCrfForNer": {"crf.transitions": (9, 9), "classifier.weight": (9, 24), "span_head.0.dense.bias": (4,)},
}


@pytest.mark.parametrize("architecture", HEADS)
def test_the_encoder_of_other_heads(architecture, made, tmp_path, capsys):
    more = HEADS[architecture]
    labels = {"id2label": {str(i): f"B-{i}" for i in range(9)}, "label2id": {f"B-{i}": i for i in range(9)}}
    source = made(ENCODER, lambda name: f"bert.{name}", more=more, architectures=[architecture], **labels)
    with pytest.raises(UserError, match=r"architectures is .*python -m convert --encoder-only takes the encoder"):
        convert(source)
    found = convert(source, "--encoder-only")
    assert same_tensors(found, ENCODER, tmp_path)
    assert (found.config.architecture, found.config.labels) == ("BertModel", ())
    assert f"ignored  {', '.join(sorted(more))}\n" in capsys.readouterr().out
    main([str(tmp_path / "out"), str(tmp_path / "back"), "--to", "hf"])
    config = read_json(tmp_path / "back" / "config.json")
    assert config["architectures"] == ["BertModel"]
    assert not config.keys() & {"id2label", "label2id", "num_labels", "problem_type"}


def test_a_decoder_is_refused_even_so(made):
    """Its attention looks one way, so its encoder's numbers would be others."""
    source = made(ENCODER, architectures=["BertLMHeadModel"], is_decoder=True)
    with pytest.raises(UserError, match="is_decoder is True"):
        convert(source, "--encoder-only")


def test_a_tensor_named_twice_is_no_head(made):
    source = made(ENCODER, lambda name: f"bert.{name}", more={"pooler.dense.bias": (24,)})
    with pytest.raises(UserError, match=r"pooler\.dense\.bias and .*pooler\.dense\.bias are the same tensor"):
        convert(source, "--encoder-only")


def test_the_encoder_of_a_classifier_hugging_faces_or_ours(made, tmp_path, capsys):
    source = made(CLASSIFIED)
    found = convert(source, "--encoder-only")
    assert same_tensors(found, CLASSIFIED, tmp_path)
    main([str(source), str(tmp_path / "classifier")])
    capsys.readouterr()
    main([str(tmp_path / "classifier"), str(tmp_path / "encoder"), "--encoder-only"])
    assert "ignored  classifier.bias, classifier.kernel\n" in capsys.readouterr().out
    again = checkpoint.read(tmp_path / "encoder")
    assert again.config == found.config
    assert again.tensors.keys() == found.tensors.keys()


def test_labels_are_no_encoders(made):
    with pytest.raises(UserError, match="--labels names a classifier's labels, which --encoder-only leaves out"):
        convert(made(ENCODER), "--encoder-only", "--labels", "a,b")


# --- wrapped models ----------------------------------------------------------------------------


@pytest.mark.fault(85)
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.bert.", "model.bert.", "0.auto_model."])
def test_a_wrapper_is_named_as_the_cause(prefix, made):
    source = made(ENCODER, lambda name: f"{prefix}{name}")
    with pytest.raises(UserError) as caught:
        convert(source)
    assert f"the names of the tensors begin with '{prefix.removesuffix('bert.')}" in str(caught.value)
    assert "missing" not in str(caught.value)


# --- directories of other things ---------------------------------------------------------------

CACHED = "models--a--b/snapshots/1234"
PLACES = {
    "adapter_model.safetensors adapter_config.json": "an adapter without its model (adapter_config.json); merge it",
    "bert_model.ckpt.index bert_model.ckpt.data-00000-of-00001 bert_config.json": (
        "a TensorFlow 1 checkpoint (bert_model.ckpt.index); save"
    ),
    "model.ckpt-500.meta model.ckpt-500.index": "a TensorFlow 1 checkpoint (model.ckpt-500.index)",
    "tf_model.h5 vocab.txt": "weights of TensorFlow 2 (tf_model.h5)",
    "flax_model.msgpack": "weights of Flax (flax_model.msgpack)",
    "checkpoint-500/config.json checkpoint-1000/config.json training_args.bin": (
        "a Trainer's output (checkpoint-1000); give one of its checkpoints: {}/checkpoint-1000"
    ),
    "modules.json 0_Transformer/config.json 1_Pooling/config.json": (
        "a directory of sentence-transformers (0_Transformer); give its model: {}/0_Transformer"
    ),
    f"{CACHED}/config.json": f"the hub's cache ({CACHED}); give the hub id, or {{}}/{CACHED}",
    f"hub/{CACHED}/config.json": f"the hub's cache (hub/{CACHED})",
    "refs/main snapshots/1234/config.json": "a repository in the hub's cache (snapshots/1234); give {}/snapshots/1234",
    "onnx/model.onnx": "an ONNX graph (onnx/model.onnx)",
    "best/config.json": "a checkpoint in a directory below (best); give {}/best",
    "a b c d e f g": "it holds a, b, c, d, e and 2 more",
    "": "it is empty",
}


@pytest.mark.fault(83)
@pytest.mark.parametrize("files", PLACES)
def test_what_lies_in_a_directory_is_named(files, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    for name in files.split():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("{}")
    with pytest.raises(UserError) as caught:
        main([str(place), str(tmp_path / "out")])
    said = str(caught.value)
    assert said.startswith(f"{place}: no config.json; it ")
    assert PLACES[files].format(place) in said
    with pytest.raises(UserError) as caught:
        checkpoint.read(place)
    assert str(caught.value) == said


def test_weights_of_another_kind_beside_the_config_are_named(made):
    source = made(ENCODER)
    (source / "model.safetensors").unlink()
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"whole or in shards; it holds 1_Pooling, config\.json, "):
        convert(source)
    (source / "tf_model.h5").write_bytes(b"")
    with pytest.raises(UserError, match=r"whole or in shards; it holds weights of TensorFlow 2 \(tf_model\.h5\); save"):
        convert(source)


def test_a_file_is_not_a_directory(made):
    source = made(ENCODER)
    with pytest.raises(UserError, match=r"model\.safetensors: a file; give the directory that it lies in"):
        main([str(source / "model.safetensors"), str(source.parent / "out")])


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 440473133\n"


@pytest.mark.fault(82)
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.txt", "pytorch_model.bin"])
def test_a_pointer_of_git_lfs_is_named(name, made):
    source = made(ENCODER)
    if name == "pytorch_model.bin":
        (source / "model.safetensors").unlink()
    (source / name).write_text(POINTER)
    with pytest.raises(UserError, match=f"{name}: a pointer of git-lfs, not the file itself; run `git lfs pull`"):
        convert(source)


def test_so_it_is_in_data(tmp_path):
    from tests.conftest import read_splits

    for name in ("a.csv", "b.jsonl", "c.parquet", "d.tsv"):
        (tmp_path / name).write_text(POINTER)
        with pytest.raises(UserError, match=f"{name}: a pointer of git-lfs"):
            read_splits(tmp_path / name)
