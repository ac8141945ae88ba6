"""The confusion matrix as a picture, drawn with OpenCV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..atomic import replacing
from ..errors import ShapeError, VlfError
from ..opencv import load_cv2
from ..printable import printable

NUMBERED_CLASSES = 40  # with more there is no room for numbers
_INK, _GREY, _GRID, _PAPER = (40, 40, 40), (110, 110, 110), (225, 225, 225), (255, 255, 255)  # BGR
_FULL = np.array((150, 75, 25))  # BGR of a whole row in one cell
_NAME_CHARACTERS, _NAME_SCALE, _TITLE_SCALE, _NUMBER_SCALE = 28, 0.45, 0.6, 0.36
_MARGIN_PX, _LINE_PX, _SMALLEST_SIDE_PX = 12, 15, 480


def draw_confusion(confusion: np.ndarray, labels: Sequence[str], title: str) -> np.ndarray:
    """(C, C) counts, rows the truth -> (H, W, 3) uint8 BGR picture.

    Every row is shaded by its own sum, so that rare classes show as well as frequent ones, and carries per cent up to
    40 classes. Names have the number of clips behind them; of more names than there is room for, every n-th is
    written. Raises ShapeError unless there is one label for each row and column.
    """
    confusion = np.asarray(confusion)
    classes = len(labels)
    if confusion.shape != (classes, classes) or classes == 0:
        raise ShapeError(f"a confusion matrix of shape {confusion.shape} does not fit {classes} labels")
    counts = confusion.sum(axis=1)
    shares = confusion / np.maximum(counts, 1)[:, np.newaxis]
    cell_px = int(np.clip(900 / classes, 3 if classes > NUMBERED_CLASSES else 28, 52))
    names = [_shortened(label) for label in labels]
    rows = [f"{name} ({count})" for name, count in zip(names, counts)]
    left_px = max(_width_px(row) for row in rows) + 2 * _MARGIN_PX + _LINE_PX
    top_px = max(_width_px(name) for name in names) + 4 * _MARGIN_PX + 2 * _LINE_PX
    side_px = cell_px * classes
    width_px = max(left_px + side_px, _width_px(title, _TITLE_SCALE) + _MARGIN_PX, _SMALLEST_SIDE_PX) + _MARGIN_PX
    image = np.full((top_px + side_px + _MARGIN_PX, width_px, 3), _PAPER, np.uint8)
    _draw_cells(image[top_px:, left_px:], shares, cell_px)
    every = -(-_LINE_PX // cell_px)
    for i in range(0, classes, every):
        middle_px = i * cell_px + cell_px // 2
        _put_right(image, rows[i], left_px - _MARGIN_PX // 2, top_px + middle_px)
        _put_upright(image, names[i], left_px + middle_px, top_px - _MARGIN_PX // 2)
    _put(image, printable(title), (_MARGIN_PX, 2 * _MARGIN_PX), _INK, _TITLE_SCALE)
    _put(image, "decided, per cent of each row", (left_px, 2 * _MARGIN_PX + _LINE_PX + 4), _GREY)
    _put_upright(image, "truth", _MARGIN_PX, top_px + _width_px("truth"), _GREY)
    return image


def save_picture(path: str | Path, image: np.ndarray) -> None:
    """Writes (H, W, 3) uint8 BGR as a .png, in one step. Raises VlfError if it cannot."""
    check_picture(path)
    _, data = load_cv2().imencode(".png", image)
    try:
        with replacing(Path(path)) as file:
            file.write(data.tobytes())
    except OSError as error:
        raise VlfError(f"cannot write {path}: {error.strerror}") from None


def check_picture(path: str | Path) -> None:
    """Raises VlfError for a name that no picture can be written to."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise VlfError(f"pictures are written as .png, got {path.name!r}")
    if not path.parent.is_dir():
        raise VlfError(f"cannot write {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise VlfError(f"cannot write {path}: it is a folder")


def _draw_cells(image: np.ndarray, shares: np.ndarray, cell_px: int) -> None:
    """Shades, grid and numbers, from the upper left corner of ``image`` on."""
    cv2 = load_cv2()
    classes = len(shares)
    # The square root lifts the few per cent that matter off the paper's white.
    shades = np.sqrt(shares)[..., np.newaxis]
    colours = np.round(_PAPER + (_FULL - _PAPER) * shades).astype(np.uint8)
    side_px = classes * cell_px
    image[:side_px, :side_px] = colours.repeat(cell_px, axis=0).repeat(cell_px, axis=1)
    cv2.rectangle(image, (0, 0), (side_px, side_px), _GRID)
    if classes > NUMBERED_CLASSES:
        return
    image[:side_px:cell_px, :side_px] = image[:side_px, :side_px:cell_px] = _GRID
    for row, column in np.argwhere(shares > 0):
        text = f"{100 * shares[row, column]:.0f}"
        colour = _PAPER if shades[row, column, 0] > 0.6 else _INK
        (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, _NUMBER_SCALE, 1)
        x, y = column * cell_px + (cell_px - width) // 2, row * cell_px + (cell_px + height) // 2
        _put(image, text, (int(x), int(y)), colour, _NUMBER_SCALE)


def _shortened(label: str) -> str:
    # OpenCV's font is ASCII; anything else would be drawn as question marks of unknown width.
    label = printable(label).encode("ascii", "replace").decode()
    half = _NAME_CHARACTERS // 2 - 1
    # Names of actions differ at both ends ("... from left to right"), so the middle goes.
    return label if len(label) <= _NAME_CHARACTERS else f"{label[:half]}..{label[-half:]}"


def _width_px(text: str, scale: float = _NAME_SCALE) -> int:
    cv2 = load_cv2()
    return cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0]


def _put(
    image: np.ndarray, text: str, corner: tuple[int, int], colour: tuple[int, int, int], scale: float = _NAME_SCALE
) -> None:
    cv2 = load_cv2()
    cv2.putText(image, text, corner, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)


def _put_right(image: np.ndarray, text: str, right_px: int, middle_px: int) -> None:
    """Text that ends at ``right_px``, centred on ``middle_px``."""
    _put(image, text, (right_px - _width_px(text), middle_px + _LINE_PX // 3), _INK)


def _put_upright(
    image: np.ndarray, text: str, middle_px: int, bottom_px: int, colour: tuple[int, int, int] = _INK
) -> None:
    """Text that reads from ``bottom_px`` upwards, centred on ``middle_px``."""
    width_px = _width_px(text) + 2
    strip = np.full((_LINE_PX, width_px, 3), _PAPER, np.uint8)
    _put(strip, text, (1, _LINE_PX - 4), colour)
    upright = np.rot90(strip)
    top, left = bottom_px - width_px, middle_px - _LINE_PX // 2
    image[top:bottom_px, left : left + _LINE_PX] = upright
