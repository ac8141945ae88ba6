"""Signals at random moments, from the start of a process to its end, for every verb and the demo.

    python tests/signal_moments.py                   100 moments for each; about an hour on two cores
    python tests/signal_moments.py run train --moments 10

Prints for each verb how the processes ended, and exits with 1 if any of them did not end as it should: within two
seconds, with 130 or 143, in one last line, without a traceback, leaving no process and no half-written file behind.
A signal that finds Python before it has reached our first line ends it in Python's own way; these are counted apart.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLAN = ROOT / "vlf_edge" / "weights" / "vlf-tiny.plan"
VIDEO = "test://motion?width=160&height=120&seconds="
LIMIT_S = 2.0  # of a machine with nothing else to do
_GIVEN_UP_S = 60.0
_SECOND_S = 0.06  # between two signals, where two are sent

VLF_EDGE = ("-m", "vlf_edge")
VERBS = {
    "run": (*VLF_EDGE, "run", PLAN, f"{VIDEO}10", "--save", "out.avi"),
    "build": (*VLF_EDGE, "build", PLAN, "--precision", "int8", "--calib-data", f"{VIDEO}64", "--calib-samples", "32",
              "--target", "cpu", "-o", "out.plan"),
    "build from weights": (*VLF_EDGE, "build", "--random-weights", "--precision", "fp32", "--target", "cpu",
                           "-o", "out.plan"),
    "eval": (*VLF_EDGE, "eval", PLAN, "motion", "--limit", "8", "--live"),
    "bench": (*VLF_EDGE, "bench", PLAN, "--decisions", "50"),
    "inspect": (*VLF_EDGE, "inspect", PLAN, "--verify"),
    "train": (*VLF_EDGE, "train", "motion", "--from", "vlf-tiny", "--epochs", "2", "--clips-per-epoch", "16",
              "--batch", "8", "--val-clips", "8", "--workers", "2"),
    "capture": (*VLF_EDGE, "capture", f"{VIDEO}60", "--clips", "3", "-o", "clips"),
    "guided capture": (*VLF_EDGE, "capture", f"{VIDEO}60", "--label", "wave", "--clips", "3", "--countdown", "1"),
    "export": (*VLF_EDGE, "export", PLAN, "--onnx", "onnx", "--triton", "triton", "--target", "cpu"),
    "doctor": (*VLF_EDGE, "doctor", PLAN, "--bundle", "bug.zip"),
    "enrol": (*VLF_EDGE, "enrol", PLAN, f"one={VIDEO}8&seed=1", f"other={VIDEO}8&seed=2", "--none", f"{VIDEO}20&seed=3",
              "-o", "mine.plan"),
    "teach": (*VLF_EDGE, "teach", PLAN, f"{VIDEO}20", "--labels", "one", "other", "--serve", "0", "-o", "mine.plan"),
    "calibrate-unknown": (*VLF_EDGE, "calibrate-unknown", PLAN, f"{VIDEO}40", "-o", "careful.plan"),
    "labels": (*VLF_EDGE, "labels", PLAN, "--rename", "left=links", "-o", "renamed.plan"),
    "camera.py": (ROOT / "demos" / "camera.py", "--engine", PLAN, "--source", f"{VIDEO}10", "--save", "out.avi"),
}  # fmt: skip


@dataclass(frozen=True)
class End:
    """How one process ended. how: "interrupted", "before us", "over" (before the signal) or what was wrong."""

    how: str
    took_s: float = 0.0


def start(words: tuple, folder: Path, log: Path) -> subprocess.Popen:
    """A process in a group of its own, with a folder of its own for everything it writes."""
    (folder / "tmp").mkdir(parents=True)
    environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "XDG_CACHE_HOME": str(folder / "cache")}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    with log.open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, *map(str, words)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )


def interrupt(
    words: tuple, delay_s: float, number: int, whole_group: bool, twice: bool, limit_s: float = LIMIT_S
) -> End:
    """Starts a program, sends it a signal after a time, and looks at what it leaves.

    whole_group: to its children too, as a terminal and service managers do. twice: a second one 60 ms later.
    """
    with tempfile.TemporaryDirectory(prefix="moments-") as place:
        folder, log = Path(place, "work"), Path(place, "stderr")
        process = start(words, folder, log)
        send = os.killpg if whole_group else os.kill
        try:
            process.wait(delay_s)
            return End("over" if process.returncode == 0 else f"failed undisturbed: {log.read_text(errors='replace')}")
        except subprocess.TimeoutExpired:
            ours = _obeys(process.pid)
        send(process.pid, number)
        sent_s = time.monotonic()
        try:
            if twice:
                try:
                    process.wait(_SECOND_S)
                except subprocess.TimeoutExpired:
                    send(process.pid, number)
            process.wait(_GIVEN_UP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return End(f"went on for {_GIVEN_UP_S:g} s", _GIVEN_UP_S)
        took_s = time.monotonic() - sent_s
        said = log.read_text(errors="replace")
        if not ours:  # Python may have dropped it, say in a weakref's callback, and a second one ended us then
            return End("before us", took_s)
        if process.returncode == 0 and "interrupted" not in said and took_s < limit_s:
            return End("over", took_s)  # it was past its last line
        wrong = [f"took {took_s:.1f} s"] if took_s > limit_s else []
        return End("; ".join(wrong + _wrong(process, number, said, folder)) or "interrupted", took_s)


def _obeys(pid: int) -> bool:
    """Whether a process has its handlers: SIGTERM is one that Python itself leaves alone."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), "0")
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def _wrong(process: subprocess.Popen, number: int, said: str, folder: Path) -> list[str]:
    wrong = []
    if process.returncode != 128 + number:
        wrong.append(f"exit code {process.returncode} after {signal.Signals(number).name}")
    if "Traceback" in said or said.count("interrupted") != 1 or "interrupted" not in (said.splitlines() or [""])[-1]:
        wrong.append(f"said {said[-2000:]!r}")
    if _lives(process.pid):
        os.killpg(process.pid, signal.SIGKILL)
        wrong.append("left a process")
    left = [path for path in folder.rglob("*") if path.name.startswith((".partial", "vlf-"))]
    if left:
        wrong.append(f"left {', '.join(str(path.relative_to(folder)) for path in left)}")
    return wrong + _damaged(folder)


