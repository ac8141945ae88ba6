"""The bases that bases.py compares: g and h trained on rendered motion, over an f that does not move."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest import mock

import backbones
import claims
import numpy as np
import timm
import torch
from backbones import photographs
from torch import Tensor, nn

from vlf_edge.backends.openvino import OpenVINOEngine
from vlf_edge.compiler.onnx_export import export_stage
from vlf_edge.datasets.dataset import Sample
from vlf_edge.datasets.motion import CLIPS_PER_SCENE, MotionDataset
from vlf_edge.datasets.symmetries import Symmetry
from vlf_edge.models.stage import Stage
from vlf_edge.models.vlf import VLF
from vlf_edge.models.weights import load_weights
from vlf_edge.opencv import load_cv2
from vlf_edge.synthetic import scene
from vlf_edge.synthetic.textures import HELD_OUT, RANKS, SIDE_PX, TRAINING
from vlf_edge.types import Preprocess, TensorSpec

LITE0 = "tf_efficientnet_lite0"
SIZES = {  # of f -> of what is trained on it
    "Lite0": replace(claims.TINY, backbone=LITE0, backbone_options={}, height_px=96, width_px=96),
    "vlf-tiny's f": claims.TINY,
}
PICTURES = len(TRAINING) + len(HELD_OUT)
MAPS_PER_SCENE = 2  # each reversed in time half of the time, which needs no others
HARD_FROM = 0.6  # of training: where clips of Motion-13 are as hard as they come
Encode = Callable[[np.ndarray], np.ndarray]


def lite0(path: str | None) -> dict[str, Tensor]:
    """Its weights by timm's names. path: as ``vlf-edge train --backbone-weights`` takes it; None: random weights."""
    return timm.create_model(LITE0).state_dict() if path is None else backbones.trained(LITE0, path)


class Maps(nn.Module):
    """f alone: images (N, H, W, 3) uint8 -> maps (N, h, w, channels) float32. owner: whose parameters map_of uses."""

    def __init__(self, map_of: Callable[[Tensor], Tensor], owner: nn.Module):
        super().__init__()
        self.map_of, self.owner = map_of, owner

    def forward(self, images: Tensor) -> Tensor:
        return self.map_of(images).permute(0, 2, 3, 1)


def by_openvino(map_of: Callable[[Tensor], Tensor], owner: nn.Module, px: int) -> Encode:
    """The same on one thread, in a fifth of the time that PyTorch takes for Lite0."""
    module = Maps(map_of, owner).eval()
    with torch.no_grad():
        shape = module(torch.zeros(1, px, px, 3, dtype=torch.uint8)).shape[1:]
    image, maps = TensorSpec("image", "uint8", ("N", px, px, 3)), TensorSpec("map", "float32", ("N", *shape))
    engine = OpenVINOEngine(export_stage(Stage("frame", module, (image,), (maps,))), threads=1)
    return lambda images: engine.infer({"image": np.ascontiguousarray(images)})["map"]


def pictures(folder: str) -> Callable[[int], np.ndarray]:
    """Surface number -> (256, 256, 3) uint8, a piece of a photograph. As those of Motion-13, emptier ones have lower
    ranks, and those of clips held out are of other photographs."""
    files = photographs(folder, PICTURES)

    def cut(number: int) -> np.ndarray:
        image, rng = load_cv2().imread(str(files[number])), np.random.default_rng(number)
        side = int(min(image.shape[:2]) * rng.uniform(0.6, 1))
        top, left = (int(rng.integers(length - side + 1)) for length in image.shape[:2])
        piece = image[top : top + side, left : left + side]
        return load_cv2().resize(piece, (SIDE_PX, SIDE_PX), interpolation=load_cv2().INTER_AREA)

    @cache
    def cuts() -> list[np.ndarray]:
        return sorted(map(cut, range(PICTURES)), key=scene.detail)

    return lambda number: cuts()[number % RANKS * PICTURES // RANKS + number // RANKS]


def rendered(work: Path, px: int, scenes: int, folder: str | None) -> claims.KeptClips:
    """Scenes to learn from, of every ease. folder: of the photographs that surfaces are cut from; None: Motion-13's."""
    motion = MotionDataset("train", preprocess=Preprocess(px, px, px), frames=claims.TINY.frames, span_s=claims.SPAN_S)

    def sample(number: int) -> Sample:
        rng = np.random.default_rng(number)
        motion.set_progress(HARD_FROM * rng.random())
        return motion.sample(CLIPS_PER_SCENE * number, rng)

    with mock.patch.object(scene, "texture", pictures(folder)) if folder else nullcontext():
        parts = claims.kept(work / f"{'pictures' if folder else 'rendered'}-{px}-{scenes}", sample, scenes)
    return claims.KeptClips(*parts, Symmetry.draw)


def reversed_or_not(rng: np.random.Generator) -> Symmetry:
    return Symmetry(quarters=0, mirrored=False, backwards=bool(rng.random() < 0.5))


def trained(args: argparse.Namespace, f: str, surfaces: str) -> VLF:
    """g and h on that f, over surfaces that are "rendered" or "pictures". The weights stay in --work, as a file that
    ``vlf-edge build --weights`` takes, with the accuracy on Motion-13's test clips in its record."""
    of = f.replace(" ", "-")
    out = args.work / f"{surfaces}-of-{of}-{args.scenes}-{args.clips}.safetensors"
    if not out.exists():
        sizes = SIZES[f]
        model = sizes.build().eval()
        state = lite0(args.weights) if f == "Lite0" else load_weights("vlf-tiny").model.frame.f.net.state_dict()
        net = model.frame.f.net
        net.load_state_dict({name: state[name] for name in net.state_dict()})
        encode = by_openvino(model.frame.map_of, model, sizes.width_px)
        own = rendered(args.work, sizes.width_px, args.scenes, args.pictures if surfaces == "pictures" else None)
        test = MotionDataset("test", preprocess=sizes.preprocess, frames=sizes.frames, limit=args.test_clips)
        data = [
            claims.maps_of(
                args.work / f"maps-{surfaces}-of-{of}-{args.scenes}", own, MAPS_PER_SCENE, encode, reversed_or_not
            ),
            claims.maps_of(args.work / f"maps-test-of-{of}-{args.test_clips}", test, 1, encode),
        ]
        record = claims.train(sizes, 0, args.clips, data, "frozen", out, net)
        print(f"{out.stem}: {record['val']['top1']:.1%} of rendered clips, {record['minutes']} min", file=sys.stderr)
    return load_weights(out).model
