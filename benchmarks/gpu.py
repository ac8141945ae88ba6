"""What one NVIDIA GPU makes of a plan: TensorRT against PyTorch, torch.compile, CUDA graphs and ONNX Runtime.

    python benchmarks/gpu.py [--model vlf] [--precisions fp16 int8] [--batches 1 2 4 ... 256] [--json]

Three parts, for N streams at once:

  frame      N images (H, W, 3) uint8 -> tokens, from GPU memory to GPU memory
  clip       N windows of tokens -> logits, the same way
  decision   N images in page-locked host memory -> GPU -> tokens -> windows -> logits -> host: one for each stream

All engines see the same images and run on the same stream. p50 and p99 are of single calls, each waited for; items a
second are of calls queued without waiting. "of roofline" is the shortest time that the multiply-adds and bytes of the
graph can take at the rates measured here, over the time of a queued call. "difference" is that of the logits to the
fp32 graphs in ONNX Runtime on the CPU, relative. "Runtime" is vlf_edge.Runtime.push with an image in host memory.

Last come seconds from opening a plan to the first decision, when nothing is kept, when engines are, and kernels too.

What cannot run is a row "not measured" with the reason. Without a GPU there is one sentence and exit status 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from gpu_measure import GOAL_DECISIONS_HZ, GOAL_STREAMS, measure, not_measured, runtime_row, table
from gpu_starts import starts
from hardware import describe
from plans import build_plans

from vlf_edge import Plan, Runtime, VlfError
from vlf_edge.backends import cuda
from vlf_edge.backends.selection import GPU_BACKENDS
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


def all_contenders(model: str, plans: dict[str, Plan], precisions: Sequence[str], largest: int, compile_mode: str):
    """[(name, precision, a function that gives the contender or raises), ...]: what is compared on a GPU."""
    import gpu_contenders as ways

    from vlf_edge.models import create_model

    labels = plans["fp32"].manifest.labels
    seed = plans["fp32"].manifest.weights["seed"]
    stages = {stage.name: stage for stage in create_model(model, len(labels), seed=seed).stages()}

    def torch_way(name: str, precision: str, **how: Any):
        return name, precision, lambda: ways.torch_contender(name, stages, plans[precision], DEVICE, **how)

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
    return found


def runtime_rows(plans: dict[str, Plan], precisions: Sequence[str], images: np.ndarray, calls: int) -> list[dict]:
    """The package itself, one stream, image by image."""
    rows = []
    for library in GPU_BACKENDS:
        for precision in precisions:
            try:
                with Runtime(plans[precision], backend=library) as runtime:
                    rows.append(runtime_row(runtime, images, calls))
            except VlfError as error:
                rows.append(not_measured(f"Runtime on {library}", precision, error))
    return rows


def start_rows(plans: dict[str, Plan], precisions: Sequence[str], images: np.ndarray, folder: Path) -> list[dict]:
    """What a first and later starts take."""
    rows = []
    for library in GPU_BACKENDS:
        for precision in precisions:
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
    add("--model", choices=("vlf-tiny", "vlf-lite", "vlf"), default="vlf", help="random weights (default: vlf)")
    add("--precisions", nargs="+", choices=("fp32", "fp16", "int8"), default=["fp16", "int8"], help="of the engines")
    add("--batches", nargs="+", type=int, default=list(BATCHES), metavar="N", help="streams at once (default: to 256)")
    add("--source", default="test://motion?seconds=20", metavar="CLIP", help="images (default: rendered motion)")
    add("--calls", type=int, default=200, metavar="N", help="timed calls of each (default: 200)")
    add("--compile-mode", default="default", metavar="MODE", help="of torch.compile, such as max-autotune")
    add("--only", nargs="+", metavar="NAME", help="measure the engines whose names begin so, such as torch")
    add("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    if min(args.batches) < 1 or args.calls < 1:
        parser.error(f"--batches {args.batches} --calls {args.calls}: expected numbers from 1 on")
    try:
        gpu = describe_gpu()
        figures = {"machine": {**describe(*PACKAGES), "gpu": gpu}, **_figures(args)}
    except VlfError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
    print(json.dumps(figures, indent=1) if args.json else table(figures))


def _figures(args: argparse.Namespace) -> dict[str, Any]:
    wanted = tuple(args.only or ("",))
    with tempfile.TemporaryDirectory() as folder:
        plans = build_plans(args.model, sorted({"fp32", "fp16", *args.precisions}), Path(folder))
        images = images_of(plans["fp32"], args.source, 64)
        contenders = all_contenders(args.model, plans, args.precisions, max(args.batches), args.compile_mode)
        contenders = [entry for entry in contenders if entry[0].startswith(wanted)]
        figures = measure(plans, contenders, images, sorted(set(args.batches)), DEVICE, args.calls, Progress())
        if "Runtime".startswith(wanted):
            figures["rows"] += runtime_rows(plans, args.precisions, images, args.calls)
            figures["starts"] = start_rows(plans, args.precisions, images, Path(folder))
    goals = {"streams": GOAL_STREAMS, "decisions_hz": GOAL_DECISIONS_HZ}
    return {"model": args.model, "source": args.source, "calls": args.calls, "goals": goals, **figures}


if __name__ == "__main__":
    main()
