"""Native checkpoints: names and shapes, writing and reading back, strictness, new classifiers."""

import dataclasses
import json
import shutil

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from bert_jax import checkpoint, files
from bert_jax.checkpoint import Checkpoint, parameter_shapes, read, read_classifier, with_classifier, write
from bert_jax.config import CLASSIFIER, ENCODER, BertConfig
from bert_jax.errors import UserError
from bert_jax.files import read_json, write_json
from bert_jax.heads import SequenceClassifier
from bert_jax.model import Model
from bert_jax.parameters import build, name_of, named_arrays
from bert_jax.tensors import read_tensors, write_tensors
from tests.conftest import PRIMES, ROOT, VOCABULARY, random_checkpoint
from tests.test_files import identical

BARE = PRIMES.replace(architecture=ENCODER, labels=(), problem_type=None, add_pooling_layer=False)
ENCODER_ONLY = BARE.replace(add_pooling_layer=True)
CONFIGS = {"classifier": PRIMES, "encoder": ENCODER_ONLY, "encoder without pooler": BARE}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_parameter_shapes_are_those_of_the_modules(config):
    kind = SequenceClassifier if config.architecture == CLASSIFIER else Model
    abstract = nnx.eval_shape(lambda: kind(config, rngs=nnx.Rngs(0)))
    modules = {name_of(path): variable.shape for path, variable in nnx.to_flat_state(nnx.state(abstract))}
    assert modules == parameter_shapes(config)


def test_parameter_shapes_differ_in_pooler_and_classifier_only():
    bare, encoder, classifier = (set(parameter_shapes(config)) for config in (BARE, ENCODER_ONLY, PRIMES))
    assert encoder - bare == {"pooler.kernel", "pooler.bias"}
    assert classifier - encoder == {"classifier.kernel", "classifier.bias"}
    assert bare < encoder < classifier
    assert parameter_shapes(PRIMES)["classifier.kernel"] == (21, 5)
    assert parameter_shapes(PRIMES)["encoder.layers.1.output.kernel"] == (37, 21)
    assert len(bare) == 5 + 16 * PRIMES.num_hidden_layers


def save(made: Checkpoint, directory):
    with files.new_directory(directory) as scratch:
        write(scratch, made)
    return directory


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_what_is_written_reads_and_loads_back(config, tmp_path):
    made = random_checkpoint(config, tmp_path / "files")
    directory = save(made, tmp_path / "model")
    again = read(directory)
    assert again.config == config
    assert again.metadata == {"source": "random"}
    assert again.files == {"vocab.txt": (directory / "vocab.txt").read_bytes()}
    assert (directory / "vocab.txt").read_text() == "\n".join(VOCABULARY) + "\n"
    assert list(made.tensors) == list(parameter_shapes(config))
    assert again.tensors.keys() == made.tensors.keys()
    assert all(identical(again.tensors[name], array) for name, array in made.tensors.items())

    model = checkpoint.load(directory)
    assert isinstance(model, SequenceClassifier if config.architecture == CLASSIFIER else Model)
    loaded = named_arrays(nnx.state(model, nnx.Param))
    assert loaded.keys() == made.tensors.keys()
    assert all(identical(np.asarray(loaded[name]), array) for name, array in made.tensors.items())


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_stored_dtypes_stay_and_become_float32_when_loaded(dtype, primes, tmp_path):
    tensors = {name: array.astype(dtype) for name, array in primes.tensors.items()}
    directory = save(dataclasses.replace(primes, tensors=tensors), tmp_path / "model")
    again = read(directory)
    assert all(identical(again.tensors[name], array) for name, array in tensors.items())
    loaded = named_arrays(nnx.state(checkpoint.load(directory, "bfloat16"), nnx.Param))
    for name, array in tensors.items():
        assert loaded[name].dtype == jnp.float32
        np.testing.assert_array_equal(loaded[name], array.astype(np.float32))


def test_every_tokenizer_file_is_kept_and_nothing_else(tmp_path):
    start = tmp_path / "start"
    made = random_checkpoint(BARE, start)
    kept = ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "modules.json"]
    kept += [
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "1_Pooling/config.json",
        "2_Normalize/config.json",
    ]
    for name in [*kept, "README.md", "code.py", "pytorch_model.bin", "openvino/config.json", "1_Pooling/extra.txt"]:
        (start / name).parent.mkdir(exist_ok=True)
        (start / name).write_text("[]" if name == "modules.json" else name)
    found = checkpoint.read_files(start)
    assert sorted(found) == sorted([*kept, "vocab.txt"])
    directory = save(dataclasses.replace(made, files=found), tmp_path / "model")
    written = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    assert written == {*found, "config.json", "model.safetensors"}
    assert all((directory / name).read_bytes() == content for name, content in found.items())


