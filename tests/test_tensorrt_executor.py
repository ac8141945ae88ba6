"""Streams on the GPU against strict fakes: the decisions are those of stage by stage, queued in one go."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import toy_manifest
from fake_cuda import PRIMARY, CudaError, FakeCuda, FakeDriver
from fake_tensorrt import API, Strict, fake_tensorrt, members, spec
from test_tensorrt import VERSIONS, _install, cache  # noqa: F401

from vlf_edge.backends import cuda
from vlf_edge.backends.tensorrt import TensorRTEngine
from vlf_edge.cache import keep, read_kept
from vlf_edge.errors import PlanMismatch, VlfError
from vlf_edge.runtime.host_executor import HostExecutor
from vlf_edge.runtime.recognizer import Recognizer
from vlf_edge.runtime.tensorrt_executor import TensorRTExecutor

FRAME = {"inputs": {"image": ("UINT8", (-1, 32, 32, 3))}, "outputs": {"tokens": ("HALF", (-1, 4, 6))}}
CLIP = {"inputs": {"tokens": ("HALF", (-1, 4, 4, 6))}, "outputs": {"logits": ("FLOAT", (-1, 5))}}
LIBRARIES = ("tensorrt 10.3", "tensorrt 11.4", "tensorrt_rtx")


@pytest.fixture(params=LIBRARIES)
def machine(request, monkeypatch):
    version, rtx = VERSIONS[request.param]
    return _install(monkeypatch, FakeCuda(), version, rtx)


def engines(library, **options):
    return {
        "frame": TensorRTEngine(spec(**FRAME), library, **options),
        "clip": TensorRTEngine(spec(**CLIP), library, **options),
    }


def close(pair):
    for engine in pair.values():
        engine.close()


def through_the_host(manifest, pair):
    """The slow and obvious way: stage by stage, with arrays in the computer's memory."""
    recognizer = Recognizer(manifest, pair)
    recognizer.executor = HostExecutor(manifest.stage_roles, pair, manifest.sampling, recognizer.stats)
    return recognizer


def pictures(count):
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)


@pytest.mark.parametrize("phases", [1, 3])
@pytest.mark.parametrize("cuda_graph", [True, False])
def test_a_stream_on_the_gpu_decides_as_stage_by_stage(machine, phases, cuda_graph):
    pair = engines(machine[0], cuda_graph=cuda_graph)
    manifest = toy_manifest(phases=phases)
    on_gpu = Recognizer(manifest, pair)
    by_stage = through_the_host(manifest, pair)
    assert type(on_gpu.executor) is TensorRTExecutor
    decided = 0
    for i, image in enumerate(pictures(8 * phases + 6)):
        t_s = i * 0.25 / phases
        got, want = on_gpu.push(image, t_s), by_stage.push(image, t_s)
        assert (got.state, got.t_start_s, got.t_end_s) == (want.state, want.t_start_s, want.t_end_s)
        if want.state == "ok":
            np.testing.assert_array_equal(got.logits, want.logits)
            decided += 1
    assert decided == 8 * phases + 6 - 3 * phases
    # A gap empties both, and a slow camera's frame that serves two instants is kept twice by both.
    for t_s in (100.0, 100.25, 100.75, 101.0, 101.25):
        got, want = on_gpu.push(pictures(1)[0], t_s), by_stage.push(pictures(1)[0], t_s)
        assert got.state == want.state
        if want.state == "ok":
            np.testing.assert_array_equal(got.logits, want.logits)
    close(pair)


