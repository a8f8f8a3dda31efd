"""A limit that ended a command, or made it fail, is named; and what a command used is counted or unknown."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from tests.sandbox.commands import command, run_one, run_with, shell
from tests.sandbox.places import WORKSPACE, Place

from custody.calls.lifecycle import judge
from custody.sandbox import Command, Launchers, LimitHit
from custody.sandbox.cgroup import (
    Bounds,
    Cgroup,
    Used,
    bounding_folder,
    make_bounded,
    make_cgroup,
    parent_folder,
)
from custody.sandbox.launcher import messages
from custody.sandbox.launcher.messages import Reply
from custody.sandbox.limits import limit_hit, own_limits
from custody.tools import Ended

SMALL_MEMORY_BYTES = 8 * 16 * 1024**2
"""Of a machine on which a private folder has 16 MiB and 4,096 files."""


def with_small_folders(place: Place) -> None:
    place.machine = msgspec.structs.replace(place.machine, memory_bytes=SMALL_MEMORY_BYTES)


# -- of one process, by the kernel's own limits ----------------------------------------------------------


@pytest.mark.parametrize("text", ["exec head -c 9000 /dev/zero >f", "head -c 9000 /dev/zero >f; exit $?"])
def test_a_file_that_grew_too_large_is_named(tmp_path: Path, text: str) -> None:
    finished = run_one(shell(text, cwd=str(tmp_path), limits={"fsize": 5000}))
    assert finished.limit_hit == "file_size"
    assert (tmp_path / "f").stat().st_size == 5000


@pytest.mark.long
@pytest.mark.parametrize("text", ["while :; do :; done", "sh -c 'while :; do :; done'; exit $?"])
def test_processor_time_that_is_used_up_is_named(place: Place, text: str) -> None:
    async def body(pool: Launchers) -> str | None:
        return (await pool.run(place.shell(text, limits={"cpu": 1}))).limit_hit

    assert place.run(body) == "cpu_time"


def test_of_two_limits_the_lower_is_a_commands_own() -> None:
    sandbox = msgspec.structs.replace(WORKSPACE, limits={"cpu": 5, "fsize": 10})
    for own, expected in [
        ({}, {"cpu": 5}),
        ({"cpu": 3}, {"cpu": 3}),
        ({"cpu": 9, "fsize": 4}, {"cpu": 5, "fsize": 4}),
    ]:
        assert own_limits(command("true", sandbox=sandbox, limits=own)) == expected
    assert own_limits(command("true", sandbox=WORKSPACE, limits={"nofile": 9})) == {"nofile": 9}


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("kill -KILL $$", {"cpu": 100}),
        ("exit 153", {}),
        ("exit 137", {"cpu": 100}),
        ("exit 1", {"fsize": 5000, "cpu": 100}),
        ("exit 0", {"fsize": 5000}),
    ],
)
def test_an_end_that_only_looks_like_one_is_the_commands_own(text: str, limits: dict[str, int]) -> None:
    assert run_one(shell(text, limits=limits)).limit_hit is None


# -- of folders in memory ----------------------------------------------------------------------------------

FILES = """
import os, sys
os.mkdir("/tmp/many")
for number in range(int(sys.argv[1])):
    os.close(os.open(f"/tmp/many/{number}", os.O_CREAT | os.O_WRONLY))
