"""Many streams on the GPU, against strict fakes: batches, their graphs and memory, and what one that fails costs."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import LABELS, toy_manifest
from fake_cuda import CudaError, FakeCuda
from fake_tensorrt import spec
from test_executor import manifest as manifest_of
from test_gpu_frame import OnGpu, view
from test_streams import interleaved, same
from test_tensorrt import VERSIONS, _install
from test_tensorrt_executor import CLIP, FRAME, LIBRARIES, close, through_the_host

from vlf_edge.backends import gpu_frame
from vlf_edge.backends.tensorrt import TensorRTEngine
from vlf_edge.errors import VlfError
from vlf_edge.runtime.host_executor import HostExecutor
from vlf_edge.runtime.recognizer import Recognizer
from vlf_edge.runtime.tensorrt_executor import TensorRTExecutor

ON_DEVICE = "cudaMemcpyDeviceToDevice"


@pytest.fixture(params=LIBRARIES)
def machine(request, monkeypatch):
    version, rtx = VERSIONS[request.param]
    return _install(monkeypatch, FakeCuda(), version, rtx)


def engines(library, frame_batch=8, clip_batch=8):
    return {
        "frame": TensorRTEngine(spec(**FRAME, profiles=((1, 1, frame_batch),)), library),
        "clip": TensorRTEngine(spec(**CLIP, profiles=((1, 1, clip_batch),)), library),
    }


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def push_all(recognizer, images, t_s, streams=None):
    return recognizer.push_many([(f"camera {n}", image, t_s) for n, image in zip(streams or range(99), images)])


@pytest.mark.parametrize(
    ("seed", "streams", "phases", "batches"), [(1, 32, 1, (32, 32)), (2, 32, 3, (6, 4)), (3, 11, 2, (1, 1))]
)
def test_streams_on_the_gpu_decide_as_through_the_host(machine, monkeypatch, seed, streams, phases, batches):
    """Cameras with rates, losses, ends and forgetting of their own; some of their frames are on the GPU already."""
    library, gpu, _ = machine
    monkeypatch.setattr(gpu_frame, "_viewer", lambda: view)
    manifest, rng, images = toy_manifest(phases=phases), np.random.default_rng(seed), pictures(12, seed)
    on_gpu, host_pair = engines(library, *batches), engines(library)
    recognizer, by_stage = Recognizer(manifest, on_gpu), through_the_host(manifest, host_pair)
    lent = {image.tobytes(): OnGpu(gpu, image) for image in images}
    frames, decisions, largest = interleaved(seed, streams, 2.5, images), 0, 0
    while frames:
        size = int(rng.choice([1, 2, 5, 40, 120]))
        chunk, frames = frames[:size], frames[size:]
        here = [(name, lent[i.tobytes()] if rng.random() < 0.3 else i, t_s) for name, i, t_s in chunk]
        for got, want in zip(recognizer.push_many(here), by_stage.push_many(chunk)):
            same(got, want, 0.0)
            decisions += got is not None and got.state == "ok"
        if rng.random() < 0.1:
            for one in (recognizer, by_stage):
                one.forget(chunk[0][0])
        largest = max(largest, len(recognizer.streams))
    assert decisions > 3 * streams and largest > streams / 2
    close(on_gpu)
    close(host_pair)
    assert len(gpu._device) == len(lent) and gpu.live()[1:] == (0, 0), "only the caller's frames are left"


def test_a_batch_is_one_upload_one_run_a_stage_and_one_wait(machine):
    library, gpu, _ = machine
    pair = engines(library)
    recognizer = Recognizer(toy_manifest(), pair)
    for i in range(4):
        push_all(recognizer, pictures(5, i), i * 0.25)
    gpu.calls.clear()
    assert {p.state for p in push_all(recognizer, pictures(5, 4), 1.0)} == {"ok"}
    run = "execute_async_v3" if library == "tensorrt_rtx" else "cudaGraphLaunch"
    stages = ["cudaMemcpyHostToDevice", run, *[ON_DEVICE] * 10, "cudaEventRecord", *[ON_DEVICE] * 5, run]
    assert gpu.calls == [
        *("cudaSetDevice", "cudaEventRecord", *stages, "cudaMemcpyDeviceToHost", "cudaEventRecord"),
        *("cudaStreamSynchronize", "cudaEventElapsedTime", "cudaEventElapsedTime"),
    ]
    # Those of five streams that have no window yet are waited for by nobody.
    recognizer.reset()
    gpu.calls.clear()
    push_all(recognizer, pictures(5), 9.0)
    assert "cudaStreamSynchronize" not in gpu.calls and "cudaMemcpyDeviceToHost" not in gpu.calls
    close(pair)


def test_only_the_windows_that_are_full_are_decided(machine):
    library, gpu, _ = machine
    pair = engines(library)
    recognizer, want = Recognizer(toy_manifest(), pair), through_the_host(toy_manifest(), pair)
    for i in range(9):
        frames = [(f"camera {n}", pictures(1, n + i)[0], i * 0.25) for n in range(6) if i >= n]
        for got, same_as in zip(recognizer.push_many(frames), want.push_many(frames)):
            same(got, same_as, 0.0)
    close(pair)


def batches_of(gpu):
    """The batch sizes that contexts are set up for, by input."""
    found = {}
    for context in gpu.contexts:
        ((name, (_, shape)),) = context._facts["inputs"].items()
        found.setdefault("clip" if len(shape) == 4 and name == "tokens" else "frame", []).append(context._batch[name])
    return {stage: sorted(sizes) for stage, sizes in found.items()}


def test_contexts_and_graphs_are_made_when_a_batch_first_needs_them(machine):
    library, gpu, _ = machine
    pair = engines(library, 6, 6)  # the engines' own contexts are for 6
    recognizer = Recognizer(toy_manifest(), pair)
    assert batches_of(gpu) == {"frame": [1, 6], "clip": [1, 6]}
    made = []
    for count in (1, 2, 3, 4, 5, 6, 7, 13):
        gpu.calls.clear()
        push_all(recognizer, pictures(count), count * 10.0)
        made.append(gpu.calls.count("cudaStreamBeginCapture"))
    assert batches_of(gpu) == {"frame": [1, 2, 4, 6, 6], "clip": [1, 6]}
    assert made == ([0, 1, 1, 0, 1, 0, 0, 0] if library == "tensorrt" else [0] * 8)
    before = gpu.live()
    for i in range(8):
        push_all(recognizer, pictures(13, i), 500 + i * 0.25)
    assert batches_of(gpu)["clip"] == [1, 6, 6]
    after = gpu.live()
    for i in range(8, 16):
        push_all(recognizer, pictures(13, i), 500 + i * 0.25)
    assert gpu.live() == after > before
    close(pair)
    assert gpu.live() == (0, 0, 0)


def test_a_profile_for_one_serves_one_and_larger_batches_the_first(machine):
    library, gpu, _ = machine
    profiles = ((1, 1, 8), (1, 1, 1))
    pair = {
        "frame": TensorRTEngine(spec(**FRAME, profiles=profiles), library),
        "clip": TensorRTEngine(spec(**CLIP, profiles=profiles), library),
    }
    recognizer = Recognizer(toy_manifest(), pair)
    for i in range(4):
        last = push_all(recognizer, pictures(3, i), i * 0.25)
        recognizer.push(pictures(1)[0], i * 0.25, stream="alone")
    assert {p.state for p in last} == {"ok"}
    used = {(tuple(context._batch.values())[0], context._profile[2]) for context in gpu.contexts}
    assert used == {(1, 1), (4, 8), (8, 8)}
    close(pair)
    assert gpu.live() == (0, 0, 0)


def test_a_batch_that_does_not_fit_runs_in_smaller_ones(machine, monkeypatch, caplog):
    library, gpu, _ = machine
    pair, host_pair = engines(library), engines(library)
    recognizer, by_stage = Recognizer(toy_manifest(), pair), through_the_host(toy_manifest(), host_pair)
    monkeypatch.setattr(gpu, "_memory_bytes", sum(map(len, gpu._device.values())) + 20_000)  # six images
    for i in range(6):
        frames = [(f"camera {n}", image, i * 0.25) for n, image in enumerate(pictures(8, i))]
        for got, want in zip(recognizer.push_many(frames), by_stage.push_many(frames)):
            same(got, want, 0.0)
    assert caplog.text.count(f"{library} runs no batches of 8, but of other sizes: CUDA could not allocate 24576") == 1
    assert caplog.text.count("runs no batches of") == 1 and batches_of(gpu)["frame"] == [1, 1, 4, 8, 8]
    for one in (pair, host_pair):
        close(one)
    assert gpu.live() == (0, 0, 0)


def test_rings_are_shared_out_in_blocks_and_used_again(machine):
    library, gpu, _ = machine
    pair = engines(library)
    recognizer = Recognizer(toy_manifest(), pair)
    for count in (1, 2, 4, 8):  # so that every size of batch is there
        push_all(recognizer, pictures(count), 10.0 * count)
    before, images = len(gpu._device), pictures(8)
    for start in range(8, 304, 8):
        push_all(recognizer, images, 0.0, range(start, start + 8))
    assert len(recognizer.streams) == 304 and len(gpu._device) - before == 11  # 8, 16, and 32 at a time
    for n in range(300):
        recognizer.forget(f"camera {n}")
    recognizer.forget("nobody")
    before = gpu.live()
    for start in range(400, 700, 10):
        push_all(recognizer, images, 0.0, range(start, start + 8))
    assert gpu.live() == before
    # A ring of another's tokens is as good as new.
    again = [recognizer.push_many([("new", image, i * 0.25)])[0] for i, image in enumerate(images)]
    assert [p.state for p in again] == ["warming"] * 3 + ["ok"] * 5
    np.testing.assert_array_equal(again[-1].logits, recognizer.classify(images[4:]).logits)
    close(pair)
    assert gpu.live() == (0, 0, 0)


def failing(call, nth):
    """``call`` with the nth time (from 0) going wrong as CUDA says it."""
    left = [nth]

    def fails(*arguments):
        left[0] -= 1
        return (CudaError.cudaErrorInvalidValue, None) if left[0] == -1 else call(*arguments)

    return fails


def refusing(*_):
    raise VlfError("tensorrt could not run")


@pytest.mark.parametrize(
    ("call", "times"),
    [
        ("cudaMemcpyAsync", 1 + 6 + 3 + 1),
        ("cudaEventRecord", 3),
        ("cudaStreamSynchronize", 1),
        ("frame", 1),
        ("clip", 1),
    ],
)
def test_a_step_that_fails_leaves_other_streams_their_windows(machine, monkeypatch, call, times):
    """Whatever call it is that fails: the streams of this step begin anew, and it leaves nothing queued."""
    library, gpu, _ = machine
    pair, host_pair = engines(library), engines(library)
    recognizer, by_stage = Recognizer(toy_manifest(), pair), through_the_host(toy_manifest(), host_pair)
    bad, good, t_s = ["camera 0", "camera 1", "camera 2"], ["camera 3", "camera 4"], 0.0
    for i in range(4):  # so that this size of batch is there
        push_all(recognizer, pictures(3), i * 0.25)
    recognizer.reset()

    def agree(names, seed):
        frames = [(name, image, t_s) for name, image in zip(names, pictures(len(names), seed))]
        both = list(zip(recognizer.push_many(frames), by_stage.push_many(frames)))
        for got, want in both:
            same(got, want, 0.0)
        return {got.state for got, _ in both}

    for nth in range(times + 1):
        for i in range(5):
            agree(bad + good, 31 * nth + i)
            t_s += 0.25
        with monkeypatch.context() as patch:
            if call in pair:
                batches = recognizer.executor._encoding if call == "frame" else recognizer.executor._deciding
                (part,) = batches.parts(3)
                enqueue = refusing if nth < times else part.run.enqueue
                patch.setitem(batches._parts, 3, [part._replace(run=part.run._replace(enqueue=enqueue))])
            else:
                patch.setattr(gpu, call, failing(getattr(gpu, call), nth))
            step = [(name, image, t_s) for name, image in zip(bad, pictures(3, nth))]
            if nth < times:
                with pytest.raises(VlfError, match="could not"):
                    recognizer.push_many(step)
            else:
                assert {prediction.state for prediction in recognizer.push_many(step)} == {"ok"}
        assert not gpu.busy()
        for name in bad:
            by_stage.reset(name)
            recognizer.reset(name)
        assert agree(good, nth) == {"ok"}
        t_s += 0.25
    for one in (pair, host_pair):
        close(one)
    assert gpu.live() == (0, 0, 0)


RECURRENT = {
    "inputs": {"image": ("UINT8", (-1, 32, 32, 3)), "state": ("FLOAT", (-1, 6))},
    "outputs": {"logits": ("FLOAT", (-1, len(LABELS))), "next_state": ("FLOAT", (-1, 6))},
}
RECURRENT_TOKENS = {**RECURRENT, "outputs": {"tokens": ("HALF", (-1, 4, 6)), "next_state": ("FLOAT", (-1, 6))}}
ROLES = {"image": "image", "state": "state:next_state", "next_state": "state"}
WHOLE = {"inputs": {"clip": ("UINT8", (-1, 4, 32, 32, 3))}, "outputs": {"logits": ("FLOAT", (-1, len(LABELS)))}}
OTHER_PLANS = {
    "recurrent": ({"frame": RECURRENT}, {"frame": {**ROLES, "logits": "logits"}}),
    "recurrent with a window": (
        {"frame": RECURRENT_TOKENS, "clip": CLIP},
        {"frame": {**ROLES, "tokens": "tokens"}, "clip": {"tokens": "window", "logits": "logits"}},
    ),
    "whole clip": ({"clip": WHOLE}, {"clip": {"clip": "window", "logits": "logits"}}),
}


@pytest.mark.parametrize("kind", OTHER_PLANS)
def test_plans_of_other_shapes_run_on_gpu_engines_through_the_host(machine, kind):
    library, gpu, _ = machine
    specs, roles = OTHER_PLANS[kind]
    pair = {stage: TensorRTEngine(spec(**one, profiles=((1, 1, 4),)), library) for stage, one in specs.items()}
    recognizer = Recognizer(manifest_of(roles, pair), pair)
    assert type(recognizer.executor) is HostExecutor
    for i in range(4):
        predictions = push_all(recognizer, pictures(6, i), i * 0.25)
    for n, got in enumerate(predictions):
        want = recognizer.classify([pictures(6, i)[n] for i in range(4)])
        assert got.state == "ok"
        np.testing.assert_allclose(got.logits, want.logits, rtol=1e-6)
    close(pair)
    assert gpu.live() == (0, 0, 0)


def test_stages_are_known_by_their_roles(machine):
    library, _, _ = machine
    two = {**FRAME, "outputs": {"pooled": ("FLOAT", (-1, 7)), **FRAME["outputs"]}}
    pair = {"frame": TensorRTEngine(spec(**two), library), "clip": TensorRTEngine(spec(**CLIP), library)}
    roles = {
        "frame": {"image": "image", "tokens": "tokens", "pooled": "features"},
        "clip": {"tokens": "window", "logits": "logits"},
    }
    recognizer, images = Recognizer(manifest_of(roles, pair), pair), pictures(4)
    assert type(recognizer.executor) is TensorRTExecutor
    last = [recognizer.push(image, i * 0.25) for i, image in enumerate(images)][-1]
    np.testing.assert_array_equal(last.logits, recognizer.classify(images).logits)
    close(pair)
