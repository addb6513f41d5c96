"""Faults of the config and the tokenizer: rows 10 to 14 and 17."""

import json

import pytest

from tests.conftest import VOCABULARY


@pytest.mark.fault(10)
@pytest.mark.parametrize(
    ("content", "fragments"),
    [
        ("{", ["line 1 column 2"]),
        ('{"hidden_size": 32,\n "vocab_size": }', ["line 2 column 16"]),
        ("[]", ["expected a JSON object"]),
        ("", ["line 1 column 1"]),
        ('{"a": ' * 100_000, ["nested too deeply"]),
    ],
    ids=["cut", "value missing", "list", "empty", "deep"],
)
def test_10_bad_json(content, fragments, encoder, tmp_path, refused):
    (encoder / "config.json").write_text(content)
    refused("convert", encoder, tmp_path / "out", fragments=[encoder / "config.json", *fragments])


@pytest.mark.fault(10)
@pytest.mark.parametrize("value", ["12", None, -1, 0, 1.5, True, [2]])
@pytest.mark.parametrize("field", ["num_hidden_layers", "vocab_size"])
def test_10_wrong_type_of_a_size(field, value, edit, encoder, tmp_path, refused):
    path = edit(**{field: value})
    refused("convert", encoder, tmp_path / "out", fragments=[path, f"{field} is {value!r}", "expected a whole number"])


@pytest.mark.fault(10)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_act", "geglu"),
        ("hidden_act", 3),
        ("hidden_act", ["gelu"]),
        ("layer_norm_eps", "1e-12"),
        ("layer_norm_eps", 0),
        ("hidden_dropout_prob", 1.0),
        ("attention_probs_dropout_prob", None),
        ("classifier_dropout", "0.1"),
        ("initializer_range", True),
        ("pad_token_id", 13),
        ("problem_type", "guess"),
        ("id2label", ["a", "b"]),
        ("id2label", {"0": "a", "2": "b"}),
        ("id2label", {"0": "a", "1": None}),
        ("architectures", "BertModel"),
        ("architectures", ["BertForTokenClassification"]),
        ("position_embedding_type", "relative_key"),
        ("is_decoder", True),
    ],
)
def test_10_wrong_value_names_the_key(field, value, edit, encoder, tmp_path, refused):
    path = edit(**{field: value})
    refused("convert", encoder, tmp_path / "out", fragments=[path, f"{field} is", "expected"])


@pytest.mark.fault(11)
@pytest.mark.parametrize(("field", "gigabytes"), [("vocab_size", 274), ("hidden_size", 36_893_000_000)])
def test_11_sizes_of_2_to_the_31(field, gigabytes, edit, encoder, tmp_path, refused):
    path = edit(**{field: 2**31})
    message = refused("convert", encoder, tmp_path / "out", fragments=[path, field, "2147483648", "bytes"])
    said = int(message.split("would take ")[1].split(" bytes")[0].replace(",", ""))
    assert said == pytest.approx(gigabytes * 1e9, rel=0.01) or said > gigabytes * 1e9


@pytest.mark.fault(11)
def test_11_more_than_the_machine_has(edit, encoder, tmp_path, refused):
    path = edit(vocab_size=2**31 - 1, hidden_size=2**20, num_attention_heads=2)
    refused("convert", encoder, tmp_path / "out", fragments=[path, "more than this machine's", "bytes"])


@pytest.mark.fault(12)
def test_12_hidden_size_not_divisible_by_heads(edit, encoder, tmp_path, refused):
    path = edit(num_attention_heads=5)
    refused(
        "convert",
        encoder,
        tmp_path / "out",
        fragments=[path, "hidden_size is 32", "divisible by num_attention_heads, which is 5"],
    )


@pytest.mark.fault(13)
@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"model_type": "roberta"}, ["model_type is 'roberta'", "expected bert"]),
        ({"auto_map": {"AutoModel": "evil.Model"}}, ["auto_map", "never done"]),
    ],
)
@pytest.mark.parametrize("module", ["convert", "convert.parity"])
def test_13_another_model_or_code_of_its_own(module, changes, fragments, edit, encoder, tmp_path, refused):
    marker = tmp_path / "executed"
    (encoder / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    path = edit(**changes)
    out = [tmp_path / "out"] if module == "convert" else ["--reference", tmp_path / "none"]
    refused(module, encoder, *out, fragments=[path, *fragments])
    assert not marker.exists()


@pytest.mark.fault(14)
def test_14_tokenizer_larger_than_the_embedding(encoder, tmp_path, refused):
    (encoder / "vocab.txt").write_text("\n".join([*VOCABULARY, "one", "more"]) + "\n")
    refused("convert", encoder, tmp_path / "out", fragments=[encoder, "15 tokens", "vocab_size is 13"])


@pytest.mark.fault(14)
@pytest.mark.parametrize("token", ["[CLS]", "[SEP]", "[UNK]"])
def test_14_no_special_token(token, encoder, tmp_path, refused):
    (encoder / "vocab.txt").write_text("\n".join("x" if word == token else word for word in VOCABULARY))
    refused("convert", encoder, tmp_path / "out", fragments=[encoder / "vocab.txt", f"no {token}"])


@pytest.mark.fault(14)
@pytest.mark.parametrize("content", ["{}", "null", '{"model": {"type": "WordPiece"}}', '"\udcff"'], ids=range(4))
def test_14_not_a_tokenizer(content, encoder, tmp_path, refused):
    (encoder / "tokenizer.json").write_bytes(content.encode(errors="surrogateescape"))
    refused("convert", encoder, tmp_path / "out", fragments=[encoder / "tokenizer.json"])


@pytest.mark.fault(14)
def test_14_no_tokenizer(encoder, tmp_path, refused):
    (encoder / "vocab.txt").unlink()
    refused("convert", encoder, tmp_path / "out", fragments=[encoder, "no tokenizer.json and no vocab.txt"])


@pytest.mark.fault(14)
@pytest.mark.parametrize("value", ["yes", 1])
def test_14_tokenizer_config(value, encoder, tmp_path, refused):
    (encoder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": value}))
    refused("convert", encoder, tmp_path / "out", fragments=["tokenizer_config.json", "do_lower_case", "expected true"])


@pytest.mark.fault(17)
@pytest.mark.parametrize("length", [49, 100_000])
def test_17_max_length_over_the_positions(length, encoder, classifier, tmp_path, refused):
    data = tmp_path / "data.csv"
    data.write_text("text,label\na,0\nb,1\n")
    fragments = [f"--max-length is {length}", "3 to 48", "max_position_embeddings"]
    options = ["--data", data, "--out", tmp_path / "run", "--max-length", length]
    refused("train", "--model", encoder, *options, fragments=fragments)
    refused("bert_jax", "--model", classifier, "--max-length", length, "a text", fragments=fragments)
