"""Every metric against a slow and obvious one."""

import math

import numpy as np
import pytest

from vlf_edge import ShapeError, VlfError
from vlf_edge.evaluation import metrics


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(0, 2, (200, 7)).astype(np.float32)


@pytest.fixture
def truth():
    return np.random.default_rng(1).integers(0, 6, 200)  # class 6 has no clip


def softmax(row):
    exponents = [math.exp(value) for value in row]
    return [value / sum(exponents) for value in exponents]


def test_log_softmax_is_the_logarithm_of_softmax_even_where_that_overflows(logits):
    expected = [[math.log(p) for p in softmax(row)] for row in logits]
    np.testing.assert_allclose(metrics.log_softmax(logits), expected, rtol=1e-5)
    assert metrics.log_softmax(np.array([[1e4, 0.0]])).tolist() == [[0.0, -1e4]]


@pytest.mark.parametrize("k", [1, 2, 5, 7, 50])
def test_top_k_counts_as_sorting_does(logits, truth, k):
    hits = [t in sorted(range(7), key=lambda c: -row[c])[:k] for row, t in zip(logits, truth)]
    assert metrics.top_k(logits, truth, k) == sum(hits) / len(hits)


def test_equal_logits_are_won_by_the_lower_class_as_argmax_does():
    ties = np.zeros((3, 3))
    assert metrics.top_k(ties, np.array([0, 1, 2]), 1) == 1 / 3
    assert metrics.top_k(ties, np.array([0, 1, 2]), 2) == 2 / 3


def test_confusion_and_recall_count_one_by_one(logits, truth):
    expected = np.zeros((7, 7), int)
    for row, t in zip(logits, truth):
        expected[t, int(np.argmax(row))] += 1
    confusion = metrics.confusion_matrix(logits, truth)
    assert confusion.tolist() == expected.tolist()
    recall = metrics.class_recall(confusion)
    for label in range(6):
        hits = [np.argmax(row) == label for row, t in zip(logits, truth) if t == label]
        assert recall[label] == pytest.approx(np.mean(hits))
    assert np.isnan(recall[6])


def test_calibration_error_bin_by_bin(logits, truth):
    total = 0.0
    for m in range(1, 16):
        inside = []
        for row, t in zip(logits, truth):
            confidence = max(softmax(row))
            if (m - 1) / 15 < confidence <= m / 15:
                inside.append((confidence, np.argmax(row) == t))
        if inside:
            gap = abs(np.mean([right for _, right in inside]) - np.mean([confidence for confidence, _ in inside]))
            total += len(inside) / len(truth) * gap
    assert metrics.calibration_error(logits, truth) == pytest.approx(total, abs=1e-6)


def test_calibration_error_of_known_cases():
    sure = np.array([[100.0, 0.0]] * 4)
    assert metrics.calibration_error(sure, np.zeros(4, int)) == pytest.approx(0.0, abs=1e-12)
    assert metrics.calibration_error(sure, np.ones(4, int)) == pytest.approx(1.0)
    assert metrics.calibration_error(np.zeros((4, 2)), np.array([0, 0, 0, 1])) == pytest.approx(0.25)


def test_agreement_and_divergence_row_by_row(logits):
    other = logits + np.random.default_rng(2).normal(0, 1, logits.shape).astype(np.float32)
    same = [np.argmax(a) == np.argmax(b) for a, b in zip(logits, other)]
    assert 0 < metrics.agreement(logits, other) == sum(same) / len(same) < 1
    divergences = [sum(p * math.log(p / q) for p, q in zip(softmax(a), softmax(b))) for a, b in zip(logits, other)]
    assert metrics.divergence(logits, other) == pytest.approx(np.mean(divergences), rel=1e-5)
    assert metrics.divergence(logits, other) != pytest.approx(metrics.divergence(other, logits), rel=1e-3)
    assert metrics.max_abs(logits, other) == max(abs(float(a) - float(b)) for a, b in zip(logits.flat, other.flat))


def test_nothing_diverges_from_itself(logits):
    assert metrics.agreement(logits, logits) == 1.0 and metrics.max_abs(logits, logits) == 0.0
    assert metrics.divergence(logits, logits) == 0.0 <= metrics.divergence(logits, logits + 7.0) < 1e-12


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_an_error(logits, truth, bad):
    broken = logits.copy()
    broken[3, 2] = broken[9, 0] = bad
    for call in (
        lambda: metrics.top_k(broken, truth),
        lambda: metrics.confusion_matrix(broken, truth),
        lambda: metrics.calibration_error(broken, truth),
        lambda: metrics.log_softmax(broken),
        lambda: metrics.agreement(logits, broken),
        lambda: metrics.divergence(broken, logits),
        lambda: metrics.max_abs(logits, broken),
    ):
        with pytest.raises(VlfError, match="the logits of 2 of 200 clips hold NaN or infinity"):
            call()


def test_arrays_that_do_not_fit_are_refused(logits, truth):
    with pytest.raises(ShapeError, match=r"expected \(n, C\)"):
        metrics.top_k(logits[0], truth)
    with pytest.raises(ShapeError, match=r"expected whole numbers \(200,\)"):
        metrics.top_k(logits, truth[:-1])
    with pytest.raises(ShapeError, match="expected whole numbers"):
        metrics.confusion_matrix(logits, truth.astype(float))
    with pytest.raises(ShapeError, match="truth names classes 1 to 6, but there are 5"):
        metrics.confusion_matrix(logits[:, :5], truth + 1)
    with pytest.raises(ShapeError, match="k = 0"):
        metrics.top_k(logits, truth, 0)
    with pytest.raises(ShapeError, match="expected equal shapes"):
        metrics.agreement(logits, logits[:5])
