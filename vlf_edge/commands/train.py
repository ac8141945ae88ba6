"""Train a model on clips, or fine-tune one.

vlf-edge train motion --out my.safetensors                  from scratch, on rendered motion
vlf-edge train my-clips/ --from vlf-tiny                    fine-tune on folders of clips: my-clips/class/clip.mp4
vlf-edge train my-clips/ --model vlf --pretrained           a bigger model, its CNN from timm
torchrun --nproc-per-node 4 -m vlf_edge train my-clips/     on four GPUs

Beside the best weights (OUT) are written the last ones (.last.safetensors), the state that --resume continues from
(.resume.safetensors), the learning curves (.csv, .png) and, at the end, a report to open in a browser (.html).
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
from ..options import add_options, given_options
from ..printable import printable
from .progress import Progress

HELP = "train a model on clips, or fine-tune one"
_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..training.settings import Settings

    add_options(parser, Settings, "data", "val", "out", "half")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run of the same command that was stopped or killed"
    )
    model, learning = parser.add_argument_group("model"), parser.add_argument_group("learning")
    add_options(model, Settings, "model", "backbone", "size_px", "frames", "pretrained", "backbone_weights")
    add_options(model, Settings, "start", "freeze", "qat", "teachers")
    add_options(
        learning,
        Settings,
        *("epochs", "batch", "clips_per_epoch", "balance", "patience", "val_clips", "span_s", "lr", "warmup"),
        *("weight_decay", "clip_norm", "label_smoothing", "ema_decay", "motion_weight", "motion_weight_end", "acts"),
        *("hint_weight", "seed"),
    )
    add_options(parser, Settings, "workers", "threads", "compile", "max_minutes")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")


def main(args: argparse.Namespace) -> int:
    """Trains; prints what came of it."""
    from ..training import Settings, train

    asked, kept = threading.Event(), Path(args.out).with_suffix(".resume.safetensors")
    with signals.telling(asked.set, lambda: "; the same command with --resume goes on" if kept.exists() else ""):
        outcome = train(
            Settings(**given_options(args, Settings)),
            resume=args.resume,
            progress=Progress(),
            should_stop=asked.is_set,
            command=shlex.join(["vlf-edge", *sys.argv[1:]]),
        )
    if not outcome.is_main:
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


def _measure(record: dict[str, Any]) -> str:
    return "mean recall of the classes" if record["settings"]["balance"] else "top-1"


def _report(outcome: Any) -> str:
    record, val = outcome.record, outcome.record["val"]
    rows = [
        f"{outcome.best}: {record['model']} after epoch {record['epochs']:g}, "
        f"{record['clips']} clips, {record['minutes']:g} minutes",
        f"validation: {_measure(record)} {val['top1']:.1%} of {val['clips']} clips, loss {val['loss']:.4f}",
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
