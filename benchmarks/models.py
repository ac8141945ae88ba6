"""The table of docs/models.md: parameters, multiply-adds and times of every model of the package.

    python benchmarks/models.py                                 parameters and multiply-adds, at the models' own sizes
    python benchmarks/models.py --time vlf-lite tsm-online      ... and ms of a clip and of a streamed decision here

Multiply-adds are counted by PyTorch's own torch.utils.flop_counter (convolutions, matrix products and attention; norms,
activations and pooling are left out, as authors do too) and halved: it counts a multiplication and an addition as two.
Times are medians of single calls of fp32 graphs on OpenVINO, all models in turns, so that a drift of the machine falls
on all alike.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from vlf_edge.backends.table import TABLE
from vlf_edge.compiler.onnx_export import export_stage
from vlf_edge.models import MODELS, create_model
from vlf_edge.models.stage import Stage, evaluating

CLASSES = 400
ROUNDS = 15


def multiply_adds(stage: Stage) -> float:
    """Of one run of a stage on one frame or window."""
    inputs = [torch.zeros(spec.sized(1), dtype=getattr(torch, spec.dtype)) for spec in stage.inputs]
    with evaluating(stage.module), torch.no_grad(), FlopCounterMode(display=False) as counter:
        stage.module(*inputs)
    return counter.get_total_flops() / 2


def row(name: str) -> dict[str, float | str]:
    """Millions of parameters; billions of multiply-adds for a clip, and for a decision of a stream that moved on by a
    frame."""
    model = create_model(name, CLASSES, seed=0)
    *frame, clip = model.stages()
    frames, last = model.sizes.frames, multiply_adds(clip)
    first = multiply_adds(frame[0]) if frame else 0.0
    return {
        "model": name,
        "parameters_m": sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        "frames": frames,
        "clip_g": (frames * first + last) / 1e9,
        "decision_g": (first + last) / 1e9,
    }


def times_ms(names: list[str]) -> dict[str, tuple[float, float]]:
    """{model: (ms of a clip, ms of a streamed decision)}."""
    engines, takes = {}, {}
    for name in names:
        stages = create_model(name, CLASSES, seed=0).stages()
        engines[name] = [TABLE["openvino"].open_graph(export_stage(stage)) for stage in stages]
        takes[name] = {stage.name: [] for stage in stages}, stages
    for turn in range(ROUNDS + 2):
        for name in names:
            taken, stages = takes[name]
            for stage, engine in zip(stages, engines[name]):
                feed = {spec.name: np.zeros(spec.sized(1), spec.dtype) for spec in stage.inputs}
                start_s = time.perf_counter()
                engine.infer(feed)
                if turn >= 2:
                    taken[stage.name].append((time.perf_counter() - start_s) * 1e3)
    found = {}
    for name, (taken, stages) in takes.items():
        first, last = (statistics.median(taken[key]) if key in taken else 0.0 for key in ("frame", "clip"))
        frames = stages[-1].inputs[0].shape[1]
        found[name] = (frames * first + last, first + last)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=MODELS, choices=MODELS, metavar="MODEL", help="default: all")
    parser.add_argument("--time", nargs="+", default=[], choices=MODELS, metavar="MODEL", help="models to time as well")
    args = parser.parse_args()
    print("| model | parameters | frames | multiply-adds a clip | a streamed decision |\n|---|---|---|---|---|")
    for name in args.only:
        one = row(name)
        print(
            f"| `{name}` | {one['parameters_m']:.2f} M | {one['frames']} | {one['clip_g']:.2f} G | "
            f"{one['decision_g']:.2f} G |",
            flush=True,
        )
    for name, (clip, decision) in times_ms(args.time).items():
        print(f"{name}: {clip:.1f} ms a clip, {decision:.1f} ms a streamed decision")


if __name__ == "__main__":
    main()
