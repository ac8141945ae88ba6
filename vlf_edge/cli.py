"""vlf-edge: the command line. Results on stdout, progress and logs on stderr.

Exit codes: 0 fine; 1 a VlfError (one line); 2 wrong usage; 4 no camera; 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ._version import __version__
from .commands import bench, build, capture, inspect, run
from .errors import CameraError, VlfError

_VERBS = {"build": build, "run": run, "bench": bench, "inspect": inspect, "capture": capture}
_EXAMPLES = """examples:
  vlf-edge build --precision int8 --weights my.safetensors --calib-data my-clips/
  vlf-edge run vlf.plan /dev/video0
  vlf-edge run vlf.plan street.mp4 --save annotated.mp4
  vlf-edge inspect vlf.plan

exit codes: 0 fine, 1 an error in one line, 2 wrong usage, 4 no camera, 130 interrupted
"""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="vlf-edge",
        description="Streaming video action recognition with VideoLightFormer on NVIDIA edge hardware.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"vlf-edge {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, module in _VERBS.items():
        verb = verbs.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(verb)
        verb.add_argument("-v", "--verbose", action="store_true", help="more log, and tracebacks of errors")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns its exit code."""
    args = parser().parse_args(argv)
    with _log_to_stderr(args.verbose):
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    try:
        return _VERBS[args.verb].main(args)
    except VlfError as error:
        if args.verbose:
            raise
        print(f"vlf-edge: {error}", file=sys.stderr)
        return 4 if isinstance(error, CameraError) else 1
    except KeyboardInterrupt:
        print("vlf-edge: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output left (a pager, head): that is its right. Python must not complain at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


@contextmanager
def _log_to_stderr(verbose: bool) -> Iterator[None]:
    """Our own log only: what the libraries below us have to say belongs into errors."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger(__package__)
    log.addHandler(handler)
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)


if __name__ == "__main__":
    sys.exit(main())
