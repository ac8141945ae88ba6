"""A plan with another head."""

from __future__ import annotations

import os
from dataclasses import replace

from ..head import HeadArray, HeadInfo
from ..plan import Plan
from .lesson import Lesson


def write_head(plan: Plan, output: str | os.PathLike[str], lesson: Lesson) -> Plan:
    """The same plan with what was learned for its head: graphs, engines and report stay."""
    manifest = plan.manifest
    arrays = {name: array.astype("<f4") for name, array in lesson.arrays.items()}
    entries = tuple(HeadArray(name, f"head.{name}.f32", array.shape) for name, array in arrays.items())
    head = HeadInfo(lesson.reads, manifest.classes, lesson.kept, lesson.unknown, entries, dict(lesson.record))
    old = set() if manifest.head is None else {entry.member for entry in manifest.head.arrays}
    members = {name: plan.read(name) for name in manifest.members if name != "report.json" and name not in old}
    members |= {entry.member: arrays[entry.name].tobytes() for entry in entries}
    return Plan.write(output, replace(manifest, labels=lesson.labels, head=head), members, plan.report)
