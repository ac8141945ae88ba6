"""Engine: one compiled stage that maps arrays to arrays. The libraries that run one are in backends/."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType

import numpy as np

from ..errors import ModelError, ShapeError, VlfError
from ..types import TensorSpec


class Engine(ABC):
    """One compiled stage. Serves one thread at a time; different engines may run in different threads.

    backend: its name in the table of backends.
    inputs, outputs: what goes in and comes out; a string in a shape is a dynamic axis, "N" the batch.
    dynamic_batch: whether N may change from call to call. max_batch: largest N, None if it has no limit or is fixed.
    identity: hash of what was compiled elsewhere and is run here, "" where the library compiles it at every start.
    chains_on_gpu: whether it can be chained with others in the memory of an NVIDIA GPU.
    """

    chains_on_gpu = False
    identity = ""

    def __init__(
        self,
        backend: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        max_batch: int | None = None,
    ):
        self.backend = backend
        self.inputs = inputs
        self.outputs = outputs
        self.dynamic_batch = all(isinstance(spec.shape[0], str) for spec in inputs if spec.shape)
        self.max_batch = max_batch
        self._closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(str, self.inputs))} -> {', '.join(map(str, self.outputs))})"

    def infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the stage once.

        inputs: one array for each of ``self.inputs``, of its exact dtype and shape. Returns one new array for each of
        ``self.outputs``; it belongs to the caller. Raises ShapeError (got, expected) before anything is run, and
        VlfError with the library's words if it fails, as it may for want of memory or for a graph from a stranger; and
        ModelError if the answer has not the shape that it should have.
        """
        self.check_open()
        self._check(inputs)
        try:
            results = self._infer(inputs)
        except VlfError:
            raise
        except Exception as error:  # each library has classes of its own
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise VlfError(f"{self.backend} failed to run {self!r}: {said[-1][:300]}") from error
        self._check_results(results, next(iter(inputs.values())).shape[:1])
        return results

    def infer_all(self, inputs: Mapping[str, np.ndarray], batch: int | None = None) -> dict[str, np.ndarray]:
        """As ``infer``, for any number n >= 1 of items (n, ...) in every input: in batches as large as the engine
        takes, and no larger than ``batch``."""
        count = len(next(iter(inputs.values())))
        largest = (self.max_batch or count) if self.dynamic_batch else 1
        size = min(largest, batch or count)
        if count <= size:
            return self.infer(inputs)
        parts = [
            self.infer({name: array[start : start + size] for name, array in inputs.items()})
            for start in range(0, count, size)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def check_open(self) -> None:
        """Raises RuntimeError once the engine is closed."""
        if self._closed:
            raise RuntimeError(f"infer was called on a closed {self.backend} engine")

    def close(self) -> None:
        """Frees what the engine holds. May be called again."""
        if not self._closed:
            self._closed = True
            self._close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @abstractmethod
    def _infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """As ``infer``, with inputs already checked."""

    def _close(self) -> None:
        """Frees what the backend holds; called once."""

    def _check_results(self, results: Mapping[str, np.ndarray], batch: tuple[int, ...]) -> None:
        """An answer of the wrong shape would be taken for another stream's, or another label's."""
        for spec in self.outputs:
            shape = results[spec.name].shape
            same_batch = not self.dynamic_batch or shape[:1] == batch
            known = all(isinstance(want, str) or got == want for got, want in zip(shape, spec.shape))
            if not (same_batch and known and len(shape) == len(spec.shape)):
                raise ModelError(f"{self.backend} gave an output of {shape} for {batch[0]} inputs, expected {spec}")

    def _check(self, inputs: Mapping[str, np.ndarray]) -> None:
        names = [spec.name for spec in self.inputs]
        if sorted(inputs) != sorted(names):
            raise ShapeError(f"got inputs {sorted(inputs)}, expected {sorted(names)}")
        sizes: dict[str, int] = {}
        for spec in self.inputs:
            array = inputs[spec.name]
            if not isinstance(array, np.ndarray):
                raise ShapeError(f"input {spec.name} is {type(array).__name__}, expected a numpy array: {spec}")
            fits = array.dtype == spec.dtype and array.ndim == len(spec.shape)
            # A dynamic axis takes any size from 1, the same one wherever its name stands.
            fits = fits and all(
                got == (sizes.setdefault(want, got) if isinstance(want, str) else want) and got > 0
                for got, want in zip(array.shape, spec.shape)
            )
            if not fits:
                known = "".join(f", {name}={size}" for name, size in sizes.items())
                raise ShapeError(f"input {spec.name} is {array.dtype}{array.shape}, expected {spec}{known}")
        if self.max_batch is not None and sizes.get("N", 1) > self.max_batch:
            raise ShapeError(f"got a batch of {sizes['N']}, expected 1 to {self.max_batch} for {self!r}")
