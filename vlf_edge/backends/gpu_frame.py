"""Frames that are on the GPU already: from PyTorch, CuPy, Numba, PyCUDA or anything that speaks DLPack."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from ..errors import BackendMissing, ShapeError

# Of dlpack.h: CUDA memory and CUDA managed memory.
_CUDA, _CUDA_MANAGED = 2, 13


class GpuFrame(NamedTuple):
    """pointer: to contiguous device memory. shape, dtype: of the array there. owner: to be kept while it is read."""

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype
    owner: Any


def is_gpu_frame(image: Any) -> bool:
    """Whether an object says of itself that it lies on an NVIDIA GPU."""
    if isinstance(image, np.ndarray):
        return False
    # PyTorch tensors on the CPU have the first attribute too, but raise AttributeError or TypeError when it is read.
    try:
        if getattr(image, "__cuda_array_interface__", None) is not None:
            return True
    except (TypeError, RuntimeError):
        pass
    where = getattr(image, "__dlpack_device__", None)
    return where is not None and int(where()[0]) in (_CUDA, _CUDA_MANAGED)


def names_no_stream(image: Any) -> bool:
    """Whether a frame does not say which stream may still be writing it, as PyCUDA's do not: then ``view_gpu_frame``
    cannot make anybody wait for that stream, which is most likely the default one."""
    if hasattr(image, "__dlpack__"):  # which is asked first, and settles it
        return False
    return image.__cuda_array_interface__.get("stream") is None


def view_gpu_frame(image: Any, stream_handle: int, device: int) -> GpuFrame:
    """Looks at a frame where it lies, without a copy.

    image: as in ``is_gpu_frame``. stream_handle: the stream that will read it; it is made to wait for the work that
    still writes the frame on the stream that the frame names. device: number of the GPU it must be on.
    Raises ShapeError if it is elsewhere or not contiguous, BackendMissing without cuda-core.
    """
    kind, viewer = type(image).__name__, _viewer()
    try:
        view = viewer(image, stream_ptr=stream_handle)
    except Exception as error:  # assertions and errors of CUDA among them
        raise ShapeError(f"this {kind} gives no view of its memory on the GPU: {error}") from error
    if view.device_id != device:
        raise ShapeError(f"this {kind} is on GPU {view.device_id}, the plan runs on GPU {device}; copy it there first")
    shape = tuple(int(size) for size in view.shape)
    if view.strides is not None and tuple(view.strides) != _contiguous_strides(shape):
        raise ShapeError(f"this {kind} {shape} is not contiguous on the GPU; make a contiguous copy of it first")
    return GpuFrame(int(view.ptr), shape, np.dtype(view.dtype), (image, view))


def _contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """In elements, the last axis fastest."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _viewer() -> Callable[..., Any]:
    errors: list[Exception] = []
    for name in ("cuda.core.utils", "cuda.core.experimental.utils"):  # the second before version 0.5
        try:
            view = import_module(name).StridedMemoryView
        except (ImportError, AttributeError) as error:
            errors.append(error)
            continue
        return getattr(view, "from_any_interface", view)
    # The one that is there but broken says more than the one that is not.
    cause = min(errors, key=lambda error: isinstance(error, ModuleNotFoundError))
    raise BackendMissing(
        f"frames on the GPU need cuda-core, which cannot be imported ({cause}); install it with: pip install cuda-core "
        "(beside cuda-bindings older than 12.9, as on JetPack 6: 'cuda-core<0.6')"
    ) from cause
