"""Plans to export, whose engines are just their own names, and the command that exports them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from conftest import toy_graph, toy_manifest

from vlf_edge import Manifest, Plan
from vlf_edge.cli import main
from vlf_edge.manifest import EngineInfo, Graph


def full_plan(path: Path, *engines: tuple[str, str, str], max_batch=8, manifest: Manifest | None = None) -> Plan:
    """A plan of a graph for every stage and kind, typed ones in float16, and of engines (stage, target, library), which
    are just their own names as bytes."""
    manifest = manifest or toy_manifest()
    graphs = []
    for graph in manifest.graphs:
        half = graph.kind == "typed"
        sides = [
            tuple(replace(s, dtype="float16") if half and s.dtype == "float32" else s for s in side)
            for side in (graph.inputs, graph.outputs)
        ]
        graphs.append(Graph(graph.stage, graph.kind, f"{graph.stage}.{graph.kind}.onnx", *sides))
    infos = tuple(
        EngineInfo(stage, target, member, library, "10.3.0", ("8.7",), "Orin nano", max_batch)
        for stage, target, library in engines
        for member in [f"{stage}.{target.replace(':', '-')}.engine"]
    )
    members = {graph.member: toy_graph(graph) for graph in graphs}
    members |= {info.member: info.member.encode() for info in infos}
    return Plan.write(path, replace(manifest, graphs=tuple(graphs), engines=infos), members, {})


def both(target: str, library: str) -> list[tuple[str, str, str]]:
    return [("frame", target, library), ("clip", target, library)]


def export(plan: Plan | Path, *words) -> int:
    return main(["export", str(getattr(plan, "path", plan)), *map(str, words)])


def error_of(capsys) -> str:
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in err
    return err


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
