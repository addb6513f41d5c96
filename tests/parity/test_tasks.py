"""Losses of every task beside torch's."""

import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.heads import example_losses
from bert_jax.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL

pytestmark = pytest.mark.parity

LOGITS = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
WEIGHTS = np.array([0.5, 1, 2, 3, 0.25], np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_losses_are_torchs(smoothing, weights):
    import torch
    from torch.nn import functional

    weight = None if weights is None else torch.tensor(weights)
    ids, held = np.arange(7, dtype=np.int32) % 5, (LOGITS.T[::-1].T > 0).astype(np.float32)
    options = {"smoothing": smoothing, "class_weights": weights}
    theirs = functional.cross_entropy(
        torch.tensor(LOGITS), torch.tensor(ids).long(), weight, label_smoothing=smoothing, reduction="none"
    )
    np.testing.assert_allclose(example_losses(jnp.asarray(LOGITS), ids, SINGLE_LABEL, **options), theirs, rtol=2e-6)
    soft = torch.tensor(held * (1 - smoothing) + smoothing / 2)
    theirs = functional.binary_cross_entropy_with_logits(
        torch.tensor(LOGITS), soft, pos_weight=weight, reduction="none"
    ).mean(1)
    np.testing.assert_allclose(example_losses(jnp.asarray(LOGITS), held, MULTI_LABEL, **options), theirs, rtol=2e-6)
    theirs = functional.mse_loss(torch.tensor(LOGITS), torch.tensor(held), reduction="none").mean(1)
    np.testing.assert_allclose(example_losses(jnp.asarray(LOGITS), held, REGRESSION), theirs, rtol=2e-6)
