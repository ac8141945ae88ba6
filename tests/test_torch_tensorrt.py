"""The other frontend, against a Torch-TensorRT that takes what version 2.14 takes and nothing else."""

from __future__ import annotations

import importlib.machinery
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from onnx_toys import relative
from torch.utils._pytree import tree_structure
from toy_model import TOY, build_toy, build_uneven

from vlf_edge import BackendMissing, CompileError, Plan, WeightsError, backends
from vlf_edge.backends import cuda
from vlf_edge.cli import main
from vlf_edge.compiler import Recipe, build, onnx_export
from vlf_edge.compiler import torch_tensorrt as frontend
from vlf_edge.compiler.accuracy import candidate
from vlf_edge.compiler.features import with_features
from vlf_edge.compiler.graph import Session, tensor_specs
from vlf_edge.compiler.quantization.float16 import to_float16

GPU = cuda.GpuInfo("RTX A2000", "8.6", 6 << 30, False, 26)


class Input:
    """torch_tensorrt.Input: one shape, or all three of a range."""

    def __init__(self, *, dtype, shape=None, min_shape=None, opt_shape=None, max_shape=None):
        assert isinstance(dtype, torch.dtype)
        assert (shape is None) == all((min_shape, opt_shape, max_shape))
        self.dtype, self.shape = dtype, shape or (min_shape, opt_shape, max_shape)


class FakeTorchTensorRT(ModuleType):
    """Keeps what it was asked to compile; an "engine" is a number that leads back to it."""

    __version__ = "2.14.0"
    Input = Input

    def __init__(self, library: str = "tensorrt"):
        super().__init__("torch_tensorrt")
        self.__spec__ = importlib.machinery.ModuleSpec("torch_tensorrt", None)
        self.tensorrt_package_name = library
        self.calls: list[SimpleNamespace] = []
        self.failure: Exception | None = None
        self.dynamo = SimpleNamespace(convert_exported_program_to_serialized_trt_engine=self.convert)

    def convert(
        self,
        exported_program,
        inputs=None,
        *,
        arg_inputs=None,
        device=None,
        workspace_size=0,
        arg_input_binding_names=None,
        output_binding_names=None,
    ):
        assert isinstance(exported_program, torch.export.ExportedProgram) and inputs is None
        assert isinstance(device, torch.device) and isinstance(workspace_size, int)
        if self.failure is not None:
            raise self.failure
        given_by_user = exported_program.graph_signature.user_inputs
        placeholders = [node for node in exported_program.graph.nodes if node.name in given_by_user]
        for node, given in zip(placeholders, arg_inputs, strict=True):
            assert node.meta["val"].dtype == given.dtype, "the engine would be built for another type than was traced"
        # Names have the shape of the module's own arguments and result.
        spec = exported_program.call_spec
        assert tree_structure(arg_input_binding_names) == spec.in_spec.child(0)
        assert tree_structure(output_binding_names) == spec.out_spec
        names = (arg_input_binding_names, output_binding_names)
        call = SimpleNamespace(program=exported_program, profiles=arg_inputs, workspace=workspace_size, names=names)
        self.calls.append(call)
        return bytearray(f"engine {len(self.calls) - 1}", "ascii")


class Tensorrt(ModuleType):
    __version__ = "11.1.0.38"


@pytest.fixture
def here(monkeypatch):
    """Makes a machine with one GPU and what is named."""

    def set_up(*libraries, toolkit=None, gpu=True):
        for name in libraries:
            monkeypatch.setitem(sys.modules, name, toolkit if name == "torch_tensorrt" else Tensorrt(name))
        monkeypatch.setattr(backends, "installed", lambda name: name in libraries)
        monkeypatch.setattr(frontend, "_why_torch_has_no_gpu", lambda: "" if gpu else "PyTorch sees no GPU")
        monkeypatch.setattr(cuda, "probe", lambda device=0: GPU)
        monkeypatch.setattr(frontend, "_DEVICE", "cpu")
        monkeypatch.setattr(candidate, "runners_here", lambda portable, engines: [])  # nothing here runs fake engines
        return toolkit

    return set_up