def test_a_decision_is_queued_in_one_go_and_waits_once(machine):
    library, gpu, _ = machine
    pair = engines(library)
    recognizer = Recognizer(toy_manifest(), pair)
    for i, image in enumerate(pictures(4)):
        recognizer.push(image, i * 0.25)
    gpu.calls.clear()
    recognizer.push(pictures(1)[0], 1.0)
    run = "execute_async_v3" if library == "tensorrt_rtx" else "cudaGraphLaunch"
    on_device = "cudaMemcpyDeviceToDevice"
    queued = [
        *("cudaSetDevice", "cudaEventRecord", "cudaMemcpyHostToDevice", run, on_device, on_device, "cudaEventRecord"),
        *(on_device, run, "cudaMemcpyDeviceToHost", "cudaEventRecord"),
    ]
    assert gpu.calls == [*queued, "cudaStreamSynchronize", "cudaEventElapsedTime", "cudaEventElapsedTime"]
    assert recognizer.stats.summary()["ms"]["frame_stage"]["n"] == 5
    close(pair)


def test_tensorrt_captures_a_graph_and_rtx_makes_its_own(machine):
    library, gpu, module = machine
    for wanted in (True, False):
        gpu.calls.clear()
        pair = engines(library, cuda_graph=wanted)
        Recognizer(toy_manifest(), pair)
        captured = wanted and library == "tensorrt"
        assert gpu.calls.count("cudaStreamBeginCapture") == (2 if captured else 0)
        if library == "tensorrt_rtx":
            assert {context._config.cuda_graph_strategy for context in gpu.contexts} == {int(wanted)}
        close(pair)
        gc.collect()


def test_no_context_compiles_aside_what_its_release_would_wait_for(monkeypatch):
    """The library's compiling threads log through Python, and whoever releases a context holds Python's lock."""
    library, gpu, module = _install(monkeypatch, FakeCuda(), "1.7.1", rtx=True)
    pair = engines(library)
    Recognizer(toy_manifest(), pair)
    pair["frame"].infer({"image": pictures(3)})
    strategies = {context._config.dynamic_shapes_kernel_specialization_strategy for context in gpu.contexts}
    assert strategies == {module.DynamicShapesKernelSpecializationStrategy.EAGER}
    close(pair)


def test_batches_beside_a_stream_do_not_disturb_its_graph(machine):
    pair = engines(machine[0])
    recognizer = Recognizer(toy_manifest(), pair)
    images = pictures(4)
    whole = recognizer.classify(images)  # a batch of four: another shape on the engine's general context
    for i, image in enumerate(images):
        last = recognizer.push(image, i * 0.25)
        pair["frame"].infer({"image": images[:3]})
    np.testing.assert_array_equal(last.logits, whole.logits)
    close(pair)


def test_a_stream_that_cannot_be_captured_runs_without_a_graph(monkeypatch, caplog):
    library, gpu, _ = _install(monkeypatch, FakeCuda())
    monkeypatch.setattr(gpu, "cudaGraphInstantiate", lambda graph, flags: (CudaError.cudaErrorInvalidValue, 0))
    with caplog.at_level("WARNING"):
        pair = engines(library)
        recognizer = Recognizer(toy_manifest(), pair)
    assert "runs without a CUDA graph, kernel by kernel: CUDA could not make a graph ready" in caplog.text
    whole = recognizer.classify(pictures(4))
    decisions = [recognizer.push(image, i * 0.25) for i, image in enumerate(pictures(4))]
    np.testing.assert_array_equal(decisions[-1].logits, whole.logits)
    close(pair)
    assert gpu.live() == (0, 0, 0)


def test_nothing_is_allocated_after_the_start_and_all_is_freed(machine):
    library, gpu, _ = machine
    pair = engines(library)
    recognizer = Recognizer(toy_manifest(), pair)
    before = gpu.live()
    for i, image in enumerate(pictures(20)):
        recognizer.push(image, i * 0.25)
    assert gpu.live() == before
    close(pair)
    assert gpu.live() == (0, 0, 0)


def test_stages_that_do_not_fit_are_refused(machine):
    library, gpu, _ = machine
    other = {**CLIP, "inputs": {"tokens": ("FLOAT", (-1, 4, 4, 6))}}
    pair = {"frame": TensorRTEngine(spec(**FRAME), library), "clip": TensorRTEngine(spec(**other), library)}
    with pytest.raises(PlanMismatch, match="which is not 4 x tokens float16"):
        Recognizer(toy_manifest(), pair)
    close(pair)
    assert gpu.live() == (0, 0, 0)


