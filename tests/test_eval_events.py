"""How events are judged: matching, figures, the streams made of labelled clips, and eval --events."""

import argparse
import json
import math
from itertools import permutations

import cv2
import numpy as np
import pytest
from conftest import LABELS, write_toy_plan
from hypothesis import given, settings
from hypothesis import strategies as st

from vlf_edge import Event, EventSettings, Prediction, Runtime, VlfError
from vlf_edge.commands import eval as command
from vlf_edge.datasets import open_dataset
from vlf_edge.evaluation.event_streams import HeldClip, evaluate_events
from vlf_edge.evaluation.events import Action, Played, events_of, figures, match, overlap, summarize_events
from vlf_edge.runtime.events import EventDetector
from vlf_edge.types import Preprocess
from vlf_edge.video import open_source

FPS = 20


def event(label: str, start_s: float, end_s: float, number: int = 0) -> Event:
    return Event("main", label, start_s, end_s, 0.9, number)


SPANS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 8), st.integers(1, 6)), max_size=3)


@given(SPANS, SPANS)
@settings(max_examples=100, deadline=None)
def test_matches_are_pairs_of_one_label_and_no_better_can_be_added(found, truth):
    events = [event(label, start, start + length) for label, start, length in found]
    actions = [Action(label, start, start + length) for label, start, length in truth]
    pairs = match(events, actions)
    used, covered = {i for i, _ in pairs}, {j for _, j in pairs}
    assert len(used) == len(covered) == len(pairs)

    def fits(i: int, j: int) -> bool:
        return events[i].label == actions[j].label and overlap(events[i], actions[j]) >= 0.5

    assert all(fits(i, j) for i, j in pairs)
    assert not any(
        fits(i, j) for i in range(len(events)) for j in range(len(actions)) if i not in used and j not in covered
    )
    most = max(
        (sum(fits(i, j) for i, j in enumerate(order) if i < len(events) and j is not None))
        for order in permutations([*range(len(actions)), *[None] * len(events)], len(events))
    )
    assert len(pairs) >= most / 2  # those that overlap most come first: never worse than half of the best


def test_overlap_is_intersection_over_union():
    assert overlap(event("a", 1, 3), Action("a", 2, 4)) == pytest.approx(1 / 3)
    assert overlap(event("a", 1, 3), Action("a", 1, 3)) == 1
    assert overlap(event("a", 1, 2), Action("a", 3, 4)) == overlap(event("a", 1, 1), Action("a", 1, 1)) == 0


def test_figures_of_streams_worked_out_by_hand():
    truth = (Action("a", 10, 14), Action("b", 20, 24), Action("a", 30, 34))
    found = (event("a", 10.2, 14.5, 0), event("a", 20, 24, 1), event("a", 29, 33.9, 2))
    streams = [Played("one", found, (11.5, 22, 31), 0, 1800, truth), Played("two", (), (), 0, 1800)]
    assert streams[0].pairs == ((0, 0), (2, 2))
    got = figures(streams)
    expected = {
        "f1": 4 / 6, "precision": 2 / 3, "recall": 2 / 3, "false_per_hour": 1.0, "start_error_s": -0.4,
        "start_abs_error_s": 0.6, "end_error_s": 0.2, "end_abs_error_s": 0.3, "told_after_s": 1.25,
    }  # fmt: skip
    assert got == pytest.approx(expected)
    report = summarize_events(streams, ("a", "b"))
    assert report["actions"] == report["events"] == 3 and report["hours"] == 1
    assert report["per_class"] == {
        "a": {"actions": 2, "hits": 2, "events": 3},
        "b": {"actions": 1, "hits": 0, "events": 0},
    }
    low, high = report["intervals"]["false_per_hour"]
    assert low == 0 and high == 2  # that stream is drawn never, or twice
    json.dumps(report, allow_nan=False)


def test_where_nothing_was_false_the_rate_still_has_an_upper_end():
    report = summarize_events([Played("quiet", (), (), 0, 7200)], ())
    assert report["false_per_hour"] == 0 and report["f1"] is None and report["start_error_s"] is None
    assert report["intervals"]["false_per_hour"] == [0, pytest.approx(-math.log(0.025) / 2, rel=1e-5)]
    assert summarize_events([], ("a",))["intervals"] == {}


