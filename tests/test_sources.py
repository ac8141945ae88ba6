import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from test_calibrate import write_clip

from vlf_edge import CameraError, ShapeError, SourceError, open_source
from vlf_edge.synthetic import CLASSES, MotionClip
from vlf_edge.video.cut_off import is_cut_off, note_missing_frames
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
        ("ftp://cam/1", "ftp:// is no source; a source is 0, /dev/videoN, csi://N, rtsp://"),
        ("rtsp://user:secret@/1", r"rtsp://\*\*\* is no address; expected scheme://user"),
        ("csi://left", "expected csi:// and the sensor's number"),
        ("file://elsewhere/a.mp4", "is no file of this machine"),
        (-1, "cannot read frames from int"),
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


def truncated(path, share):
    whole = path.read_bytes()
    cut = path.with_name(f"cut_{path.name}")
    cut.write_bytes(whole[: round(share * len(whole))])
    return cut


@pytest.mark.parametrize("name, code", [("a.avi", "MJPG"), ("a.avi", "XVID"), ("a.mkv", "mp4v"), ("a.webm", "VP80")])
def test_a_video_that_is_cut_off_says_how_many_frames_are_missing(tmp_path, images, caplog, name, code):
    path = write_clip(tmp_path / name, np.tile(images, (2, 1, 1, 1)), code=code)
    with open_source(path) as whole:
        assert len(list(whole)) == 80 and whole.missing == 0 and not caplog.records
    told = 0
    for cut in range(1, 20):
        caplog.clear()
        try:
            source = open_source(truncated(path, cut / 20))
            count = len(list(source))
        except SourceError as error:
            assert "holds no frame" in str(error) or "it is cut off" in str(error)
            continue
        told += bool(caplog.records)
        assert source.missing == pytest.approx(80 - count, abs=0 if name == "a.avi" else 1)
        assert [record.getMessage() for record in caplog.records] == [
            f"{source.name} is cut off: it ends after {count} frames, {'' if name == 'a.avi' else 'about '}"
            f"{source.missing} are missing; copy or record it again"
        ] * (source.missing > 0)
        assert source.read() is None and len(caplog.records) <= 1
    assert told >= 16


@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
def test_a_video_that_does_not_open_any_more_is_said_to_be_cut_off(tmp_path, images, name):
    path = write_clip(tmp_path / name, images, code="mp4v")
    for cut in range(1, 20):
        with pytest.raises(SourceError, match="can decode: it is cut off"):
            open_source(truncated(path, cut / 20))


def test_a_cut_file_of_a_folder_is_told_by_its_name(tmp_path, images, caplog):
    path = write_clip(tmp_path / "b.avi", images)
    path.write_bytes(truncated(path, 0.5).read_bytes())
    write_clip(tmp_path / "cut_b.avi", images)
    assert 40 < len(list(open_source(tmp_path))) < 80
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{tmp_path / 'b.avi'} is cut off: it ends after")


def test_a_file_that_is_not_read_to_its_end_is_not_called_cut_off(tmp_path, images, caplog):
    source = open_source(write_clip(tmp_path / "a.avi", images))
    source.read(), source.close()
    assert source.read() is None and source.missing == 0 and not caplog.records


def test_headers_that_announce_anything_say_nothing(tmp_path, images):
    cut = truncated(write_clip(tmp_path / "a.avi", images), 0.5)
    assert note_missing_frames(cut, 40, 20.0, 30, 1.45) == 10
    for announced in (-5, float("nan"), float("inf"), 2e18, 0, 29):
        assert note_missing_frames(cut, announced, 20.0, 30, 1.45) == 0


def test_frames_that_the_encoder_left_out_are_not_missing(tmp_path, images, caplog):
    path = write_clip(tmp_path / "a.avi", images)
    assert note_missing_frames(path, 42, 20.0, 40, 1.95) == 0 and not caplog.records


