import cv2
import numpy as np
import pytest

from vlf_edge import CalibrationError, Preprocess, Sampling, SourceError
from vlf_edge.compiler.calibration import windows as calibrate
from vlf_edge.compiler.calibration.clips import NamedClip, list_clips, spread
from vlf_edge.compiler.calibration.windows import collect_clips
from vlf_edge.video.preprocess import Preprocessor
from vlf_edge.video.sampler import Sampler
from vlf_edge.video.sources import open_source

SAMPLING, PREPROCESS = Sampling(4, 1.0), Preprocess(32, 32, 32)


def write_clip(path, images, fps=20.0, code="MJPG"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), fps, (images.shape[2], images.shape[1]))
    for image in images:
        writer.write(image)
    writer.release()
    return path


def live_windows(source):
    """Every window a live stream of this source puts before the clip stage, pixels for tokens."""
    sampler, prepare, windows = Sampler(SAMPLING), Preprocessor(PREPROCESS), []
    kept = []
    for frame in open_source(source):
        slot = sampler.accept(frame.t_s, begins=frame.begins)
        if slot is None:
            continue
        kept = [*([] if slot.gap else kept), prepare(frame.image)][-SAMPLING.frames :]
        if len(kept) == SAMPLING.frames:
            windows.append(np.stack(kept))
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


def test_copies_count_once_and_are_never_held_out_from_their_original(tmp_path, images):
    for name in "abcdefg":
        write_clip(tmp_path / f"{name}.avi", np.roll(images, ord(name), axis=2))
    plain = collect_clips([tmp_path], SAMPLING, PREPROCESS)
    # Of eight clips the last would be held out, and it is a copy of the first.
    (tmp_path / "h.avi").write_bytes((tmp_path / "a.avi").read_bytes())
    again = collect_clips([tmp_path], SAMPLING, PREPROCESS)
    assert again.sources == plain.sources and again.sha256 == plain.sha256
    assert len(again.held_out) == len(plain.held_out) == 5


def test_copies_of_known_class_are_one_and_of_two_classes_a_mistake(tmp_path, images):
    root = write_tree(tmp_path / "tree", images, {"left": 2})
    (root / "else").mkdir()
    for folder in ("left", "else"):
        (root / folder / "copy.avi").write_bytes((root / "left" / "0.avi").read_bytes())
    clips = listed([root], ("left", "right"))
    assert [(clip.label, clip.held_out) for clip in clips] == [(0, False), (0, True)]
    (root / "right").mkdir()
    (root / "right" / "wrong.avi").write_bytes((root / "left" / "1.avi").read_bytes())
    with pytest.raises(CalibrationError, match="are the same clip and are said to be of different classes"):
        listed([root], ("left", "right"))


