"""The whole CUDA path, with TensorRT played by PyTorch's kernels: ring, copies, graphs, threads and foreign frames.

On a GPU this needs PyTorch and cuda-bindings, no TensorRT; on the fake CUDA the same tests try themselves anywhere.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterable
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from conftest import toy_manifest  # noqa: E402
from fake_cuda import FakeCuda, FakeDriver  # noqa: E402
from torch_engines import (  # noqa: E402
    CLIP,
    FRAME,
    FakeGpu,
    RealGpu,
    engine_bytes,
    expected_logits,
    expected_tokens,
    images,
    library,
)

from vlf_edge.backends import cuda, tensorrt  # noqa: E402
from vlf_edge.backends.tensorrt import TensorRTEngine  # noqa: E402
from vlf_edge.errors import BackendMissing, ShapeError, VlfError  # noqa: E402
from vlf_edge.runtime.recognizer import Recognizer  # noqa: E402

from .conftest import MOST_GPU_BYTES, free_gpu_bytes  # noqa: E402

NEEDS_TENSORRT = False
NEAR = 0.3  # of a mean that was rounded to fp16 at up to 278, in steps of 0.25


def _real(monkeypatch) -> SimpleNamespace:
    try:
        cuda.probe()
    except BackendMissing as error:
        pytest.skip(str(error))
    if not torch.cuda.is_available():
        pytest.skip(f"PyTorch {torch.__version__} sees no GPU")
    monkeypatch.setattr(tensorrt, "load", lambda name: played)
    played = library(RealGpu())

    def held() -> int:
        gc.collect()
        torch.cuda.empty_cache()
        return -free_gpu_bytes()

    return SimpleNamespace(held=held, most=MOST_GPU_BYTES)


def _fake(monkeypatch) -> SimpleNamespace:
    gpu = FakeCuda()
    monkeypatch.setattr(cuda, "load_runtime", lambda: gpu)
    monkeypatch.setattr(cuda, "load_driver", lambda: FakeDriver(gpu))
    monkeypatch.setattr(tensorrt, "load", lambda name: played)
    played = library(FakeGpu(gpu))

    def held() -> int:
        gc.collect()
        return sum(gpu.live())

    return SimpleNamespace(held=held, most=1)


@pytest.fixture(params=[pytest.param(_real, marks=pytest.mark.gpu, id="gpu"), pytest.param(_fake, id="fake")])
def machine(request, monkeypatch) -> SimpleNamespace:
    """held(): what is allocated on it; most: how much more than before that may be by chance."""
    return request.param(monkeypatch)


@pytest.fixture
def real(monkeypatch) -> SimpleNamespace:
    return _real(monkeypatch)


def engines(cuda_graph: bool = True) -> dict[str, TensorRTEngine]:
    stages = {"frame": engine_bytes(FRAME), "clip": engine_bytes(CLIP)}
    return {name: TensorRTEngine(data, "tensorrt", cuda_graph=cuda_graph) for name, data in stages.items()}


def close(pair: dict[str, TensorRTEngine]) -> None:
    for engine in pair.values():
        engine.close()


def decisions(recognizer: Recognizer, frames: Iterable) -> list[np.ndarray]:
    step_s = recognizer.sampling.grid_s
    answers = [recognizer.push(frame, number * step_s) for number, frame in enumerate(frames)]
    return [answer.logits for answer in answers if answer.state == "ok"]


def check_stream(given: np.ndarray, *, cuda_graph=True, phases=1, convert: Callable = lambda image: image) -> None:
    """Every decision over these images is that of its own window and of no other."""
    pair = engines(cuda_graph)
    try:
        recognizer = Recognizer(toy_manifest(phases=phases), pair)
        found = decisions(recognizer, map(convert, given))
    finally:
        close(pair)
    width = 3 * phases
    expected = [expected_logits(given[last - width : last + 1 : phases]) for last in range(width, len(given))]
    assert len(found) == len(expected) > 0
    for logits, right in zip(found, expected):
        np.testing.assert_allclose(logits, right, atol=NEAR)
    assert all(abs(a - b).max() > 2 * NEAR for a, b in zip(expected, expected[1:])), "else one could pass for another"


@pytest.mark.parametrize("phases", [1, 2])
@pytest.mark.parametrize("cuda_graph", [True, False])
def test_a_stream_decides_over_its_own_windows(machine, cuda_graph, phases, caplog):
    check_stream(images(1, 40), cuda_graph=cuda_graph, phases=phases)
    assert "without a CUDA graph" not in caplog.text, "the graph was captured, or nobody asked for one"


def test_batches_of_any_size_are_inferred_beside_a_stream(machine):
    pair = engines()
    try:
        recognizer = Recognizer(toy_manifest(), pair)
        given = images(2, 12)
        for size in (1, 8, 3, 8, 1):
            tokens = pair["frame"].infer({"image": given[:size]})["tokens"]
            expected = np.stack([expected_tokens(image) for image in given[:size]])
            np.testing.assert_allclose(tokens.astype(np.float32), expected.astype(np.float32), atol=NEAR)
            np.testing.assert_allclose(decisions(recognizer, given)[-1], expected_logits(given[-4:]), atol=NEAR)
            recognizer.reset()
    finally:
        close(pair)


@pytest.mark.gpu
def test_two_threads_with_a_runtime_each_do_not_meet(real):
    failed: list[BaseException] = []

    def run(seed: int) -> None:
        try:
            check_stream(images(seed, 200))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in (11, 12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not failed and not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_what_ends_gives_its_memory_back(machine, how):
    def once() -> int:
        pair = engines()
        decisions(Recognizer(toy_manifest(), pair), images(3, 6))
        if how == "closed":
            close(pair)
        del pair
        return machine.held()

    once()
    before = once()
    for _ in range(5):
        after = once()
    assert after - before < machine.most


def test_faults_are_exceptions_and_the_stream_goes_on(machine):
    with pytest.raises(VlfError, match="there is no GPU 99"):
        cuda.probe(99)
    stream = cuda.Stream()
    try:
        with stream.current():
            with pytest.raises(VlfError, match="could not allocate"):
                stream.allocate(1 << 50)
            there, back = stream.allocate_pinned(64), stream.allocate_pinned(64)
            there[:], pointer = np.arange(64), stream.allocate(64)
            stream.upload(pointer, there)
            stream.download(back, pointer)
            stream.synchronize()
            assert np.array_equal(back, np.arange(64))
    finally:
        stream.close()


@pytest.mark.gpu
def test_frames_of_pytorch_are_taken_where_they_lie(real):
    check_stream(images(4, 30), convert=lambda image: torch.from_numpy(image).cuda())


@pytest.mark.gpu
def test_frames_of_cupy_are_taken_where_they_lie(real):
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    check_stream(images(5, 30), convert=cupy.asarray)


@pytest.mark.gpu
def test_a_frame_that_another_stream_still_writes_is_waited_for(real):
    """It is queued behind a large product: who does not wait reads what was there before."""
    side = torch.cuda.Stream()
    large = torch.randn(4096, 4096, device="cuda")
    given = images(6, 30)
    pair = engines()
    try:
        recognizer = Recognizer(toy_manifest(), pair)
        step_s, found = recognizer.sampling.grid_s, []
        for number, image in enumerate(given):
            with torch.cuda.stream(side):  # CuPy's and PyTorch's frames name the stream that is current
                large @ large
                frame = torch.from_numpy(image).pin_memory().to("cuda", non_blocking=True)
                answer = recognizer.push(frame, number * step_s)
            found += [answer.logits] if answer.state == "ok" else []
    finally:
        close(pair)
    for last, logits in enumerate(found, start=3):
        np.testing.assert_allclose(logits, expected_logits(given[last - 3 : last + 1]), atol=NEAR)


@pytest.mark.gpu
def test_frames_that_do_not_fit_are_refused_and_cost_nothing(real):
    pair = engines()
    given = images(7, 8)
    try:
        recognizer = Recognizer(toy_manifest(), pair)
        assert len(decisions(recognizer, given[:4])) == 1
        step_s = recognizer.sampling.grid_s
        for wrong in (
            torch.zeros(34, 32, 3, dtype=torch.uint8, device="cuda"),
            torch.zeros(3, 32, 32, dtype=torch.uint8, device="cuda").permute(1, 2, 0),
            torch.zeros(32, 32, 3, device="cuda"),
        ):
            with pytest.raises(ShapeError):
                recognizer.push(wrong, 4 * step_s)
        answer = recognizer.push(given[4], 4 * step_s)
        np.testing.assert_allclose(answer.logits, expected_logits(given[1:5]), atol=NEAR)
    finally:
        close(pair)
