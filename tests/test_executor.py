"""Plans of other shapes than two stages: one that sees a whole clip, and one that carries a state."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import LABELS, toy_manifest

from vlf_edge import Manifest, PlanMismatch, TensorSpec
from vlf_edge.backends.engine import Engine
from vlf_edge.manifest import Graph
from vlf_edge.runtime.recognizer import Recognizer

C = len(LABELS)
IMAGE = TensorSpec("image", "uint8", ("N", 32, 32, 3))
LOGITS = TensorSpec("logits", "float32", ("N", C))
TOKENS = TensorSpec("tokens", "float32", ("N", C))
STATE = TensorSpec("state", "float32", ("N", C))
NEXT = TensorSpec("next_state", "float32", ("N", C))
MIX = np.random.default_rng(0).normal(size=(3, C)).astype(np.float32)


def features(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32).mean(axis=(-3, -2)) / 255 @ MIX


class Recurrent(Engine):
    """y[t] = tanh(x[t] + 0.5 y[t-1]): every answer depends on all frames since the state began."""

    def __init__(self, output: TensorSpec = LOGITS):
        super().__init__("fake", (IMAGE, STATE), (output, NEXT))
        self.frames = 0

    def _infer(self, inputs):
        self.frames += len(inputs["image"])
        following = np.tanh(features(inputs["image"]) + 0.5 * inputs["state"])
        return {self.outputs[0].name: following * 3, "next_state": following}


class Window(Engine):
    """Logits of a whole clip of images, order and all."""

    def __init__(self):
        super().__init__("fake", (TensorSpec("clip", "uint8", ("N", 4, 32, 32, 3)),), (LOGITS,))

    def _infer(self, inputs):
        return {"logits": (features(inputs["clip"]) * np.arange(1, 5)[:, None]).sum(axis=1).astype(np.float32)}


class Sum(Engine):
    """The second stage of a recurrent model with tokens."""

    def __init__(self):
        super().__init__("fake", (TensorSpec("window", "float32", ("N", 4, C)),), (LOGITS,))

    def _infer(self, inputs):
        return {"logits": (inputs["window"] * np.arange(1, 5)[:, None]).sum(axis=1).astype(np.float32)}


def manifest(roles: dict, engines: dict[str, Engine]) -> Manifest:
    graphs = tuple(
        Graph(stage, kind, f"{stage}.onnx", engine.inputs, engine.outputs)
        for stage, engine in engines.items()
        for kind in ("fp32", "portable", "typed")
    )
    return replace(toy_manifest(), stages=tuple(engines), graphs=graphs, roles=roles)


def recurrent() -> Recognizer:
    engines = {"frame": Recurrent()}
    roles = {"frame": {"image": "image", "state": "state:next_state", "logits": "logits", "next_state": "state"}}
    return Recognizer(manifest(roles, engines), engines)


def recurrent_with_window() -> Recognizer:
    engines = {"frame": Recurrent(TOKENS), "clip": Sum()}
    roles = {
        "frame": {"image": "image", "state": "state:next_state", "tokens": "tokens", "next_state": "state"},
        "clip": {"window": "window", "logits": "logits"},
    }
    return Recognizer(manifest(roles, engines), engines)


def whole_clip() -> Recognizer:
    engines = {"clip": Window()}
    return Recognizer(manifest({"clip": {"clip": "window", "logits": "logits"}}, engines), engines)


KINDS = [recurrent, recurrent_with_window, whole_clip]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_equals_the_clip_since_its_window_began(kind, images):
    toy = kind()
    pushed = [toy.push(image, i * 0.25) for i, image in enumerate(images[:4])]
    assert [p.state for p in pushed] == ["warming"] * 3 + ["ok"]
    np.testing.assert_allclose(pushed[-1].logits, toy.classify(images[:4]).logits, rtol=1e-6)


def test_a_state_is_carried_from_frame_to_frame(images):
    toy, state = recurrent(), np.zeros(C, np.float32)
    for i, image in enumerate(images[:12]):
        pushed = toy.push(image, i * 0.25)
        state = np.tanh(features(toy._preprocess(image)[None])[0] + 0.5 * state)
        if pushed.state == "ok":
            np.testing.assert_allclose(pushed.logits, 3 * state, rtol=1e-5)
    assert toy.executor.encoder.engine.frames == 12, "each frame once"


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_gap_nothing_of_the_past_is_left(kind, images):
    toy, fresh = kind(), kind()
    for i, image in enumerate(images[:7]):
        toy.push(image, i * 0.25)
    states = []
    for i, image in enumerate(images[10:16]):
        got, want = toy.push(image, 50 + i * 0.25), fresh.push(image, i * 0.25)
        states.append(got.state)
        if want.state == "ok":
            np.testing.assert_array_equal(got.logits, want.logits)
    assert states == ["gap", "warming", "warming", "ok", "ok", "ok"]


@pytest.mark.parametrize("kind", KINDS)
def test_streams_keep_their_states_apart(kind, images):
    shared, own = kind(), {name: kind() for name in "abc"}
    for i in range(10):
        frames = [(name, images[i + n], i * 0.25) for n, name in enumerate(own)]
        for (name, image, t_s), got in zip(frames, shared.push_many(frames)):
            want = own[name].push(image, t_s, stream=name)
            assert got.state == want.state
            if want.state == "ok":
                np.testing.assert_allclose(got.logits, want.logits, rtol=1e-5, atol=1e-6)


def test_a_state_cannot_serve_interleaved_grids():
    engines = {"frame": Recurrent()}
    roles = {"frame": {"image": "image", "state": "state:next_state", "logits": "logits", "next_state": "state"}}
    one = manifest(roles, engines)
    with pytest.raises(PlanMismatch, match="carries a state .* phases is 2, expected 1"):
        Recognizer(one, engines, sampling=replace(one.sampling, phases=2))


def test_a_manifest_with_roles_survives_being_written():
    toy = recurrent_with_window()
    raw = toy.manifest.to_json()
    assert raw["format"] == 2 and toy_manifest().to_json()["format"] == 1
    again = Manifest.from_json(raw)
    assert again == toy.manifest and again.stage_roles == toy.manifest.stage_roles
    assert again.stage_roles[0].state == {"state": "next_state"}


@pytest.mark.parametrize(
    "roles",
    [
        {"frame": {"image": "picture", "state": "state:next_state", "logits": "logits", "next_state": "state"}},
        {"frame": {"image": "image", "state": "state:nowhere", "logits": "logits", "next_state": "state"}},
        {"frame": {"image": "image", "state": "image", "logits": "logits", "next_state": "state"}},
        {"frame": {"image": "image", "state": "state:next_state", "logits": "tokens", "next_state": "logits"}},
        {"frame": {"image": "image"}},
    ],
)
def test_roles_that_do_not_fit_are_refused(roles):
    from vlf_edge import PlanError

    engines = {"frame": Recurrent()}
    with pytest.raises(PlanError, match="the roles of stage 'frame' do not fit"):
        Recognizer(manifest(roles, engines), engines)