@pytest.fixture
def parts(primes_directory, tmp_path):
    """A checkpoint on disk taken apart: a function that writes it changed, its tensors, its metadata."""
    directory = tmp_path / "model"
    shutil.copytree(primes_directory, directory)
    tensors, metadata, _ = read_tensors(directory / "model.safetensors")

    def write_changed(**changes):
        new = {name: array for name, array in {**tensors, **changes.get("tensors", {})}.items() if array is not None}
        write_tensors(directory / "model.safetensors", new, {**metadata, **changes.get("metadata", {})})
        return directory

    return write_changed, tensors


def test_one_error_lists_every_misfit(parts):
    write_changed, tensors = parts
    nan, infinite = (tensors["pooler.kernel"].copy() for _ in range(2))
    nan[3, 4], infinite[0, 0] = np.nan, -np.inf
    directory = write_changed(
        tensors={
            "pooler.bias": None,
            "encoder.layers.1.output.kernel": None,
            "encoder.layers.2.output.bias": np.zeros(21, np.float32),
            "pooler.kernel": nan,
            "encoder.layers.0.attention.query.kernel": infinite,
            "encoder.layers.0.intermediate.kernel": np.zeros((37, 21), np.float32),
            "embeddings.layer_norm.scale": np.ones((1, 21), np.float32),
            "classifier.bias": np.zeros(5, np.int32),
        }
    )
    with pytest.raises(UserError) as caught:
        read(directory)
    message = str(caught.value)
    where, _, listed = message.partition(": 8 misfits between tensors and config: ")
    assert where == str(directory / "model.safetensors")
    assert sorted(listed.split("; ")) == [
        "classifier.bias has dtype int32, expected floating point",
        "embeddings.layer_norm.scale has shape [1, 21], expected [21]",
        "encoder.layers.0.attention.query.kernel has NaN or infinite values",
        "encoder.layers.0.intermediate.kernel has shape [37, 21], expected [21, 37]",
        "missing encoder.layers.1.output.kernel",
        "missing pooler.bias",
        "pooler.kernel has NaN or infinite values",
        "unexpected encoder.layers.2.output.bias",
    ]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_nan_is_found_in_half_precision(dtype, parts):
    write_changed, tensors = parts
    bias = tensors["pooler.bias"].astype(dtype)
    write_changed(tensors={"pooler.bias": bias})
    bias[-1] = np.nan
    with pytest.raises(UserError, match="1 misfits .*: pooler.bias has NaN"):
        read(write_changed(tensors={"pooler.bias": bias}))


def test_a_number_that_float32_cannot_hold_is_found(parts):
    """Parameters become float32 whatever they are stored in."""
    write_changed, tensors = parts
    bias = tensors["pooler.bias"].astype(np.float64)
    bias[-1] = np.finfo(np.float32).min
    read(write_changed(tensors={"pooler.bias": bias}))
    bias[-1] = -1e39
    with pytest.raises(UserError, match="1 misfits .*: pooler.bias has values too large for float32"):
        read(write_changed(tensors={"pooler.bias": bias}))


def test_config_and_tensors_must_agree(parts):
    write_changed, _ = parts
    directory = write_changed()
    config = read_json(directory / "config.json")
    write_json(directory / "config.json", {**config, "num_hidden_layers": 1})
    with pytest.raises(UserError, match="16 misfits .*unexpected encoder.layers.1.attention.query.kernel"):
        read(directory)
    write_json(directory / "config.json", {**config, "vocab_size": 102})
    with pytest.raises(
        UserError, match=r"1 misfits .*word_embeddings.embedding has shape \[101, 21\], expected \[102, 21\]"
    ):
        read(directory)
    write_json(directory / "config.json", {**config, "hidden_act": "mish"})
    with pytest.raises(UserError, match=r"config\.json: hidden_act is 'mish'"):
        read(directory)
    write_json(directory / "config.json", {**config, "num_hidden_layers": 1000, "hidden_size": 3 * 2**20})
    with pytest.raises(
        UserError, match=r"config\.json: vocab_size, hidden_size and num_hidden_layers ask for [\d,]+ bytes"
    ):
        read(directory)


@pytest.mark.parametrize(
    ("version", "message"), [("2", "format version 2; this program reads 1"), ("", "format version ;")]
)
def test_another_format_version_is_refused(version, message, parts):
    write_changed, _ = parts
    with pytest.raises(UserError, match=rf"model\.safetensors: {message}"):
        read(write_changed(metadata={"format_version": version}))


