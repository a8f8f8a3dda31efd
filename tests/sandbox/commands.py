"""What the tests of `sandbox` share: a pool of launchers on a loop, commands, processes watched by pid."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from custody.sandbox import Command, Launchers
from custody.sandbox.launcher.tree import children_of, stat_of

WAIT_SECONDS = 10.0  # for what happens within milliseconds on a machine that is not overloaded


@asynccontextmanager
async def launchers(**options: Any) -> AsyncIterator[Launchers]:
    pool = Launchers(**options)
    try:
        yield pool
    finally:
        await pool.close()


def command(*argv: str, **options: Any) -> Command:
    return Command(**{"argv": argv, "cwd": "/", "environment": {"PATH": os.environ["PATH"]}, **options})


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
