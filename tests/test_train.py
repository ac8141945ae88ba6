"""Training as its users see it: it learns, it says what happened, and the same seed gives the same weights."""

import argparse
import json
import logging
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from toy_clips import LABELS, Squares, write_clips, write_weights
from toy_model import build_toy

from vlf_edge.commands import train as command
from vlf_edge.errors import VlfError, WeightsError
from vlf_edge.models.weights import load_weights
from vlf_edge.options import given_options
from vlf_edge.training import Settings, curves, start, train
from vlf_edge.training.checkpoint import Outputs
from vlf_edge.training.frozen import freeze_stage


@pytest.fixture
def sets(monkeypatch):
    """The data sets that runs open: change them before the run."""
    sets = {"train": Squares(32), "val": Squares(8)}
    monkeypatch.setattr(start, "open_dataset", lambda data, split, **_: sets[split])
    return sets


@pytest.fixture
def settings(tmp_path, sets):
    toy = write_weights(tmp_path / "toy.safetensors")
    return Settings(
        data="squares", out=str(tmp_path / "w.safetensors"), start=toy, epochs=2, batch=8, lr=1e-3, workers=0,
        clips_per_epoch=32,
    )  # fmt: skip


def tensors(path):
    return safetensors.torch.load_file(path)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_it_learns_and_says_how_well(settings, sets, caplog):
    caplog.set_level(logging.INFO)
    settings = replace(settings, epochs=8, batch=8, clips_per_epoch=128, lr=4e-3, seed=1)
    seen = []
    outcome = train(settings, progress=lambda *what: seen.append(what), command="vlf-edge train squares")
    first, last = outcome.history[0], outcome.history[-1]
    assert last["top1"] >= 0.9 and last["loss"] < first["loss"] / 2 and last["val_loss"] < first["val_loss"] / 2
    loaded = load_weights(outcome.best)
    assert loaded.labels == LABELS and loaded.record == outcome.record
    record = loaded.record
    assert (record["data"], record["span_s"], record["epochs"]) == ("squares", 1.0, 8)
    assert record["clips"] == 8 * 128 and record["seed"] == 1 and record["command"] == "vlf-edge train squares"
    assert set(record["val"]["recall"]) == set(LABELS) and record["val"]["clips"] == 8
    assert record["files"]["from"][0]["sha256"] == load_weights(settings.start).sha256
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    epochs = [what for what in seen if what[0] != "report"]
    assert epochs[:2] == [("epoch 1/8", 1, 16), ("epoch 1/8", 2, 16)] and epochs[-1] == ("epoch 8/8", 16, 16)
    assert seen[-1] == ("report", 8, 8)
    with torch.no_grad():
        clips = np.stack([sets["val"].sample(i, None).frames for i in range(8)])
        answers = loaded.model(torch.from_numpy(clips)).argmax(dim=1).tolist()
    assert np.mean(np.equal(answers, [0, 1, 2, 3] * 2)) == record["val"]["top1"]


def test_the_same_seed_gives_the_same_weights_with_any_workers(settings, tmp_path):
    outs = [tmp_path / name for name in ("a.safetensors", "b.safetensors", "c.safetensors")]
    for out, change in zip(outs, ({}, {"workers": 2}, {"seed": 1})):
        train(replace(settings, out=str(out), **change))
    assert equal(tensors(outs[0]), tensors(outs[1])) and not equal(tensors(outs[0]), tensors(outs[2]))


def test_only_new_models_begin_with_easy_clips(settings, sets, monkeypatch):
    told = []
    sets["train"].set_progress = told.append
    train(settings)
    assert set(told) == {1.0}
    told.clear()
    toy = load_weights(settings.start).model
    monkeypatch.setattr(start, "create_model", lambda *_, **__: toy.train())
    train(replace(settings, start=None, model="vlf-tiny", out=settings.out.replace("w.", "new.")))
    assert set(told) == {0.0, 1.0}


