"""A head: its closed form, what is refused, and that every way into a runtime decides by it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import LABELS, toy_manifest, write_toy_plan
from fake_cuda import FakeCuda
from fake_tensorrt import spec
from test_tensorrt import VERSIONS, _install, cache  # noqa: F401
from test_tensorrt_executor import CLIP, FRAME, LIBRARIES, close, pictures

from vlf_edge import Plan, PlanError, PlanMismatch, Runtime, TensorSpec
from vlf_edge.backends.tensorrt import TensorRTEngine
from vlf_edge.enrolment.lesson import Lesson
from vlf_edge.enrolment.writing import write_head
from vlf_edge.head import UNKNOWN, Head, HeadArray, HeadInfo
from vlf_edge.manifest import Manifest
from vlf_edge.runtime.host_executor import HostExecutor
from vlf_edge.runtime.recognizer import Recognizer
from vlf_edge.runtime.tensorrt_executor import TensorRTExecutor

FEATURES = 7
ROLES = {"clip": {"tokens": "window", "logits": "logits", "features": "features"}}
READS = [("features",), ("logits",), ("features", "logits")]


def featured(manifest: Manifest, dtype: str = "float32") -> Manifest:
    """The same, whose clip stage gives features beside its logits."""
    extra = TensorSpec("features", dtype, ("N", FEATURES))
    graphs = tuple(
        replace(graph, outputs=(*graph.outputs, extra)) if graph.stage == "clip" else graph for graph in manifest.graphs
    )
    return replace(manifest, graphs=graphs, roles=ROLES)


def lesson(reads: tuple[str, ...], seed: int = 0) -> Lesson:
    """A head of random numbers: two labels where it reads features, three classes where it reads logits, unknown."""
    rng = np.random.default_rng(seed)
    enrolled, kept = ("wave", "stop") * ("features" in reads), (4, 0, 2) * ("logits" in reads)
    rows = len(enrolled) + len(kept) + 1 if enrolled else 0
    arrays = {"bias": rng.standard_normal(rows or 1).astype(np.float32)}
    if rows:
        arrays["weight"] = rng.standard_normal((rows, FEATURES)).astype(np.float32)
    return Lesson((*enrolled, *(LABELS[number] for number in kept), UNKNOWN), reads, kept, arrays, {"a": 1})


def head_of(one: Lesson) -> Head:
    entries = tuple(HeadArray(name, f"{name}.f32", array.shape) for name, array in one.arrays.items())
    return Head(HeadInfo(one.reads, LABELS, one.kept, one.unknown, entries), one.labels, one.arrays)


def values_of(reads: tuple[str, ...], count: int, seed: int = 1) -> np.ndarray:
    width = FEATURES * ("features" in reads) + len(LABELS) * ("logits" in reads)
    return (2 * np.random.default_rng(seed).standard_normal((count, width))).astype(np.float32)


def slow(head: Head, values: np.ndarray) -> list[float]:
    """The head of one sample, number by number, as docs/plan.md has it."""
    weight, bias, kept = head.arrays.get("weight"), head.arrays["bias"], head.info.kept
    features = values[: 0 if weight is None else weight.shape[1]]
    logits = [float(values[len(features) + number]) for number in kept]
    total = np.log(sum(np.exp(one) for one in logits)) if kept else 0.0
    if weight is None:
        return [*logits, total + float(bias[0])]
    rows = [sum(float(w) * float(x) for w, x in zip(row, features)) + float(b) for row, b in zip(weight, bias)]
    gate = np.log(sum(np.exp(row) for row in rows[2:-1])) if kept else 0.0
    return [*rows[:2], *(one - total + gate for one in logits), rows[-1]]


@pytest.mark.parametrize("reads", READS)
def test_a_head_is_what_its_document_says(reads):
    head, values = head_of(lesson(reads)), values_of(reads, 20)
    np.testing.assert_allclose(head(values), [slow(head, one) for one in values], rtol=1e-4, atol=1e-4)
    # A batch gives the bits of its items, whatever their type.
    np.testing.assert_array_equal(head(values), np.stack([head(one) for one in values]))
    half = values.astype(np.float16)
    np.testing.assert_array_equal(head(half), head(half.astype(np.float32)))


def test_without_labels_unknown_is_what_nothing_is_probable_enough_for():
    least = 0.6
    one = replace(lesson(("logits",)), arrays={"bias": np.array([np.log(least)], np.float32)})
    head, values = head_of(one), values_of(("logits",), 500)
    kept = np.exp(values[:, one.kept].astype(np.float64))
    probable = (kept / kept.sum(axis=1, keepdims=True)).max(axis=1)
    unknown = head(values).argmax(axis=1) == 3
    np.testing.assert_array_equal(unknown, probable < least)
    assert 50 < unknown.sum() < 450


WRONG = {
    "no labels for its rows": lambda one: replace(one, labels=one.labels[1:]),
    "unknown is not last": lambda one: replace(one, labels=one.labels[::-1]),
    "a class that is not there": lambda one: replace(one, kept=(4, 0, 5)),
    "a class twice": lambda one: replace(one, kept=(4, 0, 0)),
    "reads in another order": lambda one: replace(one, reads=("logits", "features")),
    "reads what it does not need": lambda one: replace(one, kept=(), labels=("wave", "stop", UNKNOWN)),
    "a bias too short": lambda one: replace(one, arrays=one.arrays | {"bias": np.zeros(3, np.float32)}),
    "no weight": lambda one: replace(one, arrays={"bias": one.arrays["bias"]}),
    "not a number": lambda one: replace(one, arrays=one.arrays | {"bias": np.full(6, np.nan, np.float32)}),
    "other features": lambda one: replace(one, arrays=one.arrays | {"weight": np.zeros((6, 6), np.float32)}),
    "too large": lambda one: replace(one, arrays=one.arrays | {"more": np.zeros((1 << 18) + 1, np.float32)}),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_head_that_does_not_fit_is_refused(tmp_path, what):
    plan = write_toy_plan(tmp_path / "toy.plan", featured(toy_manifest()))
    with pytest.raises(PlanError, match="not a sound vlf.plan"):
        write_head(plan, tmp_path / "new.plan", WRONG[what](lesson(READS[2]))).head()


def test_a_head_needs_features_that_the_model_gives(toy_plan, tmp_path):
    with pytest.raises(PlanError, match="does not fit the None features"):
        write_head(toy_plan, tmp_path / "new.plan", lesson(("features",)))


def test_a_plan_with_a_head_survives_being_written_and_needs_its_arrays(tmp_path):
    plan = write_toy_plan(tmp_path / "toy.plan", featured(toy_manifest()))
    new = write_head(plan, tmp_path / "new.plan", lesson(READS[2]))
    again = Plan.open(new.path)
    assert again.manifest == new.manifest and again.manifest.format == 3 and again.digest == new.digest
    assert again.manifest.classes == LABELS and again.manifest.labels == lesson(READS[2]).labels
    again.verify()
    with pytest.raises(PlanMismatch, match="decides by its head"):
        Recognizer(again.manifest, {})


@pytest.mark.parametrize("reads", READS)
def test_every_way_into_a_runtime_decides_by_the_head(tmp_path, images, reads):
    plan = write_toy_plan(tmp_path / "toy.plan", featured(toy_manifest()))
    plan = write_head(plan, tmp_path / "new.plan", lesson(reads))
    head, step_s, size = plan.head(), 0.25, images.shape[2:0:-1]
    frames = [(image, n * step_s) for n, image in enumerate(images[:8])]
    with Runtime(plan, backend="fake") as runtime:
        assert runtime.labels == plan.manifest.labels
        pushed = [runtime.push(image, t) for image, t in frames][3:]
        engines, prepare = runtime._engines, runtime.recognizer._preprocess
        tokens = [engines["frame"].infer({"image": prepare(image)[None]})["tokens"] for image, _ in frames]
        for n, prediction in enumerate(pushed):
            answer = engines["clip"].infer({"tokens": np.concatenate(tokens[n : n + 4])[None]})
            want = head(np.concatenate([answer[role][0] for role in reads]))
            np.testing.assert_array_equal(prediction.logits, want)
            scores = np.exp(want - want.max()) / np.exp(want - want.max()).sum()
            np.testing.assert_allclose(prediction.scores, scores, rtol=1e-5)
            assert prediction.state == "ok" and prediction.label == plan.manifest.labels[want.argmax()]
            assert prediction.topk[0] == (prediction.label, prediction.score)
        streamed = [p for p in runtime.stream(frames) if p.state == "ok"]
        many = [runtime.push_many([("a", i, t), ("b", i, t)]) for i, t in frames][3:]
        box = {"person": (0, 0, *size)}
        regions = [runtime.push_regions(i, t, box, margin=0)["person"] for i, t in frames][3:]
        clip = runtime.classify([image for image, _ in frames[:4]])
    for n, one in enumerate(pushed):
        for other in (streamed[n], *many[n]):
            np.testing.assert_array_equal(one.logits, other.logits)
        assert regions[n].state == "ok" and regions[n].label in plan.manifest.labels
        assert len(regions[n].scores) == len(plan.manifest.labels)
    np.testing.assert_array_equal(clip.logits, pushed[0].logits)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("reads", READS)
def test_on_the_gpu_a_head_reads_what_it_reads_through_the_host(monkeypatch, library, reads):
    version, rtx = VERSIONS[library]
    machine = _install(monkeypatch, FakeCuda(), version, rtx)
    clip = {**CLIP, "outputs": {**CLIP["outputs"], "features": ("FLOAT", (-1, FEATURES))}}
    pair = {n: TensorRTEngine(spec(**one), machine[0]) for n, one in (("frame", FRAME), ("clip", clip))}
    one = lesson(reads)
    info = head_of(one).info
    manifest = replace(featured(toy_manifest()), labels=one.labels, head=info)
    on_gpu, by_stage = (Recognizer(manifest, pair, head=head_of(one)) for _ in range(2))
    assert type(on_gpu.executor) is TensorRTExecutor
    by_stage.executor = HostExecutor(manifest.stage_roles, pair, manifest.sampling, by_stage.stats, reads)
    for n, image in enumerate(pictures(9)):
        frames = [(name, image, n * 0.25) for name in "abc"]
        for got, want in zip(on_gpu.push_many(frames), by_stage.push_many(frames)):
            assert got.state == want.state
            if want.state == "ok":
                np.testing.assert_array_equal(got.logits, want.logits)
    assert want.state == "ok" and len(want.logits) == len(one.labels)
    close(pair)
