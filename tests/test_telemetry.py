"""Nothing leaves the machine: no sockets and no processes while a plan opens and decides, whoever imported what."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import vlf_edge

SHIPPED = Path(vlf_edge.__file__).parent / "weights" / "vlf-tiny.plan"
BACKENDS = ("openvino", "onnxruntime")

# What the libraries' own threads do is seen too: an audit hook is told of every thread of the process, and what is in
# no audit event (a library's own sockets) shows in the process's file descriptors and in its home folder.
BARRED = """
import os, sys
told = []
def hook(event, arguments):
    processes = ("os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system")
    if event.split(".")[0] in ("socket", "subprocess") or event in processes:
        told.append(f"{event} {arguments}")
sys.addaudithook(hook)
"""
DECIDE = """
import time
import numpy as np
from vlf_edge import Runtime
with Runtime(sys.argv[1], backend=sys.argv[2]) as runtime:
    for i in range(20):
        runtime.push(np.zeros((48, 64, 3), np.uint8), 0.1 * i)
time.sleep(0.3)  # for threads that report later
"""
JUDGE = """
open_sockets = [name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")]
open_sockets = [n for n in open_sockets if os.readlink(f"/proc/self/fd/{n}").startswith("socket:")]
left = [os.path.join(folder, name) for folder, _, names in os.walk(os.environ["HOME"]) for name in names]
print(told, open_sockets, left)
"""


def run(tmp_path: Path, code: str, *arguments: str) -> str:
    """stdout of a fresh interpreter with an empty home folder, outside any CI (where ONNX Runtime reports nothing)."""
    told = ("CI", "TF_BUILD", "GITHUB_ACTIONS", "JENKINS_URL", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS")
    environment = {name: value for name, value in os.environ.items() if name not in told}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_opening_and_deciding_talks_to_nobody(tmp_path, backend):
    pytest.importorskip(backend)
    assert run(tmp_path, BARRED + DECIDE + JUDGE, str(SHIPPED), backend) == "[] [] []"


def test_a_build_imports_onnxruntime_quietly(tmp_path):
    pytest.importorskip("onnxruntime")
    assert run(tmp_path, BARRED + "import vlf_edge.compiler.graph\n" + JUDGE) == "[] [] []"


def test_programs_keep_a_reporter_of_their_own(tmp_path):
    """One that has imported OpenVINO's for itself has it afterwards; but opening a plan does not use it."""
    pytest.importorskip("openvino")
    theirs = "import sys, types\nsys.modules['openvino_telemetry'] = theirs = types.ModuleType('openvino_telemetry')\n"
    kept = "\nassert sys.modules['openvino_telemetry'] is theirs"
    assert run(tmp_path, theirs + BARRED + DECIDE + kept + JUDGE, str(SHIPPED), "openvino") == "[] [] []"
