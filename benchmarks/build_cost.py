"""What `vlf-edge build --precision int8` costs: wall time and memory, in a fresh process, with an empty cache.

    python benchmarks/build_cost.py [--model vlf-tiny vlf] [--runs N]

Peak memory is given twice: the largest single process as the kernel counts it (ru_maxrss of the build and all the
processes it waited for), and the sum over the processes of the build at the same instant, sampled 20 times a second
(pages that they share count once in each). CPU time is the same for a busy machine and an idle one, wall time is not.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from hardware import describe, header
from plans import VLF_SIZES

GOAL_WALL_S = {"vlf-tiny": 60.0, "vlf": 180.0}
GOAL_PEAK_BYTES = 3e9
SAMPLE_S = 0.05


def build_once(command: list[str]) -> dict[str, Any]:
    """Runs one build; returns {"wall_s", "cpu_s", "peak_process_bytes", "peak_sum_bytes", "steps_s": {step: s}}."""
    with tempfile.TemporaryDirectory() as home:
        # The cache of ranges is under the home folder: an empty one for every run.
        environment = {**os.environ, "HOME": home}
        log = Path(home, "log")
        start_s = time.perf_counter()
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [*command, "-o", str(Path(home, "vlf.plan"))],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
            try:
                with _SumOfProcesses(process.pid) as memory:
                    _, status, usage = os.wait4(process.pid, 0)
            except KeyboardInterrupt:  # in its own session it would not notice
                os.killpg(process.pid, signal.SIGINT)
                raise
        wall_s = time.perf_counter() - start_s
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{log.read_text()}")
        steps = re.findall(r"^(.+): \d+ in ([\d.]+) s$", log.read_text(), re.MULTILINE)
    return {
        "wall_s": round(wall_s, 2),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_process_bytes": usage.ru_maxrss * 1024,
        "peak_sum_bytes": memory.peak_bytes,
        "steps_s": {what: float(seconds) for what, seconds in steps},
    }


class _SumOfProcesses:
    """Samples the resident memory of all processes of a session from a thread, until the block ends."""

    def __init__(self, session: int):
        self.peak_bytes = 0
        self._session = session
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> _SumOfProcesses:
        self._thread.start()
        return self

    def __exit__(self, *exc_info) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            self.peak_bytes = max(self.peak_bytes, _resident_bytes(self._session))


def _resident_bytes(session: int) -> int:
    """Of all processes of a session, from /proc/PID/stat: field 6 is the session, field 24 the resident pages."""
    pages = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()  # from field 3 on: the name may hold spaces
        except OSError:  # it ended meanwhile
            continue
        if int(fields[3]) == session:
            pages += int(fields[21])
    return pages * os.sysconf("SC_PAGE_SIZE")


def measure(model: str, args: argparse.Namespace) -> dict[str, Any]:
    """Medians of several builds, with all of them beside."""
    origin = [args.base] if args.base else ["--model", model, "--random-weights"]
    settings = ["--precision", "int8", "--calib-data", args.calib_data, "--target", args.target]
    arguments = ["build", *origin, *settings]
    runs = [build_once([sys.executable, "-m", "vlf_edge", *arguments]) for _ in range(args.runs)]
    names = ("wall_s", "cpu_s", "peak_process_bytes", "peak_sum_bytes")
    return {
        "command": " ".join(["vlf-edge", *arguments]),
        "model": model,
        **{name: statistics.median(run[name] for run in runs) for name in names},
        "goal_wall_s": GOAL_WALL_S.get(model),
        "goal_peak_bytes": GOAL_PEAK_BYTES,
        "runs": runs,
    }


def table(figures: dict[str, Any]) -> str:
    """For people."""
    lines = [header(figures["machine"])]
    for build in figures["builds"]:
        steps = ", ".join(f"{what} {step_s:.1f} s" for what, step_s in build["runs"][-1]["steps_s"].items())
        goal = f" (goal: under {build['goal_wall_s']:.0f} s)" if build["goal_wall_s"] else ""
        lines += [
            "",
            f"{build['command']}   median of {len(build['runs'])}",
            f"  wall time             {build['wall_s']:8.1f} s{goal}",
            f"  CPU time              {build['cpu_s']:8.1f} s",
            f"  peak, largest process {build['peak_process_bytes'] / 1e9:8.2f} GB"
            f" (goal: under {build['goal_peak_bytes'] / 1e9:.0f} GB)",
            f"  peak, sum at once     {build['peak_sum_bytes'] / 1e9:8.2f} GB",
            f"  steps of the last run {steps}",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", nargs="+", choices=VLF_SIZES, default=["vlf-tiny"], help="default: vlf-tiny")
    add("--base", metavar="PLAN", help="requantise this plan instead of exporting random weights (needs no torch)")
    add("--calib-data", default="test://motion?seconds=60", metavar="CLIPS", help="default: test://motion?seconds=60")
    add("--target", default="auto", metavar="TARGET", help="as of vlf-edge build (default: auto)")
    add("--runs", type=int, default=1, metavar="N", help="builds of each model (default: 1)")
    add("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    args.runs = max(1, args.runs)
    machine = describe("numpy", "onnx", "onnxruntime", "torch", "timm", "tensorrt_rtx", "tensorrt")
    models = ["base"] if args.base else args.model
    figures = {"machine": machine, "builds": [measure(model, args) for model in models]}
    print(json.dumps(figures, indent=1) if args.json else table(figures))


if __name__ == "__main__":
    main()
