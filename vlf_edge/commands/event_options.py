"""The options of every command that makes events of decisions."""

from __future__ import annotations

import argparse
from dataclasses import fields

from ..errors import VlfError
from ..options import add_options, given_options
from ..runtime.event_settings import EventSettings


def add_event_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """what: the help of --events."""
    group = parser.add_argument_group("events", "actions that last, from when to when: docs/events.md")
    group.add_argument("--events", action="store_true", help=what)
    add_options(group, EventSettings, *(f.name for f in fields(EventSettings)), defaults=False)


def event_settings(args: argparse.Namespace) -> EventSettings | None:
    """What ``add_event_arguments`` added; None without --events. Raises VlfError for values that make no events, and
    for settings without --events."""
    given = given_options(args, EventSettings)
    if args.events:
        return EventSettings(**given)
    if given:
        raise VlfError("options say how events are made, but none are asked for; add --events, or leave them out")
    return None
