"""ONNX graphs of the two stages, small enough to build an engine from in a fraction of a second."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def toy_frame(dtype: str = "float32") -> bytes:
    """image (N, 16, 16, 3) uint8 -> Cast, convolution, matrix product -> tokens (N, 16, 4) of that dtype."""
    kind = getattr(TensorProto, dtype.upper().replace("FLOAT32", "FLOAT"))
    rng = np.random.default_rng(0)
    constants = {
        "kernel": (rng.standard_normal((8, 3, 3, 3)) * 0.1).astype(dtype),
        "weight": (rng.standard_normal((8, 4)) * 0.1).astype(dtype),
        "shape": np.array([0, 8, 16], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=kind),
        helper.make_node("Transpose", ["numbers"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel"], ["features"], strides=[4, 4], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["features"], ["positive"]),
        helper.make_node("Reshape", ["positive", "shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["rows"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["rows", "weight"], ["tokens"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 16, 16, 3])
    return _model(nodes, image, helper.make_tensor_value_info("tokens", kind, ["N", 16, 4]), constants)


def toy_clip(dtype: str = "float32", batch: int | str = "N") -> bytes:
    """tokens (N, 3, 16, 4) of that dtype -> matrix product -> logits (N, 5) float32."""
    kind = getattr(TensorProto, dtype.upper().replace("FLOAT32", "FLOAT"))
    weight = (np.random.default_rng(1).standard_normal((192, 5)) * 0.1).astype(dtype)
    nodes = [
        helper.make_node("Flatten", ["tokens"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weight"], ["scores"]),
        helper.make_node("Cast", ["scores"], ["logits"], to=TensorProto.FLOAT),
    ]
    tokens = helper.make_tensor_value_info("tokens", kind, [batch, 3, 16, 4])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 5])
    return _model(nodes, tokens, logits, {"weight": weight})


def _model(nodes, given, result, constants) -> bytes:
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "toy", [given], [result], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()
