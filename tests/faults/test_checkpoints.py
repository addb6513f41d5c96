"""Faults of checkpoints and their files: rows 5 and 8."""

import json

import numpy as np
import pytest

from bert_jax.tensors import read_tensors, write_tensors


@pytest.mark.fault(5)
@pytest.mark.parametrize("layout", ["hf", "native"])
def test_05_all_misfits_in_one_error(layout, encoder, tmp_path, refused):
    source = encoder
    norm = "encoder.layer.1.output.LayerNorm.bias"
    word = "embeddings.word_embeddings.weight"
    if layout == "native":
        from convert.__main__ import main

        source, norm, word = (
            tmp_path / "native",
            "encoder.layers.1.output_norm.bias",
            "embeddings.word_embeddings.embedding",
        )
        main([str(encoder), str(source)])
    tensors, metadata, _ = read_tensors(source / "model.safetensors")
    del tensors[norm]
    tensors["surplus.weight"] = np.zeros(3, np.float32)
    tensors[word] = tensors[word][:-1]
    write_tensors(source / "model.safetensors", tensors, metadata)
    refused(
        "convert",
        source,
        tmp_path / "out",
        fragments=[
            source,
            "3 misfits",
            f"missing {norm}",
            "unexpected surplus.weight",
            f"{word} has shape [12, 32], expected [13, 32]",
        ],
    )


@pytest.mark.fault(5)
def test_05_a_classifier_without_its_classifier(edit, encoder, tmp_path, refused):
    edit(architectures=["BertForSequenceClassification"])
    refused(
        "convert",
        encoder,
        tmp_path / "out",
        fragments=[encoder, "missing classifier.weight", "missing classifier.bias"],
    )


def shard(directory):
    tensors, _, _ = read_tensors(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    weight_map = {}
    for i in range(2):
        part = dict(list(tensors.items())[i::2])
        write_tensors(directory / f"model-{i}.safetensors", part, {})
        weight_map |= dict.fromkeys(part, f"model-{i}.safetensors")
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.fault(8)
@pytest.mark.parametrize("command", ["convert", "train"])
def test_08_missing_shard(command, encoder, tmp_path, refused):
    shard(encoder)
    (encoder / "model-1.safetensors").unlink()
    data = tmp_path / "data.csv"
    data.write_text("text,label\na,0\nb,1\n")
    arguments = {
        "convert": [encoder, tmp_path / "out"],
        "train": ["--model", encoder, "--data", data, "--out", tmp_path / "run"],
    }
    fragments = ["model.safetensors.index.json", "model-1.safetensors", "download"]
    refused(command, *arguments[command], fragments=fragments)


@pytest.mark.fault(8)
def test_08_no_weights_at_all(encoder, tmp_path, refused):
    (encoder / "model.safetensors").rename(encoder / "weights.bin")
    fragments = [encoder, "no model.safetensors", "weights.bin"]
    refused("convert", encoder, tmp_path / "out", fragments=fragments)
