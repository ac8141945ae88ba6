"""A plan and a few clips of your own actions -> a plan that decides between them, in seconds; NumPy and the runtime
alone.

    clips --as a camera shows them--> windows --the plan's stages--> features --closed form--> head --> mine.plan

The model stays as it is. enrol.py tells it from beginning to end: start reading there.
"""

from ..lazy import lazy

_HOME = {
    "calibrate_unknown": "unknown",
    "change_labels": "labels",
    "enrol": "enrol",
}

__all__ = sorted(_HOME)
__getattr__ = lazy(__name__, _HOME)
