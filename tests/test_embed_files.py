"""The files of sentence-transformers: what is refused, and what a conversion there and back keeps."""

import json
from pathlib import Path

import numpy as np
import pytest

from bert_jax import files
from bert_jax.embedder import Embedder
from bert_jax.errors import UserError
from bert_jax.sentence_modules import read_embedder
from convert import huggingface
from convert.__main__ import main as convert
from tests import torch_files
from tests.sentence_models import NORMALIZE, SIZE, TEXTS, Spec, dense, golden, layer_norm, made, write_native

PACKAGE = "sentence_transformers.models"
TYPES = "Transformer, Pooling, Dense, LayerNorm, Normalize, Dropout"


def listed(*entries):
    return json.dumps([{"path": path, "type": kind} for path, kind in entries])


FIRST = ("", f"{PACKAGE}.Transformer"), ("1_Pooling", f"{PACKAGE}.Pooling")

# The file that is replaced (None: removed) -> its content -> the error, after the directory.
REFUSED = [
    ("modules.json", "[", "modules.json: not JSON: "),
    ("modules.json", "{}", "modules.json: expected a list of modules"),
    ("modules.json", "[]", "modules.json: lists nothing; expected Transformer, Pooling, then others"),
    ("modules.json", listed(FIRST[0]), "modules.json: lists Transformer; expected Transformer, Pooling, then others"),
    ("modules.json", listed(*FIRST[::-1]), "modules.json: lists Pooling, Transformer; expected"),
    ("modules.json", listed(*FIRST, FIRST[1]), "modules.json: lists Transformer, Pooling, Pooling; expected"),
    ("modules.json", listed(("0_Transformer", FIRST[0][1]), FIRST[1]), "modules.json: the path of the transformer is "),
    ("modules.json", listed(FIRST[0], ("", "models.Pooling")), "modules.json: type is 'models.Pooling'; supported are"),
    (
        "modules.json",
        listed(FIRST[0], ("2_Dense", "sentence_transformers.sparse_encoder.models.SpladePooling")),
        f"supported are sentence-transformers' {TYPES}",
    ),
    ("modules.json", json.dumps([{"path": "2_Dense"}]), "modules.json: type is None; supported are"),
    ("modules.json", json.dumps([{"type": FIRST[0][1]}]), "modules.json: path is None; expected the folder of a"),
    ("1_Pooling/config.json", None, "1_Pooling/config.json: no such file, but modules.json names a Pooling there"),
    ("1_Pooling/config.json", "{", "1_Pooling/config.json: bad JSON at line 1 column 2"),
    ("1_Pooling/config.json", '{"pooling_mode": "men"}', "pooling_mode is 'men'; expected one of cls, max, mean, "),
    ("1_Pooling/config.json", '{"pooling_mode": []}', "1_Pooling/config.json: pooling_mode is []; expected names of"),
    ("1_Pooling/config.json", '{"pooling_mode": ["cls", 1]}', "1_Pooling/config.json: pooling_mode is 1; expected"),
    ("1_Pooling/config.json", '{"pooling_mode_cls_token": 1}', "pooling_mode_cls_token is 1; supported is only false"),
    ("1_Pooling/config.json", '{"pooling_mode_median": true}', "pooling_mode_median is not supported, and could"),
    ("1_Pooling/config.json", '{"word_embedding_dimension": 384}', "word_embedding_dimension is 384, but the vectors"),
    ("sentence_bert_config.json", '{"max_seq_length": "256"}', "max_seq_length is '256'; expected a whole number"),
    ("sentence_bert_config.json", '{"do_lower_case": "yes"}', 'do_lower_case is "yes"; supported is only false or'),
    ("sentence_bert_config.json", '{"transformer_task": "fill-mask"}', 'transformer_task is "fill-mask"; supported'),
    ("sentence_bert_config.json", '{"query_length": 32}', "query_length is 32; supported is only null"),
    ("sentence_bert_config.json", '{"model_args": {"dtype": "float16"}}', "model_args is {"),
    ("config_sentence_transformers.json", '{"model_type": "SparseEncoder"}', 'model_type is "SparseEncoder"; supp'),
    ("config_sentence_transformers.json", '{"prompts": ["a"]}', "prompts is malformed; expected names and their texts"),
    ("config_sentence_transformers.json", '{"prompts": {"a": 1}}', "prompts is malformed; expected names and"),
    ("config_sentence_transformers.json", '{"default_prompt_name": "q"}', "default_prompt_name is 'q'; expected one"),
    ("config_sentence_transformers.json", '{"truncate_dim": 0}', "truncate_dim is 0; expected a whole number above 0"),
    ("config_sentence_transformers.json", '{"query_prefix": "q"}', "query_prefix is not supported, and could change"),
    ("2_Dense/config.json", None, "2_Dense/config.json: no such file, but modules.json names a Dense there"),
    ("2_Dense/config.json", {"out_features": 0}, "2_Dense/config.json: out_features is 0; expected a whole number"),
    ("2_Dense/config.json", {"in_features": 3}, "2_Dense/config.json: in_features is 3, but the vectors that it gets"),
    ("2_Dense/config.json", {"activation_function": "mine.Gate"}, "activation_function is 'mine.Gate'; supported are "),
    ("2_Dense/config.json", {"activation_function": "torch.nn.Softmax"}, "torch.nn's Identity, Tanh, ReLU, GELU, Sig"),
    ("2_Dense/config.json", {"activation_function": None}, "activation_function is None; supported are torch.nn's"),
    ("2_Dense/config.json", {"module_input_name": "token_embeddings"}, 'module_input_name is "token_embeddings"; supp'),
    ("2_Dense/config.json", {"scale": 2}, "2_Dense/config.json: scale is not supported, and could change"),
    ("2_Dense/config.json", {"out_features": 14}, "linear.weight has shape [13, 21], expected [14, 21]; linear.bias"),
    ("2_Dense/config.json", {"bias": False}, "misfits between tensors and config: unexpected linear.bias"),
    ("2_Dense/model.safetensors", "short", "2_Dense/model.safetensors: not a sound safetensors file (5 bytes)"),
    ("3_LayerNorm/config.json", '{"dimension": 7}', "dimension is 7, but the vectors that it gets have 13 elements"),
    ("4_Normalize/config.json", '{"module_output_name": "x"}', 'module_output_name is "x"; supported is only'),
]

