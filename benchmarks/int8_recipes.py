"""Whose int8 graphs come nearest to fp32: ours, those of ONNX Runtime, untold or told the same, or NVIDIA ModelOpt's?

    python benchmarks/int8_recipes.py BASE.plan DATA --calib CLIPS... [--modelopt-python PYTHON]

All start from the same fp32 graphs and are calibrated on the same windows:

- ours: what `vlf-edge build --precision int8` makes before its gate puts any node back in float. The clip stage is
  calibrated on what the quantised frame stage gives it. Weights trained with --qat bring their own ranges.
- onnxruntime: quant_pre_process, then quantize_static with nothing set: every operator it knows, weights per tensor,
  asymmetric activations, minimum and maximum. Each stage is calibrated alone, the clip stage on fp32 tokens.
- onnxruntime, told our recipe: the same tool with every option it has to make the same choices: inputs and weights of
  Conv, Gemm and MatMul by a constant, nothing else, weights per channel, symmetric, percentile, float biases. Its clip
  stage, too, is calibrated on what its int8 frame stage gives. What differs then is that its percentile counts zeros,
  and its histograms.
- modelopt: quantize with nothing set: operators of its own choice, entropy, float16 rest. Stages as above. It runs in
  an environment of its own, named by its Python (`modelopt_recipe.py --help` says how to make one), or is left out.

The graphs are then run on the test clips of DATA, as they are written (onnx: ONNX Runtime with nothing fused) and by
OpenVINO, and compared with the fp32 graphs. The table is Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from hardware import describe, header

from vlf_edge import Plan, VlfError
from vlf_edge.backends.table import CPU_BACKENDS
from vlf_edge.commands.progress import Progress
from vlf_edge.compiler import Recipe
from vlf_edge.compiler.accuracy.fidelity import Reference, encode
from vlf_edge.compiler.accuracy.runners import AS_WRITTEN, open_stages
from vlf_edge.compiler.accuracy.validate import given_clips
from vlf_edge.compiler.calibration.calibrate import calibrate
from vlf_edge.compiler.calibration.windows import Clips, stage_feeds
from vlf_edge.compiler.fp32_model import Fp32Model, from_plan
from vlf_edge.compiler.graph import parse, tensor_specs
from vlf_edge.compiler.recipe import METHODS
from vlf_edge.datasets import open_dataset
from vlf_edge.errors import SourceError

WAYS = (AS_WRITTEN, *CPU_BACKENDS)
MODELOPT_SCRIPT = Path(__file__).with_name("modelopt_recipe.py")
_BATCH = 8  # windows or frames at a time
_LAYERS = ("Conv", "Gemm", "MatMul")  # what our recipe makes int8
_COLUMNS = ("recipe", "run by", "frame stage error", "logits error", "decides as fp32", "accuracy", "points lost")

Graphs = Mapping[str, bytes]  # ONNX bytes by stage
Arrays = Mapping[str, np.ndarray]  # what calibrates each stage, by stage


def ours(fp32: Fp32Model, clips: Clips, method: str, folder: Path, progress: Progress) -> tuple[str, Graphs]:
    """How ranges were found, and the package's int8 graphs. method: what was asked for; trained ranges come first."""
    int8 = calibrate(fp32, Recipe(calib_method=method), clips, folder, progress)
    return int8.about["method"], int8.graphs().portable


def onnxruntime_defaults(graphs: Graphs, inputs: Arrays, folder: Path) -> Graphs:
    """What ONNX Runtime's quantize_static makes of each stage when it is told nothing but where the data are."""
    return {stage: _quantize_static(data, inputs[stage], folder / f"{stage}.untold") for stage, data in graphs.items()}


def onnxruntime_told(graphs: Graphs, clips: Clips, percentile: float, folder: Path) -> Graphs:
    """What quantize_static makes of each stage when it is told our recipe, as far as its options go.

    percentile: of all values, zeros among them: it cannot be told to leave these out.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType

    told = {
        "op_types_to_quantize": list(_LAYERS),
        "per_channel": True,
        "activation_type": QuantType.QInt8,
        "weight_type": QuantType.QInt8,
        "calibrate_method": CalibrationMethod.Percentile,
        "extra_options": {
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "CalibTensorRangeSymmetric": True,
            "CalibPercentile": percentile,
            "OpTypesToExcludeOutputQuantization": list(_LAYERS),
            "QuantizeBias": False,
        },
    }
    made: dict[str, bytes] = {}
    for stage, data in graphs.items():
        _, feeds = stage_feeds(stage, data, clips, made)
        given = np.concatenate([feed[_input_name(data)] for feed in feeds])
        # Its option MatMulConstBOnly does nothing for Q/DQ graphs.
        attention = _products_of_activations(data)
        made[stage] = _quantize_static(data, given, folder / f"{stage}.told", nodes_to_exclude=attention, **told)
    return made


def _products_of_activations(onnx_bytes: bytes) -> list[str]:
    """Names of the MatMul nodes that have no constant side: those inside attention."""
    graph = parse(onnx_bytes).graph
    constants = {constant.name for constant in graph.initializer}
    return [node.name for node in graph.node if node.op_type == "MatMul" and not constants & set(node.input)]


def _quantize_static(data: bytes, given: np.ndarray, path: Path, **options: Any) -> bytes:
    """One stage. given: what calibrates it. path: where files beginning with this name may lie meanwhile."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    # Its histograms take batches of one size only.
    batch = next(size for size in range(_BATCH, 0, -1) if len(given) % size == 0)

    class Reader(CalibrationDataReader):
        def __init__(self, name: str):
            self._batches = ({name: given[i : i + batch]} for i in range(0, len(given), batch))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._batches, None)

    source, prepared, output = (path.with_name(f"{path.name}.{kind}.onnx") for kind in ("fp32", "prepared", "int8"))
    source.write_bytes(data)
    # Its symbolic shapes know no ReduceMax of opset 18; ONNX's own, which it takes then, know all of our graphs.
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    with contextlib.redirect_stdout(sys.stderr):  # it reports what it does by print
        quantize_static(prepared, output, Reader(_input_name(data)), **options)
    return output.read_bytes()


