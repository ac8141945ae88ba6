"""On a GPU: ten thousand decisions take no more memory than a few hundred."""

from __future__ import annotations

import gc
from itertools import cycle, islice

import pytest

from vlf_edge import Plan

from .conftest import MOST_GPU_BYTES, free_gpu_bytes, resident_bytes, sized_frames

DECISIONS = 10_000
WARM_UP = 500
# As MOST_GPU_BYTES, but Python and glibc hand out memory in smaller pieces.
MOST_HOST_BYTES = 8 << 20


@pytest.mark.parametrize("cuda_graph", [True, False], ids=["graph", "no graph"])
def test_ten_thousand_decisions_do_not_grow(trained, on_gpu, cuda_graph):
    plan = Plan.open(trained["fp16"])
    frames = cycle(sized_frames(plan, "test://motion?seconds=4", 16))
    with on_gpu(plan, cuda_graph=cuda_graph) as runtime:
        step_s = runtime.recognizer.sampling.grid_s
        decisions = 0
        for number, frame in enumerate(islice(frames, DECISIONS + WARM_UP)):
            if number == WARM_UP:
                gc.collect()
                gpu_bytes, host_bytes = free_gpu_bytes(), resident_bytes()
                decisions = 0
            decisions += runtime.push(frame, number * step_s).state == "ok"
        assert decisions == DECISIONS
        gc.collect()
        assert gpu_bytes - free_gpu_bytes() < MOST_GPU_BYTES
        assert resident_bytes() - host_bytes < MOST_HOST_BYTES


def test_opening_and_closing_gives_everything_back(trained, on_gpu):
    plan = Plan.open(trained["fp16"])
    frame = sized_frames(plan, "test://motion?seconds=2", 1)[0]

    def once() -> int:
        with on_gpu(plan) as runtime:
            runtime.push(frame, 0.0)
        del runtime
        gc.collect()
        return free_gpu_bytes()

    once(), once()  # contexts, kernels and caches that CUDA keeps
    before = once()
    for _ in range(10):
        after = once()
    assert before - after < MOST_GPU_BYTES
