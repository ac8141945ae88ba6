"""What GPU tests share: a skip that gives its reason, trained plans, a Runtime on the GPU, its memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vlf_edge import BackendMissing, Plan, Runtime
from vlf_edge.backends import cuda, installed, require
from vlf_edge.backends.table import GPU_BACKENDS
from vlf_edge.video.preprocess import Preprocessor
from vlf_edge.video.sources import open_source

HERE = Path(__file__).parent
# A leak of 1 KiB a decision is 10 MiB in ten thousand. CUDA hands out memory in pieces of 2 MiB.
MOST_GPU_BYTES = 4 << 20


def _library() -> str:
    """TensorRT where it is installed, else TensorRT-RTX. Raises BackendMissing, also without a GPU."""
    cuda.probe()
    library = next(filter(installed, GPU_BACKENDS), GPU_BACKENDS[0])
    require(library)
    return library


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test of this folder, and skips them all for one reason: what the package itself says is missing.

    A module that says NEEDS_TENSORRT = False sees for itself what it can run."""
    ours = [item for item in items if HERE in item.path.parents and getattr(item.module, "NEEDS_TENSORRT", True)]
    marks = [pytest.mark.gpu]
    if ours:  # else CUDA is not even asked
        try:
            _library()
        except BackendMissing as error:
            marks.append(pytest.mark.skip(reason=str(error)))
    for item in ours:
        for mark in marks:
            item.add_marker(mark)


@pytest.fixture(scope="session")
def library() -> str:
    return _library()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Engines built here are kept for this session and no longer; fp32 is fp32, since NVIDIA's libraries else round
    the factors of products to TF32, as fp16 would. Read when they are loaded, here and in the processes that build."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("NVIDIA_TF32_OVERRIDE", "0")
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> dict[str, Path]:
    """The shipped vlf-tiny by precision: its weights are trained, so its logits mean something."""
    from vlf_edge.compiler import Recipe, build
    from vlf_edge.compiler.fp32_model import SHIPPED_PLAN

    folder, paths = tmp_path_factory.mktemp("trained"), {"fp32": SHIPPED_PLAN}
    for precision in ("fp16", "int8"):
        paths[precision] = folder / f"{precision}.plan"
        clips = ("test://motion?seconds=40&width=160&height=120",)
        recipe = Recipe(precision=precision, calib_data=clips, max_drop=100, target="cpu")
        build(recipe, paths[precision], base=SHIPPED_PLAN, cache_dir=folder / "ranges")
    return paths


@pytest.fixture
def on_gpu(library) -> Callable[..., Runtime]:
    """Opens a plan on the GPU: ``Runtime`` with the backend chosen, engines built where the plan has none."""

    def open_runtime(plan: Path | Plan, **options) -> Runtime:
        runtime = Runtime(plan, backend=library, rebuild="auto", **options)
        assert runtime.backend == library
        return runtime

    return open_runtime


def sized_frames(plan: Plan, source: Path | str, count: int) -> np.ndarray:
    """(count, H, W, 3) uint8 of the model's size, spread over a clip: the runtime neither cuts nor shrinks them."""
    preprocess = Preprocessor(plan.manifest.preprocess)
    with open_source(str(source)) as frames:
        images = [preprocess(frame.image) for frame in frames]
    return np.stack([images[i] for i in np.linspace(0, len(images) - 1, count).astype(int)])


def free_gpu_bytes() -> int:
    runtime = cuda.load_runtime()
    code, free, _total = runtime.cudaMemGetInfo()
    assert code == runtime.cudaError_t.cudaSuccess
    return int(free)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
