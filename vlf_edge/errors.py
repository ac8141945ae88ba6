"""Everything vlf_edge raises on purpose.

VlfError                 the user can fix it; the message is one sentence or two
├── WeightsError         weights missing, unreadable or of another model
├── ExportError          a model could not be turned into ONNX
├── CalibrationError     no clips, too few of them, or nothing to see in them
├── CompileError         TensorRT refused a graph (its own messages are inside)
├── AccuracyError        a finished plan would be worse than its gate allows, so none was written
├── PlanError            a plan file is damaged, foreign or unsafe
│   └── PlanMismatch     a sound plan, but not for this model, machine or use
│       └── WrongAnswers its engines decide otherwise here than the plan's golden windows say
├── BackendMissing       a library or device is not here (names the exact install line)
├── ModelError           a model's answers are no numbers
├── ShapeError           an array of the wrong shape or dtype crossed a border
└── SourceError          a camera, file or folder gives no frames
    └── CameraError      a camera is absent, busy or silent
        └── AccessDenied a camera refuses the user or the password

Messages say what, got, expected, what is available, and the next command.
"""

from __future__ import annotations

from .printable import printable


class VlfError(Exception):
    """Base of every error a user can act on. Its text is one line: names from files cannot steer a terminal.

    problem: what is wrong. remedy: what to do about it, such as the line that installs what is missing; "" if the
    problem says it. The text is both.
    """

    def __init__(self, problem: str = "", *, remedy: str = ""):
        super().__init__(f"{problem}; {remedy}" if remedy else problem)
        self.problem, self.remedy = problem, remedy

    def __str__(self) -> str:
        return printable(super().__str__())


class WeightsError(VlfError):
    """Weights are missing, unreadable or of another model."""


class ExportError(VlfError):
    """A model could not be turned into ONNX."""


class CalibrationError(VlfError):
    """INT8 ranges cannot be taken from the clips given."""


class CompileError(VlfError):
    """An engine could not be built; carries the builder's own messages."""


class AccuracyError(VlfError):
    """The plan asked for would be worse than its accuracy gate allows: none was written, its report was."""


class PlanError(VlfError):
    """A plan file is damaged, truncated, foreign, oversized or unsafe."""


class PlanMismatch(PlanError):
    """The plan is sound but does not fit this machine, model or use."""


class WrongAnswers(PlanMismatch):
    """Engines answer otherwise on this machine than the plan's golden windows and gate allow."""


class BackendMissing(VlfError):
    """A library or device that the request needs is not on this machine."""


class ModelError(VlfError):
    """A model answers with NaN or infinity: its weights or engines are broken."""


class ShapeError(VlfError):
    """An array of the wrong shape or dtype crossed a public border."""


class SourceError(VlfError):
    """A camera, file, folder or iterable gives no (more) frames."""


class CameraError(SourceError):
    """A camera is absent, busy, not permitted or silent."""


class AccessDenied(CameraError):
    """A camera refuses the user or the password."""


def first_line(error: BaseException) -> str:
    """The class of an error and the first line of its text, at most 300 characters: libraries write pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def one_line(error: BaseException, most: int = 300) -> str:
    """All of an error's text in one line, at most so many characters of it."""
    return " ".join(str(error).split())[:most]


def raise_interrupt(error: BaseException) -> None:
    """Raises KeyboardInterrupt if that is what ``error`` came of: to be asked where a library was imported and failed.

    For programs that handle Ctrl-C in Python's way. A library in C that is interrupted while it is imported says that
    it cannot be imported, and with luck what interrupted it.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        cause = cause.__cause__ or cause.__context__
