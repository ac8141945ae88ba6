import json
import os
import threading
import warnings
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from conftest import toy_graph, toy_manifest, write_toy_plan

from vlf_edge import Plan, PlanError, PlanMismatch
from vlf_edge.manifest import EngineInfo

ENGINE = dict.fromkeys(("stage", "target", "member", "library", "version", "device"), "x")
ENGINE |= {"max_batch": 8, "opt_batch": 1, "compute_capabilities": ["8.6"]}


def rewritten(source, target, change):
    """A copy of a plan, with ``change(name, data) -> (name, data) | None`` applied to every member."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            changed = change(name, old.read(name))
            if changed is not None:
                new.writestr(zipfile.ZipInfo(changed[0]), changed[1])
    return target


def with_manifest(source, target, edit):
    def change(name, data):
        if name != "manifest.json":
            return name, data
        raw = json.loads(data)
        edit(raw)
        return name, json.dumps(raw).encode()

    return rewritten(source, target, change)


def test_round_trip(toy_plan):
    again = Plan.open(toy_plan.path)
    assert again.manifest == toy_plan.manifest
    assert again.graph("frame", "portable") == toy_graph(again.manifest.graph("frame", "portable"))
    assert again.report == {"note": "toy"}
    assert again.manifest.sampling.step_s == 0.25


def test_same_contents_same_bytes(tmp_path):
    first, second = write_toy_plan(tmp_path / "a.plan"), write_toy_plan(tmp_path / "b.plan")
    assert first.path.read_bytes() == second.path.read_bytes() and first.digest == second.digest


def test_members_are_the_raw_bytes_a_zip_tool_gives(tmp_path):
    manifest = toy_manifest()
    engine = EngineInfo("frame", "rtx", "frame.rtx.engine", "tensorrt_rtx", "1.7.1", ("8.6",), "", 8)
    members = {"frame.fp32.onnx": b"f", "clip.fp32.onnx": b"c", "frame.rtx.engine": b"raw engine"}
    manifest = type(manifest)(**{**manifest.__dict__, "engines": (engine,)})
    plan = Plan.write(tmp_path / "e.plan", manifest, members, {})
    assert zipfile.ZipFile(plan.path).read("frame.rtx.engine") == b"raw engine"
    assert Plan.open(plan.path).manifest.engines == (engine,)


def test_a_failed_write_leaves_the_old_file(tmp_path, toy_plan):
    before = toy_plan.path.read_bytes()
    with pytest.raises(PlanError, match="clip.fp32.onnx is named in the manifest but not in the file"):
        Plan.write(toy_plan.path, toy_manifest(), {"frame.fp32.onnx": b"f"}, {})
    with pytest.raises(ValueError):
        Plan.write(toy_plan.path, toy_manifest(), {"frame.fp32.onnx": b"f", "clip.fp32.onnx": b"c"}, {"x": np.nan})
    assert toy_plan.path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["toy.plan"]


def test_missing_folder_and_foreign_files(tmp_path):
    with pytest.raises(PlanError, match="no plan at .*vlf-edge build"):
        Plan.open(tmp_path / "none.plan")
    with pytest.raises(PlanError, match="is a folder"):
        Plan.open(tmp_path)
    (tmp_path / "text.plan").write_text("hello")
    with pytest.raises(PlanError, match="not a readable vlf.plan"):
        Plan.open(tmp_path / "text.plan")
    with zipfile.ZipFile(tmp_path / "other.plan", "w") as archive:
        archive.writestr("readme.txt", "x")
    with pytest.raises(PlanError, match="no manifest.json"):
        Plan.open(tmp_path / "other.plan")


def test_truncation_anywhere_is_one_plan_error(toy_plan, tmp_path):
    data = toy_plan.path.read_bytes()
    for cut in range(0, len(data), 97):
        (tmp_path / "cut.plan").write_bytes(data[:cut])
        with pytest.raises(PlanError):
            Plan.open(tmp_path / "cut.plan")


def test_no_flipped_byte_goes_unnoticed_or_escapes_as_another_error(toy_plan, tmp_path):
    data, rng = toy_plan.path.read_bytes(), np.random.default_rng(0)
    for place in rng.integers(0, len(data), 150):
        broken = bytearray(data)
        broken[place] ^= 0xFF
        (tmp_path / "flip.plan").write_bytes(broken)
        try:
            plan = Plan.open(tmp_path / "flip.plan")
            members = {name: plan.read(name) for name in plan.manifest.members}
        except PlanError:
            continue
        # What still opens must be what was written (bytes of the ZIP that carry nothing may change).
        assert plan.manifest == toy_plan.manifest
        assert members == {name: toy_plan.read(name) for name in toy_plan.manifest.members}


def test_changed_member_fails_its_hash(toy_plan, tmp_path):
    swap = lambda name, data: (name, data[::-1] if name == "frame.fp32.onnx" else data)  # noqa: E731
    plan = Plan.open(rewritten(toy_plan.path, tmp_path / "x.plan", swap))
    with pytest.raises(PlanError, match="frame.fp32.onnx do not match their SHA-256"):
        plan.graph("frame", "fp32")


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "a/b", "..", "", "a\\b", "x" * 200])
def test_names_that_could_become_paths(toy_plan, tmp_path, name):
    path = tmp_path / "x.plan"
    path.write_bytes(toy_plan.path.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name or "."), b"x")
    with pytest.raises(PlanError, match="unsafe name"):
        Plan.open(path)


def test_compressed_duplicate_and_unlisted_members(toy_plan, tmp_path):
    for case, message in (
        ("compressed", "compressed or encrypted"),
        ("double", "two members"),
        ("extra", "disagree about extra"),
    ):
        path = tmp_path / f"{case}.plan"
        path.write_bytes(toy_plan.path.read_bytes())
        with zipfile.ZipFile(path, "a") as archive:
            if case == "compressed":
                archive.writestr("bomb", b"0" * 100_000, zipfile.ZIP_DEFLATED)
            elif case == "double":
                with pytest.warns(UserWarning):
                    archive.writestr(zipfile.ZipInfo("report.json"), b"{}")
            else:
                archive.writestr(zipfile.ZipInfo("extra"), b"x")
        with pytest.raises(PlanError, match=message):
            Plan.open(path)


def test_oversized_claims_are_refused_before_reading(toy_plan, tmp_path):
    data = bytearray(toy_plan.path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")  # the last central directory record
    data[entry + 20 : entry + 28] = (0xF0000000).to_bytes(4, "little") * 2
    (tmp_path / "big.plan").write_bytes(data)
    with pytest.raises(PlanError, match="claims 4026531840 bytes; the limit is"):
        Plan.open(tmp_path / "big.plan")


def test_too_many_members(tmp_path):
    with zipfile.ZipFile(tmp_path / "many.plan", "w") as archive:
        for i in range(300):
            archive.writestr(zipfile.ZipInfo(f"m{i}"), b"")
    with pytest.raises(PlanError, match="300 members"):
        Plan.open(tmp_path / "many.plan")


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda m: m.pop("labels"), "labels"),
        (lambda m: m.update(labels=[1, 2]), "label is int"),
        (lambda m: m.update(labels=[]), "0 labels"),
        (lambda m: m.update(precision="int3"), "precision 'int3', expected one of fp32, fp16, int8"),
        (lambda m: m["sampling"].update(frames=-1), "frames is -1"),
        (lambda m: m["preprocess"].update(height_px=True), "height_px is True"),
        (lambda m: m["preprocess"].update(height_px=96.5), "height_px is 96.5, expected a whole number"),
        (lambda m: m["sampling"].update(frames=8.5), "frames is 8.5, expected a whole number"),
        (lambda m: m["sampling"].update(phases=900_000), "phases is 900000"),
        (lambda m: m["sampling"].update(span_s=float("inf")), "it holds Infinity, which is no JSON"),
        (lambda m: m["graphs"][0].update(member=["x"]), "member is list"),
        (lambda m: m["graphs"][0].update(stage="audio"), "stage 'audio', which is none of its stages"),
        (lambda m: m["graphs"][0]["inputs"][0].update(dtype="colour"), "colour"),
        (lambda m: m["graphs"][0]["inputs"][0].update(shape=[-1, 2]), "size of image is -1"),
        (lambda m: m.update(engines=[ENGINE | {"compute_capabilities": [8]}]), "compute capability is int"),
        (lambda m: m["preprocess"].update(colour=1), "colour"),
        (lambda m: m["graphs"][0].update(kind="weird"), "weird"),
        (lambda m: m["graphs"][0].pop("inputs"), "inputs"),
        (lambda m: m.update(members=[]), "members is list"),
        (lambda m: m["weights"].update(record=[]), "training record is list"),
        (lambda m: m.pop("format"), "no format number"),
    ],
)
def test_unsound_manifest(toy_plan, tmp_path, edit, message):
    with pytest.raises(PlanError, match=message):
        Plan.open(with_manifest(toy_plan.path, tmp_path / "x.plan", edit))


def test_newer_format_says_to_upgrade(toy_plan, tmp_path):
    path = with_manifest(toy_plan.path, tmp_path / "x.plan", lambda m: m.update(format=99))
    with pytest.raises(PlanMismatch, match="plan format 99; .*upgrade vlf_edge"):
        Plan.open(path)


def test_absent_graph_names_those_present(toy_plan):
    with pytest.raises(PlanMismatch, match="no fp32 graph of stage 'audio'; it has: frame/fp32"):
        toy_plan.graph("audio", "fp32")


def test_an_unsound_plan_does_not_replace_a_sound_one(tmp_path, toy_plan):
    before = toy_plan.path.read_bytes()
    for change in ({"labels": ("wave\x1b[2J", "b", "c", "d", "e")}, {"precision": "int3"}, {"labels": ()}):
        with pytest.raises(PlanError, match="not a sound vlf.plan"):
            write_toy_plan(toy_plan.path, replace(toy_manifest(), **change))
    with pytest.raises(PlanError, match="unsafe name"):
        Plan.write(toy_plan.path, toy_manifest(), {"frame.fp32.onnx": b"f", "clip.fp32.onnx": b"c", "../x": b""}, {})
    assert toy_plan.path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["toy.plan"]


def test_an_open_plan_stays_what_it_was_while_another_takes_its_place(tmp_path, toy_plan):
    plan = Plan.open(toy_plan.path)
    frame = plan.read("frame.fp32.onnx")
    members = {"frame.fp32.onnx": b"another frame", "clip.fp32.onnx": b"another clip"}
    other = Plan.write(toy_plan.path, toy_manifest(), members, {"note": "another"})
    for opened in (plan, toy_plan):
        assert opened.read("frame.fp32.onnx") == frame and opened.report == {"note": "toy"}
    assert other.read("frame.fp32.onnx") == b"another frame" == Plan.open(toy_plan.path).read("frame.fp32.onnx")
    toy_plan.path.unlink()
    assert other.report == {"note": "another"}


def test_threads_and_forks_read_one_plan_at_once(toy_plan):
    wrong, right = [], (toy_plan.read("frame.fp32.onnx"), toy_plan.read("clip.fp32.onnx"))

    def read():
        for _ in range(100):
            if (toy_plan.read("frame.fp32.onnx"), toy_plan.read("clip.fp32.onnx")) != right:
                wrong.append(1)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads, which have all ended
        child = os.fork()
    if child == 0:
        read()
        os._exit(len(wrong))
    read()
    assert os.waitpid(child, 0)[1] == 0 and not wrong


def test_plans_leave_no_open_files(toy_plan):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        Plan.open(toy_plan.path).graph("frame", "fp32")
    assert len(os.listdir("/proc/self/fd")) <= before


def test_what_is_no_file_is_neither_written_to_nor_read(tmp_path, toy_plan):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link.plan").symlink_to("toy.plan")
    refused = {"fifo": "a device, a FIFO or a socket", "/dev/null": "a device", "link.plan": "a symbolic link"}
    for name, why in refused.items():
        with pytest.raises(PlanError, match=f"cannot write .*it is {why}"):
            write_toy_plan(tmp_path / name)
    assert Plan.open(tmp_path / "link.plan").manifest == toy_plan.manifest
    for name, kind in (("fifo", "named pipe"), ("/dev/zero", "device")):
        with pytest.raises(PlanError, match=f"is a {kind}, not a vlf.plan file"):
            Plan.open(tmp_path / name)
