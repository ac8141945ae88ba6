"""Whether a plan runs here, on what, how fast, and whether its answers are right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .. import backends
from ..backends.table import GPU_BACKENDS, NAMES
from ..errors import VlfError
from ..golden_windows import has_golden_windows
from ..plan import Plan
from .finding import ABSENT, BAD, OK, WARN, Finding
from .gpu import has_nvidia_hardware
from .machine import Machine

LIMIT_S = 120.0  # for one backend


def plan(machine: Machine) -> Iterator[Finding]:
    """What the file is, what ``run`` would take, and then every backend that is here."""
    if machine.plan is None:
        return
    try:
        opened = Plan.open(machine.plan)
        opened.verify()
    except VlfError as error:
        yield Finding("file", BAD, error.problem, "a sound plan", error.remedy or "build it again, or copy it again")
        return
    manifest = opened.manifest
    engines = ", ".join(dict.fromkeys(f"{e.target} ({e.library} {e.version})" for e in manifest.engines)) or "none"
    name = manifest.model.get("name", "?")
    yield Finding("file", OK, f"{machine.plan.name}, {name} {manifest.precision}, sha256 {opened.digest[:16]}")
    yield Finding("engines", OK, f"{engines}; and graphs for any CPU")
    if manifest.random_weights:
        yield Finding("weights", WARN, "random, never trained: labels mean nothing", "trained", "vlf-edge train --help")
    if not has_golden_windows(manifest):
        fix = f"vlf-edge build {machine.plan} --precision {manifest.precision} --calib-data CLIPS -o NEW.plan"
        yield Finding("golden windows", ABSENT, "none: nothing tells whether answers are right", "", fix)
    here = [name for name in NAMES if backends.installed(name)]
    found = {name: _on(machine, name) for name in here}
    chosen = _on(machine, "auto", found)
    yield chosen
    for name, finding in found.items():
        yield finding if finding.mark != BAD or chosen.mark == BAD else _lesser(machine, name, finding)


def _on(machine: Machine, backend: str, found: dict[str, Finding] | None = None) -> Finding:
    """found: of the backends one by one, where ``backend`` is "auto"."""
    answer = machine.ask("plan", str(machine.plan), backend, limit_s=LIMIT_S)
    name = "runs" if backend == "auto" else f"on {backend}"
    next_step = f"take another --backend, or build its engines anew: vlf-edge build {machine.plan} --target auto"
    if "error" in answer:
        return Finding(name, BAD, answer["error"], "decisions", answer["remedy"] or next_step)
    told, golden = _told(answer, backend), answer["golden"]
    if golden and golden["fault"]:
        others = [other for other, finding in (found or {}).items() if finding.mark == OK]
        if others:  # run, eval and bench refuse such an engine too, and take the next
            return Finding(name, WARN, f"{told}: {golden['fault']}; {others[0]} is taken", "right answers", next_step)
        return Finding(name, BAD, f"{told}: {golden['fault']}", "right answers", next_step)
    why_cpu = [sentence for sentence in answer["said"] if sentence.startswith("running on the CPU")]
    if backend == "auto" and why_cpu and has_nvidia_hardware(machine):
        return Finding(name, WARN, f"{told}; {why_cpu[0]}", "on the GPU", _faster(machine))
    return Finding(name, OK, told)


def _told(answer: dict[str, Any], backend: str) -> str:
    """How it went, in words."""
    start_ms, golden = answer["start_ms"], answer["golden"]
    told = f"on {answer['backend']}: " if backend == "auto" else ""
    told += f"first decision {start_ms + answer['first_ms']:.0f} ms after the start, {start_ms:.0f} to open it; "
    told += f"then one in {answer['decision_ms']:.1f} ms"
    return told + (f"; {golden['right']} of {golden['windows']} golden windows right" if golden else "")


def _lesser(machine: Machine, name: str, finding: Finding) -> Finding:
    """A backend that does not run the plan while another does."""
    if name in GPU_BACKENDS and not has_nvidia_hardware(machine):
        return Finding(finding.name, ABSENT, finding.found)
    return Finding(finding.name, WARN, finding.found, finding.expected, finding.fix)


def _faster(machine: Machine) -> str:
    libraries = [name for name in GPU_BACKENDS if backends.installed(name)]
    if not libraries or "error" in machine.ask("gpu"):
        return "see the sections GPU and Backends"
    target = "rtx" if libraries[0] == "tensorrt_rtx" else "tensorrt"
    return f"add an engine for this GPU: vlf-edge build {machine.plan} --target {target}"
