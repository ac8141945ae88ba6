"""Which CNN for f: what each costs at 224 px, in fp32, bfloat16 and int8, on this CPU, and what int8 changes.

    python benchmarks/backbones.py [--only NAME ...] [--size 224] [--turns 15] [--weights efficientnet_lite0=lite0.pth]

Times are of f alone, with random weights unless given, its branches fused where it has such (RepVGG, MobileOne), on
OpenVINO with one thread, all in turns: medians of CPU time. Two columns of int8 where the CPU has no exact int8
instructions: "as it runs" is what the package does there, to compute the int8 graph in float; "saturating" is what
OpenVINO does untold, faster and wrong by several per cent (vlf_edge/backends/cpu.py). bfloat16 is timed where OpenVINO
takes it by itself. The errors are of f's map, beside that of fp32, the norm of the difference over the norm: on 64
images, after ranges from 64 others, photographs with --pictures and rendered ones without.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import timm
import torch
from hardware import describe, header
from models import multiply_adds
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from turns import in_int8, in_turns, noise

from vlf_edge.backends import openvino
from vlf_edge.backends.cpu import int8_saturates
from vlf_edge.compiler.onnx_export import export_stage
from vlf_edge.compiler.recipe import Recipe
from vlf_edge.datasets.motion import CLIPS_PER_SCENE, MotionDataset
from vlf_edge.models.backbone import Backbone
from vlf_edge.models.model import Normalise
from vlf_edge.models.published_names import backbone_state
from vlf_edge.models.stage import Stage
from vlf_edge.opencv import load_cv2
from vlf_edge.types import Preprocess, TensorSpec
from vlf_edge.video.preprocess import Preprocessor

IMAGES = 64
CANDIDATES = (
    "resnet18", "regnetx_004", "regnety_004", "repvgg_a0", "mobileone_s0", "mobileone_s1", "mobilenetv4_conv_small",
    "mobilenetv4_conv_medium", "efficientnet_lite0", "efficientnet_b0",
)  # fmt: skip


class Features(nn.Module):
    """Images (N, H, W, 3) uint8 -> f's last map (N, channels, h, w)."""

    def __init__(self, name: str, size_px: int, weights: str | None):
        super().__init__()
        self.f = Backbone(name, 32, {}, size_px, size_px)
        if weights:
            state = trained(name, weights)
            self.f.net.load_state_dict({key: state[key] for key in self.f.net.state_dict()})
        else:
            _settle(self.f.net, size_px)
        self.f.net = reparameterize_model(self.f.net.eval())
        self.normalise = Normalise(self.f.mean, self.f.std)

    def forward(self, images: Tensor) -> Tensor:
        return self.f(self.normalise(images))


def trained(name: str, path: str) -> dict[str, Tensor]:
    """All weights of a network of timm, by timm's names, out of a file as ``--backbone-weights`` takes it."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    return backbone_state(state, timm.create_model(name).state_dict(), f"weights {path}")


@torch.no_grad()
def _settle(net: nn.Module, size_px: int) -> None:
    """Takes BatchNorm's statistics from noise: with those it begins with, activations of RepVGG leave float16."""
    for module in net.train().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # their mean
    for _ in range(2):
        net(torch.randn(2, 3, size_px, size_px))


def stage_of(name: str, size_px: int, weights: str | None) -> Stage:
    torch.manual_seed(0)
    features = Features(name, size_px, weights)
    image = TensorSpec("image", "uint8", ("N", size_px, size_px, 3))
    given = TensorSpec("map", "float32", ("N", features.f.channels, *features.f.map_size))
    return Stage("frame", features, (image,), (given,))


def photographs(folder: str, least: int) -> list[Path]:
    """The photographs in a folder, by name. Ends the program if they are fewer."""
    files = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in (".jpeg", ".jpg", ".png"))
    if len(files) < least:
        raise SystemExit(f"{folder} holds {len(files)} photographs; expected {least} .jpg, .jpeg or .png files")
    return files


