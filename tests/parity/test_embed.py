"""sentence-transformers, live: its embeddings and ours, for small random models of every kind and for MiniLM."""

import functools
import json

import numpy as np
import pytest
import tokenizers
from tokenizers.models import WordPiece

from bert_jax import files
from bert_jax.command import MINILM
from bert_jax.embedder import Embedder
from bert_jax.sentence_files import POOLING_FLAGS, POOLINGS
from bert_jax.sentence_layers import ACTIVATIONS
from convert import huggingface
from convert.__main__ import main as convert
from tests.conftest import VOCABULARY
from tests.sentence_models import AN_ORDER, EACH_LAYER, PROMPTS, SIZE, TEXTS, TRUNCATED, Spec, dense, made
from tests.test_embed_files import module_files

pytestmark = pytest.mark.parity
pytest.importorskip("torch")
sentence_transformers = pytest.importorskip("sentence_transformers")
models = pytest.importorskip("sentence_transformers.models")

assert_close = functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-5)
EACH = {"pooling_mode": list(POOLINGS)}

SPECS = {
    **{name: Spec({"pooling_mode": name}) for name in POOLINGS},
    **{flag: Spec({name: name == flag for name in POOLING_FLAGS}) for flag in POOLING_FLAGS},
    "no flag": Spec(dict.fromkeys(POOLING_FLAGS, False)),
    "flags": Spec(dict.fromkeys(POOLING_FLAGS, True)),
    "a flag and a name": Spec({"pooling_mode_cls_token": True, "pooling_mode": "max"}),
    "an order, and one twice": AN_ORDER,
    **{name: Spec(others=[dense(SIZE, 13, activation=name)]) for name in ACTIVATIONS},
    "layers": EACH_LAYER,
    "truncated": TRUNCATED,
    "prompts": Spec(EACH, model={"prompts": PROMPTS}),
    "without prompts": Spec({**EACH, "include_prompt": False}, model={"prompts": PROMPTS}),
    "a default prompt": Spec(
        {**EACH, "include_prompt": False}, model={"prompts": PROMPTS, "default_prompt_name": "passage"}
    ),
    "short texts": Spec(EACH, transformer={"max_seq_length": 6}, model={"prompts": PROMPTS}),
    "short texts without prompts": Spec(
        {"pooling_mode": ["mean", "cls"], "include_prompt": False},
        transformer={"max_seq_length": 6},
        model={"prompts": PROMPTS},
    ),
    "the tokenizer's length": Spec(transformer={"max_seq_length": None}, tokenizer={"model_max_length": 9}),
    "the last tokens": Spec(EACH, transformer={"max_seq_length": 9}, tokenizer={"truncation_side": "left"}),
    "lower case": Spec(transformer={"do_lower_case": True}, tokenizer={"do_lower_case": False}),
    "cased": Spec(tokenizer={"do_lower_case": False}),
}
ARGUMENTS = [{}, {"prompt_name": "query"}, {"prompt_name": "document"}, {"prompt": "film the "}, {"prompt": ""}]


def write_source(spec, folder):
    with files.new_directory(folder / "source") as scratch:
        huggingface.write(scratch, made(spec, folder / "files"))
    return folder / "source"


def both(source, folder, **options):
    """Ours and theirs, of a directory of theirs."""
    convert([str(source), str(folder / "native"), "--overwrite"])
    theirs = sentence_transformers.SentenceTransformer(str(source), device="cpu")
    return Embedder.load(folder / "native", **options), theirs


@pytest.mark.parametrize("name", SPECS)
def test_the_embeddings_are_those_of_sentence_transformers(name, tmp_path):
    spec = SPECS[name]
    ours, theirs = both(write_source(spec, tmp_path), tmp_path)
    assert ours.modules.size == theirs.encode(["a"]).shape[1]
    assert ours.modules.max_length == theirs.max_seq_length
    assert ours.modules.prompts == theirs.prompts
    for arguments in ARGUMENTS if "prompts" in spec.model else ARGUMENTS[:1]:
        assert_close(ours(TEXTS, **arguments), theirs.encode(TEXTS, **arguments))


