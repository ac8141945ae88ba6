"""Video files that are cut off: OpenCV takes what is left of one for the whole.

That bytes are missing is read from the container, whose outermost parts tell how long they are; a frame less than the
header announces is no sign of it, since encoders count frames that they then leave out.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..printable import printable

log = logging.getLogger(__name__)

_SLACK_BYTES = 8  # some writers count the first header twice
_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067  # of Matroska and WebM
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")  # that MP4 and QuickTime files begin with


def note_missing_frames(path: Path, announced: float, fps: float, read: int, last_s: float) -> int:
    """How many frames a file lacks that was read to its end, with a warning if it is cut off. About as many, in
    containers that do not count frames.

    announced: frames by its header, at ``fps`` frames a second, as OpenCV gives them: anything in a broken header.
    read: frames that came, the last one at last_s, in seconds.
    """
    if not 0 < announced < 1e9 or read == 0 or not is_cut_off(path):
        return 0
    missing, about = round(announced) - read, ""
    if path.suffix.lower() in (".mkv", ".webm"):  # frames that come unevenly cannot be counted by a rate
        rate_hz = (read - 1) / last_s if read > 1 and last_s > 0 else fps
        missing, about = round((announced / fps - last_s) * rate_hz) - 1, "about "
    if missing <= 0:
        return 0
    log.warning(
        "%s is cut off: it ends after %d frames, %s%d are missing; copy or record it again",
        printable(path), read, about, missing,
    )  # fmt: skip
    return missing


def is_cut_off(path: Path) -> bool:
    """True if an AVI, MP4, QuickTime, Matroska or WebM file is shorter than it says; False for what says nothing."""
    try:
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            head = file.read(12)
            file.seek(0)
            if head[:4] == b"RIFF":
                ends = _ends_of_chunks(file)
            elif head[4:8] in _BOXES:
                ends = _ends_of_boxes(file)
            elif int.from_bytes(head[:4], "big") == _EBML:
                ends = _ends_of_elements(file)
            else:
                return False
            return any(end > size_bytes + _SLACK_BYTES for end in ends)
    except OSError:
        return False


def _ends_of_chunks(file: BinaryIO) -> Iterator[int]:
    """AVI: four letters, then the length; large files have several such parts."""
    at = 0
    while len(head := file.read(8)) == 8 and head[:4] == b"RIFF":
        at += 8 + int.from_bytes(head[4:], "little")
        yield at
        at += at % 2
        file.seek(at)


def _ends_of_boxes(file: BinaryIO) -> Iterator[int]:
    """MP4: the length, which counts itself, then four letters; length 1: eight bytes follow, 0: to the end."""
    at = 0
    while len(head := file.read(16)) >= 8:
        length = int.from_bytes(head[:4], "big")
        length = int.from_bytes(head[8:], "big") if length == 1 else length
        if length < 8:
            return
        at += length
        yield at
        file.seek(at)


def _ends_of_elements(file: BinaryIO) -> Iterator[int]:
    """Matroska: a header, then one segment with all the rest; numbers tell their own length by leading zero bits."""
    for wanted in (_EBML, _SEGMENT):
        if int.from_bytes(file.read(4), "big") != wanted:
            return
        first = file.read(1)
        more = 8 - first[0].bit_length() if first and first[0] else 0
        length = int.from_bytes(bytes([first[0] & (0x7F >> more)]) + file.read(more), "big") if first else 0
        if length == (1 << 7 * (more + 1)) - 1:  # of a recording whose end was not known
            return
        end = file.tell() + length
        yield end
        file.seek(end)
