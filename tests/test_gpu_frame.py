"""Frames that are on the GPU already, against strict fakes: taken where they lie, and read when a push returns."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import toy_manifest
from fake_cuda import FakeCuda
from test_tensorrt import VERSIONS, _install
from test_tensorrt_executor import LIBRARIES, close, engines, pictures

from vlf_edge.backends import gpu_frame
from vlf_edge.errors import BackendMissing, ShapeError
from vlf_edge.runtime.recognizer import Recognizer


@pytest.fixture(params=LIBRARIES)
def machine(request, monkeypatch):
    version, rtx = VERSIONS[request.param]
    return _install(monkeypatch, FakeCuda(), version, rtx)


class OnGpu:
    """An array on the fake GPU, as CuPy's, PyCUDA's and PyTorch's say of themselves."""

    def __init__(self, gpu, array, device=0, strides=None):
        array = np.ascontiguousarray(array)
        gpu.cudaSetDevice(0)
        self.pointer = gpu.cudaMalloc(array.nbytes)[1]
        gpu.memory(self.pointer, array.nbytes)[:] = array.tobytes()
        self.array, self.device, self.strides = array, device, strides
        self.__cuda_array_interface__ = {"shape": array.shape, "typestr": "|u1", "data": (self.pointer, False)}


def view(owner, stream_ptr):
    """cuda-core's StridedMemoryView."""
    assert stream_ptr > 0, "the stream that will read must be named, or it would not wait for the one that writes"
    return SimpleNamespace(
        ptr=owner.pointer, shape=owner.array.shape, strides=owner.strides, dtype=owner.array.dtype,
        device_id=owner.device,
    )  # fmt: skip


@pytest.fixture
def seeing(machine, monkeypatch):
    """Fake CUDA, engines on it, and a recogniser of them that can look at the fake GPU's arrays."""
    library, gpu, _ = machine
    monkeypatch.setattr(gpu_frame, "_viewer", lambda: view)
    pair = engines(library)
    return gpu, pair, Recognizer(toy_manifest(), pair)


def test_frames_on_the_gpu_are_taken_where_they_lie(seeing):
    gpu, pair, recognizer = seeing
    images = pictures(6)
    want = [recognizer.push(image, i * 0.25) for i, image in enumerate(images)]
    recognizer.reset()
    gpu.calls.clear()
    got = [recognizer.push(OnGpu(gpu, image), i * 0.25) for i, image in enumerate(images)]
    assert "cudaMemcpyHostToDevice" not in gpu.calls
    np.testing.assert_array_equal(got[-1].logits, want[-1].logits)
    for wrong, words in (
        (OnGpu(gpu, pictures(1)[0][:16]), r"must have the model's size, \(32, 32, 3\) uint8 BGR, got \(16, 32, 3\)"),
        (OnGpu(gpu, images[0].astype(np.float32)), "got .32, 32, 3. float32"),
        (OnGpu(gpu, images[0], device=1), "is on GPU 1, the plan runs on GPU 0"),
        (OnGpu(gpu, images[0], strides=(192, 6, 1)), "is not contiguous on the GPU"),
    ):
        with pytest.raises(ShapeError, match=words):
            recognizer.push(wrong, 1.5)
    # None of them cost the window.
    assert recognizer.push(OnGpu(gpu, images[0]), 1.5).state == "ok"
    close(pair)


def test_frames_that_name_no_stream_are_waited_for_on_the_default_one(seeing):
    """PyCUDA's: what its default stream still writes when the frame is pushed must be what is read."""
    gpu, pair, recognizer = seeing
    images = pictures(4)
    want = recognizer.classify(images)
    for i, image in enumerate(images):
        frame = OnGpu(gpu, np.zeros_like(image))
        memory, pixels = gpu.memory(frame.pointer, image.nbytes), image.tobytes()
        gpu.enqueue(gpu.cudaStreamLegacy, lambda memory=memory, pixels=pixels: memory.__setitem__(slice(None), pixels))
        last = recognizer.push(frame, i * 0.25)
    np.testing.assert_array_equal(last.logits, want.logits)
    close(pair)


def test_a_frame_may_be_overwritten_once_it_was_pushed(seeing):
    gpu, pair, recognizer = seeing
    assert recognizer.push(OnGpu(gpu, pictures(1)[0]), 0.0).state == "warming"
    assert not gpu.busy()
    recognizer.push(pictures(1)[0], 0.25)
    assert gpu.busy(), "a frame of ours is staged, and not waited for before something is to be read"
    close(pair)


