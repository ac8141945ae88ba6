"""What this machine is, has and lacks for vlf_edge, and whether a plan runs on it and answers rightly.

>>> findings = examine(Machine())

Another check is one function and one row in table.py.
"""

from ..lazy import lazy

_HOME = {
    "Finding": "finding", "Machine": "machine", "examine": "table", "plan_fails": "report", "to_json": "report",
    "to_text": "report", "write_bundle": "bundle",
}  # fmt: skip

__all__ = sorted(_HOME)
__getattr__ = lazy(__name__, _HOME)
