"""What enrolment computes, against the slow and obvious way; and its promises, on data whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from vlf_edge import VlfError
from vlf_edge.enrolment.clips import TaughtClip, check_labels, mirrored_labels
from vlf_edge.enrolment.discriminant import PRIOR_CLIPS, Clip, Statistics, empty, left_out
from vlf_edge.enrolment.lesson import teach
from vlf_edge.enrolment.memory import Taught, arrays_of, condensed, statistics_of
from vlf_edge.enrolment.open_set import enough, fit_temperature, upper_bound
from vlf_edge.enrolment.reading import Reading
from vlf_edge.head import UNKNOWN, Head, HeadArray, HeadInfo

SIZE = 6


def some_clips(seed: int, labels: list[int], centres: np.ndarray | None = None) -> list[Clip]:
    """One clip for each label: 3 to 9 windows around a place of its own near the centre of its label."""
    rng = np.random.default_rng(seed)
    centres = 3 * np.random.default_rng(7).standard_normal((8, SIZE)) if centres is None else centres
    clips = []
    for number, label in enumerate(labels):
        place = centres[label] + rng.standard_normal(SIZE)
        windows = place + 0.7 * rng.standard_normal((rng.integers(3, 10), SIZE)) * np.arange(1, SIZE + 1) / 3
        clips.append(Clip(f"clip {number}", label, windows))
    return clips


def statistics_from(clips: list[Clip]) -> Statistics:
    found = empty(SIZE)
    for clip in clips:
        found = found.with_clip(clip)
    return found


def naive_fit(clips: list[Clip], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Window by window, each weighing one over the windows of its clip."""
    centres, total = [], np.zeros((SIZE, SIZE))
    for row in range(rows):
        own = [clip for clip in clips if clip.label == row]
        centres.append(sum(sum(x for x in clip.windows) / len(clip.windows) for clip in own) / len(own))
    for clip in clips:
        for x in clip.windows:
            total += np.outer(x - centres[clip.label], x - centres[clip.label]) / len(clip.windows)
    variance = np.trace(total) / len(clips) / SIZE
    covariance = (total + PRIOR_CLIPS * variance * np.eye(SIZE)) / (len(clips) + PRIOR_CLIPS)
    inverse = np.linalg.inv(covariance)
    return np.stack([inverse @ c for c in centres]), np.array([-0.5 * c @ inverse @ c for c in centres])


@pytest.mark.parametrize("seed", range(3))
def test_the_closed_form_is_that_of_the_windows_one_by_one(seed):
    clips = some_clips(seed, [0, 1, 2, 2, 0, 1, 1])
    for found, want in zip(statistics_from(clips).fit(3), naive_fit(clips, 3)):
        np.testing.assert_allclose(found, want, rtol=1e-9, atol=1e-9)


def test_leaving_out_by_subtraction_is_leaving_out():
    clips = some_clips(0, [0, 1, 2, 2, 0, 1, 3])
    found = list(left_out(statistics_from(clips), clips, 4))
    assert [clip.name for clip, _ in found] == [f"clip {n}" for n in range(6)]  # the last is the only one of its row
    for number, (clip, logits) in enumerate(found):
        weight, bias = naive_fit([other for n, other in enumerate(clips) if n != number], 4)
        np.testing.assert_allclose(logits, clip.windows @ weight.T + bias, rtol=1e-7, atol=1e-7)


def test_joining_means_changes_no_discriminant():
    clips = some_clips(1, [0, 1, 2] * 40)
    before = statistics_from(clips)
    after = condensed(Statistics(before.means, before.labels, before.counts, before.scatter))
    assert len(after.means) == len(before.means)  # they take little
    import vlf_edge.enrolment.memory as memory

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "MOST_BYTES", 4 * SIZE * 25)
        after = condensed(before)
    assert len(after.means) == 25 and after.counts.sum() == 120
    for found, want in zip(after.fit(3), before.fit(3)):
        np.testing.assert_allclose(found, want, rtol=1e-9, atol=1e-9)


def test_a_head_remembers_what_it_was_made_of():
    before = statistics_from(some_clips(2, [0, 1, 2, 0]))
    weight, bias = before.fit(3)
    arrays = {"weight": weight, "bias": bias, **arrays_of(before)}
    arrays = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    entries = tuple(HeadArray(name, f"{name}.f32", array.shape) for name, array in arrays.items())
    head = Head(HeadInfo(("features",), ("x",), (), True, entries), ("a", "b", UNKNOWN), arrays)
    after = statistics_of(head)
    for found, want in zip(after.fit(3), (weight, bias)):
        np.testing.assert_allclose(found, want, rtol=1e-3, atol=1e-3)
    odd = {**arrays, "clip_labels": np.zeros(4, np.float32)}
    assert statistics_of(Head(head.info, head.labels, odd)) is None


