"""Evaluation, from a fake engine and a handful of clips to the command on real plans."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from conftest import LABELS, toy_manifest, write_toy_plan

from vlf_edge import (
    BackendMissing,
    PlanMismatch,
    Preprocess,
    Runtime,
    ShapeError,
    SourceError,
    VlfError,
    backends,
    software,
)
from vlf_edge.backends.fake import FakeEngine
from vlf_edge.commands import eval as command
from vlf_edge.datasets import Clip, ClipDataset, Sample
from vlf_edge.evaluation import draw_confusion, evaluate, metrics, save_picture, score
from vlf_edge.evaluation.classifier import EngineClassifier, open_classifier
from vlf_edge.evaluation.live import play
from vlf_edge.evaluation.reference import open_reference
from vlf_edge.evaluation.scores import Scores, clip_name, contrast, summarize
from vlf_edge.runtime.sinks import VideoWriter
from vlf_edge.runtime.stats import Stats
from vlf_edge.video.preprocess import Preprocessor
from vlf_edge.video.sampler import segment_centres
from vlf_edge.video.sources import open_source

FPS = 8
SECONDS = (2.0, 2.0, 1.0, 0.5, 3.0, 1.5, 2.0)
BROKEN, SHORT = 6, 3


class ToyDataset(ClipDataset):
    """Whole files, the last of which is no video."""

    name, labels, span_s, mirrors = "toys", LABELS, 1.0, {}

    def __init__(self, clips, preprocess):
        self.clips, self._prepare = clips, Preprocessor(preprocess)

    def sample(self, index, rng):
        with open_source(self.clips[index].name) as source:
            images = [self._prepare(frame.image) for frame in source]
        return Sample(np.stack([images[i] for i in segment_centres(len(images), 4)]), self.clips[index].label)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Videos of changing colours, a class each in turn; BROKEN is none, SHORT has no room for a live window."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    for number, seconds in enumerate(SECONDS):
        path = folder / f"{number}.avi"
        if number == BROKEN:
            path.write_bytes(b"no video")
            continue
        with VideoWriter(path, FPS) as writer:
            for _ in range(round(seconds * FPS)):
                writer.write(np.full((48, 64, 3), rng.integers(0, 256, 3), np.uint8))
    return [Clip(str(folder / f"{i}.avi"), i % len(LABELS)) for i in range(len(SECONDS))]


@pytest.fixture
def dataset(clips, toy_plan):
    return ToyDataset(clips, toy_plan.manifest.preprocess)


@pytest.fixture
def model(toy_plan):
    with open_classifier(toy_plan, backend="fake") as opened:
        yield opened


def broken_engines(plan, **options):
    """The fake engines of a plan, the clip stage of which is changed."""
    graphs = {stage: plan.manifest.graph(stage, "portable") for stage in ("frame", "clip")}
    engines = {stage: FakeEngine(graph.inputs, graph.outputs) for stage, graph in graphs.items()}
    engines["clip"] = FakeEngine(graphs["clip"].inputs, **options)
    return engines


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_logits_are_those_of_the_runtime_clip_by_clip(toy_plan, dataset, model, batch):
    (scores,) = score([model], dataset, batch=batch)
    assert scores.indices.tolist() == [0, 1, 2, 3, 4, 5] and scores.truth.tolist() == [0, 1, 2, 3, 4, 0]
    with Runtime(toy_plan, backend="fake") as runtime:
        expected = [runtime.recognizer.classify(dataset.sample(i, None).frames).logits for i in scores.indices]
    np.testing.assert_allclose(scores.logits, expected, rtol=1e-5)
    ((name, why),) = scores.broken.items()
    assert name == dataset.clips[BROKEN].name and "is not a video" in why


def test_batches_respect_what_an_engine_takes(toy_plan, dataset, model):
    graphs = [toy_plan.manifest.graph(stage, "portable") for stage in ("frame", "clip")]
    frame, clip = (FakeEngine(g.inputs, g.outputs, max_batch=3) for g in graphs)
    limited = EngineClassifier(toy_plan, {"frame": frame, "clip": clip})
    assert np.array_equal(score([limited], dataset)[0].logits, score([model], dataset)[0].logits)
    assert frame.frames == 24 and frame.calls == 9  # 8 as 3 + 3 + 2, three times


def test_figures_follow_from_the_logits(dataset, model):
    (scores,) = score([model], dataset)
    report = summarize(scores, dataset.labels)
    decided = scores.logits.argmax(axis=1)
    assert report["top1"] == pytest.approx((decided == scores.truth).mean(), abs=1e-6)
    assert report["clips"] == 6 and len(report["broken"]) == 1
    assert report["per_class"]["still"]["clips"] == 2
    assert np.array(report["confusion"]).sum() == 6
    wrong = {(LABELS[t], LABELS[d]) for t, d in zip(scores.truth, decided) if t != d}
    assert {(pair["truth"], pair["decided"]) for pair in report["worst_confusions"]} <= wrong and wrong
    json.dumps(report, allow_nan=False)


def test_worst_confusions_come_in_order_and_classes_without_clips_have_no_recall():
    logits = np.eye(3)[[1, 1, 1, 0, 2, 0]]
    report = summarize(Scores(np.arange(6), np.array([0, 0, 0, 0, 1, 1]), logits), ("a", "b", "c"))
    assert report["worst_confusions"] == [
        {"truth": "a", "decided": "b", "clips": 3},
        {"truth": "b", "decided": "a", "clips": 1},
        {"truth": "b", "decided": "c", "clips": 1},
    ]
    assert [entry["recall"] for entry in report["per_class"].values()] == [0.25, 0.0, None]
    assert report["class_recall"] == 0.125


def test_nan_logits_are_an_error_not_a_number(toy_plan, dataset):
    class NaNClassifier(EngineClassifier):
        def decide(self, windows):
            return np.full_like(super().decide(windows), np.nan)

    engines = {
        s: FakeEngine(g.inputs, g.outputs) for s in ("frame", "clip") for g in [toy_plan.manifest.graph(s, "fp32")]
    }
    (scores,) = score([NaNClassifier(toy_plan, engines)], dataset)
    with pytest.raises(VlfError, match="the logits of 6 of 6 clips hold NaN"):
        summarize(scores, dataset.labels)


def test_nothing_readable_or_nothing_at_all_is_an_error(clips, dataset, model):
    dataset.clips = clips[BROKEN:]
    with pytest.raises(SourceError, match="none of the 1 clips of toys can be read: .*6.avi is not a video"):
        score([model], dataset)
    dataset.clips = []
    with pytest.raises(VlfError, match="toys has no clips to evaluate"):
        score([model], dataset)


def test_latency_is_of_single_decisions(dataset, model):
    stats = Stats()
    score([model], dataset, batch=4, stats=stats)
    spreads = stats.summary()["ms"]
    assert {kind: spread["n"] for kind, spread in spreads.items()} == dict.fromkeys(
        ("frame_stage", "clip_stage", "decision"), 6
    )


def test_progress_runs_to_the_end(dataset, model):
    told = []
    score([model], dataset, progress=lambda *step: told.append(step))
    assert told == [("clips", i, 7) for i in range(8)]


def test_live_is_the_mean_of_the_stream(toy_plan, dataset):
    with Runtime(toy_plan, backend="fake") as runtime:
        scores, too_short, windows = play(runtime, dataset, range(len(SECONDS)))
        assert scores.indices.tolist() == [0, 1, 2, 4, 5] and too_short == [dataset.clips[SHORT].name]
        assert list(scores.broken) == [dataset.clips[BROKEN].name]
        counted = 0
        for index, logits in zip(scores.indices, scores.logits):
            stream = [p.scores for p in runtime.stream(dataset.clips[index].name) if p.state == "ok"]
            np.testing.assert_allclose(np.exp(logits), np.mean(stream, axis=0), rtol=1e-5)
            counted += len(stream)
        assert windows == counted == sum(int(s * 4) - 3 for s in (2.0, 2.0, 1.0, 3.0, 1.5))


def test_live_plays_only_the_labelled_stretch(toy_plan, dataset, clips):
    whole = clips[4].name
    with open_source(whole) as source:
        frames = [(frame.image, frame.t_s) for frame in source]
    dataset.clips = [Clip(whole, 1, 0.5, 2.0), Clip(whole, 1, 1.0, None), Clip(whole, 1, 2.9, 3.0)]
    with Runtime(toy_plan, backend="fake") as runtime:
        scores, too_short, windows = play(runtime, dataset, range(3))
        for logits, (start_s, end_s) in zip(scores.logits, ((0.5, 2.0), (1.0, 9.0))):
            cut = [(image, t_s) for image, t_s in frames if start_s <= t_s < end_s]
            expected = [p.scores for p in runtime.stream(cut) if p.state == "ok"]
            np.testing.assert_allclose(np.exp(logits), np.mean(expected, axis=0), rtol=1e-5)
    assert windows == 3 + 5 and too_short == [f"{whole} [2.9 s to 3 s]"]
    assert clip_name(dataset.clips[1]) == f"{whole} [1 s to the end]"


def test_contrast_uses_the_clips_that_both_could_read():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 3))
    ours = Scores(np.array([0, 1, 2, 4]), np.array([0, 1, 2, 1]), logits)
    theirs = Scores(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 1]), rng.normal(size=(4, 3)))
    report = contrast(theirs, ours, ("a", "b", "c"))
    mine, other, truth = logits[[1, 2, 3]], theirs.logits[[0, 1, 3]], np.array([1, 2, 1])
    assert report["clips"] == 3
    assert report["top1"] == pytest.approx(metrics.top_k(mine, truth), abs=1e-6)
    assert report["reference_top1"] == pytest.approx(metrics.top_k(other, truth), abs=1e-6)
    assert report["kl_nats"] == pytest.approx(metrics.divergence(other, mine), rel=1e-5)
    assert report["per_class"]["a"] is None
    hits = [(m.argmax() == 1) - int(o.argmax() == 1) for m, o, t in zip(mine, other, truth) if t == 1]
    assert report["per_class"]["b"] == sum(hits) / 2
    with pytest.raises(VlfError, match="no clip could be read for both"):
        contrast(Scores(np.array([7]), np.array([0]), logits[:1]), ours, ("a", "b", "c"))
    with pytest.raises(VlfError, match="their classes differ"):
        contrast(Scores(np.array([0]), np.array([1]), logits[:1]), ours, ("a", "b", "c"))


@pytest.fixture
def as_data(monkeypatch, clips):
    """``evaluate`` opens ToyDataset, cut as it is asked to."""

    def open_toys(data, split, *, preprocess, labels, **rest):
        return ToyDataset(clips, preprocess)

    monkeypatch.setattr("vlf_edge.datasets.open_dataset", open_toys)


def test_the_whole_report(toy_plan, as_data):
    report = evaluate(toy_plan.path, "toys", against=str(toy_plan.path), live=True, backend="fake")
    assert (report["clips"], report["backend"], report["labels"]) == (6, "fake", list(LABELS))
    assert report["against"]["agreement"] == 1.0 and report["against"]["kl_nats"] == 0.0
    live = report["live"]
    assert live["clips"] == 5 and len(live["too_short"]) == 1 and 0 <= live["agreement"] <= 1
    assert set(live["latency_ms"]) == set(report["latency_ms"]) == {"frame_stage", "clip_stage", "decision"}
    json.dumps(report, allow_nan=False)
    text = command.describe(report)
    for part in (
        "toy fp32 on fake: 6 clips of toys (test), 4 frames over 1 s",
        "1 clip(s) could not be read",
        "of the same 5 clips",
        "1 clip(s) are too short for one live window",
        "the same decision on 100.0 % of 6 clips; KL 0 nats",
        "live decision",
    ):
        assert part in text
    assert "random weights" not in text


def test_a_reference_of_other_sizes_gets_its_own_frames(toy_plan, as_data, tmp_path, monkeypatch):
    # A fake engine takes any image size its specs name: the same labels on images twice as large.
    manifest = toy_manifest()
    graphs = [
        replace(g, inputs=(replace(g.inputs[0], shape=("N", 64, 64, 3)),)) if g.stage == "frame" else g
        for g in manifest.graphs
    ]
    large = replace(manifest, graphs=tuple(graphs), preprocess=Preprocess(64, 64, 64))
    write_toy_plan(tmp_path / "large.plan", large)
    report = evaluate(toy_plan, "toys", against=str(tmp_path / "large.plan"), backend="fake")
    assert report["against"]["clips"] == 6 and report["against"]["kl_nats"] < 1e-3


def test_labels_in_another_order_are_put_right(toy_plan, dataset, model, tmp_path):
    turned = write_toy_plan(tmp_path / "turned.plan", replace(toy_manifest(), labels=LABELS[::-1]))
    with open_classifier(turned, backend="fake") as other:
        ours, theirs = score([model, other], dataset)
        assert np.array_equal(ours.logits, theirs.logits[:, ::-1])
        with Runtime(turned, backend="fake") as runtime:
            live, *_ = play(runtime, dataset, [0])
        with Runtime(toy_plan, backend="fake") as runtime:
            straight, *_ = play(runtime, dataset, [0])
        np.testing.assert_allclose(live.logits, straight.logits[:, ::-1])


def test_what_cannot_be_compared_with_is_one_sentence(toy_plan, as_data, tmp_path, monkeypatch):
    other = write_toy_plan(tmp_path / "other.plan", replace(toy_manifest(), labels=("a", *LABELS[1:])))
    with pytest.raises(PlanMismatch, match=r"other classes \(1 missing: still; 1 unknown: a\)"):
        evaluate(toy_plan, "toys", against=str(other.path), backend="fake")
    with pytest.raises(VlfError, match="cannot compare with 'model.onnx'; expected fp32, a .plan file or weights"):
        open_reference("model.onnx", toy_plan)
    for module in (backends, software):
        monkeypatch.setattr(module, "installed", lambda library: library not in ("torch", "onnxruntime", "openvino"))
    with pytest.raises(BackendMissing, match="needs torch, not installed here: pip install 'vlf_edge\\[models\\]'"):
        open_reference("w.safetensors", toy_plan)
    with pytest.raises(BackendMissing, match="need one of openvino, onnxruntime"):
        open_reference("fp32", toy_plan)
    with pytest.raises(VlfError, match="the batch is 0"):
        evaluate(toy_plan, "toys", batch=0)


def test_engines_that_make_no_classifier_are_refused(toy_plan):
    wide = toy_manifest().graph("clip", "portable").outputs[0]
    engines = broken_engines(toy_plan, outputs=(type(wide)(wide.name, wide.dtype, ("N", 9)),))
    with pytest.raises(PlanMismatch, match="names 5 labels, but its model has 9 classes"):
        EngineClassifier(toy_plan, engines)
    with pytest.raises(PlanMismatch, match="has engines for clip; its stages are frame, clip"):
        EngineClassifier(toy_plan, {"clip": engines["clip"]})


@pytest.mark.parametrize("classes", [1, 3, 13, 40, 120])
def test_the_picture_shades_every_row_by_its_own_sum(classes):
    confusion = np.diag(np.arange(1, classes + 1))
    labels = [f"class {i}" if i % 2 else f"Pushing something {i} from left to right" for i in range(classes)]
    image = draw_confusion(confusion, labels, "all right")
    assert image.dtype == np.uint8 and image.shape[2] == 3 and max(image.shape) < 1600
    full = (image == (150, 75, 25)).all(axis=2)  # no shade but a whole row in one cell has this colour
    assert full.sum() > 0.5 * classes * max(3, 900 // classes if classes > 40 else 28) ** 2 * (classes < 17 or 0.6)
    assert not (draw_confusion(np.zeros((classes, classes), int), labels, "") == (150, 75, 25)).all(axis=2).any()


def test_pictures_are_checked_and_saved(tmp_path):
    image = draw_confusion(np.array([[3, 1], [0, 0]]), ("a", "b\N{SNOWMAN}"), "a title longer than two cells " * 3)
    save_picture(tmp_path / "c.png", image)
    assert np.array_equal(cv2.imread(str(tmp_path / "c.png")), image)
    with pytest.raises(ShapeError, match=r"shape \(2, 2\) does not fit 3 labels"):
        draw_confusion(np.zeros((2, 2)), ("a", "b", "c"), "")
    with pytest.raises(VlfError, match="pictures are written as .png, got 'c.gif'"):
        save_picture(tmp_path / "c.gif", image)
    with pytest.raises(VlfError, match="there is no folder"):
        save_picture(tmp_path / "none" / "c.png", image)
