"""What Home Assistant has to be told so that streams turn up in it by themselves (its MQTT discovery)."""

from __future__ import annotations

import re
from typing import Any


def discovery(prefix: str, stream: str, topic: str, availability: str, version: str) -> dict[str, dict[str, Any]]:
    """{topic to publish on, retained: configuration} of the two entities of a stream: what goes on (a sensor), and
    whether its camera gives frames (a binary sensor).

    prefix: where Home Assistant looks, "homeassistant" by its default. stream: name for people. topic: under which the
    stream's ``action`` and ``state`` are published. availability: topic of "online" and "offline".
    """
    node = _id(availability.rpartition("/")[0])
    about = {
        "availability_topic": availability,
        "device": {
            "identifiers": [node],
            "name": availability.rpartition("/")[0],
            "manufacturer": "vlf_edge",
            "model": "video action recognition",
            "sw_version": version,
        },
        "origin": {"name": "vlf_edge", "sw_version": version},
    }
    action = {"name": f"{stream} action", "state_topic": f"{topic}/action", "icon": "mdi:motion-sensor"}
    signal = {
        "name": f"{stream} signal",
        "state_topic": f"{topic}/state",
        "device_class": "connectivity",
        "entity_category": "diagnostic",
        "value_template": "{{ 'OFF' if value in ('no_signal', 'ended') else 'ON' }}",
    }
    found = {}
    for component, entity, kind in (("sensor", action, "action"), ("binary_sensor", signal, "signal")):
        unique = f"{_id(topic)}_{kind}"
        found[f"{prefix}/{component}/{unique}/config"] = {**entity, "unique_id": unique, **about}
    return found


def _id(text: str) -> str:
    """Home Assistant allows letters, digits, underscore and hyphen."""
    return "".join(c if re.match(r"[A-Za-z0-9_-]", c) else f"_{ord(c):x}_" if c != "/" else "_" for c in text)
