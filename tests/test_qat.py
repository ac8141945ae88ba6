"""The fake-quantised model answers as the int8 graph made from its saved weights and scales, and training helps."""

import copy
import json
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import nn
from toy_model import TOY, build_toy, lively

from vlf_edge.compiler import graph
from vlf_edge.compiler.onnx_export import export_stage
from vlf_edge.compiler.quantization import quantize
from vlf_edge.compiler.quantization.trained_ranges import trained_ranges
from vlf_edge.errors import CalibrationError, WeightsError
from vlf_edge.models.weights import load_weights, save_weights
from vlf_edge.training import qat
from vlf_edge.training.quantizable import quantizable

LABELS = ("a", "b", "c", "d")


def clips(count, seed=0):
    """Coarse patterns of random contrast and brightness, so that logits differ from clip to clip."""
    rng = np.random.default_rng(seed)
    coarse = (
        rng.random((count, TOY.frames, TOY.height_px // 8, TOY.width_px // 8, 3)).repeat(8, axis=2).repeat(8, axis=3)
    )
    low, high = np.sort(rng.random((2, count, 1, 1, 1, 3)), axis=0)
    return torch.from_numpy((255 * (low + coarse * (high - low))).astype(np.uint8))


def fake_quantized():
    model = lively(build_toy()).eval()
    qat.fake_quantize(model, qat.measure_scales(model, [clips(8)]))
    return model


def run(onnx_bytes, feed, outputs=None):
    """Outputs of the graph as it is written: ONNX Runtime's optimisations put biases on a coarse grid of their own."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"]).run(outputs, feed)


def logits_of(graphs, images):
    """images (N, K, H, W, 3) uint8 -> logits (N, C) of the graphs."""
    tokens = run(graphs["frame"], {"image": images.flatten(0, 1).numpy()})[0]
    return run(graphs["clip"], {"tokens": tokens.reshape(*images.shape[:2], *tokens.shape[1:])})[0]


def relative(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(a - a.mean(axis=0)))


class Trained(NamedTuple):
    """A model whose scales were all too small and that then learned to answer ``wanted``, and what a build makes of its
    weights file. loss_before: mean squared error of its int8 logits before it learned."""

    model: nn.Module
    layers: tuple
    exported: dict
    graphs: dict
    images: torch.Tensor
    wanted: torch.Tensor
    loss_before: float


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    model, train, held_out = lively(build_toy()).eval(), clips(8), clips(32, seed=1)
    with torch.no_grad():
        wanted, wanted_held_out = model(train), model(held_out)
    layers, scales = quantizable(model), qat.measure_scales(model, [train])
    qat.fake_quantize(model, {stage: {w: 0.15 * s for w, s in found.items()} for stage, found in scales.items()})
    with torch.no_grad():
        before = float(F.mse_loss(model(held_out), wanted_held_out))
    log_scales = model.fake_quantizer.log_scales
    weights = [parameter for parameter in model.parameters() if parameter is not log_scales]
    optimizer = torch.optim.Adam([{"params": weights, "lr": 2e-4}, {"params": [log_scales], "lr": 3e-2}])
    for _ in range(40):
        optimizer.zero_grad()
        F.mse_loss(model(train), wanted).backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_weights(path, qat.plain_copy(model), LABELS, {"qat": {"scales": qat.trained_scales(model)}})
    loaded = load_weights(path)
    exported = {stage.name: export_stage(stage) for stage in loaded.model.stages()}
    graphs = {
        stage: quantize.quantize(fp32, trained_ranges(loaded.record, stage, fp32)).onnx
        for stage, fp32 in exported.items()
    }
    return Trained(model, layers, exported, graphs, held_out, wanted_held_out, before)


def test_training_brings_the_int8_graph_closer_to_its_target(trained):
    found = torch.from_numpy(logits_of(trained.graphs, trained.images))
    assert float(F.mse_loss(found, trained.wanted)) < 0.2 * trained.loss_before


def test_logits_are_those_of_the_int8_graph(trained):
    model, graphs, images = trained.model, trained.graphs, trained.images
    with torch.no_grad():
        expected, unquantised = model(images).numpy(), qat.plain_copy(model)(images).numpy()
    found = logits_of(graphs, images)
    # Most clips agree to the last digits. In some a sum is rounded the other way and a value gets the next code, which
    # later layers see: next to what int8 itself changes that must be little.
    assert np.median(np.abs(found - expected)) < 1e-5
    assert relative(expected, found) < 0.5 * relative(expected, unquantised)


@pytest.mark.parametrize("stage", ["frame", "clip"])
def test_every_layer_answers_as_its_node(trained, stage):
    model, graphs = trained.model, trained.graphs
    nodes = onnx.load_from_string(graphs[stage])
    made = {node.output[0]: node for node in nodes.graph.node}
    layers = {layer.weight: layer for layer in trained.layers if layer.stage == stage}
    places = {}  # weight -> (name of what the node reads, before quantisation; name of what it makes; its biases)
    for node in nodes.graph.node:
        activation, weight = (made.get(name) for name in node.input[:2]) if len(node.input) > 1 else (None, None)
        if node.op_type in ("Conv", "Gemm", "MatMul") and weight.op_type == "DequantizeLinear":
            weight = weight.input[0].rpartition("/axis")[0]
            places[weight] = made[activation.input[0]].input[0], node.output[0], node.op_type == "MatMul"
    assert places.keys() == layers.keys()
    names = sorted({name for place in places.values() for name in place[:2]} | {nodes.graph.output[0].name})
    del nodes.graph.output[:]
    nodes.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    images = clips(4, seed=1)
    feed = {"image": images[0].numpy()}
    if stage == "clip":
        with torch.no_grad():
            feed = {"tokens": model.encode_frames(images.flatten(0, 1)).unflatten(0, (4, -1)).numpy()}
    values = dict(zip(names, run(nodes.SerializeToString(), feed, names)))
    for weight, (read, wrote, bias_is_apart) in places.items():
        layer = layers[weight]
        with torch.no_grad():
            found = layer.module(torch.from_numpy(values[read]))
            found = found if layer.norm is None else layer.norm(found)
            found = found - layer.module.bias if bias_is_apart and layer.module.bias is not None else found
        np.testing.assert_allclose(found, values[wrote], atol=2e-5 * np.abs(values[wrote]).max(), err_msg=weight)


def test_weights_have_the_codes_and_scales_of_the_graph(trained):
    model, graphs = trained.model, trained.graphs
    plain = quantizable(qat.plain_copy(model))
    for layer in plain:
        constants = graph.initializers(onnx.load_from_string(graphs[layer.stage]))
        axis = 0 if f"{layer.weight}/axis0/int8" in constants else 1
        codes, scales = (numpy_helper.to_array(constants[f"{layer.weight}/axis{axis}/{p}"]) for p in ("int8", "scale"))
        codes = codes if axis == 0 else codes.T
        with torch.no_grad():
            found = qat.quantized_weight(layer.module.weight * qat._gain(layer.norm, layer.module.weight))
        np.testing.assert_array_equal(found, codes * scales.reshape(-1, *[1] * (codes.ndim - 1)), layer.weight)


@pytest.mark.parametrize("backbone", ["toy", "tf_mobilenetv3_small_minimal_100"])
def test_the_compilers_layers_are_found_under_its_names(trained, backbone):
    """One with depthwise convolutions that pad unevenly, and with layers past the map that is used."""
    model, exported = build_toy(), trained.exported
    if backbone != "toy":
        model = build_toy(replace(TOY, backbone=backbone, reduction=8, backbone_options={}))
        exported = {"frame": export_stage(model.stages()[0])}
    found = quantizable(model)
    for stage in model.stages()[: len(exported)]:
        layers = quantize.quantizable_nodes(exported[stage.name])
        here = [layer for layer in found if layer.stage == stage.name]
        assert sorted(layer.weight for layer in layers) == sorted(layer.weight for layer in here)
        activation = {layer.weight: layer.activation for layer in layers}
        together = {(a.weight, b.weight) for a in here for b in here if a.source == b.source}
        assert together == {(a, b) for a in activation for b in activation if activation[a] == activation[b]}
        biased = {layer.weight for layer in here if layer.norm or layer.module.bias is not None}
        assert biased == {layer.weight for layer in here}, "no BatchNorm is missed: these models have biases or norms"


def test_gradients_reach_every_parameter_and_statistics_stay():
    model = fake_quantized().train()
    statistics = {name: b.clone() for name, b in model.named_buffers()}
    F.cross_entropy(model(clips(6)), torch.arange(6) % 4).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    assert (model.fake_quantizer.log_scales.grad != 0).all()
    assert all(torch.equal(statistics[name], b) for name, b in model.named_buffers())


def test_learned_steps_gradient_is_that_of_the_paper():
    x = torch.tensor([[-9.0, -1.3, -0.2, 0.0], [0.26, 0.74, 1.1, 7.0]], requires_grad=True)
    scale = torch.tensor(0.05, requires_grad=True)
    factor = torch.arange(1.0, 9.0).view(2, 4)
    y = qat._LearnedStep.apply(x, scale)
    (y * factor).sum().backward()
    expected, by_scale = [], 0.0
    for value, weight in zip(x.flatten().tolist(), factor.flatten().tolist()):
        v = value / np.float32(0.05)
        inside = -128 <= v <= 127
        by_scale += weight * (np.rint(v) - v if inside else (-128 if v < 0 else 127))
        expected.append(weight if inside else 0.0)
    np.testing.assert_array_equal(x.grad.flatten(), expected)
    assert float(scale.grad) == pytest.approx(by_scale / np.sqrt(4 * 127), rel=1e-4)
    np.testing.assert_allclose(y.detach(), np.rint(x.detach().numpy() / 0.05).clip(-128, 127) * 0.05, rtol=1e-6)


def test_scales_are_rounded_as_the_compiler_rounds_them():
    limits = np.concatenate([np.geomspace(1e-9, 8e6, 5000), [0.0, 127.0, 0.127, 65504 * 127]]).astype(np.float32)
    np.testing.assert_array_equal(qat.float16_scales(torch.from_numpy(limits)), quantize.float16_scales(limits))


def test_scales_survive_the_way_through_json_exactly(trained):
    model, graphs = trained.model, trained.graphs
    scales = json.loads(json.dumps(qat.trained_scales(model)))
    again = qat.plain_copy(model)
    qat.fake_quantize(again, scales)
    assert qat.trained_scales(again) == scales
    with torch.no_grad():
        assert torch.equal(again(clips(4)), model(clips(4)))
    for stage, weights in scales.items():
        constants = graph.initializers(onnx.load_from_string(graphs[stage]))
        inputs = [k for k in constants if k.endswith("/scale") and "/axis" not in k]
        assert {float(numpy_helper.to_array(constants[k])) for k in inputs} == set(weights.values())


def test_copies_and_states_carry_their_own_scales():
    model = fake_quantized()
    average = copy.deepcopy(model)
    with torch.no_grad():
        before = average(clips(2))
        model.fake_quantizer.log_scales += 1
        assert torch.equal(average(clips(2)), before)
        average.load_state_dict(model.state_dict())
        assert torch.equal(average(clips(2)), model(clips(2)))
        assert not torch.equal(average(clips(2)), before)


def test_plain_copy_is_the_model_as_it_was():
    original = lively(build_toy()).eval()
    model = copy.deepcopy(original)
    modes = {name: module.training for name, module in model.named_modules()}
    state = torch.get_rng_state()
    qat.fake_quantize(model, qat.measure_scales(model, [clips(2)]))
    plain = qat.plain_copy(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert plain.state_dict().keys() == original.state_dict().keys()
    assert all(torch.equal(value, original.state_dict()[name]) for name, value in plain.state_dict().items())
    assert {name: module.training for name, module in plain.named_modules()} == modes


def test_calibration_finds_the_percentile():
    model = lively(build_toy()).eval()
    seen = []
    hook = model.clip.mlp[3].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].numpy()))
    batches = [clips(8), clips(8, seed=1)]
    with torch.no_grad():
        for batch in batches:
            model(batch)
    hook.remove()
    scales = qat.measure_scales(model, batches)
    values = np.concatenate(seen)
    expected = np.percentile(np.abs(values[values != 0]), 99.99) / 127
    assert scales["clip"]["mlp.3.weight"] == pytest.approx(expected, rel=1e-5)


def test_a_layer_that_reads_only_zeros_stays_float(trained):
    model = lively(build_toy()).eval()
    with torch.no_grad():
        model.clip.mlp[0].weight.zero_()
        model.clip.mlp[0].bias.fill_(-1)
    scales = qat.measure_scales(model, [clips(4)])
    assert scales["clip"]["mlp.3.weight"] == 0 and scales["clip"]["mlp.0.weight"] > 0
    qat.fake_quantize(model, scales)
    assert qat.trained_scales(model)["clip"]["mlp.3.weight"] == 0
    exported = trained.exported["clip"]  # of other weights, but the same graph
    ranges = trained_ranges({"qat": {"scales": qat.trained_scales(model)}}, "clip", exported)
    assert "zero throughout" in quantize.quantize(exported, ranges).kept_float["mlp.3/Gemm"]
    assert torch.equal(model.clip.mlp[3].weight, qat.plain_copy(model).clip.mlp[3].weight)


def test_mistakes_are_named():
    model = lively(build_toy()).eval()
    with pytest.raises(CalibrationError, match="needs clips to start from and got none"):
        qat.measure_scales(model, [])
    scales = qat.measure_scales(model, [clips(2)])
    with pytest.raises(WeightsError, match="of another model: 1 layers differ, such as clip/mlp.3.weight"):
        qat.fake_quantize(model, {**scales, "clip": {k: v for k, v in scales["clip"].items() if k != "mlp.3.weight"}})
    shared = {**scales["frame"], "f.net.layer1.0.downsample.1.weight": 0.25}
    with pytest.raises(WeightsError, match="downsample.1.weight has 0.25, but another layer that reads the same"):
        qat.fake_quantize(model, {**scales, "frame": shared})
    with pytest.raises(WeightsError, match="the scale of frame/f.net.conv1.0.weight is -1, expected 0 to 65504"):
        qat.fake_quantize(model, {**scales, "frame": {**scales["frame"], "f.net.conv1.0.weight": -1}})
    assert not hasattr(model, "fake_quantizer"), "a model that was refused is left as it was"
    with torch.no_grad():
        model.clip.mlp[0].bias.fill_(float("nan"))
    with pytest.raises(CalibrationError, match="input of clip/mlp.3.weight reaches nan"):
        qat.measure_scales(model, [clips(2)])


def test_a_record_that_does_not_fit_the_graph_is_refused(trained):
    frame, exported = qat.trained_scales(trained.model)["frame"], trained.exported["frame"]
    assert trained_ranges({"epochs": 3}, "frame", exported) is None
    with pytest.raises(WeightsError, match="1 layers of the frame stage differ, such as 'project.0.weight'"):
        less = {name: scale for name, scale in frame.items() if name != "project.0.weight"}
        trained_ranges({"qat": {"scales": {"frame": less}}}, "frame", exported)
    with pytest.raises(WeightsError, match="'f.net.maxpool/MaxPool' in the frame stage was trained with two scales"):
        trained_ranges({"qat": {"scales": {"frame": {**frame, "f.net.layer1.0.conv1.weight": 0.5}}}}, "frame", exported)
    for damaged in ("x", {"scales": [1]}, {"scales": {"clip": {}}}):
        with pytest.raises(WeightsError, match="has no scales for the frame stage"):
            trained_ranges({"qat": damaged}, "frame", exported)
    for scale in (True, "1", -0.5, float("nan"), float("inf"), 10**400, None):
        with pytest.raises(WeightsError, match="gives 'project.0.weight' the scale"):
            trained_ranges({"qat": {"scales": {"frame": {**frame, "project.0.weight": scale}}}}, "frame", exported)