def test_a_run_leaves_the_callers_random_state_alone(settings):
    before = torch.random.get_rng_state()
    train(replace(settings, epochs=1))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_head_follows_the_classes(settings, caplog):
    caplog.set_level(logging.INFO)
    old = load_weights(settings.start)
    clip = torch.from_numpy(np.stack([Squares().sample(1, None).frames]))
    turned = start.make_model(settings, load_weights(settings.start), LABELS[::-1]).eval()
    with torch.no_grad():
        assert torch.equal(turned(clip).flip(1), old.model(clip))
    new = start.make_model(settings, load_weights(settings.start), ("a", "b"))
    assert new.sizes.classes == 2 and new.training and "head re-initialised: 2 classes" in caplog.text
    kept = {name: tensor for name, tensor in old.model.state_dict().items() if not name.startswith("clip.mlp.3.")}
    assert all(torch.equal(new.state_dict()[name], tensor) for name, tensor in kept.items())
    assert len(kept) == len(new.state_dict()) - 2


def test_a_new_model_is_made_by_name(tmp_path):
    settings = Settings(data="x", out="w.safetensors", model="vlf-tiny", backbone="resnet18", seed=3)
    model = start.make_model(settings, None, ("a", "b", "c"))
    assert model.sizes.backbone == "resnet18" and model.sizes.classes == 3
    other = start.make_model(replace(settings, size_px=96, frames=4), None, ("a", "b"))
    assert (other.sizes.height_px, other.sizes.width_px, other.sizes.frames) == (96, 96, 4)
    same = start.make_model(settings, None, ("a", "b", "c"))
    assert equal(model.state_dict(), same.state_dict())


