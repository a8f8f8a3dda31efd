"""One sample of the machine, shared by all who ask within a second.

Owns the reading of /proc and /sys into numbers and the sharing. Knows nothing of what a number means for
a call: that is the breaker's. Used by the runtime, which takes samples while calls run, and by `doctor`.

A sample reads some twenty small files; each read gives up the interpreter lock. It belongs on a thread
that may wait, and `Sampler.latest` is for those that may not.
"""

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from custody.host.files import decimal, number, text, whole
from custody.host.gpu import Gpu, load_nvml, read_gpus
from custody.host.processes import ProcessScanner, ProcessSummary
from custody.records import document, now_us

PROCESS_SCAN_SECONDS = 5.0
"""Between scans of all processes, the dearest part of a sample."""

PROCESS_SCAN_SHARE = 0.01
"""Of the time, at most, goes into scanning: on a machine with very many processes scans grow rarer."""

CPU_WINDOW_SECONDS = 0.1
"""Ten clock ticks: over less, the difference of two counts is mostly rounding."""

_SECTOR_BYTES = 512
"""Of /proc/diskstats, whatever the device's own sectors are."""


class HostSample(Struct, frozen=True, kw_only=True, array_like=True):
    """The machine at one moment. Percentages are 0 to 100; counters run since boot.

    Recorded as an array in this order, a third of the size: fields are only ever appended.
    """

    sampled_at_us: int
    """Wall clock, microseconds since 1970 UTC."""
    cpu_percent: float | None = None
    """All cores together since the sample before, or one earlier if that was just now; None in the first."""
    cpu_core_percent: tuple[float | None, ...] | None = None
    load_1m: float | None = None
    load_5m: float | None = None
    load_15m: float | None = None
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None
    memory_used_percent: float | None = None
    cgroup_memory_limit_bytes: int | None = None
    """The tightest limit over this process; None without one."""
    cgroup_memory_used_bytes: int | None = None
    """Without inactive file pages, which the kernel gives back before it refuses."""
    cgroup_memory_used_percent: float | None = None
    swap_total_bytes: int | None = None
    swap_used_bytes: int | None = None
    pressure_cpu_some_percent: float | None = None
    """Pressure stall information, average over 10 s: the share of time in which some task waited."""
    pressure_cpu_full_percent: float | None = None
    pressure_memory_some_percent: float | None = None
    pressure_memory_full_percent: float | None = None
    pressure_io_some_percent: float | None = None
    pressure_io_full_percent: float | None = None
    disk_total_bytes: int | None = None
    """Of the file system that holds the sampler's disk path."""
    disk_free_bytes: int | None = None
    """Free to this user; root's reserve is left out."""
    disk_free_percent: float | None = None
    disk_read_bytes: int | None = None
    """All physical block devices."""
    disk_written_bytes: int | None = None
    network_received_bytes: int | None = None
    """All interfaces but the loopback."""
    network_sent_bytes: int | None = None
    uptime_seconds: float | None = None
    processes: ProcessSummary | None = None
    """Up to some seconds older than the sample."""
    gpus: tuple[Gpu, ...] | None = None

    def to_data(self) -> dict[str, Any]:
        """As JSON shows it."""
        return document(self)

    def to_values(self) -> list[Any]:
        """As the record keeps it."""
        return msgspec.to_builtins(self)


def sample_data(values: list[Any]) -> dict[str, Any]:
    """What `to_data` was of a sample that was recorded. Raises msgspec.ValidationError."""
    return msgspec.convert(values, HostSample).to_data()


