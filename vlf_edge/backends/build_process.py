"""An engine built in a process of its own.

A failed build can leave the library in a state that changes the next one, and a crash or a lack of memory ends its
process: neither may touch ours.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from .. import signals
from ..cache import cache_folder
from ..errors import BackendMissing, CompileError, VlfError
from ..scratch import scratch_folder
from .tensorrt_build import BuiltEngine, build_engine

log = logging.getLogger(__name__)

_GRAPH, _OPTIONS, _ENGINE, _RESULT = "graph.onnx", "options.json", "engine", "result.json"
_CHILD = "from vlf_edge.backends import build_process; build_process.build_in_folder('.')"


def build_in_child(onnx_bytes: bytes, what: str, **options: Any) -> BuiltEngine:
    """``build_engine`` in a new process, with TensorRT's timings kept in the user's cache folder.

    what: the name of what is built, for messages. options: the arguments of ``build_engine`` but ``timings``.
    Raises CompileError, which also says how a process ended that died, and BackendMissing.
    """
    with scratch_folder("vlf-edge-build-") as folder:
        here = Path(folder)
        (here / _GRAPH).write_bytes(onnx_bytes)
        # Ours, not the child's: for a user without a home it can be a folder of this process alone.
        timings = str(cache_folder("timings"))
        (here / _OPTIONS).write_text(json.dumps({"parent": os.getpid(), "timings": timings, "build": options}))
        # The child must import what we import; its own folder keeps the user's current one out of its path.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path)}
        environment["PYTHONHASHSEED"] = "0"
        prefix = _repeatably() if options["library"] == "tensorrt_rtx" else ()
        child = run_child([*prefix, sys.executable, "-c", _CHILD], folder, environment)
        if child.returncode != 0 or not (here / _RESULT).exists():
            raise CompileError(f"building {what} ended its process: {how_it_ended(child)}")
        result = json.loads((here / _RESULT).read_text())
        if "error" in result:
            raise _error(result, what)
        result["compute_capabilities"] = tuple(result["compute_capabilities"])
        return BuiltEngine(data=(here / _ENGINE).read_bytes(), **result)


def run_child(
    command: list[str], folder: str | None, environment: dict[str, str], limit_s: float | None = None
) -> subprocess.CompletedProcess:
    """As ``subprocess.run``, both streams together, but a signal that ends us takes the child along at once.

    Raises subprocess.TimeoutExpired once ``limit_s`` is up; the child is gone then.
    """
    with ExitStack() as stack:
        with signals.unbroken():
            child = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            stack.enter_context(signals.clearing(child.kill))
        with child:
            try:
                output, _ = child.communicate(timeout=limit_s)
            except BaseException:
                child.kill()
                raise
    return subprocess.CompletedProcess(command, child.returncode, output)


def build_in_folder(folder: str) -> None:
    """The child's end: builds what ``build_in_child`` put into a folder and leaves engine and result there."""
    here = Path(folder)
    request = json.loads((here / _OPTIONS).read_text())
    threading.Thread(target=_end_with, args=(request["parent"],), daemon=True).start()
    options = {**request["build"], "timings": Path(request["timings"])}
    options["compute_capabilities"] = tuple(options.get("compute_capabilities", ()))
    try:
        engine = build_engine((here / _GRAPH).read_bytes(), **options)
    except VlfError as error:
        result = {"error": type(error).__name__, "message": str(error)}
    else:
        (here / _ENGINE).write_bytes(engine.data)
        result = {name: value for name, value in asdict(engine).items() if name != "data"}
    (here / _RESULT).write_text(json.dumps(result))


def _end_with(parent: int) -> None:
    """Ends this process once nobody waits for it: a small board has no memory for two builds at a time."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


@cache
def _repeatably() -> tuple[str, ...]:
    """A command prefix under which TensorRT-RTX gives the same bytes every time, where this system allows it.

    Version 1.7 names and orders some of its work by memory addresses and by which of its threads comes first. With one
    processor, no address randomisation and (set beside this) no hash randomisation in Python there is one order left.
    """
    prefix = ("taskset", "-c", str(min(os.sched_getaffinity(0))), "setarch", "-R")
    try:
        allowed = subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    except OSError:
        allowed = False
    if not allowed:
        log.info("this system refuses setarch -R: engines may differ in some bytes from one build to the next")
    return prefix if allowed else ()


def how_it_ended(child: subprocess.CompletedProcess) -> str:
    """A child's exit status or signal, and its last words."""
    last_words = child.stdout.decode(errors="replace").strip().splitlines()[-3:]
    if child.returncode >= 0:
        how = f"exit status {child.returncode}"
    else:
        number = -child.returncode
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        how = f"killed by {name}"
        if number == signal.SIGKILL:
            how += ", as happens when memory runs out: close other programs or lower the batch"
    return f"{how}; it last said: {' | '.join(last_words)}" if last_words else how


def _error(result: dict, what: str) -> VlfError:
    message = result["message"]
    if result["error"] == "BackendMissing":
        return BackendMissing(message)
    # Turing has no float32 matrix products in TensorRT-RTX.
    hint = "Turing needs --precision fp16 or int8" if "Turing" in message and "FP32" in message else ""
    return CompileError(f"cannot build {what}: {message}", remedy=hint)
