"""The ranking of nodes and what is restored, on toy graphs one of whose nodes int8 ruins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx_toys import clip_toy, frame_toy, images

from vlf_edge import Preprocess, Sampling
from vlf_edge.compiler import graph
from vlf_edge.compiler.accuracy.candidate import CandidateBuilder, measure, reference_rows
from vlf_edge.compiler.accuracy.fidelity import Reference, compare
from vlf_edge.compiler.accuracy.runners import AS_WRITTEN, open_stages
from vlf_edge.compiler.accuracy.sensitivity import effects
from vlf_edge.compiler.fp32_model import Fp32Model
from vlf_edge.compiler.quantization.convert import RESTORED, Int8
from vlf_edge.compiler.quantization.quantize import activations
from vlf_edge.compiler.quantization.ranges import collect_ranges

GRAPHS = {"frame": frame_toy(), "clip": clip_toy()}
FRAMES = images(40)
WINDOWS = np.stack([np.arange(39), np.arange(1, 40)], axis=1)
LABELS = tuple("abcde")


def int8_with(narrow=()):
    """Ranges of the toy graphs; the tensors ``narrow`` = ((stage, tensor), ...) are cut off at a hundredth."""
    fp32 = Fp32Model({"name": "toy"}, LABELS, Preprocess(8, 8, 8), Sampling(2, 1.0), {"origin": "file"}, GRAPHS, {})
    tokens = graph.Session(GRAPHS["frame"]).run({"image": FRAMES})["tokens"]
    feeds = {"frame": {"image": FRAMES}, "clip": {"tokens": tokens[WINDOWS]}}
    ranges = {
        stage: collect_ranges(data, activations(data), [feeds[stage]], "minmax") for stage, data in GRAPHS.items()
    }
    for stage, tensor in narrow:
        thresholds = {**ranges[stage].thresholds, tensor: ranges[stage].thresholds[tensor] / 100}
        ranges[stage] = replace(ranges[stage], thresholds=thresholds)
    return Int8(fp32, ranges, {"method": "minmax"}, {})


@pytest.fixture(scope="module")
def reference():
    with open_stages(AS_WRITTEN, GRAPHS) as stages:
        return Reference.of(stages, FRAMES, WINDOWS)


def builder(reference, max_drop=1.0):
    return CandidateBuilder(reference, max_drop, lambda graphs: (), False, lambda what, done, total: None)


def logits_of(portable):
    tokens = graph.Session(portable["frame"]).run({"image": FRAMES})["tokens"]
    return graph.Session(portable["clip"]).run({"tokens": tokens[WINDOWS]})["logits"]


def test_effects_are_those_of_the_slow_and_obvious_way(reference):
    int8 = int8_with()
    found = effects(int8, reference, AS_WRITTEN)
    assert sorted(effect.key for effect in found) == sorted(int8.nodes())
    assert {stage for stage, _ in int8.nodes()} == {"frame", "clip"}
    assert [effect.gain for effect in found] == sorted((effect.gain for effect in found), reverse=True)
    windows = [int((i + 0.5) * len(WINDOWS) / 32) for i in range(32)]
    expected = reference.logits[windows]
    everything = compare(expected, logits_of(int8.graphs().portable)[windows])["relative"]
    for effect in found:
        alone = compare(expected, logits_of(int8.graphs([effect.key]).portable)[windows])["relative"]
        assert effect.error == pytest.approx(alone, rel=1e-3)
        assert effect.gain == pytest.approx(everything - alone, abs=1e-5)


@pytest.mark.parametrize("way", [AS_WRITTEN, "openvino", "onnxruntime"])
def test_the_ruined_node_is_ranked_first(reference, way):
    if way != AS_WRITTEN:
        pytest.importorskip(way)
    for stage, tensor, node in (("frame", "x", "stem"), ("clip", "pooled", "fc")):
        first = effects(int8_with([(stage, tensor)]), reference, way)[0]
        assert first.key == (stage, node) and first.gain > 0.04


def test_only_the_ruined_nodes_are_restored_and_the_report_says_why(reference):
    int8 = int8_with([("frame", "x"), ("clip", "pooled")])
    found = builder(reference).build_int8(int8)
    assert found.passed and {effect.key for effect in found.restored} <= {("frame", "stem"), ("clip", "fc")}
    assert found.restored and not found.before.passed and found.before.drop_points > 1
    kept = found.graphs.quantization["kept_float"]
    for effect in found.restored:
        assert kept[effect.stage][effect.node] == RESTORED
    gate = found.gate_json()
    assert [(e["stage"], e["node"]) for e in gate["restored"]] == [effect.key for effect in found.restored]
    assert gate["passed"] and gate["before"]["drop_points"] > gate["drop_points"]


def test_nothing_is_restored_that_need_not_be(reference):
    found = builder(reference, max_drop=10.0).build_int8(int8_with())
    assert found.passed and not found.restored and found.before is None
    assert found.graphs.quantization["int8_nodes"] == {"frame": 3, "clip": 5}


def test_a_gate_nothing_can_pass_gives_up_at_half_of_the_nodes(reference):
    found = builder(reference, max_drop=-1.0).build_int8(int8_with())
    assert not found.passed and len(found.restored) == 4 and len(int8_with().nodes()) == 8
    assert not builder(reference, max_drop=None).build_int8(int8_with([("frame", "x")])).restored


def test_rows_name_every_way_and_one_that_fails_is_told(reference, monkeypatch):
    from vlf_edge import BackendMissing
    from vlf_edge.backends import openvino
    from vlf_edge.compiler.accuracy import candidate

    graphs = int8_with().graphs()
    monkeypatch.setattr(candidate, "runners_here", lambda portable, engines: ["openvino", "onnxruntime"])

    def broken(*arguments, **options):
        raise BackendMissing("openvino is installed but cannot be imported")

    monkeypatch.setattr(openvino, "OpenVINOEngine", broken)
    rows = measure(graphs, (), reference, True, lambda done, total: None)
    assert [row["way"] for row in rows] == ["int8 onnx", "int8 typed onnx", "int8 openvino", "int8 onnxruntime"]
    assert rows[2] == {"way": "int8 openvino", "failed": "openvino is installed but cannot be imported"}
    assert all(0 < row["end_to_end"]["relative"] < 0.1 for row in rows if "failed" not in row)


def test_reference_rows_compare_torch_where_there_is_one(reference):
    with open_stages(AS_WRITTEN, GRAPHS) as stages:
        rows = reference_rows(reference, stages)
    assert [row["way"] for row in rows] == ["fp32 torch", "fp32 onnx"]
    assert rows[0]["end_to_end"]["max_abs"] == 0 and "accuracy" not in rows[0]["end_to_end"]
    labelled = replace(reference, labels=reference.logits.argmax(axis=1))
    assert reference_rows(labelled, {}) == [{"way": "fp32 onnx", "end_to_end": {"accuracy": 1.0}}]
