"""A launcher that is walled in before it is known for which transaction: it serves one, sees the tree as it
is by then, and is not used where it would see another one. Whatever becomes of it, the command runs.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from tests.sandbox.commands import (
    WAIT_SECONDS,
    eventually,
    eventually_async,
    have_waiting,
    is_alive,
    launcher_pids,
)
from tests.sandbox.places import WORKSPACE, Place
from tests.sandbox.test_many import counted, left_in

from custody.errors import LauncherLost, SandboxError
from custody.sandbox import Command, Finished, Launchers, spare
from custody.sandbox.launcher.tree import children_of
from custody.sandbox.walls import View

STOPPED = 19  # SIGSTOP


class Transactions:
    """Transactions over some roots of a place, each with folders of its own in one store."""

    def __init__(self, place: Place, *more_roots: str) -> None:
        self.place = place
        self.roots = (place.workspace, *more_roots)
        self.store = place.folder / "store"
        self.store.mkdir(mode=0o700)
        os.chown(self.store, place.uid, place.uid)
        self.root = Path(place.workspace)
        self.write("lower", "as it was")
        self._number = 0

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text)
        os.chown(self.root / name, self.place.uid, self.place.uid)

    def command(self, script: str, **options: Any) -> tuple[Command, list[Path]]:
        """A command, and where its changes will lie."""
        self._number += 1
        views: list[View] = []
        for number, root in enumerate(self.roots):
            folder = self.store / str(self._number) / str(number)
            found = os.stat(root)
            for name in ("upper", "work"):
                (folder / name).mkdir(parents=True)
                os.chmod(folder / name, found.st_mode & 0o7777)
                os.chown(folder / name, found.st_uid, found.st_gid)
            views.append(View(root, "overlay", f"{folder}/upper", f"{folder}/work", str(self.store)))
        uppers = [Path(view.upper) for view in views]
        wanted = {"roots": self.roots, "views": tuple(views), **options}
        return self.place.shell(script, **wanted), uppers

    async def run(self, pool: Launchers, script: str, **options: Any) -> tuple[Finished, Path]:
        wanted, uppers = self.command(script, **options)
        return await pool.run(wanted), uppers[0]

    async def run_in_spare(self, pool: Launchers, script: str, **options: Any) -> tuple[Finished, Path]:
        """In one that waits now."""
        waiting = await self.have_spare(pool, **options)
        finished, upper = await self.run(pool, script, **options)
        await eventually_async(lambda: not is_alive(waiting))
        assert sorted(os.listdir(upper.parent)) == ["upper", "work"], "another launcher served it"
        return finished, upper

    async def have_spare(self, pool: Launchers, **options: Any) -> int:
        """From here on one waits for the next: its process."""
        return await have_waiting(lambda _: self.run(pool, "true", **options))


@pytest.fixture
def ours(place: Place) -> Transactions:
    if place.machine.missing or not place.machine.overlay:
        pytest.skip("no overlay can be had behind walls here")
    return Transactions(place)


def test_every_transaction_has_changes_of_its_own_and_the_root_stays_as_it_is(ours: Transactions) -> None:
    async def body(pool: Launchers) -> list[Any]:
        found: list[list[str]] = []
        for number in range(3):
            script = f"cat lower; ls; echo x >made{number}; rm lower"
            finished, upper = await ours.run_in_spare(pool, script)
            assert finished.stdout.data == b"as it waslower\n", finished
            found.append(sorted(os.listdir(upper)))
        return found

    assert ours.place.run(body) == [["lower", f"made{number}"] for number in range(3)]
    assert os.listdir(ours.root) == ["lower"]
    assert (ours.root / "lower").read_text() == "as it was"


def test_what_was_changed_in_the_root_since_is_seen_and_what_is_made_belongs_to_its_owner(
    ours: Transactions,
) -> None:
    async def body(pool: Launchers) -> list[Any]:
        waiting = await ours.have_spare(pool)
        ours.write("lower", "changed")
        ours.write("new", " and new")
        (ours.root / "folder").mkdir()
        finished, upper = await ours.run(pool, "cat lower new; ls; echo x >>lower; mkdir made")
        await eventually_async(lambda: not is_alive(waiting))
        assert sorted(os.listdir(upper.parent)) == ["upper", "work"], "another launcher served it"
        owners = {path.lstat().st_uid for path in (upper, upper / "lower", upper / "made")}
        return [finished.stdout.data.decode(), sorted(owners)]

    assert ours.place.run(body) == ["changed and newfolder\nlower\nnew\n", [ours.place.uid]]


def test_a_root_that_was_replaced_is_the_one_that_is_seen(ours: Transactions) -> None:
    async def body(pool: Launchers) -> str:
        await ours.have_spare(pool)
        ours.root.rename(ours.root.with_name("moved"))
        ours.root.mkdir()
        os.chown(ours.root, ours.place.uid, ours.place.uid)
        ours.write("lower", "another one")
        return (await ours.run(pool, "cat lower"))[0].stdout.data.decode()

    assert ours.place.run(body) == "another one"


def test_a_root_that_was_given_away_is_shown_as_its_new_owners(ours: Transactions) -> None:
    if os.getuid() != 0 or ours.place.uid != 0:
        pytest.skip("only root gives folders away")

    async def body(pool: Launchers) -> int:
        waiting = await ours.have_spare(pool)
        for path in (ours.root, ours.root / "lower"):
            os.chown(path, 70_007, 70_007)
        _, upper = await ours.run(pool, "echo x >lower")
        assert is_alive(waiting)  # it was not the one
        return (upper / "lower").stat().st_uid

    assert ours.place.run(body) == 70_007


SECONDS_LOST = pytest.param("stopped", marks=pytest.mark.long)  # as for any launcher: until it is given up


@pytest.mark.parametrize("what", ["killed", SECONDS_LOST, "its pid 1 killed", "its pid 1 stopped"])
def test_one_that_cannot_serve_is_not_missed(
    ours: Transactions, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spare, "READY_SECONDS", 0.1)

    async def body(pool: Launchers) -> str:
        outside = await ours.have_spare(pool)
        (inside,) = children_of(outside)
        os.kill(inside if "pid 1" in what else outside, 9 if "killed" in what else STOPPED)
        said = (await ours.run(pool, "cat lower"))[0].stdout.data.decode()
        if what == "its pid 1 stopped":  # that of its process outside changes nothing
            await eventually_async(lambda: not is_alive(outside))
        return said

    assert ours.place.run(body) == "as it was"


def test_one_that_is_told_of_other_folders_than_are_there_refuses_and_is_not_missed(
    ours: Transactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = spare._told  # pyright: ignore[reportPrivateUsage]

    def wrong(command: Command, wanted: spare.Like) -> bytes:
        swapped = wanted.roots[0][0], wanted.roots[0][1] + 1, *wanted.roots[0][2:]
        return told(command, spare.structs.replace(wanted, roots=(swapped,)))

    monkeypatch.setattr(spare, "_told", wrong)

    async def body(pool: Launchers) -> list[str]:
        waiting = await ours.have_spare(pool)
        finished, upper = await ours.run(pool, "cat lower; echo x >made")
        await eventually_async(lambda: not is_alive(waiting))
        assert "work-again" in os.listdir(upper.parent)
        return [finished.stdout.data.decode(), *os.listdir(upper)]

    assert ours.place.run(body) == ["as it was", "made"]


def test_one_that_is_killed_just_before_it_is_handed_its_command_is_not_missed(
    ours: Transactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = spare.Spares.take

    async def taken(self: spare.Spares, wanted: Command) -> Any:
        launcher, wanted = await take(self, wanted)
        if launcher is not None:
            inside = list(children_of(launcher.pid))
            os.kill(launcher.pid, 9)
            eventually(lambda: not any(map(is_alive, [launcher.pid, *inside])))
        return launcher, wanted

    monkeypatch.setattr(spare.Spares, "take", taken)

    async def body(pool: Launchers) -> list[Any]:
        await ours.have_spare(pool)
        finished, upper = await ours.run(pool, "cat lower; echo x >>ran")
        assert "work-again" in os.listdir(upper.parent)
        return [finished.stdout.data.decode(), (upper / "ran").read_text()]

    assert ours.place.run(body) == ["as it was", "x\n"]


def test_where_they_fail_again_and_again_no_more_are_made(
    ours: Transactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spare, "FAILED_MAX", 1)

    async def body(pool: Launchers) -> list[int]:
        os.kill(await ours.have_spare(pool), 9)
        await eventually_async(lambda: not launcher_pids())
        await ours.run(pool, "true")
        await asyncio.sleep(10 * spare.SPARE_DELAY_SECONDS)
        await eventually_async(lambda: not launcher_pids())  # a spare would still be there
        return launcher_pids()

    assert ours.place.run(body) == []


def test_one_made_when_we_might_do_something_else_is_not_used(ours: Transactions) -> None:
    async def body(pool: Launchers) -> str:
        waiting = await ours.have_spare(pool)
        before = os.umask(0o077)
        try:
            said = (await ours.run(pool, "cat lower; umask"))[0].stdout.data.decode()
        finally:
            os.umask(before)
        await eventually_async(lambda: not is_alive(waiting))
        return said

    assert ours.place.run(body) == "as it was0077\n"


def test_another_working_directory_or_sandbox_has_another_one(ours: Transactions) -> None:
    async def body(pool: Launchers) -> list[str]:
        waiting = await ours.have_spare(pool)
        (ours.root / "folder").mkdir()
        elsewhere = await ours.run(pool, "pwd", cwd=str(ours.root / "folder"))
        narrower = await ours.run(pool, "cat lower", sandbox=structs.replace(WORKSPACE, network="none"))
        assert is_alive(waiting)
        return [one.stdout.data.decode() for one, _ in (elsewhere, narrower)]

    assert ours.place.run(body) == [f"{ours.root}/folder\n", "as it was"]


def test_one_may_serve_another_run_as_no_command_has_been_there(ours: Transactions) -> None:
    async def body(pool: Launchers) -> list[Any]:
        waiting = await ours.have_spare(pool, run_id="one")
        pool.end_run("one")
        script = "ls -A /tmp ~ | grep -v gitconfig; touch /tmp/left ~/left"
        first = await ours.run(pool, script, run_id="two")
        await eventually_async(lambda: not is_alive(waiting))
        second = await ours.run_in_spare(pool, script, run_id="two")
        return [one.stdout.data.decode() for one, _ in (first, second)]

    first, second = ours.place.run(body)
    assert first == second
    assert "left" not in first


def test_each_has_a_user_of_its_own(ours: Transactions) -> None:
    if ours.place.uid != 0:
        pytest.skip("an ordinary user's commands stay that user")

    async def body(pool: Launchers) -> list[str]:
        every = [await ours.run_in_spare(pool, "id -u") for _ in range(3)]
        return [finished.stdout.data.decode() for finished, _ in every]

    said = ours.place.run(body)
    assert len(set(said)) == 3
    assert "0\n" not in said


def test_roots_of_several_owners_are_each_shown_as_the_commands(place: Place) -> None:
    if place.uid != 0 or not place.machine.overlay:
        pytest.skip("only root works in the folders of others")
    other = place.folder / "other"
    other.mkdir()
    os.chown(other, 70_008, 70_008)
    ours = Transactions(place, str(other))

    async def body(pool: Launchers) -> list[int]:
        waiting = await ours.have_spare(pool)
        wanted, uppers = ours.command(f"echo x >made; echo x >{other}/made")
        finished = await pool.run(wanted)
        assert finished.exit_code == 0, finished
        await eventually_async(lambda: not is_alive(waiting))
        assert sorted(os.listdir(uppers[0].parent)) == ["upper", "work"], "another launcher served it"
        return [(upper / "made").stat().st_uid for upper in uppers]

    assert place.run(body) == [0, 70_008]
    assert os.listdir(other) == []


def test_neither_the_store_nor_the_root_under_its_view_can_be_reached(ours: Transactions) -> None:
    async def body(pool: Launchers) -> str:
        script = (
            f"ls -A {ours.store}; echo x >{ours.store}/x; umount {ours.root}; umount -l .; "
            f"echo x >/proc/1/root{ours.root}/y; echo x >/proc/self/root{ours.root}/z; ls; ls /proc/1/fd"
        )
        return (await ours.run_in_spare(pool, f"exec 2>/dev/null; {script}"))[0].stdout.data.decode()

    assert ours.place.run(body) in ("lower\nz\n", "lower\ny\nz\n")
    assert os.listdir(ours.root) == ["lower"]
    assert not (ours.store / "x").exists()


def test_when_it_is_finished_nothing_runs_behind_its_walls_any_more(ours: Transactions) -> None:
    async def body(pool: Launchers) -> list[int]:
        text = "readlink /proc/self/ns/pid; setsid sh -c 'trap \"\" TERM; while :; do echo x >>grows; done' &"
        await ours.have_spare(pool)
        finished, upper = await ours.run(pool, text, grace_seconds=0.05)
        left = left_in({finished.stdout.data.decode().strip()})
        assert finished.tree_killed, finished
        assert sorted(os.listdir(upper.parent)) == ["upper", "work"], "another launcher served it"
        return left

    assert ours.place.run(body) == []


def test_one_that_is_killed_with_its_command_is_lost_and_the_command_is_not_run_again(
    ours: Transactions,
) -> None:
    async def body(pool: Launchers) -> list[Any]:
        waiting = await ours.have_spare(pool)
        began = asyncio.Event()
        wanted, (upper,) = ours.command("echo ran >>ran; echo; exec sleep 300")
        running = asyncio.create_task(pool.run(wanted, on_output=lambda name, data: began.set()))
        await asyncio.wait_for(began.wait(), WAIT_SECONDS)
        os.kill(waiting, 9)
        with pytest.raises(LauncherLost):
            await running
        return [(upper / "ran").read_text()]

    assert ours.place.run(body) == ["ran\n"]


def test_one_that_nobody_uses_ends_and_leaves_nothing_behind(
    ours: Transactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spare, "SPARE_SECONDS", 1.0)

    async def body(pool: Launchers) -> list[int]:
        waiting = await ours.have_spare(pool)
        namespaces = {os.readlink(f"/proc/{waiting}/ns/{kind}") for kind in ("mnt", "ipc", "net")}
        before = len(os.listdir("/proc/self/fd"))
        await eventually_async(lambda: not launcher_pids())
        assert len(os.listdir("/proc/self/fd")) < before
        await eventually_async(lambda: not left_in(namespaces))  # they end as the launcher outside is killed
        return left_in(namespaces)

    before = counted()
    assert ours.place.run(body) == []
    assert counted() == before


def test_those_that_wait_end_with_the_runtime(ours: Transactions) -> None:
    async def body(pool: Launchers) -> list[int]:
        return [await ours.have_spare(pool)]

    before = counted()
    (waiting,) = ours.place.run(body)
    assert not is_alive(waiting)
    assert counted() == before


def test_there_are_never_more_than_a_few(ours: Transactions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare, "SPARES_MAX", 1)

    async def body(pool: Launchers) -> list[int]:
        waiting = await ours.have_spare(pool)
        (ours.root / "folder").mkdir()
        for _ in range(3):
            await ours.run(pool, "true", cwd=str(ours.root / "folder"))
            await asyncio.sleep(2 * spare.SPARE_DELAY_SECONDS)
        await eventually_async(lambda: len(launcher_pids()) == 1)
        return [pid for pid in launcher_pids() if pid != waiting]

    assert ours.place.run(body) == []


def test_one_that_is_cancelled_while_its_walls_go_up_is_gone(ours: Transactions) -> None:
    async def body(pool: Launchers) -> str:
        for steps in range(4):
            waiting = await ours.have_spare(pool)
            wanted, _ = ours.command("exec sleep 300")
            running = asyncio.create_task(pool.run(wanted))
            for _ in range(steps):
                await asyncio.sleep(0)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            if steps:
                await eventually_async(lambda pid=waiting: not is_alive(pid))
        return (await ours.run(pool, "cat lower"))[0].stdout.data.decode()

    assert ours.place.run(body) == "as it was"


def test_one_whose_pool_is_closed_while_its_walls_go_up_is_gone(ours: Transactions) -> None:
    async def body(pool: Launchers) -> list[int]:
        waiting = await ours.have_spare(pool)
        wanted, _ = ours.command("true")
        running = asyncio.create_task(pool.run(wanted))
        await asyncio.sleep(0)
        await pool.close()
        await asyncio.wait([running])
        assert not is_alive(waiting)
        return launcher_pids()

    before = counted()
    assert ours.place.run(body) == []
    assert counted() == before


def test_a_store_that_is_gone_is_told_as_ever(ours: Transactions) -> None:
    async def body(pool: Launchers) -> str:
        await ours.have_spare(pool)
        wanted, _ = ours.command("true")
        ours.store.rename(ours.store.with_name("elsewhere"))
        with pytest.raises(SandboxError) as raised:
            await pool.run(wanted)
        return str(raised.value.details.get("wall", raised.value))

    assert ours.place.run(body) == "overlay"
