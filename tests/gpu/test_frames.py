"""On a GPU: frames that are there already are taken without a copy through the host, whoever made them."""

from __future__ import annotations

import numpy as np
import pytest

from vlf_edge import Plan, ShapeError

from .conftest import sized_frames


def _torch(monkeypatch):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip(f"PyTorch {torch.__version__} sees no GPU")
    return lambda image: torch.from_numpy(image.copy()).cuda()


def _cupy(monkeypatch):
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    return cupy.asarray


def _pycuda(monkeypatch):
    pytest.importorskip("pycuda", reason="pycuda is not installed")
    pytest.importorskip("pycuda.autoprimaryctx")  # makes the primary context current, which the runtime shares
    from pycuda import gpuarray

    return gpuarray.to_gpu


@pytest.fixture(params=[_torch, _cupy, _pycuda], ids=["torch", "cupy", "pycuda"])
def to_gpu(request, monkeypatch):
    """Puts one image (H, W, 3) uint8 into GPU memory."""
    return request.param(monkeypatch)


@pytest.fixture
def plan(trained) -> Plan:
    return Plan.open(trained["fp16"])


def test_frames_on_the_device_decide_as_those_of_the_host(plan, on_gpu, videos, to_gpu):
    frames = sized_frames(plan, videos[0], 2 * plan.manifest.sampling.frames)

    def decisions(images) -> list[np.ndarray]:
        with on_gpu(plan) as runtime:
            step_s = runtime.recognizer.sampling.grid_s
            answers = [runtime.push(image, number * step_s) for number, image in enumerate(images)]
        return [answer.logits for answer in answers if answer.state == "ok"]

    from_host, from_device = decisions(frames), decisions(map(to_gpu, frames))
    assert len(from_host) == plan.manifest.sampling.frames + 1
    for a, b in zip(from_device, from_host, strict=True):
        assert np.array_equal(a, b), "the same pixels through the same kernels"
    assert not np.array_equal(from_host[0], from_host[-1])


def test_a_frame_may_be_overwritten_once_its_decision_is_there(plan, on_gpu, videos, to_gpu):
    """What a camera's ring of GPU buffers does: a decision must not depend on what is in the buffer later."""
    window = plan.manifest.sampling.frames
    frames = sized_frames(plan, videos[0], 3 * window)
    white = to_gpu(np.full_like(frames[0], 255))
    with on_gpu(plan) as runtime:
        step_s, kept = runtime.recognizer.sampling.grid_s, []
        for number, frame in enumerate(frames):
            device = to_gpu(frame)
            answer = runtime.push(device, number * step_s)
            if answer.state == "ok":  # the one wait was for it; while the window fills up, nothing is waited for
                device[...] = white
            kept.append(device)
        expected = runtime.classify(frames[-window:]).logits
        wrong = runtime.classify(np.full_like(frames[:window], 255)).logits
    assert np.linalg.norm(answer.logits - expected) < 1e-2 * np.linalg.norm(expected)
    assert np.linalg.norm(wrong - expected) > 2e-2 * np.linalg.norm(expected)


def test_a_frame_of_another_size_is_refused(plan, on_gpu, to_gpu):
    height, width = plan.manifest.preprocess.height_px, plan.manifest.preprocess.width_px
    with on_gpu(plan) as runtime, pytest.raises(ShapeError, match=f"{height + 2}"):
        runtime.push(to_gpu(np.zeros((height + 2, width, 3), np.uint8)), 0.0)
