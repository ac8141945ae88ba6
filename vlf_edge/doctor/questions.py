"""What only a library can tell, asked in a process of its own: plain JSON values."""

from __future__ import annotations

import ctypes
import json
import logging
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from .. import backends
from ..backends import cuda
from ..errors import VlfError, first_line

_DECISIONS = 10


def numpy() -> dict[str, Any]:
    import numpy

    return {"version": numpy.__version__}


def opencv() -> dict[str, Any]:
    from ..opencv import load_cv2

    cv2 = load_cv2()
    known = dict(re.findall(r"^\s*(GStreamer|FFMPEG|v4l/v4l2):\s+(\w+)", cv2.getBuildInformation(), re.M))
    return {"version": cv2.__version__, "file": str(cv2.__file__)} | {
        name: known.get(key) == "YES" for name, key in (("gstreamer", "GStreamer"), ("ffmpeg", "FFMPEG"))
    }


def pyav() -> dict[str, Any]:
    import av

    return {"version": av.__version__}


def library(name: str) -> dict[str, Any]:
    """One of the table of backends."""
    module = backends.load(name)
    return {"version": str(getattr(module, "__version__", "unknown")), "file": str(getattr(module, "__file__", ""))}


def bindings() -> dict[str, Any]:
    from ..software import versions_of

    cuda.load_runtime()
    return {"version": versions_of("cuda-bindings")["cuda-bindings"]}


def driver() -> dict[str, Any]:
    """The CUDA version of libcuda, which comes with the driver."""
    library, version = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
    code = library.cuInit(0)
    library.cuDriverGetVersion(ctypes.byref(version))
    return {"cuda": f"{version.value // 1000}.{version.value % 1000 // 10}", "init": int(code)}


def gpu(device: str = "0") -> dict[str, Any]:
    return asdict(cuda.probe(int(device)))


def targets() -> dict[str, Any]:
    """{target of ``vlf-edge build``: "" if it can be built here, else why not}."""
    from ..compiler.engines import TARGETS, resolve_targets

    found = {}
    for name in TARGETS:
        try:
            resolve_targets(name)
            found[name] = ""
        except VlfError as error:
            found[name] = str(error)
    return found


def camera(path: str) -> dict[str, Any]:
    from .v4l2 import describe

    return describe(path)


def plan(path: str, backend: str) -> dict[str, Any]:
    """Opens a plan, lets it decide, and holds it to its golden windows.

    start_ms: until it is open; first_ms: from there to the first decision, all frames being at hand; decision_ms: the
    median of those that follow. golden: {windows, right, fault}, None if the plan has none.
    """
    from ..golden_windows import read_golden
    from ..runtime.runtime import Runtime
    from ..runtime.self_test import answer
    from ..video.motion_pattern import MotionOptions, MotionPattern

    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("vlf_edge").addHandler(handler)
    images = [MotionPattern(MotionOptions()).render(i * 0.1) for i in range(4)]
    began_s = time.perf_counter()
    with Runtime(path, backend=backend, rebuild="never", self_test=False) as runtime:
        times_s, sampling = [time.perf_counter()], runtime.recognizer.sampling
        number = 0
        while len(times_s) <= 1 + _DECISIONS:
            prediction = runtime.push(images[number % len(images)], number * sampling.grid_s)
            number += 1
            if prediction.state == "ok":
                times_s.append(time.perf_counter())
            elif prediction.state == "failed":
                raise VlfError("the model's answer is not a number: its weights or engines are broken")
        golden = read_golden(runtime.plan)
        answers = None if golden is None else answer(runtime.recognizer.executor, golden)._asdict()
        return {
            "backend": runtime.backend,
            "start_ms": 1e3 * (times_s[0] - began_s),
            "first_ms": 1e3 * (times_s[1] - times_s[0]),
            "decision_ms": 1e3 * statistics.median(b - a for a, b in zip(times_s[1:], times_s[2:])),
            "golden": answers,
            "said": said,
        }


QUESTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    function.__name__: function
    for function in (numpy, opencv, pyav, library, bindings, driver, gpu, targets, camera, plan)
}


def answer_to(question: str, *arguments: str) -> dict[str, Any]:
    """The answer, or {"error", "remedy"} of what was raised."""
    try:
        return QUESTIONS[question](*arguments)
    except VlfError as error:
        return {"error": str(error).removesuffix(f"; {error.remedy}"), "remedy": error.remedy}
    except Exception as error:  # whatever a library does is an answer
        return {"error": first_line(error), "remedy": ""}


def main() -> None:
    """The child's end: question and arguments on the command line, the answer as the last line of the output."""
    answer = answer_to(*sys.argv[1:])
    print("\n" + json.dumps(answer), flush=True)