"""


def test_a_private_folder_that_is_full_is_named(place: Place) -> None:
    with_small_folders(place)

    async def body(pool: Launchers) -> list[Any]:
        fill = "head -c 99999999 /dev/zero >{}/full"
        ended = [
            await pool.run(place.shell(fill.format("/dev/shm"), run_id="one")),
            await pool.run(place.shell(fill.format("$HOME"), run_id="two")),
            await pool.run(place.program(FILES, "5000", run_id="three")),
            await pool.run(place.shell(fill.format("/tmp") + "; exit 0", run_id="four")),
            await pool.run(place.shell(fill.format("/tmp") + " || rm /tmp/full; exit 5", run_id="five")),
        ]
        return [[finished.limit_hit, finished.exit_code] for finished in ended]

    assert place.run(body) == [["disk", 1], ["disk", 1], ["files", 1], [None, 0], [None, 5]]


# -- of a whole tree, by its group ---------------------------------------------------------------------------


def reply_of(status: int, **values: int) -> Reply:
    numbers = dict.fromkeys(Reply.__annotations__, 0)
    return Reply(**{**numbers, "kind": messages.ENDED, "status": status, **values})


@pytest.mark.parametrize(
    ("status", "limit", "used", "expected"),
    [
        (9, messages.NO_LIMIT, Used(memory_kills=3), "memory"),
        (9, messages.NO_LIMIT, Used(memory_kills=3, process_refusals=1), "memory"),
        (1 << 8, messages.NO_LIMIT, Used(process_refusals=1), "processes"),
        (0, messages.NO_LIMIT, Used(process_refusals=9), None),
        (1 << 8, messages.DISK, Used(process_refusals=1), "processes"),
        (1 << 8, messages.DISK, Used(), "disk"),
        (9, messages.DEADLINE, Used(memory_kills=1), "deadline"),
        (15, messages.CANCELLED, Used(process_refusals=1), "cancelled"),
        (9, messages.NO_LIMIT, Used(), None),
    ],
)
def test_what_a_group_came_up_against_is_named(
    status: int, limit: int, used: Used, expected: str | None
) -> None:
    assert limit_hit(command("true"), reply_of(status, limit=limit), used) == expected


@pytest.mark.parametrize(
    ("status", "used_us", "expected"),
    [
        (128 + signal.SIGXCPU << 8, 600_000, "cpu_time"),  # by ticks it was a second
        (128 + signal.SIGXCPU << 8, 100_000, None),
        (128 + signal.SIGKILL << 8, 900_000, "cpu_time"),
        (128 + signal.SIGKILL << 8, 600_000, None),
        (signal.SIGKILL, 600_000, None),
        (signal.SIGXCPU, 0, "cpu_time"),
    ],
)
def test_a_number_of_a_shell_counts_where_so_much_processor_time_was_used(
    status: int, used_us: int, expected: str | None
) -> None:
    reply = reply_of(status, user_us=used_us)
    assert limit_hit(command("true", limits={"cpu": 1}), reply, Used()) == expected


def kernels(folder: Path, **files: str) -> Cgroup:
    """A group as the kernel shows it where it has all controllers."""
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return Cgroup(str(folder))


def test_what_a_group_counted_is_read(tmp_path: Path) -> None:
    group = kernels(
        tmp_path,
        cpu__stat="usage_usec 30\nuser_usec 10\nsystem_usec 20\nnr_periods 0\n",
        memory__peak="4096\n",
        memory__events="low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 1\n",
        pids__events="max 4\n",
        io__stat="8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n253:1 rbytes=10 wbytes=20 rios=0\n",
    )
    assert group.used() == Used(
        user_us=10,
        system_us=20,
        memory_peak_bytes=4096,
        read_bytes=11,
        write_bytes=22,
        memory_kills=3,
        process_refusals=4,
    )


@pytest.mark.parametrize(
    "text", ["", "max\n", "a b c\n", "user_usec\n", "user_usec x\n", "8:0 rbytes=x wbytes=1\n"]
)
def test_what_a_group_does_not_count_is_unknown_and_never_0(tmp_path: Path, text: str) -> None:
    assert Cgroup("/nowhere").used() == Used()
    names = ("cpu__stat", "memory__peak", "memory__events", "pids__events")
    used = kernels(tmp_path, **dict.fromkeys(names, text), io__stat=text + "8:1 rbytes= wbytes=").used()
    assert used == Used()


def test_bounds_are_spelled_as_the_kernel_takes_them() -> None:
    assert Bounds().controllers() == ()
    bounds = Bounds(memory_bytes=1_000_000, processes=7, cpu_percent=150)
    assert bounds.controllers() == ("memory", "pids", "cpu")
    assert bounds.files() == [
        ("memory.max", "1000000"),
        ("memory.oom.group", "1"),
        ("pids.max", "7"),
        ("cpu.max", "150000 100000"),
    ]


@pytest.fixture
def own_folder() -> str:
    """Of the group this process is in, below which it may make others."""
    folder = parent_folder()
    if folder is None:
        pytest.skip("there is no second version of cgroups here")
    made = make_cgroup(folder)
    if made is None:
        pytest.skip(f"no cgroup can be made in {folder}")
    made.remove()
    return folder


@pytest.fixture
def group(own_folder: str) -> Iterator[Cgroup]:
    made = make_cgroup(own_folder)
    assert made is not None
    yield made
    for name in os.listdir(made.path):
        if os.path.isdir(os.path.join(made.path, name)):
            os.rmdir(os.path.join(made.path, name))
    made.remove()


def test_a_group_beside_ours_is_made_only_where_the_folder_was_handed_over(group: Cgroup) -> None:
    beside = os.path.join(group.path, "ours")
    os.mkdir(beside)
    assert bounding_folder(beside, ()) == beside  # nothing is wanted of it
    assert bounding_folder(beside, ("no-such-controller",)) is None
    os.setxattr(group.path, "user.delegate", b"1")
    assert bounding_folder(beside, ("no-such-controller",)) is None
    with open(os.path.join(group.path, "cgroup.controllers")) as file:
        there = file.read().split()
    for name in there:
        assert bounding_folder(beside, (name,)) == group.path


def test_a_bound_that_cannot_be_set_is_an_error_and_leaves_no_group(group: Cgroup) -> None:
    with open(os.path.join(group.path, "cgroup.controllers")) as file:
        if "pids" in file.read().split():
            pytest.skip("here it can be set")
    with pytest.raises(FileNotFoundError):
        make_bounded(group.path, Bounds(processes=5))
    assert [name for name in os.listdir(group.path) if name.startswith("custody-")] == []


def test_a_command_in_a_group_of_its_own_is_counted_by_it(
    own_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group without controllers, as every machine gives: it counts processor time."""
    made: list[Cgroup] = []

    def bounded_group(sandbox: object) -> Cgroup | None:
        made.append(one := make_cgroup(own_folder) or pytest.fail("no group"))
        return one

    monkeypatch.setattr("custody.sandbox.process.bounded_group", bounded_group)
    text = "cat /proc/self/cgroup; setsid sh -c 'i=0; while test $i -lt 30000; do i=$((i+1)); done'"
    wanted: dict[str, Any] = {"cwd": str(tmp_path), "roots": (str(tmp_path),), "sandbox": WORKSPACE}

    async def body(pool: Launchers) -> list[Any]:
        return [
            await pool.run(shell(text + "; cat /proc/1/cgroup", **wanted)),
            await pool.run(shell("cat", stdin=b"in", limits={"nofile": 50}, **wanted)),
            await pool.run(shell("printf y", **wanted, environment={"PATH": "/bin", "LONG": "x" * 100_000})),
        ]

    first, *others = run_with(body)
    its, *_, launchers = [line for line in first.stdout.data.decode().splitlines() if line.startswith("0::")]
    assert its.endswith(os.path.basename(made[0].path)) and its != launchers
    assert first.usage.user_us is not None and first.usage.user_us > 1000
    assert [finished.stdout.data for finished in others] == [b"in", b"y"]
    assert len({one.path for one in made}) == 3
    assert not any(os.path.exists(one.path) for one in made)


