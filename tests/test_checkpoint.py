"""A run that was stopped or killed anywhere ends as if nothing had happened."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from toy_clips import LABELS, Squares, write_weights

from vlf_edge.errors import WeightsError
from vlf_edge.models.weights import load_weights
from vlf_edge.training import Settings, start, train, trainer
from vlf_edge.training.checkpoint import Outputs, load_state, save_state
from vlf_edge.training.device import acquire_device


def squares(patch, folder):
    """Two epochs of four steps."""
    patch.setattr(start, "open_dataset", lambda data, split, **_: Squares(32 if split == "train" else 8))
    toy = write_weights(folder / "toy.safetensors")
    return Settings(
        data="squares", out=str(folder / "run" / "w.safetensors"), start=toy, epochs=2, batch=8, lr=1e-3, workers=0,
        clips_per_epoch=32,
    )  # fmt: skip


@pytest.fixture
def settings(tmp_path, monkeypatch):
    return squares(monkeypatch, tmp_path)


def stop_after(steps):
    """should_stop that says yes when so many steps are done."""
    asked = iter(range(1, 1000))
    return lambda: next(asked) >= steps


def tensors(path):
    return safetensors.torch.load_file(path)


def assert_same(one, other):
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The same run without an interruption."""
    with pytest.MonkeyPatch.context() as patch:
        return train(squares(patch, tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize("steps", [2, 4, 5])
def test_a_stopped_run_resumes_as_if_it_had_not_been(settings, whole, steps):
    stopped = train(settings, should_stop=stop_after(steps))
    assert not stopped.finished and len(stopped.history) == steps // 4
    resumed = train(settings, resume=True)
    assert resumed.finished and whole.finished
    for name in ("best", "last"):
        assert_same(tensors(getattr(resumed, name)), tensors(getattr(whole, name)))
    untimed = [[{**row, "seconds": 0} for row in outcome.history] for outcome in (resumed, whole)]
    assert untimed[0] == untimed[1]
    assert resumed.record["clips"] == whole.record["clips"] == 64


def test_a_killed_run_resumes_from_its_last_state(settings, whole, monkeypatch):
    """Killed between writing the weights and writing the state of the second epoch."""
    save, calls = trainer.save_state, []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        save(*arguments)

    monkeypatch.setattr(trainer, "save_state", killed)
    with pytest.raises(KeyboardInterrupt):
        train(settings)
    monkeypatch.setattr(trainer, "save_state", save)
    resumed = train(settings, resume=True)
    assert_same(tensors(resumed.last), tensors(whole.last))
    assert not [path for path in resumed.best.parent.iterdir() if path.name.startswith(".partial")]


def test_a_run_stopped_while_an_epoch_is_judged_resumes_with_that(settings, whole, monkeypatch):
    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "_WORTH_S", 0.0)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(trainer.Validator, "__call__", stopped)
        train(settings)
    resumed = train(settings, resume=True)
    assert_same(tensors(resumed.last), tensors(whole.last))
    assert [row["loss"] for row in resumed.history] == [row["loss"] for row in whole.history]


def test_a_finished_run_has_nothing_left_to_do(settings):
    first = train(settings)
    before = first.best.read_bytes()
    again = train(settings, resume=True)
    assert again.finished and again.history == first.history and again.record == first.record
    assert first.best.read_bytes() == before


def test_when_time_is_up_everything_is_there(settings):
    outcome = train(replace(settings, max_minutes=1e-6))
    assert not outcome.finished and outcome.history == ()
    assert outcome.record["epochs"] == 0.25 and outcome.record["clips"] == 8
    assert load_weights(outcome.best).labels == LABELS and outcome.last.exists()
    outputs = Outputs(outcome.best)
    assert len(outputs.table.read_text().splitlines()) == 2 and outputs.picture.exists()
    assert train(settings, resume=True).finished


def test_only_the_same_run_is_resumed(settings):
    with pytest.raises(WeightsError, match="no run to resume at .*w.resume.safetensors; leave out --resume"):
        train(settings, resume=True)
    train(settings, should_stop=stop_after(1))
    with pytest.raises(WeightsError, match="epochs 2 then and 3 now"):
        train(replace(settings, epochs=3), resume=True)
    train(replace(settings, workers=1, max_minutes=60.0), resume=True)


def test_a_state_comes_back_as_it_was_saved(tmp_path):
    groups = {"a": {"x.y": torch.arange(3), "z": torch.tensor(2.5)}, "b": {"x.y": torch.ones(2, 2).bfloat16()}}
    values = {"step": 7, "rate": 0.1 + 0.2, "none": None, "names": ["é"]}
    save_state(tmp_path / "s", groups, values)
    read, said = load_state(tmp_path / "s")
    assert said == values and read.keys() == groups.keys()
    for group in groups:
        assert_same(read[group], groups[group])


def test_a_damaged_state_is_refused_in_one_line(tmp_path):
    path = tmp_path / "s.resume.safetensors"
    save_state(path, {"a": {"x": torch.ones(3)}}, {})
    whole = path.read_bytes()
    foreign = safetensors.torch.save({"x": torch.ones(1)}, {"other": json.dumps({})})
    for data in (b"", whole[:-5], b"\xff" * 40, foreign, np.random.default_rng(0).bytes(200)):
        path.write_bytes(data)
        with pytest.raises(WeightsError) as raised:
            load_state(path)
        assert str(path) in str(raised.value) and "--resume" in str(raised.value) and "\n" not in str(raised.value)


def test_a_hostile_state_is_refused_in_one_line(settings):
    """Well-formed files whose values or tensors no run wrote."""
    train(settings, should_stop=stop_after(5))
    outputs, loaded = Outputs(Path(settings.out)), load_weights(settings.start)
    with acquire_device() as device:
        resumed = trainer.Trainer(settings, device, outputs, loaded.model, Squares(32), Squares(8), "")
    path = outputs.resume
    groups, values = load_state(path)
    row, best, broken = values["history"][0], values["best"], torch.tensor(float("nan"))
    changes = [{name: wrong} for name in values for wrong in ([], {"a": [{}]}, "x", 1e300, -1, True, [[1]])]
    changes += [
        {"step": 10**6}, {"history": []}, {"history": [row, row]}, {"history": [{**row, "top1": "1"}]},
        {"history": [{**row, "seconds": -1}]}, {"sums": [1, 2]}, {"best": None}, {"best": {**best, "val": {}}},
        {"best": {**best, "minutes": "\x1b[2J"}}, {"broken": {"-1": "x"}}, {"broken": {"99": "x"}},
        {"broken": {"1": 2}}, {"identity": {"\x1b[2J": 1}},
    ]  # fmt: skip
    for change in changes:
        if change.get("scaler") == {} or all(values[name] == wrong for name, wrong in change.items()):
            continue
        save_state(path, groups, {**values, **change})
        refused(resumed, change)
    for name in values:
        save_state(path, groups, {key: value for key, value in values.items() if key != name})
        refused(resumed, name)
    moments = groups["optimizer"]
    for wrong in (
        {"optimizer": {**moments, "-1.exp_avg": torch.ones(1)}}, {"optimizer": {**moments, "0.exp_avg": torch.ones(1)}},
        {"optimizer": {"x": torch.ones(1)}}, {"optimizer": {**moments, "0.step": torch.ones(3)}},
        {"optimizer": {**moments, "0.step": broken}}, {"learner": {}}, {"average": {"x": torch.ones(1)}},
        {"learner": {name: tensor[:0] for name, tensor in groups["learner"].items() if tensor.ndim}},
    ):  # fmt: skip
        save_state(path, {**groups, **wrong}, values)
        refused(resumed, wrong.keys())
    save_state(path, groups, values)
    resumed.restore()
    assert resumed.step == 5


def refused(resumed, what):
    with pytest.raises(WeightsError) as raised:
        resumed.restore()
    said = str(raised.value)
    assert "resume" in said and said.isprintable() and len(said) < 1000, what


def test_what_cannot_be_written_is_known_before_training(settings, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.safetensors").mkdir()
    for out, said in (("w.pt", "written as .safetensors"), ("file/w.safetensors", "cannot be written"),
                      ("folder.safetensors", "is a folder")):  # fmt: skip
        with pytest.raises(WeightsError, match=said):
            train(replace(settings, out=str(tmp_path / out)))


def test_a_run_overwrites_nothing_that_it_reads(settings, tmp_path):
    annotation = tmp_path / "clips.csv"
    annotation.write_text("a.mp4,wave\n")
    last = str(Outputs(tmp_path / "toy.safetensors").last)
    for changes, lost in (
        ({"out": settings.start}, "toy.safetensors"),
        ({"out": str(tmp_path / "toy.safetensors"), "start": None, "teachers": (last,)}, "toy.last.safetensors"),
        ({"out": str(tmp_path / "clips.safetensors")}, "clips.csv"),
    ):
        with pytest.raises(WeightsError, match=f"would overwrite .*{lost}; name another file"):
            train(replace(settings, **changes))
    assert annotation.read_text() == "a.mp4,wave\n"
    train(replace(settings, epochs=1))
    train(replace(settings, epochs=1))  # an earlier run is no loss
