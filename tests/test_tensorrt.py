"""The TensorRT path against strict fakes of its libraries; a GPU is needed for none of it."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from fake_cuda import CudaError, FakeCuda, FakeDriver
from fake_tensorrt import expected, fake_tensorrt, spec

from vlf_edge.backends import cuda, tensorrt, tensorrt_build
from vlf_edge.backends.tensorrt import TensorRTEngine
from vlf_edge.backends.tensorrt_build import build_engine
from vlf_edge.errors import BackendMissing, CompileError, PlanMismatch, ShapeError, VlfError

FRAME = {"inputs": {"image": ("UINT8", (-1, 8, 8, 3))}, "outputs": {"tokens": ("HALF", (-1, 4, 6))}}
VERSIONS = {
    "tensorrt 10.3": ("10.3.0", False),
    "tensorrt 10.13": ("10.13.3", False),
    "tensorrt 10.16": ("10.16.2", False),
    "tensorrt 11.4": ("11.4.0", False),
    "tensorrt_rtx": ("1.7.1", True),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vlf_edge"


@pytest.fixture(params=VERSIONS)
def machine(request, monkeypatch):
    """(library, fake CUDA, fake TensorRT module) for every version of the API."""
    version, rtx = VERSIONS[request.param]
    return _install(monkeypatch, FakeCuda(), version, rtx)


def _install(monkeypatch, gpu, version="10.3.0", rtx=False):
    module = fake_tensorrt(gpu, version, rtx)
    monkeypatch.setattr(cuda, "load_runtime", lambda: gpu)
    monkeypatch.setattr(cuda, "load_driver", lambda: FakeDriver(gpu))
    for user in (tensorrt, tensorrt_build):
        monkeypatch.setattr(user, "load", lambda library: module)
    return ("tensorrt_rtx" if rtx else "tensorrt"), gpu, module


def _images(batch: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (batch, 8, 8, 3), np.uint8)


def test_infer_gives_what_the_engine_computes_at_every_batch(machine):
    library, _, _ = machine
    with TensorRTEngine(spec(**FRAME), library) as engine:
        specs = [str(spec) for spec in (*engine.inputs, *engine.outputs)]
        assert specs == ["image uint8(N, 8, 8, 3)", "tokens float16(N, 4, 6)"]
        assert (engine.backend, engine.dynamic_batch, engine.max_batch) == (library, True, 4)
        for batch in (1, 4, 2, 1):
            images = _images(batch, seed=batch)
            tokens = engine.infer({"image": images})["tokens"]
            assert tokens.dtype == np.float16
            np.testing.assert_array_equal(tokens, expected(images, (batch, 4, 6), "float16"))


def test_one_inference_is_copy_run_copy_and_one_wait(machine):
    library, gpu, _ = machine
    with TensorRTEngine(spec(**FRAME), library) as engine:
        gpu.calls.clear()
        engine.infer({"image": _images(2)})
        steps = ["cudaMemcpyHostToDevice", "execute_async_v3", "cudaMemcpyDeviceToHost", "cudaStreamSynchronize"]
        assert gpu.calls == ["cudaSetDevice", *steps]


def test_outputs_belong_to_the_caller(machine):
    library, _, _ = machine
    with TensorRTEngine(spec(**FRAME), library) as engine:
        first = engine.infer({"image": _images(1, seed=1)})["tokens"]
        kept = first.copy()
        engine.infer({"image": _images(1, seed=2)})
        np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(first, kept)


def test_inputs_need_not_be_contiguous(machine):
    library, _, _ = machine
    mirrored = _images(2)[:, :, ::-1]
    with TensorRTEngine(spec(**FRAME), library) as engine:
        tokens = engine.infer({"image": mirrored})["tokens"]
    np.testing.assert_array_equal(tokens, expected(mirrored, (2, 4, 6), "float16"))


def test_close_frees_everything_once(machine):
    library, gpu, _ = machine
    engine = TensorRTEngine(spec(**FRAME), library)
    assert gpu.live() == (2, 2, 1)
    engine.infer({"image": _images(1)})
    engine.close()
    engine.close()
    assert gpu.live() == (0, 0, 0)
    with pytest.raises(RuntimeError, match="closed"):
        engine.infer({"image": _images(1)})


def test_infer_selects_the_gpu_in_the_thread_that_calls(machine):
    library, _, _ = machine
    results = []
    with TensorRTEngine(spec(**FRAME), library) as engine:
        thread = threading.Thread(target=lambda: results.append(engine.infer({"image": _images(1)})["tokens"]))
        thread.start()
        thread.join()
    np.testing.assert_array_equal(results[0], expected(_images(1), (1, 4, 6), "float16"))


def test_a_fixed_batch_needs_no_profile(machine):
    library, _, _ = machine
    fixed = {"inputs": {"tokens": ("HALF", (1, 4, 2, 3))}, "outputs": {"logits": ("FLOAT", (1, 5))}}
    with TensorRTEngine(spec(**fixed), library) as engine:
        assert (engine.dynamic_batch, engine.max_batch) == (False, None)
        tokens = np.ones((1, 4, 2, 3), np.float16)
        np.testing.assert_array_equal(engine.infer({"tokens": tokens})["logits"], [[1, 2, 3, 4, 5]])
        with pytest.raises(ShapeError, match=r"float16\(2, 4, 2, 3\), expected tokens float16\(1, 4, 2, 3\)"):
            engine.infer({"tokens": np.ones((2, 4, 2, 3), np.float16)})


def test_a_batch_beyond_the_profile_is_a_shape_error(machine):
    library, _, _ = machine
    with TensorRTEngine(spec(**FRAME), library) as engine, pytest.raises(ShapeError, match="of 5, expected 1 to 4"):
        engine.infer({"image": _images(5)})


@pytest.mark.parametrize(
    ("engine_bytes", "words"),
    [
        (b"garbage", "Toy GPU .compute capability 8.6. refuses this engine: magicTag assertion failed"),
        (spec(**FRAME, sm=("8.9",)), "expecting compute 8.9 got 8.6, please rebuild"),
        (spec(**FRAME, no_context=True), "no kernel image for this GPU"),
    ],
)
def test_a_refused_engine_gives_the_librarys_words_and_leaks_nothing(machine, engine_bytes, words):
    library, gpu, _ = machine
    with pytest.raises(PlanMismatch, match=words):
        TensorRTEngine(engine_bytes, library)
    assert gpu.live() == (0, 0, 0)


def test_a_failing_run_gives_the_librarys_words(machine):
    library, gpu, _ = machine
    with TensorRTEngine(spec(**FRAME, fails=True), library) as engine:
        with pytest.raises(VlfError, match="could not run: enqueue failed"):
            engine.infer({"image": _images(1)})
    assert gpu.live() == (0, 0, 0)


@pytest.mark.parametrize("factories", ["give nothing", "give an object that crashes"])
def test_a_library_that_cannot_start_cuda_is_missing(machine, factories):
    """As where the driver is older than the CUDA inside the library: found before anything is asked of the object."""
    library, gpu, module = machine
    module._no_cuda = factories
    words = r"cannot start CUDA here .*CUDA initialization failure with error: 35"
    with pytest.raises(BackendMissing, match=words):
        TensorRTEngine(spec(**FRAME), library)
    build = {"library": library, "max_batch": 4, "compute_capabilities": ("8.6",) if library == "tensorrt_rtx" else ()}
    with pytest.raises(BackendMissing, match=words):
        build_engine(spec(**FRAME), **build)
    assert gpu.live() == (0, 0, 0)


def test_an_error_of_long_ago_does_not_keep_a_library_from_starting(machine):
    library, _, module = machine
    tensorrt.collector(module).log(module.ILogger.ERROR, "of another engine")
    TensorRTEngine(spec(**FRAME), library).close()


def test_too_little_gpu_memory_says_so_and_leaks_nothing(monkeypatch):
    library, gpu, _ = _install(monkeypatch, FakeCuda(memory_bytes=800))
    with pytest.raises(VlfError, match="could not allocate .* on the GPU: cudaErrorMemoryAllocation .error 2."):
        TensorRTEngine(spec(**FRAME), library)
    assert gpu.live() == (0, 0, 0)


def test_without_driver_one_sentence_says_what_to_do(monkeypatch):
    library, _, _ = _install(monkeypatch, FakeCuda(driver=False))
    with pytest.raises(BackendMissing, match="cudaErrorInsufficientDriver.*nvidia-smi.*backend openvino"):
        TensorRTEngine(spec(**FRAME), library)
    assert cuda.gpu() is None


@pytest.mark.parametrize(
    ("newer", "older", "words"),
    [
        (ModuleNotFoundError("No module 'cuda'"), ModuleNotFoundError("No module 'cuda'"), "No module 'cuda'"),
        (ImportError("libcudart: version too new"), ModuleNotFoundError("No module 'cuda.cudart'"), "version too new"),
        (ModuleNotFoundError("No module 'cuda.bindings'"), OSError("libcuda.so.1 is missing"), "libcuda.so.1"),
    ],
)
def test_bindings_that_cannot_be_imported_say_why(monkeypatch, newer, older, words):
    def broken(name):
        raise newer if "bindings" in name else older

    monkeypatch.setattr(cuda.importlib, "import_module", broken)
    with pytest.raises(BackendMissing, match=rf"cannot be imported \(.*{words}.*\); install .* 'cuda-bindings<12.9'"):
        cuda.load_runtime()


def test_probe_describes_the_gpu_and_refuses_others(monkeypatch):
    _install(monkeypatch, FakeCuda(sm="12.0"))
    assert cuda.probe() == cuda.GpuInfo("Toy GPU", "12.0", 1 << 30, False, 4)
    with pytest.raises(BackendMissing, match="no GPU 1: found 1, numbered from 0"):
        cuda.probe(1)
    assert cuda.gpu(1) is None


def test_build_uses_the_right_flag_and_one_profile_and_the_engine_runs(machine):
    library, _, module = machine
    capabilities = ("8.0", "8.6") if library == "tensorrt_rtx" else ()
    built = build_engine(
        spec(**FRAME), library, max_batch=4, opt_batch=2, compute_capabilities=capabilities, workspace_bytes=1 << 20
    )
    assert built.compute_capabilities == (capabilities or ("8.6",))
    assert (built.version, built.max_batch) == (module.__version__, 4)
    assert built.device == ("" if library == "tensorrt_rtx" else "Toy GPU")
    (config,) = module._built
    one = [{"image": ((1, 8, 8, 3),) * 3}] if library == "tensorrt" else []  # RTX compiles for the shape at hand
    assert config.profiles == [{"image": ((1, 8, 8, 3), (2, 8, 8, 3), (4, 8, 8, 3))}, *one]
    assert config.limits == {"WORKSPACE": 1 << 20}
    with TensorRTEngine(built.data, library) as engine:
        np.testing.assert_array_equal(
            engine.infer({"image": _images(3)})["tokens"], expected(_images(3), (3, 4, 6), "float16")
        )


def test_a_stream_has_memory_for_one_and_not_for_the_largest_batch(machine):
    library, gpu, _ = machine
    targets = ("8.6",) if library == "tensorrt_rtx" else ()
    built = build_engine(spec(**FRAME), library, max_batch=256, opt_batch=64, compute_capabilities=targets)
    with TensorRTEngine(built.data, library) as engine:
        assert engine.max_batch == 256
        with engine.stream.current():
            run = engine.fixed_run(1, engine.stream)
            run.enqueue()
            engine.stream.synchronize()
        assert run.inputs["image"].shape == (1, 8, 8, 3)
        expects = [1, 256] if library == "tensorrt" else [256, 256]
        assert sorted(context.reserved for context in gpu.contexts) == expects
        del run


def test_an_engine_of_one_profile_serves_a_stream_too(machine):
    library, _, _ = machine
    with TensorRTEngine(spec(**FRAME), library) as engine, engine.stream.current():
        run = engine.fixed_run(1, engine.stream)
        run.enqueue()
        engine.stream.synchronize()
        assert run.outputs["tokens"].shape == (1, 4, 6)


@pytest.mark.parametrize(("integrated", "asked", "bound"), [(1, None, 1 << 27), (1, 5 << 20, 5 << 20), (0, None, None)])
def test_a_board_that_shares_its_memory_bounds_the_builders(monkeypatch, integrated, asked, bound):
    """Whoever builds: a start without an engine that fits, and vlf-edge build --target tensorrt."""
    library, gpu, module = _install(monkeypatch, FakeCuda())
    properties = gpu.cudaGetDeviceProperties(0)[1]
    properties.integrated = integrated
    monkeypatch.setattr(gpu, "cudaGetDeviceProperties", lambda device: (CudaError.cudaSuccess, properties))
    build_engine(spec(**FRAME), library, max_batch=4, workspace_bytes=asked)
    assert module._built[0].limits == ({} if bound is None else {"WORKSPACE": bound})


@pytest.mark.parametrize("dtype", ["BF16", "FP8"])
def test_an_engine_of_numbers_that_numpy_lacks_is_refused(machine, dtype):
    library, gpu, _ = machine
    other = {**FRAME, "outputs": {"tokens": (dtype, (-1, 4, 6))}}
    with pytest.raises(PlanMismatch, match=f"tensor tokens of this engine is {dtype}, expected one of FLOAT, HALF, "):
        TensorRTEngine(spec(**other), library)
    assert gpu.live() == (0, 0, 0)


def test_build_errors_carry_every_message_of_the_library(machine):
    library, _, _ = machine
    build = {"library": library, "max_batch": 4, "compute_capabilities": ("8.6",) if library == "tensorrt_rtx" else ()}
    with pytest.raises(CompileError, match="Failed to parse the model.; In node 3 with name: bad"):
        build_engine(b"garbage", **build)
    with pytest.raises(CompileError, match="cannot build this graph: no implementation for node bad"):
        build_engine(spec(**FRAME, fails=True), **build)
    with pytest.raises(CompileError, match="opt_batch 9 and max_batch 4"):
        build_engine(spec(**FRAME), opt_batch=9, **build)
    two_dynamic = {"inputs": {"image": ("UINT8", (-1, -1, 8, 3))}, "outputs": FRAME["outputs"]}
    with pytest.raises(CompileError, match="only the first axis"):
        build_engine(spec(**two_dynamic), **build)


def test_tensorrt_builds_for_no_other_gpu(monkeypatch):
    _install(monkeypatch, FakeCuda())
    with pytest.raises(CompileError, match="this machine's GPU only, got 8.9"):
        build_engine(spec(**FRAME), "tensorrt", max_batch=4, compute_capabilities=("8.9",))
