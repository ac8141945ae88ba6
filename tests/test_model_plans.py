"""Plans of every kind of model, built at toy size from random weights, and run: whole clips, streams, and all verbs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import shared_folder
from toy_models import LABELS, toy_sizes

from vlf_edge import Runtime
from vlf_edge.cli import main
from vlf_edge.compiler import Recipe, build
from vlf_edge.compiler.graph import Session
from vlf_edge.evaluation.classifier import open_classifier
from vlf_edge.evaluation.reference import open_reference
from vlf_edge.models import tsm, tsn, vtn, xvit
from vlf_edge.plan import Plan
from vlf_edge.types import Sampling

SPAN_S = 1.0  # 4 frames: one every 0.25 s
CLIPS = "test://motion?seconds=14&fps=8&width=48&height=32"
PRECISIONS = {  # vtn-diff is one half of vtn-two-stream
    "tsn": "fp16", "tsm": "int8", "tsm-online": "int8", "vtn": "int8", "vtn-two-stream": "fp32", "xvit": "int8",
}  # fmt: skip


@pytest.fixture(scope="module")
def plans(tmp_path_factory) -> Callable[[str], Plan]:
    """A function: kind -> a plan of it, made once a run."""

    def made(kind: str) -> Plan:
        with shared_folder(tmp_path_factory, f"plan of {kind}") as folder:
            if not (folder / "toy.plan").exists():
                build_toy_plan(kind, PRECISIONS[kind], folder / "toy.plan")
            return Plan.open(folder / "toy.plan")

    return made


def build_toy_plan(kind: str, precision: str, path: Path) -> Plan:
    with pytest.MonkeyPatch.context() as patch:
        for home in (tsn, tsm, vtn, xvit):
            if kind in home.SIZES:
                patch.setitem(home.SIZES, kind, toy_sizes(kind))
        recipe = Recipe(
            model=kind, random_weights=True, labels=LABELS, precision=precision, target="cpu", span_s=SPAN_S,
            calib_data=(CLIPS,) if precision == "int8" else (), calib_samples=16,
        )  # fmt: skip
        return build(recipe, path, cache_dir=path.parent)


def frames(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def causal(plan: Plan, images: np.ndarray) -> np.ndarray:
    """The fp32 graphs, frame by frame from a state of zeros, deciding from the last K."""
    *first, last = [Session(plan.graph(stage, "fp32")) for stage in plan.manifest.stages]
    window = images[-4:]
    if first:
        (frame,), roles, tokens = first, plan.manifest.stage_roles[0], []
        specs = plan.manifest.graph("frame", "fp32").inputs
        state = {spec.name: np.zeros(spec.sized(1), spec.dtype) for spec in specs[1:]}
        for image in images:
            results = frame.run({specs[0].name: image[np.newaxis], **state})
            state = {name: results[after] for name, after in roles.state.items()}
            tokens.append(results["tokens"][0])
        window = np.stack(tokens[-4:])
    return last.run({last.inputs[0]: window[np.newaxis]})["logits"][0]


@pytest.mark.parametrize("kind", PRECISIONS)
def test_every_kind_becomes_a_plan(plans, kind):
    manifest, report = plans(kind).manifest, plans(kind).report
    carries = kind in ("tsm-online", "vtn-two-stream")
    assert manifest.format == 2
    assert ("features" in manifest.stage_roles[-1].outputs.values()) == (kind != "vtn-two-stream")
    assert manifest.stages == (("clip",) if kind in ("tsm", "xvit") else ("frame", "clip"))
    assert bool(manifest.stage_roles[0].state) == carries
    ways = {row["way"]: row for row in report["fidelity"]["rows"]}
    assert ways["fp32 torch"]["end_to_end"]["relative"] < 1e-4
    for row in ways.values():
        if "end_to_end" in row:
            assert row["end_to_end"]["relative"] < 0.3, row
    if manifest.precision == "int8":
        assert all(count > 0 for count in manifest.quantization["int8_nodes"].values())


@pytest.mark.parametrize("kind", PRECISIONS)
def test_typed_graphs_are_float16_throughout(plans, kind):
    manifest = plans(kind).manifest
    if manifest.precision == "fp32":
        return
    for stage in manifest.stages:
        graph = manifest.graph(stage, "typed")
        kept = {"logits", "features"}
        assert {spec.dtype for spec in (*graph.inputs, *graph.outputs) if spec.name not in kept} <= {"uint8", "float16"}


@pytest.mark.parametrize("kind", PRECISIONS)
def test_a_stream_is_the_causal_clip(plans, kind):
    plan, images = plans(kind), frames(7)
    tolerance = {"int8": 0.25, "fp16": 0.05, "fp32": 1e-3}[plan.manifest.precision]
    with Runtime(plan, backend="openvino") as runtime:
        decisions = [runtime.push(image, 0.25 * number) for number, image in enumerate(images)]
        assert [d.state for d in decisions[:3]] == ["warming"] * 3
        for end in (4, 5, 7):
            expected = causal(plan, images[:end])
            got = decisions[end - 1].logits
            assert np.linalg.norm(got - expected) <= tolerance * np.linalg.norm(expected)
        clip = runtime.classify(list(images[:4])).logits
        np.testing.assert_allclose(clip, decisions[3].logits, rtol=0.1, atol=0.1 * np.abs(clip).max())


@pytest.mark.parametrize("kind", ["tsm-online", "vtn-two-stream"])
def test_after_a_gap_and_a_drop_the_state_begins_anew(plans, kind):
    images = frames(12, seed=2)
    with Runtime(plans(kind), backend="openvino") as runtime:
        for number, image in enumerate(images[:6]):
            runtime.push(image, 0.25 * number)
        # Frames between instants of the grid are not due, and change nothing.
        after = [runtime.push(image, 10 + 0.25 * number) for number, image in enumerate(images[6:10])]
        assert after[0].state == "gap" and after[3].state == "ok"
        runtime.reset()
        fresh = [runtime.push(image, 0.25 * number) for number, image in enumerate(images[6:10])]
        np.testing.assert_array_equal(after[3].logits, fresh[3].logits)
        runtime.reset()
        for number, image in enumerate(images[6:10]):
            last = runtime.push(image, 0.25 * number)
            assert runtime.push(255 - image, 0.25 * number + 0.04) is None
        np.testing.assert_array_equal(last.logits, fresh[3].logits)


def test_streams_keep_their_states_apart(plans):
    one, two = frames(6, seed=3), frames(6, seed=4)
    with Runtime(plans("tsm-online"), backend="openvino") as runtime:
        for number in range(6):
            for name, images in (("one", one), ("two", two)):
                decision = runtime.push(images[number], 0.25 * number, stream=name)
        alone = [runtime.push(image, 0.25 * number, stream="three") for number, image in enumerate(two)]
        np.testing.assert_array_equal(decision.logits, alone[-1].logits)


@pytest.mark.parametrize("kind", ["tsm-online", "xvit"])
def test_requantised_from_its_own_plan(plans, kind, tmp_path):
    recipe = Recipe(precision="fp16", target="cpu")
    again = build(recipe, tmp_path / "again.plan", base=plans(kind).path)
    assert again.manifest.roles == plans(kind).manifest.roles
    assert again.graph("clip", "fp32") == plans(kind).graph("clip", "fp32")
    assert again.manifest.sampling == Sampling(4, SPAN_S)


@pytest.mark.parametrize("kind", ["tsm-online", "xvit"])
def test_every_verb_takes_it(plans, kind, capsys):
    plan = str(plans(kind).path)
    assert main(["inspect", plan]) == 0
    assert main(["run", plan, "test://motion?seconds=3&fps=8&width=48&height=32", "--backend", "openvino"]) == 0
    assert any(label in capsys.readouterr().out for label in LABELS)
    assert main(["bench", plan, "--backend", "openvino", "--decisions", "3", "--json"]) == 0
    stages = ("frame_stage", "clip_stage") if kind == "tsm-online" else ("clip_stage",)
    timed = capsys.readouterr().out
    assert [name for name in ("frame_stage", "clip_stage") if name in timed] == [*stages]
    assert main(["bench", plan, "--backend", "openvino", "--decisions", "3"]) == 0


@pytest.mark.parametrize("kind", ["tsm-online", "xvit"])
def test_whole_clips_are_measured(plans, kind):
    plan = plans(kind)
    with open_reference("fp32", plan) as fp32, open_classifier(plan, backend="openvino") as model:
        clips = np.stack([frames(4, seed) for seed in range(3)])
        expected = np.stack([causal(plan, clip) for clip in clips])
        np.testing.assert_allclose(fp32.classify(clips), expected, rtol=1e-3, atol=1e-4)
        assert np.linalg.norm(model.classify(clips) - expected) < 0.3 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("kind", "why"),
    [("xvit", "has the stages clip"), ("tsm-online", "carries a state from frame to frame (past_0")],
)
def test_triton_gets_no_windows_of_images_and_no_states_but_onnx_does(plans, kind, why, tmp_path, capsys):
    plan = plans(kind)
    assert main(["export", str(plan.path), "--triton", str(tmp_path / "models")]) == 1
    said = capsys.readouterr().err.strip()
    assert why in said and "--onnx and --raw export any" in said and "\n" not in said
    assert not (tmp_path / "models").exists()
    assert main(["export", str(plan.path), "--onnx", str(tmp_path / "onnx")]) == 0
    assert sorted(path.stem for path in (tmp_path / "onnx").glob("*.onnx")) == sorted(plan.manifest.stages)
