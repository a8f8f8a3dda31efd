"""Refuses calls while the machine is short of something.

Owns the thresholds and, for each reading, whether it is refusing now. Knows nothing of calls and reads
nothing: it is handed samples. Used by the guard of resources, and by `doctor`.

Each reading has a limit at which it starts to refuse and another at which it stops, so that a machine near
its limit does not flicker. A reading that is unknown refuses nothing and keeps its state.
"""

import threading
from typing import Literal

from msgspec import Struct

from custody.errors import InvalidSetting
from custody.host.telemetry import HostSample

GIBIBYTE = 1024**3


class BreakerThresholds(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When calls are refused, and when they are allowed again. All are settings under `breaker.`"""

    memory_percent_max: float = 80.0
    """Used memory of the machine or of the cgroup, the tighter, from which calls are refused."""
    memory_percent_resume: float = 70.0
    cpu_pressure_percent_max: float = 80.0
    """Pressure above which calls are refused: PSI's some over 10 s, or use of all cores without PSI."""
    cpu_pressure_percent_resume: float = 70.0
    disk_free_percent_min: float = 5.0
    """Free space of the store's disk below which calls are refused."""
    disk_free_percent_resume: float = 6.0
    disk_free_bytes_min: int = GIBIBYTE
    disk_free_bytes_resume: int = GIBIBYTE * 5 // 4
    zombies_max: int = 50
    """Dead processes nobody collects, above which calls are refused."""
    zombies_resume: int = 43

    def __post_init__(self) -> None:
        for name in ("memory_percent", "cpu_pressure_percent", "zombies"):
            limit, resume = getattr(self, f"{name}_max"), getattr(self, f"{name}_resume")
            if not 0 <= resume <= limit:
                raise _invalid(f"{name}_resume", resume, f"a number from 0 to {name}_max ({limit})")
        for name in ("disk_free_percent", "disk_free_bytes"):
            limit, resume = getattr(self, f"{name}_min"), getattr(self, f"{name}_resume")
            if not 0 <= limit <= resume:
                raise _invalid(
                    f"{name}_resume", resume, f"a number from {name}_min ({limit}), itself 0 or more"
                )


def _invalid(name: str, value: object, expected: str) -> InvalidSetting:
    return InvalidSetting(
        f"breaker.{name} is {value!r}, expected {expected}.", setting=f"breaker.{name}", expected=expected
    )


class Reading(Struct, frozen=True, kw_only=True):
    """One thing the breaker watches."""

    name: str
    value: float | None
    """None: unknown on this machine."""
    source: str
    """What the value is of: `machine`, `cgroup`, `psi`, `cores`, `store`, `processes`."""
    limit: float
    resume: float
    unit: Literal["percent", "bytes", "processes"]
    setting: str
    state: Literal["ok", "refusing", "unknown"]


class Refusal(Struct, frozen=True, kw_only=True):
    """Why a call is refused now."""

    reading: str
    value: float
    limit: float
    setting: str
    message: str
    """Names the reading, its limit, where calls resume and the setting."""


class _Watch(Struct, frozen=True):
    name: str
    label: str
    unit: Literal["percent", "bytes", "processes"]
    setting: str
    edge: Literal["at", "above", "below"]


_WATCHES = (
    _Watch("memory", "memory in use", "percent", "memory_percent", "at"),
    _Watch("cpu_pressure", "CPU pressure", "percent", "cpu_pressure_percent", "above"),
    _Watch("disk_free_percent", "free space of the store's disk", "percent", "disk_free_percent", "below"),
    _Watch("disk_free_bytes", "free space of the store's disk", "bytes", "disk_free_bytes", "below"),
    _Watch("zombies", "zombie processes", "processes", "zombies", "above"),
)


class Breaker:
    """Holds what is refusing. Safe for threads."""

    def __init__(self, thresholds: BreakerThresholds | None = None) -> None:
        self.thresholds = thresholds or BreakerThresholds()
        self._refusing: set[str] = set()
        self._lock = threading.Lock()
        self._last: tuple[HostSample | None, Refusal | None] = (None, None)

    def check(self, sample: HostSample) -> Refusal | None:
        """The first reading that refuses, in the order of `readings`; None: calls may run."""
        checked, refusal = self._last
        if sample is not checked:  # calls of the same second share a sample
            refusal = self._judge(sample)
            self._last = sample, refusal
        return refusal

    def _judge(self, sample: HostSample) -> Refusal | None:
        with self._lock:
            readings = self.readings(sample)
            for reading in readings:
                if reading.state == "refusing":
                    self._refusing.add(reading.name)
                elif reading.state == "ok":
                    self._refusing.discard(reading.name)
        for reading, watch in zip(readings, _WATCHES, strict=True):
            if reading.state == "refusing" and reading.value is not None:
                return _refusal(reading, watch)
        return None

    def readings(self, sample: HostSample) -> tuple[Reading, ...]:
        """All readings as `check` would judge them; changes no state."""
        return tuple(self._reading(watch, sample) for watch in _WATCHES)

    def _reading(self, watch: _Watch, sample: HostSample) -> Reading:
        value, source = _value(watch.name, sample)
        setting = f"{watch.setting}_{'min' if watch.edge == 'below' else 'max'}"
        limit: float = getattr(self.thresholds, setting)
        resume: float = getattr(self.thresholds, f"{watch.setting}_resume")
        state: Literal["ok", "refusing", "unknown"] = "unknown"
        if value is not None:
            refuses = _beyond(value, limit, watch.edge)
            if not refuses and watch.name in self._refusing:
                refuses = value < resume if watch.edge == "below" else value > resume
            state = "refusing" if refuses else "ok"
        return Reading(
            name=watch.name,
            value=value,
            source=source,
            limit=limit,
            resume=resume,
            unit=watch.unit,
            setting=f"breaker.{setting}",
            state=state,
        )


def _beyond(value: float, limit: float, edge: str) -> bool:
    if edge == "at":
        return value >= limit
    return value > limit if edge == "above" else value < limit


def _value(name: str, sample: HostSample) -> tuple[float | None, str]:
    """What a reading is on this sample, and where it comes from."""
    if name == "memory":
        machine, cgroup = sample.memory_used_percent, sample.cgroup_memory_used_percent
        if cgroup is not None and (machine is None or cgroup > machine):
            return cgroup, "cgroup"
        return machine, "machine"
    if name == "cpu_pressure":
        if sample.pressure_cpu_some_percent is not None:
            return sample.pressure_cpu_some_percent, "psi"
        return sample.cpu_percent, "cores"
    if name == "zombies":
        return None if sample.processes is None else sample.processes.zombies, "processes"
    return (sample.disk_free_percent if name == "disk_free_percent" else sample.disk_free_bytes), "store"


def _refusal(reading: Reading, watch: _Watch) -> Refusal:
    value, limit, resume = (
        _shown(number, reading.unit) for number in (reading.value, reading.limit, reading.resume)
    )
    of = f" ({reading.source})" if reading.name in ("memory", "cpu_pressure") else ""
    return Refusal(
        reading=reading.name,
        value=reading.value or 0,
        limit=reading.limit,
        setting=reading.setting,
        message=f"The machine is short of resources: {watch.label}{of}: {value}, the limit is {limit}; "
        f"calls resume at {resume}. The limit is the setting {reading.setting}.",
    )


def _shown(value: float | None, unit: str) -> str:
    if unit == "percent":
        return f"{value:g} %"
    return f"{(value or 0) / GIBIBYTE:.2f} GiB" if unit == "bytes" else f"{value:g}"
