"""Decisions in, events out: times of the action, the rules of opening and ending, and what is kept."""

import argparse
import math
import tracemalloc
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vlf_edge import Camera, Event, EventDetector, EventSettings, Limits, Prediction, Runtime, Sink, VlfError
from vlf_edge.commands import run as run_command
from vlf_edge.runtime.event_settings import nothing_in

LABELS = ("still", "wave", "fall", "sit")
SPAN_S, GRID_S = 2.0, 0.25
PLAIN = EventSettings(smooth_s=0, min_s=0, start_lag=0, end_lag=0)


def decision(t_s: float, label: str = "still", p: float = 1.0, stream: str = "main") -> Prediction:
    scores = np.full(len(LABELS), (1 - p) / (len(LABELS) - 1), np.float32)
    scores[LABELS.index(label)] = p
    return Prediction("ok", t_s - SPAN_S, t_s, 0, 0.0, label, p, scores, stream=stream)


def silence(t_s: float, state: str, stream: str = "main") -> Prediction:
    return Prediction(state, t_s, t_s, -1, 0.0, stream=stream)


def feed(detector: EventDetector, *predictions: Prediction) -> list[Event]:
    return [event for prediction in predictions for event in detector.add(prediction)]


def told(events: list[Event]) -> list[tuple]:
    return [(event.label, event.t_start_s, event.t_end_s) for event in events]


def detector(**changes) -> EventDetector:
    return EventDetector(LABELS, SPAN_S, replace(PLAIN, **changes))


def steps(*parts: tuple[float, str, float]) -> list[Prediction]:
    """A decision each GRID_S: (until when, label, probability)."""
    found: list[Prediction] = []
    for until_s, label, p in parts:
        while len(found) * GRID_S < until_s:
            found.append(decision(len(found) * GRID_S, label, p))
    return found


def test_an_event_is_told_when_it_is_sure_and_when_it_has_ended():
    one = detector(min_s=0.5)
    told_s = {}
    for prediction in steps((2, "still", 1), (4, "wave", 0.9), (6, "still", 1)):
        for event in one.add(prediction):
            told_s[prediction.t_end_s] = event
    assert list(told_s) == [2.5, 4.0]
    opened, ended = told_s.values()
    assert opened.label == ended.label == "wave" and opened.id == ended.id == 0 and opened.t_end_s is None
    assert opened.t_start_s == ended.t_start_s == pytest.approx(1.75 + 0.25 * 7 / 9, abs=1e-6)  # 0 to 0.9, 0.7 crossed
    assert ended.t_end_s == pytest.approx(3.75 + 0.25 * 6 / 9, abs=1e-6) and ended.peak_score == pytest.approx(0.9)
    assert one.finish() == []


def test_what_is_not_likely_enough_is_unknown():
    assert feed(detector(), *steps((2, "still", 1), (9, "wave", 0.69), (10, "still", 1))) == []
    lower = detector(thresholds={"wave": 0.5})
    assert [e.label for e in feed(lower, *steps((2, "still", 1), (4, "wave", 0.6), (6, "fall", 0.6)))] == ["wave"] * 2
    assert [e.label for e in feed(detector(thresholds=("fall=0.5",)), *steps((2, "wave", 0.6), (6, "fall", 0.6)))] == [
        "fall"
    ]


def test_labels_that_mean_nothing_open_nothing():
    assert feed(detector(), *steps((9, "still", 1.0))) == []
    assert nothing_in(("No-Action", "none", "wave", "stillness", "unknown")) == ("No-Action", "none", "unknown")
    chosen = detector(ignore=("wave",))
    assert told(feed(chosen, *steps((2, "wave", 1), (4, "still", 1)))) == [("still", 1.75 + 0.7 / 4, None)]


def test_an_event_ends_below_its_lower_threshold_and_not_before():
    wavering = steps((2, "still", 1), (3, "wave", 0.9), (5, "wave", 0.4), (6, "wave", 0.9), (8, "wave", 0.2))
    assert [event.t_end_s is None for event in feed(detector(), *wavering)] == [True, False]
    # Of a label with a threshold of its own the lower one is lower too: 0.35 * 0.3 / 0.7.
    own = detector(thresholds={"wave": 0.35})
    assert len(feed(own, *steps((2, "still", 1), (3, "wave", 0.36), (5, "wave", 0.16)))) == 1
    assert len(feed(detector(), *steps((2, "wave", 0.9), (3, "wave", 0.25)))) == 2