def test_contexts_end_in_their_own_cuda_context_with_nothing_queued(machine):
    library, gpu, _ = machine
    driver, ends = FakeDriver(gpu), []
    pair = engines(library)
    recognizer = Recognizer(toy_manifest(), pair)
    for context in list(gpu.contexts):
        weakref.finalize(context, lambda: ends.append((driver.cuCtxGetCurrent()[1], gpu.busy())))
    del context
    recognizer.push(pictures(1)[0], 0.0)
    driver.cuCtxSetCurrent(77)
    assert gpu.busy()
    close(pair)
    assert ends == [(PRIMARY, False)] * 4


ORDER = ["IExecutionContext", "IRuntimeConfig", "IRuntimeCache", "ICudaEngine", "Runtime"]


@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_contexts_go_first_and_the_library_last(machine, how):
    library, gpu, module = machine
    engine = TensorRTEngine(spec(**FRAME), library)
    with engine.stream.current():
        run = engine.fixed_run(1, engine.stream)
        run.enqueue()
    module._ends.clear()
    gc.disable()  # dropped means dropped: nothing here may wait for the collector
    try:
        if how == "closed":
            engine.close()
        del engine, run
        ends = module._ends.copy()
    finally:
        gc.enable()
    assert gpu.live() == (0, 0, 0)
    assert ends == sorted(ends, key=ORDER.index) and ends[0] == ends[1] == ORDER[0]
    assert set(ends) == set(ORDER if library == "tensorrt_rtx" else [ORDER[0], *ORDER[3:]])


def test_a_stream_that_nobody_closed_gives_its_memory_back(machine, tmp_path):
    library, gpu, _ = machine
    pair = engines(library)
    recognizer = Recognizer(toy_manifest(), pair)
    recognizer.push(pictures(1)[0], 0.0)
    assert gpu.busy() and min(gpu.live()) > 0
    del pair, recognizer
    gc.collect()
    assert gpu.live() == (0, 0, 0)


def test_nothing_is_collected_while_a_graph_is_captured(monkeypatch):
    """An engine that nobody closed might be among it, and freeing memory makes the capture invalid."""
    _install(monkeypatch, FakeCuda())
    stream, collecting = cuda.Stream(), []
    with stream.current():
        pointer = stream.allocate(8)
        stream.capture(lambda: (stream.copy(pointer + 4, pointer, 4), collecting.append(gc.isenabled())))
        with pytest.raises(KeyError):
            stream.capture(lambda: {}["no"])
    stream.close()
    assert collecting == [False] and gc.isenabled()


def test_a_lack_of_memory_is_not_the_engines_fault(monkeypatch):
    library, gpu, _ = _install(monkeypatch, FakeCuda())
    with pytest.raises(VlfError, match="has too little GPU memory for this engine: .*out of memory") as raised:
        TensorRTEngine(spec(**FRAME, no_context="Error Code 1: Cuda Runtime (out of memory)"), library)
    assert not isinstance(raised.value, PlanMismatch)
    assert gpu.live() == (0, 0, 0)


def test_a_fault_on_the_gpu_is_not_hidden_by_what_cannot_be_freed_any_more(monkeypatch, caplog):
    library, gpu, _ = _install(monkeypatch, FakeCuda())
    pair = engines(library)
    recognizer = Recognizer(toy_manifest(), pair)
    illegal = (CudaError.cudaErrorInvalidValue,)
    with pytest.raises(VlfError, match="could not upload it"):
        try:
            recognizer.push(pictures(1)[0], 0.0)
            monkeypatch.setattr(gpu, "cudaSetDevice", lambda device: illegal)
            raise VlfError("could not upload it")
        finally:
            close(pair)
    assert "CUDA could not select GPU 0" in caplog.text


