"""A page that shows what a run sees and decides, with its figures, health and events for other programs."""

from ..lazy import lazy

_HOME = {
    "Board": "board",
    "PageServer": "server",
    "PageSink": "page_sink",
}

__all__ = sorted(_HOME)
__getattr__ = lazy(__name__, _HOME)