def test_what_is_short_is_no_event():
    blip = steps((2, "still", 1), (2.5, "wave", 1), (4, "still", 1))
    assert feed(detector(min_s=0.6), *blip) == [] and len(feed(detector(min_s=0.25), *blip)) == 2


def test_a_likelier_label_ends_the_open_event_where_it_begins():
    one = detector(leave=0.05)
    found = feed(one, *steps((2, "still", 1), (4, "wave", 0.9), (6, "fall", 0.8)))
    assert [e.label for e in found] == ["wave", "wave", "fall"] and found[1].t_end_s == found[2].t_start_s


def test_after_an_event_its_label_rests():
    twice = steps((1, "still", 1), (2, "wave", 1), (3, "still", 1), (7, "wave", 1), (8, "still", 1))
    first, second = [e for e in feed(detector(cooldown_s=2.5), *twice) if e.t_end_s is not None]
    assert second.t_start_s == pytest.approx(first.t_end_s + 2.5) and second.t_end_s > 6.5
    assert len(feed(detector(cooldown_s=9), *twice)) == 2
    other = steps((1, "still", 1), (2, "wave", 1), (3, "still", 1), (5, "fall", 1), (6, "still", 1))
    assert len(feed(detector(cooldown_s=9), *other)) == 4


@pytest.mark.parametrize("state", ["warming", "gap", "failed", "stale", "no_signal"])
def test_states_without_a_decision_end_an_event_after_a_while(state):
    going = steps((1, "still", 1), (3, "wave", 1))
    one = detector(gap_s=2)
    opened = feed(one, *going)
    assert feed(one, *(silence(t, state) for t in (3, 4, 4.7))) == []
    assert feed(one, decision(4.75, "wave")) == [] and len(opened) == 1  # and it goes on
    (ended,) = feed(one, *(silence(t, state) for t in (5, 6, 6.8, 7, 60, 3600)))
    assert ended.t_end_s == 4.75 and ended.id == opened[0].id
    again = feed(one, decision(3602, "wave"))
    assert told(again) == [("wave", 3600, None)], "it was under way already when the window began"


def test_scores_that_are_no_numbers_are_no_decision():
    one = detector()
    opened = feed(one, *steps((1, "still", 1), (3, "wave", 1)))
    broken = replace(decision(3, "wave"), scores=np.array([math.nan, 1, 0, 0]))
    assert feed(one, broken, replace(decision(math.nan), t_end_s=math.nan)) == []
    assert told(one.finish()) == [("wave", opened[0].t_start_s, 2.75)]
    with pytest.raises(VlfError, match=r"scores of shape \(2,\); expected \(4,\)"):
        one.add(replace(decision(3), scores=np.zeros(2)))


def test_time_that_runs_backwards_ends_an_event():
    one = detector()
    feed(one, *steps((1, "still", 1), (3, "wave", 1)))
    ended = feed(one, silence(0.0, "gap"), decision(0.5, "wave"))
    assert told(ended)[0][2] == 2.75 and told(ended)[1:] == [("wave", -1.5, None)] and ended[1].id == 1


def test_streams_know_nothing_of_each_other_and_are_finished_one_by_one():
    one = detector()
    for name in ("door", "dock"):
        feed(one, decision(0, "still", stream=name), decision(1, "wave", stream=name))
    assert [e.stream for e in one.finish("dock")] == ["dock"] and one.finish("dock") == one.finish("nowhere") == []
    assert [e.stream for e in one.finish()] == ["door"] and one.finish() == []


def test_streams_have_settings_of_their_own_from_their_next_beginning():
    own = replace(PLAIN, threshold=0.9, leave=0.5, cooldown_s=100)
    one = EventDetector(LABELS, SPAN_S, PLAIN, {"door": own, "yard": None})

    def wave(t_s: float, p: float) -> list[str]:
        return [e.stream for name in ("door", "dock", "yard") for e in one.add(decision(t_s, "wave", p, name))]

    assert (wave(0, 0.8), wave(1, 0.95), wave(2, 0.4)) == (["dock", "yard"], ["door"], ["door"])
    take_back = one.set_apart({"door": None, "dock": own})
    assert wave(3, 0.8) == [], "not while it goes on"
    feed(one, *(silence(4, "ended", name) for name in ("door", "dock", "yard")))
    assert wave(5, 0.8) == ["door", "yard"]
    take_back(), one.finish()
    assert wave(6, 0.8) == ["dock", "yard"]
    with pytest.raises(VlfError, match="yard: --event-thresholds names 'jump', which is no label; available: still, "):
        one.set_apart({"dock": own, "yard": EventSettings(thresholds={"jump": 0.9})})
    one.finish()
    assert wave(7, 0.8) == ["dock", "yard"], "nothing has changed"


