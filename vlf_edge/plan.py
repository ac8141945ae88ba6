"""vlf.plan: one file that holds everything needed to run, explain, requantise and rebuild a model.

The file is a ZIP whose members are stored, not compressed, so that ``unzip`` gives exactly the bytes that trtexec,
Triton or any ONNX tool load:

    manifest.json            everything the file says about itself (class Manifest)
    report.json              what the build measured
    <stage>.fp32.onnx        the exported graph: the source of every later build
    <stage>.int8.onnx        portable graph, float32 rest: CPUs (only when it differs from the fp32 one)
    <stage>.typed.onnx       strongly typed graph, float16 rest: TensorRT
    <stage>.<target>.engine  a raw TensorRT or TensorRT-RTX engine
    head.<array>.f32         numbers of the head, where the plan decides by one (see head.py)

The same contents always give the same bytes: members are sorted and carry no time. A plan is data from a stranger:
names never become paths, sizes are bounded before anything is read, every member's SHA-256 is checked when read, and
graphs are looked through before any library gets them. docs/plan.md is the specification of the format.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import strict_json
from .archive import Archive
from .atomic import Replacement, check_replaceable
from .errors import PlanError
from .head import Head, array_from_bytes
from .interface import check_same
from .manifest import Manifest
from .onnx_graph import read_graph


class Plan:
    """An opened vlf.plan: the manifest in memory, members read (and verified) on demand.

    >>> plan = Plan.open("vlf.plan")
    >>> onnx_bytes = plan.graph("frame", "portable")
    """

    def __init__(self, path: Path, manifest: Manifest, archive: Archive):
        self.path = path
        self.manifest = manifest
        self._archive = archive

    def __repr__(self) -> str:
        m = self.manifest
        return f"Plan({str(self.path)!r}, {m.model.get('name')}, {m.precision}, {len(m.labels)} classes)"

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Plan:
        """Opens and checks a plan without reading its big members. Raises PlanError in one sentence."""
        path = Path(path)
        archive = Archive(path)
        if "manifest.json" not in archive.sizes:
            raise PlanError(f"{path} is a ZIP but not a vlf.plan: it has no manifest.json")
        manifest = Manifest.from_json(_parse_json(path, "manifest.json", archive.read("manifest.json")))
        _check_members(path, manifest, archive.sizes)
        return cls(path, manifest, archive)

    def graph(self, stage: str, kind: str) -> bytes:
        """ONNX bytes of a stage, for any library to read; kind is one of GRAPH_KINDS.

        Raises PlanError if the graph holds what no plan's graph may (see ``onnx_graph``), or PlanMismatch if it has
        other inputs or outputs than the manifest says.
        """
        entry = self.manifest.graph(stage, kind)
        data, what = self.read(entry.member), f"{self.path}: {entry.member}"
        found = read_graph(data, what)
        check_same(what, entry, found.inputs, found.outputs)
        return data

    def head(self) -> Head | None:
        """What the plan decides by, with its arrays; None where that is the model's own last layer.

        Raises PlanError if the arrays are not as the manifest says.
        """
        info = self.manifest.head
        if info is None:
            return None
        arrays = {entry.name: array_from_bytes(entry, self.read(entry.member)) for entry in info.arrays}
        return Head(info, self.manifest.labels, arrays)

    def read(self, member: str) -> bytes:
        """Bytes of a member, checked against the manifest's SHA-256. Raises PlanError if they differ."""
        entry = self.manifest.members.get(member)
        if entry is None:
            raise PlanError(f"{self.path} has no member {member!r}; it has: {', '.join(self.manifest.members)}")
        data = self._archive.read(member)
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise PlanError(f"{self.path} is damaged: the bytes of {member} do not match their SHA-256; build it again")
        return data

    def _moved(self, path: Path) -> Plan:
        """The same plan, whose file is now at ``path``."""
        self.path = self._archive.path = path
        return self

    def verify(self) -> None:
        """Reads every member and looks through every graph. Raises PlanError for the first that is not sound."""
        for member in self.manifest.members:
            self.read(member)
        for graph in self.manifest.graphs:
            self.graph(graph.stage, graph.kind)
        self.head()

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

        members: bytes of every graph, engine and array the manifest names. Returns the plan, opened. Raises PlanError
        if it cannot be written or is not sound.
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
                plan = Plan.open(new.partial)
                new.commit()
                return plan._moved(path)
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


def _check_members(path: Path, manifest: Manifest, sizes: Mapping[str, int]) -> None:
    """Manifest and archive must name the same members, and every graph and engine must be one of them."""
    listed = set(manifest.members) | {"manifest.json"}
    if listed != set(sizes):
        odd = ", ".join(sorted(listed ^ set(sizes))[:5])
        raise PlanError(f"{path} is damaged: manifest and archive disagree about {odd}; build it again")
    for name, entry in manifest.members.items():
        if entry["bytes"] != sizes[name]:
            raise PlanError(f"{path} is damaged: {name} has {sizes[name]} bytes, the manifest says {entry['bytes']}")
    arrays = () if manifest.head is None else manifest.head.arrays
    for part in (*manifest.graphs, *manifest.engines, *arrays):
        if part.member not in manifest.members:
            raise PlanError(f"{path} is damaged: {part.member} is named in the manifest but not in the file")


def _dump_json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _parse_json(path: Path, name: str, data: bytes) -> Any:
    try:
        return strict_json.parse(data)
    except ValueError as error:
        raise PlanError(f"{path} is damaged: {name} is not sound JSON ({error}); build it again") from None
