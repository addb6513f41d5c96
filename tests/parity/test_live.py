"""The comparison with torch, live, and what transformers makes of our exports."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from bert_jax import checkpoint, files
from bert_jax.checkpoint import with_classifier
from bert_jax.command import MINILM
from bert_jax.predict import TextClassifier
from convert import comparison, conversion, parity, torch_answers
from convert.__main__ import main as convert
from convert.texts import TEXTS
from convert.torch_answers import INSTRUCTION_SETS, instruction_sets
from tests.conftest import PRIMES, ROOT, random_checkpoint

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

ODD = ROOT / "tests" / "golden" / "odd"


def test_minilm_with_every_gradient(minilm, tmp_path, capsys):
    assert parity.main([MINILM, "--save-reference", str(tmp_path / "reference.safetensors")]) == 0
    assert "gradients, all 105" in capsys.readouterr().out
    assert parity.main([MINILM, "--reference", str(tmp_path / "reference.safetensors")]) == 0


@pytest.mark.parametrize("name", sorted(path.name for path in ODD.iterdir()))
def test_golden_files_are_what_torch_says_today(name):
    """The whole comparison on all elements, where the golden file keeps a sample."""
    assert parity.main([str(ODD / name)]) == 0


@pytest.mark.parametrize("name", sorted(path.name for path in ODD.iterdir()))
def test_errors_over_altered_copies_are_as_small_as_torchs(name, capsys):
    """One copy's error is luck, where few numbers decide it; over many, ours and torch's can be compared closely."""
    directory = ODD / name
    read = conversion.read(str(directory))
    checkpoint = parity.with_probe(read.checkpoint)
    texts = [text for text in TEXTS if isinstance(text, str) or checkpoint.config.type_vocab_size > 1]
    tokens = [
        read.tokenizer(*([part] for part in ((text,) if isinstance(text, str) else text)), max_length=128)[0]
        for text in texts
    ]
    batch, _ = torch_answers._encode(transformers.AutoTokenizer.from_pretrained(directory), texts, 128)
    real = batch["attention_mask"].numpy().astype(bool)
    model, generator = torch_answers._load(directory, checkpoint), np.random.default_rng(1)
    ask = comparison.asking(checkpoint, tokens)
    ours, torchs = defaultdict(list), defaultdict(list)
    for _ in range(16):
        copy = torch_answers._altered(model, generator)
        exact, single = (
            torch_answers._answer(copy, checkpoint, batch, real, kind) for kind in (torch.float64, torch.float32)
        )
        answers = ask(replace(checkpoint, tensors=single[2]).tensors)
        for theirs, mine, part in ((single[0], answers.forward, exact[0]), (single[1], answers.gradients, exact[1])):
            for array, truth in part.items():
                group = "gradients" if part is exact[1] else array
                ours[group].append(np.ravel(mine[array] - truth))
                torchs[group].append(np.ravel(theirs[array] - truth))
    rms = {group: np.sqrt(np.mean(np.square(np.concatenate(parts)))) for group, parts in ours.items()}
    ratios = {group: float(rms[group] / np.sqrt(np.mean(np.square(np.concatenate(torchs[group]))))) for group in rms}
    with capsys.disabled():
        print(f"\n{name}: " + ", ".join(f"{group} {ratio:.2f}" for group, ratio in ratios.items() if group != "loss"))
    for group, ratio in ratios.items():  # the fewer numbers decide an error, the more of it is still luck
        few = {"gradients": 1.5, "pooled": 1.25, "logits": 1.25, "loss": np.inf}
        assert ratio <= few.get(group, 1.1), group


@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
def test_with_each_of_torchs_instruction_sets(instructions):
    """torch's own error, the yardstick, moves with the kernels it takes."""
    if instructions not in instruction_sets():
        pytest.skip(f"this processor has no {instructions}")
    names = ("gelu_pytorch_tanh", "silu")
    code = f"import sys; from convert.parity import main; sys.exit(max(main(['{ODD}/' + name]) for name in {names}))"
    environment = os.environ | {"ATEN_CPU_CAPABILITY": instructions}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_a_saved_reference_holds_the_worst_error_of_all_instruction_sets(tmp_path):
    made = parity.ask_torch(conversion.read(str(ODD / "one_layer")), max_length=32, sample=True, sweep=True)
    alone = parity.ask_torch(conversion.read(str(ODD / "one_layer")), max_length=32, sample=True)
    assert made.made_with["instruction_sets"][0] == instruction_sets()[-1]
    assert sorted(made.made_with["instruction_sets"]) == sorted(instruction_sets())
    for name, quantity in made.forward.items():
        assert quantity.torch_error.rms >= alone.forward[name].torch_error.rms
    assert "ATEN_CPU_CAPABILITY" not in os.environ


