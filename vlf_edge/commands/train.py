"""Train a model on clips, or fine-tune one.

vlf-edge train motion --out my.safetensors                  from scratch, on rendered motion
vlf-edge train my-clips/ --from vlf-tiny                    fine-tune on folders of clips: my-clips/class/clip.mp4
vlf-edge train my-clips/ --model vlf --pretrained           a bigger model, its CNN from timm
torchrun --nproc-per-node 4 -m vlf_edge train my-clips/     on four GPUs

Beside the best weights (OUT) are written the last ones (.last.safetensors), the state that --resume continues from
(.resume.safetensors) and the learning curves (.csv, .png).
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
import threading
from pathlib import Path
from typing import Any

from .. import signals
from ..printable import printable
from .progress import Progress

HELP = "train a model on clips, or fine-tune one"
_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "data",
        metavar="DATA",
        help="motion (rendered clips), a folder class/clip.mp4, or an annotation file: CSV path,label, "
        "Something-Something's JSON, EPIC-KITCHENS' CSV",
    )
    add("--val", metavar="DATA", help="other data to validate on (default: DATA's own, or a part of it)")
    add("--out", "-o", default="weights.safetensors", metavar="FILE", help="default: weights.safetensors")
    add("--half", action="store_true", help="store weights as float16: half the bytes, and next to no difference")
    add("--resume", action="store_true", help="go on with the run of the same command that was stopped or killed")
    _add_model_arguments(parser.add_argument_group("model"))
    _add_learning_arguments(parser.add_argument_group("learning"))
    add("--workers", type=int, metavar="N", help="processes that read clips (default: one a core, at most 16)")
    add("--compile", action="store_true", help="compile the model with PyTorch's compiler (on a CPU: needs g++)")
    add("--max-minutes", type=float, metavar="M", help="stop by then with everything saved; --resume goes on")
    add("--json", action="store_true", help="print the outcome as JSON")


def _add_model_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--model", choices=("vlf", "vlf-lite", "vlf-tiny"), help="sizes (default: those of --from, else vlf-tiny)")
    add("--backbone", metavar="NAME", help="another timm model as CNN")
    add("--size", dest="size_px", type=int, metavar="PX", help="height and width of an image (default: the model's)")
    add("--frames", type=int, metavar="K", help="frames of a window (default: the model's, 8)")
    add("--pretrained", action="store_true", help="start from timm's weights of the CNN (fetched once); not vlf-tiny")
    add(
        "--from",
        dest="start",
        metavar="WEIGHTS",
        help="start from these weights, or from those that come with vlf-edge: vlf-tiny; other classes get a new head, "
        "and clips of rendered motion are hard from the first one on",
    )
    add("--qat", action="store_true", help="fine-tune --from for int8: the plan takes over the scales learned")
    add("--teacher", nargs="+", default=[], metavar="WEIGHTS", help="weights to distil from, several as an ensemble")


def _add_learning_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--epochs", type=int, default=20, metavar="N", help="default: 20")
    add("--batch", type=int, default=32, metavar="N", help="clips of a step (default: 32)")
    add(
        "--clips-per-epoch",
        type=int,
        metavar="N",
        help="clips that make an epoch (default: all of DATA, 10 steps at least: few clips are seen several times)",
    )
    add(
        "--patience",
        type=int,
        metavar="N",
        help="stop after N epochs without better validation, 0: never (default: with --from 8, else 0)",
    )
    add("--val-clips", type=int, metavar="N", help="validate on at most N clips (default: all)")
    add("--span", dest="span_s", type=float, metavar="S", help="seconds of a window (default: DATA's median clip)")
    add("--lr", type=float, metavar="X", help="highest learning rate (default: 1e-3, with --qat 2e-4)")
    add("--warmup", type=float, default=0.05, metavar="SHARE", help="of all steps (default: 0.05)")
    add("--weight-decay", type=float, default=0.05, metavar="X", help="default: 0.05")
    add("--clip-norm", type=float, default=1.0, metavar="X", help="largest norm of the gradient (default: 1)")
    add("--label-smoothing", type=float, default=0.1, metavar="SHARE", help="default: 0.1")
    add("--ema-decay", type=float, default=0.999, metavar="X", help="of the averaged weights (default: 0.999)")
    add(
        "--motion-weight",
        type=float,
        default=4.0,
        metavar="X",
        help="of telling how things move, beside the class, at first (default: 4); only for DATA that knows it: motion",
    )
    add("--motion-weight-end", type=float, default=0.3, metavar="X", help="the same, in the end (default: 0.3)")
    add(
        "--hint-weight",
        type=float,
        default=0.0,
        metavar="X",
        help="of telling --teacher's tokens too, at first; falls to 0. A few clips then teach what many do without; "
        "needs as many tokens an image (default: 0)",
    )
    add("--seed", type=int, default=0, metavar="N", help="the same seed gives the same weights (default: 0)")


def main(args: argparse.Namespace) -> int:
    """Trains; prints what came of it."""
    from ..compiler.fp32_model import require

    require("models", "training", ("torch", "timm", "safetensors"))
    from ..training import train

    asked, kept = threading.Event(), Path(args.out).with_suffix(".resume.safetensors")
    with signals.telling(asked.set, lambda: "; the same command with --resume goes on" if kept.exists() else ""):
        outcome = train(
            _settings(args),
            resume=args.resume,
            progress=Progress(),
            should_stop=asked.is_set,
            command=shlex.join(["vlf-edge", *sys.argv[1:]]),
        )
    if not outcome.leads:
        return 0
    if args.json:
        print(json.dumps(outcome.to_json(), indent=1))
    elif outcome.record:
        print(_report(outcome))
    if outcome.advice:
        _log.warning("%s", outcome.advice)
    if not outcome.finished and not asked.is_set():
        _log.info("stopped before the end; the same command with --resume goes on")
    return 0


def _settings(args: argparse.Namespace) -> Any:
    from ..training import Settings

    same = (
        "data", "out", "half", "val", "model", "backbone", "size_px", "frames", "pretrained", "start", "qat", "epochs",
        "batch", "clips_per_epoch", "patience", "val_clips", "span_s", "lr", "warmup", "weight_decay", "clip_norm",
        "label_smoothing", "ema_decay", "motion_weight", "motion_weight_end", "hint_weight", "seed",
        "workers", "max_minutes", "compile",
    )  # fmt: skip
    return Settings(**{name: getattr(args, name) for name in same}, teachers=tuple(args.teacher))


def _report(outcome: Any) -> str:
    record, val = outcome.record, outcome.record["val"]
    rows = [
        f"{outcome.best}: {record['model']} after epoch {record['epochs']:g}, "
        f"{record['clips']} clips, {record['minutes']:g} minutes",
        f"validation: top-1 {val['top1']:.1%} of {val['clips']} clips, loss {val['loss']:.4f}",
    ]
    recall = {printable(label): share for label, share in val["recall"].items()}
    width = max(map(len, recall))
    for label, share in recall.items():
        rows.append(f"  {label:{width}s} {'no clips' if share is None else f'{share:7.1%}'}")
    if sum(record["broken"].values()):
        rows.append(
            f"broken clips: {record['broken']['training']} training, {record['broken']['validation']} validation"
        )
    return "\n".join(map(printable, rows))
