r"""On whose features does one enrol best: vlf-tiny's, those of ImageNet's Lite0, or both beside each other?

    nice python benchmarks/bases.py my-clips/ --group 'seq\d+' --query set1 --weights lite0.pth --work bases/

my-clips/, --group, --query and what a draw is: enrol.py. Every base has the same draws, so that what it gains over
vlf-tiny is taken draw by draw. The bases, beside the weights that ship:

    averages of Lite0   its last 1,280 features at 128 px, in the columns of its map: mean, deviation and largest change
                        over time, each brought down to its 128 principal directions over all clips asked for
    rendered of F       g and h trained on rendered motion over a frozen f: Lite0's at stride 16 of 96 px, or vlf-tiny's
    pictures of F       the same where the surfaces that move are cut from the photographs in --pictures
    vlf-tiny + B        the features of both, of equal variance: what a model that both are distilled into could know

--others WEIGHTS: instead of all these, only what these files of weights of `vlf-edge train` give, beside vlf-tiny.

--weights: of Lite0, as `vlf-edge train --backbone-weights` takes them. What was rendered, its maps and the weights
trained stay in --work and are made once.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import enrol
import hardware
import numpy as np
import torch
from bases_training import LITE0, SIZES, Encode, by_openvino, lite0, trained
from claims import SPAN_S, TINY
from torch import Tensor

from vlf_edge.datasets.annotations import read_annotations
from vlf_edge.enrolment.clips import TaughtClip
from vlf_edge.enrolment.reading import PHASES, Reading
from vlf_edge.models.backbone import Encoder
from vlf_edge.models.vlf import VLF
from vlf_edge.models.weights import load_weights
from vlf_edge.types import Preprocess, Sampling
from vlf_edge.video.preprocess import Preprocessor
from vlf_edge.video.sampler import Sampler
from vlf_edge.video.sources import open_source

AVERAGES_PX, DIRECTIONS = 128, 128
SAMPLING = Sampling(TINY.frames, SPAN_S, phases=PHASES)
Features = Callable[[np.ndarray], np.ndarray]


@torch.no_grad()
def features_of(model: VLF) -> tuple[int, Encode, Features]:
    """As a plan gives them: what the classifier reads, and the largest change over time of a frame's tokens."""
    maps = by_openvino(model.frame.map_of, model, model.sizes.width_px)

    @torch.no_grad()
    def encode(images: np.ndarray) -> np.ndarray:
        return model.frame.tokens_of(torch.from_numpy(maps(images)).permute(0, 3, 1, 2)).numpy()

    @torch.no_grad()
    def features(tokens: np.ndarray) -> np.ndarray:
        read = model.mix(torch.from_numpy(tokens)).mean(dim=(1, 2)).numpy()
        return np.concatenate([read, np.abs(np.diff(tokens, axis=1)).max(axis=1).mean(axis=1)], axis=1)

    return model.sizes.width_px, encode, features


def averages(state: dict[str, Tensor]) -> tuple[int, Encode, Features]:
    encoder = Encoder(LITE0, {}, AVERAGES_PX, AVERAGES_PX).eval()
    encoder.net.load_state_dict(state, strict=False)
    maps = by_openvino(lambda images: encoder.net.forward_features(encoder.normalise(images)), encoder, AVERAGES_PX)

    def features(columns: np.ndarray) -> np.ndarray:
        change = np.abs(np.diff(columns, axis=1)).max(axis=1).mean(axis=1)
        return np.concatenate([columns.mean(axis=(1, 2)), columns.std(axis=1).mean(axis=1), change], axis=1)

    return AVERAGES_PX, lambda images: maps(images).mean(axis=1), features


def windows_of(images: np.ndarray, encode: Encode, features: Features) -> np.ndarray:
    """(n, D) float64 of prepared images (m, H, W, 3) that stand for the instants of two grids that interleave."""
    span = PHASES * (SAMPLING.frames - 1)
    starts = np.arange(len(images) - span)
    if len(starts) == 0:
        return np.zeros((0, 0))
    return features(encode(images)[starts[:, np.newaxis] + np.arange(0, span + 1, PHASES)]).astype(np.float64)


def read(args: argparse.Namespace, px: int, encode: Encode, features: Features) -> list[enrol.Shown]:
    """Every clip as ``vlf-edge enrol`` reads it, and its mirror image."""
    prepare, shown = Preprocessor(Preprocess(px, px, px)), []
    for row in read_annotations(args.data).rows:
        sampler, images = Sampler(SAMPLING), []
        with open_source(str(row.path)) as source:
            for frame in source:
                slot = sampler.accept(frame.t_s)
                if slot is not None:
                    images += [prepare(frame.image)] * (slot.last - slot.first + 1)
        own, name = np.stack(images), row.path.name
        both = [windows_of(of, encode, features) for of in (own, own[:, :, ::-1])]
        group = re.search(args.group, name)
        if len(both[0]) and group:
            reading = Reading(0.0, *both, np.zeros((0, 0)), 0.0)
            asked = re.search(args.query, name) is not None
            shown.append(enrol.Shown(TaughtClip(name, row.label, reading), group[0], asked))
    return shown


