"""Where a run computes: which device, in which arithmetic, and as which of how many processes."""

from __future__ import annotations

import ctypes
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import VlfError

_log = logging.getLogger(__name__)
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


@dataclass(frozen=True)
class Device:
    """torch: the device. autocast: the type of matrix products and convolutions, None for plain float32.
    rank, world: this process among all of the run, (0, 1) for a single one."""

    torch: torch.device
    autocast: torch.dtype | None
    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """True in the one process that writes files and talks."""
        return self.rank == 0

    @property
    def name(self) -> str:
        """For people: how many of which device."""
        own = torch.cuda.get_device_name(self.torch) if self.torch.type == "cuda" else "CPU"
        return own if self.world == 1 else f"{self.world} x {own}"

    @property
    def cores(self) -> int:
        """Processor cores of this machine, for each of its processes."""
        neighbours = torch.cuda.device_count() if self.torch.type == "cuda" else self.world
        return max(1, len(os.sched_getaffinity(0)) // min(self.world, neighbours))

    def cast(self) -> torch.autocast:
        """Context of mixed precision."""
        return torch.autocast(self.torch.type, self.autocast, enabled=self.autocast is not None)

    def scaler(self) -> torch.amp.GradScaler:
        """Scales the loss where float16 would lose small gradients, and does nothing elsewhere."""
        return torch.amp.GradScaler(self.torch.type, enabled=self.autocast is torch.float16)

    def distributed(self, student: nn.Module) -> nn.Module:
        """The module whose backward pass averages gradients over all processes; itself if there is one."""
        if self.world == 1:
            return student
        ids = [self.torch.index] if self.torch.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(student, device_ids=ids)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast(self, tensors: Iterator[Tensor]) -> None:
        """Gives every process the leading one's values, in place."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def any_rank(self, wish: bool) -> bool:
        """True in every process if it is in one."""
        return bool(self.all_reduce(torch.tensor(float(wish), device=self.torch))) if self.world > 1 else wish


@contextmanager
def acquire_device(threads: int | None = None) -> Iterator[Device]:
    """A GPU if there is one, else the CPU; one of several processes if torchrun started this one.

    threads: that compute on a CPU, until this is left (None: as PyTorch has it). The result of a run on a CPU is
    reproducible bit for bit, given their number; on a GPU up to the order of additions. Leaves the caller's random
    state as it was.
    """
    launched = dist.is_available() and dist.is_torchelastic_launched()
    cuda, why = _look_for_gpu()
    if launched:
        _join(cuda)
    rank, world = (dist.get_rank(), dist.get_world_size()) if launched else (0, 1)
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    if not cuda and rank == 0:
        _log.info("no GPU that PyTorch can use%s: training on the CPU", f" ({why})" if why else "")
    deterministic = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=[device] if cuda else []))
            if not cuda:
                stack.enter_context(_kept_memory())
                if threads is not None:
                    stack.enter_context(_computing_on(threads))
            yield Device(device, _autocast(cuda), rank, world)
    finally:
        torch.backends.cudnn.deterministic = deterministic
        if launched:
            dist.destroy_process_group()


@contextmanager
def _computing_on(threads: int) -> Iterator[None]:
    had = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(had)


def _look_for_gpu() -> tuple[bool, str]:
    """(is there one, what PyTorch says if not). It says so anew wherever it looks, in each process: once is enough."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = torch.cuda.is_available()
    if not found:
        warnings.filterwarnings("ignore", message=".*(CUDA initialization|no accelerator is found)")
    return found, " ".join(str(said[0].message).split())[:200] if said and not found else ""


@contextmanager
def _kept_memory() -> Iterator[None]:
    """Keeps glibc from giving large blocks back to the system after every use: having them zeroed and mapped in again
    takes a fifth of a step. Other C libraries are left as they are."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        yield
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        mallopt(_M_MMAP_MAX, 65536)  # glibc's own values again
        mallopt(_M_TRIM_THRESHOLD, 128 * 1024)


def _join(cuda: bool) -> None:
    local = dist.get_node_local_rank()
    if cuda and local >= torch.cuda.device_count():
        raise VlfError(
            f"torchrun started process {local + 1} of this machine, which has {torch.cuda.device_count()} GPUs; "
            f"use --nproc-per-node {torch.cuda.device_count()}"
        )
    if cuda:
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if cuda else "gloo")


def _autocast(cuda: bool) -> torch.dtype | None:
    """bfloat16 where the hardware multiplies it; CPUs that only emulate it are faster in float32."""
    if cuda:
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    has = getattr(torch.cpu, "get_capabilities", dict)()  # older versions cannot say
    return torch.bfloat16 if has.get("amx_bf16") or has.get("avx512_bf16") else None
