"""What every benchmark here shares: measuring ways side by side, the machine's facts, a table, a JSON file.

A way is a function that does the thing once. Ways are measured in turns, a few calls each, so that a noisy
second hits all of them. Figures are medians and 99th percentiles of single calls. Each script writes its
measurements to `benchmarks/results/NAME.json`; `table.py` makes the summary and the table in the README.
"""

import argparse
import contextlib
import gc
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results"

Way = Callable[[], Any]


@dataclass(frozen=True)
class Timing:
    """Times of single calls, in microseconds."""

    p50_us: float
    p99_us: float
    calls: int

    @classmethod
    def of(cls, nanoseconds: Sequence[int]) -> "Timing":
        ordered = sorted(nanoseconds)
        return cls(ordered[len(ordered) // 2] / 1e3, ordered[int(len(ordered) * 0.99)] / 1e3, len(ordered))


@dataclass(frozen=True)
class Measurement:
    """One line of the table: a figure of ours, what it stands beside, and the target."""

    row: int
    """Of the table of targets in the README."""
    what: str
    value: float
    unit: str
    target: str
    """The target in words."""
    limit: float
    """The target as a number in `unit`, a ratio already multiplied out with the peer of the same run."""
    better: Literal["less", "more"] = "less"
    peers: Mapping[str, float] = field(default_factory=dict[str, float])
    """Name -> the same figure of theirs. The first is the one the target speaks of."""

    @property
    def met(self) -> bool:
        return self.value <= self.limit if self.better == "less" else self.value >= self.limit

    @property
    def missed_by(self) -> float:
        """How far from the target, as a part of it; 0 when it is met."""
        if self.met:
            return 0.0
        return self.value / self.limit - 1 if self.better == "less" else 1 - self.value / self.limit

    def ratios(self) -> dict[str, float]:
        return {name: self.value / peer for name, peer in self.peers.items() if peer}


def interleave(ways: Mapping[str, Way], *, rounds: int, calls: int, warm_up: int = 1) -> dict[str, Timing]:
    """Measure the ways in turns: `rounds` times `calls` single calls of each, after `warm_up` rounds."""
    times: dict[str, list[int]] = {name: [] for name in ways}
    clock = time.perf_counter_ns
    for turn in range(warm_up + rounds):
        for name, way in ways.items():
            taken: list[int] = []
            for _ in range(calls):
                start = clock()
                way()
                taken.append(clock() - start)
            if turn >= warm_up:
                times[name] += taken
    return {name: Timing.of(taken) for name, taken in times.items()}


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder on the disk of this checkout, not on a /tmp that may be memory."""
    RESULTS.mkdir(exist_ok=True)
    folder = tempfile.mkdtemp(prefix="scratch-", dir=RESULTS)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def never_refused(folder: Path) -> None:
    """Set the breaker so that it still looks at the machine but never minds how busy this keeps it."""
    settings = folder / "custody.toml"
    settings.write_text("[breaker]\ncpu_pressure_percent_max = 100\n", encoding="utf-8")
    os.environ["CUSTODY_CONFIG"] = str(settings)


def small_workspace(folder: Path, files: int = 20) -> Path:
    """A working directory of a few files: commands tell what changed in theirs, which costs by the file."""
    workspace = folder / f"workspace_of_{files}"
    workspace.mkdir()
    for number in range(files):
        (workspace / f"{number:04d}.txt").write_text(f"{number}\n" * 100, encoding="utf-8")
    return workspace


class RawDisk:
    """The least a durable record can cost here: put and fdatasync into a file filled with zeros."""

    FILE_BYTES = 16 * 1024 * 1024

    def __init__(self, folder: Path, record_bytes: int) -> None:
        self._descriptor = os.open(folder / "raw", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for offset in range(0, self.FILE_BYTES, 16384):
            os.pwrite(self._descriptor, bytes(16384), offset)
        os.fsync(self._descriptor)
        self._data = os.urandom(record_bytes)
        self._offset = 0

    def durable_put(self) -> None:
        os.pwrite(self._descriptor, self._data, self._offset)
        os.fdatasync(self._descriptor)
        self._offset = (self._offset + len(self._data)) % (self.FILE_BYTES - len(self._data))

    def close(self) -> None:
        os.close(self._descriptor)


def arguments(description: str | None, **extra: tuple[Any, str]) -> argparse.Namespace:
    """Command line of a script: `extra` is name -> (default, help); a default of False is a switch."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the calls, nothing written: to see that it works"
    )
    for name, (default, text) in extra.items():
        if default is False:
            parser.add_argument(f"--{name}", action="store_true", help=text)
        else:
            parser.add_argument(f"--{name}", type=type(default), default=default, help=f"{text} ({default})")
    return parser.parse_args()


def machine() -> dict[str, Any]:
    """What a reader needs to judge the figures."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "filesystem": _filesystem(FOLDER),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "custody": importlib.metadata.version("custody-runtime"),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _filesystem(path: Path) -> str | None:
    best, kind = "", None
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
            _, point, name = line.split()[:3]
            if len(point) >= len(best) and (path / "x").is_relative_to(point):
                best, kind = point, name
    return kind


def report(
    name: str, measurements: Sequence[Measurement], details: Mapping[str, Any], *, quick: bool = False
) -> None:
    """Print the measurements and, unless they were quick, write them and all else that was seen as JSON."""
    for measurement in measurements:
        print(lines_of(measurement))
    if quick:
        return
    document = {
        "name": name,
        "measured_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": machine(),
        "measurements": [
            _plain(asdict(m)) | {"met": m.met, "ratios": _plain(m.ratios())} for m in measurements
        ],
        "details": _plain(details),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(
        json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def lines_of(measurement: Measurement) -> str:
    ratios = measurement.ratios()
    lines = [f"{measurement.what}: {figure(measurement.value, measurement.unit)}"]
    lines += [
        f"  beside {peer}: {figure(value, measurement.unit)} (ratio {ratios.get(peer, float('nan')):.2f})"
        for peer, value in measurement.peers.items()
    ]
    verdict = "met" if measurement.met else f"missed by {measurement.missed_by:.0%}"
    lines.append(f"  target {measurement.target}: {verdict}")
    return "\n".join(lines)


def figure(value: float, unit: str) -> str:
    """A number with three significant digits and its unit."""
    digits = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{digits} {unit}"


def _plain(value: Any) -> Any:
    if isinstance(value, Timing):
        return _plain(asdict(value))
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def settle() -> None:
    """Begin with nothing left over from the set-up."""
    gc.collect()
    sys.stdout.flush()
    os.sync()
