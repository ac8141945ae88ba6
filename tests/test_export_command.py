"""vlf-edge export: the files are the plan's, and nothing that others put there is touched. Triton: test_triton.py."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
from conftest import toy_manifest, write_toy_plan
from export_toys import both, error_of, export, full_plan, tree
from test_front_door import HEAVY, run_without

from vlf_edge import TensorSpec

# ONNX and raw engines


@pytest.mark.parametrize("kind", [None, "portable", "typed", "fp32"])
def test_onnx_is_the_plan_s_with_all_it_takes_to_feed_it(tmp_path, capsys, kind):
    plan, out = full_plan(tmp_path / "a.plan"), tmp_path / "new" / "out"
    assert export(plan, "--onnx", out, *(["--kind", kind] if kind else [])) == 0
    kind = kind or "portable"
    assert capsys.readouterr().out.splitlines() == [str(path) for path in sorted(out.iterdir())]
    files = tree(out)
    assert set(files) == {"frame.onnx", "clip.onnx", "vlf.json", "README.txt"}
    assert (files["frame.onnx"], files["clip.onnx"]) == (plan.graph("frame", kind), plan.graph("clip", kind))
    told = json.loads(files["vlf.json"])
    assert told["labels"] == list(plan.manifest.labels) and told["plan"]["sha256"] == plan.digest
    assert told["sampling"]["step_s"] == 0.25 and told["sampling"]["frames"] == 4
    assert told["preprocess"]["height_px"] == 32 and told["preprocess"]["colour"] == "BGR"
    for graph in told["graphs"]:
        for side in ("inputs", "outputs"):
            specs = [TensorSpec(t["name"], t["dtype"], tuple(t["shape"])) for t in graph[side]]
            assert tuple(specs) == getattr(plan.manifest.graph(graph["stage"], kind), side)
    text = files["README.txt"].decode()
    assert "every 0.25 s" in text and "K = 4" in text and "BGR" in text and "RANDOM" not in text
    assert f"tokens float{16 if kind == 'typed' else 32}(N, 4, 4, 6) -> logits" in text


def test_the_readme_says_that_weights_are_random(tmp_path):
    plan = full_plan(tmp_path / "a.plan", manifest=toy_manifest(weights={"origin": "random", "seed": 0}))
    assert export(plan, "--onnx", tmp_path / "out") == 0
    assert "RANDOM WEIGHTS" in (tmp_path / "out" / "README.txt").read_text()
    assert json.loads((tmp_path / "out" / "vlf.json").read_text())["random_weights"] is True


def test_raw_engines_by_target(tmp_path, capsys):
    plan = full_plan(tmp_path / "a.plan", *both("rtx", "tensorrt_rtx"), *both("tensorrt", "tensorrt"))
    assert export(plan, "--raw", tmp_path / "all") == 0
    files = tree(tmp_path / "all")
    want = {f"{t}/{s}.{t}.engine" for t in ("rtx", "tensorrt") for s in ("frame", "clip")}
    assert set(files) == want | {"vlf.json", "README.txt"}
    assert all(files[name] == plan.read(name.split("/")[1]) for name in want)
    told = {engine["file"]: engine for engine in json.loads(files["vlf.json"])["engines"]}
    assert set(told) == want and told["rtx/clip.rtx.engine"]["library"] == "tensorrt_rtx"
    assert told["tensorrt/clip.tensorrt.engine"]["inputs"][0] == {
        "name": "tokens",
        "dtype": "float16",
        "shape": ["N", 4, 4, 6],
    }
    assert export(plan, "--raw", tmp_path / "one", "--target", "rtx") == 0
    assert {name.split("/")[0] for name in tree(tmp_path / "one")} == {"rtx", "vlf.json", "README.txt"}
    capsys.readouterr()
    assert export(plan, "--raw", tmp_path / "none", "--target", "orin") == 1
    assert "no engine of target 'orin', available: rtx, tensorrt; add one with: vlf-edge build" in error_of(capsys)
    assert export(full_plan(tmp_path / "b.plan"), "--raw", tmp_path / "none") == 1
    err = error_of(capsys)
    assert "holds no engines" in err and f"vlf-edge build {tmp_path / 'b.plan'} --target" in err
    assert not (tmp_path / "none").exists()


# Where it goes


def test_an_earlier_export_is_replaced(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    first = full_plan(tmp_path / "a.plan", *both("rtx", "tensorrt_rtx"), *both("orin", "tensorrt"))
    assert export(first, "--raw", out) == 0
    once = tree(out)
    assert export(first, "--raw", out) == 0 and tree(out) == once
    assert export(first, "--raw", out, "--target", "rtx") == 0
    assert not (out / "orin").exists() and (out / "rtx" / "clip.rtx.engine").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.plan", "out"]


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda out: (out / "vlf.json").unlink(), "was not exported by vlf-edge (there is no vlf.json in it)"),
        (lambda out: (out / "vlf.json").write_text("[]"), "its vlf.json is not one that vlf-edge wrote"),
        (lambda out: (out / "frame.onnx").write_bytes(b"mine"), "frame.onnx in it was changed since"),
        (lambda out: (out / "mine.txt").write_text("mine"), "it holds mine.txt, which vlf-edge did not put there"),
        (lambda out: (out / "link").symlink_to(out.parent), "it holds link, which vlf-edge did not put there"),
    ],
)
def test_other_people_s_files_are_left_alone(tmp_path, capsys, spoil, message):
    plan, out = full_plan(tmp_path / "a.plan"), tmp_path / "out"
    assert export(plan, "--onnx", out) == 0
    spoil(out)
    before = sorted(out.iterdir())
    capsys.readouterr()
    assert export(plan, "--onnx", out, "--triton", tmp_path / "models") == 1
    err = error_of(capsys)
    assert message in err and "name a new folder, or remove this one first" in err
    assert sorted(out.iterdir()) == before and not (tmp_path / "models").exists()


def test_a_file_in_the_way(tmp_path, capsys):
    plan = full_plan(tmp_path / "a.plan")
    assert export(plan, "--onnx", plan.path) == 1
    assert "it is a file; name a folder" in error_of(capsys)
    assert export(plan, "--onnx", plan.path / "out") == 1
    assert "cannot export to" in error_of(capsys)


def test_what_cannot_be_read_whole_is_not_written_at_all(tmp_path, capsys):
    plan, out = full_plan(tmp_path / "a.plan"), tmp_path / "out"
    assert export(plan, "--onnx", out) == 0
    before = tree(out)
    data = plan.path.read_bytes()
    graph = plan.read("clip.portable.onnx")
    assert data.count(graph) == 1
    plan.path.write_bytes(data.replace(graph, graph[:-1] + b"x"))
    capsys.readouterr()
    for place in (out, tmp_path / "new"):
        assert export(plan, "--onnx", place) == 1
        assert "a.plan is damaged" in error_of(capsys)
    assert tree(out) == before and sorted(path.name for path in tmp_path.iterdir()) == ["a.plan", "out"]


def test_names_in_a_plan_never_become_paths(tmp_path, capsys):
    manifest = toy_manifest()
    graphs = tuple(replace(g, stage="../up") if g.stage == "clip" else g for g in manifest.graphs)
    evil = replace(manifest, stages=("frame", "../up"), graphs=graphs)
    plan = write_toy_plan(tmp_path / "evil.plan", evil)
    assert export(plan, "--onnx", tmp_path / "out") == 1
    assert "'../up' cannot name a file" in error_of(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["evil.plan"]


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "name one or more of --onnx DIR, --raw DIR, --triton DIR"),
        (["--onnx", "{out}", "--triton", "{out}"], "overlap; each export needs a folder of its own"),
        (["--onnx", "{out}", "--triton", "{out}/models"], "overlap; each export needs a folder of its own"),
        (["--triton", "{out}", "--kind", "fp32"], "--kind fp32 says something about an export that was not asked for"),
        (["--onnx", "{out}", "--target", "rtx"], "--target rtx says something"),
        (["--raw", "{out}", "--triton-name", "x"], "--triton-name x says something"),
        (["--raw", "{out}", "--target", "cpu"], "--target cpu stands for no engine"),
    ],
)
def test_flags_that_do_not_go_together(tmp_path, capsys, words, message):
    out = tmp_path / "out"
    assert export(full_plan(tmp_path / "a.plan"), *(word.format(out=out) for word in words)) == 1
    assert message in error_of(capsys) and not out.exists()


def test_it_needs_no_library_but_numpy(tmp_path):
    full_plan(tmp_path / "a.plan", *both("orin", "tensorrt"))
    places = itertools.chain(*((f"--{kind}", str(tmp_path / kind)) for kind in ("onnx", "raw", "triton")))
    words = ["export", str(tmp_path / "a.plan"), *places]
    done = run_without(HEAVY, f"from vlf_edge.cli import main\nassert main({words!r}) == 0")
    assert done.returncode == 0, done.stderr
    assert all((tmp_path / kind / "vlf.json").exists() for kind in ("onnx", "raw", "triton"))
