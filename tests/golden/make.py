"""Make the golden files beside this script: odd random checkpoints, and torch's answers.

    python -m tests.golden.make

Needs the `parity` extra and MiniLM. The files are the reference `make test` compares with on
machines without torch; they change only when this script or the reference implementation does.
"""

import json
import shutil
from pathlib import Path

import numpy as np

from bert_jax import command
from bert_jax.checkpoint import parameter_shapes
from bert_jax.config import BertConfig
from bert_jax.files import write_json
from bert_jax.tensors import write_tensors
from convert import conversion, parity, reference
from convert.names import rows

HERE = Path(__file__).parent
MINILM = HERE / "minilm.safetensors"
ODD = HERE / "odd"

SMALL = dict(
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=40,
    max_position_embeddings=160,
    type_vocab_size=2,
)
CLASSIFIER = ["BertForSequenceClassification"]

# name -> (changes to SMALL, how the file is written)
CONFIGS: dict[str, tuple[dict, dict]] = {
    "one_head": (dict(num_attention_heads=1, architectures=CLASSIFIER, num_labels=20), {}),
    "many_heads": (dict(num_attention_heads=12), {}),
    "one_layer": (dict(num_hidden_layers=1), dict(prefix=True)),
    "nine_layers": (dict(num_hidden_layers=9, hidden_size=16, num_attention_heads=2), {}),
    "narrow_feed_forward": (dict(intermediate_size=5), {}),
    "gelu_new": (dict(hidden_act="gelu_new"), {}),
    "gelu_pytorch_tanh": (dict(hidden_act="gelu_pytorch_tanh"), {}),
    "relu": (dict(hidden_act="relu"), {}),
    "silu": (dict(hidden_act="silu", layer_norm_eps=1e-5), {}),
    "large_epsilon": (dict(layer_norm_eps=0.1), {}),
    "one_token_type": (dict(type_vocab_size=1), dict(no_pairs=True)),
    "five_token_types": (dict(type_vocab_size=5), {}),
    "no_pooler": (dict(add_pooling_layer=False), {}),
    "old_names": (dict(architectures=["BertForPreTraining"]), dict(prefix=True, gamma=True, heads=True)),
    "sharded_classifier": (
        dict(architectures=CLASSIFIER, num_labels=17, classifier_dropout=0.3),
        dict(prefix=True, shards=3, position_ids=True),
    ),
}

VOCABULARY = (
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    + [chr(c) for c in range(ord("a"), ord("z") + 1)]
    + ["##" + chr(c) for c in range(ord("a"), ord("z") + 1)]
    + list("0123456789.,!?'-")
    + ["the", "not", "good", "bad", "was", "##ing", "##ed", "film", "и", "##и", "电", "影"]
)


def write_checkpoint(directory: Path, seed: int, changes: dict, form: dict) -> None:
    """A Hugging Face directory of random weights large enough for every nonlinearity to bend."""
    data = {**SMALL, "vocab_size": len(VOCABULARY), "model_type": "bert", "architectures": ["BertModel"], **changes}
    pooler = data.pop("add_pooling_layer", True)
    if count := data.pop("num_labels", None):
        data["id2label"] = {str(i): f"L{i}" for i in range(count)}
        data["label2id"] = {f"L{i}": i for i in range(count)}
    config = BertConfig.from_dict(data).replace(add_pooling_layer=pooler)
    generator = np.random.default_rng(seed)

    def draw(shape: tuple[int, ...], scale: float) -> np.ndarray:
        return (scale * generator.standard_normal(shape)).astype(np.float32)

    tensors, shapes = {}, parameter_shapes(config)
    for row in rows(config).values():
        if row.native not in shapes:
            continue
        shape = shapes[row.native]
        if row.native.endswith("kernel"):
            value = draw(shape, 1.5 * shape[0] ** -0.5)
        elif row.native.endswith("scale"):
            value = 1 + draw(shape, 0.2)
        else:
            value = draw(shape, 0.3)
        name = row.foreign
        if form.get("gamma"):
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        if form.get("prefix") and not name.startswith("classifier"):
            name = f"bert.{name}"
        tensors[name] = row.layout.from_native(value)
    size = config.hidden_size
    if form.get("heads"):
        tensors["cls.predictions.bias"] = draw((config.vocab_size,), 0.1)
        tensors["cls.predictions.transform.dense.weight"] = draw((size, size), 0.1)
        tensors["cls.predictions.transform.dense.bias"] = draw((size,), 0.1)
        tensors["cls.predictions.transform.LayerNorm.gamma"] = 1 + draw((size,), 0.1)
        tensors["cls.predictions.transform.LayerNorm.beta"] = draw((size,), 0.1)
        tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].copy()
        tensors["cls.seq_relationship.weight"] = draw((2, size), 0.1)
        tensors["cls.seq_relationship.bias"] = draw((2,), 0.1)
    if form.get("position_ids"):
        tensors["bert.embeddings.position_ids"] = np.arange(config.max_position_embeddings)[None]

    directory.mkdir(parents=True)
    write_json(directory / "config.json", data)
    (directory / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    count = form.get("shards", 1)
    if count == 1:
        write_tensors(directory / "model.safetensors", tensors, {"format": "pt"})
        return
    weight_map = {}
    for i in range(count):
        file = f"model-{i + 1:05}-of-{count:05}.safetensors"
        part = dict(list(tensors.items())[i::count])
        write_tensors(directory / file, part, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    write_json(directory / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def main() -> None:
    """Make everything anew."""
    shutil.rmtree(ODD, ignore_errors=True)
    for seed, (name, (changes, form)) in enumerate(CONFIGS.items()):
        directory = ODD / name
        write_checkpoint(directory, seed, changes, form)
        read = conversion.read(str(directory))
        made = parity.ask_torch(read, max_length=128, sample=True, sweep=True)
        reference.save(directory / "reference.safetensors", made)
        print(name, json.dumps(changes))
    read = conversion.read(command.MINILM)
    reference.save(MINILM, parity.ask_torch(read, max_length=512, sample=True, sweep=True))


if __name__ == "__main__":
    main()
