"""vlf-edge: the command line. Results on stdout, progress and logs on stderr.

Exit codes: 0 fine; 1 a VlfError (one line); 2 wrong usage; 3 accuracy gate; 4 no camera; 130 interrupted,
143 by SIGTERM.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from . import signals
from ._version import __version__
from .commands import (
    bench,
    build,
    calibrate_unknown,
    capture,
    doctor,
    enrol,
    eval,
    export,
    inspect,
    labels,
    run,
    teach,
    train,
)
from .commands.cameras import OF_CAMERAS
from .commands.config import read_config
from .commands.parser import Parser
from .errors import AccuracyError, CameraError, VlfError
from .printable import printable

_VERBS = {
    "build": build, "run": run, "eval": eval, "bench": bench, "inspect": inspect, "train": train, "capture": capture,
    "export": export, "doctor": doctor, "enrol": enrol, "labels": labels, "calibrate-unknown": calibrate_unknown,
    "teach": teach,
}  # fmt: skip
_EXIT_CODES = {AccuracyError: 3, CameraError: 4}
_EXAMPLES = """examples:
  vlf-edge build --precision int8
  vlf-edge train my-clips/ --from vlf-tiny --out my.safetensors
  vlf-edge build --precision int8 --weights my.safetensors --calib-data my-clips/
  vlf-edge enrol vlf.plan wave=clips/wave/ stop=clips/stop/ --none clips/nothing/ -o mine.plan
  vlf-edge teach vlf.plan 0 --labels wave stop -o mine.plan
  vlf-edge eval vlf.plan my-clips/ --live
  vlf-edge run vlf.plan /dev/video0
  vlf-edge run vlf.plan street.mp4 --save annotated.mp4
  vlf-edge inspect vlf.plan
  vlf-edge doctor vlf.plan

exit codes: 0 fine, 1 an error in one line, 2 wrong usage, 3 too much accuracy lost, 4 no camera, 130 interrupted,
  143 interrupted by SIGTERM
"""


def parser() -> Parser:
    """The whole command line."""
    top = Parser(
        prog="vlf-edge",
        description="Streaming video action recognition with VideoLightFormer on NVIDIA edge hardware.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"vlf-edge {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    top.verbs = verbs.choices
    for name, module in _VERBS.items():
        verb = verbs.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(verb)
        verb.add_argument("-v", "--verbose", action="store_true", help="more log, and tracebacks of errors")
        verb.set_defaults(usage_error=verb.error)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns its exit code."""
    _make_streams_safe()
    top = parser()
    args = top.parse_args(argv)
    with _log_to_stderr(args.verbose):
        try:
            if getattr(args, "config", None) is not None:
                args = _configured(args.verb, args.config, argv)
            code = _VERBS[args.verb].main(args)
            sys.stdout.flush()
            return code
        except KeyboardInterrupt:  # only in programs that call this function: vlf-edge itself has signals.py
            print("vlf-edge: interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:
            # The reader of our output left (a pager, head): that is its right. Python must not complain at exit either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except (VlfError, OSError) as error:
            if signals.asked():  # the error came of that, and the last line will say so
                raise
            if args.verbose:
                print(printable(traceback.format_exc(), keep="\n"), end="", file=sys.stderr)
            print(f"vlf-edge: {error}", file=sys.stderr)
            return next((code for kind, code in _EXIT_CODES.items() if isinstance(error, kind)), 1)


def _configured(verb: str, path: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments with those of a configuration where the command line says nothing. Raises VlfError.

    Among them are cameras, {stream name: CameraTable}; read_anew, which gives all of them as the configuration is
    then; and called, {argument: name in a configuration}.
    """
    top = parser()
    config = read_config(path, top.verbs[verb], OF_CAMERAS)
    read_anew = partial(_configured, verb, path, argv)
    known = {"cameras": config.cameras, "read_anew": read_anew, "called": config.called}
    top.verbs[verb].set_defaults(**config.defaults, **known)
    return top.parse_args(argv)


def _make_streams_safe() -> None:
    """Output that was closed goes nowhere; what a terminal's encoding lacks is escaped instead of raised about."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


class _Printable(logging.Formatter):
    """Names from files cannot steer the terminal from within a message either."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return printable(super().formatMessage(record))


@contextmanager
def _log_to_stderr(verbose: bool) -> Iterator[None]:
    """Our own log only: what the libraries below us have to say belongs into errors."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Printable("%(message)s"))
    log = logging.getLogger(__package__)
    log.addHandler(handler)
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
