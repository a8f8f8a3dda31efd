"""Graphics processors, where the kernel or the vendor's library tells of them.

Owns two sources: amdgpu's sysfs and NVML through the optional `pynvml`. Knows nothing of sampling times.
Used by the sampler.
"""

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

from msgspec import Struct

from custody.host.files import number


class Gpu(Struct, frozen=True, kw_only=True, array_like=True):
    """One graphics processor."""

    name: str
    busy_percent: float | None
    memory_total_bytes: int | None
    memory_used_bytes: int | None


def load_nvml() -> Any | None:
    """NVML, started; None where it is not installed or finds no driver."""
    if find_spec("pynvml") is None:
        return None
    try:
        import pynvml  # pyright: ignore[reportMissingImports, reportMissingTypeStubs]

        library: Any = pynvml
        library.nvmlInit()
    except Exception:  # the library's own errors are known only once it is loaded
        return None
    return library


def read_gpus(sys: str, nvml: Any | None) -> tuple[Gpu, ...] | None:
    """All that are known of; None where neither source knows any."""
    gpus = (*_amdgpu(sys), *(_nvidia(nvml) if nvml is not None else ()))
    return gpus or None


def _amdgpu(sys: str) -> Iterator[Gpu]:
    cards = os.path.join(sys, "class/drm")
    try:
        names = sorted(name for name in os.listdir(cards) if name.startswith("card") and name[4:].isdigit())
    except OSError:
        return
    for name in names:
        device = os.path.join(cards, name, "device")
        busy = number(os.path.join(device, "gpu_busy_percent"))
        total = number(os.path.join(device, "mem_info_vram_total"))
        if busy is None and total is None:
            continue
        yield Gpu(
            name=name,
            busy_percent=None if busy is None else float(busy),
            memory_total_bytes=total,
            memory_used_bytes=number(os.path.join(device, "mem_info_vram_used")),
        )


def _nvidia(nvml: Any) -> Iterator[Gpu]:
    for index in range(_ask(nvml.nvmlDeviceGetCount) or 0):
        handle = _ask(nvml.nvmlDeviceGetHandleByIndex, index)
        if handle is None:
            continue
        name = _ask(nvml.nvmlDeviceGetName, handle)
        memory = _ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        rates = _ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        yield Gpu(
            name=name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name or f"gpu{index}"),
            busy_percent=None if rates is None else float(rates.gpu),
            memory_total_bytes=None if memory is None else int(memory.total),
            memory_used_bytes=None if memory is None else int(memory.used),
        )


def _ask(question: Callable[..., Any], *arguments: Any) -> Any | None:
    """An answer of NVML; cards differ in which questions they know."""
    try:
        return question(*arguments)
    except Exception:
        return None