WHOLE = Spec(others=[dense(SIZE, 13), layer_norm(13), NORMALIZE])


def change(directory: Path, name: str, content) -> None:
    path = directory / name
    if content is None:
        path.unlink()
    elif isinstance(content, dict):
        path.write_text(json.dumps(json.loads(path.read_text()) | content))
    else:
        path.write_text(content)


@pytest.mark.parametrize(("name", "content", "said"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_not_understood_is_refused_by_name(name, content, said, tmp_path):
    directory = write_native(WHOLE, tmp_path)
    assert read_embedder(directory)[2].size == 13
    change(directory, name, content)
    with pytest.raises(UserError) as error:
        read_embedder(directory)
    assert said in str(error.value)
    assert str(error.value).startswith(str(directory))
    assert len(str(error.value).splitlines()) == 1


HARMLESS = [
    ("4_Normalize/config.json", None),
    ("4_Normalize/config.json", '{"module_input_name": "sentence_embedding", "module_output_name": null}'),
    (
        "sentence_bert_config.json",
        '{"transformer_task": "feature-extraction", "modality_config": {"text": {"method": "forward", '
        '"method_output_name": "last_hidden_state"}}, "module_output_name": "token_embeddings", "unpad_inputs": false, '
        '"model_args": {"trust_remote_code": true}, "max_seq_length": null, "do_lower_case": null}',
    ),
    (
        "config_sentence_transformers.json",
        '{"__version__": {"pytorch": "2"}, "prompts": {"query": null}, "default_prompt_name": null, '
        '"similarity_fn_name": "dot", "model_type": "SentenceTransformer", "truncate_dim": null}',
    ),
    (
        "modules.json",
        json.dumps(
            [
                {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.{kind}", "kwargs": ["task"]}
                for i, (path, kind) in enumerate(
                    [
                        ("", "base.modules.transformer.Transformer"),
                        ("1_Pooling", "sentence_transformer.modules.pooling.Pooling"),
                        ("2_Dense", "base.modules.dense.Dense"),
                        ("3_LayerNorm", "sentence_transformer.modules.layer_norm.LayerNorm"),
                        ("4_Normalize", "base.modules.normalize.Normalize"),
                    ]
                )
            ]
        ),
    ),
]


@pytest.mark.parametrize(("name", "content"), HARMLESS, ids=range(len(HARMLESS)))
def test_what_changes_nothing_is_read(name, content, tmp_path):
    directory = write_native(WHOLE, tmp_path)
    before = read_embedder(directory)[2]
    change(directory, name, content)
    after = read_embedder(directory)[2]
    assert (after.pooling, after.size, after.max_length, after.prompts) == (("mean",), 13, 67, before.prompts)
    assert [layer.kind for layer in after.layers] == ["dense", "layer_norm", "normalize"]


@pytest.fixture
def source(tmp_path):
    """A directory of sentence-transformers; the weights of one module are safetensors, of another a pickle."""
    with files.new_directory(tmp_path / "source") as scratch:
        huggingface.write(scratch, made(Spec(others=[*WHOLE.others[:2], dense(13, 5, seed=1)]), tmp_path / "files"))
        torch_files.write(scratch / "4_Dense" / "pytorch_model.bin", dense(13, 5, seed=1)[2])
        (scratch / "4_Dense" / "model.safetensors").unlink()
    return tmp_path / "source"


def module_files(directory):
    names = [path.relative_to(directory) for path in directory.rglob("*") if path.is_file()]
    kept = [name for name in names if len(name.parts) > 1 or "modules" in name.name or "sentence" in name.name]
    return {str(name): (directory / name).read_bytes() for name in kept}


def test_a_conversion_there_and_back_keeps_every_file_of_the_modules(source, tmp_path):
    (source / "sentence_bert_config.json").write_bytes(b'{"max_seq_length":  20}')
    native, back, again = tmp_path / "native", tmp_path / "back", tmp_path / "again"
    convert([str(source), str(native)])
    convert([str(native), str(back), "--to", "hf"])
    convert([str(source), str(again), "--to", "hf"])
    assert len(module_files(source)) == 9
    assert module_files(source) == module_files(back) == module_files(again)


def test_the_weights_of_a_module_may_be_a_pickle(source, tmp_path):
    convert([str(source), str(tmp_path / "native")])
    spec = Spec(others=[*WHOLE.others[:2], dense(13, 5, seed=1)])
    found = Embedder.load(tmp_path / "native")(TEXTS)
    np.testing.assert_allclose(found, golden(tmp_path / "native", spec, TEXTS), atol=3e-6)
    (tmp_path / "native" / "4_Dense" / "model.safetensors").unlink()  # as it was converted in earlier versions
    with pytest.raises(UserError, match=r"model\.safetensors: no such file; convert the model again, from its source"):
        Embedder.load(tmp_path / "native")


def test_a_pickle_beside_safetensors_comes_back_with_them(source, tmp_path):
    torch_files.write(source / "2_Dense" / "pytorch_model.bin", WHOLE.others[0][2])
    (source / "4_Dense" / "model.safetensors").write_bytes(b"damaged")
    convert([str(source), str(tmp_path / "native")])
    convert([str(tmp_path / "native"), str(tmp_path / "back"), "--to", "hf"])
    assert module_files(source) == module_files(tmp_path / "back")


def test_a_pickle_of_anything_but_arrays_is_refused(source, tmp_path):
    (source / "4_Dense" / "pytorch_model.bin").write_bytes(b"weights")
    with pytest.raises(UserError, match=r"4_Dense/pytorch_model\.bin: not a sound file of torch's"):
        convert([str(source), str(tmp_path / "native")])
    assert not (tmp_path / "native").exists()


def test_minilm_says_how_it_embeds(minilm, tmp_path):
    convert(["sentence-transformers/all-MiniLM-L6-v2", str(tmp_path / "minilm")])
    modules = read_embedder(tmp_path / "minilm")[2]
    assert (modules.pooling, modules.size, modules.max_length) == (("mean",), 384, 256)
    assert [layer.kind for layer in modules.layers] == ["normalize"]
    assert modules.prompts == {"query": "", "document": ""}