def images_of(folder: str | None, size_px: int) -> np.ndarray:
    """(2 * IMAGES, size_px, size_px, 3) uint8."""
    square = Preprocess(size_px, size_px, size_px)
    if folder is None:
        motion = MotionDataset("train", preprocess=square, frames=1)
        return np.concatenate([motion.sample(CLIPS_PER_SCENE * n, None).frames for n in range(2 * IMAGES)])
    files = photographs(folder, 2 * IMAGES)
    chosen = files[:: len(files) // (2 * IMAGES)][: 2 * IMAGES]
    prepare = Preprocessor(square)
    return np.stack([prepare(load_cv2().imread(str(path))) for path in chosen])


def engines_of(onnx_bytes: bytes, images: np.ndarray, stack: ExitStack) -> dict[str, openvino.OpenVINOEngine]:
    """Column of the table -> engine."""

    def engine(graph: bytes, precision: str) -> openvino.OpenVINOEngine:
        return stack.enter_context(openvino.OpenVINOEngine(graph, precision=precision, threads=1))

    feeds = ({"image": images[at : at + 8]} for at in range(0, IMAGES, 8))
    int8 = in_int8(onnx_bytes, feeds, Recipe().calib_method)
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


def errors(engines: dict[str, openvino.OpenVINOEngine], images: np.ndarray) -> dict[str, float]:
    """Column -> the norm of what differs from fp32 over the norm."""
    maps = {
        column: np.concatenate([engine.infer({"image": image[np.newaxis]})["map"] for image in images[IMAGES:]])
        for column, engine in engines.items()
    }
    truth = maps.pop("fp32")
    return {column: float(np.linalg.norm(got - truth) / np.linalg.norm(truth)) for column, got in maps.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", nargs="+", default=CANDIDATES, metavar="NAME", help="of timm (default: all ten)")
    add("--size", type=int, default=224, metavar="PX", help="default: 224")
    add("--turns", type=int, default=15, metavar="N", help="default: 15")
    add(
        "--weights",
        nargs="+",
        default=[],
        metavar="NAME=FILE",
        help="as train --backbone-weights takes it",
    )
    add("--pictures", metavar="FOLDER", help="photographs for ranges and errors (default: rendered images)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    machine = describe("torch", "timm", "openvino")
    weights = dict(given.split("=", 1) for given in args.weights)
    images = images_of(args.pictures, args.size)
    with ExitStack() as stack:
        stages = {name: stage_of(name, args.size, weights.get(name)) for name in args.only}
        ways, wrong = {}, {}
        for name, stage in stages.items():
            image = noise(stage.inputs, 1)
            engines = engines_of(export_stage(stage), images, stack)
            wrong[name] = errors(engines, images)
            for column, engine in engines.items():
                ways[name, column] = lambda engine=engine, image=image: engine.infer(image)
        spent = in_turns(ways, args.turns)
    columns = list(dict.fromkeys(column for _, column in ways))
    wrongs = [column for column in columns if column != "fp32"]
    print(header(machine), f"weights given: {', '.join(weights) or 'none'}", sep="\n", end="\n\n")
    heads = [*(f"{column}, ms" for column in columns), *(f"{column}, error" for column in wrongs)]
    print(f"| f | parameters | multiply-adds | {' | '.join(heads)} |")
    print("|---" * (3 + len(heads)) + "|")
    for name, stage in stages.items():
        parameters = sum(parameter.numel() for parameter in stage.module.parameters())
        times = [f"{spent[name, column].cpu_ms:.1f}" for column in columns]
        shares = [f"{wrong[name][column]:.1%}" for column in wrongs]
        cells = " | ".join([*times, *shares])
        print(f"| {name} | {parameters / 1e6:.2f} M | {multiply_adds(stage) / 1e6:.0f} M | {cells} |")


if __name__ == "__main__":
    main()
