"""TSN, TSM, VTN and X-ViT: what each is, at toy size. That they are exact: test_published.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_models import KINDS, LABELS, toy_sizes

from vlf_edge.errors import ShapeError, VlfError, WeightsError
from vlf_edge.models import MODELS, sizes_from_json, sizes_of
from vlf_edge.models.weights import load_weights, save_weights


def clips(n: int = 2, frames: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, frames, 32, 32, 3), dtype=np.uint8))


def toy(kind: str, **changes):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        model = toy_sizes(kind, **changes).build().eval()
        for parameter in model.parameters():  # heads start near nothing, positions at nothing
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.requires_grad_(False)


@pytest.mark.parametrize("kind", KINDS)
def test_forward_is_decide_of_mix_of_encode(kind):
    model = toy(kind)
    tokens = model.encode(clips())
    assert tokens.shape[:3] == (2, 4, model.tokens)
    mixed = model.mix(tokens)
    assert mixed.shape == tokens.shape
    assert torch.equal(model(clips()), model.decide(mixed))
    assert {head.out_features for head in model.heads} == {len(LABELS)}


@pytest.mark.parametrize("kind", KINDS)
def test_stages_are_the_model(kind):
    model, batch = toy(kind), clips()
    torch.testing.assert_close(streamed(model, batch), model(batch), rtol=1e-4, atol=1e-5)


def streamed(model, batch: torch.Tensor) -> torch.Tensor:
    """Frame by frame through the stages, their state carried along."""
    *frame, clip = model.stages()
    if not frame:
        return clip.module(batch)
    (frame,) = frame
    state = [torch.zeros(spec.sized(len(batch))) for spec in frame.inputs[1:]]
    tokens = []
    for k in range(batch.shape[1]):
        results = frame.module(batch[:, k].contiguous(), *state)
        results = dict(zip([spec.name for spec in frame.outputs], results if frame.state else (results,)))
        state = [results[frame.state[spec.name]] for spec in frame.inputs[1:]]
        tokens.append(results[frame.outputs[0].name])
    return clip.module(torch.stack(tokens, dim=1))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_files_hold_every_model(kind, tmp_path):
    model = toy(kind)
    save_weights(tmp_path / "w.safetensors", model, LABELS, {})
    loaded = load_weights(tmp_path / "w.safetensors")
    assert loaded.model.sizes == model.sizes == sizes_from_json(model.sizes.to_json())
    assert torch.equal(loaded.model(clips()), model(clips()))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("tsn", {"backbone": "vit_tiny_patch16_224", "backbone_options": {}}),  # no map
        ("tsm", {"backbone": "vgg11", "backbone_options": {}}),  # no residual branches
        ("vtn", {"token_dim": 33}),
        ("vtn", {"modality": "flow"}),
        ("vtn-diff", {"frames": 1}),
        ("xvit", {"patch_px": 13}),
        ("xvit", {"split": "other"}),
        ("xvit", {"share": 1}),
        ("xvit", {"compat": True}),  # 4 frames are no segment of 8
        ("xvit", {"compat": 1}),
    ],
)
def test_sizes_no_model_can_have_are_refused(kind, changes):
    with pytest.raises(VlfError):
        toy_sizes(kind, **changes).build()


@pytest.mark.parametrize("kind", ["tsm-online", "vtn-two-stream", "xvit"])
def test_weights_files_that_ask_for_the_impossible_are_refused(kind, tmp_path):
    model = toy(kind)
    hostile = {"xvit": {"layers": 256, "token_dim": 4096}, "vtn-two-stream": {"layers": 256, "token_dim": 4096}}
    sizes = replace(model.sizes, **hostile.get(kind, {"height_px": 4096, "width_px": 4096}))
    model.sizes = sizes if kind != "tsm-online" else replace(model.sizes, backbone="resnet50", backbone_options={})
    save_weights(tmp_path / "w.safetensors", model, LABELS, {})
    with pytest.raises(WeightsError, match="are of another model"):
        load_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_clips_of_another_shape_or_kind_are_refused(kind):
    for wrong in (clips(frames=5), clips().float(), clips()[..., :2]):
        with pytest.raises(ShapeError, match="expected clips uint8"):
            toy(kind)(wrong)


def test_tsn_knows_no_order_and_the_others_do():
    batch = clips(1)
    reversed_ = batch.flip(1)
    for kind in KINDS:
        model = toy(kind)
        same = torch.allclose(model(batch), model(reversed_), rtol=1e-4, atol=1e-5)
        assert same == (kind == "tsn"), kind


def test_a_backbone_of_three_levels_is_an_encoder_too():
    narrow = {"channels": (8, 16, 16), "layers": (1, 1, 1), "stem_width": 8}
    model = toy_sizes("tsm-online", backbone_options=narrow).build()
    assert model.token_dim == 16 and len(model.shifts) == 3


def test_online_tsm_never_looks_ahead():
    model, batch = toy("tsm-online"), clips(1)
    changed = batch.clone()
    changed[:, 2:] = 255 - changed[:, 2:]
    ours, theirs = model.encode(batch), model.encode(changed)
    assert torch.allclose(ours[:, :2], theirs[:, :2], atol=1e-6) and not torch.allclose(ours[:, 2], theirs[:, 2])
    offline = toy("tsm")
    assert not torch.allclose(offline.encode(batch)[:, 1], offline.encode(changed)[:, 1])


def test_tsm_of_deep_levels_shifts_every_second_block():
    model = sizes_of("tsm").__class__(**{**toy_sizes("tsm").to_json(), "backbone_options": {
        "channels": (8, 8, 8, 8), "layers": (1, 23, 1, 1), "stem_width": 8,
    }}).build()  # fmt: skip
    assert len(model.shifts) == 1 + 12 + 1 + 1


def test_xvit_split_of_the_paper_moves_channels_of_every_head():
    batch = clips(1)
    assert not torch.allclose(toy("xvit")(batch), toy("xvit", split="paper")(batch))


def test_xvit_compat_keeps_segments_apart_until_the_end():
    model, batch = toy("xvit", frames=16, compat=True), clips(1, frames=16)
    changed = batch.clone()
    changed[:, 8:] = 255 - changed[:, 8:]
    assert torch.equal(model.encode(batch)[:, :8], model.encode(changed)[:, :8])
    whole = toy("xvit", frames=16)
    assert not torch.allclose(whole.encode(batch)[:, 7], whole.encode(changed)[:, 7])


def test_every_name_has_sizes():
    for name in MODELS:
        sizes = sizes_of(name, size_px=64, frames=8)
        assert (sizes.name, sizes.height_px, sizes.frames) == (name, 64, 8)
        assert sizes_from_json(sizes.to_json()) == sizes
