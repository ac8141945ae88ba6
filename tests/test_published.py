"""Checkpoints in their authors' layouts. ``golden/published.json`` was written by the authors' code, once: names and
shapes of its tensors, and what it answered with the weights and the clip that ``tensor`` and ``clip`` make."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vlf_edge.cli import main
from vlf_edge.compiler.graph import Session
from vlf_edge.errors import WeightsError
from vlf_edge.models import sizes_of, xvit
from vlf_edge.models.published import load_published, sizes_in
from vlf_edge.models.published_names import translated
from vlf_edge.models.weights import load_weights

GOLDEN = json.loads((Path(__file__).parent / "golden" / "published.json").read_text())


def tensor(name: str, shape: list[int]) -> torch.Tensor:
    """Random values that depend on the tensor's name alone."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    values = random.standard_normal(tuple(shape)).astype(np.float32)
    if name.endswith("running_var"):
        return torch.from_numpy(1 + 0.1 * np.abs(values))
    if len(shape) < 2:
        gain = name.endswith(("weight", "a_2"))
        return torch.from_numpy((1 + 0.1 * values if gain else 0.1 * values).astype(np.float32))
    fan = shape[1] if "slf_attn.w_" in name else int(np.prod(shape[1:]))
    if name.endswith(("enc.weight", "embed", "cls_token")):
        fan = 4
    return torch.from_numpy((values * np.float32(np.sqrt(2 / fan))).astype(np.float32))


def clip(frames: int, size_px: int) -> torch.Tensor:
    images = np.random.RandomState(7).randint(0, 256, (1, frames, size_px, size_px, 3))
    return torch.from_numpy(images.astype(np.uint8))


def checkpoint(case: str) -> dict[str, torch.Tensor]:
    return {name: tensor(name, shape) for name, shape in GOLDEN[case]["layout"].items()}


@pytest.fixture
def tsn_file(tmp_path) -> Path:
    path = tmp_path / "ckpt.pth"
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in checkpoint("tsn").items()}}, path)
    return path


@pytest.mark.parametrize("case", GOLDEN)
def test_answers_are_those_of_the_authors_code(case):
    golden = GOLDEN[case]
    state, frames, size_px = checkpoint(case), golden["frames"], golden["size_px"]
    shape = {"frames": frames, "height_px": size_px, "width_px": size_px}
    given = {name: value for name, value in golden["sizes"].items() if golden["model"].startswith("xvit")}
    sizes = sizes_in(state, replace(sizes_of(golden["model"]), **shape, **given))
    assert (sizes.classes, sizes.frames) == (3, frames)
    assert {name: getattr(sizes, name) for name in golden["sizes"]} == golden["sizes"]
    model = sizes.build().eval()
    model.load_state_dict(translated(state, model.state_dict(), golden["model"]))
    with torch.no_grad():
        logits = model(clip(frames, size_px))[0].numpy()
    expected = np.array(golden["logits"])
    assert np.abs(logits - expected).max() <= 1e-4 * max(1, np.abs(expected).max())


def test_a_checkpoint_is_loaded_whole(tsn_file):
    loaded = load_published(tsn_file, "tsn", ("a", "b", "c"), frames=3, size_px=64)
    assert (loaded.model.sizes.backbone, loaded.model.sizes.frames, loaded.labels) == ("resnet18", 3, ("a", "b", "c"))
    with torch.no_grad():
        logits = loaded.model(clip(3, 64))[0]
    torch.testing.assert_close(logits, torch.tensor(GOLDEN["tsn"]["logits"]), rtol=1e-4, atol=1e-4)
    assert load_published(tsn_file, "tsn").labels == ("class 0", "class 1", "class 2")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("base_model.bn1.weight"), "1 tensors missing (base_model.bn1.weight), 0 unknown"),
        (lambda s: s.update({"base_model.extra": torch.zeros(2)}), "0 tensors missing (), 1 unknown (base_model.extra"),
        (lambda s: s.update({"base_model.bn1.weight": torch.zeros(2)}), "expected (64,)"),
        (lambda s: s.update({"base_model.bn1.weight": torch.full((64,), torch.nan)}), "holds NaN or infinite values"),
        (lambda s: s.pop("new_fc.weight"), "is no checkpoint of TSN, TSM, VTN or X-ViT"),
    ],
    ids=["missing", "left-over", "shape", "nan", "no-head"],
)
def test_nothing_is_loaded_in_part(tmp_path, change, said):
    state = checkpoint("tsn")
    change(state)
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    with pytest.raises(WeightsError) as error:
        load_published(tmp_path / "w.pth", "tsn", size_px=64)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tsm", "missing (base_model.layer1.0.conv1.net.weight"),
        ("vtn", "it has no self_attention_decoder"),
        ("xvit", "it has no consensus.mlp_head.4.weight"),
        ("tsn-mobilenetv2", "holds a resnet18, tsn-mobilenetv2 is of mobilenetv2_100: choose another --model"),
        ("vlf", "there are no published checkpoints of vlf"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(tsn_file, name, said):
    with pytest.raises(WeightsError) as error:
        load_published(tsn_file, name, **({} if name.startswith("vtn") or name == "xvit" else {"size_px": 64}))
    assert said in str(error.value)


def test_labels_must_be_as_many_as_classes(tsn_file):
    with pytest.raises(WeightsError, match="2 labels for a model of 3 classes"):
        load_published(tsn_file, "tsn", ("a", "b"), size_px=64)


def test_nothing_is_unpickled(tmp_path):
    torch.save({"state_dict": {"new_fc.weight": Path("x")}}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="refused"):
        load_published(tmp_path / "w.pth", "tsn")


def test_a_checkpoint_without_a_models_name_says_what_to_do(tsn_file):
    with pytest.raises(WeightsError, match="--model NAME --weights FILE"):
        load_weights(tsn_file)


def test_a_plan_is_built_of_a_checkpoint(tmp_path):
    """X-ViT's, since its layout is small at any width."""
    from vlf_edge.compiler import Recipe, build

    state = checkpoint("xvit")
    torch.save({"model_state": state}, tmp_path / "w.pyth.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(xvit.SIZES, "xvit", replace(sizes_of("xvit"), **GOLDEN["xvit"]["sizes"]))
        recipe = Recipe(model="xvit", weights=str(tmp_path / "w.pyth.pth"), labels=("a", "b", "c"), precision="fp32")
        plan = build(replace(recipe, target="cpu"), tmp_path / "x.plan")
    assert (plan.manifest.labels, plan.manifest.random_weights) == (("a", "b", "c"), False)
    (logits,) = Session(plan.graph("clip", "fp32")).run({"clip": clip(8, 224).numpy()})["logits"]
    np.testing.assert_allclose(logits, GOLDEN["xvit"]["logits"], rtol=1e-4, atol=1e-4)
    assert main(["build", "--model", "tsm", "--weights", str(tmp_path / "w.pyth.pth"), "--size", "64"]) == 1
