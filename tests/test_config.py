"""BertConfig: what it refuses and in which words, and what survives a way through config.json."""

import dataclasses
import json

import pytest

from bert_jax.config import ARCHITECTURES, CLASSIFIER, ENCODER, BertConfig
from bert_jax.errors import UserError

# What sentence-transformers/all-MiniLM-L6-v2 says, word for word.
MINILM = {
    "_name_or_path": "nreimers/MiniLM-L6-H384-uncased",
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 384,
    "initializer_range": 0.02,
    "intermediate_size": 1536,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 6,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "transformers_version": "4.8.2",
    "type_vocab_size": 2,
    "use_cache": True,
    "vocab_size": 30522,
}


def classifier(count: int = 2, **changes) -> dict:
    """A `config.json` of a classifier of that many labels."""
    names = [f"label {i}" for i in range(count)]
    labels = {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {n: i for i, n in enumerate(names)},
    }
    return {**MINILM, "architectures": [CLASSIFIER], **labels, "problem_type": "single_label_classification", **changes}


SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)

REFUSED = [
    *(
        (name, value, f"{name} is {value!r}; expected a whole number of at least 1")
        for name in SIZES
        for value in (0, -3)
    ),
    *(
        (name, value, f"{name} is {value!r}; expected a whole number")
        for name in SIZES
        for value in (2.0, "2", True, None)
    ),
    ("vocab_size", 2**31, "vocab_size is 2147483648; expected less than 2^31 (the model would take 3,2"),
    ("hidden_size", 12 * 2**29, "hidden_size is 6442450944; expected less than 2^31 (the model would take "),
    ("intermediate_size", 2**31, "intermediate_size is 2147483648; expected less than 2^31 (the model would take "),
    ("hidden_size", 385, "hidden_size is 385; expected divisible by num_attention_heads, which is 12"),
    ("num_attention_heads", 7, "hidden_size is 384; expected divisible by num_attention_heads, which is 7"),
    *(
        (name, value, f"{name} is {value!r}; expected a number in [0, 1)")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
        for value in (1, 1.0, -0.1, "0.1", True, float("nan"))
    ),
    ("hidden_dropout_prob", None, "hidden_dropout_prob is None; expected a number in [0, 1)"),
    *(
        (name, value, f"{name} is {value!r}; expected a number in (0, 1)")
        for name in ("initializer_range", "layer_norm_eps")
        for value in (0, 1, -1e-12, "1e-12", None, float("inf"))
    ),
    *(
        (
            "hidden_act",
            value,
            f"hidden_act is {value!r}; expected one of gelu, gelu_new, gelu_pytorch_tanh, relu, silu, swish",
        )
        for value in ("mish", "GELU", None, ["gelu"])
    ),
    ("pad_token_id", 30522, "pad_token_id is 30522; expected null or a token id under vocab_size, which is 30522"),
    ("pad_token_id", -1, "pad_token_id is -1; expected null"),
    ("pad_token_id", "0", "pad_token_id is '0'; expected null"),
    ("problem_type", "ranking", "problem_type is 'ranking'; expected one of single_label_classification, multi_label_"),
    ("add_pooling_layer", "no", "add_pooling_layer is 'no'; expected true or false"),
    ("model_type", "roberta", "model_type is 'roberta'; expected bert"),
    ("model_type", None, "model_type is None; expected bert"),
    ("auto_map", {"AutoModel": "modeling.Model"}, "auto_map asks for code of the checkpoint's own"),
    ("is_decoder", True, "is_decoder is True; expected False (the only kind built here)"),
    ("add_cross_attention", True, "add_cross_attention is True; expected False"),
    *(
        ("position_embedding_type", value, f"position_embedding_type is {value!r}; expected absolute (the only kind")
        for value in ("relative_key", "relative_key_query", "rotary")
    ),
    ("pruned_heads", {"0": [1]}, "pruned_heads is {'0': [1]}; expected {}"),
    ("quantization_config", {"bits": 8}, "quantization_config is {'bits': 8}; expected None"),
    ("is_causal", True, "is_causal is True; expected False"),
    (
        "per_layer_config",
        {"0": {"layer_norm_eps": 0.1}},
        "per_layer_config is {'0': {'layer_norm_eps': 0.1}}; expected {}",
    ),
    ("attribute_map", {"eps": "layer_norm_eps"}, "attribute_map is {'eps': 'layer_norm_eps'}; expected {}"),
    ("transformers_weights", "other.safetensors", "transformers_weights is 'other.safetensors'; expected None"),
    (
        "architectures",
        ["BertForTokenClassification"],
        "architectures is ['BertForTokenClassification']; expected one of ",
    ),
    (
        "architectures",
        ["BertModel", CLASSIFIER],
        "architectures is ['BertModel', 'BertForSequenceClassification']; expected",
    ),
    ("architectures", [], "architectures is []; expected one of ['BertForSequenceClassification'], ['BertModel'], "),
    ("architectures", "BertModel", "architectures is 'BertModel'; expected one of "),
]


