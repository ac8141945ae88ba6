"""The options of every command that runs a plan: on what."""

from __future__ import annotations

import argparse


def add_backend_arguments(parser: argparse.ArgumentParser) -> None:
    names = "auto, tensorrt, tensorrt_rtx, openvino or onnxruntime"
    parser.add_argument("--backend", default="auto", metavar="NAME", help=f"{names} (default: auto)")
    parser.add_argument("--device", type=int, default=0, metavar="N", help="number of the GPU (default: 0)")
