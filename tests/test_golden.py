"""Old plans keep opening and deciding the same. golden/ holds one plan for every form of the file there ever was.

Each was written by the version of its day: a small VideoLightFormer of random weights, 4 frames of 32 px, 5 classes.
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vlf_edge import Plan, Runtime
from vlf_edge.golden_windows import read_golden

GOLDEN = Path(__file__).parent / "golden"
# Logits of the first and the last decision of ``frames``, by ONNX Runtime; of int8, its graphs computed in float.
DECIDED = {
    "format1-fp32": (
        (0.043767847, -0.755913138, 1.575526834, 1.682774186, 0.717162132),
        (0.052023102, -0.763630986, 1.538083196, 1.712488890, 0.741235197),
    ),
    "format1-int8": (
        (0.036292538, -0.735835791, 1.560428262, 1.676005960, 0.707533360),
        (0.044736888, -0.747803509, 1.516744614, 1.706443191, 0.743675351),
    ),
    "format2-fp32": (  # the same model, whose features have a name
        (0.043767847, -0.755913138, 1.575526834, 1.682774186, 0.717162132),
        (0.052023102, -0.763630986, 1.538083196, 1.712488890, 0.741235197),
    ),
    "format3-fp32": (  # and a head: two labels of random weights, two kept classes, unknown
        (-2.307628155, 5.263304710, 3.759664059, 5.398670197, -2.977699280),
        (-2.537413597, 5.313358784, 3.494033575, 5.154499531, -2.684842587),
    ),
}
# The same graphs, with golden windows beside them.
DECIDED["format1-fp32-golden-windows"] = DECIDED["format1-fp32"]
# What an int8 graph answers depends on the CPU's instructions a little: sums are rounded elsewhere.
TOLERANCE = {"fp32": 1e-5, "int8": 0.02}


def frames() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(8)]


@pytest.mark.parametrize("name", DECIDED)
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_plan_of_its_day_decides_as_it_did(name, backend):
    pytest.importorskip(backend)
    with Runtime(GOLDEN / f"{name}.plan", backend=backend) as runtime:
        step_s = runtime.plan.manifest.sampling.step_s
        found = [p.logits for i, image in enumerate(frames()) if (p := runtime.push(image, i * step_s)).state == "ok"]
    for got, want in ((found[0], DECIDED[name][0]), (found[-1], DECIDED[name][1])):
        error = np.linalg.norm(got - want) / np.linalg.norm(want)
        assert error < TOLERANCE[name.split("-")[1]]


@pytest.mark.parametrize("name", DECIDED)
def test_what_a_plan_of_its_day_needs_is_understood(name):
    frame, clip = Plan.open(GOLDEN / f"{name}.plan").manifest.stage_roles
    assert (frame.input_role, frame.output_role) == ("image", "tokens") and not frame.state
    assert (clip.input_role, clip.output_role) == ("window", "logits")
    assert (clip.output_of("features") is not None) == (not name.startswith("format1"))


def test_a_head_of_its_day_is_understood():
    plan = Plan.open(GOLDEN / "format3-fp32.plan")
    assert plan.manifest.labels == ("wave", "stop", "a", "d", "unknown") and plan.manifest.classes == (*"abcde",)
    assert plan.manifest.head.record["labels"]["wave"]["clips"] == 5
    plan.verify()


@pytest.mark.parametrize("name", DECIDED)
def test_the_digest_of_a_plan_is_what_it_was_on_its_day(name):
    """That of the manifest as it was written then."""
    with zipfile.ZipFile(GOLDEN / f"{name}.plan") as archive:
        written = archive.read("manifest.json")
    assert Plan.open(GOLDEN / f"{name}.plan").digest == hashlib.sha256(written).hexdigest()


def test_the_golden_windows_of_its_day_are_understood():
    found = {name: read_golden(Plan.open(GOLDEN / f"{name}.plan")) for name in DECIDED}
    golden = found.pop("format1-fp32-golden-windows")
    assert (len(golden), golden.frames.shape, golden.logits.shape) == (16, (21, 32, 32, 3), (16, 5))
    assert {*found.values()} == {None}


def test_every_golden_plan_is_tested():
    assert {path.stem for path in GOLDEN.glob("*.plan")} == {*DECIDED}
