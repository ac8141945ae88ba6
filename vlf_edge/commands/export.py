"""Write what is in a plan as plain files, for programs that are not vlf-edge. Needs neither PyTorch nor a GPU.

  vlf-edge export vlf.plan --onnx onnx/          frame.onnx, clip.onnx and how to feed them
  vlf-edge export vlf.plan --raw engines/        the engines, as trtexec and DeepStream load them
  vlf-edge export vlf.plan --triton models/      a model repository of Triton Inference Server

Every folder gets a vlf.json (labels, preprocessing, sampling, tensors) and a README.txt. What an earlier export wrote
is replaced, anything else is left alone.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from ..errors import VlfError
from ..printable import printable

HELP = "write a plan's graphs, engines or a Triton model repository as files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("plan", metavar="PLAN", help="a vlf.plan")
    add("--onnx", metavar="DIR", help="write the ONNX graph of each stage there")
    add("--raw", metavar="DIR", help="write the raw engines there, one folder for each target")
    add("--triton", metavar="DIR", help="write a Triton model repository there: both stages and an ensemble")
    add(
        "--kind",
        choices=("portable", "typed", "fp32"),
        help="with --onnx, which graphs: portable (CPUs), typed (TensorRT), fp32 (before quantisation) "
        "(default: portable)",
    )
    add(
        "--target",
        metavar="TARGET",
        help="with --raw and --triton, whose engines, as inspect names them, or tensorrt for all of that library; with "
        "--triton also cpu, for the portable ONNX graphs (default: all for --raw, the TensorRT engines if there are "
        "any for --triton)",
    )
    add("--triton-name", metavar="NAME", help="with --triton, name of the ensemble (default: the model's name)")


def main(args: argparse.Namespace) -> int:
    """Exports; prints the names of the files."""
    from ..export import check_place, onnx_folder, raw_folder, triton_folder, write_folder
    from ..plan import Plan

    _check_flags(args)
    plan = Plan.open(args.plan)
    folders = {}
    if args.onnx:
        folders[args.onnx] = onnx_folder(plan, args.kind or "portable")
    if args.raw:
        folders[args.raw] = raw_folder(plan, args.target)
    if args.triton:
        folders[args.triton] = triton_folder(plan, args.triton_name, args.target)
    for place in folders:
        check_place(place)
    for place, folder in folders.items():
        for path in write_folder(place, folder):
            print(printable(path))
    return 0


def _check_flags(args: argparse.Namespace) -> None:
    places = [place for place in (args.onnx, args.raw, args.triton) if place]
    if not places:
        raise VlfError("nothing to export; name one or more of --onnx DIR, --raw DIR, --triton DIR")
    for one, other in itertools.permutations(map(Path, places), 2):
        if other.resolve().is_relative_to(one.resolve()):
            raise VlfError(f"{other} and {one} overlap; each export needs a folder of its own")
    if args.raw and args.target == "cpu":
        raise VlfError("--raw writes engines, and --target cpu stands for no engine; leave out one of them")
    for flag, value, user in (
        ("--kind", args.kind, args.onnx),
        ("--target", args.target, args.raw or args.triton),
        ("--triton-name", args.triton_name, args.triton),
    ):
        if value is not None and not user:
            raise VlfError(f"{flag} {value} says something about an export that was not asked for; see --help")
