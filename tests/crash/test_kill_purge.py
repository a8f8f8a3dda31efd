"""`custody purge` is killed beside a writer that goes on: the next opening finishes it, what was not asked
for is still there, and what was signed before still proves what is on the record."""

import os
import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from tests.retention.stores import every_content
from tests.settings_for_tests import never_short_of_resources

import custody
from custody.journal import Journal
from custody.journal.disk import RealDisk
from custody.records import CallFinished, decode_leaf, decode_payload

SOURCE = Path(custody.__path__[0]).parent
SECRET = "walnut-4711"
COMMAND_SECONDS_MAX = 60

WRITER = textwrap.dedent(
    """
    import sys
    import custody

    store, secret = sys.argv[1:]
    with custody.open(store) as runtime:
        with runtime.run("write") as run:
            number = 0
            while True:
                said = secret if number % 2 else "plain"
                with run.observe("note", {"n": number, "t": said}) as call:
                    call.result = said * (1 if number % 40 else 4_000)
                number += 1
                if number % 10 == 0:
                    # A disk that is behind has records queued in this process: told of is what is written.
                    assert runtime._runtime.recording.backlog.drain(60)
                    print(number, flush=True)
                if number % 100 == 0:
                    sys.stdin.readline()  # until it is told to go on
    """
)


class Lane:
    """One store, a writer that goes on, and purges that are killed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.store = folder / "store"
        self.chance = random.Random(f"purge {seed}")
        never_short_of_resources(folder / "config")
        self.environment = {
            **os.environ,
            "PYTHONPATH": f"{SOURCE}",
            "CUSTODY_STORE": f"{self.store}",
            "XDG_CONFIG_HOME": f"{folder / 'config'}",
        }
        self.folder = folder

    def writer(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", WRITER, f"{self.store}", SECRET],
            env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=self.folder,
        )  # fmt: skip

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "custody", *arguments],
            env=self.environment, capture_output=True, text=True, timeout=COMMAND_SECONDS_MAX,
            cwd=self.folder, check=False,
        )  # fmt: skip

    def killed_purge(self, kill_when: float) -> bool:
        """Kill it so long after it said that it has begun; whether it was in the middle."""
        process = subprocess.Popen(
            [sys.executable, "-m", "custody", "purge", "--match", SECRET, "--yes"],
            env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.folder,
        )  # fmt: skip
        until = time.monotonic() + COMMAND_SECONDS_MAX
        while process.poll() is None and not self.begun():
            assert time.monotonic() < until
        kill_at = time.monotonic() + kill_when
        while process.poll() is None and time.monotonic() < kill_at:
            pass
        process.kill()
        process.wait()
        return self.begun()

    def begun(self) -> bool:
        folder = self.store / "journal" / "purge"
        return folder.is_dir() and any(folder.iterdir())

    def leaves(self) -> dict[tuple[int, int], bytes]:
        journal = Journal(RealDisk(self.store, create=False))
        return {(stored.shard, stored.sequence): stored.leaf for stored in journal.follow()}

    def plain(self) -> list[int]:
        """The numbers of harmless calls that can still be read."""
        journal = Journal(RealDisk(self.store, create=False))
        said = [decode_payload(stored.payload) or {} for stored in journal.follow()]
        arguments: list[dict[str, Any]] = [one["arguments"] for one in said if one.get("arguments")]
        return [one["n"] for one in arguments if one.get("t") == "plain"]

    def holds_secret(self) -> bool:
        return any(SECRET.encode() in data for data in every_content(f"{self.store}", None))


def advance(process: "subprocess.Popen[str]", to: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= to:
            return


def run_lane(folder: Path, rounds: int, seed: int = 1) -> int:
    """Returns how often a purge was killed in the middle."""
    lane = Lane(folder, seed)
    writer = lane.writer()
    assert writer.stdin is not None
    in_the_middle = 0
    try:
        advance(writer, 100)
        anchor = folder / "anchor"
        anchor.write_text(lane.command("checkpoint").stdout)
        before: dict[tuple[int, int], bytes] = {}
        for number in range(1, rounds + 1):
            writer.stdin.write("\n")
            writer.stdin.flush()
            advance(writer, 100 * number + 50)
            begun = lane.killed_purge(lane.chance.uniform(0, 0.03))
            in_the_middle += begun
            assert lane.command("runs").returncode == 0
            assert not lane.begun()
            found = lane.leaves()
            assert found.items() >= before.items()
            before = found
            advance(writer, 100 * number + 100)
    finally:
        writer.kill()
        writer.wait()
        writer.stdin.close()
        assert writer.stdout is not None
        writer.stdout.close()
    judge(lane, anchor, before, rounds)
    return in_the_middle


def judge(lane: Lane, anchor: Path, leaves: dict[tuple[int, int], bytes], rounds: int) -> None:
    assert lane.command("runs").returncode == 0
    said = lane.command("purge", "--match", SECRET, "--yes")
    assert said.returncode == 0, said.stderr
    assert not lane.holds_secret()
    found = lane.leaves()
    assert found.items() >= leaves.items()
    ended = sum(isinstance(decode_leaf(6, leaf), CallFinished) for leaf in found.values() if _is_end(leaf))
    assert ended >= 100 * (rounds + 1)
    assert lane.plain()[: 50 * (rounds + 1)] == list(range(0, 100 * (rounds + 1), 2))
    assert lane.command("checkpoint").returncode == 0
    verified = lane.command("verify", "--anchor", f"{anchor}")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def _is_end(leaf: bytes) -> bool:
    try:
        decode_leaf(6, leaf)
    except Exception:
        return False
    return True


@pytest.mark.timeout(240)
def test_a_purge_killed_beside_an_active_writer_is_finished_by_the_next_opening(tmp_path: Path) -> None:
    run_lane(tmp_path, 2)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_purges_killed_beside_an_active_writer_lose_nothing_and_leave_nothing(tmp_path: Path) -> None:
    in_the_middle = seed = 0
    while seed < 8 or (seed < 24 and in_the_middle < 20):  # a kill hits the middle by chance
        folder = tmp_path / f"{seed}"
        folder.mkdir()
        in_the_middle += run_lane(folder, 8, seed)
        seed += 1
    assert in_the_middle >= 20
