"""The claims of the VideoLightFormer paper, tested small: what do spatial structure, order and g bring, what do they cost?

    nice python benchmarks/claims.py --work claims/          hours of one core; stopped, it goes on where it was
    python benchmarks/claims.py --work claims/ --report      only the table and the picture of what is there

Ten models with the same CNN (vlf-tiny's), the same images (8 frames, 64 px), the same training clips in the same order
and the same recipe, each from several seeds. Then: accuracy on held-out clips against multiply-adds and against ms on
OpenVINO, of a clip and of a streamed decision, as docs/claims.png and as a table for docs/models.md.

Everything is learned from scratch from a few thousand rendered clips, so they are the easy ones of Motion-13 (ease 1:
large, fast, clean), and so are the held-out ones, on surfaces that training does not show. The clips of a seed are
rendered once; seeds differ in clips, first weights and dropout.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from claims_report import report

from vlf_edge.datasets import ClipDataset
from vlf_edge.datasets.dataset import Sample
from vlf_edge.datasets.frames import segment_indices
from vlf_edge.datasets.motion import FPS, MotionDataset
from vlf_edge.datasets.symmetries import Symmetry
from vlf_edge.models import sizes_of
from vlf_edge.models.sizes import Sizes
from vlf_edge.synthetic import CLASSES, HELD_OUT_SEED, SHIFTS, MotionClip
from vlf_edge.training.checkpoint import Outputs
from vlf_edge.training.device import acquire_device
from vlf_edge.training.settings import Settings
from vlf_edge.training.trainer import Trainer
from vlf_edge.video.preprocess import Preprocessor

SPAN_S = 2.0
BATCH = 16  # many small steps taught vlf-tiny more than few large ones
EASE = 1.0
CLIPS_PER_SCENE = 3
HALF_CNN = {"channels": (16, 32, 64), "layers": (1, 1, 1), "stem_width": 8}


def contenders() -> dict[str, Sizes]:
    """Name -> sizes, in the order in which they are trained. The decoder of VTN is as wide and deep as h."""
    tiny = replace(sizes_of("vlf-tiny"), backbone_options=HALF_CNN, token_dim=64)
    cnn = {name: getattr(tiny, name) for name in ("backbone", "backbone_options", "height_px", "width_px", "dropout")}
    h = {"layers": tiny.temporal_layers, "heads": tiny.temporal_heads, "ffn_ratio": tiny.ffn_ratio}
    return {
        "VLF, 4 tokens": tiny,
        "TSN": replace(sizes_of("tsn"), **cnn),
        "TSM": replace(sizes_of("tsm"), **cnn),
        "VTN": replace(sizes_of("vtn", frames=tiny.frames), **cnn, **h, token_dim=tiny.token_dim),
        "VLF, 16 tokens": replace(tiny, token_step=1),
        "VLF, 1 token": replace(tiny, token_step=4),
        "VLF, 4 tokens, no g": replace(tiny, spatial_layers=0),
        "VLF, 16 tokens, no g": replace(tiny, token_step=1, spatial_layers=0),
        "TSM, online": replace(sizes_of("tsm-online"), **cnn),
        "VLF, 1 token, no g": replace(tiny, token_step=4, spatial_layers=0),
    }


class KeptClips(ClipDataset):
    """Clips that are in memory, or in files mapped into it. In training each turn through them turns, mirrors and
    reverses them anew; an endless set is asked for them in order."""

    def __init__(self, frames: np.ndarray, labels: np.ndarray, targets: np.ndarray, endless: bool):
        self.name, self.labels, self.targets, self.span_s, self.endless = "motion", CLASSES, SHIFTS, SPAN_S, endless
        self._kept = frames, labels, targets

    def __len__(self) -> int:
        return len(self._kept[0])

    def sample(self, index: int, rng: np.random.Generator | None) -> Sample:
        frames, labels, targets = self._kept
        index %= len(frames)
        sample = Sample(np.array(frames[index]), int(labels[index]), np.array(targets[index]))
        if rng is None:
            return sample
        symmetry = Symmetry.draw(rng)
        return Sample(symmetry.frames(sample.frames), symmetry.label(sample.label), symmetry.shifts(sample.targets))


def training_clips(folder: Path, seed: int, count: int) -> KeptClips:
    motion = MotionDataset("train", preprocess=sizes_of("vlf-tiny").preprocess, frames=8, span_s=SPAN_S, seed=seed)
    motion.set_progress(1 - EASE)
    return _kept(
        folder / f"train-{seed}-{count}",
        lambda scene: motion.sample(2 * scene, np.random.default_rng((seed, scene))),
        count // CLIPS_PER_SCENE,
        True,
    )


def held_out_clips(folder: Path, count: int) -> KeptClips:
    """As the test split of Motion-13 is made, but easy."""
    prepare = Preprocessor(sizes_of("vlf-tiny").preprocess)

    def sample(index: int) -> Sample:
        label = index % len(CLASSES)
        clip = MotionClip(CLASSES[label], HELD_OUT_SEED + (1 << 38) + index, 85, 64, FPS, SPAN_S, EASE)
        at = segment_indices(clip.count, 8, None)
        frames = np.stack([prepare(clip.render(i)) for i in at])
        return Sample(frames, label, np.stack([clip.shift(i, later) for i, later in zip(at, at[1:])]))

    return _kept(folder / f"held-out-{count}", sample, count, False)


def _kept(path: Path, sample, count: int, endless: bool) -> KeptClips:
    """Rendered once, then read from where that was put."""
    parts = [path.with_name(f"{path.name}-{part}.npy") for part in ("labels", "targets", "frames")]
    if not parts[-1].exists():
        samples = [sample(index) for index in range(count)]
        np.save(parts[0], np.array([one.label for one in samples]))
        np.save(parts[1], np.stack([one.targets for one in samples]).astype(np.float32))
        unfinished = parts[2].with_suffix(".part.npy")
        np.save(unfinished, np.stack([one.frames for one in samples]))
        unfinished.rename(parts[2])
    labels, targets, frames = (np.load(part, mmap_mode="r") for part in parts)
    return KeptClips(frames, labels, targets, endless)


def train(sizes: Sizes, seed: int, clips: int, train_set: KeptClips, test_set: KeptClips, out: Path) -> dict:
    """One run of the package's own trainer. Returns its record; the weights are at ``out``."""
    settings = Settings("motion", str(out), epochs=1, clips_per_epoch=clips, batch=BATCH, seed=seed, workers=0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = replace(sizes, classes=len(CLASSES)).build().train()
    with acquire_device() as device:
        outcome = Trainer(settings, device, Outputs(out), model, train_set, test_set, "").fit(
            lambda *done: None, lambda: False
        )
    return {**outcome.record, "train_top1": outcome.history[-1]["train_top1"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for clips, weights and results; kept")
    parser.add_argument("--only", nargs="+", metavar="MODEL", help=f"of {'; '.join(contenders())} (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N")
    parser.add_argument("--clips", type=int, default=8000, metavar="N", help="clips a run learns from (default: 8000)")
    parser.add_argument("--test-clips", type=int, default=1300, metavar="N", help="held out (default: 1300)")
    parser.add_argument("--report", action="store_true", help="train nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    models = {name: sizes for name, sizes in contenders().items() if not args.only or name in args.only}
    for seed in () if args.report else args.seeds:
        for name, sizes in models.items():
            run = "".join(c if c.isalnum() else "-" for c in name.replace(", ", " ")) + f"-{seed}-{args.clips}"
            result, weights = args.work / f"{run}.json", args.work / f"{run}.safetensors"
            if result.exists():
                continue
            train_set = training_clips(args.work, seed, args.clips)
            test_set = held_out_clips(args.work, args.test_clips)
            record = train(sizes, seed, args.clips, train_set, test_set, weights)
            result.write_text(json.dumps({"model": name, "weights": weights.name, **record}, indent=1))
            print(f"{name}, seed {seed}: {record['val']['top1']:.1%} after {record['minutes']} min", flush=True)
    print(report(contenders(), args.work, args.clips))


if __name__ == "__main__":
    main()
