"""The options of every command that runs a plan: on what."""

from __future__ import annotations

import argparse
from typing import Any

from ..backends.table import NAMES


def add_backend_arguments(parser: argparse.ArgumentParser) -> None:
    names = f"auto, {', '.join(NAMES[:-1])} or {NAMES[-1]}"
    parser.add_argument("--backend", default="auto", metavar="NAME", help=f"{names} (default: auto)")
    parser.add_argument("--device", type=int, default=0, metavar="N", help="number of the GPU (default: 0)")
    parser.add_argument(
        "--rebuild",
        choices=("never", "auto", "always"),
        default="auto",
        help="engines for this GPU: never, the plan's own alone; auto, where none of those fits, built once and kept "
        "in ~/.cache/vlf_edge; always, built anew (default: auto)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads on the CPU; fewer leave cores to others (default: one for each physical core)",
    )
    parser.add_argument("--no-cuda-graph", action="store_true", help="start the GPU's kernels one by one")
    parser.add_argument(
        "--no-self-test",
        action="store_true",
        help="do not hold the engines to the plan's golden windows at their first start on this machine",
    )


def backend_options(args: argparse.Namespace) -> dict[str, Any]:
    """What ``add_backend_arguments`` added, as ``Runtime`` and ``evaluate`` take it."""
    options = {name: getattr(args, name) for name in ("backend", "device", "rebuild", "threads")}
    return {**options, "cuda_graph": not args.no_cuda_graph, "self_test": not args.no_self_test}
