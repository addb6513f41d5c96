"""What transformers and sentence-transformers make of an export: the scores that we make."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest

from bert_jax import checkpoint, files
from bert_jax.command import MINILM
from bert_jax.config import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bert_jax.predict import TextClassifier
from bert_jax.tokenizer import Tokenizer
from convert import export, huggingface
from convert.__main__ import main as convert
from tests.conftest import PRIMES, random_checkpoint

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
sentence_transformers = pytest.importorskip("sentence_transformers")

TEXTS = ["a good film", "the very BAD film, not good", "not", "Verily the film: bad badly"]
PAIRS = ["good", "a film", "the very bad one not a film", "bad"]
KINDS = {
    "two classes": (SINGLE_LABEL, 2),
    "five classes": (SINGLE_LABEL, 5),
    "several labels": (MULTI_LABEL, 5),
    "one label or not": (MULTI_LABEL, 1),
    "a number": (REGRESSION, 1),
    "numbers": (REGRESSION, 3),
}


def activated(kind: str, logits: np.ndarray) -> np.ndarray:
    if kind == REGRESSION:
        return logits
    if kind == MULTI_LABEL:
        return 1 / (1 + np.exp(-logits))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module", params=KINDS)
def exported(request, tmp_path_factory):
    """A random classifier of one kind: its export, its kind, and a function that gives our scores."""
    kind, classes = KINDS[request.param]
    root = tmp_path_factory.mktemp("export")
    labels = tuple(f"label {i}" for i in range(classes))
    found = random_checkpoint(PRIMES.replace(labels=labels, problem_type=kind), root / "made", seed=classes)
    found = replace(found, tensors={**found.tensors, "classifier.bias": np.linspace(-1, 1, classes, dtype=np.float32)})
    with files.new_directory(root / "native") as scratch:
        checkpoint.write(scratch, found)
    ours = TextClassifier(checkpoint.read(root / "native"), tokenizer := Tokenizer.load(root / "native"))
    with files.new_directory(root / "hf") as scratch:  # as `convert --to hf` writes a run's best model
        trained = export.completed(checkpoint.read(root / "native"), tokenizer, trained=True)
        huggingface.write(scratch, trained)

    def scores(*texts: list[str]) -> np.ndarray:
        return activated(kind, ours.logits(tokenizer(*texts, max_length=67)).astype(np.float64))

    return root / "hf", kind, scores


@pytest.mark.parametrize("texts", [(TEXTS,), (TEXTS, PAIRS)], ids=["texts", "pairs"])
def test_a_pipeline_gives_our_scores(texts, exported):
    directory, _, scores = exported
    classify = transformers.pipeline("text-classification", model=str(directory), device="cpu")
    assert classify.tokenizer.model_max_length == 67
    ours, labels = scores(*texts), checkpoint.read_config(directory / "config.json")[0].labels
    for row, *given in zip(ours, *texts, strict=True):
        [found] = [classify(dict(zip(("text", "text_pair"), given, strict=False)), top_k=None)]
        found = {entry["label"]: entry["score"] for entry in found}
        np.testing.assert_allclose([found[label] for label in labels], row, atol=1e-5, rtol=1e-5)


def test_a_cross_encoder_gives_our_scores_and_does_not_warn(exported):
    directory, _, scores = exported
    model = sentence_transformers.CrossEncoder(str(directory), device="cpu")
    assert model.max_seq_length == 67
    with warnings.catch_warnings(action="error"):
        found = model.predict(list(zip(TEXTS, PAIRS, strict=True)))
    ours = scores(TEXTS, PAIRS)
    np.testing.assert_allclose(found, ours[:, 0] if ours.shape[1] == 1 else ours, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("texts", [(TEXTS,), (TEXTS, PAIRS)], ids=["texts", "pairs"])
def test_the_model_class_gives_our_logits(texts, exported):
    directory, kind, scores = exported
    model = transformers.AutoModelForSequenceClassification.from_pretrained(directory).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    assert model.config.problem_type == kind
    with torch.no_grad():
        logits = model(**tokenizer(*texts, padding=True, return_tensors="pt")).logits
    np.testing.assert_allclose(activated(kind, logits.numpy().astype(np.float64)), scores(*texts), atol=1e-5)


@pytest.mark.parametrize("without", ["tokenizer.json", "vocab.txt"])
def test_either_file_of_the_tokenizer_is_enough(without, exported, tmp_path):
    """Servers have tokenizer.json alone; older programs vocab.txt."""
    directory, _, _ = exported
    whole = transformers.AutoTokenizer.from_pretrained(directory)
    for path in directory.iterdir():
        if path.name != without:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer(TEXTS, PAIRS)["input_ids"] == whole(TEXTS, PAIRS)["input_ids"]
    assert tokenizer.special_tokens_map == whole.special_tokens_map


def test_tokenizer_json_alone_is_what_transformers_makes_of_everything(exported):
    import tokenizers

    directory, _, _ = exported
    alone = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    assert [e.ids for e in alone.encode_batch(TEXTS)] == theirs(TEXTS)["input_ids"]
    both = theirs(TEXTS, PAIRS)
    found = alone.encode_batch(list(zip(TEXTS, PAIRS, strict=True)))
    assert ([e.ids for e in found], [e.type_ids for e in found]) == (both["input_ids"], both["token_type_ids"])


def test_sentence_transformers_embeds_as_with_the_original(minilm, tmp_path):
    convert([MINILM, str(tmp_path / "hf"), "--to", "hf"])
    ours, theirs = (
        sentence_transformers.SentenceTransformer(str(path), device="cpu") for path in (tmp_path / "hf", minilm)
    )
    assert ours.max_seq_length == theirs.max_seq_length
    np.testing.assert_array_equal(ours.encode(TEXTS), theirs.encode(TEXTS))
    assert json.loads((tmp_path / "hf" / "1_Pooling" / "config.json").read_text())["pooling_mode_mean_tokens"] is True