TEMPLATES = ["[CLS] $A", "[CLS] $A [SEP]", "[CLS] $A [SEP] [SEP]", "[CLS] [CLS] $A [SEP]"]
NORMALIZERS = {
    "none": None,
    "one": tokenizers.normalizers.NFD(),
    "lower case": tokenizers.normalizers.Lowercase(),
    "two": tokenizers.normalizers.Sequence([tokenizers.normalizers.NFD(), tokenizers.normalizers.StripAccents()]),
}


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_other_tokenizers(template, normalizer, tmp_path):
    """Their own special tokens around texts decide what a prompt's tokens are."""
    made_tokenizer = tokenizers.Tokenizer(WordPiece({word: i for i, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    made_tokenizer.normalizer = NORMALIZERS[normalizer]
    made_tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    special = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    made_tokenizer.add_special_tokens(list(special.values()))
    made_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=template,
        pair=f"{template} $B:1 [SEP]:1",
        special_tokens=[(name, VOCABULARY.index(name)) for name in ("[CLS]", "[SEP]")],
    )
    modes = [mode for mode in POOLINGS if mode != "max"]
    spec = Spec(
        {"pooling_mode": modes, "include_prompt": False},
        transformer={"do_lower_case": True, "max_seq_length": 12},
        tokenizer={"tokenizer_class": "PreTrainedTokenizerFast", **special},
    )
    source = write_source(spec, tmp_path)
    (source / "vocab.txt").unlink()
    (source / "tokenizer.json").write_text(made_tokenizer.to_str())
    ours, theirs = both(source, tmp_path)
    texts = ["a GOOD film", "bad", "not Á very good film " * 4, "☃ good", "[MASK] film"]
    for prompt in ("", "the film ", "the [MASK] ", "the ☃ ", "the [SEP] ", "a [PAD] "):
        assert_close(ours(texts, prompt=prompt), theirs.encode(texts, prompt=prompt))


def test_normalize_at_the_end_is_their_normalize_embeddings(tmp_path):
    source = write_source(SPECS["truncated"], tmp_path)
    ours, theirs = both(source, tmp_path, normalize=True)
    assert_close(ours(TEXTS), theirs.encode(TEXTS, normalize_embeddings=True))


def test_a_plain_bert_is_a_mean_in_both(tmp_path):
    source = write_source(Spec(transformer={"max_seq_length": 5}, model={"prompts": PROMPTS}), tmp_path)
    (source / "modules.json").unlink()
    (source / "tokenizer_config.json").write_text('{"model_max_length": 30}')
    ours, theirs = both(source, tmp_path, pooling="mean")
    assert ours.modules.max_length == theirs.max_seq_length == 30
    assert ours.modules.prompts == theirs.prompts == {"query": "", "document": ""}
    assert_close(ours(TEXTS), theirs.encode(TEXTS))


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pickle"])
def test_what_sentence_transformers_saves_is_read_and_comes_back(safe, tmp_path):
    """The files of its newest version, which name modules and settings in other ways."""
    source = write_source(Spec(), tmp_path)
    parts = [
        models.Transformer(str(source), max_seq_length=40),
        models.Pooling(SIZE, "weightedmean", include_prompt=False),
        models.Dense(SIZE, 11),
        models.LayerNorm(11),
        models.Normalize(),
    ]
    theirs = sentence_transformers.SentenceTransformer(
        modules=parts, device="cpu", prompts=PROMPTS, default_prompt_name="query", truncate_dim=7
    )
    theirs.save_pretrained(str(tmp_path / "saved"), safe_serialization=safe)
    assert (tmp_path / "saved" / "2_Dense" / "pytorch_model.bin").exists() is not safe
    ours, again = both(tmp_path / "saved", tmp_path)
    expected = theirs.encode(TEXTS)
    assert_close(ours(TEXTS), expected)
    np.testing.assert_array_equal(again.encode(TEXTS), expected)
    convert([str(tmp_path / "native"), str(tmp_path / "back"), "--to", "hf"])
    assert module_files(tmp_path / "back") == module_files(tmp_path / "saved")
    back = sentence_transformers.SentenceTransformer(str(tmp_path / "back"), device="cpu")
    np.testing.assert_array_equal(back.encode(TEXTS), expected)


def test_minilm(minilm, tmp_path):
    texts = [*TEXTS, "The quick brown fox " * 90, "¿Dónde está la biblioteca?", "🙂🙃 e\u0301 \u200b \t", "x" * 3000]
    convert([MINILM, str(tmp_path / "minilm")])
    ours = Embedder.load(tmp_path / "minilm")
    theirs = sentence_transformers.SentenceTransformer(str(minilm), device="cpu")
    assert ours.modules.max_length == theirs.max_seq_length == 256
    np.testing.assert_allclose(ours(texts * 8), theirs.encode(texts * 8), atol=1e-5)
    assert json.loads((tmp_path / "minilm" / "modules.json").read_text())[2]["path"] == "2_Normalize"
