import hashlib
import json
import os
import pickle
import resource

import numpy as np
import pytest
import safetensors.torch
import torch
from toy_model import TOY, build_toy

from vlf_edge.errors import WeightsError
from vlf_edge.models import weights
from vlf_edge.models.weights import load_weights, save_weights

LABELS = ("push", "pull", "lift", "drop")
RECORD = {"data": "motion", "epochs": 3, "top1": 0.5}


@pytest.fixture(scope="module")
def toy():
    return build_toy().eval()


def clip():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 32, 64, 3), dtype=np.uint8))


def refusal(path):
    with pytest.raises(WeightsError) as raised:
        load_weights(path)
    said = str(raised.value)
    assert str(path) in said and "\n" not in said
    return said


def torch_file(toy, path, **changes):
    content = {"sizes": TOY.to_json(), "labels": list(LABELS), "state_dict": toy.state_dict(), **changes}
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return path


def edited(toy, path, tensors=None, **changes):
    """A safetensors file whose contents were tampered with."""
    about = {"sizes": TOY.to_json(), "labels": LABELS, "record": RECORD, **changes}
    about = {key: value for key, value in about.items() if value is not None}
    safetensors.torch.save_file({**toy.state_dict(), **(tensors or {})}, path, {"vlf_edge": json.dumps(about)})
    return path


@torch.no_grad()
def test_what_is_saved_is_loaded(toy, tmp_path):
    path = tmp_path / "new" / "w.safetensors"
    save_weights(path, toy, LABELS, RECORD)
    loaded = load_weights(path)
    assert loaded.model.sizes == TOY and not loaded.model.training
    assert (loaded.labels, loaded.record) == (LABELS, RECORD)
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert torch.equal(loaded.model(clip()), toy(clip()))
    assert [p.name for p in path.parent.iterdir()] == ["w.safetensors"]


@torch.no_grad()
def test_half_the_bytes_hold_the_rounded_model(toy, tmp_path):
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    save_weights(whole, toy, LABELS, RECORD)
    save_weights(half, toy, LABELS, RECORD, half=True)
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    loaded, logits = load_weights(half).model, toy(clip())
    assert next(loaded.parameters()).dtype == torch.float32
    assert 0 < (loaded(clip()) - logits).abs().max() < 0.02 * logits.abs().max()


def test_what_float16_cannot_hold_stays_as_it_is(tmp_path):
    model = build_toy()
    norm = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    norm.running_var[0] = 1e6
    save_weights(tmp_path / "w.safetensors", model, LABELS, RECORD, half=True)
    loaded = load_weights(tmp_path / "w.safetensors").model.state_dict()
    (name,) = (name for name, tensor in model.state_dict().items() if tensor.data_ptr() == norm.running_var.data_ptr())
    assert torch.equal(loaded[name], norm.running_var)


def test_the_same_model_gives_the_same_bytes(toy, tmp_path):
    for name in ("a", "b"):
        save_weights(tmp_path / f"{name}.safetensors", toy, LABELS, RECORD)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_loading_leaves_the_callers_random_state_alone(toy, tmp_path):
    save_weights(tmp_path / "w.safetensors", toy, LABELS, RECORD)
    before = torch.random.get_rng_state()
    load_weights(tmp_path / "w.safetensors")
    assert torch.equal(torch.random.get_rng_state(), before)


@torch.no_grad()
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_a_torch_file_of_plain_tensors_is_read(toy, tmp_path, suffix):
    loaded = load_weights(torch_file(toy, tmp_path / f"w{suffix}"))
    assert (loaded.labels, loaded.record) == (LABELS, {})
    assert torch.equal(loaded.model(clip()), toy(clip()))