@pytest.mark.parametrize(("name", "value", "message"), REFUSED, ids=[f"{name}={value!r}" for name, value, _ in REFUSED])
def test_refused_with_the_field_and_what_was_expected(name, value, message):
    with pytest.raises(UserError) as caught:
        BertConfig.from_dict({**MINILM, name: value})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id2label": {"0": "a", "2": "b"}}, "id2label is {'0': 'a', '2': 'b'}; expected label names under"),
        ({"id2label": {0: "a", 1: "b"}}, "id2label is {0: 'a', 1: 'b'}; expected label names under"),
        ({"id2label": ["a", "b"]}, "id2label is ['a', 'b']; expected label names under"),
        ({"id2label": {}}, "id2label is (); expected at least one label"),
        ({"id2label": {"0": "a", "1": "a"}}, "id2label is ('a', 'a'); expected label names that differ"),
        ({"id2label": {"0": "a", "1": None}}, "id2label is ('a', None); expected label names as strings"),
        ({"id2label": None, "num_labels": -1}, "num_labels is -1; expected a whole number"),
        ({"id2label": None, "num_labels": "2"}, "num_labels is '2'; expected a whole number"),
        ({"id2label": None, "num_labels": 0}, "id2label is (); expected at least one label"),
        ({"num_labels": 3}, "num_labels is 3; expected 2, the labels in id2label"),
        (
            {"id2label": {"0": "a"}},
            "problem_type is 'single_label_classification'; expected regression or multi_label_",
        ),
        ({"add_pooling_layer": False}, "add_pooling_layer is False; expected true for a BertForSequenceClassification"),
    ],
)
def test_what_a_classifier_must_have(changes, message):
    with pytest.raises(UserError) as caught:
        BertConfig.from_dict(classifier(**changes))
    assert str(caught.value).startswith(message)


def test_a_long_value_is_shortened_in_the_message():
    with pytest.raises(UserError) as caught:
        BertConfig.from_dict({**MINILM, "hidden_act": "x" * 10_000})
    assert len(str(caught.value)) < 300
    assert "xxx..." in str(caught.value)


def test_it_validates_on_construction_and_replacement():
    with pytest.raises(UserError, match="hidden_size is 7"):
        BertConfig(hidden_size=7)
    with pytest.raises(UserError, match="architectures is 'Gpt'"):
        BertConfig(architecture="Gpt")
    with pytest.raises(UserError, match="pad_token_id is 1"):
        BertConfig(vocab_size=1).replace(pad_token_id=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        BertConfig().hidden_size = 12


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("is_decoder", False),
        ("add_cross_attention", False),
        ("position_embedding_type", None),
        ("pruned_heads", {}),
        ("pad_token_id", None),
        ("classifier_dropout", None),
        ("classifier_dropout", 0.3),
        ("hidden_dropout_prob", 0),
        ("auto_map", None),
        ("add_pooling_layer", True),
        ("hidden_act", "swish"),
    ],
)
def test_harmless_values_are_taken_and_kept(name, value):
    config = BertConfig.from_dict({**MINILM, name: value})
    assert getattr(config, name, value) == value
    assert config.to_dict() == {**MINILM, name: value}


def test_minilm_comes_back_word_for_word():
    config = BertConfig.from_dict(MINILM)
    assert (config.hidden_size, config.num_hidden_layers, config.head_size) == (384, 6, 32)
    assert (config.architecture, config.labels, config.problem_type) == (ENCODER, (), None)
    assert config.to_dict() == MINILM
    assert list(config.to_dict()) == list(MINILM)


def test_unknown_keys_survive():
    data = {**MINILM, "torch_dtype": "float32", "custom": {"deep": [1, None, {"x": "é"}]}, "tie_word_embeddings": True}
    assert BertConfig.from_dict(data).to_dict() == data
    again = BertConfig.from_dict(BertConfig.from_dict(data).replace(hidden_dropout_prob=0.2).to_dict())
    assert again.to_dict() == {**data, "hidden_dropout_prob": 0.2}


def test_reading_does_not_share_with_the_dictionary_it_read():
    data = dict(MINILM)
    config = BertConfig.from_dict(data)
    data["use_cache"] = False
    config.to_dict()["use_cache"] = False
    assert config.to_dict() == MINILM


@pytest.mark.parametrize(
    "config",
    [
        BertConfig(),
        BertConfig(pad_token_id=None, classifier_dropout=0.25, hidden_act="relu", layer_norm_eps=1e-5),
        BertConfig(add_pooling_layer=False, type_vocab_size=1),
        BertConfig(labels=("x", "y")),
        BertConfig(architecture=CLASSIFIER, labels=("only",)),
        BertConfig(architecture=CLASSIFIER, labels=tuple("abcdefghijkl"), problem_type="multi_label_classification"),
        BertConfig.from_dict(MINILM).replace(add_pooling_layer=False, initializer_range=0.5),
        BertConfig.from_dict(MINILM).replace(architecture=CLASSIFIER, labels=("x", "y", "z")),
        BertConfig.from_dict(classifier(3)).replace(labels=("p", "q", "r"), problem_type="regression"),
        BertConfig.from_dict(classifier(3)).replace(labels=("p", "q")),
        BertConfig.from_dict({**MINILM, "add_pooling_layer": False}).replace(add_pooling_layer=True),
        BertConfig.from_dict(classifier(3)).replace(architecture=ENCODER, labels=(), problem_type=None),
    ],
)
def test_what_is_written_reads_back_equal(config):
    written = json.loads(json.dumps(config.to_dict()))
    again = BertConfig.from_dict(written)
    assert again == config
    assert again.to_dict() == written
    assert written["model_type"] == "bert"


