"""The weights that come with the package: what they can do, and that they need the order of frames for it."""

import hashlib

import numpy as np
import pytest

from vlf_edge import Plan, Runtime
from vlf_edge.compiler import Recipe, build
from vlf_edge.compiler.fp32_model import SHIPPED_PLAN
from vlf_edge.datasets import open_dataset
from vlf_edge.evaluation import evaluate
from vlf_edge.evaluation.classifier import open_classifier
from vlf_edge.models.weights import load_weights
from vlf_edge.shipped import NAMES, PLANS, WEIGHTS
from vlf_edge.synthetic import CLASSES, HELD_OUT_SEED, REVERSES, MotionClip

CLIPS = 130


@pytest.fixture(scope="module")
def held_out():
    """(clips (n, 8, 64, 64, 3), labels (n,)), of surfaces that training has not shown."""
    manifest = Plan.open(SHIPPED_PLAN).manifest
    data = open_dataset(
        "motion", "test", sampling=manifest.sampling, preprocess=manifest.preprocess, frames=8, limit=CLIPS
    )
    samples = [data.sample(index, None) for index in range(CLIPS)]
    return np.stack([sample.frames for sample in samples]), np.array([sample.label for sample in samples])


@pytest.fixture(scope="module", params=NAMES)
def classifier(request):
    with open_classifier(Plan.open(PLANS[request.param])) as opened:
        yield opened


def decisions(classifier, clips):
    return classifier.classify(clips).argmax(axis=1)


@pytest.mark.parametrize("name", NAMES)
def test_plan_and_safetensors_are_one_model_of_few_bytes(name):
    weights, plan = WEIGHTS[name], Plan.open(PLANS[name])
    assert weights.stat().st_size + PLANS[name].stat().st_size <= 4 << 20
    assert plan.manifest.weights["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert plan.manifest.precision == "fp32" and plan.manifest.labels == CLASSES
    loaded = load_weights(name)
    assert loaded.record == plan.manifest.weights["record"] and loaded.record["data"] == "motion"
    assert loaded.record["span_s"] == plan.manifest.sampling.span_s == 2.0


def test_the_shipped_model_knows_motion(classifier, held_out):
    clips, truth = held_out
    assert (decisions(classifier, clips) == truth).mean() >= 0.92


def test_played_backwards_it_sees_the_opposite(classifier, held_out):
    clips, truth = held_out
    seen = decisions(classifier, clips)
    backwards = decisions(classifier, clips[:, ::-1])
    opposite = {**REVERSES, **{forward: backward for backward, forward in REVERSES.items()}}
    directional = [i for i in range(len(truth)) if seen[i] == truth[i] and CLASSES[truth[i]] in opposite]
    assert len(directional) >= 70
    turned = np.mean([CLASSES[backwards[i]] == opposite[CLASSES[truth[i]]] for i in directional])
    assert turned >= 0.85


def test_without_the_order_of_frames_it_is_near_chance_on_directions(classifier, held_out):
    clips, truth = held_out
    rng = np.random.default_rng(0)
    shuffled = np.stack([clip[rng.permutation(8)] for clip in clips])
    directional = np.isin(truth, [CLASSES.index(label) for pair in REVERSES.items() for label in pair])
    right = (decisions(classifier, shuffled) == truth)[directional].mean()
    in_order = (decisions(classifier, clips) == truth)[directional].mean()
    assert right <= 0.35 and in_order >= 0.85


def test_by_name_they_are_built_from_their_plan_without_pytorch(tmp_path, monkeypatch):
    monkeypatch.setattr("vlf_edge.compiler.builder.from_weights", None)
    recipe = Recipe(weights="vlf-tiny-acts", precision="int8", target="cpu", no_golden_windows=True)
    plan = build(recipe, tmp_path / "people.plan", cache_dir=tmp_path)
    assert plan.manifest.weights == Plan.open(PLANS["vlf-tiny-acts"]).manifest.weights
    clips = plan.manifest.quantization["clips"]
    assert clips and all(clip.startswith("test://motion") for clip in clips), "nobody named others"


@pytest.mark.parametrize("name", NAMES)
def test_live_and_clip_by_clip_agree(name):
    report = evaluate(PLANS[name], "motion", live=True, limit=26)
    assert report["live"]["clips"] == 26 and not report["live"]["too_short"]
    assert report["live"]["agreement"] >= 0.9


def test_events_of_the_shipped_model_have_the_times_of_the_action():
    """Six scenes that rest, move and rest: five or more found, within half a second in the middle of them."""
    found, starts_s, ends_s = 0, [], []
    with Runtime(SHIPPED_PLAN) as runtime:
        for number, label in enumerate(("left", "approach", "clockwise", "shake", "nod", "up")):
            clip = MotionClip(label, HELD_OUT_SEED + 900 + number, 85, 64, fps=12, seconds=8.0, rest_s=2.75)
            events = runtime.events(map(clip.render, range(clip.count)), fps=12)
            own = [event for event in events if event.label == label and event.t_end_s is not None]
            found += len(own) == 1
            starts_s += [own[0].t_start_s - clip.begins_s] if own else []
            ends_s += [own[0].t_end_s - clip.ends_s] if own else []
    assert found >= 5 and abs(np.median(starts_s)) < 0.5 and abs(np.median(ends_s)) < 0.5