def modelopt_defaults(graphs: Graphs, inputs: Arrays, folder: Path, python: str) -> tuple[Graphs, dict[str, str]]:
    """What ModelOpt makes of each stage, and the versions that made it. python: of ModelOpt's own environment."""
    made, versions = {}, {}
    for stage, data in graphs.items():
        source, calibration, output = (folder / f"{stage}.{end}" for end in ("fp32.onnx", "npz", "modelopt.onnx"))
        source.write_bytes(data)
        np.savez(calibration, **{_input_name(data): inputs[stage]})
        command = [python, str(MODELOPT_SCRIPT), str(source), str(calibration), str(output)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            raise VlfError(
                f"ModelOpt could not quantise the {stage} stage: {reason}; see {MODELOPT_SCRIPT.name} --help"
            )
        versions = json.loads(done.stdout.splitlines()[-1])["versions"]
        made[stage] = output.read_bytes()
    return made, versions


def fp32_inputs(fp32: Fp32Model, clips: Clips) -> Arrays:
    """What the fp32 stages are given on the calibration windows: frames (F, H, W, 3) and tokens (n, K, S, D)."""
    frames, windows = clips.only(clips.windows)
    with open_stages(AS_WRITTEN, fp32.graphs) as stages:
        encoded = encode(stages, frames, windows)
        return {"frame": frames, "clip": encoded.entries[encoded.windows]}


def read_test_clips(fp32: Fp32Model, args: argparse.Namespace, progress: Progress) -> tuple[Reference, int]:
    """What fp32 answers on one window of each test clip, and how many clips could not be read."""
    dataset = open_dataset(
        args.data,
        args.split,
        sampling=fp32.sampling,
        preprocess=fp32.preprocess,
        frames=fp32.sampling.frames,
        labels=fp32.labels,
        limit=args.limit,
    )
    clips, labels, broken = [], [], 0
    for index in range(len(dataset)):
        progress("read test clips", index, len(dataset))
        try:
            sample = dataset.sample(index, None)
        except SourceError:
            broken += 1
            continue
        clips.append(sample.frames)
        labels.append(sample.label)
    progress("read test clips", len(dataset), len(dataset))
    if not clips:
        raise SourceError(f"none of the {len(dataset)} {args.split} clips of {args.data} can be read; are they videos?")
    windows = np.arange(len(clips) * fp32.sampling.frames).reshape(len(clips), -1)
    with open_stages(AS_WRITTEN, fp32.graphs) as stages:
        return Reference.of(stages, np.concatenate(clips), windows, np.array(labels)), broken


def measure(recipe: str, graphs: Graphs, reference: Reference, ways: list[str]) -> list[dict[str, Any]]:
    """A row for each way of running the graphs: errors against fp32, or why it does not run them."""
    rows = []
    for way in ways:
        row: dict[str, Any] = {"recipe": recipe, "way": way}
        try:
            with open_stages(way, graphs, "int8") as stages:
                errors = reference.errors(stages)
        except VlfError as error:
            rows.append({**row, "failed": str(error)})
            continue
        logits = errors["end_to_end"]
        accuracy = logits["accuracy"]
        rows.append(
            {
                **row,
                "frame_error": errors["frame"]["relative"],
                "logits_error": logits["relative"],
                "agreement": logits["top1_agreement"],
                "accuracy": accuracy,
                "points_lost": None if accuracy is None else round(100 * (reference.accuracy() - accuracy), 2),
            }
        )
    return rows


def quantize(
    fp32: Fp32Model, clips: Clips, args: argparse.Namespace, folder: Path, progress: Progress
) -> tuple[dict[str, Graphs], dict[str, str]]:
    """{name of the recipe: its graphs}, and the versions of what ran elsewhere."""
    made = [ours(fp32, clips, method, folder, progress) for method in args.methods]
    recipes, versions = {f"ours, {method}": graphs for method, graphs in made}, {}
    inputs = fp32_inputs(fp32, clips)
    recipes["onnxruntime"] = onnxruntime_defaults(fp32.graphs, inputs, folder)
    told = onnxruntime_told(fp32.graphs, clips, Recipe().percentile, folder)
    recipes["onnxruntime, told our recipe"] = told
    if args.modelopt_python:
        recipes["modelopt"], versions = modelopt_defaults(fp32.graphs, inputs, folder, args.modelopt_python)
    return recipes, versions


def compare_recipes(args: argparse.Namespace, folder: Path, progress: Progress) -> dict[str, Any]:
    """Everything the table is made of, as plain JSON."""
    machine = describe("numpy", "onnx", "onnxruntime", "openvino")
    recipe = Recipe(calib_data=tuple(args.calib), calib_samples=args.calib_samples)
    fp32 = from_plan(Plan.open(args.base), recipe)
    clips = given_clips(fp32, recipe, progress)
    reference, broken = read_test_clips(fp32, args, progress)
    recipes, versions = quantize(fp32, clips, args, folder, progress)
    rows = []
    for done, (name, graphs) in enumerate(recipes.items()):
        progress("measure recipes", done, len(recipes))
        rows += measure(name, graphs, reference, args.ways)
    progress("measure recipes", len(recipes), len(recipes))
    return {
        "machine": machine,
        "modelopt": versions,
        "model": fp32.model["name"],
        "random_weights": fp32.random,
        "weights_sha256": fp32.weights.get("sha256"),
        "calibration": {"data": args.calib, "windows": len(clips.windows), "sha256": clips.sha256},
        "test": {"data": args.data, "split": args.split, "clips": len(reference.windows), "broken": broken},
        "fp32_accuracy": reference.accuracy(),
        "rows": rows,
    }


def table(figures: dict[str, Any]) -> str:
    """For people, and for docs/int8.md."""
    weights = "random weights" if figures["random_weights"] else f"weights {(figures['weights_sha256'] or '?')[:12]}"
    calibration, test = figures["calibration"], figures["test"]
    versions = ", ".join(f"{name} {version}" for name, version in figures["modelopt"].items())
    lines = [
        header(figures["machine"]),
        *([f"ModelOpt's environment: {versions}"] if versions else []),
        "",
        f"`{figures['model']}`, {weights}; calibrated on {calibration['windows']} windows of "
        f"{' '.join(calibration['data'])}, measured on {test['clips']} {test['split']} clips of {test['data']} "
        f"({test['broken']} broken); fp32 decides {figures['fp32_accuracy']:.2%} of them right.",
        "",
        _line(_COLUMNS),
        _line(["---"] * len(_COLUMNS)),
    ]
    for row in figures["rows"]:
        names = ("frame_error", "logits_error", "agreement", "accuracy", "points_lost")
        formats = (".2%", ".2%", ".2%", ".2%", "+.2f")
        values = ["NaN" if row.get(name) is None else format(row[name], as_) for name, as_ in zip(names, formats)]
        cells = [row["failed"].replace("|", "/"), *[""] * (len(names) - 1)] if "failed" in row else values
        lines.append(_line([row["recipe"], row["way"], *cells]))
    return "\n".join(lines)


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _input_name(onnx_bytes: bytes) -> str:
    """Of a graph's one input."""
    ((given,), _) = tensor_specs(onnx_bytes)
    return given.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("base", metavar="BASE.plan", help="its fp32 graphs are quantised; build one with --precision fp32")
    add(
        "data", metavar="DATA", help="labelled clips to measure on: motion, a folder class/clip.mp4, an annotation file"
    )
    add(
        "--calib", nargs="+", required=True, metavar="CLIPS", help="as --calib-data of build; none of DATA's test clips"
    )
    add("--calib-samples", type=int, default=64, metavar="N", help="windows to calibrate on (default: 64)")
    add("--methods", nargs="+", choices=METHODS, default=["percentile"], help="ours: ranges by (default: percentile)")
    add("--modelopt-python", metavar="PYTHON", help="of ModelOpt's environment, such as modelopt-env/bin/python")
    add("--ways", nargs="+", choices=WAYS, default=[AS_WRITTEN, "openvino"], help="default: onnx openvino")
    add("--split", default="test", metavar="SPLIT", help="of DATA to measure on (default: test)")
    add("--limit", type=int, default=650, metavar="N", help="test clips, evenly of all classes (default: 650)")
    add("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    if args.modelopt_python and not shutil.which(args.modelopt_python):
        parser.error(f"there is no program {args.modelopt_python}; {MODELOPT_SCRIPT.name} --help says how to make one")
    try:
        with tempfile.TemporaryDirectory() as folder:
            figures = compare_recipes(args, Path(folder), Progress())
    except VlfError as error:
        sys.exit(f"int8_recipes: {error}")
    print(json.dumps(figures, indent=1) if args.json else table(figures))


if __name__ == "__main__":
    main()
