"""File work through the tools, beside the plain system calls: what guarding, recording and undoing cost.

*Records* is a call of a tool that does nothing, with the same arguments, result and effect. A plain
write is as safe against a crash as ours: temporary file, sync, rename, sync of the folder.
"""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import custody
from harness import Measurement, Timing, arguments, never_refused, report, scratch, settle
from memory_and_size import resident_bytes

RATIO_MAX = 3.0
CONTENT = ("A line of an ordinary file, sixty-four characters with its end.\n" * 64)[:4096]
PLAIN_READ, PLAIN_WRITE, RECORDS = "plain open, fstat, read, close", "plain atomic write", "records of a call"
UNDO_FILES = 1_000
UNDO_SECONDS_MAX = 1.0
GROWTH_MB_MAX = 5.0
WARM_UP_CALLS = 500

RESULT: dict[str, Any] = {}
"""What `file_read` gave, for the tool that only gives it back."""


@custody.tool(effect="read")
async def give_back(path: str) -> dict[str, Any]:
    return RESULT


@custody.tool(effect="write")
async def take(path: str, content: str) -> dict[str, Any]:
    return {"path": path, "bytes_written": len(content)}


def plain_read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def plain_write(folder: Path, name: str, content: bytes) -> None:
    temporary = f"{folder}/.{name}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    os.write(descriptor, content)
    os.fsync(descriptor)
    os.close(descriptor)
    os.rename(temporary, f"{folder}/{name}")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fsync(descriptor)
    os.close(descriptor)


async def measure(workspace: Path, run: Any, rounds: int, calls: int) -> dict[str, Timing]:
    """Each way in turns; ours are awaited where they would be, on the loop."""
    (workspace / "read.txt").write_text(CONTENT)
    contents = [CONTENT, CONTENT.swapcase()]
    RESULT.update((await run.call("file_read", {"path": "read.txt"})).result)
    number = [0]

    def other() -> str:
        number[0] += 1
        return contents[number[0] % 2]

    async def plainly_read() -> None:
        plain_read(f"{workspace}/read.txt")

    async def plainly_written() -> None:
        plain_write(workspace, "plain.txt", other().encode())

    ways = {
        "file_read": lambda: run.call("file_read", {"path": "read.txt"}),
        "read records": lambda: run.call(give_back, {"path": "read.txt"}),
        "plain read": plainly_read,
        "file_write": lambda: run.call("file_write", {"path": "written.txt", "content": other()}),
        "write records": lambda: run.call(take, {"path": "written.txt", "content": other()}),
        "plain write": plainly_written,
    }
    times: dict[str, list[int]] = {name: [] for name in ways}
    clock = time.perf_counter_ns
    for turn in range(rounds + 1):
        for name, way in ways.items():
            for _ in range(calls):
                start = clock()
                call = await way()
                if turn:
                    times[name].append(clock() - start)
                assert call is None or call.outcome == "succeeded", call
    return {name: Timing.of(taken) for name, taken in times.items()}


async def undo_of_many(runtime: Any, workspace: Path, files: int) -> float:
    """Seconds that it takes to give back a folder of so many small files that was deleted."""
    folder = workspace / "many"
    folder.mkdir()
    for number in range(files):
        (folder / f"{number:04d}.txt").write_text(f"{number}\n" * 100)
    call = await runtime.call("file_delete", {"path": "many", "recursive": True}, timeout=60)
    assert call.outcome == "succeeded" and not folder.exists(), call
    start = time.perf_counter()
    undone = await runtime.call("undo", {"call": call.id}, timeout=60)
    seconds = time.perf_counter() - start
    assert undone.outcome == "succeeded" and len(os.listdir(folder)) == files, undone
    return seconds


async def growth_mb(run: Any, calls: int) -> float:
    async def work(count: int) -> None:
        for number in range(count // 2):
            await run.call("file_write", {"path": f"{number % 50}.txt", "content": CONTENT})
            await run.call("file_read", {"path": f"{number % 50}.txt"})

    await work(WARM_UP_CALLS)
    settle()
    before = resident_bytes()
    await work(calls)
    return (resident_bytes() - before) / 1e6


async def every(folder: Path, rounds: int, files: int, calls: int) -> tuple[dict[str, Timing], float, float]:
    workspace = folder / "workspace"
    workspace.mkdir()
    async with custody.open(str(folder / "store"), cwd=str(workspace)) as runtime:
        async with runtime.run("benchmark") as run:
            timings = await measure(workspace, run, rounds, 20)
        seconds = await undo_of_many(runtime, workspace, files)
        async with runtime.run("benchmark") as run:
            return timings, seconds, await growth_mb(run, calls)


def beside_plain(what: str, ours: Timing, plain_name: str, plain: Timing, records: Timing) -> Measurement:
    return Measurement(
        row=9,
        what=what,
        value=ours.p50_us,
        unit="µs",
        target=f"≤ {RATIO_MAX:.0f} × plain + records",
        limit=RATIO_MAX * plain.p50_us + records.p50_us,
        peers={plain_name: plain.p50_us, RECORDS: records.p50_us},
    )


def main() -> None:
    options = arguments(
        __doc__,
        rounds=(30, "rounds of 20 calls of each way"),
        calls=(10_000, "calls whose memory is measured"),
    )
    share = 10 if options.quick else 1
    with scratch() as folder:
        never_refused(folder)
        settle()
        timings, undo_seconds, growth = asyncio.run(
            every(folder, max(2, options.rounds // share), UNDO_FILES, options.calls // share)
        )
    of = timings.__getitem__
    measurements = [
        beside_plain(
            "file_read of 4 KB, p50", of("file_read"), PLAIN_READ, of("plain read"), of("read records")
        ),
        beside_plain(
            "file_write of 4 KB, undoable, p50",
            of("file_write"),
            PLAIN_WRITE,
            of("plain write"),
            of("write records"),
        ),
        Measurement(
            row=9,
            what=f"undo of a deleted folder of {UNDO_FILES:,} files",
            value=undo_seconds,
            unit="s",
            target=f"≤ {UNDO_SECONDS_MAX:.0f} s",
            limit=UNDO_SECONDS_MAX,
        ),
        Measurement(
            row=9,
            what=f"memory growth over {options.calls:,} file calls",
            value=growth,
            unit="MB",
            target=f"≤ {GROWTH_MB_MAX:.0f} MB",
            limit=GROWTH_MB_MAX,
        ),
    ]
    report("files", measurements, timings, quick=options.quick)


if __name__ == "__main__":
    main()