def test_a_native_checkpoint_is_compared_too(tmp_path):
    convert([str(ODD / "sharded_classifier"), str(tmp_path / "native")])
    assert parity.main([str(tmp_path / "native")]) == 0


def load_strictly(kind, directory, **options):
    model, info = kind.from_pretrained(directory, output_loading_info=True, dtype=torch.float32, **options)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def test_transformers_and_sentence_transformers_load_minilm_handed_back(minilm, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    convert([MINILM, str(tmp_path / "native")])
    convert([str(tmp_path / "native"), str(tmp_path / "back"), "--to", "hf"])
    load_strictly(transformers.AutoModel, tmp_path / "back")
    texts = ["it could not be better", "a tedious evening"]
    ours, theirs = (
        sentence_transformers.SentenceTransformer(str(path)).encode(texts) for path in (tmp_path / "back", minilm)
    )
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", sorted(path.name for path in ODD.iterdir()))
def test_transformers_loads_odd_checkpoints_handed_back(name, tmp_path):
    convert([str(ODD / name), str(tmp_path / "native")])
    convert([str(tmp_path / "native"), str(tmp_path / "back"), "--to", "hf"])
    kind = getattr(transformers, json.loads((tmp_path / "back" / "config.json").read_text())["architectures"][0])
    load_strictly(kind, tmp_path / "back", **({"add_pooling_layer": False} if name == "no_pooler" else {}))


def test_a_classifier_made_here_gives_our_logits_in_transformers(tmp_path):
    encoder = PRIMES.replace(architecture="BertModel", labels=(), max_position_embeddings=64)
    start = random_checkpoint(encoder, tmp_path / "files")
    made, _ = with_classifier(start, ("negative", "neutral", "positive"), seed=1)
    with files.new_directory(tmp_path / "native") as scratch:
        checkpoint.write(scratch, made)
    convert([str(tmp_path / "native"), str(tmp_path / "hf"), "--to", "hf"])
    model = load_strictly(transformers.BertForSequenceClassification, tmp_path / "hf")
    assert model.config.id2label == {0: "negative", 1: "neutral", 2: "positive"}
    texts = ["a very good film", "bad", "", "not a good film, not a bad film"]
    batch = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")(texts, padding=True, return_tensors="pt")
    theirs = model(**batch).logits.detach().numpy()
    ours = [prediction.logits for prediction in TextClassifier.load(tmp_path / "native")(texts)]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_conversion_of_a_foreign_save(tmp_path):
    """A checkpoint written by transformers itself, as its users have them."""
    config = transformers.BertConfig(
        vocab_size=13,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=3,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "hf")
    random_checkpoint(PRIMES, tmp_path / "hf")  # for its vocab.txt
    read = conversion.read(str(tmp_path / "hf"))
    assert read.checkpoint.config.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert parity.main([str(tmp_path / "hf")]) == 0


def test_texts_that_reach_no_embedding_are_left_out_of_the_comparison(tmp_path):
    """transformers adds a [MASK] that the vocabulary lacks, and one of the texts holds it."""
    made = random_checkpoint(PRIMES.replace(vocab_size=12), tmp_path / "files")
    made.files["vocab.txt"] = made.files["vocab.txt"].replace(b"[MASK]\n", b"")
    with files.new_directory(tmp_path / "native") as scratch:
        checkpoint.write(scratch, made)
    assert parity.main([str(tmp_path / "native"), "--max-length", "32"]) == 0
