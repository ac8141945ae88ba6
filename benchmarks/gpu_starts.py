"""Seconds from opening a plan to its first decision, with more and more kept from earlier starts."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from vlf_edge import Plan, Runtime
from vlf_edge.cache import cache_folder

# What each start finds, and what is thrown away before it.
STARTS = (("nothing", ("engines", "timings", "kernels")), ("engines", ("kernels",)), ("engines and kernels", ()))


def starts(plan: Plan, library: str, images: np.ndarray, cache: Path) -> list[dict[str, Any]]:
    """One row a start: {"engine", "precision", "kept", "first_decision_s"}. cache: an empty folder.

    images: (K, H, W, 3) uint8. In this process, with its libraries loaded and CUDA set up. Raises VlfError.
    """
    rows = []
    with mock.patch.dict(os.environ, XDG_CACHE_HOME=str(cache)):
        for kept, without in STARTS:
            for kind in without:
                shutil.rmtree(cache_folder(kind), ignore_errors=True)
            start_s = time.perf_counter()
            with Runtime(plan, backend=library) as runtime:
                step_s = runtime.recognizer.sampling.grid_s
                decided = [runtime.push(image, number * step_s) for number, image in enumerate(images)][-1]
                spent_s = time.perf_counter() - start_s
            assert decided.state == "ok", "as many images as the plan takes frames make a decision"
            row = {"engine": f"Runtime on {library}", "precision": plan.manifest.precision, "kept": kept}
            rows.append({**row, "first_decision_s": spent_s})
    return rows
