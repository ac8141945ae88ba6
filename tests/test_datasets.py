"""Windows of labelled clips: the frames that time stamps ask for, read fast, against decoding everything."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numbered_clips import frame_numbers, write_clip

from vlf_edge.datasets import Clip, VideoDataset, open_dataset
from vlf_edge.datasets import dataset as dataset_module
from vlf_edge.datasets import frames as frames_module
from vlf_edge.datasets.frames import measure_extent, read_frames, segment_indices, segment_instants
from vlf_edge.errors import SourceError, VlfError
from vlf_edge.types import Preprocess, Sampling
from vlf_edge.video.preprocess import Preprocessor
from vlf_edge.video.sampler import segment_centres
from vlf_edge.video.sources import IterableSource, open_source

SIZE = Preprocess(16, 24, 24)


def as_it_is(image: np.ndarray) -> np.ndarray:
    return image


def dataset(*clips: Clip, frames: int = 4, span_s: float = 10.0, labels=("wave", "nod")) -> VideoDataset:
    return VideoDataset("toys", labels, clips, preprocess=SIZE, frames=frames, span_s=span_s)


def shown_at(name: str, instants_s) -> list[np.ndarray]:
    """Slow and obvious: decode everything, then look for the newest frame at or before each instant."""
    everything = list(open_source(name))
    return [
        ([frame.image for frame in everything if frame.t_s <= instant + 1e-3] or [everything[0].image])[-1]
        for instant in instants_s
    ]


# Instants


def test_instants_are_the_middles_of_equal_segments():
    assert segment_instants(2, 6, 4, 10).tolist() == [2.5, 3.5, 4.5, 5.5]
    assert segment_instants(0, 10, 4, 2).tolist() == [4.25, 4.75, 5.25, 5.75], "a window of span_s in the centre"


def test_training_instants_stay_in_their_segments_and_windows_in_their_clip():
    rng = np.random.default_rng(0)
    short = np.array([segment_instants(1, 3, 4, 10, rng.random(5)) for _ in range(200)])
    segments = np.floor((short - 1) / 0.5)
    assert (segments == [0, 1, 2, 3]).all() and short.std(axis=0).min() > 0.1
    long = np.array([segment_instants(0, 9, 4, 2, rng.random(5)) for _ in range(200)])
    assert 0 <= long.min() < 0.5 and 8.5 < long.max() <= 9 and np.ptp(long, axis=1).max() <= 2


@pytest.mark.parametrize("count", [1, 3, 8, 17, 90])
def test_indices_are_those_of_the_runtime_or_random_ones_in_each_segment(count):
    assert segment_indices(count, 8).tolist() == segment_centres(count, 8)
    rng = np.random.default_rng(1)
    for _ in range(50):
        drawn = segment_indices(count, 8, rng)
        low = np.floor(np.arange(8) * count / 8)
        assert (low <= drawn).all() and (drawn <= np.minimum(low + count / 8 + 1, count - 1)).all()


# Reading


@pytest.mark.parametrize("frames", [1, 5, 8, 12, 40])
def test_the_test_window_of_a_whole_clip_is_what_the_runtime_classifies(tmp_path, frames):
    path = write_clip(tmp_path / "clip.avi", frames=12)
    sample = dataset(Clip(str(path), 1), frames=frames).sample(0, None)
    images = [frame.image for frame in open_source(path)]
    wanted = np.stack([Preprocessor(SIZE)(images[i]) for i in segment_centres(12, frames)])
    assert np.array_equal(sample.frames, wanted)
    assert sample.frames.shape == (frames, 16, 24, 3) and sample.frames.dtype == np.uint8
    assert (sample.label, sample.targets) == (1, None)


def test_a_stretch_is_taken_by_time(tmp_path):
    path = write_clip(tmp_path / "clip.avi", frames=40, fps=10)
    data = dataset(Clip(str(path), 0, 1.0, 1.8), Clip(str(path), 0, 3.2), Clip(str(path), 0, 0.5, 3.5), span_s=2.0)
    assert frame_numbers(data.sample(0, None).frames) == [11, 13, 15, 17]
    assert frame_numbers(data.sample(1, None).frames) == [33, 35, 37, 39]
    assert frame_numbers(data.sample(2, None).frames) == [12, 17, 22, 27], "2 s in the centre of 3 s"


def test_videos_give_the_frames_a_viewer_sees(videos):
    for path in videos:
        start_s, end_s = measure_extent(str(path))
        instants_s = segment_instants(start_s, end_s, 8, 10.0, np.random.default_rng(2).random(9))
        assert np.array_equal(read_frames(str(path), instants_s, as_it_is), shown_at(str(path), instants_s))


def test_seeking_gives_what_decoding_from_the_start_gives(videos, monkeypatch):
    seeks = []
    seek = frames_module._SeekingVideo.seek
    monkeypatch.setattr(
        frames_module._SeekingVideo, "seek", lambda self, t_s: seeks.append(seek(self, t_s)) or seeks[-1]
    )
    for path in videos:
        for start_s in (5.03, 5.6, 6.1):
            instants_s = segment_instants(start_s, start_s + 0.4, 4, 10.0)
            found = read_frames(str(path), instants_s, as_it_is)
            assert np.array_equal(found, shown_at(str(path), instants_s)), (path, start_s)
    assert any(frame is not None and frame.t_s > 1 for frame in seeks), "no seek went anywhere"


def test_a_seek_that_overshoots_is_not_believed(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "clip.avi", frames=80, fps=10)
    seek = frames_module._SeekingVideo.seek
    monkeypatch.setattr(frames_module._SeekingVideo, "seek", lambda self, t_s: seek(self, t_s + 1.5))
    assert frame_numbers(read_frames(str(path), [6.0, 6.1], as_it_is)) == [60 % 42, 61 % 42]


def test_a_varying_frame_rate_is_followed(monkeypatch):
    times_s = [0.0, 0.1, 0.2, 1.0, 1.9, 2.0, 2.1, 2.2]
    images = [np.full((8, 8, 3), i, np.uint8) for i in range(len(times_s))]
    monkeypatch.setattr(frames_module, "open_source", lambda name: IterableSource(zip(images, times_s)))
    start_s, end_s = measure_extent("phone")
    assert start_s == 0 and end_s == pytest.approx(2.2 + 2.2 / 7)
    assert read_frames("phone", [0.15, 0.5, 0.9, 1.5, 2.05], as_it_is)[:, 0, 0, 0].tolist() == [1, 2, 2, 3, 5]


def test_a_clip_whose_clock_does_not_start_at_zero_is_taken_whole(monkeypatch):
    pairs = [(np.full((16, 24, 3), i, np.uint8), 60 + i / 10) for i in range(8)]
    monkeypatch.setattr(frames_module, "open_source", lambda name: IterableSource(pairs))
    assert dataset(Clip("recording", 0)).sample(0, None).frames[:, 0, 0, 0].tolist() == [1, 3, 5, 7]


def test_only_the_frames_used_are_prepared_and_reading_stops_after_them(monkeypatch):
    given, prepared = [], []

    def images():
        for i in range(1000):
            given.append(i)
            yield np.full((8, 8, 3), i % 250, np.uint8), i / 10

    def prepare(image):
        prepared.append(int(image[0, 0, 0]))
        return image

    monkeypatch.setattr(frames_module, "open_source", lambda name: IterableSource(images()))
    read_frames("long", [0.52, 0.53, 0.71], prepare)
    assert prepared == [5, 7] and given[-1] == 8


def test_what_does_not_hold_the_stretch_is_broken_and_named(tmp_path):
    path = write_clip(tmp_path / "clip.avi", frames=20, fps=10)
    data = dataset(Clip(str(path), 0, 1.5, 2.2), Clip(str(path), 0, 1.5, 4.0), Clip(str(path), 0, 8.0, 9.0))
    assert frame_numbers(data.sample(0, None).frames) == [15, 17, 19, 19], "an end that is a little late is no matter"
    with pytest.raises(SourceError, match=r"clip.avi ends at 1.90 s, but its label is about 1.81 s to 3.69 s"):
        data.sample(1, None)
    with pytest.raises(SourceError, match=r"clip.avi ends at 1.90 s"):
        data.sample(2, None)
    with pytest.raises(SourceError, match=r"clip.avi ends at 2.00 s, but its label is about what follows 7.0 s"):
        dataset(Clip(str(path), 0, 7.0)).sample(0, None)


@pytest.mark.parametrize("content", [b"", b"no video at all", b"RIFF\x00\x01\x00\x00AVI LIST"])
def test_a_broken_clip_is_a_source_error_with_its_name(tmp_path, content):
    (tmp_path / "broken.avi").write_bytes(content)
    data = dataset(Clip(str(tmp_path / "broken.avi"), 0), Clip(str(tmp_path / "broken.avi"), 0, 6.0, 7.0))
    for index in range(2):
        with pytest.raises(SourceError, match="broken.avi"):
            data.sample(index, np.random.default_rng(0))


# Training samples


def test_equal_generators_give_equal_samples_whatever_was_read_before(tmp_path):
    path = write_clip(tmp_path / "clip.avi", frames=30)
    fresh, used = (dataset(Clip(str(path), 0), Clip(str(path), 1), span_s=1.0) for _ in range(2))
    used.sample(0, None), used.sample(1, np.random.default_rng(9))
    first, second = (data.sample(0, np.random.default_rng(3)) for data in (fresh, used))
    assert np.array_equal(first.frames, second.frames) and first.label == second.label
    assert first.frames.shape == (4, 16, 24, 3) and first.frames.flags["C_CONTIGUOUS"]
    other = fresh.sample(0, np.random.default_rng(4))
    assert not np.array_equal(first.frames, other.frames)


def test_a_flip_changes_the_label_only_where_it_must(tmp_path):
    path = str(write_clip(tmp_path / "clip.avi"))
    seeds = range(24)

    def labels(*names):
        data = dataset(Clip(path, 0), labels=names)
        return {data.sample(0, np.random.default_rng(seed)).label for seed in seeds}

    assert labels("turn left", "turn right", "wave") == {0, 1}
    assert labels("turn left", "wave") == {0}
    assert dataset(Clip(path, 0), labels=("turn left", "wave")).mirrors is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_worker_measures_for_all(tmp_path):
    path = write_clip(tmp_path / "clip.avi", frames=12)
    data = dataset(Clip(str(path), 0))
    worker = os.fork()
    if worker == 0:
        data._stretch(0)
        os._exit(0)
    os.waitpid(worker, 0)
    path.unlink()
    assert data._stretch(0) == pytest.approx((0.0, 1.2))


def test_a_dataset_can_be_sent_to_a_worker(tmp_path):
    data = dataset(Clip(str(write_clip(tmp_path / "clip.avi")), 0))
    copy = pickle.loads(pickle.dumps(data))
    assert np.array_equal(copy.sample(0, None).frames, data.sample(0, None).frames)


# open_dataset


def folder(root: Path) -> Path:
    """Two classes of five clips, 0.5 to 0.9 s long."""
    for label in ("nod", "wave"):
        for i in range(5):
            write_clip(root / label / f"{i}.avi", frames=5 + i)
    return root


def test_opening_a_folder(tmp_path):
    data = open_dataset(str(folder(tmp_path)), "train", preprocess=SIZE, frames=4)
    val = open_dataset(tmp_path, "val", preprocess=SIZE, frames=4)
    assert data.labels == val.labels == ("nod", "wave") and (len(data), len(val)) == (8, 2)
    assert data.span_s == val.span_s and 0.5 <= data.span_s <= 0.9, "the median of the training clips for both"
    assert not {clip.name for clip in data.clips} & {clip.name for clip in val.clips}
    assert [clip.label for clip in data.clips] == [0] * 4 + [1] * 4
    assert data.sample(7, None).label == 1 and data.name == str(tmp_path)
    assert len(open_dataset(tmp_path, "all", preprocess=SIZE, frames=4, limit=5)) == 5


def test_a_plan_says_how_to_sample_and_in_which_order_its_classes_are(tmp_path):
    data = open_dataset(
        folder(tmp_path), "all", sampling=Sampling(3, 0.6), preprocess=SIZE, frames=99, labels=["wave", "nod"]
    )
    assert data.span_s == 0.6 and data.labels == ("wave", "nod")
    sample = data.sample(0, None)
    assert (len(sample.frames), data.labels[sample.label]) == (3, "nod")
    with pytest.raises(VlfError, match="missing: jump; unexpected: wave"):
        open_dataset(tmp_path, "all", preprocess=SIZE, frames=4, labels=["nod", "jump"])


def test_the_default_span_is_the_median_of_what_can_be_read(tmp_path):
    for i, frames in enumerate((3, 30, 5, 5)):
        write_clip(tmp_path / f"{i}.avi", frames=frames)
    (tmp_path / "broken.avi").write_bytes(b"no video")
    lines = ["0.avi,a,,,train", "1.avi,a,,,train", "2.avi,a,,,train", "broken.avi,a,,,train", "3.avi,a,0,0.7,train"]
    (tmp_path / "clips.csv").write_text("\n".join([*lines, "3.avi,a,,,train", "1.avi,a,,,val"]))
    for split in ("train", "val"):
        opened = open_dataset(tmp_path / "clips.csv", split, preprocess=SIZE, frames=4)
        assert opened.span_s == pytest.approx(0.5), "of 0.3, 0.5, 0.5, 0.7 and 3 s"
    (tmp_path / "long.csv").write_text("0.avi,a,0,60")
    assert open_dataset(tmp_path / "long.csv", "train", preprocess=SIZE, frames=4).span_s == 10
    (tmp_path / "bad.csv").write_text("broken.avi,a")
    with pytest.raises(SourceError, match=r"none of the clips looked at can be read, .*broken.avi among them"):
        open_dataset(tmp_path / "bad.csv", "train", preprocess=SIZE, frames=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "dev"}, "no split 'dev'; available: train, val, test, all"),
        ({"limit": 0}, "the limit is 0 clips, expected 1 or more"),
        ({"frames": 0}, "frames is 0, expected a whole number from 1 to 256"),
        ({"span_s": -1.0}, "span_s is -1.0, expected a number from 0.001 to 3600"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, change, message):
    with pytest.raises(VlfError) as raised:
        open_dataset(tmp_path, **{"split": "train", "preprocess": SIZE, "frames": 4, **change})
    assert str(raised.value) == message


def test_motion_is_rendered_and_has_labels_of_its_own():
    data = open_dataset("motion", "val", preprocess=Preprocess(16, 16, 16), frames=2, span_s=1.5, limit=3)
    assert len(data) == 3 and data.span_s == 1.5 and "left" in data.labels
    assert data.sample(0, None).frames.shape == (2, 16, 16, 3)
    with pytest.raises(VlfError, match=r"the model's 2 classes \(nod, wave\) are not the 13 of the motion set"):
        open_dataset("motion", "val", preprocess=SIZE, frames=2, labels=["nod", "wave"])


def test_data_sets_need_no_torch():
    code = "import sys, vlf_edge.datasets.dataset; sys.exit(any(m in sys.modules for m in ('torch', 'onnx', 'cv2')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# Kept clips


def test_samples_of_kept_clips_are_those_of_clips_that_are_read(tmp_path, monkeypatch):
    names = [str(write_clip(tmp_path / f"{i}.avi", 20 + 7 * i)) for i in range(3)]
    clips = [Clip(names[0], 0), Clip(names[1], 1, 0.3, 1.1), Clip(names[2], 1, 0.5), Clip(names[2], 0, 0.0, 9.0)]
    read, kept = dataset(*clips, span_s=1.0), dataset(*clips, span_s=1.0)
    assert kept.keep(1 << 30, threads=2)
    samples = [read.sample(i, np.random.default_rng((i, n))) for i in range(3) for n in range(10)]
    with pytest.raises(SourceError):  # its label is about what the file does not show, kept or not
        [kept.sample(3, np.random.default_rng(n)) for n in range(50)]
    monkeypatch.setattr(dataset_module, "read_frames", None)  # nothing is decoded any more
    for sample, (i, n) in zip(samples, ((i, n) for i in range(3) for n in range(10))):
        again = kept.sample(i, np.random.default_rng((i, n)))
        assert np.array_equal(again.frames, sample.frames) and again.label == sample.label


def test_clips_that_do_not_fit_are_not_kept_and_broken_ones_are_named_as_before(tmp_path):
    (tmp_path / "broken.avi").write_bytes(b"no video")
    good = str(write_clip(tmp_path / "a.avi", 20))
    clips = dataset(Clip(good, 0), Clip(str(tmp_path / "broken.avi"), 1))
    larger = clips._larger.height_px * clips._larger.width_px * 3
    assert not clips.keep(20 * larger - 1) and not clips._kept
    assert clips.keep(20 * larger) and list(clips._kept) == [0]
    with pytest.raises(SourceError, match=r"broken\.avi"):
        clips.sample(1, np.random.default_rng(0))
