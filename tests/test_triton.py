"""vlf-edge export --triton: a server could load what is written, and would decide as the runtime does."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent import futures
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import toy_manifest
from export_toys import both, error_of, export, full_plan, tree
from onnx_toys import write_fp32_plan
from triton_server import Server, Symbol, parse

from vlf_edge import Manifest, Plan, Runtime, TensorSpec
from vlf_edge.video.preprocess import Preprocessor
from vlf_edge.video.sampler import segment_centres

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "vlf_edge" / "weights" / "vlf-tiny.plan"
DOCUMENT = ROOT / "docs" / "triton.md"


def toy_onnx_plan(folder: Path) -> Path:
    return write_fp32_plan(folder / "toy.plan", {"name": "toy"}, ("wave", 'say "hi"', "nod", "shake", "none"))


@pytest.mark.parametrize("make", [toy_onnx_plan, lambda folder: SHIPPED], ids=["toy", "shipped"])
def test_a_server_s_ensemble_decides_as_the_runtime_does(tmp_path, images, make):
    plan = Plan.open(make(tmp_path))
    assert export(plan, "--triton", tmp_path / "models", "--triton-name", "action") == 0
    server = Server(tmp_path / "models")
    assert server.ensemble == "action" and set(server.configs) == {"action", "action_frame", "action_clip"}
    frames = plan.manifest.sampling.frames
    preprocess = Preprocessor(plan.manifest.preprocess)
    clip = np.stack([preprocess(images[i]) for i in segment_centres(len(images), frames)])
    with Runtime(plan, backend="onnxruntime") as runtime:
        want = runtime.classify(images)
    logits = server.infer("action", clip)
    np.testing.assert_array_equal(logits, want.logits)
    if plan.path == SHIPPED:  # the toy has no positions: any order of frames is one to it
        assert np.abs(server.infer("action", clip[::-1].copy()) - logits).max() > 0.01 * np.abs(logits).max()
    # A live client runs the stages itself: the frame stage image by image, and the clip stage on what it kept.
    tokens = np.concatenate([server.infer("action_frame", image[np.newaxis]) for image in clip])
    np.testing.assert_allclose(server.infer("action_clip", tokens)[0], logits, atol=1e-5 * np.abs(logits).max())
    for model in ("action", "action_clip"):
        assert (tmp_path / "models" / model / "labels.txt").read_text().splitlines() == list(plan.manifest.labels)


def test_triton_config_of_tensorrt_engines(tmp_path):
    plan = full_plan(tmp_path / "a.plan", *both("rtx", "tensorrt_rtx"), *both("orin", "tensorrt"), max_batch=16)
    out = tmp_path / "models"
    assert export(plan, "--triton", out) == 0
    server = Server(out)
    frame, clip, ensemble = (server.configs[name] for name in ("toy_frame", "toy_clip", "toy"))
    assert frame["backend"] == clip["backend"] == ["tensorrt"]
    assert frame["instance_group"] == clip["instance_group"] == [{"count": [1], "kind": [Symbol("KIND_GPU")]}]
    assert frame["max_batch_size"] == [16] and "dynamic_batching" in frame and "instance_group" not in ensemble
    assert frame["input"] == [{"name": ["image"], "data_type": [Symbol("TYPE_UINT8")], "dims": [32, 32, 3]}]
    assert frame["output"] == [{"name": ["tokens"], "data_type": [Symbol("TYPE_FP16")], "dims": [4, 6]}]
    assert clip["input"][0]["reshape"] == [{"shape": [1, 4, 4, 6]}] and clip["input"][0]["dims"] == [4, 4, 6]
    assert ensemble["input"] == [{"name": ["clip"], "data_type": [Symbol("TYPE_UINT8")], "dims": [4, 32, 32, 3]}]
    assert ensemble["output"][0]["dims"] == [5] and ensemble["output"][0]["data_type"] == [Symbol("TYPE_FP16")]
    for stage in ("frame", "clip"):
        assert (out / f"toy_{stage}" / "1" / "model.plan").read_bytes() == f"{stage}.orin.engine".encode()
        assert not (out / f"toy_{stage}" / "1" / "model.onnx").exists()
        assert "tensorrt 10.3.0, built on Orin nano" in (out / f"toy_{stage}" / "config.pbtxt").read_text()
    told = json.loads((out / "vlf.json").read_text())
    assert (told["backend"], told["target"], told["ensemble"]) == ("tensorrt", "orin", "toy")


@pytest.mark.parametrize(
    "engines, words",
    [
        ([], []),
        (both("rtx", "tensorrt_rtx"), []),
        (both("orin", "tensorrt"), ["--target", "cpu"]),
        ([("frame", "orin", "tensorrt")], []),
    ],
    ids=["none", "rtx", "cpu wanted", "one stage"],
)
def test_triton_gets_onnx_where_it_could_not_load_engines(tmp_path, capsys, engines, words):
    plan, out = full_plan(tmp_path / "a.plan", *engines), tmp_path / "models"
    assert export(plan, "--triton", out, *words) == 0
    told = capsys.readouterr().err
    assert ("portable ONNX, not" in told) == bool(engines and not words)
    for stage in ("frame", "clip"):
        config = parse((out / f"toy_{stage}" / "config.pbtxt").read_text())
        assert config["backend"] == ["onnxruntime"] and "instance_group" not in config
        assert (out / f"toy_{stage}" / "1" / "model.onnx").read_bytes() == plan.graph(stage, "portable")


def test_more_frames_than_the_default_batch_still_fit(tmp_path):
    plan = full_plan(tmp_path / "a.plan", manifest=toy_manifest(frames=12))
    assert export(plan, "--triton", tmp_path / "models") == 0
    server = Server(tmp_path / "models")
    assert server.configs["toy_frame"]["max_batch_size"] == [12]
    assert server.configs["toy"]["input"][0]["dims"] == [12, 32, 32, 3]


def one_stage(manifest: Manifest) -> Manifest:
    images = TensorSpec("images", "uint8", ("N", 4, 32, 32, 3))
    graphs = tuple(replace(g, inputs=(images,)) for g in manifest.graphs if g.stage == "clip")
    return replace(manifest, stages=("clip",), graphs=graphs)


@pytest.mark.parametrize(
    "change, engines, words, message",
    [
        (None, both("a", "tensorrt") + both("b", "tensorrt"), [], "engines for a, b: choose one with --target"),
        (None, both("rtx", "tensorrt_rtx"), ["--target", "rtx"], "target 'rtx' is of tensorrt_rtx"),
        (None, both("rtx", "tensorrt_rtx"), ["--target", "orin"], "no engine of target 'orin', available: rtx"),
        (None, both("small", "tensorrt"), [], "batches up to 2, but a clip has 4 images; build it anew with: vlf-edge"),
        (None, [], ["--triton-name", "../x"], "'../x' cannot name a file"),
        (lambda m: replace(m, model={}), [], [], "choose one with --triton-name"),
        (one_stage, [], [], "this plan has the stages clip; Triton gets plans of frame and clip only"),
    ],
)
def test_what_triton_cannot_serve_is_one_sentence(tmp_path, capsys, change, engines, words, message):
    manifest = change(toy_manifest()) if change else None
    plan = full_plan(tmp_path / "a.plan", *engines, max_batch=2, manifest=manifest)
    assert export(plan, "--triton", tmp_path / "models", *words) == 1
    assert message in error_of(capsys) and not (tmp_path / "models").exists()


def test_of_a_fleets_plan_one_gpu_is_chosen(tmp_path, capsys):
    plan = full_plan(tmp_path / "toy.plan", *both("tensorrt:h100", "tensorrt"), *both("tensorrt:orin", "tensorrt"))
    assert export(plan, "--triton", tmp_path / "models", "--target", "tensorrt") == 1
    assert "engines for tensorrt:h100, tensorrt:orin: choose one with --target" in error_of(capsys)
    assert export(plan, "--triton", tmp_path / "models", "--target", "tensorrt:orin") == 0
    assert tree(tmp_path / "models")["toy_frame/1/model.plan"] == b"frame.tensorrt-orin.engine"
    assert export(plan, "--raw", tmp_path / "raw", "--target", "tensorrt") == 0
    assert {name.split("/")[0] for name in tree(tmp_path / "raw") if "/" in name} == {"tensorrt-h100", "tensorrt-orin"}
    assert export(plan, "--raw", tmp_path / "none", "--target", "tensorrt:thor") == 1
    assert error_of(capsys).rstrip().endswith("toy.plan --target tensorrt")
    assert export(plan, "--raw", tmp_path / "none", "--target", "tensorrt_rtx") == 1
    assert error_of(capsys).rstrip().endswith("toy.plan --target rtx")


def test_of_two_targets_the_one_asked_for(tmp_path):
    plan = full_plan(tmp_path / "a.plan", *both("a", "tensorrt"), *both("b", "tensorrt"))
    assert export(plan, "--triton", tmp_path / "models", "--target", "b") == 0
    assert (tmp_path / "models" / "toy_clip" / "1" / "model.plan").read_bytes() == b"clip.b.engine"


def test_odd_names_reach_the_config_as_they_are(tmp_path):
    name = 'image "\\0" #{'
    manifest = toy_manifest()
    odd = tuple(
        replace(g, inputs=(replace(g.inputs[0], name=name),)) if g.stage == "frame" else g for g in manifest.graphs
    )
    assert (
        export(full_plan(tmp_path / "a.plan", manifest=replace(manifest, graphs=odd)), "--triton", tmp_path / "m") == 0
    )
    assert Server(tmp_path / "m").configs["toy_frame"]["input"][0]["name"] == [name]


@pytest.mark.parametrize("engines", [[], both("orin", "tensorrt")], ids=["onnx", "engines"])
def test_triton_s_own_schema_reads_every_config_as_we_do(tmp_path, engines):
    schema = pytest.importorskip(
        "tritonclient.grpc.model_config_pb2", reason="tritonclient[grpc] has Triton's schema and is not installed"
    )
    from google.protobuf import text_format

    assert export(full_plan(tmp_path / "a.plan", *engines), "--triton", tmp_path / "m", "--triton-name", "t") == 0
    for name, ours in Server(tmp_path / "m").configs.items():
        theirs = text_format.Parse((tmp_path / "m" / name / "config.pbtxt").read_text(), schema.ModelConfig())
        assert theirs.name == name and theirs.max_batch_size == ours["max_batch_size"][0]
        assert theirs.HasField("dynamic_batching") == ("dynamic_batching" in ours)
        assert [group.kind for group in theirs.instance_group] == (
            [schema.ModelInstanceGroup.KIND_GPU] if engines and name != "t" else []
        )
        for side in ("input", "output"):
            for tensor, own in zip(getattr(theirs, side), ours[side], strict=True):
                assert schema.DataType.Name(tensor.data_type) == str(own["data_type"][0])
                assert (tensor.name, list(tensor.dims)) == (own["name"][0], own["dims"])
                assert list(tensor.reshape.shape) == (own["reshape"][0]["shape"] if "reshape" in own else [])
        for step, own in zip(
            theirs.ensemble_scheduling.step, ours.get("ensemble_scheduling", [{"step": []}])[0]["step"]
        ):
            for maps in ("input_map", "output_map"):
                assert dict(getattr(step, maps)) == {entry["key"][0]: entry["value"][0] for entry in own[maps]}
    assert len(theirs.ensemble_scheduling.step) + len(theirs.backend) > 0


def test_the_document_s_client_gets_the_runtime_s_answer(tmp_path):
    """The client as it stands in docs/triton.md, against a stand-in that speaks Triton's protocol."""
    pytest.importorskip("tritonclient.grpc", reason="tritonclient[grpc] is not installed")
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    assert export(SHIPPED, "--triton", tmp_path / "models") == 0
    server = Server(tmp_path / "models")

    class StandIn(service_pb2_grpc.GRPCInferenceServiceServicer):
        def ModelInfer(self, request, context):  # noqa: N802
            (given,) = request.inputs
            assert (given.name, given.datatype) == ("clip", "UINT8")
            clip = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(given.shape)
            logits = server.infer(request.model_name, clip)
            output = {"name": "logits", "datatype": "FP32", "shape": logits.shape}
            return service_pb2.ModelInferResponse(outputs=[output], raw_output_contents=[logits.tobytes()])

    listener = grpc.server(futures.ThreadPoolExecutor(1))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(StandIn(), listener)
    port = listener.add_insecure_port("localhost:0")
    listener.start()
    try:
        (client,) = (block.split("```")[0] for block in DOCUMENT.read_text().split("```python\n")[1:])
        source = "test://motion?seconds=2&width=160&height=120&seed=3"
        for old, new in (("localhost:8001", f"localhost:{port}"), ("clip.mp4", source), ("vlf.plan", str(SHIPPED))):
            assert old in client
            client = client.replace(old, new)
        done = subprocess.run([sys.executable, "-c", client], capture_output=True, text=True)
    finally:
        listener.stop(None)
    with Runtime(SHIPPED, backend="onnxruntime") as runtime:
        assert done.stdout.strip() == runtime.classify(source).label, done.stderr
