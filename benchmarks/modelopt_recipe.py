"""One fp32 ONNX graph -> int8 by NVIDIA ModelOpt's defaults. Part of int8_recipes.py, which starts it.

    python benchmarks/modelopt_recipe.py FP32.onnx CALIBRATION.npz INT8.onnx

ModelOpt pins other versions of onnx and ONNX Runtime than vlf_edge: it needs an environment of its own, and this file
uses nothing of vlf_edge. To make one, without the CUDA packages that ModelOpt would bring along:

    python3.11 -m venv modelopt-env
    modelopt-env/bin/pip install torch --index-url https://download.pytorch.org/whl/cpu
    modelopt-env/bin/pip install --no-deps nvidia-modelopt==0.47.0
    modelopt-env/bin/pip install onnx==1.21.0 onnxruntime==1.24.4 lief onnx-graphsurgeon onnxconverter-common onnxslim
    modelopt-env/bin/pip install onnxscript polygraphy nvidia-ml-py omegaconf pulp pydantic pyyaml regex rich
    modelopt-env/bin/pip install safetensors scipy tqdm ninja

Calibration takes one sample at a time, as ModelOpt does for graphs whose batch is dynamic.
"""

from __future__ import annotations

import argparse
import json
from importlib import metadata


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph", metavar="FP32.onnx")
    parser.add_argument("calibration", metavar="CALIBRATION.npz", help="an array (n, ...) for each input of the graph")
    parser.add_argument("output", metavar="INT8.onnx")
    args = parser.parse_args()

    import numpy as np
    from modelopt.onnx.quantization import quantize

    with np.load(args.calibration) as inputs:
        # All is left as ModelOpt has it (entropy, float16 rest) but for where it calibrates: its own choice tries CUDA
        # and TensorRT too, and fails where they are not.
        quantize(args.graph, calibration_data=dict(inputs), calibration_eps=["cpu"], output_path=args.output)
    versions = {name: metadata.version(name) for name in ("nvidia-modelopt", "onnx", "onnxruntime")}
    print(json.dumps({"versions": versions}))


if __name__ == "__main__":
    main()