@pytest.mark.parametrize(
    "head, whole_bytes",
    [
        (b"RIFF" + (1000).to_bytes(4, "little"), 1008),
        (b"RIFF" + (92).to_bytes(4, "little") + bytes(92) + b"RIFF" + (892).to_bytes(4, "little"), 1000),
        (b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\x03\xe8mdat", 1016),
        (b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\1mdat" + (1000).to_bytes(8, "big"), 1016),
        (b"\x1a\x45\xdf\xa3\x81\0" + b"\x18\x53\x80\x67\x01" + (1000).to_bytes(7, "big"), 1018),
        (b"\x1a\x45\xdf\xa3\x40\x01\0" + b"\x18\x53\x80\x67\x43\xe8", 1013),
    ],
)
def test_containers_tell_how_long_they_are(tmp_path, head, whole_bytes):
    path = tmp_path / "video"
    path.write_bytes(head.ljust(whole_bytes, b"\0"))
    assert not is_cut_off(path)
    for left in (whole_bytes - 20, 200):
        path.write_bytes(head.ljust(whole_bytes, b"\0")[:left])
        assert is_cut_off(path)


@pytest.mark.parametrize(
    "data",
    [b"", b"RIFF", b"RIFF\0\0\0\0", b"\0\0\0\0mdat and more", b"\x1a\x45\xdf\xa3", b"text of any other kind",
     b"\x1a\x45\xdf\xa3\x81\0\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff", b"\x1a\x45\xdf\xa3\0"],
)  # fmt: skip
def test_what_does_not_tell_its_length_is_not_called_cut_off(tmp_path, data):
    (tmp_path / "video").write_bytes(data)
    assert not is_cut_off(tmp_path / "video") and not is_cut_off(tmp_path / "none")


def png_of_zeros(width_px, height_px):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width_px, height_px, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((1 + (width_px + 7) // 8) * height_px))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.tif"])
def test_an_image_that_is_cut_off_is_no_image(tmp_path, images, name):
    path = tmp_path / name
    cv2.imwrite(str(path), images[0])
    assert len(list(open_source(path))) == 1
    for share in (0.0, 0.02, 0.4, 0.9):
        with pytest.raises(SourceError, match="cut off"):
            list(open_source(truncated(path, share)))


def test_a_jpeg_is_whole_with_padding_thumbnail_and_bytes_behind_it(tmp_path, images):
    jpeg = cv2.imencode(".jpg", images[0])[1].tobytes()
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + len(jpeg)) + jpeg
    whole = jpeg[:2] + b"\xff" + thumbnail + jpeg[2:] + b"behind"
    (tmp_path / "a.jpg").write_bytes(whole)
    (frame,) = open_source(tmp_path / "a.jpg")
    np.testing.assert_array_equal(frame.image, cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR))
    (tmp_path / "b.jpg").write_bytes(whole[: -len(b"behind") - 9])
    with pytest.raises(SourceError, match="b.jpg is cut off"):
        list(open_source(tmp_path / "b.jpg"))


def test_an_image_of_too_many_pixels_is_one_sentence(tmp_path):
    (tmp_path / "big.png").write_bytes(png_of_zeros(33_000, 33_000))
    with pytest.raises(SourceError, match=r"big.png: it has more pixels than OpenCV takes") as caught:
        list(open_source(tmp_path / "big.png"))
    assert "\n" not in str(caught.value)


def test_images_that_are_no_files_or_vanish(tmp_path, images):
    cv2.imwrite(str(tmp_path / "a.png"), images[0])
    os.mkfifo(tmp_path / "b.png")
    source = open_source(str(tmp_path / "*.png"))
    source.read()
    with pytest.raises(SourceError, match="cannot read .*b.png: it is a device, a FIFO or a socket"):
        source.read()
    source = open_source(tmp_path / "a.png")
    (tmp_path / "a.png").unlink()
    with pytest.raises(SourceError, match="cannot read .*a.png: No such file"):
        source.read()


def test_frames_that_opencv_cannot_hold_are_one_sentence(tmp_path, images):
    class TooLarge:
        def read(self):
            raise cv2.error("OpenCV: error: (-4:Insufficient memory) Failed to allocate 4 GB")

        def get(self, what):
            return 30.0

    source = open_source(write_clip(tmp_path / "a.avi", images))
    source._capture.release()
    source._capture = TooLarge()
    with pytest.raises(SourceError, match="a.avi: OpenCV cannot decode frame 0: .*Insufficient memory"):
        source.read()


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
