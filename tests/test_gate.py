import json
from dataclasses import replace

import numpy as np
import pytest

from vlf_edge.compiler.accuracy.fidelity import Reference
from vlf_edge.compiler.accuracy.gate import (
    MIN_AGREEMENT,
    Verdict,
    at_least,
    check_reference,
    fewest,
    judge,
    unsound,
    verdict_text,
    windows_needed,
)
from vlf_edge.errors import AccuracyError


def reference(windows=200, labelled=0, right=None):
    """Two classes, decided as class 0 throughout; the first ``right`` of the labelled windows are of class 0."""
    labels = np.full(windows, -1)
    labels[:labelled] = 1
    labels[: labelled if right is None else right] = 0
    logits = np.tile(np.array([1.0, 0.0], np.float32), (windows, 1))
    return Reference(np.zeros((1, 4, 4, 3), np.uint8), np.zeros((windows, 1), int), labels, None, logits)


def row(way, agreement, accuracy=None):
    return {"way": way, "end_to_end": {"top1_agreement": agreement, "accuracy": accuracy}}


@pytest.mark.parametrize(
    "windows, differ, max_drop, passes, missing",
    [
        (200, 2, 1.0, True, 0),  # exactly 99 %
        (200, 3, 1.0, False, 100),  # 3 of 300 would do, and 3 of 200 may be luck
        (150, 2, 1.0, False, 50),
        (200, 9, 1.0, False, 0),  # no luck
        (40, 1, 1.0, False, 60),  # one of few is no pass
        (40, 0, 1.0, True, 0),
        (40, 1, 0.0, False, 0),
        (40, 0, 0.0, True, 0),
        (200, 0, -0.5, False, 0),
        (200, 10, 10.0, True, 0),
        (200, 12, 10.0, True, 0),
        (200, 13, 10.0, False, 3),  # within what is allowed, but too near to the floor to tell
        (200, 20, 10.0, False, 0),  # at the floor
        (200, 120, 100.0, False, 0),  # agreement has a floor whatever is allowed
    ],
)
def test_agreement_gates_where_labels_are_unknown(windows, differ, max_drop, passes, missing):
    verdict = judge([row("int8 onnx", 1 - differ / windows)], reference(windows), max_drop)
    assert (verdict.passed, verdict.measure, verdict.windows) == (passes, "agreement", windows)
    assert verdict.drop_points == pytest.approx(100 * differ / windows, abs=0.01)
    assert verdict.missing == missing


@pytest.mark.parametrize("windows, differ", [(3, 1), (3, 0), (28, 0), (45, 1)])
def test_few_windows_never_pass_by_luck(windows, differ):
    assert not judge([row("int8 onnx", 1 - differ / windows)], reference(windows), 100.0).passed


@pytest.mark.parametrize("differ", [0, 1, 2, 5, 13])
def test_the_floor_is_passed_by_luck_once_in_twenty(differ):
    """Against dice: windows that each differ with the probability of the floor."""
    windows = windows_needed(differ)
    dice = np.random.default_rng(differ).random((40_000, windows)) < 1 - MIN_AGREEMENT
    assert np.mean(dice.sum(axis=1) <= differ) == pytest.approx(0.045, abs=0.01)
    assert np.mean(dice[:, 1:].sum(axis=1) <= differ) > 0.045, "one window less would not do"
    assert at_least(differ, windows, 0.1) == pytest.approx(np.mean(dice.sum(axis=1) >= differ), abs=0.01)


@pytest.mark.parametrize("right, passes", [(190, True), (188, True), (187, False), (195, True)])
def test_accuracy_gates_where_labels_are_known(right, passes):
    known = reference(300, labelled=200, right=190)
    verdict = judge([row("int8 onnx", 0.95, right / 200)], known, 1.0)
    assert (verdict.passed, verdict.measure, verdict.windows) == (passes, "accuracy", 200)
    assert verdict.drop_points == pytest.approx((190 - right) / 2)


