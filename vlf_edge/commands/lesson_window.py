"""The window in front of which someone acts: the camera, what is to be done now, and what is recognised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..printable import printable
from ..runtime.sinks.annotation import write_bar, write_lines
from ..runtime.sinks.window import Window

_WHITE, _RED = (255, 255, 255), (90, 90, 255)


class LessonWindow:
    """Raises what ``Window`` raises. otherwise: what to do where there is no screen."""

    def __init__(self, otherwise: str):
        self._window = Window(otherwise)

    def show(
        self,
        image: np.ndarray,
        doing: str,
        news: str = "",
        decided: tuple[str, float] | None = None,
        keys: Sequence[tuple[str, str, int]] = (),
    ) -> str:
        """Shows a frame (H, W, 3) uint8 BGR with what ``Session`` says. Returns the key that was pressed, "" if none
        was."""
        shown = image.copy()
        lines = []
        if keys:
            lines.append(("  ".join(f"[{key}] {printable(label)} {count}" for key, label, count in keys), _WHITE))
        if doing or news:
            lines.append((printable(doing or news), _RED if ": now, " in doing else _WHITE))
        write_lines(shown, lines)
        if decided is not None:
            write_bar(shown, f"{printable(decided[0])}  {decided[1]:.0%}", decided[1])
        self._window.show("vlf_edge", shown)
        return self._window.key()

    def __enter__(self) -> LessonWindow:
        return self

    def __exit__(self, *exc_info) -> None:
        self._window.close()
