"""The one place that imports OpenCV, late and with the fix in the error."""

from __future__ import annotations

from types import ModuleType

from .errors import BackendMissing, raise_interrupt


def load_cv2() -> ModuleType:
    """The cv2 module. Raises BackendMissing with the install line of this kind of machine."""
    try:
        import cv2
    except ImportError as error:
        raise_interrupt(error)
        if ".so" in str(error):
            raise BackendMissing(
                f"OpenCV is installed but a library of the system is missing ({error}): "
                "sudo apt install libgl1 libglib2.0-0"
            ) from None
        raise BackendMissing(
            f"OpenCV is not installed ({error}); on a Jetson: sudo apt install python3-opencv and a virtual "
            "environment made with --system-site-packages; elsewhere: pip install 'vlf_edge[opencv]'"
        ) from None
    return cv2
