"""When a camera has no signal, and when it is opened again: on a clock that the test turns."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlf_edge import CameraError, Limits, VlfError
from vlf_edge.errors import AccessDenied
from vlf_edge.runtime.watchdog import MOST_HANGING, OPEN_TIMEOUT_S, Action, Watchdog

OPEN, ABANDON, TELL, GIVE_UP = Action.OPEN, Action.ABANDON, Action.TELL, Action.GIVE_UP
GONE = CameraError("unplugged")


def dog(*, again: bool = True, jitter: float = 0.0, **limits) -> Watchdog:
    return Watchdog("door", Limits(**limits), 0.0, again=again, jitter=lambda: jitter)


def live(**options) -> Watchdog:
    """One whose camera gave frames from 0 to 2 s."""
    made = dog(**options)
    assert made.act(0.0) == [OPEN]
    made.opened(0.1)
    for tenth in range(2, 21):
        made.frame(tenth / 10)
    return made


def run(watched: Watchdog, start_s: float, end_s: float, fails: bool = True) -> list[tuple[float, Action]]:
    """What it wants from ``start_s`` to ``end_s``, while every try to open fails at once, or hangs."""
    done, now_s = [], start_s
    while now_s <= end_s:
        for action in watched.act(now_s):
            done.append((round(now_s, 3), action))
            if action is OPEN and fails:
                watched.failed(now_s, GONE)
        now_s = max(watched.wakes_s(), now_s)
    return done


def test_it_opens_at_once_and_is_silent_while_frames_come():
    watched = live()
    assert watched.state == "live" and watched.act(2.0) == [] and watched.wakes_s() == 7.0
    assert not watched.frame(6.9) and watched.act(7.0) == [] and watched.wakes_s() == 11.9
    assert watched.take_news() == [] and watched.report(7.0) == {
        "state": "live", "state_for_s": 6.8, "reconnects": 0, "last_error": None,
    }  # fmt: skip


def test_a_camera_that_is_absent_is_told_of_at_once_and_then_every_second():
    watched = dog()
    done = run(watched, 0.0, 5.0)
    assert done[0] == (0.0, OPEN)
    assert [at_s for at_s, action in done if action is TELL] == [0, 1, 2, 3, 4, 5]
    assert watched.state == "no_signal" and watched.take_news() == [
        "door: unplugged; it is tried until it is there (--max-retries 0 ends instead)"
    ], "once, not for every try"


def test_the_wait_is_a_twentieth_of_the_outage_and_has_bounds():
    tries = [at_s for at_s, action in run(dog(), 0.0, 1200.0) if action is OPEN]
    waits = [(later - at_s, at_s) for at_s, later in zip(tries, tries[1:])]
    assert all(wait_s == pytest.approx(min(max(0.25, at_s / 20), 10), abs=2e-3) for wait_s, at_s in waits)
    assert waits[0][0] == pytest.approx(0.25, abs=2e-3) and waits[-1][0] == pytest.approx(10, abs=2e-3)
    assert len(tries) > 150, "it never ends"


def test_jitter_shortens_a_wait_by_a_quarter_at_most():
    watched = dog(jitter=1.0)
    watched.act(0.0)
    watched.failed(0.0, GONE)
    watched.act(0.0)
    assert watched.wakes_s() == pytest.approx(0.75 * 0.25)


def test_a_stall_abandons_the_read_tells_and_opens_again():
    watched = live()
    assert watched.act(6.99) == []
    assert watched.act(7.0) == [ABANDON, TELL] and watched.state == "no_signal"
    assert watched.take_news() == [
        "door: no frame for 5.0 s; it is opened again until it is back (--max-retries 0 ends instead)"
    ]
    assert watched.act(7.25) == [OPEN]
    watched.opened(7.3)
    assert watched.frame(7.5), "nothing before it belongs with it"
    assert not watched.frame(7.6)
    assert watched.report(8.0)["reconnects"] == 1 and watched.report(8.0)["last_error"] == "no frame for 5.0 s"
    assert watched.take_news() == [], "not sure yet"
    watched.frame(8.6)
    assert watched.take_news() == ["door is back after 0.5 s"]


def test_an_opening_that_hangs_is_told_of_and_abandoned_later():
    watched = dog()
    done = run(watched, 0.0, 70.0, fails=False)
    assert done[:2] == [(0.0, OPEN), (5.0, TELL)] and (OPEN_TIMEOUT_S, ABANDON) in done
    opened_s = [at_s for at_s, action in done if action is OPEN]
    assert opened_s == pytest.approx([0.0, 30.25, 61.76], abs=0.1), "each gets its time"


def test_no_new_thread_while_many_hang():
    watched = live()
    watched.act(7.0, MOST_HANGING)
    assert watched.act(7.5, MOST_HANGING) == [] and watched.wakes_s(MOST_HANGING) == 8.0, "only to tell"
    assert watched.act(7.6, MOST_HANGING - 1) == [OPEN]


def test_a_camera_that_gives_one_frame_and_fails_is_not_back():
    watched, now_s = live(), 2.0
    watched.failed(now_s, GONE)
    watched.take_news()
    for _ in range(200):
        now_s = max(now_s, watched.wakes_s())
        if OPEN in watched.act(now_s):
            watched.frame(now_s)
            watched.failed(now_s, GONE)
    assert watched.take_news() == [] and now_s > 20, "the waits grow, nothing is logged again"


def test_a_refused_password_is_tried_seldom():
    watched = dog()
    watched.act(0.0)
    watched.failed(0.0, AccessDenied("wrong password"))
    tries = []
    while (now_s := watched.wakes_s()) < 35:
        if OPEN in watched.act(now_s):
            tries.append(now_s)
            watched.failed(now_s, AccessDenied("wrong password"))
    assert tries == [10, 20, 30]


@pytest.mark.parametrize("most", [0, 1, 3])
def test_it_gives_up_after_so_many_tries(most):
    watched = dog(max_retries=most)
    done = run(watched, 0.0, 60.0)
    assert [action for _, action in done].count(OPEN) == most + 1 and done[-1][1] is GIVE_UP
    assert watched.state == "failed" and watched.wakes_s() == math.inf and watched.error is GONE
    assert (TELL in [action for _, action in done]) == (most > 0)


def test_a_steady_camera_has_all_its_tries_again():
    watched = live(max_retries=1)
    watched.failed(2.0, GONE)
    run(watched, 2.0, 2.2)
    assert watched.act(2.25) == [OPEN]
    for tenth in range(23, 40):
        watched.frame(tenth / 10)
    watched.failed(4.0, GONE)
    assert GIVE_UP not in watched.act(4.0) and watched.act(4.25) == [OPEN]
    watched.failed(4.3, GONE)
    assert watched.act(4.3) == [GIVE_UP]


def test_a_source_that_cannot_be_opened_again_is_waited_for():
    watched = live(again=False)
    assert watched.act(7.0) == [TELL] and watched.act(8.0) == [TELL]
    assert watched.take_news() == ["door: no frame for 5.0 s; it cannot be opened again, and is waited for"]
    assert watched.frame(8.5) and watched.state == "live" and watched.act(9.0) == []
    watched.failed(9.0, GONE)
    assert watched.act(9.0) == [GIVE_UP]


def test_what_has_ended_wants_nothing():
    watched = live(again=False)
    watched.ended(3.0)
    assert watched.state == "ended" and watched.wakes_s() == math.inf and watched.act(1e6) == []


@pytest.mark.parametrize(
    "wrong", [{"stall_timeout_s": 0}, {"max_retries": -1}, {"max_staleness_s": 0}, {"budget_ms": 0}]
)
def test_limits_out_of_range(wrong):
    with pytest.raises(VlfError, match="; expected "):
        Limits(**wrong)


@settings(max_examples=200, deadline=None)
@given(
    happenings=st.lists(
        st.tuples(st.sampled_from(["opened", "frame", "failed", "nothing"]), st.floats(0.0, 20.0)), max_size=80
    ),
    jitter=st.floats(0, 1),
    hanging=st.integers(0, MOST_HANGING),
)
def test_whatever_happens_one_thread_at_a_time_is_wanted_and_silence_is_told(happenings, jitter, hanging):
    watched, now_s, busy, told_s, lost_s = dog(jitter=jitter), 0.0, False, None, None
    for what, later_s in happenings:
        until_s = now_s + later_s
        while True:
            for action in watched.act(now_s, hanging):
                assert action is not GIVE_UP
                if action is OPEN:
                    assert not busy and hanging < MOST_HANGING
                    busy = True
                elif action is ABANDON:
                    assert busy
                    busy = False
                else:
                    assert told_s is None or now_s - told_s >= 1.0 - 1e-9
                    told_s = now_s
            if watched.state == "no_signal" and lost_s is not None:
                assert told_s is not None and told_s >= lost_s, "told at once"
            wakes_s = watched.wakes_s(hanging)
            assert wakes_s > now_s, "it never asks to be called without end"
            if wakes_s > until_s:
                break
            now_s = wakes_s
        now_s = until_s
        if busy and what == "frame":
            away = watched.state != "live"
            assert watched.frame(now_s) == away, "a window begins anew if and only if it was away"
            told_s = lost_s = None
        elif busy and what == "opened":
            watched.opened(now_s)
        elif busy and what == "failed":
            watched.failed(now_s, GONE)
            busy, lost_s = False, now_s if told_s is None else lost_s