def test_what_is_kept_does_not_grow():
    """10,000 decisions of ever new streams; the one longest unheard of is finished for a new one."""
    one = EventDetector(LABELS, SPAN_S, max_streams=8)
    rng = np.random.default_rng(0)
    made = [
        Prediction("ok", 0, 0, 0, 0.0, scores=scores)
        for scores in rng.dirichlet([0.2] * len(LABELS), 100).astype(np.float32)
    ]
    opened, held = set(), []
    tracemalloc.start()
    for i in range(10_000):
        for event in one.add(replace(made[i // 9 % 100], t_end_s=i * 0.1, stream=f"camera/{i // 100}")):
            (opened.add if event.t_end_s is None else opened.remove)(event.id)
        if i in (2_500, 9_999):
            held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert one._next_id > 50 and len(opened) <= 8 and held[1] - held[0] < 10_000


# -- times of the action


def slow_average(times_s: np.ndarray, values: np.ndarray, smooth_s: float, at_s: np.ndarray) -> np.ndarray:
    """The exponential average of straight lines through (times, values), by small steps, as the definition says."""
    fine_s = np.arange(times_s[0], times_s[-1], 1e-3)
    signal, average = np.interp(fine_s, times_s, values), np.empty(len(fine_s))
    now = values[0]
    for i, value in enumerate(signal):
        now += (value - now) * 1e-3 / smooth_s
        average[i] = now
    return np.interp(at_s, fine_s, average)


@given(
    steps_s=st.lists(st.floats(0.02, 0.6), min_size=4, max_size=30),
    values=st.lists(st.floats(0, 1), min_size=31, max_size=31),
    smooth_s=st.floats(0.05, 2),
)
@settings(max_examples=40, deadline=None)
def test_smoothing_is_over_time_and_not_over_decisions(steps_s, values, smooth_s):
    times_s = np.cumsum([0.0, *steps_s])
    one = EventDetector(("a", "b"), SPAN_S, EventSettings(smooth_s=smooth_s, gap_s=1e6))
    got = []
    for t_s, p in zip(times_s, values):
        one.add(Prediction("ok", t_s, t_s, 0, 0.0, scores=np.array([p, 1 - p])))
        got.append(one._streams["main"].smoothed[0])
    expected = slow_average(times_s, np.array(values[: len(times_s)]), smooth_s, times_s[:-1])
    np.testing.assert_allclose(got[:-1], expected, atol=2e-3 / smooth_s + 2e-3)


@given(
    start_s=st.floats(4, 6),
    answers_s=st.floats(1, 6),
    span_s=st.floats(0.5, 4),
    grid_s=st.floats(0.05, 0.25),
    threshold=st.floats(0.2, 0.95),
    leave=st.floats(0.05, 0.9),
    smooth_s=st.floats(0, 0.5),
    lags=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
@settings(max_examples=50, deadline=None)
def test_times_are_those_of_the_action(start_s, answers_s, span_s, grid_s, threshold, leave, smooth_s, lags):
    """A window that turns to an action when it shows so much of it, and from it when it shows so much of what follows:
    start and end are right to about a step of the grid, whatever the thresholds and the smoothing. answers_s: how long
    decisions are for the action, beside what the average takes to reach 1."""
    start_lag, end_lag = lags
    length_s = answers_s + 6 * smooth_s + (start_lag - end_lag) * span_s
    assume(length_s > 0)
    made = EventSettings(
        threshold=threshold,
        leave=min(leave, threshold),
        smooth_s=smooth_s,
        min_s=0,
        start_lag=start_lag,
        end_lag=end_lag,
    )
    one = EventDetector(LABELS, span_s, made)
    end_s, found = start_s + length_s, []
    for t_s in np.arange(0, end_s + 3 * span_s + 4, grid_s):
        seen = (t_s - start_s) / span_s  # the share of the window since the action began, and since it ended
        over = (t_s - end_s) / span_s
        found += one.add(decision(float(t_s), "wave" if seen >= start_lag and over < end_lag else "still"))
    opened, ended = found
    # A step of the window falls between two decisions, and so does the crossing: on a line, where the average is bent.
    assert abs(opened.t_start_s - start_s) <= 1.25 * grid_s + 2e-3
    assert abs(ended.t_end_s - end_s) <= 1.25 * grid_s + 2e-3


# -- whatever comes


PREDICTIONS = st.lists(
    st.tuples(
        st.sampled_from(("a", "b")),
        st.sampled_from(("ok", "ok", "ok", "ok", "warming", "gap", "failed", "stale", "no_signal")),
        st.sampled_from((0.0, 0.1, 0.25, 0.25, 0.5, 1.5, 9.0, -3.0, math.nan)),
        st.sampled_from((*LABELS, "nan")),
        st.floats(0.25, 1),
    ),
    max_size=80,
)


@given(
    rows=PREDICTIONS,
    threshold=st.floats(0.2, 0.9),
    smooth_s=st.sampled_from((0.0, 0.3)),
    min_s=st.sampled_from((0.0, 0.5)),
    cooldown_s=st.sampled_from((0.0, 2.0)),
)
@settings(max_examples=100, deadline=None)
def test_every_event_opens_once_and_ends_once_and_none_overlap(rows, threshold, smooth_s, min_s, cooldown_s):
    made = EventSettings(threshold=threshold, leave=0.2, smooth_s=smooth_s, min_s=min_s, cooldown_s=cooldown_s)
    one = EventDetector(LABELS, SPAN_S, made)
    now_s, clock = {"a": 0.0, "b": 0.0}, {"a": 0, "b": 0}
    told_of: list[tuple[Event, int]] = []
    for stream, state, step_s, label, p in rows:
        t_s = now_s[stream] + step_s
        if step_s < 0 and state != "no_signal":
            clock[stream] += 1
        if math.isfinite(t_s) and (state != "no_signal" or step_s > 0):
            now_s[stream] = t_s
        prediction = silence(t_s, state, stream)
        if state == "ok":
            prediction = decision(t_s, "wave" if label == "nan" else label, p, stream)
            if label == "nan":
                prediction = replace(prediction, scores=np.full(4, np.nan))
        told_of += [(event, clock[stream]) for event in one.add(prediction)]
    told_of += [(event, clock[event.stream]) for event in one.finish()]
    assert one.finish() == []

    opened = {e.id: e for e, _ in told_of if e.t_end_s is None}
    ended = [(e, c) for e, c in told_of if e.t_end_s is not None]
    assert sorted(opened) == sorted(e.id for e, _ in ended) == list(range(len(opened)))
    for event, _ in ended:
        assert (event.stream, event.label, event.t_start_s) == (lambda o: (o.stream, o.label, o.t_start_s))(
            opened[event.id]
        )
        assert event.t_start_s <= event.t_end_s and event.label != "still"
        assert 1.0001 >= event.peak_score >= opened[event.id].peak_score >= threshold
    for stream in ("a", "b"):
        open_now = None
        for event, _ in told_of:
            if event.stream == stream:
                assert (open_now is None) == (event.t_end_s is None) and open_now in (None, event.id)
                open_now = event.id if event.t_end_s is None else None
    if not any(clock.values()):
        for stream in ("a", "b"):
            mine = [e for e, _ in ended if e.stream == stream]
            assert all(later.t_start_s >= e.t_end_s for e, later in zip(mine, mine[1:]))
            for label in LABELS:
                same = [e for e in mine if e.label == label]
                assert all(later.t_start_s >= e.t_end_s + cooldown_s for e, later in zip(same, same[1:]))


# -- in a Runtime


class Kept(Sink):
    def __init__(self):
        self.told: list[Event] = []
        self.closed_after: int | None = None

    def write(self, frame, prediction):
        pass

    def write_event(self, event):
        self.told.append(event)

    def close(self):
        self.closed_after = len(self.told)


EASY = EventSettings(threshold=0.21, leave=0.2, smooth_s=0, min_s=0, ignore=())


def test_a_runtime_makes_events_of_its_predictions(toy_plan, images):
    with Runtime(toy_plan, backend="fake") as runtime:
        detector = runtime.event_detector(EASY)
        expected = feed(detector, *runtime.stream(images, fps=10)) + detector.finish()
        assert expected and list(runtime.events(images, EASY, fps=10)) == expected
        late = Limits(max_staleness_s=1e-9)  # no decision is in time, so that nothing is known to go on
        assert list(runtime.events(images, EASY, fps=10, limits=late)) == []
        sink = Kept()
        runtime.run(images, [sink], fps=10, events=EASY)
        assert sink.told == expected and sink.closed_after == len(expected)
        silent = Kept()
        runtime.run(images, [silent], fps=10)
        assert silent.told == []
        deaf = Camera(images, events=EventSettings(threshold=0.99))
        assert list(runtime.events(deaf, EASY, fps=10)) == []
        both = list(runtime.events({"deaf": deaf, "easy": images}, EASY, fps=10))
        assert told(both) == told(expected) and {event.stream for event in both} == {"easy"}


def test_events_end_before_the_error_of_a_source_is_raised(toy_plan, images):
    def cut_off():
        yield from images
        raise VlfError("the camera is gone")

    with Runtime(toy_plan, backend="fake") as runtime:
        found, sink = [], Kept()
        with pytest.raises(VlfError, match="the camera is gone"):
            for event in runtime.events(cut_off(), EASY, fps=10):
                found.append(event)
        with pytest.raises(VlfError, match="the camera is gone"):
            runtime.run(cut_off(), [sink], fps=10, events=EASY)
    for events in (found, sink.told):
        assert events and sum(e.t_end_s is None for e in events) == sum(e.t_end_s is not None for e in events)


# -- settings


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    run_command.add_arguments(parser)
    return parser.parse_args(["x.plan", "0", *words])


def test_the_command_line_has_a_flag_for_every_setting():
    words = "--events --event-threshold 0.6 --event-thresholds wave=0.8 go left=0.9 --event-leave 0.2 --event-smooth 1"
    words = [*words.split(" go ")[0].split(), "go left=0.9", *words.split("left=0.9 ")[1].split()]
    words += "--event-min 2 --event-cooldown 3 --event-ignore still none --event-gap 4".split()
    words += "--event-start-lag 0.1 --event-end-lag 0.2".split()
    made = run_command.event_settings(parsed(*words))
    assert made.threshold_of == {"wave": 0.8, "go left": 0.9} and made.ignore == ("still", "none")
    changed = {f.name for f in fields(made) if getattr(made, f.name) != getattr(EventSettings(), f.name)}
    assert changed == set(asdict(made))
    assert run_command.event_settings(parsed()) is None
    assert run_command.event_settings(parsed("--events")) == EventSettings()
    with pytest.raises(VlfError, match="none are asked for; add --events"):
        run_command.event_settings(parsed("--event-min", "1"))


@pytest.mark.parametrize(
    "values, message",
    [
        ({"threshold": 0.0}, "--event-threshold is 0.0; expected above 0 and at most 0.999"),
        ({"threshold": math.nan}, "--event-threshold is nan"),
        ({"leave": 0.8}, "--event-leave is 0.8; expected at most --event-threshold, 0.7"),
        ({"thresholds": ("wave",)}, "--event-thresholds is wave; expected LABEL=P, such as wave=0.8"),
        ({"thresholds": {"wave": 1.5}}, "wave=1.5; expected a probability above 0"),
        ({"smooth_s": -1.0}, "--event-smooth is -1.0; expected from 0 to 3600"),
        ({"min_s": math.inf}, "--event-min is inf"),
        ({"gap_s": 0.0}, "--event-gap is 0.0; expected above 0"),
        ({"start_lag": 1.1}, "--event-start-lag is 1.1; expected from 0 to 1"),
        ({"thresholds": {"fly": 0.5}}, "--event-thresholds names 'fly', which is no label; available: still, wave"),
        ({"ignore": ("fly",)}, "--event-ignore names 'fly', which is no label; available: still, wave"),
    ],
)
def test_bad_settings_are_one_sentence(values, message):
    with pytest.raises(VlfError) as error:
        EventDetector(LABELS, SPAN_S, EventSettings(**values))
    assert message in str(error.value) and "\n" not in str(error.value)