class Payload:
    """Runs code when unpickled, as a hostile file would."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_torch_file_with_objects_is_refused_and_runs_nothing(toy, tmp_path, zipped):
    path, trace = tmp_path / "w.pt", tmp_path / "ran"
    content = {"sizes": TOY.to_json(), "labels": list(LABELS), "state_dict": {}, "extra": Payload(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert "refused" in refusal(path)
    assert not trace.exists()


def test_a_bare_pickle_is_refused_and_runs_nothing(tmp_path):
    path, trace = tmp_path / "w.pth", tmp_path / "ran"
    path.write_bytes(pickle.dumps(Payload(trace)))
    assert "refused" in refusal(path)
    assert not trace.exists()


def test_a_whole_model_in_a_torch_file_is_refused(toy, tmp_path):
    torch.save(toy, tmp_path / "w.pt")
    assert "refused" in refusal(tmp_path / "w.pt")


def test_missing_and_unreadable_files(tmp_path):
    assert "no weights at" in refusal(tmp_path / "none.safetensors")
    (tmp_path / "folder.pt").mkdir()
    assert "cannot be read: Is a directory" in refusal(tmp_path / "folder.pt")
    (tmp_path / "w.onnx").touch()
    assert "expected .safetensors, .pt, .pth" in refusal(tmp_path / "w.onnx")


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff" * 200, b"\x02\0\0\0\0\0\0\0{}"])
def test_damaged_files(tmp_path, data):
    (tmp_path / "w.safetensors").write_bytes(data)
    said = refusal(tmp_path / "w.safetensors")
    assert "damaged or not safetensors" in said or "not written by vlf-edge" in said
    (tmp_path / "w.pt").write_bytes(data)
    assert "refused" in refusal(tmp_path / "w.pt")


def test_a_truncated_file(toy, tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, toy, LABELS, RECORD)
    path.write_bytes(path.read_bytes()[:-1000])
    assert "damaged" in refusal(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"vlf_edge": "{"}])
def test_safetensors_of_others(tmp_path, metadata):
    safetensors.torch.save_file({"w": torch.zeros(2)}, tmp_path / "w.safetensors", metadata)
    assert "not written by vlf-edge" in refusal(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"sizes": None}, "lack sizes"),
        ({"labels": None}, "lack labels"),
        ({"labels": ["a", "b"]}, "2 labels for a model of 4 classes"),
        ({"labels": "abcd"}, "labels are not a list of names"),
        ({"labels": [1, 2, 3, 4]}, "labels are not a list of names"),
        ({"sizes": {**TOY.to_json(), "name": "other"}}, "no model 'other'"),
        ({"sizes": {**TOY.to_json(), "frames": -1}}, "frames is -1"),
        ({"sizes": {**TOY.to_json(), "backbone_options": {"checkpoint_path": "x"}}}, "cannot set checkpoint_path"),
        ({"sizes": {**TOY.to_json(), "frames": 5}}, "clip.time_position is (3, 1, 16), expected (5, 1, 16)"),
        ({"sizes": {**TOY.to_json(), "temporal_layers": 2}}, "12 tensors missing (clip.h.layers.1."),
        ({"sizes": []}, "not an object with a model's name"),
    ],
)
def test_both_kinds_of_file_are_checked_alike(toy, tmp_path, changes, said):
    assert said in refusal(edited(toy, tmp_path / "w.safetensors", **changes))
    assert said in refusal(torch_file(toy, tmp_path / "w.pt", **changes))


def test_a_torch_file_without_tensors(toy, tmp_path):
    assert "lack state_dict" in refusal(torch_file(toy, tmp_path / "w.pt", state_dict=None))
    assert "not a dict of tensors" in refusal(torch_file(toy, tmp_path / "w.pt", state_dict={"a": 1}))
    torch.save([1, 2], tmp_path / "w.pt")
    assert "lack sizes, labels, state_dict" in refusal(tmp_path / "w.pt")


def test_tensors_too_many_or_not_finite(toy, tmp_path):
    path = tmp_path / "w.safetensors"
    assert "1 unknown (ghost)" in refusal(edited(toy, path, {"ghost": torch.zeros(1)}))
    broken = torch.full((3, 1, 16), float("nan"))
    assert "clip.time_position holds NaN" in refusal(edited(toy, path, {"clip.time_position": broken}))


def test_what_cannot_be_saved(toy, tmp_path):
    for path, labels, record, said in (
        (tmp_path / "w.pt", LABELS, RECORD, "written as .safetensors"),
        (tmp_path / "w.safetensors", LABELS[:2], RECORD, "2 labels for a model of 4 classes"),
        (tmp_path / "w.safetensors", LABELS, {"time": object()}, "not plain JSON"),
        (tmp_path / "file" / "w.safetensors", LABELS, RECORD, "cannot be written"),
    ):
        (tmp_path / "file").touch()
        with pytest.raises(WeightsError, match=said):
            save_weights(path, toy, labels, record)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "sizes, said",
    [
        ({"token_dim": 4096, "ffn_ratio": 256}, "are of another model: "),
        ({"backbone_options": {"channels": (8, 8, 16), "layers": (1, 1, 10**9)}}, "numbers up to 8192"),
        ({"backbone_options": {"channels": (8, 8, 16), "layers": (1, 1, 8000)}}, "more than 2000 tensors"),
    ],
)
def test_sizes_are_compared_before_any_memory_is_taken(toy, tmp_path, sizes, said, monkeypatch):
    """They would ask for 17 GB, or for days of making layers."""
    monkeypatch.setattr(weights, "_MOST_TENSORS", 2000)
    path = edited(toy, tmp_path / "w.safetensors", sizes={**TOY.to_json(), **sizes})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert said in refusal(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


def test_what_blocks_or_never_ends_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        assert "cannot be read: not a regular file" in refusal(tmp_path / f"{name}.safetensors")


def test_names_and_values_that_are_no_plain_text_and_numbers(toy, tmp_path):
    path = tmp_path / "w.safetensors"
    assert "is not printable text" in refusal(edited(toy, path, labels=["a", "b", "c", "\x1b[2J"]))
    for record in ({"loss": float("nan")}, {"data": "\ud800"}):
        assert "not written by vlf-edge" in refusal(edited(toy, path, record=record))
    deep = 1
    for _ in range(900):
        deep = [deep]
    refusal(edited(toy, path, sizes={**TOY.to_json(), "backbone_options": {"layers": deep}}))


def test_a_record_that_is_no_object_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, TOY.build(), LABELS, {})
    path.write_bytes(path.read_bytes().replace(b'\\"record\\": {}', b'\\"record\\": []'))
    with pytest.raises(WeightsError, match="record is not an object"):
        load_weights(path)
