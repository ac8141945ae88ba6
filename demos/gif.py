"""The GIF of the README: rendered motion, with what a plan decides live. Also an example of a sink of one's own.

python demos/gif.py --engine vlf.plan --out docs/demo.gif

Above stands what is rendered, below what the plan decides. Needs Pillow, which comes with '.[models]'.
"""

import argparse
import sys

import cv2

import vlf_edge
from vlf_edge import signals
from vlf_edge.video.motion_pattern import MotionPattern, parse_motion_url

EVERY, COLOURS = 3, 24  # of the frames, and in a picture: what keeps the GIF below one megabyte
SOURCE = "test://motion?seconds=12&seed=1&width=256&height=192&fps=15"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="vlf.plan", metavar="PLAN", help="default: vlf.plan")
    parser.add_argument("--source", default=SOURCE, metavar="URL", help=f"a test://motion (default: {SOURCE})")
    parser.add_argument("--out", default="demo.gif", metavar="FILE", help="default: demo.gif")
    return parser.parse_args()


class GifSink(vlf_edge.Sink):
    """Collects pictures with the true motion above and the latest decision below, and writes them at the end."""

    every_frame = True

    def __init__(self, path: str, url: str):
        options = parse_motion_url(url)
        self._path, self._truth, self._step_ms = path, MotionPattern(options), 1000 * EVERY / options.fps
        self._latest, self._pictures = None, []

    def write(self, frame: vlf_edge.Frame, prediction: vlf_edge.Prediction | None) -> None:
        from PIL import Image

        self._latest = prediction or self._latest
        if frame.seq % EVERY:
            return
        smooth = cv2.medianBlur(frame.image, 5)  # a GIF spends most of its bytes on the camera's noise
        picture = vlf_edge.annotate(smooth, self._latest)
        picture[:17] //= 3
        said = f"rendered: {self._truth.label(frame.t_s)}"
        cv2.putText(picture, said, (5, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (255, 255, 255), 1, cv2.LINE_AA)
        self._pictures.append(Image.fromarray(picture[:, :, ::-1]).quantize(COLOURS, dither=Image.Dither.NONE))

    def close(self) -> None:
        if self._pictures:
            first, *others = self._pictures
            first.save(self._path, save_all=True, append_images=others, duration=self._step_ms, loop=0, optimize=True)


def main() -> int:
    args = arguments()
    try:
        with vlf_edge.Runtime(args.engine) as runtime:
            runtime.run(args.source, [GifSink(args.out, args.source)])
    except vlf_edge.VlfError as error:
        print(f"gif.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    signals.run(main, "gif.py")