def test_no_accuracy_makes_up_for_other_decisions():
    """fp32 decides nothing right, so accuracy can only rise: by 100 points, of a plan that is wrong."""
    known = reference(200, labelled=200, right=0)
    verdict = judge([row("int8 onnx", 0.0, 1.0)], known, 1.0)
    assert not verdict.passed and verdict.measure == "agreement" and verdict.drop_points == 100
    assert str(verdict).startswith("100 % of the decisions differ on int8 onnx, at most 10 allowed")


def test_a_few_labels_are_no_accuracy():
    assert judge([row("int8 onnx", 1.0, 0.0)], reference(300, labelled=28), 1.0).measure == "agreement"
    assert judge([row("int8 onnx", 1.0, 0.0)], reference(300, labelled=29), 1.0).measure == "accuracy"


def test_too_few_windows_and_guesses_are_refused_before_anything_is_judged():
    with pytest.raises(AccuracyError, match="3 held out, at least 29 needed, 26 missing"):
        check_reference(reference(3))
    check_reference(reference(29))
    with pytest.raises(AccuracyError, match="only 104 of 200 windows of known class right.*among 2 classes"):
        check_reference(reference(200, labelled=200, right=104))
    check_reference(reference(200, labelled=200, right=115))
    check_reference(reference(200, labelled=28, right=0))  # too few to be called labelled


def test_the_worst_way_decides_and_ways_that_failed_to_run_do_not():
    rows = [row("int8 onnx", 1.0), row("int8 openvino", 0.9), {"way": "int8 tensorrt", "failed": "no memory"}]
    verdict = judge(rows, reference(), 1.0)
    assert not verdict.passed and verdict.way == "int8 openvino" and verdict.drop_points == 10
    assert judge([rows[0], rows[2]], reference(), 1.0).passed


def test_nan_never_passes_and_is_plain_json():
    verdict = judge([row("int8 onnx", 1.0), row("fp16 openvino", None)], reference(), 100.0)
    assert not verdict.passed and verdict.drop_points is None and verdict.way == "fp16 openvino"
    json.dumps(verdict.to_json(), allow_nan=False)
    assert str(verdict) == "fp16 openvino gives NaN or infinity"


def test_a_verdict_in_words():
    verdict = Verdict(False, "accuracy", 200, 2.5, "int8 openvino", 1.0)
    told = "accuracy drops by 2.5 points on int8 openvino, at most 1 allowed (200 windows: one is 0.5)"
    assert str(verdict) == verdict_text(json.loads(json.dumps(verdict.to_json()))) == told
    assert str(replace(verdict, missing=50)) == f"{told}; that may be luck, 50 more held-out windows would tell"


def test_nan_is_seen_where_nothing_gates():
    rows = [row("fp32 openvino", 1.0), {"way": "fp32 torch", "end_to_end": {"accuracy": 1.0}}]
    assert unsound(rows, reference()) is None
    broken = {"way": "fp16 openvino", "end_to_end": {"relative": None, "nonfinite": 0.5}}
    verdict = unsound([*rows, broken], reference())
    assert not verdict.passed and str(verdict) == "fp16 openvino gives NaN or infinity"


@pytest.mark.parametrize("needed", range(1, 12))
@pytest.mark.parametrize("most", [1, 5, 9])
def test_fewest_is_what_trying_one_after_the_other_finds(needed, most):
    ranked, tried = list("abcdefghij"), []

    def passes(nodes):
        tried.append(len(nodes))
        return len(nodes) >= needed

    slow = next((ranked[:n] for n in range(1, most + 1) if n >= needed), None)
    assert fewest(ranked, most, passes) == slow
    assert len(tried) <= 2 + np.log2(most) and max(tried) <= most


def test_fewest_returns_only_what_passed():
    """Even if more nodes in float are sometimes worse."""
    good = {2, 5, 6}
    found = fewest(list(range(6)), 6, lambda nodes: len(nodes) in good)
    assert len(found) in good
    assert fewest([], 0, lambda nodes: pytest.fail("nothing to try")) is None
