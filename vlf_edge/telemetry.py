"""Nothing leaves the machine: libraries that report on their users have that switched off before they are loaded.

- ONNX Runtime (from 1.29) sends hashes of the models it opens to its makers, and keeps what it could not send in a
  data base in the user's cache folder.
- OpenVINO sends an event when it is imported, from a forked process, and leaves files in ``~/intel``.

Both only ever within this process and those it starts: no file of the user's is written to say so.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_OPENVINO_REPORTER = "openvino_telemetry"


def switch_off() -> None:
    """For all libraries that ask the environment; done when vlf_edge is imported, for they ask only once."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"


@contextmanager
def barred() -> Iterator[None]:
    """While a library is imported: OpenVINO finds no package to report with, so it takes the stub that it has for this
    case, and keeps it. Programs that use that package for themselves have it back afterwards."""
    absent = object()
    before = sys.modules.get(_OPENVINO_REPORTER, absent)
    sys.modules[_OPENVINO_REPORTER] = None  # type: ignore[assignment]  # an import of it is an ImportError
    try:
        yield
    finally:
        if before is absent:
            sys.modules.pop(_OPENVINO_REPORTER, None)
        else:
            sys.modules[_OPENVINO_REPORTER] = before  # type: ignore[assignment]
