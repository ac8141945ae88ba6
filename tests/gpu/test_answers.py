"""On a GPU: engines answer as ONNX Runtime does, the stream as the clip, the graph as the plain calls, two as one."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from vlf_edge import Plan
from vlf_edge.compiler.graph import Session

from .conftest import sized_frames

# Relative, of the norm of the logits. fp32: 23 bits (6e-8 each) and sums in another order; TF32, which would round
# factors to 10 bits, is off (conftest.py). fp16: 10 bits (5e-4 each; errors of many products cancel), but
# sums between layers are rounded as well, at other places than on a CPU. int8: the same Q/DQ graph, but a value that
# fp16 rounding moves over the edge of a step is a whole step (1/127) off.
TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "int8": 5e-2}


def reference_logits(plan: Plan, frames: np.ndarray) -> np.ndarray:
    """(C,): the typed graphs, as they are written, in ONNX Runtime on the CPU."""
    (tokens,) = Session(plan.graph("frame", "typed")).run({"image": frames}).values()
    (logits,) = Session(plan.graph("clip", "typed")).run({"tokens": tokens[np.newaxis]}).values()
    return logits[0].astype(np.float64)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def pushed(runtime, frames: np.ndarray) -> list[np.ndarray]:
    """Logits of every full window, all frames on the sampling grid."""
    step_s = runtime.recognizer.sampling.grid_s
    answers = [runtime.push(frame, number * step_s) for number, frame in enumerate(frames)]
    return [answer.logits for answer in answers if answer.state == "ok"]


@pytest.mark.parametrize("precision", TOLERANCE)
def test_engines_answer_as_onnx_runtime_on_videos(trained, on_gpu, videos, precision):
    plan = Plan.open(trained[precision])
    answers = []
    with on_gpu(plan) as runtime:
        for clip in videos:
            frames = sized_frames(plan, clip, plan.manifest.sampling.frames)
            found, expected = runtime.classify(frames).logits, reference_logits(plan, frames)
            assert relative(found, expected) < TOLERANCE[precision], clip.name
            answers.append(expected)
    apart = min(relative(a, b) for i, a in enumerate(answers) for b in answers[:i])
    assert apart > 2 * TOLERANCE[precision], "clips that all get one answer prove nothing"


@pytest.mark.parametrize("precision", TOLERANCE)
def test_the_stream_is_the_clip_on_the_device(trained, on_gpu, videos, precision):
    plan = Plan.open(trained[precision])
    window = plan.manifest.sampling.frames
    frames = sized_frames(plan, videos[0], 3 * window)
    with on_gpu(plan) as runtime:
        live = pushed(runtime, frames)
        assert len(live) == len(frames) - window + 1
        for start, logits in enumerate(live):
            whole = runtime.classify(frames[start : start + window]).logits
            # Frames one by one and as a batch may take other kernels: other rounding, no more.
            assert relative(logits, whole.astype(np.float64)) < TOLERANCE[precision], f"window {start}"


def test_another_phase_and_a_gap_leave_the_ring_right(trained, on_gpu, videos):
    plan = Plan.open(trained["fp16"])
    window = plan.manifest.sampling.frames
    frames = sized_frames(plan, videos[0], 2 * window + 3)
    with on_gpu(plan, phases=2) as runtime:
        grid_s = runtime.recognizer.sampling.grid_s
        states = [runtime.push(frame, number * grid_s).state for number, frame in enumerate(frames[:5])]
        assert states == ["warming"] * 5
        late = [runtime.push(frame, 1000 + number * grid_s) for number, frame in enumerate(frames)]
        assert late[0].state == "gap" and late[-1].state == "ok"
        last = frames[len(frames) - 1 - 2 * (window - 1) :: 2]  # every second instant is one window
        assert relative(late[-1].logits, runtime.classify(last).logits.astype(np.float64)) < TOLERANCE["fp16"]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_with_and_without_a_cuda_graph_the_answers_are_equal(trained, on_gpu, videos, precision):
    plan = Plan.open(trained[precision])
    frames = np.concatenate([sized_frames(plan, clip, plan.manifest.sampling.frames) for clip in videos])
    with on_gpu(plan, cuda_graph=True) as runtime:
        replayed = pushed(runtime, frames)
        again = runtime.classify(frames[: plan.manifest.sampling.frames]).logits
    with on_gpu(plan, cuda_graph=False) as runtime:
        plain = pushed(runtime, frames)
    for with_graph, without in zip(replayed, plain, strict=True):
        assert relative(with_graph, without.astype(np.float64)) < 1e-3
    assert relative(again, replayed[0].astype(np.float64)) < TOLERANCE[precision]
    steps = [relative(b, a.astype(np.float64)) for a, b in zip(plain, plain[1:])]
    assert min(steps) > 1e-3, "a graph that replays an old answer would be seen in every step"


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_streams_in_batches_decide_as_each_alone(trained, on_gpu, videos, cuda_graph):
    plan = Plan.open(trained["fp16"])
    clips = [sized_frames(plan, clip, plan.manifest.sampling.frames + 4) for clip in videos]
    with on_gpu(plan, cuda_graph=cuda_graph) as runtime:
        step_s = runtime.recognizer.sampling.grid_s
        alone = []
        for clip in clips:
            alone.append(pushed(runtime, clip))
            runtime.reset()
        together: list[list[np.ndarray]] = [[] for _ in range(13)]  # runs of 8, or of what the engine takes, and a rest
        for number in range(len(clips[0])):
            frames = [(f"camera {n}", clips[n % len(clips)][number], number * step_s) for n in range(len(together))]
            for found, answer in zip(together, runtime.push_many(frames), strict=True):
                if answer.state == "ok":
                    found.append(answer.logits)
    for n, found in enumerate(together):
        for a, b in zip(found, alone[n % len(clips)], strict=True):
            assert relative(a, b.astype(np.float64)) < TOLERANCE["fp16"], f"camera {n}"


def test_two_runtimes_at_once_answer_as_each_alone(trained, on_gpu, videos):
    jobs = {}
    for precision, clip in (("fp16", videos[0]), ("int8", videos[-1])):
        plan = Plan.open(trained[precision])
        frames = np.tile(sized_frames(plan, clip, 40), (5, 1, 1, 1))
        with on_gpu(plan) as runtime:
            jobs[precision] = (plan, frames, pushed(runtime, frames))
    found: dict[str, list[np.ndarray]] = {}
    together = threading.Barrier(len(jobs), timeout=120)

    def run(precision: str) -> None:
        plan, frames, _ = jobs[precision]
        with on_gpu(plan) as runtime:
            together.wait()
            found[precision] = pushed(runtime, frames)

    threads = [threading.Thread(target=run, args=(precision,)) for precision in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=240)
    for precision, (_, _, alone) in jobs.items():
        for a, b in zip(found[precision], alone, strict=True):
            assert relative(a, b.astype(np.float64)) < 1e-3, "the same kernels on the same data"
