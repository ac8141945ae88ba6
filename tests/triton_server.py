"""What a Triton server would do with a model repository: its rules for shapes, around ONNX Runtime."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnxruntime


def parse(text: str) -> dict[str, list]:
    """Protocol buffers' text format -> {field: [values]}, strictly: anything not understood fails."""
    tokens = re.findall(r'#[^\n]*|"(?:[^"\\\n]|\\.)*"|[A-Za-z_][\w]*|-?\d+|[{}\[\]:,]|\S', text)
    tokens = [token for token in tokens if not token.startswith("#")]
    fields, rest = message([*tokens, "}"])
    assert not rest, f"left over: {rest}"
    return fields


def message(tokens: list[str]) -> tuple[dict[str, list], list[str]]:
    fields: dict[str, list] = {}
    while tokens[0] != "}":
        name, sign, tokens = tokens[0], tokens[1], tokens[2:]
        assert re.fullmatch(r"[a-z_]+", name) and sign in ":{", (name, sign)
        if sign == "{":
            value, tokens = message(tokens)
            fields.setdefault(name, []).append(value)
        elif tokens[0] == "[":
            end = tokens.index("]")
            assert set(tokens[2:end:2]) <= {","} and name not in fields
            fields[name], tokens = [scalar(token) for token in tokens[1:end:2]], tokens[end + 1 :]
        else:
            fields.setdefault(name, []).append(scalar(tokens[0]))
            tokens = tokens[1:]
    return fields, tokens[1:]


def scalar(token: str) -> str | int:
    if token.startswith('"'):
        return json.loads(token)
    return int(token) if re.fullmatch(r"-?\d+", token) else Symbol(token)


class Symbol(str):
    """An enum's value, which is not the same as the string."""

    __hash__ = str.__hash__

    def __eq__(self, other):
        return isinstance(other, Symbol) and str.__eq__(self, other)


NUMPY = {"TYPE_UINT8": np.uint8, "TYPE_FP32": np.float32, "TYPE_FP16": np.float16}


class Server:
    """Triton's rules for shapes, as its core has them (ensemble_utils.cc, ensemble_scheduler.cc, infer_request.cc and
    the onnxruntime backend's checks), around ONNX Runtime."""

    def __init__(self, repository: Path):
        self.repository = repository
        folders = sorted(path.name for path in repository.iterdir() if path.is_dir())
        self.configs = {name: parse((repository / name / "config.pbtxt").read_text()) for name in folders}
        for name, config in self.configs.items():
            assert config["name"] == [name] and (repository / name / "1").is_dir()
            for tensor in config["input"] + config["output"]:
                inside = tensor["reshape"][0]["shape"] if "reshape" in tensor else tensor["dims"]
                assert -1 in inside or np.prod(inside) == np.prod(tensor["dims"])
                if "label_filename" in tensor:
                    assert (repository / name / tensor["label_filename"][0]).is_file()
        (self.ensemble,) = (name for name in folders if self.configs[name].get("platform") == ["ensemble"])
        self.check_ensemble()

    def check_ensemble(self):
        config = self.configs[self.ensemble]
        known = {
            t["name"][0]: (t["data_type"], shape_inside(t), self.full(config, shape_inside(t)))
            for t in config["input"] + config["output"]
        }
        inputs = {tensor["name"][0] for tensor in config["input"]}
        made = set(inputs)
        for step in self.steps():
            model = self.configs[step["model_name"][0]]
            for side, mapped in (("input", "input_map"), ("output", "output_map")):
                names = {entry["key"][0]: entry["value"][0] for entry in step[mapped]}
                assert set(names) == {tensor["name"][0] for tensor in model[side]}
                assert side == "output" or set(names.values()) <= made
                for tensor in model[side]:
                    own = (tensor["data_type"], tensor["dims"], self.full(model, tensor["dims"]))
                    other = known.setdefault(names[tensor["name"][0]], own)
                    assert own[0] == other[0], (tensor, other)
                    assert agree(own[1], other[1]) or agree(own[2], other[2]), (tensor, other)
            made |= {entry["value"][0] for entry in step["output_map"]}
        assert {tensor["name"][0] for tensor in config["output"]} <= made - inputs

    def steps(self):
        return self.configs[self.ensemble]["ensemble_scheduling"][0]["step"]

    @staticmethod
    def full(config, dims):
        return [-1, *dims] if config["max_batch_size"][0] > 0 else list(dims)

    def check_graph(self, name: str, session: onnxruntime.InferenceSession):
        """Input sizes may be narrower than the graph's; output sizes must be its own, -1 included."""
        config = self.configs[name]
        for side, values, exact in (
            ("input", session.get_inputs(), False),
            ("output", session.get_outputs(), True),
        ):
            graph = {v.name: [-1 if isinstance(n, str) else n for n in v.shape] for v in values}
            assert {tensor["name"][0] for tensor in config[side]} == set(graph)
            for tensor in config[side]:
                shape, own = self.full(config, shape_inside(tensor)), graph[tensor["name"][0]]
                assert shape == own if exact else agree(shape, own), (name, shape, own)

    def infer(self, name: str, array: np.ndarray) -> np.ndarray:
        """The first output of one request to a model with one input: its tokens or logits."""
        config = self.configs[name]
        (given,), (made, *_) = config["input"], config["output"]
        batch = config["max_batch_size"][0]
        assert array.dtype == NUMPY[str(given["data_type"][0])]
        assert agree(list(array.shape), self.full(config, given["dims"])) and (not batch or len(array) <= batch)
        if name == self.ensemble:
            for step in self.steps():
                array = self.infer(step["model_name"][0], array)
        else:
            session = onnxruntime.InferenceSession(self.repository / name / "1" / "model.onnx")
            self.check_graph(name, session)
            lead = [len(array)] if batch else []
            fed = array.reshape(lead + shape_inside(given))
            (array,) = session.run([made["name"][0]], {given["name"][0]: fed})
        assert array.dtype == NUMPY[str(made["data_type"][0])]
        assert agree(list(array.shape), self.full(config, shape_inside(made)))
        return array.reshape(made["dims"]) if "reshape" in made else array


def shape_inside(tensor):
    """What the model itself sees."""
    return tensor["reshape"][0]["shape"] if "reshape" in tensor else tensor["dims"]


def agree(one, other):
    return len(one) == len(other) and all(a == b or -1 in (a, b) for a, b in zip(one, other))
