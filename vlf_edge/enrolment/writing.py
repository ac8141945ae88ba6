"""A plan with another head."""

from __future__ import annotations

import os
from dataclasses import replace

from ..head import Head, HeadArray, HeadInfo
from ..plan import Plan
from .lesson import Lesson


def head_of(lesson: Lesson, classes: tuple[str, ...]) -> Head:
    """What was learned, ready to decide. classes: the model's."""
    entries = tuple(HeadArray(name, f"head.{name}.f32", array.shape) for name, array in lesson.arrays.items())
    info = HeadInfo(lesson.reads, classes, lesson.kept, lesson.unknown, entries, dict(lesson.record))
    return Head(info, lesson.labels, lesson.arrays)


def write_head(plan: Plan, output: str | os.PathLike[str], lesson: Lesson) -> Plan:
    """The same plan with what was learned for its head: graphs, engines and report stay."""
    manifest = plan.manifest
    head = head_of(lesson, manifest.classes)
    old = set() if manifest.head is None else {entry.member for entry in manifest.head.arrays}
    members = {name: plan.read(name) for name in manifest.members if name != "report.json" and name not in old}
    changed = replace(manifest, labels=lesson.labels, head=head.info)
    return Plan.write(output, changed, members | head.members(), plan.report)
