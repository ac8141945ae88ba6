"""Every check in one row: another one is a function and a row here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..errors import first_line
from . import gpu, hardware, jetson, plan_checks, software
from .finding import BAD, Finding
from .machine import COMMAND_LIMIT_S, QUESTION_LIMIT_S, Machine


@dataclass(frozen=True)
class Check:
    """section: under which heading its findings stand. look: gives them. limit_s: how long it may take; alone: it runs
    when all others are done, because it takes times."""

    section: str
    look: Callable[[Machine], Iterable[Finding]]
    limit_s: float
    alone: bool = False


_FILES_S = 5.0
TABLE = (
    Check("Python", software.interpreter, _FILES_S),
    Check("Python", software.environment, _FILES_S),
    Check("Images", software.numpy_and_opencv, 2 * QUESTION_LIMIT_S),
    Check("Images", software.opencv_wheels, _FILES_S),
    Check("Images", software.pyav, QUESTION_LIMIT_S),
    Check("GPU", gpu.driver, QUESTION_LIMIT_S + COMMAND_LIMIT_S),
    Check("GPU", gpu.cuda, 2 * QUESTION_LIMIT_S),
    Check("Backends", gpu.libraries, 4 * QUESTION_LIMIT_S),
    Check("Backends", gpu.targets, QUESTION_LIMIT_S),
    Check("Machine", jetson.board, COMMAND_LIMIT_S + _FILES_S),
    Check("Machine", jetson.power, 2 * COMMAND_LIMIT_S + _FILES_S),
    Check("Machine", hardware.processor, _FILES_S),
    Check("Machine", hardware.memory, _FILES_S),
    Check("Cameras", hardware.cameras, 2 * QUESTION_LIMIT_S),
    Check("Plan", plan_checks.plan, 6 * plan_checks.LIMIT_S, alone=True),
)


def examine(machine: Machine, checks: Iterable[Check] = TABLE) -> dict[str, list[Finding]]:
    """{section: findings} of all checks, in the order of the table. Those that take no times run side by side.

    A check that takes longer than it may is left behind on its thread, and that is its finding; so is what it raises.
    """
    checks = list(checks)
    together = [(check, _Look(machine, check)) for check in checks if not check.alone]
    for _, look in together:
        look.start()
    looks = {id(check): look for check, look in together}
    sections: dict[str, list[Finding]] = {}
    for check in sorted(checks, key=lambda check: check.alone):
        look = looks.get(id(check))
        if look is None:
            look = _Look(machine, check)
            look.start()
        found = look.wait(check.limit_s)
        if found:
            sections.setdefault(check.section, []).extend(found)
    return sections


class _Look(threading.Thread):
    """One check on a thread of its own, which never keeps the program from ending."""

    def __init__(self, machine: Machine, check: Check):
        super().__init__(name=f"vlf-doctor-{check.look.__name__}", daemon=True)
        self._machine, self._check = machine, check
        self._found: list[Finding] = []

    def run(self) -> None:
        try:
            for finding in self._check.look(self._machine):
                self._found.append(finding)
        except Exception as error:  # a report with a hole in it is worth more than none
            self._found.append(Finding(self._what, BAD, f"the check itself failed: {first_line(error)}", "a finding"))

    def wait(self, limit_s: float) -> list[Finding]:
        self.join(limit_s)
        if self.is_alive():
            return [*self._found, Finding(self._what, BAD, f"no answer within {limit_s:g} s", "an answer in time")]
        return self._found

    @property
    def _what(self) -> str:
        return self._check.look.__name__.replace("_", " ")
