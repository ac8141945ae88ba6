"""Findings as text for people and as JSON for machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from .._version import __version__
from ..printable import printable
from .finding import BAD, MARKS, Finding

Sections = Mapping[str, Sequence[Finding]]
_FORMAT = 1


def to_json(sections: Sections) -> dict[str, Any]:
    """Plain JSON values: {"format", "vlf_edge", "counts": {mark: number}, "sections": [{"name", "findings": [{"name",
    "mark", "found", "expected", "fix"}]}]}. Names and order of sections and findings are stable."""
    return {
        "format": _FORMAT,
        "vlf_edge": __version__,
        "counts": _counts(sections),
        "sections": [{"name": name, "findings": [asdict(one) for one in found]} for name, found in sections.items()],
    }


def to_text(sections: Sections) -> str:
    """A line for each finding under the heading of its section, and below it what should be and the fix."""
    width = max((len(finding.name) for found in sections.values() for finding in found), default=0)
    indent = " " * (12 + width)
    lines = []
    for name, found in sections.items():
        lines += ["", name] if lines else [name]
        for finding in found:
            lines.append(f"  {finding.mark:7s} {finding.name:{width}s}  {printable(finding.found)}")
            if finding.expected:
                lines.append(f"{indent}should be: {printable(finding.expected)}")
            if finding.fix:
                lines.append(f"{indent}fix: {printable(finding.fix)}")
    counts = ", ".join(f"{count} {mark}" for mark, count in _counts(sections).items() if count)
    return "\n".join([*lines, "", counts])


def plan_fails(sections: Sections) -> bool:
    """Whether a plan was looked at that cannot run here or answers wrongly."""
    return any(finding.mark == BAD for finding in sections.get("Plan", ()))


def _counts(sections: Sections) -> dict[str, int]:
    counted = Counter(finding.mark for found in sections.values() for finding in found)
    return {mark: counted[mark] for mark in MARKS}
