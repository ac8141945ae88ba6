"""What one check found."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARN, BAD, ABSENT = "ok", "warn", "bad", "absent"
MARKS = (OK, WARN, BAD, ABSENT)


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    name: what was looked at. mark: "ok"; "warn", it works but not as well as it could; "bad", it does not work;
    "absent", it is not there and need not be. found: what is. expected: what should be; fix: how to get there, a
    command where there is one. Both are "" where nothing is to be done.
    """

    name: str
    mark: str
    found: str
    expected: str = ""
    fix: str = ""
