"""Every tracked box is a stream of its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import toy_manifest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_recognizer import fake_engines

from vlf_edge import Runtime, ShapeError, VlfError
from vlf_edge.runtime.recognizer import Recognizer
from vlf_edge.runtime.regions import Regions, cut_region


def regions(**options) -> Regions:
    manifest = toy_manifest()
    return Regions(Recognizer(manifest, fake_engines(manifest)), "door", **options)


def picture(height=120, width=160):
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)


def test_each_track_has_a_window_of_its_own(images):
    made = regions(margin=0.0)
    for i in range(6):
        boxes = {"ann": (2, 2, 34, 34)} | ({7: (20, 10, 52, 42)} if i >= 2 else {})
        found = made.push(images[i], i * 0.25, boxes)
    assert (found["ann"].state, found[7].state) == ("ok", "ok")
    assert (found["ann"].stream, found[7].stream) == ("door/ann", "door/7")
    alone = made._recognizer.classify([image[10:42, 20:52] for image in images[2:6]])
    np.testing.assert_array_equal(found[7].logits, alone.logits)


def test_a_new_identity_warms_up_and_one_that_went_is_forgotten(images):
    made = regions()
    for i in range(5):
        made.push(images[i], i * 0.25, {1: (0, 0, 30, 30), 2: (10, 10, 40, 40)})
    assert sorted(made._recognizer.streams) == ["door/1", "door/2"]
    for i in range(5, 11):
        found = made.push(images[i], i * 0.25, {2: (10, 10, 40, 40)})
    assert sorted(made._recognizer.streams) == ["door/2"], "gone for longer than the span of 1 s"
    assert found[2].state == "ok"
    assert made.push(images[11], 2.75, {1: (0, 0, 30, 30)})[1].state == "warming"


@pytest.mark.parametrize(
    "box",
    [
        (math.nan, 0, 10, 10),
        (0, 0, math.inf, 10),
        (10, 10, 10, 30),
        (30, 10, 10, 30),
        (-50, -50, -1, -1),
        (500, 10, 600, 30),
        (0, 0, 0.4, 0.4),
    ],
)
def test_a_box_that_holds_nothing_is_no_sight_of_its_track(images, box):
    made = regions()
    for i in range(3):
        made.push(images[i], i * 0.25, {1: (0, 0, 30, 30), 2: (5, 5, 40, 40)})
    found = made.push(images[3], 0.75, {1: box, 2: (5, 5, 40, 40)})
    assert found[1] is None and found[2].state == "ok"
    assert made.push(images[4], 0.80, {1: (0, 0, 30, 30)})[1].state == "ok", "one missed sight is no gap yet"


def test_hundreds_of_boxes():
    made, image = regions(), picture()
    boxes = {n: (n % 100, n % 70, n % 100 + 20, n % 70 + 30) for n in range(400)}
    for i in range(4):
        found = made.push(image, i * 0.25, boxes)
    assert len(found) == 400 and {prediction.state for prediction in found.values()} == {"ok"}


@settings(max_examples=300, deadline=None)
@given(
    box=st.tuples(*[st.floats(-1e4, 1e4)] * 4),
    margin=st.floats(0, 2),
    aspect=st.sampled_from([0.5, 1.0, 16 / 9]),
)
def test_any_box_gives_a_cut_of_the_models_shape_or_none(box, margin, aspect):
    image = picture()
    cut = cut_region(image, box, margin, aspect)
    if cut is None:
        return
    assert cut.dtype == np.uint8 and cut.shape[2] == 3 and min(cut.shape) > 0
    assert abs(cut.shape[1] - cut.shape[0] * aspect) <= 1
    x1, y1, x2, y2 = (min(max(v, 0), size) for v, size in zip(box, (160, 120, 160, 120)))
    assert cut.shape[0] >= round(y2 - y1) - 1 and cut.shape[1] >= round(x2 - x1) - 1, "all of the box is in it"


def test_what_is_no_box_is_said(images, toy_plan):
    with pytest.raises(VlfError, match="box of track 3 is 'abc'; expected four numbers"):
        regions().push(images[0], 0.0, {3: "abc"})
    with pytest.raises(ShapeError):
        regions().push(images[0][..., 0], 0.0, {})
    with pytest.raises(VlfError, match="margin is -1"):
        regions(margin=-1)
    with Runtime(toy_plan, backend="fake") as runtime:
        assert runtime.push_regions(images[0], 0.0, {}) == {}
        assert runtime.push_regions(images[0], 0.0, {"a": (0, 0, 20, 20)}, stream="dock")["a"].stream == "dock/a"