class Sampler:
    """Takes samples and shares them. Safe for threads: one reads, the others get the last sample.

    `proc` and `sys` are where procfs and sysfs are mounted.
    """

    def __init__(
        self,
        disk_path: str,
        *,
        proc: str = "/proc",
        sys: str = "/sys",
        clock: Callable[[], float] = time.monotonic,
        nvml: Callable[[], Any | None] = load_nvml,
    ) -> None:
        self._disk_path = disk_path
        self._proc = proc
        self._sys = sys
        self._clock = clock
        self._load_nvml = nvml
        self._nvml: Any | None = None
        self._nvml_loaded = False
        self._reading = threading.Lock()
        self._latest: HostSample | None = None
        self._latest_at = 0.0
        self._cpu_before: dict[str, tuple[int, int]] = {}
        self._cpu_before_at = 0.0
        self._scanner = ProcessScanner(proc, clock)
        self._processes: ProcessSummary | None = None
        self._scan_due_at: float | None = None

    @property
    def latest(self) -> HostSample | None:
        """The last sample, however old; reads nothing. None before the first."""
        return self._latest

    def sample(self, max_age_seconds: float = 1.0) -> HostSample:
        """A sample no older than that, unless another thread is reading one just now: then the last."""
        latest = self._latest
        if latest is not None and self._clock() - self._latest_at <= max_age_seconds and max_age_seconds > 0:
            return latest
        if not self._reading.acquire(blocking=latest is None):
            assert latest is not None  # acquiring waits where there is none
            return latest
        try:
            if latest is None and self._latest is not None and max_age_seconds > 0:
                return self._latest  # read while this thread waited
            sample = self._read()
            self._latest, self._latest_at = sample, self._clock()
            return sample
        finally:
            self._reading.release()

    def _read(self) -> HostSample:
        return HostSample(
            sampled_at_us=now_us(),
            **self._cpu(),
            **self._load(),
            **self._memory(),
            **self._pressure(),
            **self._disk_space(),
            **self._disk_counters(),
            **self._network_counters(),
            uptime_seconds=self._uptime(),
            processes=self._process_summary(),
            gpus=self._gpus(),
        )

    # -- processors -----------------------------------------------------------------------------------

    def _cpu(self) -> dict[str, Any]:
        now: dict[str, tuple[int, int]] = {}
        for line in (text(f"{self._proc}/stat") or "").splitlines():
            if not line.startswith("cpu"):
                break
            name, *words = line.split()
            ticks = [whole(word) for word in words[:8]]  # guest time is counted in user time already
            if len(ticks) >= 4 and None not in ticks:
                counts = [tick or 0 for tick in ticks]
                idle = counts[3] + (counts[4] if len(counts) > 4 else 0)
                now[name] = (sum(counts), idle)
        before, at = self._cpu_before, self._clock()
        if not before or at - self._cpu_before_at >= CPU_WINDOW_SECONDS:
            self._cpu_before, self._cpu_before_at = now, at
        percent = {name: _busy_percent(before.get(name), spent) for name, spent in now.items()}
        total = percent.pop("cpu", None)
        return {"cpu_percent": total, "cpu_core_percent": tuple(percent.values()) or None}

    def _load(self) -> dict[str, Any]:
        words = (text(f"{self._proc}/loadavg") or "").split()
        if len(words) < 3:
            return {}
        return dict(zip(("load_1m", "load_5m", "load_15m"), map(decimal, words), strict=False))

    def _uptime(self) -> float | None:
        words = (text(f"{self._proc}/uptime") or "").split()
        return decimal(words[0]) if words else None

    # -- memory ---------------------------------------------------------------------------------------

    def _memory(self) -> dict[str, Any]:
        fields: dict[str, int] = {}
        for line in (text(f"{self._proc}/meminfo") or "").splitlines():
            name, _, rest = line.partition(":")
            words = rest.split()
            count = whole(words[0]) if words else None
            if count is not None:
                fields[name] = count * 1024
        total, available = fields.get("MemTotal"), fields.get("MemAvailable")
        swap_total, swap_free = fields.get("SwapTotal"), fields.get("SwapFree")
        return {
            "memory_total_bytes": total,
            "memory_available_bytes": available,
            "memory_used_percent": None if available is None else _percent((total or 0) - available, total),
            "swap_total_bytes": swap_total,
            "swap_used_bytes": None if swap_total is None or swap_free is None else swap_total - swap_free,
            **self._cgroup_memory(total),
        }

    def _cgroup_memory(self, machine_bytes: int | None) -> dict[str, Any]:
        """The limit, of this process's cgroup and those above it, that is nearest to being reached."""
        tightest: dict[str, Any] = {}
        for folder in self._cgroup_folders():
            limit, used = _cgroup_limit(folder)
            if limit is None or used is None or (machine_bytes is not None and limit > machine_bytes):
                continue
            percent = _percent(used, limit)
            if percent is not None and percent >= tightest.get("cgroup_memory_used_percent", 0.0):
                tightest = {
                    "cgroup_memory_limit_bytes": limit,
                    "cgroup_memory_used_bytes": used,
                    "cgroup_memory_used_percent": percent,
                }
        return tightest

    def _cgroup_folders(self) -> list[str]:
        """From this process's cgroup up to the hierarchy's root, for version 2 and for version 1's memory."""
        folders: list[str] = []
        for line in (text(f"{self._proc}/self/cgroup") or "").splitlines():
            hierarchy, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if hierarchy == "0" and not controllers:
                roots = [f"{self._sys}/fs/cgroup", f"{self._sys}/fs/cgroup/unified"]
            elif "memory" in controllers.split(","):
                roots = [f"{self._sys}/fs/cgroup/memory"]
            else:
                continue
            steps = [step for step in path.split("/") if step and step != ".."]
            for root in roots:
                folders += ["/".join([root, *steps[:length]]) for length in range(len(steps), -1, -1)]
        return folders

    def _pressure(self) -> dict[str, Any]:
        pressure: dict[str, Any] = {}
        for resource in ("cpu", "memory", "io"):
            for line in (text(f"{self._proc}/pressure/{resource}") or "").splitlines():
                words = line.split()
                if len(words) > 1 and words[0] in ("some", "full") and words[1].startswith("avg10="):
                    pressure[f"pressure_{resource}_{words[0]}_percent"] = decimal(words[1][len("avg10=") :])
        return pressure

    # -- disks and network ----------------------------------------------------------------------------

    def _disk_space(self) -> dict[str, Any]:
        try:
            space = os.statvfs(self._disk_path)
        except OSError:
            return {}
        free = space.f_bavail * space.f_frsize
        reachable = (space.f_blocks - space.f_bfree + space.f_bavail) * space.f_frsize
        return {
            "disk_total_bytes": space.f_blocks * space.f_frsize,
            "disk_free_bytes": free,
            "disk_free_percent": _percent(free, reachable),
        }

    def _disk_counters(self) -> dict[str, Any]:
        read = written = 0
        seen = False
        for line in (text(f"{self._proc}/diskstats") or "").splitlines():
            words = line.split()
            # Partitions are counted in their disk; loop, RAM and mapped devices in what lies below them.
            if len(words) < 10 or not os.path.exists(f"{self._sys}/block/{words[2]}/device"):
                continue
            sectors = whole(words[5]), whole(words[9])
            if None not in sectors:
                seen = True
                read += sectors[0] or 0
                written += sectors[1] or 0
        if not seen:
            return {}
        return {"disk_read_bytes": read * _SECTOR_BYTES, "disk_written_bytes": written * _SECTOR_BYTES}

    def _network_counters(self) -> dict[str, Any]:
        received = sent = 0
        seen = False
        for line in (text(f"{self._proc}/net/dev") or "").splitlines():
            interface, colon, rest = line.rpartition(":")
            words = rest.split()
            if not colon or len(words) < 9 or interface.strip() == "lo":
                continue
            counts = whole(words[0]), whole(words[8])
            if None not in counts:
                seen = True
                received += counts[0] or 0
                sent += counts[1] or 0
        return {"network_received_bytes": received, "network_sent_bytes": sent} if seen else {}

    # -- the dear parts -------------------------------------------------------------------------------

    def _process_summary(self) -> ProcessSummary | None:
        begun = self._clock()
        if self._scan_due_at is None or begun >= self._scan_due_at:
            self._processes = self._scanner.scan()
            cost = self._clock() - begun
            self._scan_due_at = begun + max(PROCESS_SCAN_SECONDS, cost / PROCESS_SCAN_SHARE)
        return self._processes

    def _gpus(self) -> tuple[Gpu, ...] | None:
        if not self._nvml_loaded:
            self._nvml, self._nvml_loaded = self._load_nvml(), True
        return read_gpus(self._sys, self._nvml)


def _busy_percent(before: tuple[int, int] | None, now: tuple[int, int]) -> float | None:
    if before is None:
        return None
    total, idle = now[0] - before[0], now[1] - before[1]
    # A core that was taken out and put back, or an idle count that stepped back, tells nothing.
    return round((total - idle) / total * 100, 1) if 0 <= idle <= total and total > 0 else None


def _percent(part: int, whole_part: int | None) -> float | None:
    return round(part / whole_part * 100, 1) if whole_part else None


def _cgroup_limit(folder: str) -> tuple[int | None, int | None]:
    """Limit and use of one cgroup, of either version."""
    for limit_name, used_name, inactive in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit = number(f"{folder}/{limit_name}")
        used = number(f"{folder}/{used_name}") if limit is not None else None
        if used is not None:
            for line in (text(f"{folder}/memory.stat") or "").splitlines():
                name, _, count = line.partition(" ")
                if name == inactive:
                    used = max(0, used - (whole(count) or 0))
            return limit, used
    return None, None
