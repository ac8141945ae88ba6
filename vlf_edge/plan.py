"""vlf.plan: one file that holds everything needed to run, explain, requantise and rebuild a model.

The file is a ZIP whose members are stored, not compressed, so that ``unzip`` gives exactly the bytes that trtexec,
Triton or any ONNX tool load:

    manifest.json            everything the file says about itself (class Manifest)
    report.json              what the build measured
    <stage>.fp32.onnx        the exported graph: the source of every later build
    <stage>.int8.onnx        portable graph, float32 rest: CPUs (only when it differs from the fp32 one)
    <stage>.typed.onnx       strongly typed graph, float16 rest: TensorRT
    <stage>.<target>.engine  a raw TensorRT or TensorRT-RTX engine

The same contents always give the same bytes: members are sorted and carry no time. A plan is data from a stranger:
names never become paths, sizes are bounded before anything is read, every member's SHA-256 is checked when read.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .atomic import HeldFile, Replacement, check_replaceable, open_regular
from .errors import PlanError
from .manifest import Manifest

_MEMBER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MAX_MEMBERS = 256
_MAX_JSON_BYTES = 16 << 20
_MAX_MEMBER_BYTES = 2 << 30
_MAX_TOTAL_BYTES = 4 << 30


class Plan:
    """An opened vlf.plan: the manifest in memory, members read (and verified) on demand.

    >>> plan = Plan.open("vlf.plan")
    >>> onnx_bytes = plan.graph("frame", "portable")
    """

    def __init__(self, path: Path, manifest: Manifest, file: HeldFile):
        self.path = path
        self.manifest = manifest
        self._file = file

    def __repr__(self) -> str:
        m = self.manifest
        return f"Plan({str(self.path)!r}, {m.model.get('name')}, {m.precision}, {len(m.labels)} classes)"

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Plan:
        """Opens and checks a plan without reading its big members. Raises PlanError in one sentence."""
        path = Path(path)
        return cls._opened(path, _held(path))

    @classmethod
    def _opened(cls, path: Path, file: HeldFile) -> Plan:
        with _archive(path, file) as archive:
            sizes = _checked_sizes(path, archive)
            if "manifest.json" not in sizes:
                raise PlanError(f"{path} is a ZIP but not a vlf.plan: it has no manifest.json")
            raw = _read_member(path, archive, "manifest.json", _MAX_JSON_BYTES)
        manifest = Manifest.from_json(_parse_json(path, "manifest.json", raw))
        _check_members(path, manifest, sizes)
        return cls(path, manifest, file)

    def graph(self, stage: str, kind: str) -> bytes:
        """ONNX bytes of a stage; kind is one of GRAPH_KINDS."""
        return self.read(self.manifest.graph(stage, kind).member)

    def read(self, member: str) -> bytes:
        """Bytes of a member, checked against the manifest's SHA-256. Raises PlanError if they differ."""
        entry = self.manifest.members.get(member)
        if entry is None:
            raise PlanError(f"{self.path} has no member {member!r}; it has: {', '.join(self.manifest.members)}")
        with _archive(self.path, self._file) as archive:
            data = _read_member(self.path, archive, member, _MAX_MEMBER_BYTES)
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise PlanError(f"{self.path} is damaged: the bytes of {member} do not match their SHA-256; build it again")
        return data

    @property
    def report(self) -> dict[str, Any]:
        """What the build measured, as in report.json."""
        report = _parse_json(self.path, "report.json", self.read("report.json"))
        if not isinstance(report, dict):
            raise PlanError(f"{self.path} is damaged: report.json is a {type(report).__name__}; build it again")
        return report

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, which holds the hashes of all members: plans of equal digests are the same plan."""
        return hashlib.sha256(_dump_json(self.manifest.to_json())).hexdigest()

    @staticmethod
    def write(
        path: str | os.PathLike[str], manifest: Manifest, members: Mapping[str, bytes], report: Mapping[str, Any]
    ) -> Plan:
        """Writes a plan in one step: the file is complete and opens, or what was there before stays.

        members: bytes of every graph and engine the manifest names. Returns the plan, opened. Raises PlanError if it
        cannot be written or is not sound.
        """
        path = Path(path)
        contents = {**members, "report.json": _dump_json(report)}
        entries = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            for name, data in sorted(contents.items())
        }
        manifest = replace(manifest, members=entries)
        _check_members(path, manifest, {name: len(data) for name, data in contents.items()} | {"manifest.json": 0})
        contents["manifest.json"] = _dump_json(manifest.to_json())
        check_output(path)
        try:
            new = Replacement(path)
            try:
                with zipfile.ZipFile(new.file, "w", zipfile.ZIP_STORED) as archive:
                    for name in ["manifest.json", *sorted(set(contents) - {"manifest.json"})]:
                        # A ZipInfo of our own carries the fixed date 1980-01-01: same contents, same file.
                        archive.writestr(zipfile.ZipInfo(name), contents[name])
                new.file.flush()
                # Opened before it takes the place of what may be a sound plan.
                plan = Plan._opened(path, HeldFile(open_regular(new.partial)))
                new.commit()
                return plan
            finally:
                new.discard()
        except OSError as error:
            raise PlanError(f"cannot write {path}: {error.strerror}") from None


def check_output(path: str | os.PathLike[str]) -> None:
    """Makes the folder that a plan is to be written to. Raises PlanError if no file can be written there."""
    path = Path(path)
    if path.is_dir():
        raise PlanError(f"cannot write {path}: it is a folder; name a file in it, such as {path / 'vlf.plan'}")
    try:
        check_replaceable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise PlanError(f"cannot write {path}: {error.strerror}") from None


def _held(path: Path) -> HeldFile:
    """The file, to be read from then on even if another plan takes its place."""
    try:
        return HeldFile(open_regular(path))
    except FileNotFoundError:
        raise PlanError(f"no plan at {path}; vlf-edge build makes one: see vlf-edge build --help") from None
    except IsADirectoryError:
        raise PlanError(f"{path} is a folder, not a vlf.plan file") from None
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error.strerror}") from None


def _archive(path: Path, file: HeldFile) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BufferedReader(file.again()))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise PlanError(f"{path} is not a readable vlf.plan (truncated or another kind of file): {error}") from None


def _checked_sizes(path: Path, archive: zipfile.ZipFile) -> dict[str, int]:
    """Sizes of the members, after the checks that need no member's bytes."""
    infos = archive.infolist()
    if len(infos) > _MAX_MEMBERS:
        raise PlanError(f"{path} has {len(infos)} members; a vlf.plan has at most {_MAX_MEMBERS}")
    sizes: dict[str, int] = {}
    for info in infos:
        if not _MEMBER_NAME.fullmatch(info.filename):
            raise PlanError(f"{path} has a member with an unsafe name {info.filename[:80]!r}; this is not a vlf.plan")
        if info.filename in sizes:
            raise PlanError(f"{path} has two members named {info.filename}; this is not a vlf.plan")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 0x1:
            raise PlanError(f"{path}: member {info.filename} is compressed or encrypted; a vlf.plan stores its members")
        if info.file_size > _MAX_MEMBER_BYTES:
            raise PlanError(
                f"{path}: member {info.filename} claims {info.file_size} bytes; the limit is {_MAX_MEMBER_BYTES}"
            )
        sizes[info.filename] = info.file_size
    if sum(sizes.values()) > _MAX_TOTAL_BYTES:
        raise PlanError(f"{path} claims {sum(sizes.values())} bytes in all; the limit is {_MAX_TOTAL_BYTES}")
    return sizes