@pytest.mark.slow
@pytest.mark.parametrize("precision, max_batch", [("fp32", 1), ("fp16", 4)])
def test_what_is_compiled_computes_what_the_plans_graph_does(uneven_graphs, precision, max_batch):
    rng = np.random.default_rng(0)
    for stage in build_uneven().stages():
        fp32 = with_features(uneven_graphs[stage.name])
        typed = to_float16(fp32) if precision == "fp16" else fp32
        (given,), results = tensor_specs(typed)
        program = frontend.trace(stage, precision, results, max_batch)
        for batch in {1, max_batch}:
            shape = (batch, *given.shape[1:])
            x = rng.integers(0, 256, shape) if given.dtype == "uint8" else rng.standard_normal(shape)
            x = x.astype(given.dtype)
            with torch.no_grad():
                found = program.module()(torch.from_numpy(x))
            expected = Session(typed).run({given.name: x})
            for result, one in zip(results, found if len(results) > 1 else [found], strict=True):
                one = one.numpy()
                assert (one.dtype, one.shape) == (result.dtype, (batch, *result.shape[1:]))
                assert relative(expected[result.name], one) < (1e-5 if precision == "fp32" else 3e-3)
        kept = {n.meta["val"].dtype for n in program.graph.nodes if n.op == "call_function" and _is_tensor(n)}
        floats = sum(result.dtype == "float32" for result in results)
        own = {torch.float16, torch.uint8, torch.int64} | ({torch.float32} if floats else set())
        assert kept <= (own if precision == "fp16" else {torch.float32, torch.uint8, torch.int64})
        wide = [n for n in program.graph.nodes if _is_tensor(n) and n.meta["val"].dtype == torch.float32]
        assert precision == "fp32" or len(wide) == floats, "only logits and features are float32"
        weights = list(stage.module.parameters())
        assert all(weight.dtype == torch.float32 for weight in weights) and stage.module.training, "ours is untouched"


def _is_tensor(node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)


@pytest.mark.slow
def test_a_build_puts_raw_engines_with_the_plans_interface_into_the_plan(here, toy_models, tmp_path, monkeypatch):
    labels = ("right", "left", "up", "down")
    weights, exported = toy_models(labels)
    graph_of = Plan.open(exported).graph
    monkeypatch.setattr(onnx_export, "export_stage", lambda stage: graph_of(stage.name, "fp32"))  # which takes longest
    toolkit = here("torch_tensorrt", "tensorrt", toolkit=FakeTorchTensorRT())
    seen = []
    recipe = Recipe(weights=str(weights), precision="fp16", frontend="torch-tensorrt", max_batch=4, workspace_mib=64)
    plan = build(recipe, tmp_path / "toy.plan", progress=lambda *step: seen.append(step))
    plan = Plan.open(plan.path)
    assert [(e.stage, e.target, e.library, e.version, e.compute_capabilities, e.device, e.max_batch)
            for e in plan.manifest.engines] == [
        (stage, "tensorrt:rtx-a2000", "tensorrt", "11.1.0.38", ("8.6",), "RTX A2000", 4) for stage in ("frame", "clip")
    ]  # fmt: skip
    assert [plan.read(e.member) for e in plan.manifest.engines] == [b"engine 0", b"engine 1"]
    assert ("compile engines", 2, 2) in seen and plan.manifest.versions["torch"] and plan.manifest.labels == labels
    for call, stage in zip(toolkit.calls, ("frame", "clip")):
        graph = plan.manifest.graph(stage, "typed")
        (given,), names = graph.inputs, tuple(spec.name for spec in graph.outputs)
        (profile,) = call.profiles
        assert profile.shape == tuple((batch, *given.shape[1:]) for batch in (1, 1, 4))
        assert profile.dtype == getattr(torch, given.dtype)
        assert call.names == ((given.name,), names if len(names) > 1 else names[0]) and call.workspace == 64 << 20
        assert plan.graph(stage, "fp32") and plan.graph(stage, "portable"), "the plan has its ONNX graphs all the same"
    image = np.random.default_rng(0).integers(0, 256, (2, TOY.height_px, TOY.width_px, 3), np.uint8)
    with torch.no_grad():
        tokens = toolkit.calls[0].program.module()(torch.from_numpy(image)).numpy()
    expected = Session(plan.graph("frame", "typed")).run({"image": image})["tokens"]
    assert tokens.dtype == np.float16 and relative(expected, tokens) < 3e-3, "an engine of these very weights"


def test_the_rtx_build_makes_rtx_engines_and_one_batch_size_is_a_fixed_shape(here):
    toolkit = here("torch_tensorrt", "tensorrt_rtx", toolkit=FakeTorchTensorRT("tensorrt_rtx"))
    assert frontend.resolve_targets("auto") == frontend.resolve_targets("rtx")
    stages = build_toy().stages()
    interfaces = {stage.name: (stage.inputs, stage.outputs) for stage in stages}
    built = frontend.build_engines(stages, "fp32", interfaces, max_batch=1)
    assert [(info.member, info.library, info.max_batch) for info, _ in built] == [
        (f"{stage}.rtx.engine", "tensorrt_rtx", 1) for stage in ("frame", "clip")
    ]
    assert [call.profiles[0].shape for call in toolkit.calls] == [(1, 32, 64, 3), (1, 3, 2, 16)]
    assert [call.workspace for call in toolkit.calls] == [0, 0]