def test_nothing_runs_after_close(seeing):
    gpu, pair, recognizer = seeing
    recognizer.push(pictures(1)[0], 0.0)
    frame = OnGpu(gpu, pictures(1)[0])
    close(pair)
    gpu.calls.clear()
    for late in (pictures(1)[0], frame):
        with pytest.raises(RuntimeError, match="on a closed tensorrt"):
            recognizer.push(late, 0.25)
    assert gpu.calls == []


def test_a_frame_on_the_gpu_that_does_not_fit_costs_no_window(seeing):
    gpu, pair, recognizer = seeing
    images = pictures(4)
    for i in range(3):
        recognizer.push_many([("a", OnGpu(gpu, images[i]), i * 0.25), ("b", images[i], i * 0.25)])
    with pytest.raises(ShapeError, match="must have the model's size"):
        recognizer.push_many([("a", images[3], 0.75), ("b", OnGpu(gpu, images[3][:8]), 0.75)])
    last = recognizer.push_many([("a", OnGpu(gpu, images[3]), 0.75), ("b", images[3], 0.75)])
    assert [prediction.state for prediction in last] == ["ok", "ok"]
    close(pair)


def test_frames_are_borrowed_while_a_step_runs_and_not_inside_it(seeing, monkeypatch):
    """Cameras' threads borrow; into a graph that is being captured, say, nothing of theirs may come."""
    gpu, pair, recognizer = seeing
    frame, borrowed, order = OnGpu(gpu, pictures(1)[0]), [], []
    camera = threading.Thread(target=lambda: (borrowed.append(recognizer.executor.borrow(frame)), order.append("lent")))
    upload = type(recognizer.executor._stream).upload

    def upload_while_another_borrows(*arguments):
        camera.start()
        camera.join(0.05)
        upload(*arguments)
        order.append("uploaded")

    monkeypatch.setattr(type(recognizer.executor._stream), "upload", upload_while_another_borrows)
    recognizer.push(pictures(1)[0], 0.0)
    camera.join(60)
    assert order == ["uploaded", "lent"] and borrowed[0].pointer == frame.pointer
    close(pair)


def test_what_is_a_frame_on_the_gpu():
    torch = pytest.importorskip("torch")
    assert not gpu_frame.is_gpu_frame(np.zeros((4, 4, 3), np.uint8))
    assert not gpu_frame.is_gpu_frame(torch.zeros(4, 4, 3, dtype=torch.uint8))
    assert not gpu_frame.is_gpu_frame(None) and not gpu_frame.is_gpu_frame([[1]])
    assert gpu_frame.is_gpu_frame(SimpleNamespace(__dlpack_device__=lambda: (2, 0)))
    assert gpu_frame.is_gpu_frame(SimpleNamespace(__cuda_array_interface__={"shape": (1,)}))


def test_cuda_core_looks_at_arrays_as_expected_here():
    """The real library, on memory of the CPU: the names and the meaning of what is read from a view."""
    pytest.importorskip("cuda.core")
    array = np.zeros((2, 4, 3), np.uint8)
    found = gpu_frame._viewer()(array, stream_ptr=-1)
    assert (found.ptr, tuple(found.shape), np.dtype(found.dtype)) == (array.ctypes.data, array.shape, array.dtype)
    assert found.strides is None or tuple(found.strides) == gpu_frame._contiguous_strides(array.shape)


@pytest.mark.parametrize(
    ("newer", "older", "words"),
    [
        (ModuleNotFoundError("No module 'cuda'"), ModuleNotFoundError("No module 'cuda'"), "No module 'cuda'"),
        (ImportError("bindings 12.9 or newer"), ModuleNotFoundError("No module x"), "bindings 12.9 or newer"),
    ],
)
def test_without_cuda_core_one_sentence_says_why_and_what_to_do(monkeypatch, newer, older, words):
    def broken(name):
        raise older if "experimental" in name else newer

    monkeypatch.setattr(gpu_frame, "import_module", broken)
    with pytest.raises(BackendMissing, match=rf"\({words}\); .*pip install cuda-core .*'cuda-core<0.6'"):
        gpu_frame.view_gpu_frame(SimpleNamespace(), 1, 0)
