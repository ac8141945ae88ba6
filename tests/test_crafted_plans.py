"""Plans from strangers, whose hashes are right: each is refused in one sentence, before any library sees it."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_toys
import pytest
from conftest import LABELS, toy_graph, toy_manifest, write_toy_plan
from crafted import craft, mutant, opens, parts_of

from vlf_edge import Plan, PlanError, PlanMismatch, Runtime, TensorSpec, VlfError, strict_json
from vlf_edge.backends.engine import Engine
from vlf_edge.backends.fake import FakeEngine
from vlf_edge.backends.gpu_engines import open_all
from vlf_edge.backends.onnxruntime import OnnxRuntimeEngine
from vlf_edge.backends.selection import open_engines
from vlf_edge.interface import MAX_VALUES

SHIPPED = Path(__file__).resolve().parents[1] / "vlf_edge" / "weights" / "vlf-tiny.plan"


def logits(*shape) -> TensorSpec:
    return TensorSpec("logits", "float32", shape)


@pytest.fixture
def real_plan(tmp_path) -> Plan:
    return Plan.open(onnx_toys.write_fp32_plan(tmp_path / "real.plan", {"name": "toy"}, LABELS))


def test_what_ships_is_sound():
    plan = Plan.open(SHIPPED)
    plan.verify()
    assert set(plan.manifest.stages) == {"frame", "clip"}


# The file


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.plan")
    with pytest.raises(PlanError, match="pipe.plan is a named pipe, not a vlf.plan file"):
        Plan.open(tmp_path / "pipe.plan")
    with pytest.raises(PlanError, match="/dev/zero is a device, not a vlf.plan file"):
        Plan.open("/dev/zero")
    (tmp_path / "closed.plan").symlink_to(tmp_path / "closed.plan")
    with pytest.raises(PlanError, match="cannot read .*symbolic links"):
        Plan.open(tmp_path / "closed.plan")


def end_of_zip(entries: int, directory_bytes: int, start: int = 0) -> bytes:
    return struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, entries, entries, directory_bytes, start, 0)


def test_a_directory_is_bounded_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "many.plan"
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", 20, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"x"
    count = 60_000
    large = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1 << 40, 1 << 40, count * len(entry), 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, count * len(entry), 1)
    monkeypatch.setattr(zipfile, "ZipFile", None)  # it would read the directory
    for end, told in (
        (end_of_zip(count, count * len(entry)), f"{count} members in a directory of {count * len(entry)} bytes"),
        (end_of_zip(9, count * len(entry)), "9 members in a directory"),
        (large + locator + end_of_zip(9, 9 * len(entry)), f"{1 << 40} members"),
        (locator + end_of_zip(9, 9 * len(entry)), "its ZIP64 directory is not where it should be"),
    ):
        path.write_bytes(entry * count + end)
        with pytest.raises(PlanError, match=told):
            Plan.open(path)


def test_a_large_report_is_refused_before_it_is_parsed(toy_plan, tmp_path, monkeypatch):
    manifest, members = parts_of(toy_plan)
    path = craft(tmp_path / "x.plan", manifest, members | {"report.json": b"[" + b"0," * 5000 + b"0]"})
    monkeypatch.setattr(strict_json, "MAX_VALUES", 5000)
    with pytest.raises(PlanError, match="report.json is not sound JSON .it has about 5001 values; the limit is 5000"):
        print(Plan.open(path).report)
    monkeypatch.setattr(strict_json, "MAX_BYTES", 10_000)
    with pytest.raises(PlanError, match="member report.json claims 10003 bytes; the limit is 10000"):
        Plan.open(path)


def test_a_plan_that_is_replaced_stays_what_it_was_to_those_who_have_it_open(tmp_path):
    opened = write_toy_plan(tmp_path / "a.plan")
    members = {name: opened.read(name) for name in opened.manifest.members}
    write_toy_plan(tmp_path / "a.plan", replace(toy_manifest(), labels=("p", "q", "r", "s", "t")))
    assert {name: opened.read(name) for name in members} == members
    assert Plan.open(tmp_path / "a.plan").manifest.labels == ("p", "q", "r", "s", "t")


def test_handles_are_given_back(tmp_path):
    write_toy_plan(tmp_path / "a.plan")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        Plan.open(tmp_path / "a.plan").read("report.json")
        with pytest.raises(PlanError):
            Plan.open(__file__)
    assert len(os.listdir("/proc/self/fd")) == before


# What the manifest says


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"[NaN]", "it holds NaN"),
        (b"[-Infinity]", "it holds -Infinity"),
        (b"1e999", "too large for 64 bits"),
        (b"18446744073709551616", "whole number beyond 64 bits"),
        (b"9" * 5000, "integer string conversion"),
        (b'{"a": "\\ud800"}', "surrogates not allowed"),
        (b'{"\\ud800": 1}', "surrogates not allowed"),
        (b'"\xff"', "can't decode byte"),
        (b"[" * 33 + b"]" * 33, "nested deeper than 32 levels"),
        (b"[" * 100_000 + b"]" * 100_000, "nested deeper than 32 levels"),
        (b"[" + b"[]," * 500_001 + b"[]]", "about 1000004 values"),
        (b"{", "Expecting property name"),
    ],
)
def test_json_that_could_not_be_written_again_is_refused(data, words):
    with pytest.raises(ValueError, match=words):
        strict_json.parse(data)


def test_json_up_to_its_limits():
    assert strict_json.parse(b"[" * 31 + b"1" + b"]" * 31)
    assert strict_json.parse(b'{"a": [1.5, null, true, "\\u00e4\\ud83d\\ude00", -9223372036854775808]}')


def test_models_that_cannot_be_written_out_again(toy_plan, tmp_path):
    manifest, members = parts_of(toy_plan)
    for value in (float("nan"), "\ud800", eval("[" * 40 + "]" * 40), "a\x1b[2J"):
        path = craft(tmp_path / "x.plan", manifest | {"model": {"name": "toy", "x": value}}, members)
        with pytest.raises(PlanError):
            Plan.open(path)


def tensor(stage, side, **changes):
    """A change of the first tensor on one side of a stage, in its graphs of all kinds."""

    def change(manifest):
        for graph in manifest["graphs"]:
            if graph["stage"] == stage:
                graph[side][0].update(changes)

    return change


def one_kind(change):
    return lambda manifest: change({"graphs": [g for g in manifest["graphs"] if g["kind"] == "typed"]})


def both_stages_of_one_kind(manifest):
    one_kind(tensor("frame", "outputs", shape=["N", 4, 7]))(manifest)
    one_kind(tensor("clip", "inputs", shape=["N", 4, 4, 7]))(manifest)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (tensor("clip", "outputs", shape=["N", 2, 5]), r"has logits float32\(N, 2, 5\), expected logits .*\(N, 5\)"),
        (tensor("clip", "outputs", shape=["N", 6]), "expected logits"),
        (tensor("clip", "outputs", shape=["N", "C"]), "expected logits"),
        (tensor("clip", "outputs", dtype="int64"), "expected logits float32 or float16"),
        (tensor("clip", "inputs", shape=["N", 8, 4, 6]), r"expected window float32\(N, 4, 4, 6\)"),
        (tensor("clip", "inputs", shape=["N", 4, 4, 7]), "expected window"),
        (one_kind(tensor("frame", "outputs", dtype="float16")), "expected window float16"),
        (both_stages_of_one_kind, "has other shapes than that of another kind"),
        (tensor("frame", "outputs", shape=["N", 4]), r"has tokens .*, expected window float32\(N, 4, 4\)"),
        (tensor("frame", "outputs", shape=["N"]), r"expected tokens float32 or float16\(N, ...\)"),
        (one_kind(tensor("clip", "outputs", name="other")), "expected logits"),
        (tensor("frame", "outputs", shape=[]), "0 shape of tensor tokens, expected 1 to 16"),
        (tensor("frame", "outputs", shape=[0, 4, 6]), "size of tokens is 0, expected 1"),
        (tensor("frame", "outputs", shape=[2, 4, 6]), "expected tokens"),
        (tensor("frame", "outputs", shape=["N", 1 << 14, 1 << 14]), f"the limit is {MAX_VALUES}"),
        (tensor("frame", "outputs", shape=["N", 1 << 24, 1]), "expected 1 to 16777215"),
        (tensor("frame", "inputs", shape=["N", 3, 32, 32]), r"expected image uint8\(N, 32, 32, 3\)"),
        (tensor("frame", "inputs", dtype="float32"), "expected image uint8"),
        (tensor("frame", "inputs", dtype="(,)f4"), r"the dtype '\(,\)f4', expected one of"),
        (tensor("frame", "inputs", name=""), "name of a tensor ''"),
        (lambda m: m["graphs"][0].update(inputs=[]), "0 tensors, expected 1"),
        (lambda m: m["graphs"][0].update(outputs=[]), "0 tensors, expected 1"),
        (lambda m: m["graphs"][0].update(inputs=m["graphs"][0]["inputs"] * 2), "expected image"),
        (lambda m: m.update(stages=["frame", "audio"]), "is of stage 'clip', which is none of its stages"),
        (lambda m: m.update(stages=["clip", "frame"]), "stage 'clip' has tokens .*, expected image uint8"),
        (lambda m: m.update(stages=["frame", "clip", "clip"]), "two stages of one name"),
        (lambda m: m["graphs"].append(m["graphs"][0]), "two graphs of one name"),
        (lambda m: m["labels"].__setitem__(0, "x" * 301), "expected 1 to 300 characters"),
        (lambda m: m.update(versions={"onnx": "1\x1b[2J"}), "characters that can be printed"),
        (lambda m: m["sampling"].update(phases=64, frames=256), "expected window"),
        (lambda m: m.update(format="a\x1b[2J"), r"plan format 'a\\x1b\[2J'; .*upgrade vlf_edge"),
        (lambda m: m.update(format=True), "plan format True"),
    ],
)
def test_tensors_are_held_against_their_roles(toy_plan, tmp_path, change, words):
    manifest, members = parts_of(toy_plan)
    change(manifest)
    with pytest.raises(PlanError, match=words):
        Plan.open(craft(tmp_path / "x.plan", manifest, members))


def test_a_window_is_bounded_with_all_its_phases(toy_plan, tmp_path):
    manifest, members = parts_of(toy_plan)
    tensor("frame", "outputs", shape=["N", 512, 2048])(manifest)
    tensor("clip", "inputs", shape=["N", 4, 512, 2048])(manifest)
    craft(tmp_path / "x.plan", manifest, members)
    assert Plan.open(tmp_path / "x.plan")
    manifest["sampling"]["phases"] = 64
    with pytest.raises(PlanError, match=f"which makes {4 * 512 * 2048 * 64} values to keep; the limit is {MAX_VALUES}"):
        Plan.open(craft(tmp_path / "x.plan", manifest, members))


def test_a_whole_clip_is_a_window_of_images(tmp_path):
    manifest = toy_manifest()
    for images, fits in (((4, 32, 32, 3), True), ((3, 32, 32, 3), False), ((4, 3, 32, 32), False), ((4, 4, 6), False)):
        spec = TensorSpec("images", "uint8", ("N", *images))
        graphs = tuple(replace(g, inputs=(spec,)) for g in manifest.graphs if g.stage == "clip")
        one = replace(manifest, stages=("clip",), graphs=graphs)
        if fits:
            assert write_toy_plan(tmp_path / "one.plan", one).graph("clip", "portable")
        else:
            with pytest.raises(PlanError, match=r"expected window uint8\(N, 4, 32, 32, 3\)"):
                write_toy_plan(tmp_path / "one.plan", one)


def recurrent(*, state=(7,), after=(7,), dtype="float16", features=(9,), roles=None):
    """One stage that takes an image and a state, and gives features beside its logits."""
    floats = {"hidden": state, "next": after, "features": features, "logits": (len(LABELS),)}
    specs = {name: TensorSpec(name, "float32", ("N", *shape)) for name, shape in floats.items()}
    specs |= {"next": replace(specs["next"], dtype=dtype), "image": TensorSpec("image", "uint8", ("N", 32, 32, 3))}
    inputs, outputs = (tuple(specs[n] for n in names.split()) for names in ("image hidden", "features logits next"))
    graphs = tuple(replace(g, inputs=inputs, outputs=outputs) for g in toy_manifest().graphs if g.stage == "frame")
    roles = roles or {n: n for n in ("image", "features", "logits")} | {"hidden": "state:next", "next": "state"}
    return replace(toy_manifest(), stages=("frame",), graphs=graphs, roles={"frame": roles})


def test_states_and_features_have_roles_too(tmp_path):
    plan = write_toy_plan(tmp_path / "r.plan", recurrent(dtype="float32"))
    assert plan.manifest.format == 2 and plan.manifest.stage_roles[0].state == {"hidden": "next"}
    plan.verify()
    for wrong, words in (
        (recurrent(), r"has hidden float32\(N, 7\), expected state float16\(N, 7\)"),
        (recurrent(dtype="float32", after=(8,)), r"expected state float32\(N, 8\)"),
        (recurrent(dtype="float32", features=(2, 9)), r"expected features float32 or float16\(N, D\)"),
        (recurrent(roles={"image": "image"}), "the roles of stage 'frame' do not fit its tensors"),
        (recurrent(roles={"image": "x\x1b"}), "role of image"),
        (replace(recurrent(), roles={"audio": {}}), "roles of 'audio', which is none of its stages"),
        (replace(recurrent(), roles={"frame": []}), "roles is list, expected dict"),
    ):
        with pytest.raises(PlanError, match=words):
            write_toy_plan(tmp_path / "w.plan", wrong)


@pytest.mark.parametrize("name", ["a\x1b[2J", "x" * 400])
def test_members_that_are_not_there_are_named_safely(toy_plan, tmp_path, name):
    manifest, members = parts_of(toy_plan)
    raw = json.dumps(manifest | {"members": manifest["members"] | {name: {"sha256": "0" * 64, "bytes": 1}}})
    with pytest.raises(PlanError, match="name of a member .*characters that can be printed"):
        Plan.open(craft(tmp_path / "x.plan", manifest, members, raw=raw.encode()))


# What the graphs are


def test_graphs_are_held_against_the_manifest(real_plan, tmp_path):
    manifest, members = parts_of(real_plan)
    wide = toy_graph(replace(real_plan.manifest.graph("clip", "fp32"), outputs=(logits("N", 9),)))
    plan = Plan.open(craft(tmp_path / "x.plan", manifest, members | {"clip.fp32.onnx": wide}))
    told = r"clip.fp32.onnx has the outputs logits float32\(N, 9\), but the plan says logits float32\(N, 5\)"
    with pytest.raises(PlanMismatch, match=told):
        plan.verify()
    with pytest.raises(PlanMismatch, match=told):
        open_engines(plan, backend="onnxruntime")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "auto"])
def test_no_library_sees_a_graph_whose_weights_are_elsewhere(real_plan, tmp_path, monkeypatch, backend):
    pytest.importorskip("openvino")
    (tmp_path / "secret").write_bytes(b"s" * 4000)
    monkeypatch.chdir(tmp_path)
    manifest, members = parts_of(real_plan)
    model = onnx.load_model_from_string(members["frame.fp32.onnx"])
    weight = next(t for t in model.graph.initializer if t.name == "stem.w")
    onnx.external_data_helper.set_external_data(weight, "secret", length=len(weight.raw_data))
    weight.ClearField("raw_data")
    evil = model.SerializeToString()
    OnnxRuntimeEngine(evil).close()  # this is what must not happen: it reads the file
    plan = Plan.open(craft(tmp_path / "x.plan", manifest, members | {"frame.fp32.onnx": evil}))
    for module in ("onnxruntime.OnnxRuntimeEngine", "openvino.OpenVINOEngine"):
        monkeypatch.setattr(f"vlf_edge.backends.{module}", None)
    with pytest.raises(PlanError, match="frame.fp32.onnx is no ONNX graph.*: a constant has its bytes in another file"):
        Runtime(plan, backend=backend)


# What engines do


def test_engines_are_held_against_the_manifest(toy_plan):
    opened = []

    def opener(stage):
        graph = toy_plan.manifest.graph(stage, "portable")
        outputs = graph.outputs if stage == "frame" else (logits("N", 3, 5),)
        opened.append(FakeEngine(graph.inputs, outputs))
        return opened[-1]

    with pytest.raises(PlanMismatch, match=r"as fake opens it, has the outputs logits float32\(N, 3, 5\), but"):
        open_all(toy_plan, "portable", opener)
    assert len(opened) == 2 and all(engine._closed for engine in opened)


@pytest.mark.parametrize("error", [RuntimeError("line\nbad allocation"), MemoryError(), ValueError("odd")])
def test_what_a_library_raises_is_one_sentence(error):
    class Broken(Engine):
        def _infer(self, inputs):
            raise error

    one = (TensorSpec("x", "float32", ("N", 1)),)
    with pytest.raises(VlfError, match="fake failed to run .*: (bad allocation|MemoryError|odd)$"):
        Broken("fake", one, one).infer({"x": np.zeros((1, 1), np.float32)})


def test_mutants_raise_vlf_errors_only(real_plan, tmp_path):
    rng, found = np.random.default_rng(0), Counter()
    manifest, members = parts_of(real_plan)
    for i in range(300):
        mutant(tmp_path / "x.plan", manifest, members, rng)
        found[opens(tmp_path / "x.plan", "onnxruntime" if i % 8 == 0 else "fake")] += 1
    assert found["PlanError"] > 100 and found["opens"] > 5, found
