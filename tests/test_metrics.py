"""Figures beside scikit-learn's, of targets and predictions in which classes are absent; and how sure they are."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as theirs

from bert_jax.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from train.metrics import METRICS
from train.report.statistics import absent, intervals
from train.tasks import measure
from train.tasks.multi_label import best_threshold

CLASSES = 5


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():  # of what is not defined, where its answer is what we ask for
        warnings.filterwarnings("ignore", module="sklearn")
        yield


def single(pairs):
    true, said = np.array(pairs, np.int32).T
    return np.eye(CLASSES, dtype=np.float32)[said], true


def several(rows):
    """Logits of small whole numbers, so that many tie and some are 0, and which labels hold."""
    logits, held = np.array(rows, np.float32).transpose(1, 0, 2)
    return logits, held


some_classes = st.sets(st.integers(0, CLASSES - 1), min_size=1).map(sorted)
pairs = st.tuples(some_classes, some_classes).flatmap(
    lambda sets: st.lists(st.tuples(*map(st.sampled_from, sets)), min_size=1, max_size=40)
)
rows = st.tuples(some_classes, some_classes).flatmap(
    lambda sets: st.lists(
        st.tuples(
            st.tuples(*(st.integers(-3, 3 if c in sets[0] else -1) for c in range(CLASSES))),
            st.tuples(*(st.integers(0, int(c in sets[1])) for c in range(CLASSES))),
        ),
        min_size=1,
        max_size=20,
    )
)


@pytest.mark.fault(77)
@settings(max_examples=60, deadline=None)
@given(pairs)
def test_single_labels_as_scikit_learn(pairs):
    logits, true = single(pairs)
    found, said = measure(SINGLE_LABEL, logits, true), logits.argmax(1)
    assert found["macro_f1"] == pytest.approx(theirs.f1_score(true, said, average="macro"))
    assert found["accuracy"] == pytest.approx(theirs.accuracy_score(true, said))
    assert found["mcc"] == pytest.approx(theirs.matthews_corrcoef(true, said), abs=1e-9)
    each = theirs.f1_score(true, said, average=None, labels=range(CLASSES), zero_division=np.nan)
    assert found["f1"] == pytest.approx([None if np.isnan(value) else value for value in each.tolist()])
    assert found["confusion"] == theirs.confusion_matrix(true, said, labels=range(CLASSES)).tolist()


@settings(max_examples=60, deadline=None)
@given(rows)
def test_several_labels_as_scikit_learn(rows):
    logits, held = several(rows)
    found, said = measure(MULTI_LABEL, logits, held), logits >= 0
    for name in ("macro", "micro"):
        assert found[f"{name}_f1"] == pytest.approx(theirs.f1_score(held, said, average=name))
    assert found["f1"] == pytest.approx(theirs.f1_score(held, said, average=None))
    assert found["map"] == pytest.approx(theirs.average_precision_score(held, logits))
    assert found["exact_match"] == pytest.approx(theirs.accuracy_score(held, said))


@given(rows, st.sampled_from([0.05, 0.3, 0.73]), st.sampled_from(["macro_f1", "micro_f1", "map"]))
@settings(max_examples=8, deadline=None)
def test_thresholds(rows, threshold, metric):
    logits, held = several(rows)
    scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
    found = measure(MULTI_LABEL, logits, held, threshold=threshold)
    assert found["threshold"] == threshold
    assert found["f1"] == pytest.approx(theirs.f1_score(held, scores >= threshold, average=None))
    best, average = best_threshold(logits, held, metric), "micro" if metric == "micro_f1" else "macro"
    quality = [theirs.f1_score(held, scores >= i / 100, average=average) for i in range(1, 100)]
    assert quality[round(100 * best) - 1] == pytest.approx(max(quality))
    assert best_threshold(4 * held - 2, held, metric) == 0.5  # of many that are as good
    for low, high in intervals(MULTI_LABEL, logits, held, threshold=threshold).values():
        assert low <= high


def test_a_split_without_a_class():
    logits, true = single([(0, 0), (0, 0), (1, 1), (1, 2), (2, 2)])
    found = measure(SINGLE_LABEL, logits, true)
    assert found["macro_f1"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    assert found["f1"][3:] == [None, None]
    assert absent(SINGLE_LABEL, true, found, "abcde") == "no text is, or is taken for, d, e: not in macro F1"
    logits, held = several([((1, -1, 1), (1, 0, 0)), ((-1, 1, 1), (0, 1, 0))])
    found = measure(MULTI_LABEL, logits, held)
    assert found["macro_f1"] == found["map"] == pytest.approx(2 / 3)
    assert absent(MULTI_LABEL, held, found, "abc") == "no text has c: 0 in macro F1 and mAP"
    assert not absent(MULTI_LABEL, held[:, :2], found, "ab")
    assert not absent(REGRESSION, held, found, ["score"])


def test_numbers_that_do_not_vary_have_no_correlation():
    same = np.full((3, 1), 0.1)  # whose mean is not quite 0.1
    assert measure(REGRESSION, same, same)["pearson"] == 0
    assert np.isnan(measure(REGRESSION, same, same, undefined=np.nan)["spearman"])


# --- intervals


def check(task, logits, targets, perfect):
    found, figures = intervals(task, logits, targets), measure(task, logits, targets)
    assert list(found) == list(METRICS[task])
    for name, (low, high) in found.items():
        assert low <= figures[name] <= high, name
        if perfect and name not in ("loss", "mse"):
            assert low == high == figures[name], name
    return found


@settings(max_examples=20, deadline=None)
@given(pairs, st.booleans())
def test_intervals_of_single_labels(pairs, perfect):
    logits, true = single([(a, a) for a, _ in pairs] if perfect else pairs)
    found = check(SINGLE_LABEL, logits, true, perfect)
    assert not perfect or found["macro_f1"] == (1, 1)


@settings(max_examples=12, deadline=None)
@given(rows, st.booleans())
def test_intervals_of_several_labels(rows, perfect):
    logits, held = several([([4 * y - 2 for y in held], held) for _, held in rows] if perfect else rows)
    found = check(MULTI_LABEL, logits, held, perfect)
    there = held.any(axis=0).mean()  # a label that no text has counts as 0
    assert not perfect or found["macro_f1"] == found["map"] == pytest.approx((there, there))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=6))
def test_intervals_of_numbers(numbers):
    true = np.array(numbers, np.float64)[:, None]
    found = check(REGRESSION, true, true, perfect=False)
    some = float(len(set(numbers)) > 1)
    assert found["pearson"] == pytest.approx((some, some))
    assert found["spearman"] == pytest.approx((some, some))


@pytest.mark.fault(77)
def test_a_rare_class_is_not_drawn_away():
    """98 texts of one class and 2 of another, which is never found: every resample has both of these."""
    true = np.array([0] * 98 + [1] * 2, np.int32)
    logits = np.eye(2, dtype=np.float32)[np.zeros(100, np.int32)]
    found = intervals(SINGLE_LABEL, logits, true)
    assert found["accuracy"] == pytest.approx((0.98, 0.98))
    figure = theirs.f1_score(true, np.zeros(100), average="macro")
    assert found["macro_f1"] == pytest.approx((figure, figure))
    held = np.eye(3, dtype=np.float32)[true]  # the same as labels; and no text has the third
    found = intervals(MULTI_LABEL, np.where(held[:, [0, 2, 2]] > 0, 1, -1).astype(np.float32), held)
    assert found["exact_match"] == pytest.approx((0.98, 0.98))


def test_classes_of_one_text_are_drawn_from_together():
    true = np.arange(20, dtype=np.int32)
    logits = np.eye(20, dtype=np.float32)[np.where(true % 2, true, 0)]
    low, high = intervals(SINGLE_LABEL, logits, true)["accuracy"]
    assert low < 0.4 < 0.65 < high
