"""Rendered people who do made-up acts: made from numbers, hanging together, and lessons beside those of motion."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toy_model import TOY, build_toy

from vlf_edge.datasets import NO_LABEL
from vlf_edge.datasets.motion import CLIPS_PER_SCENE, MotionDataset
from vlf_edge.errors import VlfError
from vlf_edge.synthetic import ACTS, HELD_OUT_SEED, ActClip
from vlf_edge.synthetic.act import Act
from vlf_edge.synthetic.person import AIR, POSE, REST, SIDE, TURN, WALK, Person
from vlf_edge.training import Settings, train
from vlf_edge.training.loader import Batch
from vlf_edge.training.objective import Objective, Student, StudentOutput
from vlf_edge.types import Preprocess

TIMES_S = np.arange(8) / 4
SIZE = Preprocess(24, 24, 24)


def person(seed=0, yaw=0.3, **changes):
    options = {"height": 0.8, "foot": (0.0, 0.4), "facing": 1, "yaw": yaw, **changes}
    return Person(np.random.default_rng(seed), range(8), **options)


def any_poses(count=200):
    rng = np.random.default_rng(1)
    poses = np.tile(REST, (count, 1))
    poses[:, :TURN] += rng.uniform(-1.5, 1.5, (count, TURN))
    poses[:, TURN] = rng.uniform(-1, 1, count)
    return poses


@pytest.mark.parametrize("number", [0, 41, ACTS - 1])
def test_a_clip_is_made_of_its_numbers_and_each_frame_by_itself(number):
    images = ActClip(number, 7, 48).render(TIMES_S)
    assert images.shape == (8, 48, 48, 3) and images.dtype == np.uint8
    again = ActClip(number, 7, 48)
    np.testing.assert_array_equal(images, np.concatenate([again.render(TIMES_S[i : i + 1]) for i in range(8)]))
    assert (images != ActClip(number, 8, 48).render(TIMES_S)).any()
    assert (images[0] != images[-1]).any()


def test_clips_held_out_show_surfaces_of_their_own(monkeypatch):
    shown = []
    monkeypatch.setattr("vlf_edge.synthetic.act.any_texture", lambda rng, surfaces: shown.append(surfaces) or GREY)
    monkeypatch.setattr("vlf_edge.synthetic.person.any_texture", lambda rng, surfaces: shown.append(surfaces) or GREY)
    for seed in (HELD_OUT_SEED - 1, HELD_OUT_SEED):
        ActClip(3, seed, 32)
    assert len(set(shown)) == 2 and not set(shown[0]) & set(shown[-1])


GREY = np.full((256, 256, 3), 128, np.uint8)


def test_every_act_begins_at_rest_moves_and_is_another():
    done = np.linspace(0, 1, 30)
    moves = [Act(number).poses(done) for number in range(ACTS)]
    for number, poses in enumerate(moves):
        np.testing.assert_allclose(Act(number).poses(np.array([-0.5])), [REST], atol=1e-12)
        np.testing.assert_array_equal(poses, Act(number).poses(done))
        assert np.abs(poses - REST).max() > 0.2
        step = np.abs(np.diff(poses, axis=0)).max()
        assert step < 0.75, "nobody jumps from pose to pose"
    apart = [np.abs(one - other).max() for i, one in enumerate(moves) for other in moves[:i]]
    assert min(apart) > 0.1


@pytest.mark.parametrize("form", ["return", "two poses, return"])
def test_some_come_back(form):
    acts = [act for act in map(Act, range(ACTS)) if act._form == form]
    assert acts
    for act in acts:
        np.testing.assert_allclose(act.poses(np.array([1.0, 1.5])), [REST, REST], atol=1e-12)


def test_limbs_keep_their_lengths_and_hang_together():
    one = person()
    points = one._joints(any_poses())
    parts = {"thigh": ("hip", "knee"), "shin": ("knee", "foot"), "upper arm": ("shoulder", "elbow")}
    for part, (begin, end) in {**parts, "forearm": ("elbow", "hand")}.items():
        for side in (0, 1):
            reach = np.linalg.norm(points[end, side] - points[begin, side], axis=1)
            np.testing.assert_allclose(reach, one._lengths[part])
    strokes = one.strokes(any_poses(), np.zeros(200), np.zeros(200))
    np.testing.assert_allclose(strokes.ends[0], strokes.starts[1])  # the far arm: an elbow
    np.testing.assert_allclose(strokes.ends[1], strokes.starts[2])  # and its hand
    assert np.isfinite(strokes.starts).all() and (strokes.widths > 0).all()


def test_the_lower_foot_stands_on_the_ground_and_leaps_leave_it():
    one, poses = person(), any_poses()
    one._habit[:], one._fidget = 0.0, (np.zeros(TURN), np.ones(TURN), np.zeros(TURN))

    def lowest(poses):
        strokes = one.strokes(poses, np.zeros(200), np.zeros(200))
        return np.maximum(strokes.starts[5], strokes.starts[8])[:, 1]  # both shoes

    np.testing.assert_allclose(lowest(poses), 0.4)
    poses[:, AIR] = 0.1
    np.testing.assert_allclose(lowest(poses), 0.4 - 0.08)


def test_who_faces_the_other_way_is_the_mirror_image_and_walks_there():
    poses = any_poses()
    poses[:, WALK] = 0.5
    right, left = (person(facing=facing).strokes(poses, np.zeros(200), np.zeros(200)).starts for facing in (1, -1))
    np.testing.assert_allclose(right * [-1, 1], left)
    assert len(POSE) == len(REST) == 2 * len(SIDE) + 5


def motion(**options):
    return MotionDataset("train", preprocess=SIZE, frames=4, **options)


def test_of_the_clips_of_a_training_set_a_share_shows_acts():
    data, rng = motion(acts=0.5), np.random.default_rng(0)
    samples = [data.sample(index, rng) for index in range(80 * CLIPS_PER_SCENE)]
    acts = [sample for sample in samples if sample.act != NO_LABEL]
    assert 0.3 < len(acts) / len(samples) < 0.7
    assert all((sample.label == NO_LABEL) == (sample.act != NO_LABEL) for sample in samples)
    assert all(0 <= sample.act < ACTS and sample.frames.shape == (4, 24, 24, 3) for sample in acts)
    assert all(sample.act == NO_LABEL for sample in map(motion().sample, range(20), [rng] * 20))
    index = next(i for i, sample in enumerate(samples) if sample.act != NO_LABEL)
    once, again, otherwise = (motion(acts=0.5).sample(index, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(once.frames, again.frames)
    assert once.act == otherwise.act == samples[index].act and (once.frames != otherwise.frames).any()


def test_each_clip_is_judged_by_its_class_or_by_its_act():
    rng = np.random.default_rng(2)
    logits, acts, motions = (torch.from_numpy(rng.normal(0, 2, shape)) for shape in ((4, 3), (4, 5), (2, 4, 2, 2)))
    targets = torch.from_numpy(rng.normal(0, 2, (4, 2, 2)))
    batch = Batch(torch.zeros(4), torch.tensor([1, -1, 2, -1]), targets, torch.tensor([-1, 4, -1, 0]))
    output = StudentOutput(logits, motions, None, acts)
    told = ((logits, 0, 1), (logits, 2, 2), (acts, 1, 4), (acts, 3, 0))
    each = [-torch.log_softmax(of[i], 0)[k] for of, i, k in told]
    off = torch.nn.functional.smooth_l1_loss(motions[:, [0, 2]], targets[[0, 2]].expand(2, -1, -1, -1))
    loss = Objective(motion_weight=3.0)(batch, output, 0.0)
    assert float(loss) == pytest.approx(float(sum(each) / 4 + 3 * 2 * off / 2))
    assert int(output.right(batch)) == sum(int(of[i].argmax()) == k for of, i, k in told)


def test_a_batch_without_acts_or_without_classes_moves_what_it_can():
    """With one process for each part of a batch, all parameters need gradients, if of zero."""
    student = Student(build_toy(), 2, acts=5)
    frames = torch.zeros(2, TOY.frames, TOY.height_px, TOY.width_px, 3, dtype=torch.uint8)
    targets, none, some = torch.zeros(2, TOY.frames - 1, 2), torch.tensor([NO_LABEL] * 2), torch.tensor([0, 1])
    for labels, acts in ((some, none), (none, some)):
        student.zero_grad()
        Objective()(Batch(frames, labels, targets, acts), student(frames), 0.5).backward()
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in student.parameters())


def test_a_run_with_acts_is_the_same_when_it_is_stopped_and_resumed(tmp_path):
    def settings(name):
        return Settings(
            "motion", str(tmp_path / name), start="vlf-tiny", acts=0.5, epochs=2, batch=4, clips_per_epoch=8,
            val_clips=13, workers=0, threads=1,
        )  # fmt: skip

    whole = train(settings("a.safetensors"))
    steps = iter([False, True])
    assert not train(settings("b.safetensors"), should_stop=lambda: next(steps)).finished
    resumed = train(settings("b.safetensors"), resume=True)
    assert resumed.finished and resumed.record["settings"]["acts"] == 0.5
    one, other = (load_file(outcome.last) for outcome in (whole, resumed))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert [row["loss"] for row in whole.history] == [row["loss"] for row in resumed.history]


def test_acts_are_of_rendered_clips():
    with pytest.raises(VlfError, match="--acts 0.5 is of rendered clips; the data is clips/, expected motion"):
        Settings("clips/", acts=0.5)
    assert "acts" not in Settings("motion").to_json()
    assert replace(Settings("motion"), acts=0.25).to_json()["acts"] == 0.25
