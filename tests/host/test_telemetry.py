"""What is read of the machine, from recorded trees of /proc and /sys."""

import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.host.tree import RECORDED, process, write

from custody.host import Gpu, HostSample, ProcessSummary, Sampler, TopProcess
from custody.host.telemetry import PROCESS_SCAN_SECONDS

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def sampler(root: Path, clock: Clock | None = None, nvml: Any = None) -> Sampler:
    return Sampler(
        str(root), proc=str(root / "proc"), sys=str(root / "sys"), clock=clock or Clock(), nvml=lambda: nvml
    )


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    write(tmp_path, RECORDED)
    return tmp_path


def test_a_recorded_machine_is_read_into_numbers(recorded: Path) -> None:
    sample = sampler(recorded).sample()
    shown = msgspec.json.decode(msgspec.json.encode(sample.to_data()))
    for name in ("sampled_at_us", "disk_total_bytes", "disk_free_bytes", "disk_free_percent"):
        assert shown.pop(name) > 0
    assert shown == {
        "cpu_percent": None,
        "cpu_core_percent": [None, None],
        "load_1m": 0.5,
        "load_5m": 1.25,
        "load_15m": 2.0,
        "memory_total_bytes": 1_024_000,
        "memory_available_bytes": 409_600,
        "memory_used_percent": 60.0,
        "cgroup_memory_limit_bytes": 1_000_000,
        "cgroup_memory_used_bytes": 500_000,
        "cgroup_memory_used_percent": 50.0,
        "swap_total_bytes": 204_800,
        "swap_used_bytes": 153_600,
        "pressure_cpu_some_percent": 1.5,
        "pressure_cpu_full_percent": 0.0,
        "pressure_memory_some_percent": 2.5,
        "pressure_memory_full_percent": 0.5,
        "pressure_io_some_percent": 3.5,
        "pressure_io_full_percent": 0.75,
        "disk_read_bytes": 101 * 512,
        "disk_written_bytes": 202 * 512,
        "network_received_bytes": 3000,
        "network_sent_bytes": 1200,
        "uptime_seconds": 2820.4,
        "processes": None,
        "gpus": None,
    }


def test_what_cannot_be_read_is_unknown_and_never_zero(tmp_path: Path) -> None:
    sample = Sampler(
        str(tmp_path / "gone"), proc=str(tmp_path / "no"), sys=str(tmp_path / "no"), nvml=lambda: None
    ).sample()
    assert sample == HostSample(sampled_at_us=sample.sampled_at_us)


@pytest.mark.parametrize(
    "content", ["", "\n", "garbage", "cpu\ncpu0 x y z w\n", "-1 -2 -3\n", "some avg10=\n", "\x00", "é"]
)
def test_broken_files_are_unknown(recorded: Path, content: str) -> None:
    for name in RECORDED:
        (recorded / name).write_text(content)
    sample = sampler(recorded).sample()
    for name in HostSample.__struct_fields__:
        if not name.startswith(("disk_total", "disk_free", "sampled")):
            assert not getattr(sample, name), name
            assert getattr(sample, name) != 0, name


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(RECORDED)), st.binary(max_size=60), st.integers(0, 200))
def test_no_content_of_a_file_makes_sampling_fail(recorded: Path, name: str, noise: bytes, at: int) -> None:
    original = RECORDED[name].encode()
    path = recorded / name
    path.write_bytes(original[:at] + noise + original[at:])
    try:
        assert msgspec.json.encode(sampler(recorded).sample())
    finally:
        path.write_bytes(original)


def test_cpu_use_is_the_difference_to_the_sample_before(recorded: Path) -> None:
    clock = Clock()
    machine = sampler(recorded, clock)
    machine.sample()
    write(
        recorded,
        {
            "proc/stat": "cpu  1100 0 1050 7040 1010 0 0 0 0 0\ncpu0 700 0 400 3500 500 0 0 0\n"
            "cpu1 400 0 650 3540 510 0 0 0\n",
        },
    )
    clock.now += 2
    sample = machine.sample()
    assert (sample.cpu_percent, sample.cpu_core_percent) == (75.0, (100.0, 50.0))


