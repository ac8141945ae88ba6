from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from toy_model import TOY, build_toy

from vlf_edge.errors import ShapeError, VlfError, WeightsError
from vlf_edge.models import create_model, sizes_from_json
from vlf_edge.models.vlf import SIZES, VLFSizes
from vlf_edge.types import TensorSpec


@pytest.fixture(scope="module")
def toy():
    return build_toy().eval()


def images(n, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, 32, 64, 3), dtype=np.uint8))


def message(error, call, *args, **options):
    with pytest.raises(error) as raised:
        call(*args, **options)
    return str(raised.value)


@torch.no_grad()
def test_forward_is_the_composition_of_its_stages(toy):
    clip = images(6).unflatten(0, (2, 3))
    tokens = torch.stack([toy.encode_frames(one) for one in clip])
    assert tokens.shape == (2, 3, 2, 16)
    np.testing.assert_allclose(toy(clip), toy.classify_tokens(tokens), rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_a_batch_of_two_is_two_batches_of_one(toy):
    clip = images(6).unflatten(0, (2, 3))
    np.testing.assert_allclose(toy(clip), torch.cat([toy(clip[:1]), toy(clip[1:])]), rtol=1e-4, atol=1e-6)


def test_stages_say_what_they_take_and_give(toy):
    frame, clip = toy.stages()
    assert (frame.name, clip.name) == ("frame", "clip")
    assert frame.inputs == (TensorSpec("image", "uint8", ("N", 32, 64, 3)),)
    assert frame.outputs == (TensorSpec("tokens", "float32", ("N", 2, 16)),)
    assert clip.inputs == (TensorSpec("tokens", "float32", ("N", 3, 2, 16)),)
    assert clip.outputs == (TensorSpec("logits", "float32", ("N", 4)),)
    assert frame.module(images(2)).shape == (2, 2, 16)
    assert clip.module(torch.zeros(5, 3, 2, 16)).shape == (5, 4)


@torch.no_grad()
def test_colour_order_mean_and_std_as_written_by_hand(toy):
    seen = []
    hook = toy.frame.f.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    toy.encode_frames(images(2))
    hook.remove()
    rgb = images(2).numpy()[..., ::-1].astype(np.float64) / 255
    expected = (rgb - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(seen[0], expected.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_attention_as_written_by_hand(toy):
    layer = toy.clip.h.layers[0]
    x = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))
    q, k, v = (t.numpy().astype(np.float64) for t in layer.qkv(x).split(16, dim=2))
    heads = np.empty((2, 6, 16))
    for n in range(2):
        for h in range(4):
            part = slice(4 * h, 4 * h + 4)
            scores = np.exp(q[n, :, part] @ k[n, :, part].T / np.sqrt(4))
            heads[n, :, part] = scores / scores.sum(1, keepdims=True) @ v[n, :, part]
    expected = heads @ layer.out.weight.numpy().T + layer.out.bias.numpy()
    np.testing.assert_allclose(layer.attend(x), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_order_of_frames_matters_but_tokens_know_no_time(toy):
    frames = images(3)
    forward, backward = frames, frames.flip(0)
    assert not torch.allclose(toy(forward[None]), toy(backward[None]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(toy.encode_frames(forward), toy.encode_frames(backward).flip(0), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_place_in_the_image_matters(toy):
    flat = torch.full((1, 32, 64, 3), 128, dtype=torch.uint8)
    left, right = toy.encode_frames(flat)[0]
    before = toy.frame.column_position.clone()
    toy.frame.column_position.copy_(before.flip(0))
    swapped_left, swapped_right = toy.encode_frames(flat)[0]
    toy.frame.column_position.copy_(before)
    assert not torch.allclose(left, swapped_left, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(right, swapped_right, rtol=1e-4, atol=1e-5)


def test_gradient_reaches_every_parameter():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TOY.build()
        assert model.training
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)  # timm starts residual branches at zero
        logits = model(images(12).unflatten(0, (4, 3)))
    torch.nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_the_clip_stage_learns_the_order_of_frames():
    """Two clips of the same frames in opposite order: only time tells them apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = replace(TOY, dropout=0.0, classes=2).build()
    with torch.no_grad():
        tokens = torch.stack([model.encode_frames(images(3)), model.encode_frames(images(3)).flip(0)])
    optimizer = torch.optim.Adam(model.clip.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model.classify_tokens(tokens), torch.tensor([0, 1])).backward()
        optimizer.step()
    assert model.classify_tokens(tokens).softmax(1).diag().min() > 0.9


@pytest.mark.parametrize(
    "bad, said",
    [
        (torch.zeros(2, 32, 64, 3), "got float32(2, 32, 64, 3), expected image uint8(N, 32, 64, 3)"),
        (torch.zeros(2, 64, 32, 3, dtype=torch.uint8), "got uint8(2, 64, 32, 3)"),
    ],
)
def test_images_of_another_kind_are_refused(toy, bad, said):
    assert said in message(ShapeError, toy.encode_frames, bad)


def test_a_clip_of_another_length_is_refused(toy):
    assert "expected tokens float32(N, 3, 2, 16)" in message(ShapeError, toy, images(4)[None])


@pytest.mark.parametrize("name", SIZES)
def test_every_size_builds(name):
    model = create_model(name, 5).eval()
    sizes = model.sizes
    assert (sizes.name, sizes.classes) == (name, 5)
    clip = torch.zeros(1, sizes.frames, sizes.height_px, sizes.width_px, 3, dtype=torch.uint8)
    with torch.no_grad():
        assert model(clip).shape == (1, 5)
    assert model.frame.tokens == {"vlf": 16, "vlf-lite": 16, "vlf-mobile": 4, "vlf-tiny": 4}[name]


def test_vlf_tiny_is_tiny():
    assert sum(p.numel() for p in create_model("vlf-tiny", 10).frame.f.parameters()) < 400_000


@pytest.mark.parametrize("sizes", [TOY, *SIZES.values()], ids=["toy", *SIZES])
def test_sizes_survive_json(sizes):
    import json

    again = sizes_from_json(json.loads(json.dumps(sizes.to_json())))
    assert again == sizes and type(again) is VLFSizes and hash(again) == hash(sizes)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"frames": 0}, "frames is 0, expected 1 to 256"),
        ({"token_dim": 1 << 20}, "token_dim is 1048576, expected 1 to 4096"),
        ({"frames": "8"}, "frames is '8', expected int"),
        ({"frames": True}, "frames is True, expected int"),
        ({"dropout": 1.0}, "dropout is 1.0, expected at least 0 and below 1"),
        ({"backbone_options": None}, "backbone_options is None, expected dict"),
        ({"temporal_heads": 3}, "token_dim 16 does not divide into 3 heads"),
        ({"depth": 3}, "unknown ['depth']"),
        ({"name": "vlg"}, "no model 'vlg'; available: vlf, vlf-lite, vlf-mobile, vlf-tiny"),
        ({"name": 3}, "not an object with a model's name"),
    ],
)
def test_wrong_sizes_say_what_is_wrong(change, said):
    assert said in message(VlfError, sizes_from_json, {**TOY.to_json(), **change})


@pytest.mark.parametrize("step, grid", [(1, (2, 4)), (2, (1, 2)), (4, (1, 1))])
@pytest.mark.parametrize("layers", [0, 1])
def test_other_tokens_and_no_g(step, grid, layers):
    sizes = replace(TOY, token_step=step, spatial_layers=layers)
    model = build_toy(sizes).eval()
    assert model.grid == grid and model.frame.f.map_size == (2, 4)
    assert [p for name, p in model.named_parameters() if ".g.layers." in name] == [] or layers
    with torch.no_grad():
        maps = model.frame.map_of(images(3))
        tokens = model.encode_frames(images(3))
        assert tokens.shape == (3, grid[0] * grid[1], 16)
        torch.testing.assert_close(model.frame.tokens_of(maps), tokens)
        if step == 4 and not layers:  # the mean over what a step of 2 gives; at the border, over what there is
            fine = torch.nn.Sequential(*model.frame.project[:2])(maps)
            mean = fine.mean(dim=(2, 3)).unsqueeze(1) + model.frame.row_position[0] + model.frame.column_position
            torch.testing.assert_close(tokens, model.frame.g.norm(mean))
    assert sizes_from_json(sizes.to_json()) == sizes


def test_files_from_before_there_were_other_tokens_keep_loading():
    raw = TOY.to_json()
    assert "token_step" not in raw and sizes_from_json(raw).token_step == 2
    assert "token_step is 3" in message(VlfError, sizes_from_json, {**raw, "token_step": 3})


def test_incomplete_sizes_say_what_is_missing():
    raw = TOY.to_json()
    del raw["frames"]
    assert "missing ['frames']" in message(VlfError, sizes_from_json, raw)
    assert "sizes are a list" in message(VlfError, VLFSizes.from_json, [])


def test_a_seed_gives_the_same_weights_and_leaves_the_callers_state_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one, two, other = (create_model("vlf-tiny", 3, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["clip.mlp.0.weight"], other["clip.mlp.0.weight"])


def test_another_backbone_by_name():
    model = create_model("vlf-tiny", 3, backbone="mobilenetv3_small_050")
    assert model.sizes.backbone == "mobilenetv3_small_050" and model.sizes.backbone_options == {}
    assert model.encode_frames(torch.zeros(2, 64, 64, 3, dtype=torch.uint8)).shape == (2, 4, 96)


def test_mean_and_std_are_the_backbones_own():
    model = create_model("vlf-tiny", 3, backbone="mobilevit_xxs")  # trained on images scaled to 0..1
    assert model.frame.mean.flatten().tolist() == [0, 0, 0]
    assert model.frame.std.flatten().tolist() == [255, 255, 255]


def test_an_odd_image_size_is_measured_not_guessed():
    model = replace(TOY, height_px=33, width_px=70).build().eval()
    frame, _ = model.stages()
    assert model(torch.zeros(1, 3, 33, 70, 3, dtype=torch.uint8)).shape == (1, 4)
    assert frame.outputs[0].shape == ("N", *model.encode_frames(torch.zeros(1, 33, 70, 3, dtype=torch.uint8)).shape[1:])


def test_unknown_names_suggest_what_there_is():
    said = message(VlfError, create_model, "vlf-huge", 3)
    assert "no model 'vlf-huge'; available: vlf, vlf-lite, vlf-mobile, vlf-tiny" in said
    said = message(VlfError, create_model, "vlf", 3, backbone="resnet19")
    assert "timm has no model 'resnet19'; close names:" in said and "resnet18" in said


@pytest.mark.parametrize("name", ["hf-hub:someone/resnet18", "local-dir:/tmp/model"])
def test_a_backbone_never_comes_from_a_hub_or_a_folder(name):
    assert "timm has no model" in message(VlfError, create_model, "vlf", 3, backbone=name)


def test_a_reduction_the_backbone_does_not_offer():
    said = message(VlfError, replace(TOY, reduction=64).build)
    assert "no feature map of reduction 64; available: 2, 4, 8, 16" in said


@pytest.mark.parametrize("option", ["checkpoint_path", "pretrained_cfg", "features_only", "in_chans"])
def test_options_cannot_bring_files_or_change_the_request(option):
    assert f"cannot set {option}" in message(VlfError, replace(TOY, backbone_options={option: "x"}).build)


def test_options_the_backbone_does_not_know():
    said = message(VlfError, replace(TOY, backbone_options={"wheels": 4}).build)
    assert "timm cannot make a feature extractor of 'resnet10t'" in said and "wheels" in said


def test_images_the_backbone_does_not_take():
    sizes = replace(SIZES["vlf-tiny"], backbone="vit_tiny_patch16_224", backbone_options={})
    assert "'vit_tiny_patch16_224' does not take 64x64 px images" in message(VlfError, sizes.build)


def test_pretrained_reaches_timm_and_a_failed_download_says_what_to_do(monkeypatch):
    create = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise OSError("no route\nto host")
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    said = message(WeightsError, create_model, "vlf-lite", 3, pretrained=True)
    assert "pretrained weights of backbone 'resnet18' could not be loaded (OSError: no route to host)" in said
    assert "--from FILE" in said
    said = message(WeightsError, create_model, "vlf-tiny", 3, pretrained=True)
    assert "no pretrained weights for backbone 'resnet10t' with the sizes" in said and "--backbone" in said
