"""The page in front of which someone acts, in a browser: the camera, what is to be done now, what is recognised, and a
button for each key."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import signals
from ..enrolment.session import KEYS, Session
from ..errors import VlfError
from ..printable import printable
from ..serve.board import Board
from ..serve.lesson import LessonBoard
from ..serve.opening import open_server
from ..serve.plan_facts import plan_facts
from ..types import Frame, Prediction

if TYPE_CHECKING:
    from ..enrolment.reading import Reader
    from ..video.sources import Source


class LessonPage:
    """Shows what a Session says at ``address``, "[HOST:]PORT", and hands it what is asked for there. As a context
    manager: those who look are shown how it ends.

    reader: of the plan that is taught. source: what the frames are of. output: where the plan is saved. token_file: see
    ``open_server``, and for what is raised.
    """

    def __init__(
        self, address: str, session: Session, reader: Reader, source: Source, output: str, token_file: str | Path | None
    ):
        self._session, self._stream, self._output = session, printable(source.name), printable(output)
        self._decided: tuple[str, float] | None = None
        facts = plan_facts(session.teaching.plan, reader.backend, reader.sampling.grid_s)
        self._board = Board({self._stream: source.live}, facts, events=False)
        self._lesson = LessonBoard(KEYS)
        self.show(None)
        self._server = open_server(address, self._board, token_file=token_file, lesson=self._lesson)

    def obey(self) -> None:
        """Hands over what was asked for since."""
        for kind, text in self._lesson.take():
            if kind == "label":
                self._session.name(text.strip())
            else:
                for key in text:
                    self._session.do(key)

    def show(self, frame: Frame | None) -> None:
        """Shows the newest frame, if there is a new one, and what the session says."""
        if frame is not None:
            self._board.write(replace(frame, stream=self._stream), self._prediction(frame))
        now = self._session.now
        self._lesson.show(
            {
                "keys": [[key, printable(label), examples] for key, label, examples in self._session.keys],
                "now": now and {"label": printable(now.label), "acting": now.acting, "left_s": round(now.left_s, 2)},
                "unsaved": self._session.loses,
                "output": self._output,
            }
        )

    def tell(self, text: str) -> None:
        """A line of what happened."""
        self._lesson.tell(printable(text))

    def _prediction(self, frame: Frame) -> Prediction | None:
        """What the session decided anew, or that it decides nothing."""
        decided = self._session.decided
        if decided is not None and decided is self._decided:
            return None
        self._decided = decided
        age_ms = 1e3 * (time.monotonic() - frame.captured_s)
        about = {"t_start_s": frame.t_s, "t_end_s": frame.t_s, "seq": frame.seq, "age_ms": age_ms}
        if decided is None:
            return Prediction("warming", **about, stream=self._stream)
        label, score = printable(decided[0]), decided[1]
        return Prediction("ok", **about, label=label, score=score, topk=((label, score),), stream=self._stream)

    def __enter__(self) -> LessonPage:
        return self

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, VlfError):
            self.tell(str(error))
        if not signals.asked():
            self._lesson.end()
        self._server.close()
