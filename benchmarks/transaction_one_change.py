"""Row 5, a transaction: one small change in a tree of 10,000 files, beside plain subprocess.run, the same
command behind walls alone, and bubblewrap with namespaces of its own, which holds nothing back.

Nothing is decided or recorded here. A transaction is all of it: the folders for its changes, the command, and
the changes found and durably held. Some time passes between two, as a caller looks at what is held; how long
one takes right after another is told too, and how long the first of a run. What is held is put in place once
for 1,000 changes, and taken back; beside it a loop that keeps nothing writes the same files anew, puts them
in place and syncs. Where many files have just been deleted, the file system takes long to make others.
"""

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from custody.changes import HeldStore, UndoStore, undo_call
from custody.journal.disk import RealDisk
from custody.sandbox import Command, Launchers
from custody.sandbox.walls import NAMED
from custody.sandbox.walls.machine import Machine, look_at_machine
from harness import Measurement, Timing, arguments, report, scratch, settle

RATIO_MAX = 4.0
UNDO_SECONDS_MAX = 1.0
FOLDERS, FILES = 100, 100  # of the tree: 10,000 files
CHANGES = 1_000  # of the transaction that is committed and undone
CHANGE = ("/bin/sh", "-c", "echo x > d7/f7")
AT_ONCE = ("/bin/sh", "-c", "echo x > d7/f8")  # the same, in the tree itself
MANY = ("/bin/sh", "-c", "for d in 0 1 2 3 4 5 6 7 8 9; do for f in d$d/*; do echo changed > $f; done; done")
PAUSE_SECONDS = 0.03
STARTS = 20
PLAIN, WALLS, BUBBLEWRAP = "subprocess.run", "walls alone", "bubblewrap, all namespaces"
TRANSACTION, IN_A_ROW, FIRST = (
    "transaction",
    "transaction, right after another",
    "transaction, first of a run",
)
COMMIT, UNDO, ANEW = "putting them in place", "undo", "the same files written anew"
HELD, RAN, FOUND = "of it: folders", "of it: command", "of it: changes found and held"
CONTENT = "A line of an ordinary file, sixty-four characters with its end.\n"


def tree(folder: Path) -> Path:
    root = folder / "tree"
    for number in range(FOLDERS):
        (root / f"d{number}").mkdir(parents=True)
        for file in range(FILES):
            (root / f"d{number}" / f"f{file}").write_text(CONTENT, encoding="utf-8")
    return root


def bubblewrap(root: Path) -> list[str] | None:
    """The same command behind walls like ours, where bubblewrap is installed and works."""
    if shutil.which("bwrap") is None:
        return None
    command = ["bwrap", "--unshare-all", "--as-pid-1", "--ro-bind", "/", "/", "--dev", "/dev",
               "--proc", "/proc", "--tmpfs", "/tmp", "--bind", str(root), str(root), "--chdir", str(root),
               *AT_ONCE]  # fmt: skip
    return command if subprocess.run(command, capture_output=True).returncode == 0 else None


class Transactions:
    """Transactions in one tree, and how long each took."""

    def __init__(self, folder: Path, root: Path, machine: Machine) -> None:
        self.held = HeldStore(lambda: str(folder / "held"))
        self.launchers = Launchers(look_at_machine=lambda: machine)
        self.times: dict[str, list[int]] = {}
        self._root = os.path.realpath(root)
        self._number = 0

    def _took(self, name: str, since_ns: int) -> None:
        self.times.setdefault(name, []).append(time.perf_counter_ns() - since_ns)

    def command(self, argv: tuple[str, ...], run_id: str) -> Command:
        return Command(
            argv=argv, cwd=self._root, environment=dict(os.environ), sandbox=NAMED["workspace"],
            roots=(self._root,), run_id=run_id, deadline_seconds=None,
        )  # fmt: skip

    async def walls(self) -> None:
        start = time.perf_counter_ns()
        finished = await self.launchers.run(self.command(AT_ONCE, "walls"))
        self._took(WALLS, start)
        assert finished.exit_code == 0, finished

    async def hold(self, name: str, argv: tuple[str, ...], changes: int, run_id: str = "run") -> bytes:
        """The call whose changes are held now."""
        self._number += 1
        call_id = self._number.to_bytes(8, "big")
        start = time.perf_counter_ns()
        holding = self.held.begin(call_id, [self._root])
        begun = time.perf_counter_ns()
        command = msgspec.structs.replace(self.command(argv, run_id), views=holding.views)
        finished = await self.launchers.run(command)
        ran = time.perf_counter_ns()
        held = holding.settle()
        self._took(name, start)
        if name == TRANSACTION:
            for part, taken in ((HELD, begun - start), (RAN, ran - begun)):
                self.times.setdefault(part, []).append(taken)
            self._took(FOUND, ran)
        assert finished.exit_code == 0 and len(held.changes) == changes, (finished, held.changes[:3])
        return call_id


