"""docs/plan.md is the specification of the format: its tables and the code say the same."""

from __future__ import annotations

import copy
import importlib
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from conftest import toy_manifest, write_toy_plan
from crafted import craft, parts_of

from vlf_edge import Manifest, Plan, PlanError, PlanMismatch, Preprocess, Sampling, TensorSpec
from vlf_edge.head import HeadArray, HeadInfo
from vlf_edge.interface import INPUTS, OUTPUTS
from vlf_edge.json_fields import MAX_CHARACTERS
from vlf_edge.manifest import (
    FORMATS,
    GRAPH_KINDS,
    INPUT_ROLES,
    MAX_SIZE,
    OUTPUT_ROLES,
    PRECISIONS,
    EngineInfo,
    Graph,
)
from vlf_edge.onnx_graph import DTYPES

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "plan.md").read_text()
ENGINE = {
    "stage": "frame", "target": "rtx", "member": "frame.rtx.engine", "library": "tensorrt_rtx", "version": "1.2",
    "compute_capabilities": ["8.6"], "device": "", "max_batch": 8, "opt_batch": 1,
}  # fmt: skip
HEAD = {
    "reads": ["logits"], "classes": ["still", "left", "right", "up", "down"], "kept": [0, 1, 2, 3], "unknown": True,
    "arrays": [{"name": "bias", "member": "head.bias.f32", "shape": [1]}], "record": {},
}  # fmt: skip
FIELDS = {
    "": Manifest, "preprocess.": Preprocess, "sampling.": Sampling, "graphs[].": Graph,
    "graphs[].inputs[].": TensorSpec, "engines[].": EngineInfo,
    "head.": HeadInfo, "head.arrays[].": HeadArray,
}  # fmt: skip


def table(first: str) -> list[list[str]]:
    """The rows below the heading whose first column is so named, without back quotes."""
    (found,) = re.findall(rf"^\| {first} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", TEXT, re.M)
    return [[cell.strip().replace("`", "") for cell in row.strip("|").split("|")] for row in found.splitlines()]


ROWS = {name: (kind, limits) for name, kind, limits, _ in table("field")}


def plan_parts(tmp_path):
    manifest, members = parts_of(write_toy_plan(tmp_path / "toy.plan"))
    manifest |= {"engines": [copy.deepcopy(ENGINE)], "format": 3, "roles": {}, "head": copy.deepcopy(HEAD)}
    manifest["labels"] = [*HEAD["classes"][:4], "unknown"]
    return manifest, members | {ENGINE["member"]: b"engine", "head.bias.f32": bytes(4)}


def holder_of(manifest: dict[str, Any], path: str) -> tuple[Any, str]:
    """The object that has the last field of a path such as "graphs[].inputs[].name", and that field."""
    *way, last = path.split(".")
    for step in way:
        manifest = manifest[step.removesuffix("[]")]
        manifest = manifest[0] if step.endswith("[]") else manifest
    return manifest, last


def test_every_field_is_described():
    described = {(path[: path.rfind(".") + 1], path[path.rfind(".") + 1 :]) for path in ROWS}
    whole = {("", "preprocess"), ("", "sampling")}  # described by their parts
    described -= {("", "format")}
    assert described | whole == {(path, field.name) for path, kind in FIELDS.items() for field in fields(kind)}


@pytest.mark.parametrize("path", ROWS)
def test_every_field_must_be_there_and_of_its_type(tmp_path, path):
    kind, _ = ROWS[path]
    wrong: dict[str, Any] = {
        "number": ["1", 1.5, True, None, [1]], "seconds": ["1", True, None],
        "name": [1, None, [], "", "\x1b", "x" * 301],
        "text": [1, None, "\x1b"], "names": ["abc", [1], [""], ["\x1b"], {}, None], "objects": [{}, ["x"], "x", None],
        "object": [[], "x", None], "list": ["N", [1.5], [None], [True], [""], {}, None],
        "bool": [0, 1, "true", None, []],
    }  # fmt: skip
    manifest, members = plan_parts(tmp_path)
    assert Plan.open(craft(tmp_path / "x.plan", manifest, members))
    for value in wrong[kind]:
        changed = copy.deepcopy(manifest)
        holder, name = holder_of(changed, path)
        holder[name] = value
        with pytest.raises(PlanError):
            Plan.open(craft(tmp_path / "x.plan", changed, members))
    holder, name = holder_of(manifest, path)
    del holder[name]
    craft(tmp_path / "x.plan", manifest, members)
    if path == "sampling.phases":
        assert Plan.open(tmp_path / "x.plan").manifest.sampling.phases == 1
        return
    with pytest.raises(PlanError):
        Plan.open(tmp_path / "x.plan")


