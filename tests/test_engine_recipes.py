"""The recipes under engines/, and what engines/README.md and docs/jetson.md say about them and about vlf-edge."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from onnx_toys import write_fp32_plan
from toy_graphs import toy_clip, toy_frame

from vlf_edge import backends
from vlf_edge.backends import cuda
from vlf_edge.cli import parser
from vlf_edge.compiler import Recipe, build, load_recipe
from vlf_edge.compiler.engines import TARGETS, build_engines, resolve_targets
from vlf_edge.compiler.recipe import packaged_recipe
from vlf_edge.errors import BackendMissing, CalibrationError

ROOT = Path(__file__).resolve().parents[1]
README, JETSON = ROOT / "engines" / "README.md", ROOT / "docs" / "jetson.md"
RECIPES = sorted(path.stem for path in (ROOT / "engines").glob("*.toml"))
ON_THE_MACHINE = [name for name in RECIPES if name.startswith("jetson-") or name == "datacentre"]
# The GPUs each TensorRT-RTX recipe is for.
RTX = {
    "rtx": ("8.0", "8.6", "8.9", "12.0", "12.1+"),
    "rtx-ampere": ("8.6",),
    "rtx-ada": ("8.9",),
    "rtx-blackwell": ("12.0",),
    "rtx-turing": ("7.5",),
}
rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")


def recipe(name: str) -> Recipe:
    return load_recipe(f"engines/{name}.toml")


def given(name: str) -> dict:
    """What the file itself says, without the defaults."""
    text = (ROOT / "engines" / f"{name}.toml").read_text()
    lines = [line.split("#")[0] for line in text.splitlines() if re.match(r"\w+ = ", line)]
    return {key.strip(): ast.literal_eval(value.strip()) for key, value in (line.split(" = ") for line in lines)}


def test_there_is_a_recipe_for_every_kind_of_machine():
    jetsons = {"jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-thor"}
    assert set(RECIPES) == {*jetsons, *RTX, "datacentre", "cpu"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_it_sets_and_why(name):
    wanted = {"precision", "target"} | ({"max_batch", "workspace_mib"} if name != "cpu" else set())
    wanted |= {"opt_batch"} if name == "datacentre" else set()
    assert set(given(name)) == wanted
    assert {key: getattr(recipe(name), key) for key in wanted} == given(name)
    assert recipe(name) == Recipe(**given(name)), "nothing comes from elsewhere"
    text = packaged_recipe(f"engines/{name}.toml").read_text()
    assert text.startswith("# ") and "\n# Clip: " in text and max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("name", ON_THE_MACHINE)
def test_what_is_built_where_it_runs_needs_its_library_and_gpu(name, monkeypatch):
    monkeypatch.setattr(backends, "installed", lambda library: False)
    with pytest.raises(BackendMissing, match=r"tensorrt is not installed; .*sudo apt install python3-libnvinfer"):
        resolve_targets(recipe(name).target)
    gpu = cuda.GpuInfo("Orin", "8.7", 8 << 30, True, 8)
    monkeypatch.setattr(backends, "installed", lambda library: library == "tensorrt")
    monkeypatch.setattr(cuda, "probe", lambda device=0: gpu)
    assert resolve_targets(recipe(name).target) == [replace(TARGETS["tensorrt"], name="tensorrt:orin-with-8-sms")]


def test_smaller_boards_get_smaller_engines():
    sizes = ["jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-thor"]
    for smaller, larger in zip(map(recipe, sizes), map(recipe, sizes[1:])):
        assert smaller.max_batch < larger.max_batch and smaller.workspace_mib < larger.workspace_mib


@rtx
@pytest.mark.parametrize("name", RTX)
def test_rtx_recipes_build_engines_for_the_gpus_they_name(name):
    wanted, (target,) = recipe(name), resolve_targets(recipe(name).target)
    ((info, data),) = build_engines(
        {"frame": toy_frame("float16")},
        [target],
        max_batch=wanted.max_batch,
        workspace_bytes=wanted.workspace_mib << 20,
    )
    assert (info.compute_capabilities, info.max_batch) == (RTX[name], wanted.max_batch)
    assert (info.library, data[:4]) == ("tensorrt_rtx", b"vtrt")


@rtx
def test_the_clip_stage_builds_from_the_portable_recipe_too():
    ((info, _),) = build_engines({"clip": toy_clip("float16")}, resolve_targets(recipe("rtx").target), max_batch=8)
    assert info.compute_capabilities == RTX["rtx"]


def test_cpu_builds_no_engine():
    assert resolve_targets(recipe("cpu").target) == []


@pytest.mark.parametrize("name", RECIPES)
def test_int8_without_clips_says_what_to_give(name, tmp_path):
    base = write_fp32_plan(tmp_path / "base.plan", {"name": "toy"}, [f"class {i}" for i in range(5)])
    asked = load_recipe(f"engines/{name}.toml", precision="int8", target="cpu")
    with pytest.raises(CalibrationError, match="INT8 needs real clips to calibrate on and got none; give --calib-data"):
        build(asked, tmp_path / "out.plan", base=base)


def test_the_table_of_the_readme_is_what_the_recipes_say():
    rows = re.findall(r"^\| `([\w-]+)\.toml` \|(.*)\|$", README.read_text(), re.M)
    assert sorted(name for name, _ in rows) == RECIPES
    for name, row in rows:
        _, precision, target, batch, workspace, weights = (cell.strip().replace("`", "") for cell in row.split("|"))
        said = {"precision": precision, "target": target}
        batches = [int(number) for number in re.findall(r"\d+", batch)]
        said |= dict(zip(("max_batch", "opt_batch"), batches))
        said |= {"workspace_mib": int(workspace)} if workspace else {}
        assert said == given(name)
        clip = packaged_recipe(f"engines/{name}.toml").read_text().split("\n# Clip: ")[1]
        assert all(re.search(rf"{weight}\b(?!-)", clip) for weight in weights.split(", ")), (name, weights, clip)


@pytest.mark.parametrize("page", [README, JETSON], ids=lambda page: page.name)
def test_every_command_of_the_pages_parses(page):
    text = page.read_text()
    blocks = [*re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S), *re.findall(r"^    (.*)", text, re.M)]
    commands = re.findall(r"^vlf-edge [^#\n]*", "\n".join(blocks), re.M)
    assert len(commands) >= 3
    for command in commands:
        args = parser().parse_args(shlex.split(command)[1:] if "--version" not in command else ["build"])
        for path in getattr(args, "recipe", None) or []:
            assert packaged_recipe(path) or path == "calibration/own-camera.toml", command


def test_the_numbers_for_the_boards_are_those_of_the_recipes():
    rows = re.findall(r"^\| (.*) \| `vlf-edge (build .*)` \|$", JETSON.read_text(), re.M)
    boards = {"Orin Nano": "jetson-orin-nano", "Orin NX 16 GB": "jetson-orin-nx", "AGX Orin": "jetson-agx-orin"}
    seen = {}
    for board, words in rows:
        args = parser().parse_args(shlex.split(words))
        name = boards.get(board.split(";")[0], f"jetson-{board.lower()}")
        seen[name] = {"target": args.target, "max_batch": args.max_batch, "workspace_mib": args.workspace_mib}
    assert seen == {
        name: {key: given(name)[key] for key in ("target", "max_batch", "workspace_mib")}
        for name in RECIPES
        if name.startswith("jetson-")
    }


@cache
def texts_of_the_package() -> tuple[str, ...]:
    """Every string literal of what runs, compiles and commands; of f-strings, \\0 for what is filled in."""
    texts = []
    for pattern in ("*.py", "backends/*.py", "video/**/*.py", "runtime/**/*.py", "compiler/**/*.py", "commands/*.py"):
        for path in (ROOT / "vlf_edge").glob(pattern):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    texts.append("".join(p.value if isinstance(p, ast.Constant) else "\0" for p in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    return tuple(texts)


def test_messages_in_the_troubleshooting_table_are_those_of_the_code():
    table = JETSON.read_text().split("## When something fails")[1].split("\n## ")[0]
    messages = re.findall(r"^\| `([^`]*)` \|", table, re.M)
    assert len(messages) >= 15
    said = {fragment for message in messages for fragment in re.split(r"\s*…\s*", message) if fragment}
    unknown = {fragment for fragment in said if not any(fragment in text for text in texts_of_the_package())}
    assert not unknown, "say these as the code does"


def test_the_extras_that_messages_name_exist_and_those_for_cuda_12_stay_with_it():
    text = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    extras = {name: ast.literal_eval(needs) for name, needs in re.findall(r"^([\w-]+) = (\[.*\])$", text, re.M)}
    named = {name for text in texts_of_the_package() for name in re.findall(r"vlf_edge\[([\w-]+)\]", text)}
    assert {"rtx-cu12", "tensorrt-cu12", "cpu"} <= named <= set(extras)
    for extra, library in (("rtx-cu12", "tensorrt_rtx_cu12"), ("tensorrt-cu12", "tensorrt-cu12")):
        assert any(need.startswith(f"{library}>=") for need in extras[extra])
        assert "cuda-bindings>=12.6,<13" in extras[extra]


def test_the_bounds_of_cuda_bindings_are_those_of_each_jetpack():
    """cuda-bindings are not to be newer than the CUDA that the board's driver knows; the message says the same."""
    rows = {row[0].strip(): row[1:] for row in (line.strip("|").split("|") for line in JETSON.read_text().splitlines())}
    assert [cell.strip() for cell in rows["CUDA"][:3]] == ["12.6", "13.0", "13.2"]
    bounds = [cell.strip(" `'") for cell in rows["cuda-bindings"][:3]]
    assert bounds == ["cuda-bindings<12.9", "cuda-bindings<13.1", "cuda-bindings<13.3"]
    messages = " ".join(texts_of_the_package())
    assert all(bound in messages and f"numpy<2' '{bound}'" in JETSON.read_text() for bound in bounds)