def test_events_of_a_stream_remember_when_they_were_told():
    def decision(t_s: float, p: float) -> Prediction:
        return Prediction("ok", t_s - 1, t_s, 0, 0.0, scores=np.array([p, 1 - p]))

    settings_ = EventSettings(smooth_s=0, min_s=0.5, start_lag=0.5, end_lag=0.5)
    rows = [decision(t, p) for t, p in ((5, 0), (6, 1), (7, 1), (8, 0), (9, 1), (10, 1))]
    played = events_of("x", rows, EventDetector(("a", "none"), 1.0, settings_))
    assert (played.start_s, played.end_s) == (5, 10) and played.told_s == (7, 10)
    assert [(e.label, e.t_start_s, e.t_end_s) for e in played.found] == [
        ("a", pytest.approx(5.2), pytest.approx(7.2)),
        ("a", pytest.approx(8.2), 10),
    ]


def test_a_held_clip_begins_and_ends_at_rest():
    images = [np.full((4, 4, 3), i, np.uint8) for i in range(5)]
    clip = HeldClip(open_source(zip(images, (7.0, 7.1, 7.2, 7.3, 7.4))), 0.5)
    clip.fps = 10
    frames = list(clip)
    assert [frame.image[0, 0, 0] for frame in frames] == [0] * 5 + [0, 1, 2, 3, 4] + [4] * 5
    np.testing.assert_allclose([frame.t_s for frame in frames], np.arange(15) / 10, atol=1e-9)
    assert clip.end_s == pytest.approx(1.0) and [frame.seq for frame in frames] == list(range(15))


# -- on a plan whose decisions follow the colour


class Brightness(Runtime):
    """Says of a window what the grey level of its newest frame is: 0 still, 1 left, 2 right, ... with certainty."""

    def stream(self, source, **options):
        with open_source(source) as opened:
            for frame in opened:
                scores = np.eye(len(LABELS))[round(frame.image.mean() / 50) % len(LABELS)]
                yield Prediction("ok", frame.t_s, frame.t_s, frame.seq, 0.0, scores=scores)


def write_video(path, *parts: tuple[str, float]):
    path.parent.mkdir(exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), FPS, (32, 32))
    for label, seconds in parts:
        for _ in range(round(seconds * FPS)):
            writer.write(np.full((32, 32, 3), 50 * LABELS.index(label), np.uint8))
    writer.release()


INSTANT = EventSettings(smooth_s=0, min_s=0, start_lag=0, end_lag=0)


def judge(monkeypatch, plan, data, **options):
    monkeypatch.setattr("vlf_edge.evaluation.event_streams.Runtime", Brightness)
    sizes = {"preprocess": Preprocess(32, 32, 32), "frames": 4, "span_s": 1.0, "labels": LABELS}
    dataset, whole = (open_dataset(str(data), split, **sizes) for split in ("test", "all"))
    return evaluate_events(plan, dataset, whole, INSTANT, on={"backend": "fake"}, **options)


def test_whole_clips_become_streams_and_background_clips_show_what_comes_of_nothing(monkeypatch, toy_plan, tmp_path):
    for label in LABELS:
        for number in range(2):
            write_video(tmp_path / "clips" / "x.avi", (label, 2.0))
            (tmp_path / "clips" / label).mkdir(exist_ok=True)
            (tmp_path / "clips" / "x.avi").rename(tmp_path / "clips" / label / f"{number}.avi")
    (tmp_path / "clips" / "up" / "0.avi").write_bytes(b"no video")
    (tmp_path / "clips" / "up" / "1.avi").write_bytes(b"no video")
    write_video(tmp_path / "none" / "corridor.avi", ("still", 3), ("up", 1), ("still", 2))
    corridor = str(tmp_path / "none" / "corridor.avi")
    report = judge(monkeypatch, toy_plan, tmp_path / "clips", nothing=(corridor,))
    # An eternal "left" is on from the first held frame: its event is longer than the clip, by 1.5 spans on each side.
    assert report["actions"] == report["events"] == report["streams"] == 3 and report["ignored"] == ["still"]
    assert report["recall"] == 0 and all(row["events"] for label, row in report["per_class"].items() if label != "up")
    assert report["nothing"]["streams"] == 2 and report["nothing"]["events"] == 1
    assert report["nothing"]["false_per_hour"] == pytest.approx(3600 / (4.95 + 5.95 + 0.5), rel=0.05)
    assert [name.endswith("up/0.avi") or name.endswith("up/1.avi") for name in report["broken"]] == [True]