@pytest.mark.parametrize("path", [path for path, (_, limits) in ROWS.items() if " to " in limits])
def test_every_limit_is_kept(tmp_path, path):
    kind, limits = ROWS[path]
    least, most = map(float, limits.split(" to "))
    manifest, members = plan_parts(tmp_path)
    holder, name = holder_of(manifest, path)
    lists = kind in ("names", "objects", "list")
    for size, allowed in ((least, True), (most, True), (least - 1, False), (most + 1, False)):
        if lists and size < 0:
            continue
        if lists:
            one = {"names": "x", "list": 1}.get(kind) or copy.deepcopy(holder[name][0] if holder[name] else ENGINE)
            holder[name] = [one] * int(size)
        else:
            holder[name] = size if kind == "seconds" else int(size)
        try:
            Plan.open(craft(tmp_path / "x.plan", manifest, members))
            refused = ""
        except PlanError as error:
            refused = str(error)
        # What is within the limits may still not fit the rest, but never for its own size.
        own = rf"expected ({least:g}|a whole number|a number)( from {least:g})? to {most:g}"
        assert bool(re.search(own, refused)) != allowed or (kind == "list" and allowed), (size, refused)


def test_limits_and_lists_are_those_of_the_code():
    for _, limit, where in table("what"):
        module, name = where.split(".")
        assert getattr(importlib.import_module(f"vlf_edge.{module}"), name) == int(limit), where
    assert f"1 to {MAX_CHARACTERS} characters" in TEXT and f"from 1 to {MAX_SIZE}" in TEXT
    assert ROWS["format"][1] == ", ".join(map(str, FORMATS))
    assert f"Element types: {', '.join(DTYPES)}." in TEXT
    described = {name: meaning for name, *_, meaning in table("field")}
    assert described["precision"] == "{}, {} or {}".format(*PRECISIONS)
    assert described["graphs[].kind"] == "{}, {} or {}".format(*GRAPH_KINDS)


def test_roles_are_those_of_the_code():
    assert (tuple(INPUTS), tuple(OUTPUTS)) == (INPUT_ROLES, OUTPUT_ROLES)
    assert [row[:4] for row in table("role")] == [
        [name, side, ", ".join("..." if axis is ... else str(axis) for axis in role.axes), ", ".join(role.dtypes)]
        for side, roles in (("inputs", INPUTS), ("outputs", OUTPUTS))
        for name, role in roles.items()
    ]


def test_what_readers_do_with_what_they_do_not_know(tmp_path):
    manifest, members = plan_parts(tmp_path)
    digest = Plan.open(craft(tmp_path / "x.plan", manifest, members)).digest
    for path in ("later", "graphs[].later", "engines[].later", "graphs[].inputs[].later"):
        holder, name = holder_of(manifest, path)
        holder[name] = {"anything": 1}
    assert Plan.open(craft(tmp_path / "x.plan", manifest, members)).digest == digest
    for part in ("preprocess", "sampling"):
        with pytest.raises(PlanError, match="later"):
            Plan.open(craft(tmp_path / "x.plan", manifest | {part: {**manifest[part], "later": 1}}, members))
    with pytest.raises(PlanMismatch, match="plan format 4; .*upgrade vlf_edge"):
        Plan.open(craft(tmp_path / "x.plan", manifest | {"format": 4}, members))


def test_members_are_named_as_described(tmp_path):
    names = {graph.member for graph in toy_manifest().graphs} | {"manifest.json", "report.json", ENGINE["member"]}
    patterns = [re.sub("<[a-z]+>", "[a-z0-9-]+", re.escape(name)) for name, _ in table("member")]
    assert all(any(re.fullmatch(pattern, name) for pattern in patterns) for name in names)
    manifest, members = plan_parts(tmp_path)
    for name, allowed in (("a" * 100, True), ("a" * 101, False), (".a", False), ("a_b-c.D9", True), ("a/b", False)):
        try:
            Plan.open(craft(tmp_path / "x.plan", manifest, members | {name: b""}))
            assert allowed, name
        except PlanError:
            assert not allowed, name
