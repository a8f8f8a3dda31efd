"""A recorded /proc and /sys, as files a test can change or break."""

from collections.abc import Mapping
from pathlib import Path

RECORDED = {
    "proc/stat": "cpu  1000 0 1000 7000 1000 0 0 0 0 0\ncpu0 600 0 400 3500 500 0 0 0 0 0\n"
    "cpu1 400 0 600 3500 500 0 0 0 0 0\nintr 1 2\nctxt 1\n",
    "proc/loadavg": "0.50 1.25 2.00 2/93 27160\n",
    "proc/uptime": "2820.40 5000.00\n",
    "proc/meminfo": "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    400 kB\n"
    "SwapTotal:       200 kB\nSwapFree:         50 kB\nHugePages_Total:       0\n",
    "proc/self/cgroup": "0::/user/app\n",
    "proc/pressure/cpu": "some avg10=1.50 avg60=0.34 avg300=0.40 total=5859967\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "proc/pressure/memory": "some avg10=2.50 avg60=0 avg300=0 total=1\n"
    "full avg10=0.50 avg60=0 avg300=0 total=0\n",
    "proc/pressure/io": "some avg10=3.50 avg60=0 avg300=0 total=1\n"
    "full avg10=0.75 avg60=0 avg300=0 total=0\n",
    "proc/diskstats": "   7       0 loop0 9 0 9 0 9 0 9 0 0 0 0\n"
    " 254       0 vda 10 0 100 5 20 0 200 5 0 5 5\n"
    " 254       1 vda1 10 0 100 5 20 0 200 5 0 5 5\n 259       0 nvme0n1 1 0 1 5 2 0 2 5 0 5 5\n",
    "proc/net/dev": "Inter-|   Receive                                                |  Transmit\n"
    " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs\n"
    "    lo:  9999 1 0 0 0 0 0 0 9999 1 0 0 0 0 0 0\n"
    "  eth0:  1000 1 0 0 0 0 0 0 500 1 0 0 0 0 0 0\n  eth1:2000 1 0 0 0 0 0 0 700 1 0 0 0 0 0 0\n",
    "sys/block/vda/device/model": "",
    "sys/block/nvme0n1/device/model": "",
    "sys/fs/cgroup/memory.stat": "",
    "sys/fs/cgroup/user/memory.max": "1000000\n",
    "sys/fs/cgroup/user/memory.current": "600000\n",
    "sys/fs/cgroup/user/memory.stat": "anon 1\ninactive_file 100000\n",
    "sys/fs/cgroup/user/app/memory.max": "max\n",
    "sys/fs/cgroup/user/app/memory.current": "500000\n",
}


def process(
    pid: int, comm: str, *, state: str = "S", ticks: int = 0, start: int = 100, pages: int = 1
) -> dict[str, str]:
    fields = [state, *["0"] * 10, str(ticks), "0", *["0"] * 6, str(start), "0", str(pages), "0"]
    return {f"proc/{pid}/stat": f"{pid} ({comm}) {' '.join(fields)}\n"}


def write(root: Path, files: Mapping[str, str]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
