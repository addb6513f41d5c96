"""Checkpoint directories that nobody chose: any config, any tensors, in any kind of file.

Names and shapes of tensors are transformers' own. Everything odd is noted with the words that a refusal may name it by.
"""

import json
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import BertWordPieceTokenizer

from tests.conftest import VOCABULARY
from tests.parity import tensors as made
from tests.parity import weight_files
from tests.parity.tensors import SIZES, Size

CLASSIFIER = "BertForSequenceClassification"
HEADS = {  # tensors beside the encoder's, by architecture
    "BertModel": (),
    CLASSIFIER: ("classifier.",),
    "BertForMaskedLM": ("cls.predictions.",),
    "BertForPreTraining": ("cls.",),
    "BertForNextSentencePrediction": ("cls.seq_relationship.",),
    "BertForTokenClassification": ("classifier.",),
    "BertForMultipleChoice": ("classifier.",),
    "BertForQuestionAnswering": ("qa_outputs.",),
    "BertLMHeadModel": ("cls.predictions.",),
    "BertForMine": (),
}
KNOWN = ("BertModel", "BertForMaskedLM", "BertForPreTraining", "BertForNextSentencePrediction")
WORDS = [*VOCABULARY, *"bcdefghi", "##s", "##ing", "book", "was", "!", ",", "."]
NAMES = ("good", "bad", "Neutral", "two words", "0", "LABEL_1", "1", "naïve", "x" * 300, "a\tb\n")


PLAIN: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish"),
    "layer_norm_eps": (1e-12, 1e-5, 1e-3, 0.1),
    "hidden_dropout_prob": (0.1, 0, 0.0, 0.5),
    "attention_probs_dropout_prob": (0.1, 0, 0.0, 0.5),
    "initializer_range": (0.02, 0.5),
    "pad_token_id": (0, 3, 12, None),
    "classifier_dropout": (None, 0.2, 0),
    "model_type": ("bert", "bert", "bert", ...),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "position_embedding_type": ("absolute",),
    "use_cache": (True, False),
    "tie_word_embeddings": (True, False),
    "torch_dtype": ("float32", "float16", "bfloat16", "float64", None),
    "dtype": ("float32", "float16", None),
    "chunk_size_feed_forward": (0, 1, 2),
    "output_hidden_states": (True, False),
    "output_attentions": (False,),
    "return_dict": (True, False),
    "torchscript": (True, False),
    "pruned_heads": ({},),
    "transformers_version": ("4.6.0.dev0", "5.24.0", None),
    "problem_type": (None, "multi_label_classification", "regression"),
    "gradient_checkpointing": (True, False),
    "directionality": ("bidi",),
    "pooler_fc_size": (768,),
    "architectures_note": ({"a": [1, None]},),
    "bos_token_id": (None, 2),
    "is_encoder_decoder": (False,),
    "_name_or_path": ("bert-base-uncased", ""),
    "finetuning_task": ("sst2",),
    "task_specific_params": (None, {"a": 1}),
    "quantization_config": (None,),
    "layer_types": (None,),
}
"""What changes nothing, or what both sides know; ... for a field that is left out."""