def test_temperature_is_that_which_the_logits_were_multiplied_with():
    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal((4000, 3))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = (rng.random((4000, 1)) > shares.cumsum(axis=1)).sum(axis=1)
    found = fit_temperature([5 * z[None] for z in logits], truth.tolist())
    assert found == pytest.approx(5, rel=0.15)


def test_a_bound_is_exceeded_by_no_more_than_its_share():
    """On average over many draws of so few values, which is what conformal prediction promises."""
    rng = np.random.default_rng(0)
    beyond = [np.exp(-upper_bound(rng.exponential(size=60), 0.05)) for _ in range(3000)]  # the true share above it
    assert np.mean(beyond) <= 0.05 and np.mean(beyond) >= 0.03
    assert enough(19, 0.05) and not enough(18, 0.05) and upper_bound(np.arange(5.0), 0.01) == 4


def taught(clips: list[Clip], labels: list[str]) -> list[TaughtClip]:
    none = np.zeros((0, SIZE))
    return [TaughtClip(c.name, labels[c.label], Reading(3.0, c.windows, none, none, 50.0)) for c in clips]


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_unknown_holds_its_rate_of_false_accepts_on_clips_it_has_not_seen(share):
    """Three labels and a fourth place that is none of them, thirty lessons: the mean share of further windows of
    nothing that get a label is the one asked for, within three standard errors."""
    labels = ["wave", "stop", "come", UNKNOWN]
    centres = 4.0 * np.random.default_rng(5).standard_normal((4, SIZE))
    before = Taught((), (), (), False, empty(SIZE))
    accepted, right = [], []
    for seed in range(30):
        clips = some_clips(seed, [0, 1, 2] * 5 + [3] * 30, centres)
        lesson = teach(before, labels[:3], taught(clips, labels), [], [], share)
        assert lesson.labels == tuple(labels)
        for label, result in ((3, accepted), (0, right)):
            further = np.concatenate([clip.windows for clip in some_clips(1000 + seed, [label] * 60, centres)])
            decided = (further @ lesson.arrays["weight"].T + lesson.arrays["bias"]).argmax(axis=1)
            result.append((decided != 3 if label == 3 else decided == label).mean())
    error = np.std(accepted) / np.sqrt(len(accepted))
    assert share / 3 < np.mean(accepted) <= share + 3 * error
    assert np.mean(right) > 0.6


def test_enrolling_again_is_enrolling_at_once():
    labels = ["wave", "stop", "come", UNKNOWN]
    clips = some_clips(3, [0, 0, 0, 1, 1, 1, 3, 3, 3, 3, 2, 2, 2])
    nothing = Taught((), (), (), False, empty(SIZE))
    at_once = teach(nothing, labels[:3], taught(clips, labels), [], [], 0.1)
    first = teach(nothing, labels[:2], taught(clips[:10], labels), [], [], 0.1)
    remembered = Taught(("wave", "stop"), (), (), True, statistics_of(as_head(first)), first.record)
    again = teach(remembered, labels[:3], taught(clips[10:], labels), [], [], 0.1)
    assert again.labels == at_once.labels and again.record["unknown_from"] == "none clips"
    assert {name: one["clips"] for name, one in again.record["labels"].items()} == {"wave": 3, "stop": 3, "come": 3}
    scale = at_once.arrays["weight"] / again.arrays["weight"]  # temperatures differ: single windows are forgotten
    np.testing.assert_allclose(scale, scale[0, 0], rtol=1e-2)


def as_head(lesson) -> Head:
    entries = tuple(HeadArray(name, f"{name}.f32", array.shape) for name, array in lesson.arrays.items())
    return Head(HeadInfo(lesson.reads, ("x",), lesson.kept, True, entries), lesson.labels, lesson.arrays)


@pytest.mark.parametrize(
    ("labels", "others", "mirrored"),
    [
        (["wave", "stop"], [], {"wave", "stop", UNKNOWN}),
        (["wave", "turn left"], [], {"wave"}),  # the mirror image of nothing may be a turn to the left
        (["wave", "turn left", "turn right"], [], {"wave", UNKNOWN}),
        (["turn left"], ["turn right"], {UNKNOWN}),
    ],
)
def test_only_what_speaks_of_no_side_is_mirrored(labels, others, mirrored):
    assert mirrored_labels(labels, others) == mirrored


@pytest.mark.parametrize("labels", [[], ["unknown"], [" "], ["a\x1bb"]])
def test_what_is_no_label_is_refused(labels):
    with pytest.raises(VlfError, match="label|enrol"):
        check_labels(labels)