def test_a_frozen_stage_does_not_move(settings):
    before, after = tensors(settings.start), tensors(train(replace(settings, freeze="frame")).best)
    moved = {name.split(".")[0] for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert moved == {"clip"}
    free = tensors(train(settings).best)
    assert not torch.equal(before["frame.project.1.running_mean"], free["frame.project.1.running_mean"])


def test_a_model_without_the_stage_cannot_freeze_it():
    model = build_toy()
    frame, clip = model.stages()
    for stages in ((clip,), (frame,)):
        model.stages = lambda stages=stages: stages
        with pytest.raises(VlfError, match=f"vlf-tiny has the stages {stages[0].name}; leave out --freeze frame"):
            freeze_stage(model, "frame")


def test_balanced_classes_are_seen_as_often_and_count_as_much(settings, sets):
    for name, count in (("train", 32), ("val", 8)):  # half of "left" and nothing else of it; all of the others
        sets[name] = Squares(count)
        rare = [clip for clip in sets[name].clips if clip.label or clip.name == "square 0"]
        order = [int(clip.name.split()[1]) for clip in rare]
        sample = sets[name].sample
        sets[name].clips = rare
        sets[name].sample = lambda index, rng, sample=sample, order=order: sample(order[index], rng)
    seen = []
    sample = sets["train"].sample
    sets["train"].sample = lambda index, rng: seen.append(sets["train"].clips[index].label) or sample(index, rng)
    record = train(replace(settings, balance=True)).record
    assert np.bincount(seen).tolist() == [16, 16, 16, 16]
    val = record["val"]
    assert val["top1"] == pytest.approx(np.mean(list(val["recall"].values())), abs=1e-3)
    assert (val["clips"], val["chance"], record["settings"]["balance"]) == (7, 0.25, True)


def test_settings_that_make_no_run_are_refused(settings):
    for changes, said in (
        ({"epochs": 0}, "--epochs is 0; expected 1 or more"),
        ({"lr": 0.0}, "--lr is 0.0; expected above 0"),
        ({"span_s": float("nan")}, "--span is nan"),
        ({"label_smoothing": 1.0}, "--label-smoothing is 1.0; expected from 0 to below 1"),
        ({"seed": 1 << 64}, "--seed is 18446744073709551616; expected from 0 to 4294967295"),
        ({"size_px": 0}, "--size is 0; expected 1 or more"),
        ({"backbone": "resnet18"}, "brings a model as it is; leave out --backbone, or --from"),
        ({"size_px": 96, "frames": 4}, "leave out --size and --frames, or --from"),
        ({"hint_weight": 1.0}, "name some with --teacher"),
        ({"start": None, "qat": True}, "--qat fine-tunes"),
        ({"freeze": "head"}, "--freeze is 'head', expected one of frame"),
        ({"start": None, "freeze": "frame"}, "--freeze frame keeps what was learned"),
        ({"freeze": "frame", "qat": True}, "leave out --freeze frame, or --qat"),
    ):
        with pytest.raises(VlfError, match=said):
            replace(settings, **changes)
    with pytest.raises(WeightsError, match="--model is vlf-lite, but .* holds a vlf-tiny"):
        train(replace(settings, model="vlf-lite"))


def test_broken_clips_are_counted_and_named_once(settings, sets, caplog):
    sets["train"], sets["val"] = Squares(32, broken=(5, 6)), Squares(8, broken=(1,))
    outcome = train(settings)
    assert outcome.record["broken"] == {"training": 2, "validation": 1}
    assert [caplog.text.count(f"clip left out: square {i} is broken") for i in (5, 6, 1)] == [1, 1, 1]
    assert outcome.record["val"]["clips"] == 7 and outcome.history[-1]["clips"] == 32


def test_a_class_without_a_readable_clip_stops_the_run(settings, sets):
    sets["train"] = Squares(32, broken=tuple(range(2, 32, 4)))
    with pytest.raises(VlfError, match="class 'up' has no readable clip for training: all 8 are broken"):
        train(settings)
    sets["train"], sets["val"] = Squares(32), Squares(8, broken=(0, 4))
    with pytest.raises(VlfError, match="class 'left' has no readable clip for validation"):
        train(settings)


def test_divergence_is_an_error_and_leaves_no_weights(settings):
    with pytest.raises(VlfError, match="training diverged .* smaller --lr than 1e"):
        train(replace(settings, lr=1e30, warmup=0.0, clip_norm=1e30))
    assert not Path(settings.out).exists()


def test_few_clips_are_seen_several_times_in_an_epoch(settings):
    asked = replace(settings, clips_per_epoch=None, batch=32)
    assert [asked.steps_per_epoch(clips) for clips in (1, 72, 320, 3200)] == [10, 10, 10, 100]
    assert settings.steps_per_epoch(10_000) == 4
    outcome = train(replace(settings, clips_per_epoch=None, epochs=1))
    assert outcome.record["clips"] == 10 * 8


def test_the_rate_depends_on_what_is_learned(settings):
    free = replace(settings, lr=None)
    assert (free.peak_lr, replace(free, qat=True).peak_lr, replace(free, start=None).peak_lr) == (1e-3, 2e-4, 1e-3)


def test_a_run_ends_when_nothing_improves_and_stays_ended(settings, caplog):
    caplog.set_level(logging.INFO)
    settings = replace(settings, epochs=9, lr=1e-9, ema_decay=0.0, patience=2)  # learns nothing
    outcome = train(settings)
    assert outcome.finished and 3 <= len(outcome.history) < 9
    assert "nothing has improved for 2 epochs; --patience 0 goes on" in caplog.text
    assert train(settings, resume=True).history == outcome.history
    assert len(train(replace(settings, patience=0)).history) == 9
    assert settings.most_idle_epochs == 2 and replace(settings, patience=None).most_idle_epochs == 8
    assert replace(settings, start=None, patience=None).most_idle_epochs == 0


def test_a_run_that_learned_nothing_says_what_to_do(settings, sets, caplog):
    outcome = train(replace(settings, lr=1e-9, epochs=1))
    assert outcome.advice.startswith("it has not learned: ") and "--epochs 2" in outcome.advice
    assert outcome.to_json()["advice"] == outcome.advice


def test_how_long_it_takes_is_said_after_a_few_steps(settings, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    train(replace(settings, clips_per_epoch=8 * 20, epochs=1))
    assert caplog.text.count("20 steps will take") == 1


def test_that_no_gpu_is_there_is_said_once(settings, caplog, monkeypatch, recwarn):
    def complain():
        warnings.warn("CUDA initialization: Found no NVIDIA driver on your system.", stacklevel=1)
        return False

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(torch.cuda, "is_available", complain)
    train(settings)
    torch.cuda.is_available()
    assert caplog.text.count("Found no NVIDIA driver") == 1 and not recwarn.list


def test_quantisation_aware_training_keeps_its_scales(settings):
    outcome = train(replace(settings, qat=True, epochs=1))
    scales = load_weights(outcome.best).record["qat"]["scales"]
    assert scales.keys() == {"frame", "clip"}
    assert all(scale > 0 for stage in scales.values() for scale in stage.values())
    assert outcome.record["arithmetic"] == "float32"


def test_curves_are_a_table_and_a_picture(settings, tmp_path):
    outcome = train(settings)
    outputs = Outputs(outcome.best)
    rows = outputs.table.read_text().splitlines()
    assert rows[0] == ",".join(curves.COLUMNS) and len(rows) == 3
    values = dict(zip(curves.COLUMNS, map(float, rows[2].split(","))))
    assert values == pytest.approx(outcome.history[1], rel=1e-5)
    image = cv2.imread(str(outputs.picture))
    for colour in (curves._BLUE, curves._ORANGE):
        left, right = ((half == colour).all(axis=2).sum() for half in np.array_split(image[40:], 2, axis=1))
        assert left > 100 and right > 100
    curves.picture([{name: 0.0 for name in curves.COLUMNS}])  # an epoch without any loss
    page = outputs.report.read_text()
    assert f"{round(8 * outcome.record['val']['top1'])} of 8 clips right" in page and page.count('class="film"') == 8
    outputs.report.write_text("somebody's page")
    with pytest.raises(WeightsError, match="would overwrite .*w.html"):
        train(settings)


def test_the_command_trains_on_a_folder(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    toy, data = write_weights(tmp_path / "toy.safetensors", ("a", "b", "c", "d")), write_clips(tmp_path / "clips")
    (data / "up" / "broken.avi").write_bytes(b"no video")
    words = [str(data), "--from", toy, "--out", str(tmp_path / "w.safetensors"), "--epochs", "2", "--batch", "4",
             "--clips-per-epoch", "16"]  # fmt: skip
    assert command.main(parser.parse_args([*words, "--workers", "0", "--json"])) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["finished"] and set(said["record"]["val"]["recall"]) == set(LABELS) and len(said["history"]) == 2
    assert command.main(parser.parse_args([*words, "--workers", "1", "--resume"])) == 0
    assert "validation: top-1" in capsys.readouterr().out


def test_the_command_asks_for_what_settings_default_to():
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    asked = given_options(parser.parse_args(["x"]), Settings)
    assert Settings(**asked) == Settings(data="x", out="weights.safetensors")


def test_validation_data_named_apart_is_used_whole_and_nothing_is_held_out(tmp_path):
    settings = Settings(data=str(write_clips(tmp_path / "a", 5)), out="w.safetensors", span_s=1.0)
    for val, sizes in ((None, (16, 4)), (settings.data + "/", (16, 4)), (str(write_clips(tmp_path / "b", 2)), (20, 8))):
        learn, judge = start.open_data(replace(settings, val=val), None)
        assert (len(learn), len(judge)) == sizes


def test_as_many_threads_compute_as_asked_for_and_no_more_afterwards(settings):
    before, during = torch.get_num_threads(), []

    def stop():
        during.append(torch.get_num_threads())
        return True

    assert not train(replace(settings, threads=before + 1), should_stop=stop).finished
    assert (during[0], torch.get_num_threads()) == (before + 1, before)
    with pytest.raises(VlfError, match="--threads is 0"):
        replace(settings, threads=0)


_ONE_OF_TWO = """
import argparse, sys
from vlf_edge.commands import train
parser = argparse.ArgumentParser()
train.add_arguments(parser)
sys.exit(train.main(parser.parse_args()))
"""


@pytest.mark.slow
def test_two_processes_share_a_run(tmp_path):
    toy, data = write_weights(tmp_path / "toy.safetensors"), write_clips(tmp_path / "clips")
    for label in LABELS:
        (data / label / "broken.avi").write_bytes(b"no video")
    (tmp_path / "one.py").write_text(_ONE_OF_TWO)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = ["one.py", str(data), "--from", toy, "--epochs", "1", "--batch", "4", "--workers", "0", "--json",
             "--clips-per-epoch", "20"]  # fmt: skip
    done = subprocess.run([*launch, *words], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)  # of one process only
    assert said["record"]["device"] == "2 x CPU" and said["record"]["clips"] == 20
    assert said["record"]["broken"] == {"training": 4, "validation": 0}  # of both
    assert load_weights(tmp_path / "weights.safetensors").labels == tuple(sorted(LABELS))
