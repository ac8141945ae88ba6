"""A real RTSP server (GStreamer's) whose frames say which one they are: to be killed, frozen and brought back.

>>> with RtspServer(user="viewer", password="secret") as server:
...     frame = open_source(server.url).read()
...     frame_number(frame.image)
...     server.freeze(), server.thaw()
...     server.kill(), server.start(width=640, height=480, fps=10)

It runs as a child under the system's python3, which has GStreamer's bindings; where it lacks them the test is skipped.
"""

from __future__ import annotations

import argparse
import select
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

PYTHON = "/usr/bin/python3"
PACKAGES = (
    "gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-base gstreamer1.0-plugins-good "
    "gstreamer1.0-plugins-ugly gstreamer1.0-libav"
)
_START_S = 120.0
_COLUMNS, _ROWS = 4, 4  # blocks of a picture, black or white: 16 binary digits, the highest first
_ENCODERS = {
    "h264": "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10 threads=1 "
    "! rtph264pay name=pay0 config-interval=-1",
    "jpeg": "jpegenc ! rtpjpegpay name=pay0",
}


def frame_number(image) -> int:
    """The number that a decoded frame (H, W, 3) uint8 shows, modulo 65536."""
    height, width = image.shape[:2]
    number = 0
    for row in range(_ROWS):
        for column in range(_COLUMNS):
            y, x = (2 * row + 1) * height // (2 * _ROWS), (2 * column + 1) * width // (2 * _COLUMNS)
            number = 2 * number + int(image[y - 2 : y + 3, x - 2 : x + 3].mean() > 128)
    return number