ODD: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu_python", "gelu_fast", "gelu_10", "quick_gelu", "tanh", "mish", "GELU", None, 3, ["gelu"], {}),
    "layer_norm_eps": (0, 0.0, 1, 2.0, "1e-12", None, -1e-5, True),
    **{name: ("8", 8.0, 0, -1, None, True, [8], 7, ...) for name in Size._fields},
    "is_decoder": (True, "false", 0, 1, None),
    "add_cross_attention": (True, None, 0),
    "position_embedding_type": ("relative_key", "relative_key_query", "Absolute", "", None),
    "pruned_heads": ({"0": [0]}, {"0": []}, [], None),
    "model_type": ("roberta", "distilbert", "BERT", "mine", "", None, 3),
    "pad_token_id": (-1, 60, 1000, "0", 0.0, True, [0]),
    "hidden_dropout_prob": (1.0, 1, -0.1, "0.1", None),
    "attention_probs_dropout_prob": (1.0, 1.5, "0.1", None),
    "classifier_dropout": (1.0, "0.1", False),
    "initializer_range": (0, 0.0, "0.02", None, 1),
    "problem_type": ("single_label_classification", "classification", 1, ["regression"], ""),
    "chunk_size_feed_forward": (5, 7, "2", None, -1),
    "torch_dtype": ("float99", "int8", "torch.float32", 5, "", "load"),
    "dtype": ("float99", "int8", "complex64", {}, "Tensor"),
    "output_hidden_states": (None, 1, "yes", [0]),
    "output_attentions": (True, None),
    "return_dict": (None, "no", 0),
    "use_return_dict": (True, False),
    "transformers_version": (4, "", []),
    "quantization_config": ({}, {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    "auto_map": ({"AutoModel": "mine.Model"}, {}),
    "add_pooling_layer": (True, False, None),
    "is_encoder_decoder": (True, None),
    "use_cache": (None, 1),
    "tie_word_embeddings": (None, "x"),
    "is_causal": (True, False),
    "per_layer_config": ({"0": {"layer_norm_eps": 0.9}}, {"0": {"num_attention_heads": 1}}, {}),
    "transformers_weights": ("other.safetensors", None),
    "layer_types": (["full_attention"], ["mamba"]),
    "sliding_window": (2,),
    "attention_chunk_size": (2,),
    "tie_last_hidden_states": (False, True),
    "_attn_implementation": ("eager", "sdpa", "mine"),
    "attn_implementation": ("eager", "flash_attention_2"),
    "num_heads": (7,),
    "head_dim": (3,),
    "embedding_size": (16,),
    "attribute_map": ({"hidden_act": "other"},),
    "architectures": ([], None, "BertModel", [None], [3], [CLASSIFIER, "BertModel"], ["BertModel", "BertForMaskedLM"]),
    "name_or_path": (3, None),
    "label2id": ({}, {"a": 0}, {"a": "x"}, [], 3, None),
    "num_labels": (0, 1, 4, "3", 3.0, None, -1),
    "fusion_config": ({}, None),
    "hidden_dropout": (0.5,),
    "_commit_hash": ("0" * 40,),
}
"""What one of the two may refuse, or take for something else."""

BESIDE = {"architectures": ["classifier"], "add_pooling_layer": ["pooler"], "num_labels": ["id2label", "classifier"]}
"""What else a refusal of a field may name."""


def make(directory: Path, seed: int) -> list[str]:
    """Write the checkpoint of a seed; returns what is odd of it, in words that a refusal may use."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    size = draw.choice(SIZES)
    odd: list[str] = []
    strange = draw.choices((0, 1, 2, 3), (50, 30, 15, 5))[0]
    turns = draw.choices(("config", "labels", "architecture", "tensors", "files"), (10, 4, 3, 7, 4), k=strange)
    architecture = draw.choice((CLASSIFIER, CLASSIFIER, CLASSIFIER, *KNOWN, None))
    if "architecture" in turns:
        architecture = draw.choice([name for name in HEADS if name not in KNOWN])
        odd += ["architectures"]
    count = draw.choice((1, 2, 3, 5))
    config: dict[str, Any] = size._asdict()
    for name, values in PLAIN.items():
        config |= {name: draw.choice(values)} if name == "model_type" or draw.random() < 0.3 else {}
    if architecture is not None:
        config["architectures"] = [architecture]
    config |= labels_of(draw, count, architecture)
    for turn in turns:
        if turn == "config":
            name = draw.choice(list(ODD))
            config[name] = draw.choice(ODD[name])
            odd += [name, *BESIDE.get(name, ["misfits"] if name in Size._fields else [])]
        if turn == "labels":
            strange_labels(draw, config, count)
            odd += ["id2label", "num_labels", "classifier"]
    items = [(name, value) for name, value in config.items() if value is not ...]
    draw.shuffle(items)
    (directory / "config.json").write_text(json.dumps(dict(items)))

    heads = HEADS[architecture or draw.choice(KNOWN)]
    tensors = {
        name: value
        for name, value in made.values_of(draw, size, count).items()
        if name.startswith(("embeddings.", "encoder.", "pooler.", *heads))
    }
    if architecture != CLASSIFIER and draw.random() < 0.3:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler.")}
    prefixed = (architecture or "BertModel") != "BertModel"
    tensors = made.renamed(draw, tensors, size, prefixed if draw.random() < 0.8 else not prefixed)
    for turn in turns:
        if turn == "tensors":
            tensors, words = draw.choice(made.SPOILT)(draw, tensors)
            odd += words
    weight_files.write(draw, directory, tensors, odd, strange="files" in turns)
    if "transformers_weights" in config:
        save_file({name: torch.zeros_like(tensor) for name, tensor in tensors.items()}, directory / "other.safetensors")
    tokenizer(draw, directory, size)
    return odd


def labels_of(draw: random.Random, count: int, architecture: str | None) -> dict[str, Any]:
    """Fields that say labels as both sides understand them."""
    names = draw.sample(NAMES, count)
    table = {str(i): name for i, name in enumerate(names)}
    fields: list[dict[str, Any]] = [
        {"id2label": table, "label2id": {name: i for i, name in enumerate(names)}},
        {"id2label": dict(sorted(table.items(), reverse=True)), "num_labels": count},
        {"id2label": table, "label2id": {name: 7 - i for i, name in enumerate(names)}},
        {"id2label": {str(i): f"LABEL_{i}" for i in range(count)}},
        {"num_labels": count},
    ]
    if count == 2 or architecture != CLASSIFIER:
        fields += [{}, {"id2label": None}]
    return draw.choice(fields)


def strange_labels(draw: random.Random, config: dict[str, Any], count: int) -> None:
    """Labels of another number, with gaps, repeated, or of another type."""
    names = draw.sample(NAMES, count)
    tables: list[Any] = [
        {str(i + 1): name for i, name in enumerate(names)},
        {f"{i:02}": name for i, name in enumerate(names)},
        {f" {i}": name for i, name in enumerate(names)},
        {f"{i}.0": name for i, name in enumerate(names)},
        {str(2 * i): name for i, name in enumerate(names)},
        {str(i): "same" for i in range(count)},
        {str(i): i for i in range(count)},
        {str(i): None for i in range(count)},
        {str(i): [name] for i, name in enumerate(names)},
        {name: i for i, name in enumerate(names)},
        {str(i): f"{i}" for i in range(count + 1)},
        {str(i): name or "" for i, name in enumerate(["", *names[1:]])},
        {"0": "\ud800", **{str(i): name for i, name in enumerate(names[1:], 1)}},
        {},
        names,
        "names",
    ]
    config["id2label"] = draw.choice(tables)
    if draw.random() < 0.5:
        config["num_labels"] = draw.choice((count, count + 1))


def tokenizer(draw: random.Random, directory: Path, size: Size) -> None:
    """A WordPiece one in either file."""
    words = WORDS[: size.vocab_size]
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": draw.random() < 0.7}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    if draw.random() < 0.6:
        (directory / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    else:
        made = BertWordPieceTokenizer(
            {word: i for i, word in enumerate(words)}, lowercase=bool(settings["do_lower_case"])
        )
        made.save(str(directory / "tokenizer.json"))
