"""The machine as checks see it: files below a root, commands, and questions that a process of their own answers.

Libraries are asked in a child process, for they may crash, hang, or change what comes after them. Tests give another
root, other commands and other answers.
"""

from __future__ import annotations

import grp
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..backends.build_process import how_it_ended, run_child

COMMAND_LIMIT_S = 10.0
QUESTION_LIMIT_S = 30.0
MAX_BYTES = 1 << 20  # of a file or of a command's output
_CHILD = "from vlf_edge.doctor import questions; questions.main()"


@dataclass(frozen=True)
class Python:
    """The interpreter that runs this. prefix differs from base_prefix in a virtual environment."""

    version: str = field(default_factory=platform.python_version)
    executable: str = field(default_factory=lambda: sys.executable)
    prefix: str = field(default_factory=lambda: sys.prefix)
    base_prefix: str = field(default_factory=lambda: sys.base_prefix)

    @property
    def in_environment(self) -> bool:
        return self.prefix != self.base_prefix

    @property
    def minor(self) -> str:
        """Such as "3.11"."""
        return ".".join(self.version.split(".")[:2])


def run_command(*words: str, limit_s: float = COMMAND_LIMIT_S) -> str | None:
    """What a command says, on both of its streams; None if there is no such command. "" if it hangs."""
    try:
        output = _run([*words], limit_s)[1]
    except FileNotFoundError:
        return None
    except subprocess.TimeoutExpired:
        return ""
    return output.decode(errors="replace")


def ask_child(question: str, *arguments: str, limit_s: float = QUESTION_LIMIT_S) -> dict[str, Any]:
    """The answer to one of ``questions.QUESTIONS`` from a process of its own.

    {"error": what went wrong, "remedy": what to do or ""} where it raised, crashed or took too long.
    """
    try:
        code, output = _run([sys.executable, "-c", _CHILD, question, *arguments], limit_s)
    except subprocess.TimeoutExpired:
        return {"error": f"it did not answer within {limit_s:g} s", "remedy": ""}
    *_, last = output.splitlines() or [b""]
    with suppress(ValueError):
        answer = json.loads(last)
        if isinstance(answer, dict):
            return answer
    return {"error": f"its process ended: {how_it_ended(subprocess.CompletedProcess([], code, output))}", "remedy": ""}


def _run(words: list[str], limit_s: float) -> tuple[int, bytes]:
    """Exit status and the last of the output."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)), "LC_ALL": "C"}
    child = run_child(words, None, environment, limit_s)
    return child.returncode, child.stdout[-MAX_BYTES:]


@dataclass(frozen=True)
class Machine:
    """root: where its files begin. run: a command's output, as ``run_command``. ask: as ``ask_child``.
    python: the interpreter. groups: the user's, by name; is_root: whether that is root. plan: a plan to try, or None.
    """

    root: Path = Path("/")
    run: Callable[..., str | None] = run_command
    ask: Callable[..., dict[str, Any]] = ask_child
    python: Python = field(default_factory=Python)
    groups: frozenset[str] = field(default_factory=lambda: frozenset(_group_names()))
    is_root: bool = field(default_factory=lambda: os.geteuid() == 0)
    plan: Path | None = None

    def path(self, path: str) -> Path:
        """Where an absolute path of this machine is."""
        return self.root / path.lstrip("/")

    def read(self, path: str) -> str | None:
        """The text of a file, None if it cannot be read."""
        try:
            with open(self.path(path), "rb") as file:
                return file.read(MAX_BYTES).decode(errors="replace")
        except OSError:
            return None

    def find(self, pattern: str) -> list[str]:
        """The absolute paths that match a pattern, in order."""
        return sorted(f"/{path.relative_to(self.root)}" for path in self.root.glob(pattern.lstrip("/")))

    @property
    def is_jetson(self) -> bool:
        """Whether this is an NVIDIA Jetson, by its device tree or its release file."""
        return self.read("/etc/nv_tegra_release") is not None or "jetson" in self.model.lower()

    @property
    def model(self) -> str:
        """What the board calls itself; "" where there is no device tree, as on a PC."""
        return (self.read("/proc/device-tree/model") or "").strip("\0\n ")

    @property
    def system_tensorrt(self) -> list[str]:
        """Python versions that the system's own TensorRT is for, such as ["3.10"]: on a Jetson that is JetPack's."""
        found = self.find("/usr/lib/python3*/dist-packages/tensorrt/__init__.py")
        return [path.split("/")[3].removeprefix("python") for path in found]

    @property
    def environment_hides_system(self) -> bool:
        """Whether the interpreter runs in a virtual environment that does not see the system's packages."""
        settings = self.read(f"{self.python.prefix}/pyvenv.cfg") if self.python.in_environment else ""
        shown = "include-system-site-packages=true" in "".join((settings or "").lower().split(" "))
        return self.python.in_environment and not shown


def _group_names() -> list[str]:
    names = []
    for number in {*os.getgroups(), os.getegid()}:
        with suppress(KeyError):
            names.append(grp.getgrgid(number).gr_name)
    return names