def test_source_takes_no_part_in_equality():
    assert BertConfig.from_dict(MINILM) == BertConfig.from_dict({**MINILM, "custom": 1})
    assert BertConfig.from_dict(MINILM) != BertConfig.from_dict({**MINILM, "layer_norm_eps": 1e-11})
    assert hash(BertConfig.from_dict(MINILM)) == hash(BertConfig.from_dict({**MINILM, "custom": 1}))


def test_labels_are_in_order_of_their_number_not_of_their_spelling():
    names = [f"name {i}" for i in range(11)]
    table = {str(i): names[i] for i in sorted(range(11), key=str)}
    assert list(table)[:3] == ["0", "1", "10"]
    config = BertConfig.from_dict({**classifier(), "id2label": table, "label2id": {}})
    assert config.labels == tuple(names)
    assert config.to_dict()["id2label"] == {str(i): name for i, name in enumerate(names)}
    assert config.to_dict()["label2id"] == {name: i for i, name in enumerate(names)}


@pytest.mark.parametrize(
    ("data", "labels"),
    [
        ({"architectures": [CLASSIFIER]}, ("LABEL_0", "LABEL_1")),
        ({"architectures": [CLASSIFIER], "num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"architectures": [ENCODER]}, ()),
        ({"architectures": [ENCODER], "num_labels": 3}, ()),
        ({"architectures": [ENCODER], "id2label": {"0": "x"}}, ("x",)),
    ],
)
def test_labels_that_are_not_named(data, labels):
    config = BertConfig.from_dict({**MINILM, **data})
    assert config.labels == labels
    assert BertConfig.from_dict(config.to_dict()).labels == labels


@pytest.mark.parametrize(
    ("count", "kind"), [(1, "regression"), (2, "single_label_classification"), (11, "single_label_classification")]
)
def test_problem_type_is_supposed_where_it_is_not_said_and_not_written(count, kind):
    data = classifier(count)
    del data["problem_type"]
    config = BertConfig.from_dict(data)
    assert config.problem_type == kind
    assert config.to_dict() == data
    assert BertConfig.from_dict({**data, "problem_type": None}).to_dict() == {**data, "problem_type": None}
    assert config.replace(problem_type="multi_label_classification").to_dict()["problem_type"] is not None


def test_problem_type_that_is_said_stays():
    config = BertConfig.from_dict(classifier(1, problem_type="multi_label_classification"))
    assert config.problem_type == "multi_label_classification"
    assert BertConfig.from_dict(MINILM).problem_type is None


def test_a_classifier_comes_back_word_for_word():
    assert BertConfig.from_dict(classifier(11)).to_dict() == classifier(11)


@pytest.mark.parametrize("name", ["BertForPreTraining", "BertForMaskedLM", "BertForNextSentencePrediction"])
def test_heads_of_pre_training_leave_an_encoder(name):
    config = BertConfig.from_dict({**MINILM, "architectures": [name]})
    assert config.architecture == ENCODER
    assert config.to_dict() == MINILM


@pytest.mark.parametrize("names", [None, ["BertModel"]])
def test_no_architecture_is_an_encoder_and_said_when_written(names):
    data = {key: value for key, value in MINILM.items() if key != "architectures"}
    config = BertConfig.from_dict(data if names is None else {**data, "architectures": names})
    assert config.architecture == ENCODER
    assert config.to_dict() == MINILM


def test_architectures_are_these():
    assert ARCHITECTURES == (CLASSIFIER, ENCODER) == ("BertForSequenceClassification", "BertModel")


def test_defaults_are_those_of_bert_base():
    assert BertConfig.from_dict({}) == BertConfig()
    base = BertConfig()
    assert (base.vocab_size, base.hidden_size, base.num_hidden_layers, base.num_attention_heads) == (30522, 768, 12, 12)
    assert (base.intermediate_size, base.hidden_act, base.layer_norm_eps, base.pad_token_id) == (3072, "gelu", 1e-12, 0)
    # 30522 + 512 + 2 rows of 768, and 12 layers of 4 * 768^2 + 2 * 768 * 3072, at 4 bytes.
    assert base.parameter_bytes == 435_081_216


def test_a_rate_of_0_is_a_float_and_is_handed_back_as_it_was_written():
    config = BertConfig.from_dict({**MINILM, "hidden_dropout_prob": 0})
    assert isinstance(config.hidden_dropout_prob, float)
    assert json.dumps(config.to_dict()) == json.dumps({**MINILM, "hidden_dropout_prob": 0})
