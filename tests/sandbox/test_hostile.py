"""What a command behind walls may try to use up is its own, and whoever runs beside it or after it notices
nothing."""

import asyncio
import os
import secrets
import time
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from tests.sandbox import escapes
from tests.sandbox.commands import deadlines, launcher_pids
from tests.sandbox.places import WORKSPACE, Place

from custody.sandbox import Command, Launchers
from custody.sandbox.launcher.tree import children_of

BOUNDED = msgspec.structs.replace(WORKSPACE, processes=40)
ENDED_WITHIN_SECONDS = 60.0
"""Of its deadline and grace, on a machine busy with other tests. By itself it would never end."""

BOMB = """
import os
while True:
    try: os.fork()
    except OSError: pass
"""

DEEP = """
import os, sys
os.chdir(sys.argv[1])
for number in range(int(sys.argv[2])):
    os.mkdir("d" * 50 + "\\n\\x1b]0;\\udcff"); os.chdir("d" * 50 + "\\n\\x1b]0;\\udcff")
print("made")
"""

FILES = """
import os, sys
os.chdir(sys.argv[1])
made = 0
try:
    while made < int(sys.argv[2]):
        os.close(os.open(str(made), os.O_CREAT | os.O_WRONLY)); made += 1
except OSError as error: print(error.errno)
print(made)
"""

STUBBORN = """
import os, signal, sys, time
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
    signal.signal(number, signal.SIG_IGN)
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork(): os._exit(0)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True: time.sleep(100)
    os.wait()
print("deaf", flush=True)
if sys.argv[1] == "stay":
    while True: time.sleep(100)
"""


async def beside(pool: Launchers, place: Place, wanted: Iterable[Command]) -> dict[str, Any]:
    """Run them at the same time, with another run's commands beside them, and one after each in its launcher:
    what became of them, and whether all else is unharmed."""
    began = time.monotonic()
    hostile = [asyncio.create_task(pool.run(one)) for one in wanted]
    others: list[bytes] = []
    while not others or not all(one.done() for one in hostile):
        other = await pool.run(place.shell("echo $((6 * 7))", run_id="beside"))
        others.append(other.stdout.data)
    ended = [await one for one in hostile]
    seconds = time.monotonic() - began
    after = [
        (await pool.run(msgspec.structs.replace(one, argv=("echo", "after"), terminal=None))).stdout.data
        for one in wanted
    ]
    inside = [pid for launcher in launcher_pids() for pid in children_of(launcher)]
    left = [pid for first in inside for pid in children_of(first)]
    return {
        "ended": [[one.limit_hit, one.exit_code, one.signal, one.tree_left] for one in ended],
        "said": [one.stdout.data.decode(errors="replace").split() for one in ended],
        "bytes": [[one.stdout.total_bytes, len(one.stdout.data)] for one in ended],
        "seconds": seconds,
        "unharmed": set(others) == {b"42\n"} and set(after) == {b"after\n"} and not left,
    }


def tried(place: Place, *wanted: Command) -> dict[str, Any]:
    return place.run(lambda pool: beside(pool, place, wanted))


def test_a_fork_bomb_is_held_and_ended_at_its_deadline(place: Place) -> None:
    found = tried(
        place, place.program(BOMB, sandbox=BOUNDED, deadline_seconds=0.3, grace_seconds=0.1, run_id="bomb")
    )
    assert found["unharmed"]
    assert found["ended"] == [["deadline", None, 15, 0]]
    assert found["seconds"] < ENDED_WITHIN_SECONDS


@pytest.mark.long
def test_three_fork_bombs_at_once_are_held(place: Place) -> None:
    wide = msgspec.structs.replace(WORKSPACE, processes=300)
    bombs = [
        place.program(BOMB, sandbox=wide, deadline_seconds=2.0, grace_seconds=0.2, run_id=str(number))
        for number in range(3)
    ]
    found = tried(place, *bombs)
    assert found["unharmed"]
    assert [one[0] for one in found["ended"]] == ["deadline"] * 3
    assert found["seconds"] < ENDED_WITHIN_SECONDS


