"""The comparison of dev scores trains both, on the same rows, for every task."""

import json

import numpy as np
import pytest

from benchmarks import quality
from bert_jax import files
from convert import huggingface
from tests.conftest import PRIMES, random_checkpoint

pytestmark = pytest.mark.parity


@pytest.mark.parametrize(("labels", "figure"), [((0, 1, 0), "accuracy"), ((0.5, 1.25, 2.0), "spearman")])
def test_both_are_trained_alike_and_scored(labels, figure, tmp_path, capsys):
    settings = dict(architecture="BertModel", labels=(), max_position_embeddings=160, problem_type=None)
    still = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)  # and so both take the same steps
    config = PRIMES.replace(**settings, **still)
    with files.new_directory(tmp_path / "model") as scratch:
        huggingface.write(scratch, random_checkpoint(config, tmp_path / "files"))
    (tmp_path / "data").mkdir()
    for split in ("train", "dev"):
        texts = [f"a {('good', 'bad', 'dull')[i % 3]} {'film ' * (i % 5)}" for i in range(70)]
        rows = [{"text": text, "label": labels[i % 3]} for i, text in enumerate(texts)]
        (tmp_path / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--data", str(tmp_path / "data"), "--model", str(tmp_path / "model"), "--seeds", "1", "--epochs", "4"]
    quality.main([*words, "--learning-rate", "1e-2"])
    ours, theirs = map(json.loads, capsys.readouterr().out.splitlines())
    assert (ours.pop("who"), theirs.pop("who"), ours["seed"]) == ("bert_jax", "transformers", 1)
    assert set(ours) == set(theirs) > {figure, "loss"}
    for name in set(ours) - {"data"}:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3, err_msg=name)
