import json

import numpy as np
import pytest

from vlf_edge.compiler.accuracy.fidelity import Reference
from vlf_edge.compiler.accuracy.gate import Verdict, fewest, judge, verdict_text


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
    "windows, differ, max_drop, passes",
    [
        (200, 2, 1.0, True),  # exactly 99 %
        (200, 3, 1.0, False),
        (150, 2, 1.0, False),  # 98.7 %
        (18, 1, 1.0, True),  # one window is always allowed: nothing finer can be told
        (18, 2, 1.0, False),
        (18, 1, 0.0, False),
        (18, 0, 0.0, True),
        (200, 0, -0.5, False),
        (200, 20, 10.0, True),
    ],
)
def test_agreement_gates_where_labels_are_unknown(windows, differ, max_drop, passes):
    verdict = judge([row("int8 onnx", 1 - differ / windows)], reference(windows), max_drop)
    assert (verdict.passed, verdict.measure, verdict.windows) == (passes, "agreement", windows)
    assert verdict.drop_points == pytest.approx(100 * differ / windows, abs=0.01)


@pytest.mark.parametrize("right, passes", [(190, True), (188, True), (187, False), (195, True)])
def test_accuracy_gates_where_labels_are_known(right, passes):
    known = reference(300, labelled=200, right=190)
    # Which decisions differ does not matter then, only how many are right.
    verdict = judge([row("int8 onnx", 0.5, right / 200)], known, 1.0)
    assert (verdict.passed, verdict.measure, verdict.windows) == (passes, "accuracy", 200)
    assert verdict.drop_points == pytest.approx((190 - right) / 2)


def test_a_few_labels_are_no_accuracy():
    assert judge([row("int8 onnx", 1.0, 0.0)], reference(300, labelled=15), 1.0).measure == "agreement"
    assert judge([row("int8 onnx", 1.0, 0.0)], reference(300, labelled=16), 1.0).measure == "accuracy"


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