def changed(shown: Sequence[enrol.Shown], change: Callable[[np.ndarray, int], np.ndarray]) -> list[enrol.Shown]:
    """The same clips with other windows. change: (n, D) of clip number i, i -> (n, E)."""
    found = []
    for number, one in enumerate(shown):
        reading = one.clip.reading
        windows, mirrored = change(reading.windows, number), change(reading.mirrored, -1 - number)
        found.append(replace(one, clip=replace(one.clip, reading=replace(reading, windows=windows, mirrored=mirrored))))
    return found


def condensed(shown: Sequence[enrol.Shown], parts: int) -> list[enrol.Shown]:
    """Each of so many equal parts of the features, by its principal directions over all windows."""
    windows = np.concatenate([one.clip.windows for one in shown])
    middle, axes = windows.mean(axis=0), []
    for part in np.split(windows - middle, parts, axis=1):
        axes.append(np.linalg.svd(part, full_matrices=False)[2][:DIRECTIONS].T)

    def change(own: np.ndarray, _: int) -> np.ndarray:
        return np.concatenate([part @ axis for part, axis in zip(np.split(own - middle, parts, axis=1), axes)], axis=1)

    return changed(shown, change)


def joined(shown: Sequence[enrol.Shown], other: Sequence[enrol.Shown]) -> list[enrol.Shown]:
    """Both features beside each other, those of the other scaled to the same variance in all."""
    variances = [np.concatenate([one.clip.windows for one in of]).var(axis=0).sum() for of in (shown, other)]
    scale = np.sqrt(variances[0] / variances[1])

    def change(own: np.ndarray, number: int) -> np.ndarray:
        reading = other[number if number >= 0 else -1 - number].clip.reading
        return np.concatenate([own, scale * (reading.windows if number >= 0 else reading.mirrored)], axis=1)

    return changed(shown, change)


def bases(args: argparse.Namespace) -> dict[str, list[enrol.Shown]]:
    """Name -> all clips, read; vlf-tiny comes first."""
    own = read(args, *features_of(load_weights("vlf-tiny").model))
    if args.others:
        return {"vlf-tiny": own} | {path: read(args, *features_of(load_weights(path).model)) for path in args.others}
    alone = {"averages of Lite0": condensed(read(args, *averages(lite0(args.weights))), 3)}
    surfaces = ["rendered", *(["pictures"] if args.pictures else [])]
    for f, of in itertools.product(SIZES, surfaces):
        alone[f"{of} of {f}"] = read(args, *features_of(trained(args, f, of)))
    return {"vlf-tiny": own, **alone, **{f"vlf-tiny + {name}": joined(own, shown) for name, shown in alone.items()}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("data")
    add("--work", type=Path, default=Path("bases"), help="folder that is kept (default: bases)")
    add("--others", nargs="+", metavar="WEIGHTS", help="see above")
    add("--weights", metavar="FILE", help="of Lite0 (default: random ones, to try the script)")
    add("--pictures", metavar="FOLDER", help="photographs (default: rendered surfaces alone)")
    add("--group", default=r"^[^_.]+", help="as for enrol.py")
    add("--query", default="", help="as for enrol.py")
    add("--ways", type=int, default=5)
    add("--shots", type=int, nargs="+", default=[5])
    add("--draws", type=int, default=20)
    add("--seed", type=int, default=0)
    add("--scenes", type=int, default=4000, metavar="N", help="rendered, to learn from (default: 4000)")
    add("--clips", type=int, default=120_000, metavar="N", help="that a run learns from (default: 120000)")
    add("--test-clips", type=int, default=520, metavar="N", help="rendered, held out (default: 520)")
    add("--json", action="store_true")
    args = parser.parse_args()
    args.false_accepts = 0.01
    torch.set_num_threads(1)
    if not args.others:
        args.work.mkdir(parents=True, exist_ok=True)
    rows, found = [], bases(args)
    for shots in args.shots:
        draws = {
            name: enrol.over_draws(SAMPLING, of, shots, "discriminant", args)["right"] for name, of in found.items()
        }
        first = np.array(draws["vlf-tiny"])
        for name, right in draws.items():
            gained = enrol.interval(np.array(right) - first)
            rows.append({"shots": shots, "base": name, "right": enrol.interval(right), "gained": gained})
    machine = hardware.describe("numpy", "torch", "timm", "openvino")
    print(json.dumps({"machine": machine, "rows": rows}, indent=1) if args.json else table(machine, rows))
    return 0


def table(machine: dict, rows: Sequence[dict]) -> str:
    lines = [hardware.header(machine), "", "| clips a label | base | right | beside vlf-tiny |", "|---|---|---|---|"]
    for row in rows:
        shares = (f"{100 * mean:.1f} ± {100 * half:.1f}" for mean, half in (row["right"], row["gained"]))
        lines.append(f"| {row['shots']} | {row['base']} | {' | '.join(shares)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
