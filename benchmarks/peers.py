"""A decision of VLF beside what others would run for it, in one run on this CPU, all with as many threads.

    python benchmarks/peers.py [--models vlf vlf-lite] [--threads 1] [--turns 15]
    python benchmarks/peers.py --backbone mobilenetv4_conv_small --token-step 4 --token-dim 256 --layers 2

  streamed      the new frame is encoded, the clip stage runs on its tokens and those kept of the others
  whole clip    all frames are encoded anew, as one batch, then the clip stage runs
  VTN           as Open Model Zoo's action_recognition demo runs it (fp32, without layer norms): the encoder on each
                frame, the decoder on the vectors of the last 16

on OpenVINO, ONNX Runtime or eager PyTorch, in turns: medians of single calls, wall clock and CPU time of all threads.
With one thread, CPU time is what an idle core's clock would show. Only the networks are timed, with random weights and,
for int8, ranges of noise: no camera, no preprocessing. Where the CPU has no exact int8 instructions, the package
computes int8 graphs in float (vlf_edge/backends/cpu.py), and int8 is as fast as fp32; on any x86 ONNX Runtime convolves
in float. bf16 is timed where OpenVINO takes it for plans of fp16.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import torch
from hardware import describe, header
from plans import VLF_SIZES
from turns import in_turns, int8_to_time, noise, runs_of

from vlf_edge.backends.cpu import int8_saturates
from vlf_edge.backends.engine import Engine
from vlf_edge.backends.onnxruntime import OnnxRuntimeEngine
from vlf_edge.backends.openvino import OpenVINOEngine
from vlf_edge.compiler.onnx_export import export_stage
from vlf_edge.models import sizes_of
from vlf_edge.models.sizes import Sizes
from vlf_edge.models.vlf import VLF

CLASSES = 400
YARDSTICK = "VTN ResNet-34, fp32, OpenVINO, streamed"

Ways = dict[str, Callable[[], object]]


def vlf_ways(name: str, sizes: Sizes, threads: int, stack: ExitStack) -> Ways:
    model = _model(sizes)
    stages = model.stages()
    fp32 = [export_stage(stage) for stage in stages]
    int8 = [int8_to_time(graph, stage.inputs) for graph, stage in zip(fp32, stages)]
    ways: Ways = {}

    def add(shown: str, engine: type[Engine], library: str, precision: str, graphs: list[bytes]) -> None:
        opened = [stack.enter_context(engine(graph, precision=precision, threads=threads)) for graph in graphs]
        clip, streamed = runs_of(stages, opened)
        ways[f"{name}, {shown}, {library}, streamed"] = streamed
        ways[f"{name}, {shown}, {library}, whole clip"] = clip

    for precision, graphs in (("fp32", fp32), ("int8", int8)):
        add(precision, OpenVINOEngine, "OpenVINO", precision, graphs)
        add(precision, OnnxRuntimeEngine, "ONNX Runtime", precision, graphs)
    with OpenVINOEngine(fp32[-1], precision="fp16", threads=threads) as half:
        hint = half.precision_hint
    if hint != "f32":
        add(hint, OpenVINOEngine, "OpenVINO", "fp16", fp32)
    return ways | eager_ways(name, model)


def eager_ways(name: str, model: VLF) -> Ways:
    """The same in PyTorch as it is written."""
    frame, clip = ({key: torch.from_numpy(array) for key, array in noise(s.inputs, 1).items()} for s in model.stages())
    (image,), (window,) = frame.values(), clip.values()
    images = image.expand(model.sizes.frames, *image.shape[1:]).contiguous()

    @torch.inference_mode()
    def streamed() -> None:
        model.frame(image)
        model.clip(window)

    @torch.inference_mode()
    def whole() -> None:
        model(images[None])

    return {f"{name}, fp32, PyTorch, streamed": streamed, f"{name}, fp32, PyTorch, whole clip": whole}


def vtn_ways(threads: int, stack: ExitStack) -> Ways:
    ways: Ways = {}
    for title, name in (("VTN ResNet-34", "vtn"), ("VTN MobileNetV2", "vtn-mobilenetv2")):
        stages = _model(replace(sizes_of(name), layer_norm=False)).stages()
        opened = [stack.enter_context(OpenVINOEngine(export_stage(stage), threads=threads)) for stage in stages]
        _, ways[f"{title}, fp32, OpenVINO, streamed"] = runs_of(stages, opened)
    return ways


def _model(sizes: Sizes):
    torch.manual_seed(0)
    return replace(sizes, classes=CLASSES).build().eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", nargs="+", choices=VLF_SIZES, default=["vlf"], metavar="MODEL", help="default: vlf")
    add("--threads", type=int, default=1, metavar="N", help="default: 1")
    add("--turns", type=int, default=15, metavar="N", help="default: 15")
    add("--backbone", metavar="NAME", help="another f for --models, of timm")
    add("--token-step", type=int, metavar="N", help="other tokens: a mean over so many places of f's map, each way")
    add("--token-dim", type=int, metavar="D", help="tokens of another width")
    add("--layers", type=int, metavar="N", help="other layers of h")
    add("--frames", type=int, metavar="K", help="other frames of a window")
    args = parser.parse_args()
    changes = {"backbone": args.backbone, "token_step": args.token_step, "token_dim": args.token_dim}
    changes |= {"temporal_layers": args.layers, "frames": args.frames}
    changes = {field: value for field, value in changes.items() if value}
    if args.backbone:
        changes["backbone_options"] = {}
    torch.set_num_threads(args.threads)
    machine = describe("torch", "openvino", "onnxruntime")
    with ExitStack() as stack:
        ways = vtn_ways(args.threads, stack)
        for name in args.models:
            ways |= vlf_ways(name, replace(sizes_of(name), **changes), args.threads, stack)
        spent = in_turns(ways, args.turns)
    print(header(machine), end="\n\n")
    print(f"{args.threads} thread(s), {CLASSES} classes; int8 is computed in float: {int8_saturates()}")
    print(f"changed from the named sizes: {changes or 'nothing'}\n")
    print("| a decision | ms | ms of CPU time | times faster than VTN ResNet-34 |\n|---|---|---|---|")
    for way, one in spent.items():
        print(f"| {way} | {one.wall_ms:.1f} | {one.cpu_ms:.1f} | {spent[YARDSTICK].cpu_ms / one.cpu_ms:.2f} |")


if __name__ == "__main__":
    main()
