"""What importing costs, what the front door shows, and who may import whom."""

import ast
import json
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import vlf_edge
from vlf_edge import cli

PACKAGE = Path(vlf_edge.__file__).parent
HEAVY = ("torch", "timm", "onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "cv2", "cuda", "av")


def loaded_after(code: str) -> set[str]:
    """The heavy modules in a fresh interpreter after ``code``."""
    probe = f"{code}\nimport sys, json\nprint(json.dumps([m for m in {HEAVY} if m in sys.modules]), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr.splitlines()[-1]))


def run_without(modules: tuple[str, ...], code: str) -> subprocess.CompletedProcess:
    """Runs ``code`` in an interpreter in which ``modules`` are not installed."""
    barred = (
        "import sys\n"
        "class Bar:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {modules!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Bar())\n"
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda n, p=None: None if n.split('.')[0] in {modules!r} else find(n, p)\n"
    )
    return subprocess.run([sys.executable, "-c", barred + code], capture_output=True, text=True)


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_after("import vlf_edge; vlf_edge.Plan; vlf_edge.Prediction; dir(vlf_edge)") == set()


@pytest.mark.parametrize("verb", [[], *([name] for name in cli._VERBS)])
def test_help_loads_nothing_heavy(verb):
    code = f"from vlf_edge.cli import main\ntry:\n    main({[*verb, '--help']!r})\nexcept SystemExit as end:\n    "
    assert loaded_after(code + "assert end.code == 0") == set()


@pytest.mark.parametrize(
    "folder",
    ["video", "backends", "runtime", "serve", "synthetic", "datasets", "evaluation", "export", "doctor", "enrolment"],
)
def test_modules_load_without_any_backend(folder):
    modules = sorted(f"vlf_edge.{folder}.{p.stem}" for p in (PACKAGE / folder).glob("*.py") if p.stem != "__init__")
    done = run_without(HEAVY, "import importlib\n" + "".join(f"importlib.import_module({m!r})\n" for m in modules))
    assert done.returncode == 0, done.stderr


def test_rendering_clips_needs_numpy_and_opencv_alone():
    others = tuple(name for name in HEAVY if name != "cv2")
    code = "from vlf_edge.synthetic import MotionClip\nprint(MotionClip('nod', 1, 64, 48).render(0).shape)"
    done = run_without((*others, "safetensors"), code)
    assert done.stdout == "(48, 64, 3)\n", done.stderr


def test_every_public_name_resolves_and_is_listed():
    assert vlf_edge.__all__ == sorted(vlf_edge.__all__)
    for name in vlf_edge.__all__:
        assert getattr(vlf_edge, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Runtimes'"):
        getattr(vlf_edge, "Runtimes")  # noqa: B009


def test_every_error_is_a_vlf_error_and_drawn_in_the_tree():
    from vlf_edge import errors

    tree = errors.__doc__
    for name, value in vars(errors).items():
        if isinstance(value, type):
            assert issubclass(value, vlf_edge.VlfError) and name in tree


def module_name(path: Path) -> str:
    return ".".join(("vlf_edge", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imports_of(path: Path) -> set[str]:
    """Absolute names of everything a file imports, at any depth of it; of our own packages the modules alone."""
    package = ["vlf_edge", *path.relative_to(PACKAGE).parts[:-1]]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            members = {f"{module}.{alias.name}" for alias in node.names}
            if module in MODULES:
                names |= {member if member in MODULES else module for member in members}
            else:
                names |= {module} | members
    return names


GRAPHS = ("onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx")
GROUND = (
    "_version", "atomic", "backoff", "batches", "cache", "credentials", "errors", "json_fields", "lazy", "memory",
    "opencv", "options", "printable", "scratch", "shipped", "signals", "software", "strict_json", "telemetry",
    "toml_file", "types",
)  # fmt: skip
# Who may import whom: each room names the rooms below it. Arrows go down only, so there are no circles.
ROOMS = {
    "synthetic": (),
    "video": ("synthetic",),
    "archive": (),
    "onnx_graph": (),
    "interface": (),
    "head": (),
    "manifest": ("head", "interface", "onnx_graph"),
    "plan": ("head", "manifest", "interface", "onnx_graph", "archive"),
    "golden_windows": ("head", "plan", "manifest", "interface", "onnx_graph", "archive"),
    "backends": ("plan", "manifest", "interface", "onnx_graph"),
    "models": (),
    "datasets": ("video", "synthetic"),
    "runtime": ("backends", "golden_windows", "plan", "manifest", "head", "video"),
    "serve": ("runtime", "backends", "plan"),
    "evaluation": ("runtime", "backends", "plan", "manifest", "head", "datasets", "video", "synthetic"),
    "enrolment": ("evaluation", "runtime", "backends", "plan", "manifest", "head", "datasets", "video"),
    "export": ("golden_windows", "plan", "manifest"),
    "training": ("models", "datasets", "video", "synthetic"),
    "compiler": ("models", "backends", "golden_windows", "plan", "manifest", "head", "datasets", "video"),
    "doctor": (
        "compiler", "runtime", "golden_windows", "backends", "plan", "manifest", "interface", "video",
    ),
    "commands": (
        "compiler", "training", "evaluation", "enrolment", "export", "doctor", "serve", "runtime", "backends",
        "datasets", "golden_windows", "plan", "manifest", "video",
    ),
    "cli": ("commands",),
}  # fmt: skip
BARRED = {  # libraries that a room never imports
    "synthetic": ("torch", *GRAPHS),
    "video": ("torch", "timm", *GRAPHS),
    "backends": ("torch", "timm", "onnx"),
    "models": (*GRAPHS, "threading"),
    "datasets": ("torch", "timm", *GRAPHS),
    "runtime": ("torch", "timm", *GRAPHS),
    "enrolment": ("torch", "timm", *GRAPHS),
    "serve": ("torch", "timm", *GRAPHS),
    "evaluation": ("timm", *GRAPHS),
    "export": ("torch", "timm", "cv2", *GRAPHS),
    "training": GRAPHS,
    "compiler": ("timm",),
    "doctor": ("torch", "timm", *GRAPHS),
}


def room_of(name: str) -> str:
    return name.removeprefix("vlf_edge.").split(".")[0]


def test_rooms_lie_in_one_order():
    """Every room stands after those it imports: no circles."""
    seen = set()
    for room, below in ROOMS.items():
        assert set(below) <= seen, room
        seen.add(room)


def test_no_two_modules_import_each_other():
    """Directly or through others, in functions or for types alone."""
    graph = {name: imports_of(path) & MODULES.keys() - {name} for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import circle: {' <- '.join(error.args[1])}")


def test_every_module_has_a_room():
    found = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert found - {"__init__", "__main__"} == {*ROOMS, *GROUND}


@pytest.mark.parametrize("room", [*ROOMS, *GROUND])
def test_import_law(room):
    known = (room, *ROOMS.get(room, ()), *GROUND)
    files = (PACKAGE / room).rglob("*.py") if room in ROOMS and (PACKAGE / room).is_dir() else [PACKAGE / f"{room}.py"]
    for path in files:
        for name in imports_of(path):
            late = (room, path.name) == ("evaluation", "reference.py") and room_of(name) == "models"
            foreign = name.startswith("vlf_edge.") and room_of(name) in {*ROOMS, *GROUND} - {*known}
            library = any(f"{name}.".startswith(f"{one}.") for one in BARRED.get(room, ()))
            assert not library and (late or not foreign), f"{path} imports {name}"


def test_only_the_reference_imports_torch_in_the_evaluation():
    for path in (PACKAGE / "evaluation").glob("*.py"):
        assert "torch" not in imports_of(path) or path.name == "reference.py", path.name


def test_only_the_frontends_import_torch_in_the_compiler():
    for path in (PACKAGE / "compiler").rglob("*.py"):
        uses_torch = any(name.split(".")[0] in ("torch", "timm") for name in imports_of(path))
        assert not uses_torch or path.name in ("onnx_export.py", "torch_tensorrt.py"), path.name


def test_each_library_has_one_home():
    homes = {
        "openvino": ("openvino.py",), "tensorrt": ("tensorrt.py",), "cuda": ("cuda.py",), "starlette": ("app.py",),
        "uvicorn": ("server.py",), "prometheus_client": ("metrics.py",),
        "av": ("network.py", "h264.py", "questions.py"),  # reading, writing, and asking what there is
    }  # fmt: skip
    for path in PACKAGE.rglob("*.py"):
        for name in imports_of(path):
            home = homes.get(name.split(".")[0])
            assert home is None or path.name in home, f"{path} imports {name}"


def test_files_keep_their_size():
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 350, path