def test_two_samples_in_quick_succession_compare_with_an_earlier_one(recorded: Path) -> None:
    clock = Clock()
    machine = sampler(recorded, clock)
    machine.sample()
    clock.now += 0.01
    assert machine.sample(0).cpu_percent is None
    write(recorded, {"proc/stat": "cpu  1100 0 1000 7100 1000\n"})
    clock.now += 0.01
    assert machine.sample(0).cpu_percent == 50.0


def test_counts_that_step_back_tell_nothing(recorded: Path) -> None:
    clock = Clock()
    machine = sampler(recorded, clock)
    machine.sample()
    write(recorded, {"proc/stat": "cpu  2000 0 1000 6000 1000\n"})
    clock.now += 2
    assert machine.sample().cpu_percent is None


def test_pressure_that_the_kernel_does_not_tell_is_unknown(recorded: Path) -> None:
    (recorded / "proc/pressure/cpu").unlink()
    write(recorded, {"proc/pressure/io": "some avg10=nan avg60=0\nfull avg10=4.00 avg60=0\n"})
    sample = sampler(recorded).sample()
    assert (sample.pressure_cpu_some_percent, sample.pressure_cpu_full_percent) == (None, None)
    assert (sample.pressure_io_some_percent, sample.pressure_io_full_percent) == (None, 4.0)


def test_the_memory_limit_of_a_version_1_hierarchy_is_read_too(recorded: Path) -> None:
    memory = "sys/fs/cgroup/memory/box"
    write(recorded, {
        "proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/box/inner\n0::/\n",
        f"{memory}/memory.limit_in_bytes": "800000\n",
        f"{memory}/memory.usage_in_bytes": "790000\n",
        f"{memory}/memory.stat": "inactive_file 1\ntotal_inactive_file 70000\n",
        f"{memory}/inner/memory.limit_in_bytes": "9223372036854771712\n",
        f"{memory}/inner/memory.usage_in_bytes": "780000\n",
    })  # fmt: skip
    sample = sampler(recorded).sample()
    assert sample.cgroup_memory_limit_bytes == 800_000
    assert sample.cgroup_memory_used_percent == 90.0


def test_a_cgroup_path_cannot_lead_out_of_its_hierarchy(recorded: Path) -> None:
    write(recorded, {"proc/self/cgroup": "0::/../../..\n", "memory.max": "10\n", "memory.current": "9\n"})
    assert sampler(recorded).sample().cgroup_memory_limit_bytes is None


# -- sharing ------------------------------------------------------------------------------------------


def test_a_sample_is_shared_until_it_is_too_old(recorded: Path) -> None:
    clock = Clock()
    machine = sampler(recorded, clock)
    assert machine.latest is None
    first = machine.sample()
    clock.now += 0.9
    assert machine.sample() is first
    assert machine.latest is first
    clock.now += 0.2
    second = machine.sample()
    assert second is not first
    assert machine.sample(0) is not second


def test_threads_that_ask_at_once_share_one_reading(recorded: Path) -> None:
    machine = sampler(recorded)
    barrier = threading.Barrier(8)
    seen: list[HostSample] = []

    def ask() -> None:
        barrier.wait(60)
        seen.append(machine.sample())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(seen) == 8
    assert len(set(map(id, seen))) == 1


# -- processes ----------------------------------------------------------------------------------------


def test_processes_are_counted_and_the_largest_named(recorded: Path) -> None:
    write(
        recorded,
        {
            **process(1, "init", pages=5),
            **process(2, "a (b) c", state="Z", pages=0),
            **process(3, "py", pages=9),
            **process(4, "x", pages=1),
            **process(5, "y", pages=2),
        },
    )
    summary = sampler(recorded).sample().processes
    assert summary is not None
    assert (summary.count, summary.zombies, summary.top_cpu) == (5, 1, None)
    assert summary.top_memory == (
        TopProcess(pid=3, comm="py", cpu_percent=None, memory_bytes=9 * PAGE_BYTES),
        TopProcess(pid=1, comm="init", cpu_percent=None, memory_bytes=5 * PAGE_BYTES),
        TopProcess(pid=5, comm="y", cpu_percent=None, memory_bytes=2 * PAGE_BYTES),
    )