def test_the_header_says_format_and_version(primes_directory):
    metadata = read_tensors(primes_directory / "model.safetensors")[1]
    assert metadata == {"format": "bert_jax", "format_version": "1", "source": "random"}


@pytest.mark.parametrize("entry", [read, checkpoint.load, read_classifier])
def test_a_hugging_face_directory_is_sent_to_the_converter(entry):
    directory = ROOT / "tests" / "golden" / "odd" / "one_head"
    with pytest.raises(
        UserError, match=f"not a native checkpoint; convert it first: python -m convert {directory} OUT"
    ):
        entry(directory)


def test_what_is_not_there_is_said(tmp_path, primes_directory):
    with pytest.raises(
        UserError, match=r"nothing: no such directory; expected a checkpoint made by `python -m convert`"
    ):
        read(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"no config\.json; it is empty"):
        read(tmp_path)
    shutil.copy(primes_directory / "config.json", tmp_path)
    with pytest.raises(UserError, match=r"model\.safetensors: no such file"):
        read(tmp_path)


def test_build_wants_every_parameter(primes):
    tensors = {name: array for name, array in primes.tensors.items() if name != "pooler.bias"}
    with pytest.raises(KeyError, match=r"pooler\.bias"):
        build(primes.config, tensors)


LABELS = ("x", "y", "z")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ENCODER_ONLY, ["classifier.kernel", "classifier.bias"]),
        (BARE, ["pooler.kernel", "pooler.bias", "classifier.kernel", "classifier.bias"]),
    ],
)
def test_a_new_classifier_is_reproducible_by_seed(config, expected, tmp_path):
    start = random_checkpoint(config, tmp_path)
    (one, new), (same, _), (other, _) = (with_classifier(start, LABELS, seed) for seed in (1, 1, 2))
    assert new == expected
    assert one.config.architecture == CLASSIFIER
    assert one.config.labels == LABELS
    assert one.config.add_pooling_layer
    assert one.config.problem_type == "single_label_classification"
    assert {name: array.shape for name, array in one.tensors.items()} == parameter_shapes(one.config)
    for name, array in one.tensors.items():
        assert identical(array, same.tensors[name])
        if name not in new:
            assert array is start.tensors[name]
        elif name.endswith("bias"):
            assert not array.any()
        else:
            assert array.dtype == np.float32
            assert not np.array_equal(array, other.tensors[name])
            assert array.std() == pytest.approx(config.initializer_range, rel=0.4)
    assert start.tensors.keys() == parameter_shapes(config).keys()


def test_a_classifier_stays_as_it_is(primes):
    made, new = with_classifier(primes, primes.config.labels, seed=0)
    assert new == []
    assert made.config == primes.config
    assert all(made.tensors[name] is array for name, array in primes.tensors.items())


def test_a_classifier_keeps_the_tokenizer_but_not_the_sentence_embedding(tmp_path):
    start = random_checkpoint(ENCODER_ONLY, tmp_path)
    (tmp_path / "modules.json").write_text("[]")
    start = dataclasses.replace(
        start,
        files=checkpoint.read_files(tmp_path),
        metadata={"source": "s", "source_sha256": "h", "position_ids": "int64"},
    )
    made, _ = with_classifier(start, LABELS, seed=0)
    assert list(made.files) == ["vocab.txt"]
    assert made.metadata == {"source": "s", "source_sha256": "h"}


def test_a_new_classifier_survives_its_directory(tmp_path):
    made, _ = with_classifier(random_checkpoint(BARE, tmp_path / "files"), LABELS, seed=3)
    directory = save(made, tmp_path / "model")
    again, tokenizer = read_classifier(directory)
    assert again.config == made.config
    assert all(identical(again.tensors[name], array) for name, array in made.tensors.items())
    assert tokenizer.size == len(VOCABULARY)
    written = json.loads((directory / "config.json").read_text())
    assert written["id2label"] == {"0": "x", "1": "y", "2": "z"}


def test_what_cannot_predict_is_refused(tmp_path):
    encoder = save(random_checkpoint(ENCODER_ONLY, tmp_path / "files"), tmp_path / "encoder")
    with pytest.raises(UserError, match=f"has no classifier yet; fine-tune it: python -m train --model {encoder}"):
        read_classifier(encoder)
    small = BertConfig.from_dict({**PRIMES.to_dict(), "vocab_size": 7})
    small = save(random_checkpoint(small, tmp_path / "files"), tmp_path / "small")
    with pytest.raises(UserError, match="the tokenizer has 13 tokens but vocab_size is 7"):
        read_classifier(small)
