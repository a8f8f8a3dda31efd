"""A program that changes files through Custody is killed at random moments: the next to open the store puts
back what was half done, and the undo of the run gives back the tree.

The program tells through a pipe what it is about to do and what it has done; it takes some of it back itself.
"""

import os
import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.tools.test_any_files import populate
from tests.tools.trees import Place, succeeded, temporary_files, tree

import custody

CALL_SECONDS = 0.01
"""About what a call takes: a kill within as much of its start often hits it in the middle."""

CHANGE_BEGINS_SECONDS = 5
"""Far more than the calls until one changes something take."""

SOURCE = Path(custody.__path__[0]).parent

AGENT = textwrap.dedent(
    """
    import os, random, sys
    import custody

    folder, seed, shared = sys.argv[1:]
    chance = random.Random(seed)
    names = ["a", "b", "d", "d/a", "d/e", "d/e/f", "d/e/g/h", "link", "into/a", "other", "many"]

    def tell(*words):
        os.write(1, " ".join(map(str, words)).encode() + b"\\n")

    def write():
        more = chance.choice([{}, {"append": True}, {"mode": "0700"}])
        content = chance.choice(["", "one", "two\\n", "x" * 300_000]) + str(chance.random())
        return "file_write", {"path": chance.choice(names), "content": content, **more}

    def edit():
        files = [{"path": name, "edits": [{"old": "one", "new": "none"}]} for name in chance.sample(names, 2)]
        return "file_edit", {"files": files}

    def edit_many():
        edits = [{"old": "old", "new": "old and new"}]
        return "file_edit", {"files": [{"path": f"many/{number}", "edits": edits} for number in range(20)]}

    def delete():
        return "file_delete", {"path": chance.choice(names), "recursive": True}

    def undo():
        return "undo", {"call": chance.choice(made or ["none"]), "force": chance.random() < 0.3}

    with custody.open(os.path.join(folder, "store"), cwd=os.path.join(folder, "work")) as runtime:
        with runtime.run("change files", shared=shared == "shared") as run:
            tell("run", run.id)
            made = []
            while True:
                name, arguments = chance.choice([write, write, write, edit, edit_many, delete, undo])()
                tell("asks", name)
                call = run.call(name, arguments)
                made.append(call.id)
                tell("ended", call.id, call.outcome)
    """
)


def populate_more(folder: Path) -> None:
    populate(folder)
    (folder / "many").mkdir()
    for number in range(20):
        (folder / "many" / f"{number}").write_text("old\n" + "many\n" * 100)
        os.utime(folder / "many" / f"{number}", ns=(1, 10**12 + number))
    os.utime(folder / "many", ns=(1, 10**12))
    os.utime(folder, ns=(1, 10**12 + 1))


def killed(place: Place, seed: str, asked: int, spin_seconds: float) -> list[list[str]]:
    """What the program told of until it was killed, some moments after it began so many calls.

    One in four is killed at the first sight of a change that has begun, on whatever machine.
    """
    aimed = int(seed) % 4 == 3
    command = [sys.executable, "-c", AGENT, os.fspath(place.work.parent), seed]
    command.append("shared" if int(seed) % 2 else "plain")
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.fspath(SOURCE), "TMPDIR": os.fspath(place.temporary)},
        bufsize=0,
    ) as process:
        assert process.stdout is not None
        stream = b""
        try:
            while stream.count(b"asks") < asked:
                more = process.stdout.read(65536)
                assert more, f"the program ended by itself with {process.wait()}"
                stream += more
            kill_at = time.monotonic() + (CHANGE_BEGINS_SECONDS if aimed else spin_seconds)
            while time.monotonic() < kill_at and not (aimed and begun(place)):
                pass
        finally:
            process.kill()
        while more := process.stdout.read(65536):
            stream += more
    return [line.split() for line in stream.decode().splitlines()]


def begun(place: Place) -> int:
    """How many calls have begun to change something and are not through."""
    return sum(path.is_file() for path in (place.store / "undo" / "open").glob("*"))


class Hits(NamedTuple):
    """What kills have hit."""

    calls: int = 0
    """Those that were told of: they ended before."""
    in_flight: int = 0
    half_done: int = 0
    """They had begun to change something."""

    def reach(self, wanted: "Hits") -> bool:
        return all(mine >= theirs for mine, theirs in zip(self, wanted, strict=True))


def judge(folder: Path, seed: int) -> Hits:
    chance = random.Random(f"files {seed}")
    place = Place(folder)
    populate_more(place.work)
    before = tree(place.work)
    told = killed(place, f"{seed}", chance.randrange(1, 25), chance.uniform(0, CALL_SECONDS))
    ended = {words[1]: words[2] for words in told if words[0] == "ended"}
    half_done = begun(place)
    run_id = next(words[1] for words in told if words[0] == "run")
    with place.open() as runtime:
        assert temporary_files(place.work) == []
        calls = {call.id: call for call in runtime.index.run_calls(bytes.fromhex(run_id))}
        assert {call_id: calls[call_id].outcome for call_id in ended} == ended
        result = succeeded(runtime.call("undo", {"run": run_id}))
        assert (result["conflicts"], result["lost"]) == ([], [])
        assert tree(place.work) == before
        in_flight = sum(call.outcome == "unknown" for call in calls.values())
    assert temporary_files(place.work) == []
    return Hits(len(ended), in_flight, half_done)


def run_lane(folder: Path, kills: int, kills_max: int, wanted: Hits) -> Hits:
    """At least so many kills, and more of them until they have hit as much as is wanted."""
    hits, kill = Hits(), 0
    while kill < kills or (kill < kills_max and not hits.reach(wanted)):
        place = folder / f"{kill}"
        place.mkdir()
        more = judge(place, kill)
        hits = Hits(*(one + other for one, other in zip(hits, more, strict=True)))
        kill += 1
    sys.stdout.write(f"\n{kill} kills, {hits}, every tree given back\n")
    return hits


def test_after_a_few_kills_the_undo_of_the_run_gives_back_the_tree(tmp_path: Path) -> None:
    wanted = Hits(calls=1, in_flight=1)
    assert run_lane(tmp_path, 2, kills_max=20, wanted=wanted).reach(wanted)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_after_a_hundred_kills_the_undo_of_each_run_gives_back_the_tree(tmp_path: Path) -> None:
    wanted = Hits(calls=500, in_flight=30, half_done=10)
    assert run_lane(tmp_path, 100, kills_max=300, wanted=wanted).reach(wanted)
