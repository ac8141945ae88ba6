"""Coverage-guided fuzzing of what reads what others wrote: addresses of sources, configurations, plans.

    python -m pip install atheris
    python tests/fuzz.py source -atheris_runs=500000     and config, plan

Only VlfError may come out, in one line. The flags are libFuzzer's; an input that fails is kept as crash-*.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    import atheris

    _instrumented = atheris.instrument_imports(include=["vlf_edge", "tomllib"])
else:  # in the suite, with inputs of hypothesis
    _instrumented = nullcontext()
with _instrumented:
    from conftest import write_toy_plan
    from crafted import mutate_json, parts_of

    from vlf_edge import Plan, strict_json
    from vlf_edge.commands import run
    from vlf_edge.commands.cameras import OF_CAMERAS
    from vlf_edge.commands.config import read_config
    from vlf_edge.errors import VlfError
    from vlf_edge.video.sources import find_source, hidden


def _toy() -> tuple[bytes, dict[str, bytes]]:
    """The manifest of a small plan, and its members."""
    with tempfile.TemporaryDirectory() as folder:
        manifest, members = parts_of(write_toy_plan(Path(folder) / "toy.plan"))
    return json.dumps(manifest).encode(), members


MANIFEST, MEMBERS = _toy()
FOLDER = Path()  # where what is read lies
PASSWORD = "s3cr3t+p4ss"


def check(read: Callable[[], object]) -> bool:
    """Whether it is read; what is not is refused in one line of text."""
    try:
        read()
    except VlfError as error:
        said = str(error)
        assert said and said.isprintable() and len(said) < 4000, said
        assert f":{PASSWORD}@" not in said, said
        return False
    return True


def fuzz_source(data: bytes) -> bool:
    """A source as a user writes it, and the same with a password in front of what looks like a host."""
    text = data.decode("utf-8", "replace")
    assert hidden(text) is not None
    head, mark, rest = text.partition("://")
    if mark and head.lower() in ("rtsp", "rtsps", "http", "https"):
        check(lambda: find_source(f"{head}://user:{PASSWORD}@{rest}"))
        assert PASSWORD not in hidden(f"{head}://user:{PASSWORD}@{rest}")
    return check(lambda: find_source(text))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    return parser


def fuzz_config(data: bytes, parser: argparse.ArgumentParser = _parser()) -> bool:  # noqa: B008
    path = FOLDER / "cameras.toml"
    path.write_bytes(data)
    return check(lambda: read_config(path, parser, OF_CAMERAS))


def fuzz_plan(data: bytes) -> bool:
    """First byte: whether what follows is a whole file, the text of a manifest, or which of its values are changed."""
    path, first, rest = FOLDER / "x.plan", data[:1], data[1:]
    if first < b"\x60":
        path.write_bytes(rest)
    elif first < b"\xa0":
        path.write_bytes(_plan_of(rest))
    else:
        rng, manifest = np.random.default_rng(list(rest)), json.loads(MANIFEST)
        for _ in range(1 + len(rest) % 4):
            manifest = mutate_json(manifest, rng) or json.loads(MANIFEST)
        path.write_bytes(_plan_of(json.dumps(manifest).encode()))

    def read() -> None:
        plan = Plan.open(path)
        plan.verify()
        repr(plan), plan.report

    return check(read)


def _plan_of(manifest: bytes) -> bytes:
    """A ZIP as ours, with a member for each one that the manifest names, whose hashes and sizes are right."""
    file, members = io.BytesIO(), {}
    try:
        known = strict_json.parse(manifest)
    except (ValueError, RecursionError):
        known = None
    if isinstance(known, dict) and isinstance(known.get("members"), dict):
        names = [name for name in known["members"] if name.isascii() and "\0" not in name]
        members = {name: MEMBERS.get(name, name.encode()) for name in names}
        for name, member in members.items():
            known["members"][name] = {"sha256": hashlib.sha256(member).hexdigest(), "bytes": len(member)}
        manifest = json.dumps(known).encode()
    with zipfile.ZipFile(file, "w") as archive:
        for name, member in {"manifest.json": manifest, **members}.items():
            archive.writestr(zipfile.ZipInfo(name), member)
    return file.getvalue()


_CONFIG = """plan = "vlf.plan"
threads = 2
max-batch-delay-ms = 5.5
events = true
mqtt = "mqtt://me:s3cr3t+p4ss@here/x"
event-thresholds = ["left=0.5"]
[cameras.door]
source = 0
flip = "rotate180"
[cameras."back yard"]
source = "rtsp://me:s3cr3t+p4ss@here/stream"
fps = 12.5
[cameras]
a = {source = "test://motion", realtime = true, loop = -1}
"""


@dataclass(frozen=True)
class Target:
    """What is fuzzed. seeds: where mutation begins. words: what is worth inserting."""

    read: Callable[[bytes], bool]
    seeds: tuple[bytes, ...]
    words: tuple[str, ...]


TARGETS = {
    "source": Target(
        fuzz_source,
        tuple(
            text.encode()
            for text in (
                "0", "/dev/video0", "v4l2:///dev/video2?width=640", "csi://0", "gst:videotestsrc ! videoconvert",
                "rtsp://me:p@ss:w/rd@10.0.0.7:554/live?user=a&password=b#c", "rtsp://[fe80::1%25eth0]:554/x",
                "http://cam.local/mjpg?token=abc@1", "file:///tmp/a%20b.mp4", "frames_%04d.jpg", "clips/*.mp4",
                "test://motion?seconds=3&seed=1&size=64x48", "https://user@host", "a://b", "~/x/**/[a-c]?.png",
            )
        ),
        ("://", "@", "%", "%00", "[", "]", ":", "?", "#", "&", "=", "gst:", " ! ", "test://motion", "csi://", "\0"),
    ),
    "config": Target(
        fuzz_config,
        tuple(text.encode() for text in (_CONFIG, "[cameras.a]\nsource=0\n", "json=true\n", "[[cameras]]\na.b=1\n")),
        ("[cameras.", "source", "]\n", "=", '"', "'''", "1979-05-27T07:32:00Z", "0x", "inf", "nan", "{", "true", "\\u"),
    ),
    "plan": Target(
        fuzz_plan,
        (b"\x80" + MANIFEST, b"\0" + _plan_of(MANIFEST), b"\0" + _plan_of(b"{}"), b"\x80{}", b"\xff", b"\xff" * 60),
        ("PK\x01\x02", "PK\x03\x04", "PK\x05\x06", "null", "-1", "1e999", '"members"', '"format"', "{}", "\\ud800"),
    ),
}  # fmt: skip


def main(name: str, flags: list[str]) -> None:
    global FOLDER
    target = TARGETS[name]
    FOLDER = Path(tempfile.mkdtemp(prefix="vlf-fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    corpus, words = FOLDER / "corpus", FOLDER / "words"
    corpus.mkdir()
    for number, seed in enumerate(target.seeds):
        (corpus / str(number)).write_bytes(seed)
    codes = ("".join(f"\\x{byte:02x}" for byte in word.encode()) for word in target.words)
    words.write_text("".join(f'"{code}"\n' for code in codes))
    atheris.Setup([sys.argv[0], *flags, f"-dict={words}", str(corpus)], lambda data: target.read(data) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
