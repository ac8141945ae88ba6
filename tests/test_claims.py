"""The benchmark that compares models on few clips: what it trains, what it counts, and what it says of the spread."""

from __future__ import annotations

import json
from dataclasses import replace

import claims
import numpy as np
import pytest
import torch

from vlf_edge.models.weights import load_weights
from vlf_edge.synthetic import CLASSES


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """(2 scenes to learn from, 13 clips held out)"""
    work = tmp_path_factory.mktemp("clips")
    made = claims.training_clips(work, 2), claims.held_out_clips(work, 13)
    again = claims.training_clips(work, 2)  # from where they were put
    np.testing.assert_array_equal(again.sample(1, None).frames, made[0].sample(1, None).frames)
    return work, *made


@torch.no_grad()
def test_models_on_maps_decide_as_on_clips(clips):
    work, scenes, _ = clips
    maps = claims.maps_of(work / "maps-1", scenes, 1, claims.shipped_f)
    shipped = load_weights("vlf-tiny").model.frame.f.net.state_dict()
    given = torch.from_numpy(np.stack([maps.sample(i, None).frames for i in range(2)]))
    images = torch.from_numpy(np.stack([scenes.sample(i, None).frames for i in range(2)]))
    for name, sizes in claims.contenders("frozen").items():
        torch.manual_seed(0)
        model = replace(sizes, classes=len(CLASSES)).build().eval()
        model.backbones[0].load_state_dict(shipped)
        on_maps = claims.OnMaps(model).eval()(given)
        assert (on_maps - model(images)).norm() < 0.01 * on_maps.norm(), name  # maps are kept as float16


def test_a_clip_that_is_turned_keeps_its_label_true(clips):
    _, scenes, held_out = clips
    original, seen = scenes.sample(0, None), set()
    for seed in range(24):
        turned = scenes.sample(0, np.random.default_rng(seed))
        seen.add(turned.frames.tobytes())
        assert sorted(turned.frames[:, :, :, 0].ravel()) == sorted(original.frames[:, :, :, 0].ravel())
    assert 8 < len(seen) <= 16
    assert [held_out.sample(i, None).label for i in range(13)] == list(range(13))


@pytest.mark.parametrize("name, f", [("TSN", "new"), ("TSN", "frozen"), ("TSM, online", "shipped")])
def test_a_run_gives_weights_and_a_record(clips, tmp_path, name, f):
    work, scenes, held_out = clips
    data = scenes, held_out
    if f == "frozen":
        data = [claims.maps_of(work / f"maps-of-{len(of)}", of, n, claims.shipped_f) for of, n in zip(data, (2, 1))]
    sizes = claims.contenders(f)[name]
    record = claims.train(sizes, 0, 32, data, f, tmp_path / "tsn.safetensors")
    assert record["clips"] == 32 and record["val"]["clips"] == 13 and 0 <= record["train_top1"] <= 1
    net = load_weights(tmp_path / "tsn.safetensors").model.frame.net
    shipped = load_weights("vlf-tiny").model.frame.f.net
    pairs = list(zip(net.parameters(), shipped.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs) == (f == "frozen")
    near = all((a - b).norm() < 0.05 * b.norm() for a, b in pairs if b.dim() > 1)  # after two steps
    assert near == (f != "new")


def test_vlf_stands_on_other_cnns_too():
    found = claims.contenders("new", ["mobilenetv4_conv_small"])
    assert list(found) == [claims.YARDSTICK, "VLF on mobilenetv4_conv_small"]
    ours, other = (sizes.build() for sizes in found.values())
    assert other.frame.f.channels != ours.frame.f.channels and other.tokens == ours.tokens == 4


def test_differences_come_with_their_spread(tmp_path):
    from claims_report import difference, results

    for model, top1 in {"A": (0.5, 0.6, 0.7), "B": (0.4, 0.5, 0.3)}.items():
        for seed, value in enumerate(top1):
            val = {"top1": value, "clips": 100, "recall": dict.fromkeys(CLASSES, value)}
            (tmp_path / f"{model}{seed}.json").write_text(json.dumps({"model": model, "seed": seed, "val": val}))
    found = results(sorted(tmp_path.glob("*.json")))
    mean, half, over = difference(found["A"], found["B"])
    assert mean == pytest.approx(20) and half == pytest.approx(4.303 * 17.32 / 3**0.5, rel=1e-2) and over == "3 seeds"
    mean, half, over = difference({0: found["A"][0]}, found["B"])
    assert mean == pytest.approx(10) and half == pytest.approx(196 * (0.0049) ** 0.5) and "one seed" in over


def test_multiply_adds_are_those_of_the_layers():
    from models import cost

    sizes = replace(claims.contenders("frozen")["VLF, 1 token, no g"], classes=5)
    one, more = (cost(replace(sizes, frames=frames).build()) for frames in (4, 8))
    dim, frame = 96, (more.clip - one.clip - (more.decision - one.decision)) / 4
    layer = 8 * dim * (4 * dim + 2 * 2 * dim) + 2 * 8 * 8 * dim  # projections and feed-forward; attention
    assert more.decision - frame == 2 * layer + dim * dim + dim * 5


def test_turns_are_taken_by_all_alike():
    from turns import UNTIMED_TURNS, in_turns

    calls = []
    spent = in_turns({name: lambda name=name: calls.append(name) for name in "ab"}, 3)
    assert calls == ["a", "b"] * (UNTIMED_TURNS + 3)
    assert all(one.wall_ms >= 0 and one.cpu_ms >= 0 for one in spent.values()) and spent.keys() == {"a", "b"}