def test_the_loop_for_csi_cameras_runs(tmp_path, monkeypatch):
    """As it stands on the page, with a camera of twenty frames a second and the CPU for the GPU."""
    (block,) = re.findall(r"```python\n(.*?)```", JETSON.read_text(), re.S)
    (tmp_path / "loop.py").write_text(block.replace('backend="tensorrt"', 'backend="onnxruntime"'))
    write_fp32_plan(tmp_path / "vlf.plan", {"name": "toy"}, [f"class {i}" for i in range(5)])
    np.save(tmp_path / "frames.npy", np.random.default_rng(0).integers(0, 256, (20, 36, 64, 3), np.uint8))
    fake = """
import sys, time, cv2, numpy as np
class Camera:
    def __init__(self, pipeline, api):
        assert api == cv2.CAP_GSTREAMER
        first, *rest, last = pipeline.split(" ! ")
        assert first.startswith("nvarguscamerasrc ") and len(rest) == 5 and last.startswith("appsink ")
        self.frames, self.now_s = list(np.load("frames.npy")), 0.0
        time.monotonic = lambda: self.now_s
    def isOpened(self): return OPENED
    def read(self):
        self.now_s += 0.05
        return (True, self.frames.pop()) if self.frames else (False, None)
    def release(self): print("released")
cv2.VideoCapture = Camera
exec(open("loop.py").read())
"""
    run = [sys.executable, "-c", fake.replace("OPENED", "True")]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Two frames over half a second, so one every 0.25 s: of one second of frames 4 instants, 3 of them with a window.
    decisions = done.stdout.splitlines()
    assert decisions[-1] == "released" and len(decisions) == 4, done.stdout
    assert all(re.fullmatch(r"class \d [\d.]+", line) for line in decisions[:-1])
    done = subprocess.run(
        [sys.executable, "-c", fake.replace("OPENED", "False")], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr.startswith("no camera: ")
