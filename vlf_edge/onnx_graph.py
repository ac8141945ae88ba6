"""An ONNX graph as a plan holds it, looked through before any library gets to see it.

A reader of the protobuf wire format for the part of ONNX that plans use, and no more: whatever it does not know is
refused, so that it never passes what a library would understand in another way. Nothing large is copied: the bytes of
weights are measured and skipped. It needs no onnx package. Fields are numbered as in onnx.proto.

Refused are control flow (loops, branches, any graph within a graph), functions, operators that are not ONNX's own,
weights in other files, sparse and text tensors, constants that are not as large as they claim, and more nodes or fields
than ``MAX_NODES`` and ``MAX_FIELDS``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import PlanError
from .types import TensorSpec

MAX_BYTES = 1 << 30  # of one graph; protobuf ends at 2 GiB
MAX_NODES = 4_000  # our largest graphs have some 1,000; time to open grows faster than the number
MAX_FIELDS = 300_000
MAX_AXES = 16
DOMAINS = ("", "ai.onnx")  # two names of one domain: ONNX's own operators
_MAX_TEXT_BYTES = 1000
# Bits of an element by the number of its type.
_TYPES = {
    1: ("float32", 32), 2: ("uint8", 8), 3: ("int8", 8), 4: ("uint16", 16), 5: ("int16", 16), 6: ("int32", 32),
    7: ("int64", 64), 9: ("bool", 8), 10: ("float16", 16), 11: ("float64", 64), 12: ("uint32", 32),
    13: ("uint64", 64), 16: ("bfloat16", 16),
}  # fmt: skip
DTYPES = tuple(name for name, _ in _TYPES.values())

# What each message may hold: {number: (name, kind)}. Kinds: a whole number ("int"), a name ("text") or a message
# ("part") that stands once; lists of them; bytes that are only counted ("stored"); "skip" for what changes nothing;
# "refuse", with the reason as its name.
_Schema = Mapping[int, tuple[str, str]]
_WIRES = {"int": (0,), "ints": (0, 2)}  # wire types, where it is not bytes with their number in front (2)
_SKIP = ("", "skip")
_FUNCTIONS, _GRAPHS = ("functions of its own", "refuse"), ("a graph within (a loop or branch)", "refuse")
_SPARSE, _EXTERNAL = ("a sparse tensor", "refuse"), ("its bytes in another file", "refuse")
_MODEL: _Schema = {
    **dict.fromkeys((1, 2, 3, 4, 5, 6, 14), _SKIP),
    7: ("graph", "part"),
    8: ("opset_import", "parts"),
    20: ("a graph to train", "refuse"),
    25: _FUNCTIONS,
}
_OPSET: _Schema = {1: ("domain", "text"), 2: ("version", "int")}
_GRAPH: _Schema = {
    **dict.fromkeys((2, 10, 13, 14, 16), _SKIP),
    1: ("node", "parts"),
    5: ("initializer", "parts"),
    11: ("input", "parts"),
    12: ("output", "parts"),
    15: _SPARSE,
}
_NODE: _Schema = {
    **dict.fromkeys((6, 9), _SKIP),
    1: ("input", "texts"),
    2: ("output", "texts"),
    3: ("name", "text"),
    4: ("op_type", "text"),
    5: ("attribute", "parts"),
    7: ("domain", "text"),
    8: _FUNCTIONS,
}
_ATTRIBUTE: _Schema = {
    **dict.fromkeys((2, 3, 7, 8, 13, 20), _SKIP),
    1: ("name", "text"),
    4: ("s", "text"),
    5: ("t", "part"),
    6: _GRAPHS,
    9: ("strings", "texts"),
    10: ("tensors", "parts"),
    11: _GRAPHS,
    21: _FUNCTIONS,
    22: _SPARSE,
    23: _SPARSE,
}
_TENSOR: _Schema = {
    **dict.fromkeys((12, 16), _SKIP),
    **dict.fromkeys((4, 5, 7, 10, 11), ("typed", "stored")),
    1: ("dims", "ints"),
    2: ("data_type", "int"),
    6: ("text in it", "refuse"),
    8: ("name", "text"),
    9: ("raw", "part"),
    13: _EXTERNAL,
    14: ("data_location", "int"),
}
_VALUE: _Schema = {3: _SKIP, 4: _SKIP, 1: ("name", "text"), 2: ("type", "part")}
_TYPE: _Schema = {6: _SKIP, 1: ("tensor", "part")}
_TENSOR_TYPE: _Schema = {1: ("elem_type", "int"), 2: ("shape", "part")}
_SHAPE: _Schema = {1: ("dim", "parts")}
_DIM: _Schema = {3: _SKIP, 1: ("value", "int"), 2: ("param", "text")}
# By name too: a library might do without the graph within.
_CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")


@dataclass(frozen=True)
class OnnxGraph:
    """What there is to know of a graph without running it.

    inputs, outputs: in graph order; axes without a size have their name, or "?". operators: how often each is used.
    constants_bytes: of all weights. opset: version of ONNX's operators.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: Counter[str]
    constants_bytes: int
    opset: int