def test_pictures_that_calibrate_are_never_held_out_whatever_file_they_are_in(tmp_path, images):
    """A folder of pictures holds the same as a video: no file is a copy."""
    folder = tmp_path / "video"
    folder.mkdir()
    video = np.concatenate([np.roll(images, 9 * i, axis=2) for i in range(8)])
    for i, image in enumerate(video):
        cv2.imwrite(str(folder / f"{i:04d}.png"), image)
    alone = collect_clips([folder], SAMPLING, PREPROCESS, samples=100)
    start = tmp_path / "longer"
    start.mkdir()
    for i, image in enumerate([*video, *video[: len(video) // 2]]):
        cv2.imwrite(str(start / f"{i:04d}.png"), 255 - image if i < 40 else image)
    both = collect_clips([folder, start], SAMPLING, PREPROCESS, samples=100)
    for clips in (alone, both):
        seen = {clips.frames[i].tobytes() for i in clips.windows.ravel()}
        assert len(clips.held_out) and not seen & {clips.frames[i].tobytes() for i in clips.held_out.ravel()}


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


def write_tree(root, images, counts, length=None):
    """root/class/i.avi: ``counts`` = {class: clips}; every clip is another picture."""
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            write_clip(root / name / f"{i}.avi", np.roll(images[:length], 5 * i + 17 * number, axis=2))
    return root


def test_folders_named_after_labels_tell_what_their_clips_show(tmp_path, images):
    root = write_tree(tmp_path / "tree", images, {"left": 4, "right": 5, "else": 3})
    clips = collect_clips([root], SAMPLING, PREPROCESS, labels=("right", "up", "left"))
    # Every second clip of a class is held out; those without one calibrate: too few to hold one of them out.
    assert clips.coverage(("right", "up", "left")) == {"right": [15, 10], "up": [0, 0], "left": [10, 10]}
    assert (clips.labels == -1).sum() == 15 and (clips.held_out_labels != -1).all()
    assert not set(clips.windows.ravel()) & set(clips.held_out.ravel())
    assert len(clips.sources) == 3 + 2 + 3
    assert collect_clips([root], SAMPLING, PREPROCESS).coverage(("right", "up", "left")) == {}


def test_samples_are_spread_evenly_over_classes(tmp_path, images):
    root = write_tree(tmp_path / "tree", images, {"left": 12, "right": 4})
    clips = collect_clips([root], SAMPLING, PREPROCESS, samples=16, labels=("left", "right"))
    assert clips.coverage(("left", "right")) == {"left": [8, 30], "right": [8, 10]}


def test_an_action_shorter_than_a_window_is_taken_whole(tmp_path, images):
    root = write_tree(tmp_path / "tree", images, {"left": 36}, length=12)  # 0.6 s of the window's 1 s
    clips = collect_clips([root], SAMPLING, PREPROCESS, labels=("left",))
    assert (len(clips.windows), len(clips.held_out)) == (18, 18)
    prepare = Preprocessor(PREPROCESS)
    with open_source(str(root / "left" / "0.avi")) as source:
        whole = [prepare(frame.image) for frame in source]
    assert np.array_equal(clips.frames[clips.windows[0]], np.stack([whole[i] for i in (1, 4, 7, 10)]))
    with pytest.raises(CalibrationError, match="36 clip.* give 0 windows"):
        collect_clips([root], SAMPLING, PREPROCESS)


def test_pixels_that_do_not_fit_into_memory_are_read_again(tmp_path, images, monkeypatch):
    for name in "abcdefgh":
        write_clip(tmp_path / f"{name}.avi", np.roll(images, ord(name), axis=2))
    kept = collect_clips([tmp_path], SAMPLING, PREPROCESS)
    monkeypatch.setattr(calibrate, "_KEPT_BYTES", 5 * 32 * 32 * 3)
    again = collect_clips([tmp_path], SAMPLING, PREPROCESS)
    assert kept.sha256 == again.sha256 and np.array_equal(kept.frames, again.frames)


def test_large_frames_are_held_out_in_smaller_numbers(tmp_path, images, monkeypatch):
    path = write_clip(tmp_path / "a.avi", np.repeat(images, 12, axis=0))
    assert len(collect_clips([path], SAMPLING, PREPROCESS).held_out) == 21
    monkeypatch.setattr(calibrate, "_HELD_OUT_BYTES", 17 * 4 * 32 * 32 * 3)
    assert len(collect_clips([path], SAMPLING, PREPROCESS).held_out) == 17


def listed(what, labels=(), calibrating=64, held_out=256):
    return list_clips(what, labels, SAMPLING, PREPROCESS, calibrating=calibrating, held_out=held_out)


def test_rendered_clips_come_with_labels_and_in_the_numbers_asked_for():
    labels = ("nod", "left", "wave")
    clips = listed(["motion"], labels, calibrating=26, held_out=39)
    assert [clip.held_out for clip in clips] == [False] * 26 + [True] * 39
    assert all(clip.name.startswith("test://motion?label=") for clip in clips)
    assert len({clip.name for clip in clips}) == 65
    for clip in clips:
        name = clip.name.split("label=")[1].split("&")[0]
        assert clip.label == (labels.index(name) if name in labels else -1)


def test_annotation_files_say_what_calibrates_and_what_is_held_out(tmp_path, images):
    write_tree(tmp_path, images, {"x": 6})
    rows = [f"x/{i}.avi,{'left' if i % 2 else 'right'},{'val' if i > 3 else 'train'}\n" for i in range(6)]
    (tmp_path / "my.csv").write_text("path,label,split\n" + "".join(rows))
    clips = listed([tmp_path / "my.csv"], ("left", "right"))
    found = {(clip.name[-5], clip.label, clip.held_out) for clip in clips}
    assert found == {(str(i), 0 if i % 2 else 1, i > 3) for i in range(6)}
    with pytest.raises(CalibrationError, match="has 1 of 2 classes that the model lacks, such as 'right'"):
        listed([tmp_path / "my.csv"], ("left", "up"))
    assert all(clip.label == -1 for clip in listed([tmp_path / "my.csv"]))


def test_only_the_named_stretch_of_a_clip_is_read(tmp_path, images, monkeypatch):
    path = write_clip(tmp_path / "a.avi", np.concatenate([np.roll(images, 9 * i, axis=2) for i in range(4)]))
    stretch = [NamedClip(str(path), 0, start_s=2.0, end_s=8.0, held_out=False)]
    monkeypatch.setattr(calibrate, "list_clips", lambda *args, **options: stretch)
    clips = collect_clips([path], SAMPLING, PREPROCESS, samples=100, labels=("left",))
    prepare = Preprocessor(PREPROCESS)
    with open_source(str(path)) as source:
        inside = [prepare(frame.image).tobytes() for frame in source if 2.0 <= frame.t_s < 8.0]
    # Instants are a quarter of a second apart, five frames at 20 a second.
    assert [frame.tobytes() for frame in clips.frames] == inside[::5]
    assert len(clips.windows) == len(inside[::5]) - 3


def test_spread_is_even_over_classes_and_half_of_it_unknown():
    labels = [0] * 10 + [1] * 3 + [-1] * 20
    chosen = spread(range(33), labels, 12)
    assert chosen == sorted(chosen) and len(set(chosen)) == 12
    counts = [sum(labels[i] == label for i in chosen) for label in (0, 1, -1)]
    assert counts == [3, 3, 6]
    assert spread(range(33), labels, 100) == list(range(33)) and spread([], [], 5) == []
    assert spread(range(6), [-1] * 6, 3) == [1, 3, 5]


def test_whole_videos(videos):
    clips = collect_clips([videos[0].parent], Sampling(8, 2.0), Preprocess(96, 96, 96))
    assert len(clips.windows) >= 48 and len(clips.held_out) >= 3
    assert clips.frames.shape[1:] == (96, 96, 3)
