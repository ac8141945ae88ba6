"""What tests share: a toy plan for the fake backend, images, and the real clips where they are."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vlf_edge import Manifest, Plan, Preprocess, Sampling, TensorSpec
from vlf_edge.manifest import Graph
from vlf_edge.onnx_graph import read_graph

CLIPS = Path(os.environ.get("VLF_CLIPS") or Path(__file__).resolve().parents[2] / "shared" / "clips")
LABELS = ("still", "left", "right", "up", "down")


def toy_manifest(*, frames: int = 4, span_s: float = 1.0, phases: int = 1, weights: dict | None = None) -> Manifest:
    """Specs of a small two-stage model: 32 px images, 4 tokens of 6 channels."""
    specs = {
        "frame": (TensorSpec("image", "uint8", ("N", 32, 32, 3)), TensorSpec("tokens", "float32", ("N", 4, 6))),
        "clip": (
            TensorSpec("tokens", "float32", ("N", frames, 4, 6)),
            TensorSpec("logits", "float32", ("N", len(LABELS))),
        ),
    }
    graphs = tuple(
        Graph(stage, kind, f"{stage}.fp32.onnx", (specs[stage][0],), (specs[stage][1],))
        for stage in ("frame", "clip")
        for kind in ("fp32", "portable", "typed")
    )
    return Manifest(
        model={"name": "toy"},
        labels=LABELS,
        preprocess=Preprocess(32, 32, 32),
        sampling=Sampling(frames, span_s, phases),
        precision="fp32",
        stages=("frame", "clip"),
        graphs=graphs,
        weights=weights or {"origin": "file", "sha256": "0" * 64},
    )


def toy_graph(graph: Graph) -> bytes:
    """ONNX with the inputs and outputs of a graph, and one node that makes no sense: only the fake backend runs it."""
    from onnx import helper

    def value(spec):
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
        return helper.make_tensor_value_info(spec.name, kind, spec.shape)

    inputs, outputs = (list(map(value, side)) for side in (graph.inputs, graph.outputs))
    node = helper.make_node("Identity", [value.name for value in inputs], [value.name for value in outputs])
    made = helper.make_graph([node], graph.member, inputs, outputs)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString(deterministic=True)


def write_toy_plan(path: Path, manifest: Manifest | None = None) -> Plan:
    """A plan that only the fake backend runs."""
    manifest = manifest or toy_manifest()
    members = {graph.member: toy_graph(graph) for graph in manifest.graphs}
    return Plan.write(path, manifest, members, {"note": "toy"})


def manifest_of(graphs: dict[str, bytes]) -> Manifest:
    """The manifest of an fp32 plan of these graphs, by stage; members are named as in ``toy_manifest``."""
    found = {stage: read_graph(data, stage) for stage, data in graphs.items()}
    image, window = (found[stage].inputs[0].shape for stage in ("frame", "clip"))
    manifest = toy_manifest(frames=window[1])
    return replace(
        manifest,
        preprocess=Preprocess(image[1], image[2], image[1]),
        graphs=tuple(replace(g, inputs=found[g.stage].inputs, outputs=found[g.stage].outputs) for g in manifest.graphs),
    )


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch) -> None:
    """No test reads or fills the user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def toy_plan(tmp_path: Path) -> Plan:
    return write_toy_plan(tmp_path / "toy.plan")


@pytest.fixture
def images() -> np.ndarray:
    """(40, 48, 64, 3) uint8: a bright square that moves over noise."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 60, (40, 48, 64, 3), np.uint8)
    for i, frame in enumerate(frames):
        frame[10:24, i : i + 14] = (200, 120, 40)
    return frames


@pytest.fixture(scope="session")
def real_clips() -> list[Path]:
    clips = sorted(p for p in CLIPS.glob("*") if p.suffix in (".mp4", ".avi"))
    if not clips:
        pytest.skip(f"no real clips in {CLIPS}; VLF_CLIPS names a folder of videos")
    return clips


CALIBRATION = "test://motion?seconds=14&width=160&height=120"


@pytest.fixture(scope="session")
def plans(tmp_path_factory) -> dict[str, Path]:
    """Real vlf-tiny plans of random weights by precision, for the CPU: "fp32", and "fp16" and "int8" made from it."""
    from vlf_edge.compiler import Recipe, build

    folder = tmp_path_factory.mktemp("plans")
    paths = {precision: folder / f"{precision}.plan" for precision in ("fp32", "fp16", "int8")}
    build(Recipe(random_weights=True, precision="fp32", target="cpu"), paths["fp32"])
    for precision in ("fp16", "int8"):
        recipe = Recipe(precision=precision, calib_data=(CALIBRATION,), calib_samples=32, target="cpu")
        build(recipe, paths[precision], base=paths["fp32"], cache_dir=folder / "ranges")
    return paths