def test_a_board_that_shares_its_memory_bounds_this_builder_too(here, monkeypatch):
    toolkit = here("torch_tensorrt", "tensorrt", toolkit=FakeTorchTensorRT())
    monkeypatch.setattr(cuda, "probe", lambda device=0: cuda.GpuInfo("Orin", "8.7", 8 << 30, True, 8))
    (stage, _) = build_toy().stages()
    frontend.build_engines([stage], "fp32", {stage.name: (stage.inputs, stage.outputs)}, max_batch=1)
    assert [call.workspace for call in toolkit.calls] == [1 << 30]


def test_a_refusal_names_the_stage_and_the_cause(here):
    toolkit = here("torch_tensorrt", "tensorrt", toolkit=FakeTorchTensorRT())
    toolkit.failure = RuntimeError("No converter for aten.roll\nand pages of advice")
    stages = build_toy().stages()
    message = "torch_tensorrt 2.14.0 cannot compile stage 'frame' in fp32: RuntimeError: No converter for aten.roll; "
    with pytest.raises(CompileError, match=message) as error:
        frontend.build_engines(stages, "fp32", {stage.name: (stage.inputs, stage.outputs) for stage in stages})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({}, WeightsError, "of which a plan holds only the ONNX graphs: give --weights FILE .--weights vlf-tiny for"),
        ({"random_weights": True, "precision": "int8"}, CompileError, "has no int8: .* --precision fp32 or fp16"),
        ({"random_weights": True, "precision": "best"}, CompileError, "has no best: "),
        ({"random_weights": True, "target": "rtx"}, CompileError, "compiles with tensorrt .*got --target rtx; exp"),
        ({"random_weights": True, "target": "cpu"}, CompileError, "got --target cpu; expected auto or tensorrt"),
    ],
)
def test_what_this_frontend_cannot_do_is_said_before_any_work(here, tmp_path, changes, error, message):
    here("torch_tensorrt", "tensorrt", toolkit=FakeTorchTensorRT())
    with pytest.raises(error, match=message):
        build(Recipe(frontend="torch-tensorrt", **changes), tmp_path / "x.plan")
    assert not list(tmp_path.iterdir())


class Broken(ModuleType):
    """As Torch-TensorRT fails where PyTorch was built without CUDA: an AssertionError when it is first used."""

    __version__ = "2.13.0"

    def __getattr__(self, name):
        raise AssertionError("Torch not compiled with CUDA enabled\nsee the log")


class Older(FakeTorchTensorRT):
    __version__ = "2.13.0"

    def convert(self, exported_program, *, arg_inputs=None, device=None, workspace_size=0, **kwargs):
        raise AssertionError("its keyword arguments would swallow the names without a word")


@pytest.mark.parametrize(
    "libraries, toolkit, gpu, why",
    [
        ((), None, False, "PyTorch sees no GPU"),
        ((), None, True, "torch_tensorrt is not installed"),
        (("torch_tensorrt",), Broken("torch_tensorrt"), True,
         r"torch_tensorrt cannot be imported \(AssertionError: Torch not compiled with CUDA enabled\)"),
        (("torch_tensorrt",), Older(), True,
         "torch_tensorrt 2.13.0 does not know arg_input_binding_names, output_binding_names"),
    ],
)  # fmt: skip
def test_what_is_missing_is_one_sentence_with_the_versions_needed(here, libraries, toolkit, gpu, why):
    here(*libraries, toolkit=toolkit, gpu=gpu)
    with pytest.raises(BackendMissing, match=f"cannot be used here: {why}; it needs an NVIDIA GPU") as error:
        frontend.load()
    text = str(error.value)
    assert "torch_tensorrt 2.14 with torch 2.14 for CUDA and tensorrt 11.1" in text and "\n" not in text
    assert f"found torch {frontend.versions()['torch']}" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_on_this_machine_the_command_says_why_not(tmp_path, capsys):
    words = ["build", "--random-weights", "--frontend", "torch-tensorrt", "-o", str(tmp_path / "x.plan")]
    assert main(words) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("vlf-edge: ") == 1 and "Traceback" not in said.err
    assert "--frontend torch-tensorrt cannot be used here" in said.err and "leave --frontend out" in said.err
    assert not list(tmp_path.iterdir())
