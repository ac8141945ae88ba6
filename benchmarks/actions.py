"""What are the shipped weights worth to somebody with a few dozen clips of their own?

    python benchmarks/actions.py my-clips/fold*.csv

Each CSV file is one fold: path,label,split with split train, val or test, paths relative to the file. For each fold:
`vlf-edge train` with its defaults, `--from vlf-tiny`, `--from vlf-tiny-acts`, the first with `--freeze frame`, and from
scratch; then `vlf-edge build --precision int8` calibrated and proven on the train and val parts, and `vlf-edge eval` of
the plan on the test part. "head" trains nothing: `vlf-edge enrol` teaches both parts to the int8 plan of vlf-tiny,
"head-acts" to that of vlf-tiny-acts. Where the gate refuses int8, as it does when too few windows are held out to tell,
the plan is fp16, and the table says so. A fold should keep whole recordings, or people, on one side: else the figures
say how well a model knows its own clips again.

--json prints all figures. --work keeps weights and plans; a figure that is there already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import hardware

from vlf_edge.datasets.annotations import read_annotations

HEADS = {"head": "vlf-tiny", "head-acts": "vlf-tiny-acts"}
WAYS = {
    "vlf-tiny": ("--from", "vlf-tiny"),
    "vlf-tiny-acts": ("--from", "vlf-tiny-acts"),
    "vlf-tiny-frozen": ("--from", "vlf-tiny", "--freeze", "frame"),
    "scratch": (),
    **dict.fromkeys(HEADS, ()),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folds", type=Path, nargs="+", help="CSV files, or a folder of them")
    ways = "; ".join(WAYS)
    parser.add_argument("--only", choices=WAYS, nargs="+", default=list(WAYS), metavar="WAY", help=f"of {ways}")
    parser.add_argument("--work", type=Path, help="folder to keep what is made in (default: none)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    files = [file for path in args.folds for file in (sorted(path.glob("*.csv")) if path.is_dir() else [path])]
    if not files:
        print(f"{args.folds[0]} holds no CSV files", file=sys.stderr)
        return 1
    machine = hardware.describe("torch", "timm", "numpy", "opencv-python", "openvino", "onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        work = args.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        try:
            found = [measure(file, way, work) for way in args.only for file in files]
        except subprocess.CalledProcessError as error:
            print(f"{' '.join(map(str, error.cmd))}: {error.stderr}", file=sys.stderr)
            return 1
    if args.json:
        print(json.dumps({"machine": machine, "runs": found}, indent=1))
    else:
        print(f"{hardware.header(machine)}\n\n{table(found)}")
    return 0


def measure(fold: Path, way: str, work: Path) -> dict[str, Any]:
    """One fold trained, built and judged."""
    kept = work / f"{fold.stem}-{way}.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    weights, plan = (str(kept.with_suffix(suffix)) for suffix in (".safetensors", ".plan"))
    if way in HEADS:
        precision, minutes, learned = "int8", enrol(HEADS[way], fold, work, plan), {}
    else:
        begin_s = time.monotonic()
        trained = json.loads(vlf_edge("train", str(fold), *WAYS[way], "--out", weights, "--json"))
        minutes = (time.monotonic() - begin_s) / 60
        precision = build(weights, fold, plan)
        steps = sum(row["clips"] for row in trained["history"]) // trained["record"]["settings"]["batch"]
        learned = {"val_top1": trained["record"]["val"]["top1"], "steps": steps}
    judged = json.loads(vlf_edge("eval", plan, str(fold), "--split", "test", "--json"))
    found = {
        "fold": fold.stem,
        "from": way,
        "precision": precision,
        "top1": judged["top1"],
        "clips": judged["clips"],
        **learned,
        "minutes": round(minutes, 2),
    }
    kept.write_text(json.dumps(found))
    print(f"{fold.stem} {way}: {found['top1']:.1%} in {minutes:.1f} minutes", file=sys.stderr)
    return found


def enrol(weights: str, fold: Path, work: Path, plan: str) -> float:
    """The minutes that it took to teach a head the train and val parts."""
    base, folder = work / f"{weights}-int8.plan", work / f"{fold.stem}-clips"
    if not base.exists():
        vlf_edge("build", "--target", "cpu", "--precision", "int8", "--weights", weights, "--output", str(base))
    for number, row in enumerate(read_annotations(str(fold)).rows):
        if row.split != "test":
            (folder / row.label).mkdir(parents=True, exist_ok=True)
            link = folder / row.label / f"{number}{row.path.suffix}"
            if not link.is_symlink():
                link.symlink_to(row.path.resolve())
    begin_s = time.monotonic()
    vlf_edge("enrol", str(base), *(f"{one.name}={one}" for one in sorted(folder.iterdir())), "--output", plan)
    return (time.monotonic() - begin_s) / 60


def build(weights: str, fold: Path, plan: str) -> str:
    """The precision that the plan was built in: int8, or fp16 where the gate refuses that."""
    words = ("build", "--target", "cpu", "--weights", weights, "--output", plan)
    try:
        vlf_edge(*words, "--precision", "int8", "--calib-data", str(fold))
    except subprocess.CalledProcessError as error:
        if "falls short of its gate" not in error.stderr:
            raise
        vlf_edge(*words, "--precision", "fp16")
        return "fp16"
    return "int8"


def vlf_edge(*words: str) -> str:
    """What a verb prints. Raises CalledProcessError with what it says of its failure."""
    command = [sys.executable, "-m", "vlf_edge", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: one row a way, one column a fold; behind all of them, where 95 % of such figures would lie."""
    folds = list(dict.fromkeys(one["fold"] for one in found))
    rows = [["from", *folds, "together", "minutes a fold"], ["---"] * (len(folds) + 3)]
    for way in dict.fromkeys(one["from"] for one in found):
        ones = [one for one in found if one["from"] == way]
        clips = sum(one["clips"] for one in ones)
        right = sum(one["top1"] * one["clips"] for one in ones)
        minutes = sorted(one["minutes"] for one in ones)
        cells = [f"{one['top1']:.1%}" + ("" if one["precision"] == "int8" else " (fp16)") for one in ones]
        low, high = wilson(right, clips)
        together = f"{right / clips:.1%} of {clips}, {low:.0%} to {high:.0%}"
        rows.append([way, *cells, together, f"{minutes[0]:.1f} to {minutes[-1]:.1f}"])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def wilson(right: float, of: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share. Takes clips as independent, which those of one recording are not quite."""
    share, z2 = right / of, 1.96**2
    centre, half = share + z2 / (2 * of), 1.96 * math.sqrt(share * (1 - share) / of + z2 / (4 * of * of))
    return (centre - half) / (1 + z2 / of), (centre + half) / (1 + z2 / of)


if __name__ == "__main__":
    sys.exit(main())
