"""Every kind of model is trained, fine-tuned for int8 and taken as a teacher as VLF is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from toy_clips import LABELS, Squares
from toy_models import KINDS, toy_sizes

from vlf_edge.compiler import Recipe, build
from vlf_edge.errors import VlfError, WeightsError
from vlf_edge.models import create_model, published_names, tsn, vtn, xvit
from vlf_edge.models.published import load_backbones
from vlf_edge.models.published_names import _of_efficientnet_pytorch, backbone_state
from vlf_edge.models.weights import load_weights, save_weights
from vlf_edge.training import Settings, qat, start, train

SHAPE = {"frames": 3, "height_px": 32, "width_px": 64, "classes": len(LABELS)}


@pytest.fixture
def settings(tmp_path, monkeypatch):
    sets = {"train": Squares(16), "val": Squares(4)}
    monkeypatch.setattr(start, "open_dataset", lambda data, split, **_: sets[split])
    return Settings(
        data="squares", out=str(tmp_path / "w.safetensors"), epochs=1, batch=4, lr=1e-3, workers=0, clips_per_epoch=8
    )


def write_toy(path, kind: str, labels: tuple[str, ...] = LABELS) -> str:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        save_weights(path, toy_sizes(kind, **{**SHAPE, "classes": len(labels)}).build(), labels, {})
    return str(path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_trained(settings, tmp_path, kind):
    toy = write_toy(tmp_path / "toy.safetensors", kind)
    outcome = train(replace(settings, start=toy))
    before, after = load_weights(toy).model, load_weights(outcome.best).model
    changed = {
        name for name, tensor in after.state_dict().items() if not torch.equal(tensor, before.state_dict()[name])
    }
    assert {name for name, _ in after.named_parameters()} - changed <= {"class_token"}


@pytest.mark.parametrize("kind", ["tsm-online", "vtn-two-stream", "xvit"])
def test_other_classes_get_new_heads_and_the_same_ones_their_order(settings, tmp_path, kind):
    toy = write_toy(tmp_path / "toy.safetensors", kind, LABELS[::-1])
    old = load_weights(toy).model
    model = start.make_model(replace(settings, start=toy), load_weights(toy), LABELS)
    for ours, theirs in zip(model.heads, old.heads):
        assert torch.equal(ours.weight, theirs.weight.flip(0)) and torch.equal(ours.bias, theirs.bias.flip(0))
    other = start.make_model(replace(settings, start=toy), load_weights(toy), ("a", "b"))
    heads = {parameter for head in other.heads for parameter in head.parameters()}
    kept = [name for name, parameter in other.named_parameters() if parameter not in heads]
    assert all(torch.equal(other.state_dict()[name], old.state_dict()[name]) for name in kept)
    assert {head.out_features for head in other.heads} == {2}


def test_a_vtn_teaches_a_tsn(settings, tmp_path):
    teacher, student = (write_toy(tmp_path / f"{kind}.safetensors", kind) for kind in ("vtn", "tsn"))
    assert train(replace(settings, start=student, teachers=(teacher,), hint_weight=1.0)).finished


@pytest.mark.parametrize("kind", ["tsm-online", "xvit"])
def test_int8_learned_is_int8_built(settings, tmp_path, kind):
    toy = write_toy(tmp_path / "toy.safetensors", kind)
    outcome = train(replace(settings, start=toy, qat=True))
    loaded = load_weights(outcome.best)
    plan = build(Recipe(weights=str(outcome.best), precision="int8", target="cpu", max_drop=100), tmp_path / "q.plan")
    assert plan.manifest.quantization["method"] == "trained"
    qat.fake_quantize(loaded.model, loaded.record["qat"]["scales"])
    rows = {row["way"]: row for row in plan.report["fidelity"]["rows"]}
    assert rows["int8 onnx"]["end_to_end"]["relative"] < 0.2


@pytest.fixture
def narrow(monkeypatch):
    """The names of the models, at toy size."""
    for home, kind in ((tsn, "tsn"), (vtn, "vtn-two-stream"), (xvit, "xvit")):
        monkeypatch.setitem(home.SIZES, kind, toy_sizes(kind))


@pytest.mark.parametrize("kind", ["tsn", "vtn-two-stream", "xvit"])
def test_backbone_weights_go_where_they_belong(narrow, tmp_path, kind):
    source = create_model(kind, 5, seed=1)
    if kind == "xvit":
        names = {"class_token": "cls_token", "position": "pos_embed", "patches.weight": "patch_embed.proj.weight"}
        state = {
            theirs.removeprefix("base_model."): tensor
            for name, tensor in source.state_dict().items()
            for (theirs, *_), _ in [published_names._xvit_rule(name)]
        }
        assert set(names.values()) <= set(state)
    else:
        state = {**source.backbones[0].state_dict(), "fc.weight": torch.zeros(7, 32)}
    torch.save(state, tmp_path / "b.pth")
    model = create_model(kind, 5, seed=2, backbone_weights=tmp_path / "b.pth")
    if kind == "xvit":
        assert torch.equal(model.layers[1].qkv.weight, source.layers[1].qkv.weight)
        assert not torch.equal(model.heads[0].weight, source.heads[0].weight)
    for net in model.backbones:
        assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    missing = next(name for name in state if name.endswith("weight"))
    torch.save({name: tensor for name, tensor in state.items() if name != missing}, tmp_path / "b.pth")
    with pytest.raises(WeightsError, match=f"b.pth has no {missing}"):
        load_backbones(model, tmp_path / "b.pth")


def test_torchvisions_names_of_a_mobilenetv2_are_known(tmp_path):
    net = create_model("tsn-mobilenetv2", 2, size_px=32).backbones[0]
    # torchvision's mobilenet_v2: a convolution and its norm stand together.
    pieces = {
        "conv_stem.weight": "features.0.0.weight",
        "blocks.0.0.conv_dw.weight": "features.1.conv.0.0.weight",
        "blocks.0.0.conv_pw.weight": "features.1.conv.1.weight",
        "blocks.1.0.conv_pw.weight": "features.2.conv.0.0.weight",
        "blocks.1.0.bn2.bias": "features.2.conv.1.1.bias",
        "blocks.1.0.conv_pwl.weight": "features.2.conv.2.weight",
        "blocks.6.0.bn3.running_mean": "features.17.conv.3.running_mean",
        "conv_head.weight": "features.18.0.weight",
    }
    wanted = {name: net.state_dict()[name] for name in pieces}
    state = {theirs: torch.randn_like(wanted[name]) for name, theirs in pieces.items()}
    found = backbone_state(state, wanted, "b.pth")
    assert all(found[name] is state[theirs] for name, theirs in pieces.items())


@pytest.mark.parametrize(
    "net, pieces",
    [
        (
            "tf_efficientnet_lite0",
            {
                "conv_stem.weight": "_conv_stem.weight",
                "bn1.bias": "_bn0.bias",
                "blocks.0.0.conv_dw.weight": "_blocks.0._depthwise_conv.weight",
                "blocks.0.0.bn1.weight": "_blocks.0._bn1.weight",
                "blocks.0.0.conv_pw.weight": "_blocks.0._project_conv.weight",
                "blocks.1.0.conv_pw.weight": "_blocks.1._expand_conv.weight",
                "blocks.1.0.bn1.running_var": "_blocks.1._bn0.running_var",
                "blocks.2.1.bn3.running_mean": "_blocks.4._bn2.running_mean",
                "blocks.6.0.conv_pwl.weight": "_blocks.15._project_conv.weight",
                "conv_head.weight": "_conv_head.weight",
                "bn2.weight": "_bn1.weight",
                "classifier.bias": "_fc.bias",
            },
        ),
        ("efficientnet_b0", {"blocks.1.1.se.conv_reduce.bias": "_blocks.2._se_reduce.bias"}),
    ],
)
def test_names_of_efficientnet_pytorch_are_known(net, pieces):
    own = timm.create_model(net).state_dict()
    called = {name: pieces.get(name, theirs) for name, theirs in _of_efficientnet_pytorch(own).items()}
    state = {theirs: torch.randn_like(own[name].float()) for name, theirs in called.items()}
    assert len(state) == len(own)
    found = backbone_state(state, own, "b.pth")
    assert all(found[name] is state[theirs] for name, theirs in pieces.items())


def test_backbone_weights_and_others_exclude_each_other(settings):
    for more in ({"start": "w.safetensors"}, {"pretrained": True}):
        with pytest.raises(VlfError, match="leave"):
            replace(settings, backbone_weights="b.pth", **more)