def bounded(place: Place) -> None:
    """Skips where this machine bounds no whole tree."""
    own = parent_folder()
    folder = None if own is None else bounding_folder(own, ("memory", "pids", "cpu"))
    if folder is None or place.uid != os.getuid():
        pytest.skip("no cgroup with controllers for memory, pids and cpu can be made here")


@pytest.mark.long
def test_a_tree_out_of_memory_or_processes_is_ended_and_named(place: Place) -> None:
    bounded(place)
    sandbox = msgspec.structs.replace(WORKSPACE, memory_bytes=64 * 1024**2, processes=20)

    async def body(pool: Launchers) -> list[Any]:
        fill = "head -c 500000000 /dev/zero >/dev/shm/full & wait $!"  # a folder in memory counts as memory
        hog = await pool.run(place.shell(fill, sandbox=sandbox))
        forks = "for n in $(seq 50); do sleep 60 & done; exit 1"
        many = await pool.run(place.shell(forks, sandbox=sandbox, grace_seconds=0.1))
        after = await pool.run(place.shell("exit 0", sandbox=sandbox))
        return [hog.limit_hit, many.limit_hit, after.limit_hit, hog.usage.memory_peak_bytes]

    *named, peak = place.run(body)
    assert named == ["memory", "processes", None]
    assert 32 * 1024**2 < peak <= 64 * 1024**2


# -- what it means for a call ------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [limit for limit in get_args(LimitHit) if limit != "output"])
@pytest.mark.parametrize(("exit_code", "signal"), [(1, None), (None, 9), (None, None)])
def test_a_call_that_came_up_against_a_limit_did_not_succeed(
    limit: LimitHit, exit_code: int | None, signal: int | None
) -> None:
    ended = Ended(started_ns=0, ended_ns=10**9, limit_hit=limit, exit_code=exit_code, signal=signal)
    judgement = judge(ended, 5.0)
    of_its_own = {"deadline": "timed_out", "cancelled": "cancelled"}
    assert judgement.outcome == of_its_own.get(limit, "failed")
    assert judgement.reason is not None
    if limit not in of_its_own:
        assert ("SIGKILL" in judgement.reason, "exit code 1" in judgement.reason) == (
            signal == 9,
            exit_code == 1,
        )


def test_usage_of_a_command_behind_walls_is_measured_or_unknown(place: Place) -> None:
    async def body(pool: Launchers) -> list[Any]:
        large = await pool.run(place.program("held = bytes(1) * 60_000_000"))
        small = await pool.run(place.command("true"))
        return [large.usage.memory_peak_bytes, small.usage.memory_peak_bytes, small.usage.descendants]

    large, *small = place.run(body)
    assert 60_000_000 < large < 200_000_000
    assert small == [None, None]


def test_many_bounded_at_once_do_not_share(place: Place) -> None:
    """Where there is no group, the kernel counts processes by user, or by user namespace: one a launcher."""
    sandbox = msgspec.structs.replace(WORKSPACE, processes=12)
    forks = """
import os, time
made = 0
try:
    while made < 100:
        if os.fork() == 0: time.sleep(60); os._exit(0)
        made += 1
except OSError: pass
print(made, flush=True)
"""

    async def body(pool: Launchers) -> list[int]:
        def one(number: int) -> Command:
            return place.program(forks, sandbox=sandbox, run_id=str(number), grace_seconds=0.05)

        return [int(done.stdout.data) for done in await asyncio.gather(*map(pool.run, map(one, range(3))))]

    made = place.run(body)
    assert len(set(made)) == 1
    assert 8 <= made[0] <= 11  # beside them there are the command, its launcher, and what waits outside