def read_graph(data: bytes, name: str) -> OnnxGraph:
    """Looks through an ONNX model. name: for messages. Raises PlanError for what the module says is refused."""
    if len(data) > MAX_BYTES:
        raise PlanError(f"{name} has {len(data)} bytes; the limit of a graph is {MAX_BYTES}")
    try:
        return _Reader().model(memoryview(data))
    except ValueError as error:
        raise PlanError(f"{name} is no ONNX graph that a plan may hold: {error}") from None


class _Reader:
    """Reads one model. Its methods raise ValueError with what is wrong; fields are counted over all of them."""

    def __init__(self) -> None:
        self._fields_left = MAX_FIELDS
        self._constants_bytes = 0

    def model(self, view: memoryview) -> OnnxGraph:
        model = self._read(view, _MODEL, "the model")
        opsets = [self._read(entry, _OPSET, "the opset") for entry in model.get("opset_import", ())]
        for opset in opsets:
            _check_domain("the model", opset)
        if "graph" not in model:
            raise ValueError("it has no graph")
        graph = self._read(model["graph"], _GRAPH, "the graph")
        nodes = graph.get("node", [])
        if not 0 < len(nodes) <= MAX_NODES:
            raise ValueError(f"it has {len(nodes)} nodes, expected 1 to {MAX_NODES}")
        operators = Counter(self._node(node) for node in nodes)
        constants = {self._tensor(tensor, "a constant") for tensor in graph.get("initializer", ())}
        inputs, outputs = ([self._value(value) for value in graph.get(side, ())] for side in ("input", "output"))
        return OnnxGraph(
            inputs=tuple(spec for spec in inputs if spec.name not in constants),
            outputs=tuple(outputs),
            operators=operators,
            constants_bytes=self._constants_bytes,
            opset=max((opset.get("version", 0) for opset in opsets), default=0),
        )

    def _node(self, view: memoryview) -> str:
        """Returns the operator."""
        node = self._read(view, _NODE, "a node")
        operator = node.get("op_type", "")
        what = f"node {node.get('name', '')!r} ({operator})"
        _check_domain(what, node)
        if operator in _CONTROL_FLOW:
            raise ValueError(f"{what} is a loop or branch")
        for part in node.get("attribute", ()):
            attribute = self._read(part, _ATTRIBUTE, what)
            for tensor in (*([attribute["t"]] if "t" in attribute else ()), *attribute.get("tensors", ())):
                self._tensor(tensor, what)
        return operator

    def _tensor(self, view: memoryview, what: str) -> str:
        """Returns the name of a constant, once it is as large as it says."""
        tensor = self._read(view, _TENSOR, what)
        what = f"{what} {tensor.get('name', '')!r}"
        if tensor.get("data_location", 0):
            raise ValueError(f"{what} has {_EXTERNAL[0]}")
        _, bits = _type(tensor.get("data_type", 0), what)
        dims = tensor.get("dims", [])
        if len(dims) > MAX_AXES or not all(size < 1 << 31 for size in dims):
            raise ValueError(f"{what} has the sizes {dims[:MAX_AXES]}")
        elements, raw = math.prod(dims), tensor.get("raw")
        # Elements that are not raw bytes take at least one byte each.
        if elements * bits != 8 * len(raw) if raw is not None else elements > tensor.get("typed", 0):
            stored = len(raw) if raw is not None else tensor.get("typed", 0)
            raise ValueError(f"{what} claims {elements} elements of {bits} bits, but {stored} bytes are there")
        self._constants_bytes += elements * bits // 8
        return tensor.get("name", "")

    def _value(self, view: memoryview) -> TensorSpec:
        """An input or output."""
        value = self._read(view, _VALUE, "an input or output")
        what = f"input or output {value.get('name', '')!r}"
        tensor = self._read(self._read(value.get("type", b""), _TYPE, what).get("tensor", b""), _TENSOR_TYPE, what)
        dtype, _ = _type(tensor.get("elem_type", 0), what)
        if "shape" not in tensor:
            raise ValueError(f"{what} has no shape")
        dims = self._read(tensor["shape"], _SHAPE, what).get("dim", [])
        sizes = [self._read(dim, _DIM, what) for dim in dims[: MAX_AXES + 1]]
        if any(len(size) > 1 for size in sizes):
            raise ValueError(f"{what} has an axis with both a size and a name")
        shape = tuple(size["value"] if "value" in size else size.get("param") or "?" for size in sizes)
        return TensorSpec(value.get("name", ""), dtype, shape)

    def _read(self, view: memoryview, schema: _Schema, what: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for number, wire, value in self._fields(view):
            name, kind = schema.get(number, (f"a field {number}", "refuse"))
            if kind == "skip":
                continue
            if kind == "refuse":
                raise ValueError(f"{what} has {name}, which a plan's graphs never have")
            if kind == "stored":
                values[name] = values.get(name, 0) + (len(value) if wire == 2 else 1)
            elif wire not in _WIRES.get(kind, (2,)):
                raise ValueError(f"{what} has a damaged {name}")
            elif kind == "ints":
                values.setdefault(name, []).extend([value] if wire == 0 else _varints(value))
            elif kind.endswith("s"):
                values.setdefault(name, []).append(_text(value, what) if kind == "texts" else value)
            elif name in values:  # protobuf would merge or replace them; nobody writes that
                raise ValueError(f"{what} has its {name} twice")
            else:
                values[name] = _text(value, what) if kind == "text" else value
        return values

    def _fields(self, view: memoryview) -> Iterator[tuple[int, int, Any]]:
        """(number, wire type, value) of each field of a message; value: a whole number, or bytes as they stand."""
        at, end = 0, len(view)
        while at < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise ValueError(f"it has more than {MAX_FIELDS} fields")
            tag, at = _varint(view, at)
            number, wire = tag >> 3, tag & 7
            if wire == 0:
                value, at = _varint(view, at)
                yield number, wire, value
                continue
            if wire == 2:
                size, at = _varint(view, at)
            elif wire in (1, 5):
                size = 8 if wire == 1 else 4
            else:
                raise ValueError("it is damaged, or no ONNX at all")
            if size > end - at:
                raise ValueError("it is cut off, or no ONNX at all")
            yield number, wire, view[at : at + size]
            at += size


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """A whole number of up to 64 bits, unsigned, and where the next byte is."""
    if at < len(view) and view[at] < 0x80:  # nearly all of them
        return view[at], at + 1
    result = shift = 0
    for byte in view[at : at + 10]:
        result |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            if result >= 1 << 64:
                break
            return result, at + shift // 7
    raise ValueError("it is damaged, or no ONNX at all")


def _varints(view: memoryview) -> list[int]:
    numbers, at = [], 0
    while at < len(view) and len(numbers) <= MAX_AXES:
        number, at = _varint(view, at)
        numbers.append(number)
    return numbers


def _text(view: memoryview, what: str) -> str:
    # Names stand in messages, of ours and of the libraries.
    text = bytes(view[:_MAX_TEXT_BYTES]).decode("utf-8")
    if len(view) > _MAX_TEXT_BYTES or not text.isprintable():
        raise ValueError(f"{what} has a name that is too long or cannot be printed: {text[:60]!r}")
    return text


def _type(number: int, what: str) -> tuple[str, int]:
    if number not in _TYPES:
        raise ValueError(f"{what} has the element type {number}, expected one of {', '.join(DTYPES)}")
    return _TYPES[number]


def _check_domain(what: str, entry: Mapping[str, Any]) -> None:
    domain = entry.get("domain", "")
    if domain not in DOMAINS:
        raise ValueError(f"{what} is of the domain {domain!r}; a plan's graphs use ONNX's own operators only")
