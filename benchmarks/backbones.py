"""Which CNN for f: what each costs at 224 px, in fp32 and in int8, on this CPU.

    python benchmarks/backbones.py [--only NAME ...] [--size 224] [--turns 15]

Times are of f alone, with random weights, its branches fused where it has such (RepVGG, MobileOne), on OpenVINO with
one thread, all in turns: medians of CPU time. Two columns of int8 where the CPU has no exact int8 instructions: "as it
runs" is what the package does there, to compute the int8 graph in float; "saturating" is what OpenVINO does untold,
faster and wrong by several per cent (vlf_edge/backends/cpu.py). bfloat16 is timed where OpenVINO takes it by itself.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack

import timm
import torch
from hardware import describe, header
from models import multiply_adds
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from turns import in_turns, int8_to_time, noise

from vlf_edge.backends import openvino
from vlf_edge.backends.cpu import int8_saturates
from vlf_edge.compiler.onnx_export import export_stage
from vlf_edge.models.backbone import Backbone
from vlf_edge.models.model import Normalise
from vlf_edge.models.stage import Stage
from vlf_edge.types import TensorSpec

CANDIDATES = (
    "resnet18", "regnetx_004", "regnety_004", "repvgg_a0", "mobileone_s0", "mobileone_s1", "mobilenetv4_conv_small",
    "mobilenetv4_conv_medium", "efficientnet_lite0", "efficientnet_b0",
)  # fmt: skip


class Features(nn.Module):
    """Images (N, H, W, 3) uint8 -> f's last map (N, channels, h, w)."""

    def __init__(self, name: str, size_px: int):
        super().__init__()
        self.f = Backbone(name, 32, {}, size_px, size_px)
        self.f.net = reparameterize_model(_settled(self.f.net, size_px).eval())
        self.normalise = Normalise(self.f.mean, self.f.std)

    def forward(self, images: Tensor) -> Tensor:
        return self.f(self.normalise(images))


@torch.no_grad()
def _settled(net: nn.Module, size_px: int) -> nn.Module:
    """With BatchNorm's statistics from noise: with those it begins with, activations of RepVGG leave float16."""
    for module in net.train().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # their mean
    for _ in range(2):
        net(torch.randn(2, 3, size_px, size_px))
    return net


def stage_of(name: str, size_px: int) -> Stage:
    torch.manual_seed(0)
    features = Features(name, size_px)
    image = TensorSpec("image", "uint8", ("N", size_px, size_px, 3))
    given = TensorSpec("map", "float32", ("N", features.f.channels, *features.f.map_size))
    return Stage("frame", features, (image,), (given,))


def engines_of(onnx_bytes: bytes, stage: Stage, stack: ExitStack) -> dict[str, openvino.OpenVINOEngine]:
    """Column of the table -> engine."""

    def engine(graph: bytes, precision: str) -> openvino.OpenVINOEngine:
        return stack.enter_context(openvino.OpenVINOEngine(graph, precision=precision, threads=1))

    int8 = int8_to_time(onnx_bytes, stage.inputs)
    found = {"fp32": engine(onnx_bytes, "fp32"), "int8 as it runs": engine(int8, "int8")}
    if int8_saturates():
        asked, openvino.int8_saturates = openvino.int8_saturates, lambda: False
        try:
            found["int8 saturating"] = engine(int8, "int8")
        finally:
            openvino.int8_saturates = asked
    sixteen = engine(onnx_bytes, "fp16")
    if sixteen.precision_hint != "f32":
        found[sixteen.precision_hint] = sixteen
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=CANDIDATES, metavar="NAME", help="of timm (default: all ten)")
    parser.add_argument("--size", type=int, default=224, metavar="PX", help="default: 224")
    parser.add_argument("--turns", type=int, default=15, metavar="N", help="default: 15")
    args = parser.parse_args()
    torch.set_num_threads(1)
    machine = describe("torch", "timm", "openvino")
    with ExitStack() as stack:
        stages = {name: stage_of(name, args.size) for name in args.only}
        ways, columns = {}, []
        for name, stage in stages.items():
            image = noise(stage.inputs, 1)
            for column, engine in engines_of(export_stage(stage), stage, stack).items():
                ways[name, column] = lambda engine=engine, image=image: engine.infer(image)
                columns += [column] if column not in columns else []
        spent = in_turns(ways, args.turns)
    print(header(machine), f"timm {timm.__version__}", sep="\n", end="\n\n")
    print(f"| f | parameters | multiply-adds | {' | '.join(f'{column}, ms' for column in columns)} |")
    print("|---" * (3 + len(columns)) + "|")
    for name, stage in stages.items():
        parameters = sum(parameter.numel() for parameter in stage.module.parameters())
        times = " | ".join(f"{spent[name, column].cpu_ms:.1f}" for column in columns)
        print(f"| {name} | {parameters / 1e6:.2f} M | {multiply_adds(stage) / 1e6:.0f} M | {times} |")


if __name__ == "__main__":
    main()