def test_the_busiest_processes_are_those_since_the_scan_before(recorded: Path) -> None:
    clock = Clock()
    machine = sampler(recorded, clock)
    write(
        recorded,
        {**process(1, "idle", ticks=10**6), **process(2, "busy"), **process(3, "reused", ticks=7, start=100)},
    )
    machine.sample()
    write(
        recorded, {**process(2, "busy", ticks=5 * TICKS), **process(3, "reused", ticks=9 * TICKS, start=200)}
    )
    clock.now += 2 * PROCESS_SCAN_SECONDS
    summary = machine.sample().processes
    assert summary is not None
    assert summary.top_cpu == (TopProcess(pid=2, comm="busy", cpu_percent=50.0, memory_bytes=PAGE_BYTES),)


def test_processes_are_scanned_seldom(recorded: Path) -> None:
    clock = Clock()
    machine = sampler(recorded, clock)
    write(recorded, process(1, "init"))
    first = machine.sample().processes
    write(recorded, process(2, "more"))
    clock.now += PROCESS_SCAN_SECONDS - 0.1
    assert machine.sample().processes is first
    clock.now += 0.2
    summary = machine.sample(0).processes
    assert summary is not None
    assert summary.count == 2


def test_a_scan_that_takes_too_long_gives_only_the_count_and_the_next_is_put_off(recorded: Path) -> None:
    class SlowClock(Clock):
        def __call__(self) -> float:
            self.now += 0.1
            return self.now

    for pid in range(1, 10):
        write(recorded, process(pid, "p"))
    machine = sampler(recorded, SlowClock())
    first = machine.sample(0).processes
    assert first == ProcessSummary(count=9, zombies=None, top_cpu=None, top_memory=None)
    assert [machine.sample(0).processes is first for _ in range(20)] == [True] * 20


@pytest.mark.parametrize("content", ["", "7", "7 (x", "7 (x) S 1 2", ")7( S", "7 (x) S " + "x " * 40])
def test_a_process_that_cannot_be_read_is_left_out(recorded: Path, content: str) -> None:
    write(recorded, {**process(1, "init"), "proc/7/stat": content})
    (recorded / "proc/8").mkdir()
    summary = sampler(recorded).sample().processes
    assert summary is not None
    assert summary.count == 1


# -- graphics processors ------------------------------------------------------------------------------


def test_an_amd_gpu_is_read_from_sysfs(recorded: Path) -> None:
    device = "sys/class/drm/card0/device"
    write(
        recorded,
        {
            f"{device}/gpu_busy_percent": "37\n",
            f"{device}/mem_info_vram_total": "1000\n",
            f"{device}/mem_info_vram_used": "600\n",
            "sys/class/drm/card0-HDMI-A-1/status": "connected\n",
            "sys/class/drm/card1/device/vendor": "0x8086\n",
        },
    )
    assert sampler(recorded).sample().gpus == (
        Gpu(name="card0", busy_percent=37.0, memory_total_bytes=1000, memory_used_bytes=600),
    )


def test_an_nvidia_gpu_is_read_through_the_library_where_there_is_one(recorded: Path) -> None:
    def refuses(_: object) -> Any:
        raise RuntimeError("Not Supported")

    library = SimpleNamespace(
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda handle: b"Card" if handle == 0 else refuses(handle),
        nvmlDeviceGetMemoryInfo=lambda handle: (
            SimpleNamespace(total=10, used=4) if handle == 0 else refuses(handle)
        ),
        nvmlDeviceGetUtilizationRates=lambda handle: (
            SimpleNamespace(gpu=9) if handle == 0 else refuses(handle)
        ),
    )
    assert sampler(recorded, nvml=library).sample().gpus == (
        Gpu(name="Card", busy_percent=9.0, memory_total_bytes=10, memory_used_bytes=4),
        Gpu(name="gpu1", busy_percent=None, memory_total_bytes=None, memory_used_bytes=None),
    )


# -- this machine -------------------------------------------------------------------------------------


def test_this_machine_can_be_sampled(tmp_path: Path) -> None:
    sample = Sampler(str(tmp_path)).sample()
    assert sample.memory_total_bytes
    assert sample.processes is not None
    assert sample.processes.count > 0
    assert msgspec.json.encode(sample.to_data())
