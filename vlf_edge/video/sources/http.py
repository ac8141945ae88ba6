"""Video behind http:// and https://: cameras that send JPEG after JPEG, recordings, HLS."""

from __future__ import annotations

from dataclasses import replace

from .network import NetworkSource
from .options import SourceOptions
from .source import Address, Source
from .url import Url
from .wrappers import Paced

# A .ts, .flv or .mjpeg is as often a live stream as a recording.
_RECORDINGS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
_PLAYLIST = ".m3u8"
_PLAYLIST_READ_S = 30.0  # the pieces of a playlist come at once, and the next is seconds away


def find_http(text: str, options: SourceOptions) -> Address:
    """A recording by its ending, which gives every frame; else a camera. HLS comes in pieces and is paced by its time
    stamps, whether it is live or not. Raises SourceError for what is no address."""
    url = Url.parse(text)
    path = url.path.lower()
    if path.endswith(_RECORDINGS):
        return Address(str(url), False, lambda: NetworkSource(url, options, live=False), again=True)
    if path.endswith(_PLAYLIST):
        return Address(str(url), True, lambda: _open_playlist(url, options), again=True)
    return Address(str(url), True, lambda: NetworkSource(url, options), again=True)


def _open_playlist(url: Url, options: SourceOptions) -> Source:
    patient = replace(options, read_timeout_s=max(options.read_timeout_s, _PLAYLIST_READ_S))
    return Paced(NetworkSource(url, patient, live=False))
