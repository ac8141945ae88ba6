"""What is minimised, and how weights follow: against the same in NumPy or in a loop."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from toy_clips import LABELS, write_weights
from toy_model import TOY, build_toy

from vlf_edge.errors import WeightsError
from vlf_edge.models.weights import save_weights
from vlf_edge.training.loader import Batch
from vlf_edge.training.objective import Objective, Student, StudentOutput, Teachers, load_teachers
from vlf_edge.training.optimizer import WeightAverage, learning_rate, make_optimizer

CPU = torch.device("cpu")


def clips(count=3, sizes=TOY):
    shape = (count, sizes.frames, sizes.height_px, sizes.width_px, 3)
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def values():
    rng = np.random.default_rng(1)
    logits, motion = rng.normal(0, 3, (3, 4)), rng.normal(0, 2, (2, 3, 2, 2))
    batch = Batch(clips(), torch.tensor([0, 3, 3]), torch.from_numpy(rng.normal(0, 2, (3, 2, 2))))
    return batch, logits, motion


@torch.no_grad()
def test_the_learner_gives_the_models_logits_and_motion_beside_them():
    model = build_toy().eval()
    logits, motion, hints, acts = Student(model, 2)(clips())
    torch.testing.assert_close(logits, model(clips()))
    assert motion.shape == (2, 3, TOY.frames - 1, 2)
    assert hints is None and acts is None and Student(model, 0)(clips()).motion is None


@torch.no_grad()
def test_motion_is_told_from_two_frames_and_from_what_h_makes_of_one():
    student = Student(build_toy().eval(), 2)
    frames, model = clips(), student.model
    by_pair, by_h = student(frames).motion
    mixed = model.clip.mix(torch.stack([model.encode_frames(frames[:, i]) for i in range(TOY.frames)], dim=1))
    for i in range(TOY.frames - 1):
        now, then = (model.encode_frames(frames[:, j]).flatten(1) for j in (i, i + 1))
        torch.testing.assert_close(student.pair_motion(torch.cat([now, then - now], dim=1)), by_pair[:, i])
        torch.testing.assert_close(student.motion(mixed[:, i].mean(dim=1)), by_h[:, i])


@pytest.mark.parametrize(("progress", "weight"), [(0.0, 4.0), (0.5, 2.15), (1.0, 0.3)])
def test_the_loss_is_cross_entropy_and_weighted_regression(progress, weight):
    batch, logits, motion = values()
    truth = np.eye(4)[batch.labels.numpy()]
    smooth = 0.9 * truth + 0.1 / 4
    off = np.abs(motion - batch.targets.numpy())
    expected = -(smooth * np.log(softmax(logits))).sum(axis=1).mean()
    expected += weight * sum(np.where(one < 1, one**2 / 2, one - 0.5).mean() for one in off)
    output = StudentOutput(torch.from_numpy(logits), torch.from_numpy(motion), None)
    loss = Objective(label_smoothing=0.1)(batch, output, progress)
    assert float(loss) == pytest.approx(expected)


def test_distillation_is_the_divergence_from_the_mean_of_the_teachers():
    batch, logits, _ = values()
    models = [build_toy().eval(), build_toy().eval()]
    nn.init.normal_(models[1].clip.mlp[-1].weight)
    with torch.no_grad():
        teacher = np.mean([softmax(model(batch.clips).double().numpy() / 8) for model in models], axis=0)
    student = softmax(logits / 8)
    divergence = (teacher * np.log(teacher / student)).sum(axis=1).mean()
    output = StudentOutput(torch.from_numpy(logits), None, None)
    plain, distilled = (
        objective(batch, output, 0.0) for objective in (Objective(), Objective(teachers=Teachers(models)))
    )
    assert float(distilled - plain) == pytest.approx(0.4 * 64 * divergence, rel=1e-4)


@torch.no_grad()
def test_a_teacher_of_another_size_sees_the_same_clips():
    larger = build_toy(replace(TOY, height_px=64, width_px=96)).eval()
    seen = Teachers([larger])(torch.full_like(clips(), 200)).probabilities
    same = torch.softmax(larger(torch.full((3, 3, 64, 96, 3), 200, dtype=torch.uint8)) / 8, dim=1)
    torch.testing.assert_close(seen, same)


@pytest.mark.parametrize("progress", [0.0, 0.75])
def test_hints_are_the_tokens_of_all_teachers_and_fade(progress):
    batch, logits, _ = values()
    models = [build_toy().eval(), build_toy(replace(TOY, token_dim=2 * TOY.token_dim)).eval()]
    student = Student(build_toy().eval(), 0, Teachers(models, hint=True).hints)
    with torch.no_grad():
        output = student(batch.clips)
        expected = [[], []]
        for model in models:
            tokens = torch.stack([model.encode_frames(batch.clips[:, i]) for i in range(TOY.frames)], dim=1)
            for stage, one in zip(expected, (tokens, model.clip.mix(tokens))):
                one = one.double().numpy()
                spread = np.sqrt(one.var(axis=-1, keepdims=True) + 1e-5)
                stage.append((one - one.mean(axis=-1, keepdims=True)) / spread)
        off = [output.hints[i].numpy() - np.concatenate(stage, axis=-1) for i, stage in enumerate(expected)]
        without = Objective(teachers=Teachers(models))(batch, output._replace(hints=None), progress)
        hinted = Objective(teachers=Teachers(models, hint=True), hint_weight=3.0)(batch, output, progress)
    expected = 3.0 * (1 - progress) * sum((one**2).mean() for one in off)
    assert float(hinted - without) == pytest.approx(expected, rel=1e-4)


def test_hints_need_the_same_tokens(tmp_path):
    path = write_weights(tmp_path / "t.safetensors")
    student = build_toy(replace(TOY, width_px=4 * TOY.width_px))
    assert load_teachers([path], student, LABELS, CPU).hints == 0
    with pytest.raises(WeightsError, match=r"makes \d x \d tokens of an image, the student \d x \d"):
        load_teachers([path], student, LABELS, CPU, hint=True)


def test_a_teacher_of_other_classes_or_frames_is_refused(tmp_path):
    student = build_toy()
    path = write_weights(tmp_path / "t.safetensors")
    assert load_teachers([path], student, LABELS, CPU) is not None and load_teachers([], student, LABELS, CPU) is None
    for labels, said in ((("left", "right", "up", "in"), "differ in down, in"), (LABELS[::-1], "another order")):
        with pytest.raises(WeightsError, match=said):
            load_teachers([path], student, labels, CPU)
    save_weights(tmp_path / "five.safetensors", build_toy(replace(TOY, frames=5)), LABELS, {})
    with pytest.raises(WeightsError, match="takes 5 frames, the student 3"):
        load_teachers([path, str(tmp_path / "five.safetensors")], student, LABELS, CPU)


def test_the_learning_rate_rises_then_falls_to_zero():
    rates = [learning_rate(step, 100, 2.0, 0.1) for step in range(101)]
    assert rates[10] == 2.0 and rates[5] == 1.0 and 0 < rates[0] < 0.1
    assert rates[55] == pytest.approx(1.0) and rates[100] == pytest.approx(0, abs=1e-9)
    assert all(math.isfinite(learning_rate(step, 1, 1.0, 0.05)) for step in (0, 1))


def test_norms_biases_and_positions_are_not_decayed():
    student = Student(build_toy(), 2)
    decayed, free = make_optimizer(student, 1e-3, 0.05).param_groups
    names = {id(p): name for name, p in student.named_parameters()}
    decayed, free = ([names[id(p)] for p in group["params"]] for group in (decayed, free))
    assert {"model.frame.row_position", "model.clip.time_position", "motion.bias", "pair_motion.2.bias"} <= set(free)
    assert "pair_motion.0.weight" in decayed and all(name.endswith("weight") for name in decayed)
    assert len(decayed) + len(free) == len(names)


def test_the_average_is_the_one_of_the_formula():
    module = nn.BatchNorm1d(2)
    average = WeightAverage(module, 0.5)
    mean = module.weight.detach().clone()
    for step in range(20):
        with torch.no_grad():
            module.weight.add_(step)
            module.num_batches_tracked.add_(1)
        average.update(module, step)
        decay = min(0.5, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * module.weight.detach()
    torch.testing.assert_close(average.module.weight, mean)
    assert average.module.num_batches_tracked == 20 and not average.module.weight.requires_grad
