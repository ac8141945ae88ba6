"""The kernels that TensorRT-RTX compiles for the GPU at hand, kept from one start to the next."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

from ..cache import cache_folder, keep, read_kept

log = logging.getLogger(__name__)


class KernelCache:
    """The compiled kernels of one engine on one kind of GPU, in a file of the user's cache folder.

    config: any IRuntimeConfig of the engine. The library checks for itself that a file fits its version, GPU and
    driver; one that does not is compiled anew. A folder that cannot be written costs the next start its time, never
    this one its work.
    """

    def __init__(self, config: Any, engine_bytes: bytes, compute_capability: str, version: str):
        key = hashlib.sha256(engine_bytes).hexdigest()[:32]
        self.path: Path = cache_folder("kernels") / f"{key}.sm{compute_capability.replace('.', '')}.{version}.bin"
        self._cache = config.create_runtime_cache()
        self._saved = read_kept(self.path) or b""
        if not self._saved:
            log.info("kernels are compiled for this GPU at this first start; later starts find them in %s", self.path)
        elif not self._cache.deserialize(self._saved):
            log.info("%s is of another driver: kernels are compiled anew", self.path)
            self._saved = b""

    def serve(self, config: Any) -> None:
        """Contexts made with this IRuntimeConfig take their kernels from here, and leave new ones here."""
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Writes what was compiled so far, if there is anything new."""
        memory = self._cache.serialize()
        data = b"" if memory is None else bytes(memory)
        if not data or data == self._saved:
            return
        keep(self.path, data)
        self._saved = data