@pytest.mark.parametrize("how", ["stay", "leave"])
def test_what_hears_no_signal_and_holds_the_pipe_is_ended(place: Place, how: str) -> None:
    for seconds in deadlines(0.4) if how == "stay" else [100.0]:
        bounds = {"deadline_seconds": seconds, "grace_seconds": 0.1}
        found = tried(place, place.program(STUBBORN, how, run_id="stubborn", **bounds))
        assert found["unharmed"]
        if found["said"] == [["deaf"]]:
            break
    assert found["said"] == [["deaf"]]
    assert found["ended"] == [["deadline", None, 9, 0] if how == "stay" else [None, 0, None, 0]]
    assert found["seconds"] < ENDED_WITHIN_SECONDS


@pytest.mark.parametrize(
    "total", [20_000_000, pytest.param(1_000_000_000, marks=pytest.mark.long)], ids=["20 MB", "1 GB"]
)
def test_a_flood_of_output_is_counted_and_kept_in_bounds(place: Place, total: int) -> None:
    found = tried(place, place.shell(f"head -c {total} /dev/zero", run_id="flood"))
    ((seen, kept),) = found["bytes"]
    assert found["unharmed"]
    assert seen == total and 0 < kept <= 512 * 1024


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm", "/var/tmp", "$HOME"])
def test_a_large_file_fills_a_folder_of_its_own_and_not_the_machine(place: Place, folder: str) -> None:
    place.machine = msgspec.structs.replace(place.machine, memory_bytes=8 * 16 * 1024**2)
    full, sparse = (f"{folder}/{name}-{secrets.token_hex(8)}" for name in ("full", "sparse"))
    text = f"truncate -s 1T {sparse} && head -c 99999999 /dev/zero >{full}; du -k {sparse}; stat -c %d {full}"
    found = tried(place, place.shell(text + "; exit 3", run_id="large"))
    assert found["unharmed"]
    assert found["ended"] == [["disk", 3, None, 0]]
    used, _, device = found["said"][0]
    assert used == "0"
    ours = folder.replace("$HOME", place.home)
    assert int(device) != os.stat(ours).st_dev
    assert not {os.path.basename(name) for name in (full, sparse)} & set(os.listdir(ours))


@pytest.mark.long
def test_a_folder_of_its_own_of_full_size_is_filled_to_its_bound(place: Place) -> None:
    folders = ("/tmp", "/dev/shm")
    wanted = [
        place.program(escapes.FILL, f"{folder}/full", str(1 << 40), run_id=folder) for folder in folders
    ]
    found = tried(place, *wanted)
    assert found["unharmed"]
    assert [said[0] for said in found["said"]] == ["refused"] * len(folders)


def test_a_private_folder_takes_no_more_files_than_its_bound(place: Place) -> None:
    place.machine = msgspec.structs.replace(place.machine, memory_bytes=8 * 16 * 1024**2)
    found = tried(place, place.program(FILES, "/tmp", "100000", run_id="files"))
    assert found["unharmed"]
    assert found["said"][0][0] == "28" and 4000 < int(found["said"][0][1]) <= 4096


@pytest.mark.long
def test_a_million_files_are_refused_in_a_private_folder(place: Place) -> None:
    found = tried(place, place.program(FILES, "/tmp", "1000000", run_id="files"))
    assert found["unharmed"]
    assert found["said"][0][0] == "28" and int(found["said"][0][1]) < 300_000


@pytest.mark.parametrize("depth", [300, pytest.param(3000, marks=pytest.mark.long)])
def test_what_no_list_shows_and_no_path_reaches_is_left_to_nobody(place: Place, depth: int) -> None:
    found = tried(place, place.program(DEEP, "/tmp", str(depth), run_id="deep"))
    assert found["unharmed"]
    assert found["said"] == [["made"]]
