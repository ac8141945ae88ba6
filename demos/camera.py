"""Live decisions from a camera, a video file or the test pattern.

python demos/camera.py --engine vlf.plan                            # the first camera
python demos/camera.py --engine vlf.plan --source street.mp4 --save annotated.mp4
python demos/camera.py --engine vlf.plan --source test://motion --show
"""

import argparse
import sys

import vlf_edge
from vlf_edge import memory, signals
from vlf_edge.options import add_options, given_options
from vlf_edge.video.sources import SOURCE_FLAGS


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--engine", default="vlf.plan", metavar="PLAN", help="a plan made by vlf-edge build (default: vlf.plan)"
    )
    parser.add_argument("--source", default="0", help="as for vlf-edge run: see --help there (default: 0)")
    add_options(parser, vlf_edge.SourceOptions, *SOURCE_FLAGS)
    parser.add_argument("--backend", default="auto", help="what runs the plan: see vlf-edge run --help (default: auto)")
    parser.add_argument("--rebuild", choices=("never", "auto", "always"), default="auto", help="engines for this GPU")
    parser.add_argument("--no-cuda-graph", action="store_true", help="start the GPU's kernels one by one")
    parser.add_argument("--save", metavar="FILE", help="write the video with the decisions on it")
    parser.add_argument("--show", action="store_true", help="show the video in a window; Q or Esc ends it")
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    window = [vlf_edge.WindowSink()] if args.show else []
    options = {"backend": args.backend, "rebuild": args.rebuild, "cuda_graph": not args.no_cuda_graph}
    with signals.telling(), vlf_edge.Runtime(args.engine, **options) as runtime:  # a video has an end to be written
        source = vlf_edge.find_source(
            args.source, vlf_edge.SourceOptions(**given_options(args, vlf_edge.SourceOptions))
        )
        if not source.live:  # a camera is opened when it runs, and again when it fails
            source = source.open()
        sinks = [vlf_edge.PrintSink(sys.stdout), *window]
        if args.save:
            sinks.append(vlf_edge.ThreadedSink(vlf_edge.VideoSink(args.save, source), drop_oldest=source.live))
        try:
            runtime.run(source, sinks)
        finally:
            print(runtime.summary(), file=sys.stderr)


def main() -> int:
    try:
        run(arguments())
    except vlf_edge.VlfError as error:
        print(f"camera.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    memory.one_arena()
    signals.run(main, "camera.py")  # Ctrl-C ends it, with the video finished
