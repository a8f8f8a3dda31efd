"""What the tests of `sandbox` share: a pool of launchers on a loop, commands, processes watched by pid."""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from custody.sandbox import Command, Launchers
from custody.sandbox.launcher.tree import children_of, stat_of

WAIT_SECONDS = 60.0  # for what happens within milliseconds on a machine that is not overloaded


@asynccontextmanager
async def launchers(**options: Any) -> AsyncIterator[Launchers]:
    pool = Launchers(**options)
    try:
        yield pool
    finally:
        await pool.close()


def command(*argv: str, **options: Any) -> Command:
    """With bounds that only one that hangs comes up against, unless others are given."""
    usual: dict[str, Any] = {"cwd": "/", "environment": {"PATH": os.environ["PATH"]}}
    usual |= {"deadline_seconds": 100.0, "grace_seconds": 60.0}
    return Command(**{"argv": argv, **usual, **options})


def shell(text: str, **options: Any) -> Command:
    return command("sh", "-c", text, **options)


def run_with(body: Callable[[Launchers], Awaitable[Any]], **options: Any) -> Any:
    """Run `body` with launchers of its own, on a loop of its own."""

    async def main() -> Any:
        async with launchers(**options) as pool:
            return await body(pool)

    return asyncio.run(main())


def run_one(wanted: Command, **options: Any) -> Any:
    return run_with(lambda pool: pool.run(wanted, **options))


def is_alive(pid: int) -> bool:
    found = stat_of(pid)
    return found is not None and not found.dead


def eventually(condition: Callable[[], Any]) -> Any:
    """The condition's first true value; fails when it has none for too long."""
    end = time.monotonic() + WAIT_SECONDS
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
    return value


async def eventually_async(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + WAIT_SECONDS
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.005)
    return value


def deadlines(first_seconds: float) -> Iterator[float]:
    """For a command that is to be ended in the midst of something, each twice as late as the one before: on a
    busy machine it may not have come so far by the first."""
    for doubled in range(8):
        yield first_seconds * 2**doubled
    raise AssertionError("it never came so far")


async def have_waiting(run: Callable[[int], Awaitable[Any]]) -> int:
    """From here on a launcher waits for the next command like those that are run: its process."""
    for number in range(10):
        await run(number)
        end = time.monotonic() + 0.1 * 2**number  # the next run may take one that was not ready yet
        while time.monotonic() < end:
            if waiting := [pid for pid in launcher_pids() if waits(pid)]:
                return waiting[0]
            await asyncio.sleep(0.005)
    raise AssertionError("no launcher waits")


def mounts(*ours: Path) -> list[str]:
    """Where something is mounted, but for what other tests mount in their temporary folders meanwhile."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    theirs = os.path.join(tempfile.gettempdir(), "pytest-of-")
    return sorted(
        place
        for place in (line.split()[4] for line in lines)
        if not place.startswith(theirs) or any(Path(place).is_relative_to(folder) for folder in ours)
    )


def pids_in(folder: Path) -> list[int]:
    """The pids that scripts wrote, one a file called after what it is (`*.new` is still being written)."""
    return [int(text) for path in folder.glob("*[!w]") if (text := path.read_text().strip())]


def launcher_pids() -> list[int]:
    """The template they are forked of is none."""
    return [pid for pid in children_of(os.getpid()) if _kind(pid) == "launcher"]


def waits(pid: int) -> bool:
    """A launcher that is walled in but for the views of its command."""
    for inner in children_of(pid):
        try:
            text = Path(f"/proc/{inner}/status").read_text()
        except OSError:
            continue
        return "CapBnd:\t0000000000000000" in text and "CapEff:\t0000000000000000" not in text
    return False


def template_pids() -> list[int]:
    return [pid for pid in children_of(os.getpid()) if _kind(pid) == "template"]


def is_asleep(pid: int) -> bool:
    found = stat_of(pid)
    return found is not None and found.state == b"S"


def _kind(pid: int) -> str:
    """A launcher forked of a template has its arguments, and at first its name; it takes a name of its own
    before it leads a session, as the template always does."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        text = Path(f"/proc/{pid}/stat").read_text()  # the session is looked up before the name is
    except OSError:
        return ""
    if not any(argument.endswith(b"/program.py") for argument in arguments):
        return ""
    name, session = text[text.index("(") + 1 : text.rindex(")")], int(text[text.rindex(")") :].split()[4])
    return "template" if b"template" in arguments and session == pid and name != "launcher" else "launcher"
