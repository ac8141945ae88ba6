"""Teach a plan your own actions in front of a camera: press a key, act, see it recognised, save.

vlf-edge build --weights vlf-tiny-acts --precision int8 -o people.plan    the weights that ship for what people do
vlf-edge teach people.plan 0 --labels wave stop -o mine.plan
vlf-edge teach mine.plan 0 -o mine.plan --show                    more of what it was taught before, in a window
vlf-edge teach people.plan 0 -o mine.plan --serve 8080               in a browser, with a button for each label

Press 1 and wave, 2 and stop; 0 and do nothing of it, as often as can be: what is none of the labels is then called
"unknown". Three to five examples of each are good. Keys are read in the terminal, in the window of --show and on the
page of --serve.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

from .. import signals
from ..errors import VlfError
from ..options import add_options, given_options
from ..printable import printable
from ..video.sources import KINDS, SOURCE_FLAGS, Source, SourceOptions
from .backend import add_backend_arguments, backend_options
from .enrol import add_lesson_arguments, head_rows, lesson_options
from .keyboard import Keyboard
from .page_options import add_page_arguments, wants_page
from .status_line import StatusLine

if TYPE_CHECKING:
    from ..enrolment.session import Session
    from ..types import Frame
    from .lesson_page import LessonPage
    from .lesson_window import LessonWindow

HELP = "teach a plan your own actions in front of a camera"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("plan", metavar="PLAN", help="a vlf.plan")
    add("source", metavar="SOURCE", help=KINDS.replace("%", "%%"))
    add(
        "--labels",
        nargs="+",
        default=[],
        metavar="LABEL",
        help="what the keys 1 to 9 stand for, after the labels that PLAN was taught before; more can be typed",
    )
    add("-o", "--output", required=True, metavar="FILE", help="where to save the new plan; PLAN itself is fine too")
    add("--seconds", type=float, metavar="S", help="length of an example (default: one and a half windows of the plan)")
    add("--countdown", type=float, default=1.0, metavar="S", help="before each (default: 1)")
    add_lesson_arguments(parser)
    add("--show", action="store_true", help="show the camera in a window, which takes the keys too")
    add_page_arguments(parser, "teach on a page in a browser: the camera, a button for each label, save")
    add_backend_arguments(parser)
    add_options(parser.add_argument_group("sources"), SourceOptions, *SOURCE_FLAGS)


def main(args: argparse.Namespace) -> int:
    """Teaches until Q is pressed or the source ends; prints how well left-out examples are known."""
    from ..enrolment.open_set import why_not_held
    from ..enrolment.reading import Reader
    from ..enrolment.recording import usual_seconds
    from ..enrolment.session import Session
    from ..enrolment.teaching import Teaching
    from ..plan import Plan, check_output
    from ..video import open_source
    from .lesson_page import LessonPage
    from .lesson_window import LessonWindow

    plan = Plan.open(args.plan)
    check_output(args.output)
    teaching = Teaching(plan, **lesson_options(args))
    keyboard, line, served = Keyboard(), StatusLine(), wants_page(args)
    if not (keyboard.present or args.show or served):
        raise VlfError(
            "keys are read from a terminal, and stdin is none; give --serve [HOST:]PORT for a page in the browser, or "
            "--show where there is a screen"
        )
    with (
        LessonWindow("leave --show out and press keys in the terminal") if args.show else nullcontext() as window,
        Reader(plan, teaching.answer, **backend_options(args)) as reader,
    ):
        session = Session(
            reader,
            teaching,
            args.labels,
            args.output,
            seconds=usual_seconds(plan.manifest) if args.seconds is None else args.seconds,
            countdown_s=args.countdown,
        )
        source = open_source(args.source, SourceOptions(**given_options(args, SourceOptions)))
        shown = (args.serve, session, reader, source, args.output, args.serve_token_file)
        with (
            signals.telling(session.stop, lambda: _lost(session)),
            source,
            LessonPage(*shown) if served else nullcontext() as page,
            keyboard,
            line,
        ):
            line.tell(session.news)
            _teach(source, session, keyboard, line, window, page)
    if session.saved and not signals.asked():
        record = session.saved.manifest.head.record
        print("\n".join(map(printable, [f"{session.saved.path}:", *head_rows(record)])))
        if why := why_not_held(record):
            print(printable(why), file=sys.stderr)
    return 0


def _teach(
    source: Source,
    session: Session,
    keyboard: Keyboard,
    line: StatusLine,
    window: LessonWindow | None,
    page: LessonPage | None,
) -> None:
    """Frames and keys into the session, what it says to where people look, until it is over. What was taught is saved
    if the source ends or fails, but not after a signal."""
    try:
        for frame in source:
            acting = session.acting
            session.see(frame)
            session.press(keyboard.read())
            if window is not None:
                session.press(window.show(frame.image, session.doing, session.news, session.decided, session.keys))
            if page is not None:
                page.obey()
            if acting != session.acting:
                line.ring()
            _tell(session, frame, line, page)
            line.show(session.status)
            if not session.wants_more:
                return
        session.messages.append(f"{source.name} has ended")
    finally:
        if session.wants_more and session.loses and not signals.asked():
            session.save()
        _tell(session, None, line, page)


def _tell(session: Session, frame: Frame | None, line: StatusLine, page: LessonPage | None) -> None:
    """What happened, and the newest frame, to where people look."""
    while session.messages:
        message = session.messages.pop(0)
        line.tell(message)
        if page is not None:
            page.tell(message)
    if page is not None:
        page.show(frame)


def _lost(session: Session) -> str:
    """What the last line says after a signal."""
    return f"; {session.loses} example(s) taught since were not saved" if session.loses else ""
