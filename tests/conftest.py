"""What tests share: a toy plan for the fake backend, images, and the real clips where they are."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from rendered_videos import write_videos

from vlf_edge import Manifest, Plan, Preprocess, Sampling, TensorSpec
from vlf_edge.manifest import Graph
from vlf_edge.onnx_graph import read_graph

pytest_plugins = ("chromium", "ends_hangs")
# The same examples every time, however long they take: what seeks new ones is tests/fuzz.py.
hypothesis.settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("same")
LABELS = ("still", "left", "right", "up", "down")
# A process that tests holds PyTorch, OpenVINO and ONNX Runtime, and what it starts holds them once more.
_WORKER_BYTES = 3 << 30


def pytest_xdist_auto_num_workers() -> int:
    """``--numprocesses auto``: a worker for every core that has the memory for one; none on a small machine."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    workers = min(len(os.sched_getaffinity(0)), memory_bytes // _WORKER_BYTES)
    return workers if workers > 1 else 0


def pytest_configure(config: pytest.Config) -> None:
    """Workers divide the cores, so that the thread pools in them, which each take all they see, do not fight."""
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        number, cores = int(worker["workerid"].removeprefix("gw")), sorted(os.sched_getaffinity(0))
        share = cores[number % len(cores) :: worker["workercount"]]
        os.sched_setaffinity(0, share)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: at the end no worker is left alone with one."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


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
def videos(tmp_path_factory) -> list[Path]:
    """Videos of several seconds in the encodings of cameras: some made here, and those in the folder VLF_CLIPS."""
    made = write_videos(tmp_path_factory.mktemp("videos"))
    folder = os.environ.get("VLF_CLIPS")
    if not folder:
        return made
    found = sorted(p for p in Path(folder).glob("*") if p.suffix in (".mp4", ".avi"))
    assert found, f"VLF_CLIPS names {folder}, which holds no .mp4 and no .avi"
    return made + found


@pytest.fixture
def machine(monkeypatch, tmp_path):
    from machines import machine_of  # which needs this file

    return machine_of(monkeypatch, tmp_path)


@pytest.fixture
def said(caplog):
    from machines import sentences_of

    return sentences_of(caplog)


CALIBRATION = "test://motion?seconds=14&width=160&height=120"


@pytest.fixture(scope="session")
def plans(tmp_path_factory) -> dict[str, Path]:
    """Real vlf-tiny plans of random weights by precision, for the CPU: "fp32", and "fp16" and "int8" made from it.

    Processes that test side by side share them: the first that asks builds, the others wait. Nobody may change them.
    """
    with shared_folder(tmp_path_factory, "plans") as folder:
        return _built_plans(folder)


@contextmanager
def shared_folder(tmp_path_factory, name: str) -> Iterator[Path]:
    """A folder of the whole run, one process at a time: what is costly to make is made once and kept there."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # every worker has a folder of its own in that of the run
    folder /= name
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


@pytest.fixture(scope="session")
def exported_graphs(request, tmp_path_factory) -> Callable[[str], dict[str, bytes]]:
    """A function: name of a model -> its fp32 graphs by stage, with random weights."""

    def graphs(model: str) -> dict[str, bytes]:
        from vlf_edge.models import create_model

        if model == "vlf-tiny":
            plan = Plan.open(request.getfixturevalue("plans")["fp32"])
            return {stage: plan.graph(stage, "fp32") for stage in ("frame", "clip")}
        return _exported_once(tmp_path_factory, model, lambda: create_model(model, 5, seed=0))

    return graphs


@pytest.fixture(scope="session")
def uneven_graphs(tmp_path_factory) -> dict[str, bytes]:
    """The fp32 graphs of the toy model ``build_uneven``, by stage."""
    from toy_model import build_uneven

    return _exported_once(tmp_path_factory, "uneven toy", build_uneven)


def _exported_once(tmp_path_factory, name: str, create: Callable) -> dict[str, bytes]:
    from vlf_edge.compiler.onnx_export import export_stage

    with shared_folder(tmp_path_factory, f"exported {name}") as folder:
        if not (folder / "clip.onnx").exists():
            for stage in create().stages():
                (folder / f"{stage.name}.onnx").write_bytes(export_stage(stage))
        return {stage: (folder / f"{stage}.onnx").read_bytes() for stage in ("frame", "clip")}


@pytest.fixture(scope="session")
def toy_models(tmp_path_factory) -> Callable[[tuple[str, ...]], tuple[Path, Path]]:
    """A function: names of classes -> (weights file, fp32 plan built of it) of the toy model, whose windows last 1.5 s.
    Untrained, but from a file: what a build takes for trained. Each is made once a run; nobody may change them.
    Their frame stages are the same, and exported once."""

    def made(labels: tuple[str, ...]) -> tuple[Path, Path]:
        from toy_model import TOY, build_toy

        from vlf_edge.compiler import Recipe, build, onnx_export
        from vlf_edge.models.weights import save_weights

        with shared_folder(tmp_path_factory, "toys") as folder, pytest.MonkeyPatch.context() as patch:
            export, kept = onnx_export.export_stage, folder / "frame.onnx"

            def exported(stage):
                return kept.read_bytes() if stage.name == "frame" and kept.exists() else export(stage)

            weights, plan = (folder / f"{' '.join(labels)}.{kind}" for kind in ("safetensors", "plan"))
            if not plan.exists():
                patch.setattr(onnx_export, "export_stage", exported)
                save_weights(weights, build_toy(replace(TOY, classes=len(labels))), labels, {"span_s": 1.5})
                made = build(Recipe(weights=str(weights), precision="fp32", target="cpu"), plan)
                kept.write_bytes(made.graph("frame", "fp32"))
            return weights, plan

    return made


def _built_plans(folder: Path) -> dict[str, Path]:
    from vlf_edge.compiler import Recipe, build

    paths = {precision: folder / f"{precision}.plan" for precision in ("fp32", "fp16", "int8")}
    if not paths["fp32"].exists():
        build(Recipe(random_weights=True, precision="fp32", target="cpu"), paths["fp32"])
    for precision in ("fp16", "int8"):
        if not paths[precision].exists():
            recipe = Recipe(precision=precision, calib_data=(CALIBRATION,), calib_samples=32, target="cpu")
            build(recipe, paths[precision], base=paths["fp32"], cache_dir=folder / "ranges")
    return paths