def _lives(group: int) -> bool:
    """Whether a process of the group still runs; killed ones take a moment to go, and may stay as zombies."""
    until_s = time.monotonic() + 10.0
    while any(_runs_in(group, path) for path in Path("/proc").glob("[0-9]*/stat")):
        if time.monotonic() > until_s:
            return True
        time.sleep(0.05)
    return False


def _runs_in(group: int, stat: Path) -> bool:
    try:
        state, _parent, its_group = stat.read_text().rpartition(")")[2].split()[:3]
    except (OSError, ValueError):
        return False  # it has gone meanwhile
    return int(its_group) == group and state != "Z"


def _damaged(folder: Path) -> list[str]:
    """What was written under its final name and is not whole."""
    from vlf_edge import Plan, VlfError, open_source

    damaged = []
    for path in (*folder.rglob("*.plan"), *folder.rglob("*.avi")):
        try:
            if path.suffix == ".plan":
                plan = Plan.open(path)
                for member in plan.manifest.members:
                    plan.read(member)
            else:
                with open_source(path) as source:
                    source.read()
        except VlfError as error:
            damaged.append(f"damaged {path.name}: {error}")
    return damaged


def moments(
    verb: str, count: int, seed: int = 0, parallel: int = 2, within_s: float | None = None, limit_s: float = LIMIT_S
) -> list[End]:
    """``count`` signals to one verb, at moments drawn from the first ``within_s`` seconds; by default from the time it
    takes undisturbed. limit_s: by when each must have ended it."""
    words, rng = VERBS[verb], random.Random(f"{verb} {seed}")
    whole_s = _undisturbed_s(verb) if within_s is None else within_s
    kinds = list(itertools.product((signal.SIGINT, signal.SIGTERM), (True, False), (True, False)))
    tries = [(words, rng.uniform(0, whole_s), *kinds[i % len(kinds)]) for i in range(count)]
    with ThreadPoolExecutor(parallel) as pool:
        return list(pool.map(lambda one: interrupt(*one, limit_s), tries))


def _undisturbed_s(verb: str) -> float:
    with tempfile.TemporaryDirectory(prefix="moments-") as place:
        begun_s = time.monotonic()
        process = start(VERBS[verb], Path(place, "work"), Path(place, "stderr"))
        if process.wait() != 0:
            raise RuntimeError(f"{verb} fails undisturbed: {Path(place, 'stderr').read_text()}")
        return time.monotonic() - begun_s


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verbs", nargs="*", metavar="VERB", help=f"of {', '.join(VERBS)} (default: all)")
    parser.add_argument("--moments", type=int, default=100, metavar="N", help="signals to each (default: 100)")
    parser.add_argument("--parallel", type=int, default=2, metavar="N", help="processes at a time (default: 2)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments (default: 0)")
    args = parser.parse_args()
    # Shells start background jobs with Ctrl-C ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    failed = False
    for verb in args.verbs or VERBS:
        ends = moments(verb, args.moments, args.seed, args.parallel)
        counts = Counter(end.how for end in ends)
        slowest_s = max((end.took_s for end in ends), default=0.0)
        print(f"{verb:20s} {dict(counts.most_common())}, slowest {slowest_s:.2f} s", flush=True)
        failed |= bool(counts.keys() - {"interrupted", "before us", "over"})
    return int(failed)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
