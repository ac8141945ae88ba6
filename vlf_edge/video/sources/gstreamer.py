"""GStreamer pipelines, through an OpenCV that is built with GStreamer."""

from __future__ import annotations

import time
from types import ModuleType

from ...errors import BackendMissing, CameraError
from ...opencv import load_cv2
from ...types import Frame
from .capture import CaptureSource
from .options import SourceOptions
from .source import Address
from .url import hidden

# The newest frame counts; a pipeline that says otherwise brings an appsink of its own.
_SINK = "videoconvert ! video/x-raw,format=BGR ! appsink max-buffers=1 drop=true sync=false"


class GStreamerSource(CaptureSource):
    """The frames of a pipeline, stamped when they arrive.

    pipeline: as for gst-launch-1.0; without an appsink at its end, one for the newest frame is added. name: how to call
    it. Raises BackendMissing if this OpenCV has no GStreamer, CameraError if the pipeline does not play.
    """

    live = True

    def __init__(self, pipeline: str, name: str | None = None):
        cv2 = load_cv2()
        name = hidden(pipeline) if name is None else name
        if cv2.CAP_GSTREAMER not in cv2.videoio_registry.getBackends():
            raise BackendMissing(
                f"{name} needs GStreamer, and this OpenCV ({cv2.__version__}, {cv2.__file__}) is built without it, as "
                "all of pip's are",
                remedy="sudo apt install python3-opencv, pip uninstall opencv-python, and a virtual environment made "
                "with --system-site-packages",
            )
        if hidden(pipeline) != pipeline:
            _silence(cv2)
        whole = pipeline if "appsink" in pipeline else f"{pipeline.rstrip().rstrip('!')} ! {_SINK}"
        capture = cv2.VideoCapture(whole, cv2.CAP_GSTREAMER)
        if not capture.isOpened():
            raise CameraError(f"{name} does not play; try it with gst-launch-1.0")
        super().__init__(name, capture)
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps < 1e4 else 0.0

    def read(self) -> Frame | None:
        grabbed = self._grab()
        return None if grabbed is None else self._frame(grabbed[0], time.monotonic())


def _silence(cv2: ModuleType) -> None:
    """OpenCV prints what it cannot make of a pipeline, with whatever is in it."""
    set_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel  # of OpenCV 4, of 5
    set_level(0)


def find_gstreamer(text: str, options: SourceOptions) -> Address:
    """A pipeline: what contains " ! ", or stands after gst: or gst://."""
    pipeline = text.removeprefix("gst:").removeprefix("//")
    return Address(hidden(text), True, lambda: GStreamerSource(pipeline), again=True)
