"""Under dropout, loss and gradients are distributed as torch's: their means and how far single draws lie from them."""

import jax
import numpy as np
import pytest
from flax import nnx

from bert_jax import files
from bert_jax.heads import example_losses
from bert_jax.packing import Tokens, assign, pack
from bert_jax.parameters import build_classifier, named_arrays
from convert import huggingface
from convert.names import canonical, rows
from tests.conftest import PRIMES, random_checkpoint

pytestmark = pytest.mark.parity
DRAWS = 500

# A rate for each use, so that one in the place of another is seen.
CONFIG = PRIMES.replace(
    hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.25, classifier_dropout=0.4, max_position_embeddings=64
)


def theirs(directory, examples, targets):
    """Losses and gradients of many draws, by torch, on a batch padded to its longest example."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = transformers.BertForSequenceClassification.from_pretrained(directory, dtype=torch.float32).train()
    torch.manual_seed(0)
    longest = max(len(tokens.input_ids) for tokens in examples)
    padded = [np.pad(tokens.input_ids, (0, longest - len(tokens.input_ids))) for tokens in examples]
    ids = torch.tensor(np.stack(padded)).long()
    table, losses, gradients = rows(CONFIG), [], []
    for _ in range(DRAWS):
        model.zero_grad()
        loss = model(input_ids=ids, attention_mask=(ids > 0).long(), labels=torch.tensor(targets).long()).loss
        loss.backward()
        losses.append(loss.item())
        named = {table[canonical(name)]: p.grad.numpy().copy() for name, p in model.named_parameters()}
        gradients.append({row.native: row.layout.to_native(gradient) for row, gradient in named.items()})
    return np.array(losses), {name: np.stack([one[name] for one in gradients]) for name in gradients[0]}


def ours(checkpoint, examples, targets):
    """The same by the model here, on packed rows."""
    assignment = assign([len(tokens.input_ids) for tokens in examples], 24)
    packed = pack(examples, assignment, 24, len(assignment), len(examples))
    graphdef, params = nnx.split(build_classifier(checkpoint.config, checkpoint.tensors))

    def loss(params, key):
        logits = nnx.merge(graphdef, params)(packed, nnx.Rngs(dropout=key))
        return example_losses(logits, targets).mean()

    draw = jax.jit(lambda keys: jax.lax.map(lambda key: jax.value_and_grad(loss)(params, key), keys))
    losses, gradients = draw(jax.random.split(jax.random.key(0), DRAWS))
    return np.asarray(losses), {name: np.asarray(array) for name, array in named_arrays(gradients).items()}


def test_many_draws_are_torchs_in_mean_and_spread(tmp_path):
    start = random_checkpoint(CONFIG, tmp_path / "files")
    with files.new_directory(tmp_path / "model") as scratch:
        huggingface.write(scratch, start)
    generator = np.random.default_rng(1)
    ids = [generator.integers(4, CONFIG.vocab_size, n, dtype=np.int32) for n in (5, 9, 12, 3, 18, 7, 11, 6)]
    examples = [Tokens(one, np.zeros_like(one)) for one in ids]
    targets = np.arange(len(ids), dtype=np.int32) % len(CONFIG.labels)
    (a, here), (b, there) = ours(start, examples, targets), theirs(tmp_path / "model", examples, targets)
    assert a.mean() == pytest.approx(b.mean(), abs=4 * np.sqrt((a.var() + b.var()) / DRAWS))
    assert a.std() == pytest.approx(b.std(), rel=0.15)
    assert set(here) == set(there)
    for name in set(here) - {
        name for name in here if name.endswith("key.bias")
    }:  # whose gradient is 0, but for rounding
        spread = [each.var(axis=0, ddof=1).sum() for each in (here[name], there[name])]
        assert spread[0] == pytest.approx(spread[1], rel=0.1), name
        apart = np.sum((here[name].mean(axis=0) - there[name].mean(axis=0)) ** 2)
        # Means of draws lie this far apart by chance; a vector has few directions to average over.
        assert apart < (2 if here[name].ndim > 2 else 4) * sum(spread) / DRAWS, name
