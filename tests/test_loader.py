"""Which clips a step sees depends on the seed and the step, on nothing else."""

import numpy as np
import pytest
import torch
from toy_clips import Squares

from vlf_edge.training.loader import ResumableBatchSampler, ordered_batches, shuffled_batches

SAMPLER = ResumableBatchSampler(clips=10, batch=4, steps_per_epoch=3, epochs=4, seed=5)


def test_every_clip_is_seen_once_before_any_is_seen_again():
    tickets = [ticket for batch in SAMPLER for ticket in batch]
    assert [ticket.place for ticket in tickets] == list(range(48))
    turns = [[ticket.index for ticket in tickets[at : at + 10]] for at in range(0, 40, 10)]
    assert all(sorted(turn) == list(range(10)) for turn in turns)
    assert len({tuple(turn) for turn in turns}) == 4  # another order each time


def test_a_sampler_begins_at_any_step_and_is_shared_among_processes():
    batches = list(SAMPLER)
    later = ResumableBatchSampler(**{**vars(SAMPLER), "first": 5})
    assert list(later) == batches[5:] and len(later) == 7
    halves = [list(ResumableBatchSampler(**{**vars(SAMPLER), "rank": rank, "world": 2})) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves)] == batches


def test_progress_goes_from_zero_to_one_by_epochs():
    seen = [batch[0].progress for batch in SAMPLER]
    assert seen == pytest.approx(np.repeat([0, 1 / 3, 2 / 3, 1], 3))
    assert {batch[0].progress for batch in ResumableBatchSampler(**{**vars(SAMPLER), "easy_first": False})} == {1.0}


def test_an_endless_set_is_read_in_its_own_order():
    indices = [ticket.index for batch in ResumableBatchSampler(**{**vars(SAMPLER), "clips": None}) for ticket in batch]
    assert indices == list(range(48))


def test_batches_do_not_depend_on_the_workers():
    dataset = Squares(10, broken=(3,))
    alone, shared = (list(shuffled_batches(dataset, SAMPLER, 5, workers, pin=False)) for workers in (0, 2))
    assert len(alone) == len(shared) == 12
    for one, other in zip(alone, shared):
        assert torch.equal(one.clips, other.clips) and torch.equal(one.targets, other.targets)
        assert torch.equal(one.labels, other.labels) and one.broken == other.broken
    assert not torch.equal(alone[0].clips, next(shuffled_batches(dataset, SAMPLER, 6, 0, pin=False)).clips)


def test_a_copied_batch_lets_go_of_the_workers_memory():
    (batch,) = ordered_batches(Squares(4), range(4), 4, workers=1)
    kept = batch.copy()
    assert batch.clips.is_shared() and not any(t.is_shared() for t in (kept.clips, kept.labels, kept.targets))
    assert torch.equal(kept.clips, batch.clips) and torch.equal(kept.targets, batch.targets)


def test_samples_are_stacked_as_they_are():
    dataset = Squares(10)
    (batch,) = ordered_batches(dataset, [7, 2], 4, workers=0)
    for row, index in enumerate((7, 2)):
        sample = dataset.sample(index, None)
        assert np.array_equal(batch.clips[row].numpy(), sample.frames) and batch.labels[row] == sample.label
        assert np.array_equal(batch.targets[row].numpy(), sample.targets)
    assert batch.clips.dtype == torch.uint8 and batch.labels.dtype == torch.int64 and not batch.broken


def test_a_broken_clip_is_named_and_its_place_filled():
    batches = list(shuffled_batches(Squares(10, broken=(3,)), SAMPLER, 5, 0, pin=False))
    assert all(len(batch) == 4 for batch in batches)
    named = [one for batch in batches for one in batch.broken]
    assert len(named) >= 4 and set(named) == {(3, "square 3 is broken")}


def test_when_nothing_can_be_read_the_batch_is_empty():
    batch = next(shuffled_batches(Squares(10, broken=tuple(range(10))), SAMPLER, 5, 0, pin=False))
    assert len(batch) == 0 and batch.clips is None and {index for index, _ in batch.broken} <= set(range(10))
    (batch,) = ordered_batches(Squares(4, broken=(0, 1)), [0, 1], 2, 0)
    assert len(batch) == 0 and [index for index, _ in batch.broken] == [0, 1]


def test_the_data_set_learns_how_far_the_run_is():
    dataset = Squares(10)
    told = []
    dataset.set_progress = told.append
    list(shuffled_batches(dataset, SAMPLER, 5, 0, pin=False))
    assert told == pytest.approx([0, 1 / 3, 2 / 3, 1])
    list(ordered_batches(dataset, [0], 1, 0))
    assert len(told) == 4  # tests are as hard from the beginning


def test_workers_start_although_opencv_has_threads():
    """A process that has used OpenCV's thread pool forks workers in which that pool is dead."""
    import cv2

    threads = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (0, 0), 3)
        assert sum(len(batch) for batch in ordered_batches(Squares(4), range(4), 2, 2)) == 4
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(threads)


def test_balanced_batches_hold_every_class_alike_and_all_of_its_clips():
    classes = ((0, 3, 5, 6, 7, 8, 9), (1,), (2, 4))
    balanced = ResumableBatchSampler(**{**vars(SAMPLER), "batch": 6, "classes": classes})
    steps = [[ticket.index for ticket in batch] for batch in balanced]
    of = {index: number for number, members in enumerate(classes) for index in members}
    assert all(sorted(of[index] for index in step) == [0, 0, 1, 1, 2, 2] for step in steps)
    drawn = [index for step in steps for index in step if of[index] == 0]
    assert sorted(drawn[:7]) == sorted(drawn[7:14]) == list(classes[0]) and drawn[:7] != drawn[7:14]
    later = ResumableBatchSampler(**{**vars(balanced), "first": 5})
    assert [[ticket.index for ticket in batch] for batch in later] == steps[5:]
