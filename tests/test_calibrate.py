import cv2
import numpy as np
import pytest

from vlf_edge import CalibrationError, Preprocess, Sampling, SourceError
from vlf_edge.compiler.calibrate import collect_clips
from vlf_edge.runtime.preprocess import Preprocessor
from vlf_edge.runtime.ring import FeatureRing
from vlf_edge.runtime.sampler import Sampler
from vlf_edge.runtime.sources import open_source

SAMPLING, PREPROCESS = Sampling(4, 1.0), Preprocess(32, 32, 32)


def write_clip(path, images, fps=20.0):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, (images.shape[2], images.shape[1]))
    for image in images:
        writer.write(image)
    writer.release()
    return path


def live_windows(source):
    """Every window a live stream of this source puts before the clip stage, pixels for tokens."""
    sampler, prepare, windows = Sampler(SAMPLING), Preprocessor(PREPROCESS), []
    ring = FeatureRing(SAMPLING, (32, 32, 3), "uint8")
    for frame in open_source(source):
        tick = sampler.accept(frame.t_s)
        if tick is None:
            continue
        if tick.gap:
            ring.reset()
        ring.write(tick.first, prepare(frame.image), frame.t_s)
        if ring.full:
            windows.append(ring.window()[0][0].copy())
    return windows


def test_every_calibration_window_is_one_the_camera_would_give():
    source = "test://motion?seconds=12&width=160&height=120"
    clips = collect_clips([source], SAMPLING, PREPROCESS, samples=1000)
    live = [window.tobytes() for window in live_windows(source)]
    for rows in (clips.windows, clips.held_out):
        assert len(rows) and all(clips.frames[row].tobytes() in live for row in rows)
    # Every live window calibrates, but for the held-out end and the K - 1 that straddle the cut.
    assert len(clips.windows) + len(clips.held_out) == len(live) - (SAMPLING.frames - 1)


def test_held_out_windows_share_no_frame_with_calibration():
    clips = collect_clips(["test://motion?seconds=12&width=160&height=120"], SAMPLING, PREPROCESS)
    assert len(clips.held_out) >= 4
    assert not set(clips.windows.ravel()) & set(clips.held_out.ravel())


def test_samples_are_spread_over_all_clips(tmp_path, images):
    for name in "abc":
        write_clip(tmp_path / f"{name}.avi", np.roll(np.repeat(images, 3, axis=0), ord(name), axis=2))
    clips = collect_clips([tmp_path], SAMPLING, PREPROCESS, samples=18)
    assert len(clips.windows) == 18 and clips.sources == ("a.avi", "b.avi", "c.avi")
    assert clips.windows.min() < len(clips.frames) / 3 and clips.windows.max() > len(clips.frames) * 2 / 3


def test_of_many_short_clips_every_fourth_is_held_out(tmp_path, images):
    for name in "abcdefgh":
        write_clip(tmp_path / f"{name}.avi", np.roll(images, ord(name), axis=2))
    clips = collect_clips([tmp_path], SAMPLING, PREPROCESS)
    assert (len(clips.windows), len(clips.held_out)) == (6 * 5, 2 * 5)
    assert not set(clips.windows.ravel()) & set(clips.held_out.ravel())


def test_few_short_clips_hold_nothing_out(tmp_path, images):
    for name in "abc":
        write_clip(tmp_path / f"{name}.avi", np.roll(np.concatenate([images, images[:4]]), ord(name), axis=2))
    clips = collect_clips([tmp_path], SAMPLING, PREPROCESS)
    assert len(clips.windows) >= 16 and clips.held_out.shape == (0, 4)


def test_hash_is_of_the_content_not_of_names(tmp_path, images):
    first = write_clip(tmp_path / "a.avi", np.repeat(images, 4, axis=0))
    second = tmp_path / "renamed.avi"
    second.write_bytes(first.read_bytes())
    other = write_clip(tmp_path / "c.avi", np.repeat(images[:, ::-1], 4, axis=0))
    hashes = [collect_clips([path], SAMPLING, PREPROCESS).sha256 for path in (first, second, other)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_no_clips():
    with pytest.raises(CalibrationError, match="got none.*--calib-data"):
        collect_clips([], SAMPLING, PREPROCESS)


def test_too_few_windows(tmp_path, images):
    path = write_clip(tmp_path / "short.avi", images[:40])
    with pytest.raises(CalibrationError, match=r"1 clip\(s\) give 5 windows of 4 frames.*at least 16.*--calib-data"):
        collect_clips([path], SAMPLING, PREPROCESS)


def test_constant_frames(tmp_path, images):
    path = write_clip(tmp_path / "frozen.avi", np.repeat(images[:1], 200, axis=0))
    with pytest.raises(CalibrationError, match="only 1 different frames"):
        collect_clips([path], SAMPLING, PREPROCESS)


def test_blank_frames(tmp_path):
    folder = tmp_path / "dark"
    folder.mkdir()
    for i in range(200):
        blank = np.full((48, 64, 3), 9, np.uint8)
        blank[24:26, 30:32] = 9 + i // 8
        cv2.imwrite(str(folder / f"{i:04d}.png"), blank)
    with pytest.raises(CalibrationError, match="nearly blank"):
        collect_clips([folder], SAMPLING, PREPROCESS)


def test_missing_folder(tmp_path):
    with pytest.raises(SourceError, match="no file, folder or camera"):
        collect_clips([tmp_path / "nowhere"], SAMPLING, PREPROCESS)


def test_real_clips(real_clips):
    clips = collect_clips([real_clips[0].parent], Sampling(8, 2.0), Preprocess(96, 96, 96))
    assert len(clips.windows) >= 48 and len(clips.held_out) >= 3
    assert clips.frames.shape[1:] == (96, 96, 3)
