"""What each person in view is doing: a detector and a tracker give boxes, every track is a stream of its own.

python demos/people.py --engine vlf.plan --source street.mp4 --save people.mp4
python demos/people.py --engine vlf.plan --detector hog --show

Its tracker is ByteTrack: `pip install supervision trackers`. The detector "moving" boxes what moves before a camera
that stands still; "hog" is OpenCV's own for people who stand or walk (in OpenCV 4, or in opencv-contrib-python), and
misses many. Any other fits in their place: a function from a frame to boxes. The plan decides about what it was trained
on; the shipped weights tell how somebody moves.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np

import vlf_edge
from vlf_edge import signals


def people_by_hog():
    """OpenCV's detector of upright people: frame -> (n, 4) boxes x1, y1, x2, y2 and (n,) scores."""
    if not hasattr(cv2, "HOGDescriptor"):
        raise vlf_edge.VlfError(
            f"OpenCV {cv2.__version__} as it is installed here has no detector of people",
            remedy="install the one that has, in place of opencv-python: pip install opencv-contrib-python, or take "
            "--detector moving",
        )
    hog = cv2.HOGDescriptor()
    hog.setSVMDetector(cv2.HOGDescriptor_getDefaultPeopleDetector())

    def detect(frame):
        scale = 480 / frame.shape[0]  # people must be well over its window of 128 px
        small = cv2.resize(frame, None, fx=scale, fy=scale)
        found, scores = hog.detectMultiScale(small, winStride=(8, 8), scale=1.05)
        boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in found], float).reshape(-1, 4) / scale
        # Scores are distances from a plane: 0.5 is likely a person, 1 and more surely one.
        return boxes, np.clip(np.asarray(scores, float).reshape(-1), 0, 1)

    return detect


def what_moves():
    """For a camera that stands still: frame -> boxes of what moves before it, and scores."""
    background = cv2.createBackgroundSubtractorMOG2(history=200, detectShadows=True)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (15, 15))

    def detect(frame):
        mask = (background.apply(frame) == 255).astype(np.uint8)  # 127 is shadow
        mask = cv2.morphologyEx(cv2.medianBlur(mask, 5), cv2.MORPH_CLOSE, kernel)
        _, _, found, _ = cv2.connectedComponentsWithStats(mask)
        least_px, most_px = 0.003 * mask.size, 0.6 * mask.size
        boxes = [(x, y, x + w, y + h) for x, y, w, h, area in found[1:] if least_px < area < most_px]
        return np.array(boxes, float).reshape(-1, 4), np.ones(len(boxes))

    return detect


DETECTORS = {"hog": people_by_hog, "moving": what_moves}


def tracker(fps):
    """ByteTrack, as the authors of supervision have it now: (boxes, scores) -> {track: box}."""
    try:
        from supervision import Detections
        from trackers import ByteTrackTracker
    except ImportError as error:
        raise vlf_edge.VlfError(f"a tracker is needed ({error})", remedy="pip install supervision trackers") from None
    tracks = ByteTrackTracker(frame_rate=fps or 30.0, track_activation_threshold=0.2, high_conf_det_threshold=0.2)

    def follow(boxes, scores):
        found = Detections(xyxy=boxes, confidence=scores, class_id=np.zeros(len(boxes), int))
        followed = tracks.update(found)
        # -1: seen too few times to be somebody.
        return {int(n): tuple(box) for n, box in zip(followed.tracker_id, followed.xyxy) if n >= 0}

    return follow


def draw(frame, boxes, latest):
    """A copy of the frame with every track's box and its newest decision."""
    shown, scale = frame.copy(), max(0.5, frame.shape[0] / 900)
    for track, box in boxes.items():
        x1, y1, x2, y2 = (round(float(v)) for v in box)
        decision = latest.get(track)
        sure = decision is not None and decision.state == "ok"
        colour = (90, 220, 90) if sure else (0, 200, 255)
        text = f"{track} {decision.label} {decision.score:.0%}" if sure else f"{track} warming"
        (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        top = max(0, y1 - height - 10)
        cv2.rectangle(shown, (x1, y1), (x2, y2), colour, 2)
        cv2.rectangle(shown, (x1, top), (x1 + width + 8, top + height + 10), (0, 0, 0), -1)
        place = (x1 + 4, top + height + 4)
        cv2.putText(shown, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
    return shown


def run(args):
    if args.show and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise vlf_edge.VlfError("--show needs a screen and there is none here; use --save FILE instead")
    detect, latest = DETECTORS[args.detector](), {}
    with signals.telling(), vlf_edge.Runtime(args.engine, backend=args.backend) as runtime:
        with vlf_edge.open_source(args.source) as source, signals.telling(source.close):
            follow = tracker(source.fps)
            video = vlf_edge.VideoWriter(args.save, source.fps or 30) if args.save else None
            for frame in source:
                boxes = follow(*detect(frame.image))
                for track, prediction in runtime.push_regions(frame.image, frame.t_s, boxes).items():
                    if prediction is not None:
                        latest[track] = prediction
                        print(json.dumps({"track": track, **vlf_edge.to_json(prediction)}), flush=True)
                shown = draw(frame.image, boxes, latest) if args.save or args.show else None
                if video is not None:
                    video.write(shown)
                if args.show:
                    cv2.imshow("vlf_edge", shown)
                    if cv2.waitKey(1) & 0xFF in (ord("q"), 27):
                        break
            if video is not None:
                video.close()
        print(runtime.summary(), file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--engine", default="vlf.plan", metavar="PLAN", help="a plan made by vlf-edge build (default: vlf.plan)")
    add("--source", default="0", help="0, /dev/video0, a file, a folder, test://motion (default: 0)")
    add(
        "--detector",
        choices=DETECTORS,
        default="moving",
        help="what moves before a fixed camera, or OpenCV's HOG (default: moving)",
    )
    add("--backend", default="auto", help="what runs the plan: see vlf-edge run --help (default: auto)")
    add("--save", metavar="FILE", type=Path, help="write the video with boxes and decisions on it")
    add("--show", action="store_true", help="show the video in a window; Q or Esc ends it")
    try:
        run(parser.parse_args())
    except vlf_edge.VlfError as error:
        print(f"people.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    signals.run(main, "people.py")  # Ctrl-C ends it, with the video finished
