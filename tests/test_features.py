"""Features: what a model's classifier reads and how tokens change, beside its logits, in every graph of a plan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from toy_graphs import toy_clip, toy_frame
from toy_model import TOY, build_toy, lively

from vlf_edge import Plan
from vlf_edge.backends.table import TABLE
from vlf_edge.compiler import Recipe, build
from vlf_edge.compiler.features import roles_of, with_features
from vlf_edge.compiler.graph import Session, tensor_specs
from vlf_edge.compiler.onnx_export import export_stage
from vlf_edge.models.stage import evaluating

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def toy():
    model = lively(build_toy())
    return model, export_stage(model.stages()[1])


def windows(count: int = 3) -> np.ndarray:
    shape = (count, TOY.frames, 2, TOY.token_dim)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_features_are_what_the_mlp_reads_and_logits_stay_as_they_are(toy):
    model, before = toy
    after = with_features(before)
    inputs, outputs = tensor_specs(after)
    assert [str(spec) for spec in outputs] == ["logits float32(N, 4)", f"features float32(N, {16 + TOY.token_dim})"]
    tokens = windows()[:, :, : inputs[0].shape[2]]
    found, plain = Session(after).run({"tokens": tokens}), Session(before).run({"tokens": tokens})
    np.testing.assert_array_equal(found["logits"], plain["logits"])
    with evaluating(model), torch.no_grad():
        mixed = model.clip.mix(torch.from_numpy(tokens)).mean(dim=(1, 2))
    np.testing.assert_allclose(found["features"][:, :16], mixed.numpy(), rtol=1e-4, atol=1e-5)


def largest_changes(tokens: np.ndarray) -> np.ndarray:
    """(N, K, S, D) -> (N, D), one number after the other."""
    n, frames, of_frame, channels = tokens.shape
    found = np.zeros((n, channels))
    for window, channel in np.ndindex(n, channels):
        each = tokens[window, :, :, channel]
        found[window, channel] = np.mean(
            [max(abs(each[k + 1, token] - each[k, token]) for k in range(frames - 1)) for token in range(of_frame)]
        )
    return found


def test_features_say_beside_it_how_much_each_channel_of_the_tokens_changes(toy):
    after = with_features(toy[1])
    tokens = windows()[:, :, : tensor_specs(after)[0][0].shape[2]]
    found = Session(after).run({"tokens": tokens})["features"]
    np.testing.assert_allclose(found[:, 16:], largest_changes(tokens), rtol=1e-5)
    still = np.repeat(tokens[:, :1], TOY.frames, axis=1)
    assert not Session(after).run({"tokens": still})["features"][:, 16:].any()


def test_wide_features_stay_what_the_classifier_reads(toy, monkeypatch):
    monkeypatch.setattr("vlf_edge.compiler.features.MOST_FEATURES", 16 + TOY.token_dim - 1)
    after = with_features(toy[1])
    assert str(tensor_specs(after)[1][1]) == "features float32(N, 16)"


def test_a_graph_gets_them_once(toy):
    after = with_features(toy[1])
    assert with_features(after) == after
    assert roles_of({"frame": toy_frame(), "clip": after}) == {
        "clip": {"tokens": "window", "logits": "logits", "features": "features"}
    }


def test_a_last_layer_alone_is_a_classifier_too():
    _, outputs = tensor_specs(with_features(toy_clip()))
    assert [str(spec) for spec in outputs] == ["logits float32(N, 5)", "features float32(N, 192)"]


def no_layer() -> bytes:
    """Logits that are a mean over frames of what a layer gives for each: no vector of the window goes into a layer."""
    weight = onnx.numpy_helper.from_array(np.ones((4, 5), np.float32), "w")
    nodes = [
        onnx.helper.make_node("MatMul", ["tokens", "w"], ["each"]),
        onnx.helper.make_node("ReduceMean", ["each"], ["logits"], axes=[1], keepdims=0),
    ]
    value = onnx.helper.make_tensor_value_info
    tokens, logits = value("tokens", 1, ["N", 3, 4]), value("logits", 1, ["N", 5])
    graph = onnx.helper.make_graph(nodes, "toy", [tokens], [logits], [weight])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]).SerializeToString()


@pytest.mark.parametrize("graph", [toy_frame(), no_layer()])
def test_what_has_no_classifier_stays_as_it_is(graph):
    assert with_features(graph) == graph


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_graph_of_a_plan_gives_them_in_float(plans, precision):
    manifest = Plan.open(plans[precision]).manifest
    assert manifest.format == 2 and manifest.stage_roles[1].output_of("features") == "features"
    for kind in ("fp32", "portable", "typed"):
        logits, features = manifest.graph("clip", kind).outputs
        assert (logits.name, features.name) == ("logits", "features")
        assert logits.dtype == features.dtype == "float32" and features.shape == ("N", 192)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_both_backends_give_them_in_int8(plans, backend):
    pytest.importorskip(backend)
    plan = Plan.open(plans["int8"])
    shape = (1, *plan.manifest.graph("clip", "fp32").inputs[0].shape[1:])
    tokens = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    found = {}
    for kind in ("fp32", "portable"):
        with TABLE[backend].open_graph(plan.graph("clip", kind), precision="int8") as engine:
            found[kind] = engine.infer({"tokens": tokens})["features"]
    error = np.linalg.norm(found["portable"] - found["fp32"]) / np.linalg.norm(found["fp32"])
    assert found["fp32"].shape == (1, 192) and 0 < error < 0.2


def test_a_plan_of_an_earlier_version_gets_them_from_its_own_graphs(tmp_path):
    old = Plan.open(GOLDEN / "format1-fp32.plan")
    new = build(Recipe(precision="fp32", target="cpu"), tmp_path / "new.plan", base=old.path)
    assert new.manifest.format == 2 and new.graph("frame", "fp32") == old.graph("frame", "fp32")
    tokens = np.random.default_rng(0).standard_normal((1, *new.manifest.graph("clip", "fp32").inputs[0].shape[1:]))
    found = [Session(plan.graph("clip", "fp32")).run({"tokens": tokens.astype(np.float32)}) for plan in (old, new)]
    np.testing.assert_array_equal(found[0]["logits"], found[1]["logits"])