def _read_member(path: Path, archive: zipfile.ZipFile, name: str, limit_bytes: int) -> bytes:
    try:
        info = archive.getinfo(name)
        if info.file_size > limit_bytes:
            raise PlanError(f"{path}: {name} claims {info.file_size} bytes; the limit is {limit_bytes}")
        return archive.read(info)
    except (KeyError, zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        raise PlanError(f"{path} is damaged: cannot read {name} ({error}); build it again") from None


def _check_members(path: Path, manifest: Manifest, sizes: Mapping[str, int]) -> None:
    """Manifest and archive must name the same members, and every graph and engine must be one of them."""
    listed = set(manifest.members) | {"manifest.json"}
    if listed != set(sizes):
        odd = ", ".join(sorted(listed ^ set(sizes)))
        raise PlanError(f"{path} is damaged: manifest and archive disagree about {odd}; build it again")
    for name, entry in manifest.members.items():
        if entry["bytes"] != sizes[name]:
            raise PlanError(f"{path} is damaged: {name} has {sizes[name]} bytes, the manifest says {entry['bytes']}")
    for part in (*manifest.graphs, *manifest.engines):
        if part.member not in manifest.members:
            raise PlanError(f"{path} is damaged: {part.member} is named in the manifest but not in the file")


def _dump_json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _parse_json(path: Path, name: str, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{path} is damaged: {name} is not JSON ({error}); build it again") from None
