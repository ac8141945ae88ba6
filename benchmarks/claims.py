"""The VideoLightFormer paper's claims, tested small: what do spatial structure, order and g bring, what do they cost?

    nice python benchmarks/claims.py --work claims/                hours of a core; stopped, it goes on where it was
    nice python benchmarks/claims.py --work claims/ --f shipped    from an f learned before: a fraction of that
    nice python benchmarks/claims.py --work claims/ --f frozen     the same f, which does not move: minutes a run
    python benchmarks/claims.py --work claims/ --report            only the tables and the picture of what is there
    nice python benchmarks/claims.py --work claims/ --backbones resnet18 mobilenetv4_conv_small    which f learns best

Models with the same CNN (vlf-tiny's), the same images (8 frames, 64 px), the same rendered clips in the same order and
the same recipe, each from several seeds. Then: accuracy on held-out clips against multiply-adds and against ms on
OpenVINO, of a clip and of a streamed decision, as docs/claims.png and as tables for docs/models.md.

The clips are the easy ones of Motion-13 (ease 1: large, fast, clean), those held out on surfaces that training does not
show. They are rendered once; training sees each scene turned, mirrored and reversed anew. Seeds differ in first
weights, dropout and the order of clips.

--f shipped: f begins as that of the weights that ship. --f frozen: it also stays that; its maps are computed once, and
what stands on them learns from those. The shifts of TSM are inside of f, so it is left out there.

--backbones: instead of these models, VLF with 4 tokens on each of these networks of timm, from new weights.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from claims_report import YARDSTICK, report
from torch import Tensor, nn

from vlf_edge.datasets import ClipDataset
from vlf_edge.datasets.dataset import Sample
from vlf_edge.datasets.frames import segment_indices
from vlf_edge.datasets.motion import CLIPS_PER_SCENE, FPS, MotionDataset
from vlf_edge.datasets.symmetries import Symmetry
from vlf_edge.models import sizes_of
from vlf_edge.models.model import Model
from vlf_edge.models.sizes import Sizes
from vlf_edge.models.vlf import VLF
from vlf_edge.models.weights import load_weights, save_weights
from vlf_edge.synthetic import CLASSES, HELD_OUT_SEED, SHIFTS, MotionClip
from vlf_edge.training.checkpoint import Outputs
from vlf_edge.training.device import acquire_device
from vlf_edge.training.settings import Settings
from vlf_edge.training.trainer import Trainer
from vlf_edge.video.preprocess import Preprocessor

TINY = sizes_of("vlf-tiny")
SPAN_S = 2.0
EASE = 1.0
BATCH = 16  # many small steps taught vlf-tiny more than few large ones
MAPS_PER_SCENE = 4  # of f, where it is frozen: so many of the sixteen symmetries of a scene
WAYS_OF_F = ("new", "shipped", "frozen")
Draw = Callable[[np.random.Generator], Symmetry]


def contenders(f: str, backbones: Sequence[str] = ()) -> dict[str, Sizes]:
    """Name -> sizes, in the order in which they are trained. The decoder of VTN is as wide and deep as h."""
    if backbones:
        on = {f"VLF on {name}": replace(TINY, backbone=name, backbone_options={}) for name in backbones}
        return {YARDSTICK: TINY, **on}
    cnn = {name: getattr(TINY, name) for name in ("backbone", "backbone_options", "height_px", "width_px", "dropout")}
    h = {"layers": TINY.temporal_layers, "heads": TINY.temporal_heads, "ffn_ratio": TINY.ffn_ratio}
    found: dict[str, Sizes] = {
        YARDSTICK: TINY,
        "TSN": replace(sizes_of("tsn"), **cnn),
        "VTN": replace(sizes_of("vtn", frames=TINY.frames), **cnn, **h, token_dim=TINY.token_dim),
        "VLF, 1 token": replace(TINY, token_step=4),
        "VLF, 4 tokens, no g": replace(TINY, spatial_layers=0),
        "VLF, 16 tokens": replace(TINY, token_step=1),
        "VLF, 16 tokens, no g": replace(TINY, token_step=1, spatial_layers=0),
        "VLF, 1 token, no g": replace(TINY, token_step=4, spatial_layers=0),
    }
    if f != "frozen":
        shifted = {"TSM": "tsm", "TSM, online": "tsm-online"}
        found |= {name: replace(sizes_of(of), **cnn) for name, of in shifted.items()}
    return found


class KeptClips(ClipDataset):
    """Clips, or maps of f, that are in files mapped into memory.

    draw: how a clip is turned, mirrored and reversed each time in training, None for not at all: maps can only be
    reversed.
    """

    def __init__(self, frames: np.ndarray, labels: np.ndarray, targets: np.ndarray, draw: Draw | None):
        self.name, self.labels, self.targets, self.span_s = "motion", CLASSES, SHIFTS, SPAN_S
        self._kept, self._draw = (frames, labels, targets), draw

    def __len__(self) -> int:
        return len(self._kept[0])

    def sample(self, index: int, rng: np.random.Generator | None) -> Sample:
        frames, labels, targets = (part[index] for part in self._kept)
        sample = Sample(np.array(frames), int(labels), np.array(targets))
        return sample if rng is None or self._draw is None else _turned(sample, self._draw(rng))


def _turned(sample: Sample, symmetry: Symmetry) -> Sample:
    return Sample(symmetry.frames(sample.frames), symmetry.label(sample.label), symmetry.shifts(sample.targets))


def training_clips(work: Path, scenes: int) -> KeptClips:
    motion = MotionDataset("train", preprocess=TINY.preprocess, frames=TINY.frames, span_s=SPAN_S)
    motion.set_progress(1 - EASE)

    def sample(scene: int) -> Sample:
        return motion.sample(CLIPS_PER_SCENE * scene, np.random.default_rng(scene))

    return KeptClips(*kept(work / f"train-{scenes}", sample, scenes), Symmetry.draw)


def held_out_clips(work: Path, count: int) -> KeptClips:
    """As the test split of Motion-13 is made, but easy."""
    prepare = Preprocessor(TINY.preprocess)
    first = HELD_OUT_SEED + (1 << 38)

    def sample(index: int) -> Sample:
        label = index % len(CLASSES)
        clip = MotionClip(CLASSES[label], first + index, TINY.width_px * 4 // 3, TINY.height_px, FPS, SPAN_S, EASE)
        at = segment_indices(clip.count, TINY.frames, None)
        frames = np.stack([prepare(clip.render(i)) for i in at])
        return Sample(frames, label, np.stack([clip.shift(i, later) for i, later in zip(at, at[1:])]))

    return KeptClips(*kept(work / f"held-out-{count}", sample, count), None)


def maps_of(
    path: Path, clips: ClipDataset, per_clip: int, f: Callable[[np.ndarray], np.ndarray], draw: Draw | None = None
) -> KeptClips:
    """What f makes of clips: (K, h, w, channels) float16 each; of some of their symmetries if asked.

    path: how the names of the files begin that they are kept in. f: (K, H, W, 3) uint8 -> (K, h, w, channels) float.
    draw: as for KeptClips.
    """

    def sample(index: int) -> Sample:
        of = clips.sample(index // per_clip, None)
        if per_clip > 1:
            of = _turned(of, Symmetry.draw(np.random.default_rng(index)))
        return Sample(f(of.frames).astype(np.float16), of.label, of.targets)

    return KeptClips(*kept(path, sample, per_clip * len(clips)), draw)


@torch.no_grad()
def shipped_f(images: np.ndarray) -> np.ndarray:
    """The f of the weights that ship: (K, H, W, 3) uint8 -> (K, h, w, channels) float32."""
    return _shipped().frame.map_of(torch.from_numpy(images)).permute(0, 2, 3, 1).numpy()


@cache
def _shipped() -> VLF:
    return load_weights("vlf-tiny").model


def kept(path: Path, sample: Callable[[int], Sample], count: int) -> tuple[np.ndarray, ...]:
    """(frames, labels, targets) of that many samples, made once, then read from where they were put."""
    parts = [path.with_name(f"{path.name}-{part}.npy") for part in ("labels", "targets", "frames")]
    if not parts[-1].exists():
        samples = [sample(index) for index in range(count)]
        np.save(parts[0], np.array([one.label for one in samples]))
        np.save(parts[1], np.stack([one.targets for one in samples]).astype(np.float32))
        unfinished = parts[2].with_suffix(".part.npy")
        np.save(unfinished, np.stack([one.frames for one in samples]))
        unfinished.rename(parts[2])
    labels, targets, frames = (np.load(part, mmap_mode="r") for part in parts)
    return frames, labels, targets


class OnMaps(Model):
    """A model that is given maps of its f, (N, K, h, w, channels) float16, instead of clips."""

    backbones = ()

    def __init__(self, model: Model):
        super().__init__()
        self.model, self.sizes = model, model.sizes
        self.tokens, self.token_dim = model.tokens, model.token_dim

    @property
    def heads(self) -> tuple[nn.Linear, ...]:
        return self.model.heads

    def encode(self, clips: Tensor) -> Tensor:
        maps = clips.flatten(0, 1).permute(0, 3, 1, 2).float()  # (N*K, channels, h, w)
        if isinstance(self.model, VLF):
            tokens = self.model.frame.tokens_of(maps)
        else:  # TSN, and VTN, which projects the mean
            encoders = getattr(self.model.frame, "encoders", None)
            vectors = maps.mean(dim=(2, 3))
            tokens = (encoders["rgb"].reduce(vectors) if encoders else vectors).unsqueeze(1)
        return tokens.unflatten(0, clips.shape[:2])  # (N, K, S, D)

    def mix(self, tokens: Tensor) -> Tensor:
        return self.model.mix(tokens)

    def decide(self, mixed: Tensor) -> Tensor:
        return self.model.decide(mixed)

    def stages(self):
        return self.model.stages()

    def forward(self, clips: Tensor) -> Tensor:
        return self.decide(self.mix(self.encode(clips)))


def train(
    sizes: Sizes,
    seed: int,
    clips: int,
    data: tuple[KeptClips, KeptClips],
    f: str,
    out: Path,
    learned: nn.Module | None = None,
) -> dict:
    """One run of the package's own trainer. Returns its record; the weights are at ``out``.

    f: of WAYS_OF_F; data is of maps where it is frozen. learned: the network of timm that it begins as, that of the
    weights that ship unless given.
    """
    settings = Settings("motion", str(out), epochs=1, clips_per_epoch=clips, batch=BATCH, seed=seed, workers=0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = replace(sizes, classes=len(CLASSES)).build().train()
    if f != "new":
        (net,) = model.backbones
        known = (learned or _shipped().frame.f.net).state_dict()
        # TSM's shifts are wrapped around convolutions, which then have a longer name.
        net.load_state_dict({name: known[name.replace(".net.", ".")] for name in net.state_dict()})
        net.requires_grad_(f != "frozen")
    with acquire_device() as device:
        learner = OnMaps(model) if f == "frozen" else model
        trainer = Trainer(settings, device, Outputs(out), learner, *data, "")
        outcome = trainer.fit(lambda *done: None, lambda: False)
        if f == "frozen":
            save_weights(out, trainer.average.module.model, CLASSES, outcome.record)
    for left in (trainer.outputs.resume, trainer.outputs.last):
        left.unlink()
    return {**outcome.record, "train_top1": outcome.history[-1]["train_top1"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--work", type=Path, required=True, help="folder for clips, weights and results; kept")
    add("--f", choices=WAYS_OF_F, default="new", help="see above (default: new)")
    add("--backbones", nargs="+", default=[], metavar="NAME", help="see above")
    add("--only", nargs="+", metavar="MODEL", help=f"of {'; '.join(contenders('new'))} (default: all)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    add("--scenes", type=int, default=20_000, metavar="N", help="rendered, to learn from (default: 20000)")
    add("--clips", type=int, default=160_000, metavar="N", help="that a run learns from (default: 160000)")
    add("--test-clips", type=int, default=1040, metavar="N", help="held out (default: 1040)")
    add("--picture", type=Path, default=Path(__file__).parents[1] / "docs/claims.png", help="default: docs/claims.png")
    add("--turns", type=int, default=200, metavar="N", help="timed calls of each model (default: 200; 0: none)")
    add("--report", action="store_true", help="train nothing")
    args = parser.parse_args()
    if args.backbones and args.f != "new":
        parser.error("--backbones learn from new weights: --f new")
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    models = contenders(args.f, args.backbones)
    data = None
    for seed in () if args.report else args.seeds:
        for name in args.only or models:
            run = f"{args.f}-{args.clips}-{name.replace(', ', '-').replace(' ', '-')}"
            result, weights = (args.work / f"{run}-{seed}.{end}" for end in ("json", "safetensors"))
            if result.exists():
                continue
            if data is None:
                data = training_clips(args.work, args.scenes), held_out_clips(args.work, args.test_clips)
                if args.f == "frozen":
                    ways = zip(data, (MAPS_PER_SCENE, 1))
                    data = [maps_of(args.work / f"maps-{n}-{len(of)}", of, n, shipped_f) for of, n in ways]
            record = train(models[name], seed, args.clips, data, args.f, weights)
            result.write_text(json.dumps({**record, "model": name, "weights": weights.name}, indent=1))
            print(f"{name}, seed {seed}: {record['val']['top1']:.1%} after {record['minutes']} min", flush=True)
    runs = sorted(args.work.glob(f"{args.f}-{args.clips}-*.json"))
    print(report(models, runs, None if args.backbones else args.picture, args.turns))


if __name__ == "__main__":
    main()