async def measure(
    folder: Path, machine: Machine, calls: int, starts: int
) -> tuple[dict[str, Timing], dict[str, float]]:
    root = tree(folder)
    wrapped = bubblewrap(root)
    if wrapped is None:
        print("bubblewrap is not here, or does not work here: left out")
    ours = Transactions(folder, root, machine)
    outside = {PLAIN: list(AT_ONCE), **({} if wrapped is None else {BUBBLEWRAP: wrapped})}

    def run_outside(name: str) -> None:
        start = time.perf_counter_ns()
        subprocess.run(outside[name], cwd=root)
        ours.times.setdefault(name, []).append(time.perf_counter_ns() - start)

    async def one(name: str, run_id: str = "run") -> None:
        ours.held.discard(await ours.hold(name, CHANGE, 1, run_id))

    try:
        await ours.walls()
        await one("warm-up")
        await in_turns(one, ours.walls, run_outside, list(outside), calls)
        for _ in range(calls):
            await one(IN_A_ROW)
        for number in range(starts):
            await one(FIRST, f"run {number}")
            ours.launchers.end_run(f"run {number}")
            await asyncio.sleep(PAUSE_SECONDS)
        seconds = await commit_and_undo(ours, folder)
    finally:
        await ours.launchers.close()
    del ours.times["warm-up"]
    return {name: Timing.of(taken) for name, taken in ours.times.items()}, seconds


async def in_turns(
    one: Callable[[str], Awaitable[None]],
    walls: Callable[[], Awaitable[None]],
    run_outside: Callable[[str], None],
    outside: list[str],
    calls: int,
) -> None:
    """Every way once, and again: a noisy second hits all of them."""
    for _ in range(calls):
        await asyncio.sleep(PAUSE_SECONDS)
        await one(TRANSACTION)
        await asyncio.sleep(PAUSE_SECONDS)
        await walls()
        for name in outside:  # blocking the loop is right: each way is to be alone
            await asyncio.sleep(PAUSE_SECONDS)
            run_outside(name)


async def commit_and_undo(ours: Transactions, folder: Path) -> dict[str, float]:
    """Seconds to put many held changes in place, to take them back, and to write as many files."""
    call_id = await ours.hold("many", MANY, CHANGES)
    undo = UndoStore(RealDisk(folder / "store"))
    start = time.perf_counter()
    ours.held.commit(undo, b"commit 1", call_id)
    committed = time.perf_counter()
    undone = undo_call(undo, b"commit 1", b"undone 1")
    ended = time.perf_counter()
    assert len(undone.changes) == CHANGES, undone
    written = write_anew([Path(change.path) for change in undone.changes])
    return {COMMIT: committed - start, UNDO: ended - committed, ANEW: written}


def write_anew(paths: list[Path]) -> float:
    """Seconds that the file system alone takes for it: another file beside each, all synced, then renamed."""
    start = time.perf_counter()
    for path in paths:
        with open(f"{path}.new", "wb") as file:
            file.write(CONTENT.encode())
    os.sync()
    for path in paths:
        os.replace(f"{path}.new", path)
    os.sync()
    return time.perf_counter() - start


def main() -> None:
    options = arguments(__doc__, calls=(100, "calls of each"))
    calls = max(10, options.calls // (10 if options.quick else 1))
    machine = look_at_machine()
    if machine.missing or not machine.overlay:
        print("transactions have no overlays here: `custody doctor` says why")
        return
    with scratch() as folder:
        settle()
        timings, seconds = asyncio.run(measure(folder, machine, calls, 5 if options.quick else STARTS))
    beside = {name: timings[name].p50_us for name in (PLAIN, BUBBLEWRAP, WALLS) if name in timings}
    measurements = [
        Measurement(
            row=5,
            what=f"transaction, one change in {FOLDERS * FILES:,} files, held, nothing recorded, p50",
            value=timings[TRANSACTION].p50_us,
            unit="µs",
            target=f"≤ {RATIO_MAX:g} × subprocess.run",
            limit=RATIO_MAX * beside[PLAIN],
            peers=beside,
        ),
        Measurement(
            row=9,
            what=f"undo of a committed transaction that changed {CHANGES:,} files",
            value=seconds.pop(UNDO),
            unit="s",
            target=f"≤ {UNDO_SECONDS_MAX:g} s",
            limit=UNDO_SECONDS_MAX,
            peers=seconds,
        ),
    ]
    report("transaction_one_change", measurements, timings, quick=options.quick)
    for name in (HELD, RAN, FOUND, IN_A_ROW, FIRST):
        print(f"{name}: p50 {timings[name].p50_us / 1e3:.2f} ms, p99 {timings[name].p99_us / 1e3:.2f} ms")


if __name__ == "__main__":
    main()
