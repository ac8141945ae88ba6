"""Options declared once: a frozen dataclass whose fields say what the command line and the checks need to know.

>>> @dataclass(frozen=True)
... class Settings:
...     epochs: int = option(20, "how often to go through the data", metavar="N", least=1)
>>> add_options(parser, Settings, "epochs")  # --epochs N
>>> check_options(settings)  # raises VlfError for epochs 0
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from .errors import VlfError

_KEY = "option"


@dataclass(frozen=True)
class Option:
    """What is known of a field beside its type and its default.

    help: for ``--help``; the default is part of it. metavar: how a value is called there. flags: as typed; () is the
    field's name. choices: the values allowed. least, most: limits of a number that may be reached; above, below: limits
    that may not.
    """

    help: str
    metavar: str | None = None
    flags: tuple[str, ...] = ()
    choices: tuple[str, ...] | None = None
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def allows(self, value: Any) -> bool:
        """Whether a number is within the limits; NaN never is where there is one."""
        return (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    @property
    def limits(self) -> str:
        """The limits in words, such as "1 or more" or "from 0 to below 1"."""
        if self.above is not None:
            return f"above {self.above:g}" + ("" if self.most is None else f" and at most {self.most}")
        if self.below is not None:
            return f"from {self.least:g} to below {self.below:g}"
        return f"{self.least:g} or more" if self.most is None else f"from {self.least:g} to {self.most}"


def option(default: Any, help: str, metavar: str | None = None, **known: Any) -> Any:
    """A dataclass field with an Option. default: MISSING for a field that has none; known: further fields of Option."""
    return field(default=default, metadata={_KEY: Option(help, metavar, **known)})


def add_options(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, cls: type, *names: str, defaults: bool = True
) -> None:
    """Adds an argument for each of these fields of ``cls``; it is then found in the parsed arguments by its name.

    Boolean fields become switches, tuples take several values, fields without a default are positional.
    defaults False: what was not given is None, so that it can be told from what was.
    """
    known, kinds = {f.name: f for f in fields(cls)}, get_type_hints(cls)
    for name in names:
        f, about, kind = known[name], known[name].metadata[_KEY], _plain(kinds[name])
        given: dict[str, Any] = {"help": about.help}
        if f.default is not MISSING or about.flags:
            given["default"] = None if f.default is MISSING or not defaults else f.default
        if kind is bool:
            given["action"] = "store_true"
        else:
            number = kind if kind in (int, float) else None
            given |= {"metavar": about.metavar, "choices": about.choices, "type": number}
            if kind is tuple:
                given["nargs"] = "+"
        if f.default is MISSING and not about.flags:
            action = parser.add_argument(name, **given)
        else:
            action = parser.add_argument(*(about.flags or (_flag(name),)), dest=name, **given)
        action.option = about  # for configuration files, which are held to the same limits


def given_options(args: argparse.Namespace, cls: type) -> dict[str, Any]:
    """The parsed arguments that are fields of ``cls``, but for those that are None."""
    found = {f.name: getattr(args, f.name, None) for f in fields(cls)}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in found.items() if v is not None}


def check_options(value: Any, name_of: Callable[[str], str] | None = None) -> None:
    """Raises VlfError for the first field of a dataclass whose number is out of its limits or whose value is no choice.

    name_of: field -> how messages call it; by default its flag. None is always allowed.
    """
    for f in fields(value):
        about, found = f.metadata.get(_KEY), getattr(value, f.name)
        if about is None or found is None:
            continue
        name = name_of(f.name) if name_of else (about.flags or (_flag(f.name),))[0]
        if about.choices is not None and found not in about.choices:
            raise VlfError(f"{name} is {found!r}, expected one of {', '.join(about.choices)}")
        if not about.allows(found):
            raise VlfError(f"{name} is {found}; expected {about.limits}")


def _plain(kind: Any) -> Any:
    """The class behind a type: int of int | None, tuple of tuple[str, ...]."""
    if isinstance(kind, UnionType):
        kind = next(one for one in get_args(kind) if one is not NoneType)
    return get_origin(kind) or kind


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
