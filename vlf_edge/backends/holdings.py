"""What a TensorRT engine holds on its GPU, and the order in which it has to go."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from ..errors import VlfError
from . import cuda
from .kernel_cache import KernelCache

log = logging.getLogger(__name__)


@dataclass
class Context:
    """An execution context, ``raw``, with the config it was made with (TensorRT-RTX): None once it was released.

    Whoever uses a context holds this, never ``raw``, so that it ends when its engine does and not later.
    """

    raw: Any
    config: Any = None


@dataclass
class Holdings:
    """All that one engine has of the library and of the GPU.

    It knows nothing of the engine, so that ``release`` can be what is done once an engine is gone that nobody closed.
    streams: on which its contexts have queued work; memory is ``stream``'s.
    """

    stream: cuda.Stream
    runtime: Any = None
    engine: Any = None
    kernels: KernelCache | None = None
    contexts: list[Context] = field(default_factory=list)
    streams: list[cuda.Stream] = field(default_factory=list)

    def drop(self, context: Context) -> None:
        """Lets go of one context, with the memory that the library has given it; nothing may be queued on it."""
        self.contexts.remove(context)
        context.raw = None
        context.config = None

    def release(self) -> None:
        """Frees everything, on any thread; a fault is only logged, since it is on its way up or nobody waits for it."""
        try:
            with self.stream.current():
                self._release_here()
        except VlfError as error:
            log.warning("%s", error)
        finally:
            self.stream.close()

    def _release_here(self) -> None:
        """Users before what they use, as NVIDIA's documents ask: contexts, their configs, the kernels, the engine."""
        for stream in (self.stream, *self.streams):
            stream.settle()
        if self.kernels is not None and self.contexts:
            self.kernels.save()
        for context in self.contexts:
            context.raw = None
        for context in self.contexts:
            context.config = None
        self.contexts.clear()
        self.kernels = self.engine = self.runtime = None
