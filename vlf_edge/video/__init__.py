"""What frames are: where they come from, which of them the model sees, and how they are cut to size."""

from ..lazy import lazy

_HOME = {"Source": "sources", "SourceOptions": "sources", "find_source": "sources", "open_source": "sources"}

__all__ = sorted(_HOME)
__getattr__ = lazy(__name__, _HOME)