def test_annotated_videos_are_played_whole(monkeypatch, toy_plan, tmp_path):
    write_video(
        tmp_path / "v" / "a.avi", ("still", 1), ("left", 2), ("still", 1), ("up", 1), ("right", 2), ("still", 1)
    )
    write_video(tmp_path / "v" / "b.avi", ("still", 1), ("up", 2), ("still", 1), ("down", 2))
    rows = ["path,label,start_s,end_s", "v/a.avi,left,1,3", "v/a.avi,right,5,7", "v/a.avi,still,7,8"]
    rows += ["v/b.avi,up,1,3", "v/b.avi,down,4,"]
    (tmp_path / "test.csv").write_text("\n".join(rows))
    report = judge(monkeypatch, toy_plan, tmp_path / "test.csv")
    assert report["streams"] == 2 and report["actions"] == 4 and report["events"] == 5 and report["recall"] == 1
    assert report["precision"] == 0.8 and report["per_class"]["up"] == {"actions": 1, "hits": 1, "events": 2}
    assert report["start_abs_error_s"] <= 1.01 / FPS and report["end_abs_error_s"] <= 1.01 / FPS
    assert report["hours"] == pytest.approx((8 + 6) / 3600, rel=0.02)


def test_a_camera_is_no_footage_to_judge_on(monkeypatch, toy_plan, tmp_path):
    write_video(tmp_path / "v.avi", ("still", 1), ("left", 1))
    (tmp_path / "test.csv").write_text("\n".join(f"v.avi,{label},0.5,1" for label in LABELS))

    def camera(name):
        source = HeldClip(open_source(str(tmp_path / "v.avi")), 0.1)
        source.live = name == "0"
        return source

    monkeypatch.setattr("vlf_edge.evaluation.event_streams.open_source", camera)
    report = judge(monkeypatch, toy_plan, tmp_path / "test.csv", nothing=("0",))
    assert report["broken"] == {"0": "0 is a camera and never ends: events are judged on files"}


# -- the command


def run(*words) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.main(parser.parse_args([str(word) for word in words]))


def test_eval_events_on_a_folder_of_clips(tmp_path, toy_plan, capsys):
    for label in LABELS:
        write_video(tmp_path / "clips" / "x.avi", (label, 2.0))
        (tmp_path / "clips" / label).mkdir()
        (tmp_path / "clips" / "x.avi").rename(tmp_path / "clips" / label / "0.avi")
    words = [toy_plan.path, tmp_path / "clips", "--split", "all", "--backend", "fake", "--events"]
    easy = ["--event-threshold", "0.21", "--event-leave", "0.2", "--event-min", "0", "--event-smooth", "0"]
    assert run(*words, *easy, "--json") == 0
    events = json.loads(capsys.readouterr().out)["events"]
    assert events["streams"] == events["actions"] == 4 and events["nothing"]["streams"] == 1
    assert events["settings"]["threshold"] == 0.21 and events["settings"]["min_s"] == 0
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    assert run(*words, *easy, "--none", tmp_path / "clips" / "still" / "0.avi", broken) == 0
    text = capsys.readouterr().out
    assert "events: F1 " in text and "of 4 actions in 4 streams" in text and "where nothing happens: " in text
    assert f"1 stream(s) could not be played: {broken}" in text


def test_eval_without_events_takes_no_settings_for_them(tmp_path):
    plan = write_toy_plan(tmp_path / "x.plan").path
    with pytest.raises(VlfError, match="add --events"):
        run(plan, "motion", "--event-min", "1")
