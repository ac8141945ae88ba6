"""Network cameras: rtsp:// and rtsps://."""

from __future__ import annotations

from ...errors import SourceError
from .network import NetworkSource
from .options import SourceOptions
from .source import Address
from .url import Url

# Over TCP frames come whole and in order; over UDP, FFmpeg's first choice, they come torn.
_SETTINGS = {"rtsp_transport": "tcp"}
_MOST_SECRET_BYTES = 127  # that FFmpeg keeps of user and password for a stream


def find_rtsp(text: str, options: SourceOptions) -> Address:
    """rtsp://user:password@host:port/path. Raises SourceError for what is no address."""
    url = Url.parse(text)
    if len(url.reveal()) - len(Url(url.scheme, None, None, url.host, url.port, url.rest).reveal()) > _MOST_SECRET_BYTES:
        raise SourceError(
            f"user and password of {url} have more than {_MOST_SECRET_BYTES} characters, percent-encoded; "
            "FFmpeg takes no more"
        )
    return Address(str(url), True, lambda: NetworkSource(url, options, _SETTINGS), again=True)
