"""The table of docs/models.md: parameters, multiply-adds and times of every model of the package.

    python benchmarks/models.py                                     parameters and multiply-adds, at their own sizes
    python benchmarks/models.py --time                              ... and ms of a clip, and of a streamed decision
    python benchmarks/models.py --time --only vlf-lite tsm-online   ... of these alone

Multiply-adds are counted by PyTorch's own torch.utils.flop_counter (convolutions, matrix products and attention; norms,
activations and pooling are left out, as authors do too) and halved: it counts a multiplication and an addition as two.

Times are of fp32 graphs with random weights on OpenVINO with one thread, medians of single calls. One model at a time
is open, since X-ViT takes gigabytes; a streamed decision of `vlf` is timed in turns with each, and the last column is
how many of those a streamed decision takes. "ms" are of CPU time: what an idle core's clock would show.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from copy import deepcopy
from typing import NamedTuple

import torch
from hardware import describe, header
from torch.utils.flop_counter import FlopCounterMode
from turns import in_turns, runs_of

from vlf_edge.backends.openvino import OpenVINOEngine
from vlf_edge.compiler.onnx_export import export_stage
from vlf_edge.models import MODELS, create_model
from vlf_edge.models.model import Model
from vlf_edge.models.stage import Stage, evaluating

CLASSES = 400
REFERENCE = "vlf"


class Cost(NamedTuple):
    """parameters: how many. clip, decision: multiply-adds for a clip, and for a decision of a stream that moved on by a
    frame."""

    parameters: int
    clip: float
    decision: float


def multiply_adds(stage: Stage) -> float:
    """Of one run of a stage on one frame or window. Counted from shapes alone: nothing is computed."""
    shapes = deepcopy(stage.module).to("meta")
    inputs = [torch.zeros(spec.sized(1), dtype=getattr(torch, spec.dtype), device="meta") for spec in stage.inputs]
    with evaluating(shapes), torch.no_grad(), FlopCounterMode(display=False) as counter:
        shapes(*inputs)
    return counter.get_total_flops() / 2


def cost(model: Model) -> Cost:
    *frame, clip = model.stages()
    last = multiply_adds(clip)
    first = multiply_adds(frame[0]) if frame else 0.0
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(parameters, model.sizes.frames * first + last, first + last)


def opened(model: Model, stack: ExitStack) -> list[OpenVINOEngine]:
    """The stages of a model in fp32, on one thread each."""
    return [stack.enter_context(OpenVINOEngine(export_stage(stage), threads=1)) for stage in model.stages()]


def times(name: str, turns: int) -> tuple[float, float, float]:
    """(ms of a clip, ms of a streamed decision, the same in streamed decisions of the reference)."""
    with ExitStack() as stack:
        model, reference = create_model(name, CLASSES, seed=0), create_model(REFERENCE, CLASSES, seed=0)
        clip, streamed = runs_of(model.stages(), opened(model, stack))
        _, yardstick = runs_of(reference.stages(), opened(reference, stack))
        ways = {"clip": clip, "streamed": streamed, "yardstick": yardstick}
        spent = {way: times.cpu_ms for way, times in in_turns(ways, turns).items()}
    return spent["clip"], spent["streamed"], spent["streamed"] / spent["yardstick"]


def row(name: str, turns: int) -> str:
    """turns: timed; 0 for none."""
    model = create_model(name, CLASSES, seed=0)
    of = cost(model)
    cells = [
        f"`{name}`", f"{of.parameters / 1e6:.2f} M", str(model.sizes.frames), f"{of.clip / 1e9:.2f} G",
        f"{of.decision / 1e9:.2f} G",
    ]  # fmt: skip
    if turns:
        clip_ms, streamed_ms, ratio = times(name, turns)
        cells += [f"{clip_ms:.4g}", f"{streamed_ms:.4g}", f"{ratio:.3g}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=MODELS, choices=MODELS, metavar="MODEL", help="default: all")
    parser.add_argument("--time", action="store_true", help="time them as well")
    parser.add_argument("--turns", type=int, default=9, metavar="N", help="timed, with --time (default: 9)")
    args = parser.parse_args()
    print(header(describe("torch", "openvino")), end="\n\n")
    columns = ["model", "parameters", "frames", "multiply-adds a clip", "a streamed decision"]
    columns += ["ms a clip", "ms a streamed decision", f"in those of `{REFERENCE}`"] if args.time else []
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name in args.only:
        print(row(name, args.turns if args.time else 0), flush=True)


if __name__ == "__main__":
    main()
