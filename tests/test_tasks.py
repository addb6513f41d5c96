"""Losses, metrics, targets and weights of each task, by hand and by other ways to say the same."""

import itertools
import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_jax.errors import UserError
from bert_jax.heads import example_losses
from bert_jax.scores import scores_of
from bert_jax.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from train.metrics import better
from train.rows import Data, Row, Split
from train.tasks import class_weights, measure, targets_of

LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 0.0, 3.0], [-2.0, 1.0, 1.0]], np.float32)
IDS = np.array([0, 1, 2], np.int32)
HELD = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]], np.float32)
WEIGHTS = np.array([0.5, 2.0, 3.0], np.float32)


def losses(*args, **options):
    return np.asarray(example_losses(jnp.asarray(args[0]), *args[1:], **options))


# --- losses


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_single_label_losses_by_hand(smoothing, weights):
    w = np.ones(3) if weights is None else weights
    for loss, row, label in zip(
        losses(LOGITS, IDS, smoothing=smoothing, class_weights=weights), LOGITS.tolist(), IDS, strict=True
    ):
        nll = [math.log(sum(map(math.exp, row))) - x for x in row]
        whole = (1 - smoothing) * w[label] * nll[label] + smoothing / 3 * sum(
            a * b for a, b in zip(w, nll, strict=True)
        )
        assert loss == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_multi_label_losses_by_hand(smoothing, weights):
    w = np.ones(3) if weights is None else weights
    found = losses(LOGITS, HELD, MULTI_LABEL, smoothing=smoothing, class_weights=weights)
    for loss, row, held in zip(found, LOGITS.tolist(), HELD.tolist(), strict=True):
        parts = []
        for x, y, weight in zip(row, held, w, strict=True):
            y = y * (1 - smoothing) + smoothing / 2
            p = 1 / (1 + math.exp(-x))
            parts.append(-weight * y * math.log(p) - (1 - y) * math.log(1 - p))
        assert loss == pytest.approx(sum(parts) / 3, rel=1e-5)


def test_regression_losses_are_squares():
    assert losses(LOGITS[:, :1], HELD[:, :1], REGRESSION).tolist() == [1.0, 0.0, 9.0]


def test_scores():
    assert scores_of(LOGITS, REGRESSION) is LOGITS
    assert scores_of(np.array([[0.0, 800.0, -800.0]]), MULTI_LABEL).tolist() == [[0.5, 1.0, 0.0]]
    assert scores_of(np.array([[0.0, math.log(3)], [900.0, 0.0]]), SINGLE_LABEL) == pytest.approx(
        np.array([[0.25, 0.75], [1, 0]])
    )


# --- metrics


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_single_label_metrics_by_counting(pairs):
    true, said = np.array(pairs).T
    found = measure(SINGLE_LABEL, np.eye(3, dtype=np.float32)[said], true)
    assert found["accuracy"] == pytest.approx(np.mean(true == said))
    for c in range(3):
        right, wrong = sum(t == s == c for t, s in pairs), sum((t == c) != (s == c) for t, s in pairs)
        assert found["f1"][c] == (pytest.approx(2 * right / (2 * right + wrong)) if right + wrong else None)
    assert found["macro_f1"] == pytest.approx(np.mean([value for value in found["f1"] if value is not None]))
    # Matthews' correlation is that of the indicators, summed over classes.
    x, y = np.eye(3)[true], np.eye(3)[said]
    covariance = [((a - a.mean(0)) * (b - b.mean(0))).sum() for a, b in ((x, y), (x, x), (y, y))]
    expected = covariance[0] / math.sqrt(covariance[1] * covariance[2]) if covariance[1] * covariance[2] > 1e-9 else 0
    assert found["mcc"] == pytest.approx(expected, abs=1e-9)


scored = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=12)


@given(scored)
def test_average_precision_by_counting(pairs):
    scores, held = (np.array(column, np.float32)[:, None] for column in zip(*pairs, strict=True))
    # At each score of an example that has the label: the precision of all that score so high or higher.
    precisions = [np.mean([other for s, other in pairs if s >= score]) for score, has in pairs if has]
    expected = np.mean(precisions) if precisions else 0
    found = measure(MULTI_LABEL, np.hstack([scores, -scores]), np.hstack([held, np.zeros_like(held)]))
    assert found["map"] == pytest.approx(expected / 2)  # the second label, which none has, counts as 0


def test_multi_label_metrics_by_hand():
    logits = np.array([[1, -1], [1, 1], [-1, 1], [-1, -1]], np.float32)
    held = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], np.float32)
    found = measure(MULTI_LABEL, logits, held)
    assert found["f1"] == [0.5, 1.0]
    assert found["macro_f1"] == 0.75
    assert found["micro_f1"] == pytest.approx(2 * 3 / (4 + 4))
    assert found["exact_match"] == 0.5
    assert found["loss"] == pytest.approx(losses(logits, held, MULTI_LABEL).mean(), rel=1e-6)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=20))
