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

if __name__ == "__main__":
    import atheris

    _instrumented = atheris.instrument_imports(include=["vlf_edge", "tomllib"])
else:  # in the suite, with inputs of hypothesis
    _instrumented = nullcontext()
with _instrumented:
    from vlf_edge import Plan
    from vlf_edge.commands import run
    from vlf_edge.commands.cameras import OF_CAMERAS
    from vlf_edge.commands.config import read_config
    from vlf_edge.errors import VlfError
    from vlf_edge.video.sources import find_source, hidden

SHIPPED = Path(__file__).resolve().parents[1] / "vlf_edge" / "weights" / "vlf-tiny.plan"
_FOLDER = Path(tempfile.mkdtemp(prefix="vlf-fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
_PASSWORD = "s3cr3t+p4ss"


def check(read: Callable[[], object]) -> bool:
    """Whether it is read; what is not is refused in one line of text."""
    try:
        read()
    except VlfError as error:
        said = str(error)
        assert said and said.isprintable() and len(said) < 4000, said
        assert _PASSWORD not in said, said
        return False
    return True


def fuzz_source(data: bytes) -> bool:
    """A source as a user writes it, and the same with a password in front of what looks like a host."""
    text = data.decode("utf-8", "replace")
    assert hidden(text) is not None
    head, mark, rest = text.partition("://")
    if mark and head.lower() in ("rtsp", "rtsps", "http", "https"):
        check(lambda: find_source(f"{head}://user:{_PASSWORD}@{rest}"))
        assert _PASSWORD not in hidden(f"{head}://user:{_PASSWORD}@{rest}")
    return check(lambda: find_source(text))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    return parser


def fuzz_config(data: bytes, parser: argparse.ArgumentParser = _parser()) -> bool:  # noqa: B008
    path = _FOLDER / "cameras.toml"
    path.write_bytes(data)
    return check(lambda: read_config(path, parser, OF_CAMERAS))


def fuzz_plan(data: bytes) -> bool:
    """First byte: whether what follows is a whole file, or a manifest, to which the rest of a plan is made."""
    path = _FOLDER / "x.plan"
    path.write_bytes(data[1:] if data[:1] < b"\x80" else _plan_of(data[1:]))

    def read() -> None:
        plan = Plan.open(path)
        plan.verify()
        repr(plan), plan.report

    return check(read)


def _plan_of(manifest: bytes) -> bytes:
    """A ZIP as ours, with a member for each one that the manifest names, whose hashes and sizes are right."""
    file = io.BytesIO()
    try:
        known = json.loads(manifest)
        known["members"] = {
            name: {"sha256": hashlib.sha256(name.encode()).hexdigest(), "bytes": len(name.encode())}
            for name in known["members"]
        }
        manifest, names = json.dumps(known).encode(), list(known["members"])
    except (ValueError, TypeError, KeyError, RecursionError, AttributeError):
        names = []
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("manifest.json"), manifest)
        for name in names:
            try:
                archive.writestr(zipfile.ZipInfo(name), name.encode())
            except (ValueError, UnicodeError):
                pass
    return file.getvalue()


def _small_plan() -> bytes:
    """The shipped plan's manifest, and beside it nothing that is large."""
    with zipfile.ZipFile(SHIPPED) as shipped:
        return shipped.read("manifest.json")


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
        ("://", "@", "%", "%00", "[", "]", ":", "?", "#", "&", "=", "gst:", " ! ", "test://motion", "csi://", "\0", "//"),
    ),
    "config": Target(
        fuzz_config,
        tuple(text.encode() for text in (_CONFIG, "[cameras.a]\nsource=0\n", "json=true\n", "[[cameras]]\n", "a.b=1\n")),
        ("[cameras.", "source", "]\n", "=", '"', "'''", "1979-05-27T07:32:00Z", "0x", "inf", "nan", "{", "true", "\\u"),
    ),
    "plan": Target(
        fuzz_plan,
        (b"\xff" + _small_plan(), b"\0" + _plan_of(_small_plan()), b"\0" + _plan_of(b"{}"), b"\xff{}"),
        ("PK\x01\x02", "PK\x03\x04", "PK\x05\x06", "null", "-1", "1e999", '"members"', '"format"', "[]", "{}", "\\ud800"),
    ),
}  # fmt: skip


def main(name: str, flags: list[str]) -> None:
    target = TARGETS[name]
    corpus, words = _FOLDER / "corpus", _FOLDER / "words"
    corpus.mkdir()
    for number, seed in enumerate(target.seeds):
        (corpus / str(number)).write_bytes(seed)
    words.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word.encode()) + '"\n' for word in target.words))
    atheris.Setup([sys.argv[0], *flags, f"-dict={words}", str(corpus)], lambda data: target.read(data) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
