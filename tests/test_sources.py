import cv2
import numpy as np
import pytest
from test_calibrate import write_clip

from vlf_edge import CameraError, ShapeError, SourceError, open_source
from vlf_edge.synthetic import CLASSES, MotionClip
from vlf_edge.video.motion_pattern import SEGMENT_S, MotionOptions, MotionPattern
from vlf_edge.video.sources import expand_clips


def times_s(source):
    return [frame.t_s for frame in source]


def test_video_file_gives_every_frame_at_its_time(tmp_path, images):
    source = open_source(write_clip(tmp_path / "a.avi", images, fps=20))
    frames = list(source)
    assert (source.fps, source.live) == (20.0, False)
    assert [frame.seq for frame in frames] == list(range(40))
    np.testing.assert_allclose(np.diff([frame.t_s for frame in frames]), 1 / 20, atol=1e-6)
    assert np.abs(frames[7].image.astype(int) - images[7]).mean() < 12
    source.close()
    assert source.read() is None


@pytest.mark.parametrize("name", ["", "*.png", "frame_%04d.png", "frame_%d.png"])
def test_image_files_in_order(tmp_path, images, name):
    for i in range(12):
        cv2.imwrite(str(tmp_path / f"frame_{i:04d}.png"), images[i])
    frames = list(open_source(tmp_path / name, fps=10))
    assert len(frames) == 12 and frames[3].t_s == pytest.approx(0.3)
    np.testing.assert_array_equal(frames[11].image, images[11])


def test_numbered_pattern_counts_as_numbers_do(tmp_path, images):
    for i in (9, 10, 11):
        cv2.imwrite(str(tmp_path / f"f{i}.png"), images[i])
    np.testing.assert_array_equal([f.image for f in open_source(tmp_path / "f%d.png")], images[9:12])


def test_single_image(tmp_path, images):
    cv2.imwrite(str(tmp_path / "one.png"), images[0])
    assert len(list(open_source(tmp_path / "one.png"))) == 1


def test_folder_of_videos_restarts_the_clock_for_each(tmp_path, images):
    for name in ("b.avi", "a.avi"):
        write_clip(tmp_path / name, images[:10])
    source = open_source(tmp_path)
    stamps = times_s(source)
    assert len(stamps) == 20 and stamps[10] < stamps[9] and stamps[:10] == pytest.approx(stamps[10:], abs=2e-6)
    assert expand_clips(tmp_path) == [str(tmp_path / "a.avi"), str(tmp_path / "b.avi")]
    assert expand_clips(tmp_path / "*.avi") == expand_clips(tmp_path)


def test_a_file_of_one_frame_does_not_share_a_window_with_the_next(tmp_path, images):
    for name, count in (("a.avi", 1), ("b.avi", 10)):
        write_clip(tmp_path / name, images[:count])
    assert [frame.begins for frame in open_source(tmp_path)] == [False, True] + [False] * 9


@pytest.mark.parametrize("names", [[f"img{i}.png" for i in range(1, 13)], [f"{i}_cam2.png" for i in range(1, 13)]])
def test_files_are_sorted_as_people_count(tmp_path, images, names):
    for i, name in enumerate(names):
        cv2.imwrite(str(tmp_path / name), images[i])
    pattern = names[0].replace("1", "%d", 1)
    for what in (tmp_path, tmp_path / "*.png", tmp_path / pattern):
        np.testing.assert_array_equal([frame.image for frame in open_source(what)], images[:12])


def test_iterables(images):
    assert times_s(open_source(images[:3], fps=4)) == [0, 0.25, 0.5]
    assert times_s(open_source((image, 7 + i) for i, image in enumerate(images[:3]))) == [7, 8, 9]
    with pytest.raises(ShapeError, match="got list"):
        list(open_source([[1]]))


@pytest.mark.parametrize(
    "what, message",
    [
        ("nowhere.mp4", "no file, folder or camera at nowhere.mp4; a source is"),
        ("nothing_*.png", "holds no video or image file"),
        ("frames_%04d.jpg", "holds no video or image file"),
        ("rtsp://cam/1", "rtsp:// sources are not supported by this version"),
        (3.5, "cannot read frames from float"),
        ("test://noise", "no test pattern"),
        ("test://motion?fps=abc", "cannot use fps=abc"),
        ("test://motion?speed=3", "cannot use speed=3; options: label, seconds, fps"),
        ("test://motion?width=1", "width and height between"),
        ("test://motion?label=wave", "no class 'wave' of motion; available: still, left"),
        ("test://motion?seconds=0", "seconds above 0"),
    ],
)
def test_what_is_no_source_is_said(what, message):
    with pytest.raises(SourceError, match=message):
        open_source(what)


def test_unreadable_files(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(SourceError, match="text.mp4 is not a video that OpenCV"):
        open_source(tmp_path / "text.mp4")
    with pytest.raises(SourceError, match="text.png is not an image"):
        list(open_source(tmp_path / "text.png"))
    with pytest.raises(SourceError, match="1 videos and 1 images"):
        open_source(tmp_path)


@pytest.mark.parametrize("camera", [97, "97", "/dev/video97"])
def test_absent_camera_names_those_present(camera):
    with pytest.raises(CameraError, match="no camera at /dev/video97; cameras here: .*test://motion"):
        open_source(camera)


def test_device_that_is_no_camera(tmp_path):
    (tmp_path / "video0").write_text("")
    from vlf_edge.video.sources import CameraSource

    with pytest.raises(CameraError, match="is there but does not open"):
        CameraSource(str(tmp_path / "video0"))


def test_motion_pattern_shows_every_class_and_repeats():
    options = MotionOptions(width=96, height=64)
    one, two = MotionPattern(options), MotionPattern(options)
    order = [one.label((i + 0.5) * SEGMENT_S) for i in range(len(CLASSES))]
    assert sorted(order) == sorted(CLASSES)
    for i in range(4):
        early, late = (one.render((i + share) * SEGMENT_S) for share in (0.1, 0.6))
        np.testing.assert_array_equal(early, two.render((i + 0.1) * SEGMENT_S))
        assert (early != late).any()


def test_a_labelled_motion_source_is_that_clip():
    frames = list(open_source("test://motion?label=nod&seed=5&seconds=1&fps=10&width=64&height=48"))
    clip = MotionClip("nod", 5, 64, 48, fps=10, seconds=1)
    assert len(frames) == clip.count == 10
    np.testing.assert_array_equal(frames[7].image, clip.render(7))


def test_motion_source_ends():
    frames = list(open_source("test://motion?seconds=1&fps=10&width=64&height=48"))
    assert len(frames) == 10 and frames[0].image.shape == (48, 64, 3) and frames[-1].t_s == pytest.approx(0.9)


def test_whole_videos(videos):
    for path in videos:
        source = open_source(path)
        frames = list(source)
        steps_s = np.diff([frame.t_s for frame in frames])
        assert len(frames) > 100 and np.median(steps_s) == pytest.approx(1 / source.fps, abs=1e-3)
        assert (steps_s > 0).all()