class RtspServer:
    """One stream at ``url``, open to those who know the user and the password, if there is one.

    fps: frames a second that really come. declared_fps: what the stream claims (default: the truth). first: number of
    the first frame; numbers go on while nobody watches. codec: "h264" or "jpeg". digest: the
    password is asked for in the way that does not send it. The port is any that is free, and the
    same again after a restart.
    """

    def __init__(
        self,
        *,
        user: str = "",
        password: str = "",
        width: int = 320,
        height: int = 240,
        fps: float = 25.0,
        declared_fps: float | None = None,
        first: int = 0,
        codec: str = "h264",
        digest: bool = False,
    ):
        self.user, self.password = user, password
        self._wanted = {"width": width, "height": height, "fps": fps, "first": first, "codec": codec}
        self._wanted |= {"declared_fps": declared_fps, "digest": int(digest)}
        self._child: subprocess.Popen | None = None
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        """With user and password, percent-encoded."""
        return self.url_of(quote(self.user, safe=""), quote(self.password, safe=""))

    def url_of(self, user: str = "", password: str = "") -> str:
        """With these exact words as user and password, none if both are empty."""
        secret = f"{user}:{password}@" if user or password else ""
        return f"rtsp://{secret}127.0.0.1:{self.port}/numbers"

    def start(self, **changed) -> None:
        """Starts it, again after ``kill``; returns once it takes connections. changed: as for the class."""
        assert self._child is None, "it runs"
        self._wanted |= changed
        known = self._wanted | {"user": self.user, "password": self.password, "port": self.port}
        options = [f"--{name}={value}" for name, value in known.items() if value is not None]
        if not Path(PYTHON).exists():
            _skip(f"no {PYTHON}")
        self._child = subprocess.Popen(
            [PYTHON, __file__, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        said = self._child.stdout.readline().decode() if self._says_something() else ""
        if not said.startswith("port "):
            self.kill()
            if said.startswith("missing"):
                _skip(said.strip())
            raise AssertionError(f"the RTSP server does not start: {said}")
        self.port = int(said.split()[1])

    def _says_something(self) -> bool:
        return bool(select.select([self._child.stdout], [], [], _START_S)[0])

    def kill(self) -> None:
        """Ends it at once; the kernel closes its connections."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for pipe in (self._child.stdin, self._child.stdout):
                pipe.close()
            self._child = None

    def freeze(self) -> None:
        """It does nothing any more, and its connections stay open: what a camera does that hangs."""
        self._child.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Ends ``freeze``."""
        self._child.send_signal(signal.SIGCONT)

    def __enter__(self) -> RtspServer:
        return self

    def __exit__(self, *exc_info) -> None:
        self.kill()


def _skip(reason: str) -> None:
    import pytest

    pytest.skip(f"{reason}; for a real RTSP server: apt-get install {PACKAGES}")


# What follows runs in the child, which knows nothing but the standard library and GStreamer.


class _Numbers:
    """Pushes numbered pictures into every pipeline there is."""

    def __init__(self, gst, glib, options: argparse.Namespace):
        self._gst, self._options = gst, options
        self._sources, self._number = [], options.first
        glib.timeout_add(max(1, round(1000 / options.fps)), self._push)

    def add(self, _factory, media) -> None:
        source = media.get_element().get_child_by_name("source")
        self._sources = [*self._sources, source]
        media.connect("unprepared", lambda _: self._sources.remove(source) if source in self._sources else None)

    def _push(self) -> bool:
        for source in self._sources:
            if source.get_state(0)[1] != self._gst.State.PLAYING:
                continue  # a picture without a time stamp, before there is a clock, can stop the encoder for good
            source.emit("push-buffer", self._gst.Buffer.new_wrapped(self._picture()))
        self._number += 1
        return True

    def _picture(self) -> bytes:
        """I420."""
        width, height = self._options.width, self._options.height
        luma = b""
        for row in range(_ROWS):
            digits = [self._number >> (_ROWS * _COLUMNS - 1 - row * _COLUMNS - i) & 1 for i in range(_COLUMNS)]
            luma += b"".join((b"\x10", b"\xeb")[digit] * (width // _COLUMNS) for digit in digits) * (height // _ROWS)
        return luma + b"\x80" * (width * height // 2)


def _serve(options: argparse.Namespace) -> None:
    try:
        import gi

        gi.require_version("Gst", "1.0")
        gi.require_version("GstRtspServer", "1.0")
        from gi.repository import GLib, Gst, GstRtsp, GstRtspServer
    except (ImportError, ValueError) as error:
        return print(f"missing {error}", flush=True)
    Gst.init(None)
    encoder = _ENCODERS[options.codec]
    for element in ("appsrc", encoder.split()[0], encoder.split(" ! ")[1].split()[0]):
        if Gst.ElementFactory.find(element) is None:
            return print(f"missing GStreamer element {element}", flush=True)
    numbers = _Numbers(Gst, GLib, options)
    factory = GstRtspServer.RTSPMediaFactory(shared=True)
    rate = round((options.declared_fps or options.fps) * 1000)
    caps = f"video/x-raw,format=I420,width={options.width},height={options.height},framerate={rate}/1000"
    factory.set_launch(f"( appsrc name=source is-live=true do-timestamp=true format=time caps={caps} ! {encoder} )")
    factory.connect("media-configure", numbers.add)
    server = GstRtspServer.RTSPServer(address="127.0.0.1", service=str(options.port))
    if options.user:
        _lock(GstRtsp, GstRtspServer, server, factory, options)
    server.get_mount_points().add_factory("/numbers", factory)
    server.attach(None)
    loop = GLib.MainLoop()
    GLib.io_add_watch(0, GLib.PRIORITY_HIGH, GLib.IO_HUP, lambda *_: loop.quit())  # the test has died
    print(f"port {server.get_bound_port()}", flush=True)
    loop.run()


def _lock(rtsp, library, server, factory, options: argparse.Namespace) -> None:
    auth, token, rights = library.RTSPAuth(), library.RTSPToken(), library.RTSPPermissions()
    token.set_string("media.factory.role", "viewer")
    if options.digest:
        auth.set_supported_methods(rtsp.RTSPAuthMethod.DIGEST)
        auth.add_digest(options.user, options.password, token)
    else:
        auth.add_basic(library.RTSPAuth.make_basic(options.user, options.password), token)
    for right in ("media.factory.access", "media.factory.construct"):
        rights.add_permission_for_role("viewer", right, True)
    factory.set_permissions(rights)
    server.set_auth(auth)


def _options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name, kind in {"width": int, "height": int, "first": int, "port": int, "fps": float, "declared_fps": float,
                       "user": str, "password": str, "codec": str, "digest": int}.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=kind)
    return parser.parse_args(words)


if __name__ == "__main__":
    _serve(_options(sys.argv[1:]))
