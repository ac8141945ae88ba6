"""What one NVIDIA GPU makes of a plan: TensorRT against PyTorch, torch.compile, CUDA graphs and ONNX Runtime.

    python benchmarks/gpu.py [--model vlf] [--precisions fp16 int8] [--batches 1 2 4 ... 256] [--minutes 8] [--json]
    python benchmarks/gpu.py --plan fp16.plan int8.plan

Three parts, for N streams at once:

  frame      N images (H, W, 3) uint8 -> tokens, from GPU memory to GPU memory
  clip       N windows of tokens -> logits, the same way
  decision   N images in page-locked host memory -> GPU -> tokens -> windows -> logits -> host: one for each stream

All engines see the same images and run on the same stream. p50 and p99 are of single calls, each waited for; items a
second are of calls queued without waiting. "of stage" is the shortest time that the multiply-adds and bytes of the
whole stage can take at the rates measured here, over the time of a queued call; "of layers" the same for its layers one
by one, each of which reads its input and writes its output (gpu_roofline.py). "difference" is that of the logits to the
fp32 graphs in ONNX Runtime on the CPU, relative. "Runtime" is vlf_edge.Runtime.push with an image in host memory.

Last come seconds from opening a plan to the first decision, when nothing is kept, when engines are, and kernels too.

--plan measures plans of your own, one of each precision, instead of building some of random weights. PyTorch then has
random weights all the same: its times do not depend on them, and its rows have no "difference".

--minutes begins nothing after that time, and measures first what the goals speak of: Runtime, one stream, the largest
batch. What was begun is finished, so that it may take somewhat longer.

What cannot run is a row "not measured" with the reason. Without a GPU there is one sentence and exit status 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from gpu_measure import GOAL_DECISIONS_HZ, GOAL_STREAMS, NO_TIME, measure, not_measured, runtime_row, table
from gpu_starts import starts
from hardware import describe
from plans import VLF_SIZES, build_plans, open_plans

from vlf_edge import Plan, Runtime, VlfError
from vlf_edge.backends import cuda
from vlf_edge.backends.table import GPU_BACKENDS
from vlf_edge.commands.progress import Progress
from vlf_edge.errors import BackendMissing
from vlf_edge.video.preprocess import Preprocessor
from vlf_edge.video.sources import open_source

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PACKAGES = ("numpy", "torch", "tensorrt", "tensorrt_rtx", "onnxruntime-gpu", "onnxruntime", "cuda-bindings")
DEVICE = "cuda:0"


def images_of(plan: Plan, source: str, count: int) -> np.ndarray:
    """(n, H, W, 3) uint8: the first frames of a source, cut and shrunk as the runtime does."""
    preprocess = Preprocessor(plan.manifest.preprocess)
    with open_source(source) as frames:
        return np.stack([preprocess(frame.image) for frame in islice(frames, count)])


def describe_gpu() -> dict[str, Any]:
    """Name, compute capability, memory and driver of the GPU. Raises BackendMissing if there is none."""
    gpu = cuda.probe()
    query = ["nvidia-smi", "--query-gpu=driver_version,power.limit,clocks.max.sm", "--format=csv,noheader", "--id=0"]
    try:
        driver, power_limit, clock = subprocess.run(query, capture_output=True, text=True).stdout.strip().split(", ")
    except (OSError, ValueError):  # a Jetson has none
        driver = power_limit = clock = "unknown"
    import torch

    if not torch.cuda.is_available():
        raise BackendMissing(f"{gpu} is here, but PyTorch {torch.__version__} cannot use it; install one for its CUDA")
    return {
        "name": gpu.name,
        "compute_capability": gpu.compute_capability,
        "memory_bytes": gpu.memory_bytes,
        "driver": driver,
        "power_limit": power_limit,
        "max_clock": clock,
        "cuda_of_torch": torch.version.cuda,
    }


def all_contenders(plans: dict[str, Plan], precisions: Sequence[str], largest: int, compile_mode: str):
    """[(name, precision, a function that gives the contender or raises), ...]: what is compared on a GPU."""
    import gpu_contenders as ways

    programs = ways.programs_of(next(iter(plans.values())), largest, DEVICE)

    def torch_way(name: str, precision: str, **how: Any):
        return name, precision, lambda: ways.torch_contender(name, programs, plans[precision], **how)

    found = [torch_way("torch eager", "fp32"), torch_way("torch eager", "fp16")]
    found.append(torch_way("torch.compile", "fp16", compiled=compile_mode))
    found.append(torch_way("torch CUDA graph", "fp16", graphed=True))
    found.append(("onnxruntime CUDA", "fp16", lambda: ways.onnxruntime_contender(plans["fp16"], DEVICE)))
    engines: dict[tuple[str, ...], Any] = {}
    for library in GPU_BACKENDS:
        for precision in precisions:
            for graph in (False, True):

                def tensorrt_way(library=library, precision=precision, graph=graph):
                    return ways.tensorrt_contender(plans[precision], library, largest, engines, graphed=graph)

                found.append((f"{library}{' + CUDA graph' if graph else ''}", precision, tensorrt_way))
    return [entry for entry in found if entry[1] in plans]


def runtime_rows(
    plans: dict[str, Plan], precisions: Sequence[str], images: np.ndarray, calls: int, late: Callable[[], bool]
) -> list[dict]:
    """The package itself, one stream, image by image. late: whether nothing more is to begin."""
    rows = []
    for library in GPU_BACKENDS:
        for precision in precisions:
            if late():
                rows.append(not_measured(f"Runtime on {library}", precision, NO_TIME))
                continue
            try:
                with Runtime(plans[precision], backend=library) as runtime:
                    rows.append(runtime_row(runtime, images, calls))
            except VlfError as error:
                rows.append(not_measured(f"Runtime on {library}", precision, error))
    return rows


def start_rows(
    plans: dict[str, Plan], precisions: Sequence[str], images: np.ndarray, folder: Path, late: Callable[[], bool]
) -> list[dict]:
    """What a first and later starts take. late: as above."""
    rows = []
    for library in GPU_BACKENDS:
        for precision in precisions:
            if late():
                rows.append(not_measured(f"start on {library}", precision, NO_TIME))
                continue
            plan = plans[precision]
            cache = folder / f"{library}-{precision}"
            try:
                rows += starts(plan, library, images[: plan.manifest.sampling.frames], cache)
            except VlfError as error:
                rows.append(not_measured(f"start on {library}", precision, error))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", choices=VLF_SIZES, default="vlf", help="random weights (default: vlf)")
    add("--plan", nargs="+", metavar="PLAN", help="measure these plans of one model instead of building some")
    add("--precisions", nargs="+", choices=("fp32", "fp16", "int8"), default=["fp16", "int8"], help="of the engines")
    add("--batches", nargs="+", type=int, default=list(BATCHES), metavar="N", help="streams at once (default: to 256)")
    add("--source", default="test://motion?seconds=20", metavar="CLIP", help="images (default: rendered motion)")
    add("--calls", type=int, default=200, metavar="N", help="timed calls of each (default: 200)")
    add("--compile-mode", default="default", metavar="MODE", help="of torch.compile, such as max-autotune")
    add("--only", nargs="+", metavar="NAME", help="measure the engines whose names begin so, such as torch")
    add("--minutes", type=float, metavar="M", help="begin nothing after M minutes, the most important first")
    add("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    if min(args.batches) < 1 or args.calls < 1:
        parser.error(f"--batches {args.batches} --calls {args.calls}: expected numbers from 1 on")
    if args.minutes is not None and args.minutes <= 0:
        parser.error(f"--minutes {args.minutes}: expected more than 0")
    try:
        gpu = describe_gpu()
        figures = {"machine": {**describe(*PACKAGES), "gpu": gpu}, **_figures(args)}
    except VlfError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
    print(json.dumps(figures, indent=1) if args.json else table(figures))


def _figures(args: argparse.Namespace) -> dict[str, Any]:
    wanted = tuple(args.only or ("",))
    until_s = None if args.minutes is None else time.monotonic() + 60 * args.minutes
    ours = "Runtime".startswith(wanted)

    def late() -> bool:
        return until_s is not None and time.monotonic() >= until_s

    with tempfile.TemporaryDirectory() as folder:
        if args.plan:
            plans = open_plans(args.plan)
            precisions = list(plans)
        else:
            plans = build_plans(args.model, sorted({"fp32", "fp16", *args.precisions}), Path(folder))
            precisions = args.precisions
        manifest = next(iter(plans.values())).manifest
        images = images_of(next(iter(plans.values())), args.source, 64)
        contenders = all_contenders(plans, precisions, max(args.batches), args.compile_mode)
        contenders = [entry for entry in contenders if entry[0].startswith(wanted)]
        own = runtime_rows(plans, precisions, images, args.calls, late) if ours else []
        batches = sorted(set(args.batches))
        figures = measure(plans, contenders, images, batches, DEVICE, args.calls, Progress(), until_s=until_s)
        figures["rows"] += own
        if ours:
            figures["starts"] = start_rows(plans, precisions, images, Path(folder), late)
    goals = {"streams": GOAL_STREAMS, "decisions_hz": GOAL_DECISIONS_HZ}
    weights = "random weights" if manifest.random_weights else f"weights of {', '.join(map(str, args.plan))}"
    about = {"model": manifest.model["name"], "weights": weights, "source": args.source, "calls": args.calls}
    return {**about, "goals": goals, **figures}


if __name__ == "__main__":
    main()