def test_a_context_that_pycuda_made_is_current_again_after_every_call(machine):
    library, gpu, _ = machine
    driver = FakeDriver(gpu)
    for mine in (77, PRIMARY):
        driver.cuCtxSetCurrent(mine)
        pair = engines(library)
        recognizer = Recognizer(toy_manifest(), pair)
        for i, image in enumerate(pictures(5)):
            recognizer.push(image, i * 0.25)
            assert driver.cuCtxGetCurrent() == (0, mine)
        recognizer.classify(pictures(4))
        close(pair)
        assert driver.cuCtxGetCurrent() == (0, mine)


def compiled(gpu):
    return {id(context._config.cache): context._config.cache for context in gpu.contexts}.values()  # one an engine


def test_rtx_finds_its_kernels_again_at_the_second_start(monkeypatch, cache, caplog):  # noqa: F811
    counts = []
    for version in ("1.7.1", "1.7.1", "1.8.0"):
        gpu = FakeCuda()
        library, gpu, module = _install(monkeypatch, gpu, version, rtx=True)
        with caplog.at_level("INFO"):
            pair = engines(library)
            Recognizer(toy_manifest(), pair)
        counts.append([one.compiled for one in compiled(gpu)])
        close(pair)
        gc.collect()
    assert counts == [[1, 1], [0, 0], [1, 1]]
    assert caplog.text.count("compiled for this GPU at this first start") == 4  # two stages, two versions
    assert len(list((cache / "kernels").glob("*.sm86.*.bin"))) == 4


def test_a_damaged_or_unwritable_kernel_cache_costs_time_only(monkeypatch, cache, caplog):  # noqa: F811
    library, gpu, _ = _install(monkeypatch, FakeCuda(), "1.7.1", rtx=True)
    close(engines(library))
    pair = engines(library)
    Recognizer(toy_manifest(), pair)
    close(pair)
    files = sorted((cache / "kernels").glob("*.bin"))
    for file in files:
        file.write_bytes(b"\0" * 8)
    with caplog.at_level("INFO"):
        pair = engines(library)
        Recognizer(toy_manifest(), pair)
    close(pair)
    assert caplog.text.count("is damaged and is made anew") == len(files) == 2
    assert all(read_kept(file).startswith(b"kernels of 1.7.1") for file in files)
    for file in files:  # as another driver would have left them
        keep(file, b"kernels of something else")
    with caplog.at_level("INFO"):
        close(engines(library))
    assert caplog.text.count("is of another driver: kernels are compiled anew") == 2
    for file in files:
        file.unlink()
    (cache / "kernels").rmdir()
    (cache / "kernels").write_text("in the way")
    pair = engines(library)
    Recognizer(toy_manifest(), pair)
    close(pair)
    assert caplog.text.count("for the next start") == 2


def test_the_fakes_know_only_what_the_real_modules_have():
    runtime = pytest.importorskip("cuda.bindings.runtime")
    driver = pytest.importorskip("cuda.bindings.driver")
    for fake, real in ((FakeCuda, runtime), (FakeDriver, driver)):
        names = [name for name in vars(fake) if name.startswith("cu")]
        assert names and [name for name in names if not hasattr(real, name)] == []


def test_the_table_of_the_api_agrees_with_the_tensorrt_rtx_installed_here():
    trt = pytest.importorskip("tensorrt_rtx")
    assert trt.__version__.startswith("1.7."), "tensorrt_api.json describes 1.7: look at the new version and add it"
    for kind in API:
        real = set(dir(trt if kind == "module" else getattr(trt, kind)))
        known = {name for names in API[kind].values() for name in names}
        assert known & real == members(kind, "rtx-1.7"), kind


def test_a_member_that_a_version_lacks_cannot_be_used():
    engine = fake_tensorrt(FakeCuda(), "10.3.0").Runtime(SimpleNamespace(ready=True, log=lambda *_: None))
    found = engine.deserialize_cuda_engine(spec(**FRAME))
    assert isinstance(found, Strict)
    with pytest.raises(AttributeError, match="ICudaEngine of 10.3 has no create_runtime_config"):
        found.create_runtime_config()
