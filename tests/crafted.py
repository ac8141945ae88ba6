"""Plans as attackers make them: every hash is right, what is behind it need not be.

By hand: ``python tests/crafted.py 20000 [SEED]`` mutates as many plans and opens them, on ONNX Runtime too.
"""

from __future__ import annotations

import copy
import hashlib
import json
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from vlf_edge import Plan
from vlf_edge.backends.selection import open_engines
from vlf_edge.errors import VlfError
from vlf_edge.golden_windows import ABOUT, GoldenWindows, read_golden, to_members
from vlf_edge.runtime.recognizer import Recognizer
from vlf_edge.runtime.self_test import answer


def craft(path: Path, manifest: Any, members: dict[str, bytes], raw: bytes | None = None) -> Path:
    """Writes a plan whose hashes and sizes are right. manifest: as JSON values; raw: its bytes, where JSON has none."""
    if isinstance(manifest, dict) and isinstance(manifest.get("members"), dict):
        entries = {n: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for n, data in members.items()}
        manifest = {**manifest, "members": entries}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("manifest.json"), raw or json.dumps(manifest).encode())
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return path


def parts_of(plan: Plan) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest as JSON values, and the members, for ``craft``."""
    return json.loads(json.dumps(plan.manifest.to_json())), {name: plan.read(name) for name in plan.manifest.members}


ODD: tuple[Any, ...] = (
    None, True, 0, 1, -1, 2, 3, 1 << 24, 1 << 31, 1 << 70, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "N", "x",
    "(,)f4", "f4", "O", "float64", "uint8", "a\x1b[2J", "\ud800", "x" * 400, "../x", [], [[]], {}, [1], ["N"], {"a": 1},
    {"a": {"a": []}}, "frame", "clip", "fp32", "typed", "tokens", "logits", "frame.fp32.onnx", "report.json",
)  # fmt: skip


def mutate_json(value: Any, rng: np.random.Generator) -> Any:
    """A copy with one or two places changed: replaced, renamed, removed, doubled, or taken from another."""
    value = copy.deepcopy(value)
    places: list[tuple[Any, Any]] = []
    queue = [value]
    while queue:
        item = queue.pop()
        keys = list(item) if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ()
        places += [(item, key) for key in keys]
        queue += [item[key] for key in keys]
    for _ in range(rng.integers(1, 3)):
        holder, key = places[rng.integers(len(places))]
        try:
            match rng.integers(6):
                case 0:
                    del holder[key]
                case 1 if isinstance(holder, list):
                    holder.extend([holder[key]] * int(rng.choice([1, 2, 70, 300])))
                case 2 if isinstance(holder, dict):
                    holder[str(ODD[rng.integers(len(ODD))])] = holder.pop(key)
                case 3:
                    other, place = places[rng.integers(len(places))]
                    holder[key] = copy.deepcopy(other[place])
                case _:
                    holder[key] = copy.deepcopy(ODD[rng.integers(len(ODD))])
        except (KeyError, IndexError):
            pass  # gone with the first change
    return value


def mutate_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes changed, cut out, doubled or inserted, mostly where a graph has its structure and not its weights."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        end = len(data) if rng.random() < 0.3 else min(len(data), 1500)
        at = int(rng.integers(max(end, 1)))
        size = int(rng.integers(1, 12))
        match rng.integers(4):
            case 0:
                data[at : at + 1] = rng.bytes(1)
            case 1:
                del data[at : at + size]
            case 2:
                data[at:at] = data[at : at + size]
            case 3:
                data[at : at + 1] = rng.choice([b"\xff", b"\x80\x80\x01", b"Loop", b"\x00", b"\x70\x01"])
    return bytes(data)


def golden_members(plan: Plan) -> dict[str, bytes]:
    """Golden windows for a plan, of noise; nobody knows what fp32 would answer."""
    manifest, rng = plan.manifest, np.random.default_rng(0)
    size, frames = manifest.preprocess, manifest.sampling.frames
    images = rng.integers(0, 256, (frames + 2, size.height_px, size.width_px, 3), np.uint8)
    windows = np.arange(3)[:, None] + np.arange(frames)
    logits = rng.normal(size=(3, len(manifest.labels))).astype(np.float32)
    return to_members(GoldenWindows(images, windows, logits, 0.0, 0.0, manifest.precision))


def mutant(path: Path, manifest: dict[str, Any], members: dict[str, bytes], rng: np.random.Generator) -> str:
    """Writes a plan with its manifest, one of its graphs, or its file changed. Returns which."""
    what = str(rng.choice(["manifest", "graph", "file", "json"], p=[0.5, 0.35, 0.1, 0.05]))
    if what == "manifest" and ABOUT in members and rng.random() < 0.3:
        what = "golden"
        about = json.dumps(mutate_json(json.loads(members[ABOUT]), rng))
        craft(path, manifest, members | {ABOUT: about.encode("utf-8", "replace")})
    elif what == "manifest":
        craft(path, mutate_json(manifest, rng), members)
    elif what == "graph":
        name = str(rng.choice(sorted(members)))
        craft(path, manifest, members | {name: mutate_bytes(members[name], rng)})
    elif what == "json":
        craft(path, manifest, members, raw=mutate_bytes(json.dumps(manifest).encode(), rng))
    else:
        craft(path, manifest, members)
        path.write_bytes(mutate_bytes(path.read_bytes()[::-1], rng)[::-1])  # the directory is at the end
    return what


def opens(path: Path, backend: str) -> str:
    """Opens a plan as far as a first decision. Returns "opens", or the name of the VlfError; any other is raised."""
    try:
        plan = Plan.open(path)
        assert len(plan.digest) == 64 and repr(plan)
        plan.verify()
        assert plan.report is not None
        golden = read_golden(plan)
        engines = open_engines(plan, backend=backend)
        try:
            recognizer = Recognizer(plan.manifest, engines)
            if golden is not None:
                answer(recognizer.executor, golden)
            if plan.manifest.preprocess.height_px * plan.manifest.preprocess.width_px < 1 << 20:
                for i in range(plan.manifest.sampling.frames):
                    recognizer.push(np.zeros((16, 16, 3), np.uint8), i * plan.manifest.sampling.grid_s)
        finally:
            for engine in engines.values():
                engine.close()
    except VlfError as error:
        assert "\x1b" not in str(error) and len(str(error)) < 4000, str(error)[:4000]
        return type(error).__name__
    return "opens"


def main(count: int, seed: int) -> None:
    from onnx_toys import write_fp32_plan

    rng, found = np.random.default_rng(seed), Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.plan"
        manifest, members = parts_of(Plan.open(write_fp32_plan(path, {"name": "toy"}, "abcde")))
        roles = {"frame": {"image": "image", "tokens": "tokens"}, "clip": {"tokens": "window", "logits": "logits"}}
        manifest |= {"format": 2, "roles": roles}
        members |= golden_members(Plan.open(path))
        for i in range(count):
            what = mutant(path, manifest, members, rng)
            try:
                found[what, opens(path, "onnxruntime" if i % 2 else "fake")] += 1
            except Exception:
                kept = Path(f"crafted-{seed}-{i}.plan")
                kept.write_bytes(path.read_bytes())
                print(f"kept {kept}", file=sys.stderr)
                raise
    for (what, end), times in sorted(found.items()):
        print(f"{what:9s} {end:15s} {times}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