def test_regression_metrics(pairs):
    said, true = (np.array(column, np.float64)[:, None] for column in zip(*pairs, strict=True))
    found = measure(REGRESSION, said, true)
    assert found["mse"] == found["loss"] == pytest.approx(np.mean((said - true) ** 2))
    if said.std() > 0 and true.std() > 0:
        assert found["pearson"] == pytest.approx(np.corrcoef(said.ravel(), true.ravel())[0, 1])
        # Twice a value's mean rank: how many are smaller, and how many not larger.
        ranks = [[np.sum(x < v) + np.sum(x <= v) for v in x] for x in (said, true)]
        assert found["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    else:
        assert found["pearson"] == found["spearman"] == 0


def test_better():
    assert better("accuracy", 0.5, None)
    assert better("accuracy", 0.6, 0.5)
    assert not better("accuracy", 0.5, 0.5)
    assert better("mse", 0.4, 0.5)
    assert not better("loss", 0.6, 0.5)


# --- targets


def data(task, train, dev=(), names=()):
    splits = {}
    for name, labels in (("train", train), ("dev", dev)):
        rows = [Row(i, "", label) for i, label in enumerate(labels, 1)]
        splits[name] = Split(path=Path(f"{name}.csv"), rows=rows, skipped=0, sha256="")
    return Data(task, splits, names)


def test_several_labels_become_rows_of_zeros_and_ones():
    names, targets = targets_of(data(MULTI_LABEL, [("b", "a"), (), ("c",)], [("a",)]))
    assert names == ("a", "b", "c")
    assert targets["train"].tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert targets["dev"].tolist() == [[1, 0, 0]]
    names, targets = targets_of(data(MULTI_LABEL, [(2, 0), (), ("1",)], [(0,)]))
    assert names == ("0", "1", "2")
    assert targets["train"].tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert targets_of(data(MULTI_LABEL, [(0,), ()]), ("only",))[0] == ("only",)


def test_numbers_stay_numbers():
    names, targets = targets_of(data(REGRESSION, [0.5, 2.0], [1.0]), ("stars",))
    assert names == ("stars",)
    assert targets["train"].tolist() == [[0.5], [2.0]]
    with pytest.raises(UserError, match="a regression has one number"):
        targets_of(data(REGRESSION, [0.5, 2.0], [1.0]), ("a", "b"))


@pytest.mark.parametrize(
    ("task", "dev", "said"),
    [
        (
            SINGLE_LABEL,
            ["postive"],
            r"label 'postive' is unknown; expected one of negative, positive .did you mean positive",
        ),
        (MULTI_LABEL, [("positive", "x")], "label 'x' is unknown"),
    ],
)
def test_an_unknown_label_is_named_with_the_nearest(task, dev, said):
    train = ["negative", "positive"] if task == SINGLE_LABEL else [("negative",), ("positive",)]
    with pytest.raises(UserError, match=said):
        targets_of(data(task, train, dev))


def test_names_of_the_source_are_kept():
    names, targets = targets_of(data(SINGLE_LABEL, [1, 0], [1], ("neg", "pos")))
    assert names == ("neg", "pos")
    assert targets["train"].tolist() == [1, 0]


def test_class_weights():
    ids = np.array([0, 0, 0, 1], np.int32)
    balanced = class_weights("balanced", SINGLE_LABEL, ids, "ab")
    assert balanced.tolist() == pytest.approx([4 / 6, 4 / 2])
    assert balanced[ids].mean() == pytest.approx(1)
    held = np.array([[1, 0], [0, 0], [0, 0], [1, 1]], np.float32)
    assert class_weights("balanced", MULTI_LABEL, held, "ab").tolist() == [1, 3]
    assert class_weights("1,2.5", SINGLE_LABEL, ids, "ab").tolist() == [1, 2.5]
    assert class_weights(None, SINGLE_LABEL, ids, "ab") is None
    for said in ("1", "1,2,3", "1,x", "1,-1", "0,0", "nan,1", ""):
        with pytest.raises(UserError, match="--class-weights is .*; expected balanced, or 2 numbers, for a, b"):
            class_weights(said, SINGLE_LABEL, ids, "ab")
    with pytest.raises(UserError, match="regression"):
        class_weights("balanced", REGRESSION, held, "ab")


def test_every_metric_of_every_task_is_measured():
    from train.metrics import ALL_METRICS, METRICS

    shapes = {SINGLE_LABEL: IDS, MULTI_LABEL: HELD, REGRESSION: HELD}
    for task, targets in shapes.items():
        assert set(METRICS[task]) <= set(measure(task, LOGITS, targets))
    assert set(ALL_METRICS) == set(itertools.chain(*METRICS.values()))
