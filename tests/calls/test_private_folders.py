"""Private folders of runs: what one command of a run leaves in `/tmp` or its home folder, the others find, on
whichever launcher of whichever process; and nothing is left when the run is over.
"""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import custody
from custody.calls import private_folders
from custody.calls.private_folders import PrivateFolders
from custody.sandbox.walls.machine import look_at_machine

RUN, OTHER = "ab" * 16, "cd" * 16


def removed() -> None:
    """Wait for what is on its way out."""
    for thread in threading.enumerate():
        if thread.name == "custody-private-folders":
            thread.join()


def names(folder: Path) -> list[str]:
    removed()
    return sorted(set(os.listdir(folder)) - {"lock"})


def in_another_process(folder: Path, text: str) -> "subprocess.Popen[str]":
    """It says a line when it has done it, and ends with its standard input."""
    program = (
        "import sys\nfrom custody.calls.private_folders import PrivateFolders\n"
        f"folders = PrivateFolders({str(folder)!r})\n{text}\nprint('done', flush=True)\nsys.stdin.read()\n"
    )
    made = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert made.stdout is not None
    assert made.stdout.readline() == "done\n"
    return made


def ended(process: "subprocess.Popen[str]") -> None:
    process.communicate(timeout=30)


def test_it_is_of_this_user_alone_and_goes_with_its_run(tmp_path):
    folders = PrivateFolders(str(tmp_path / "private"))
    place = Path(folders.use(RUN))
    (place / "left").mkdir()
    (place / "left" / "file").write_text("x")
    other = folders.use(OTHER)

    assert folders.use(RUN) == str(place)
    assert {path.stat().st_mode & 0o777 for path in (place, place.parent, place.parent.parent)} == {0o700}
    folders.end(RUN)
    assert names(tmp_path / "private") == [OTHER]
    assert os.path.isdir(other)


def test_a_run_without_one_ends_without_a_trace(tmp_path):
    PrivateFolders(str(tmp_path / "private")).end(RUN)
    PrivateFolders(None).end(RUN)
    assert not (tmp_path / "private").exists()


def test_it_stays_while_another_process_uses_it_and_goes_with_that(tmp_path):
    folder = tmp_path / "private"
    folders = PrivateFolders(str(folder))
    folders.use(RUN)
    other = in_another_process(folder, f"folders.use({RUN!r})")
    folders.end(RUN)
    assert RUN in names(folder)
    ended(other)  # without a word: as if it were killed

    assert RUN in names(folder)
    PrivateFolders(str(folder)).sweep(lambda: [RUN])  # the run goes on, for all that anybody knows
    assert RUN in names(folder)
    PrivateFolders(str(folder)).sweep(list)
    assert names(folder) == []


def test_the_last_who_closes_takes_it_along_once_its_run_is_over(tmp_path):
    folder = tmp_path / "private"
    other = in_another_process(folder, f"folders.use({RUN!r})")
    folders = PrivateFolders(str(folder))
    folders.use(RUN)
    folders.use(OTHER)
    ended(in_another_process(folder, f"folders.end({RUN!r})"))
    assert RUN in names(folder)
    ended(other)
    folders.close()
    assert names(folder) == [OTHER], "the run that goes on elsewhere keeps its own"


def test_what_a_store_in_memory_had_is_gone_when_it_closes(tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    folders = PrivateFolders(None)
    Path(folders.use(RUN), "left").write_text("x")
    assert len(names(temporary)) == 1
    folders.close()
    removed()
    assert not [path for path in temporary.rglob("*") if path.name == "left"]


def test_a_run_that_ends_while_this_thread_opens_another_goes_when_the_store_is_recovered(
    tmp_path, monkeypatch
):
    """A finalizer may end it at any moment."""
    folders = PrivateFolders(str(tmp_path / "private"))
    folders.use(RUN)
    enter = private_folders._enter

    def enter_and_end(disk, run_id):
        folders.end(RUN)
        return enter(disk, run_id)

    monkeypatch.setattr(private_folders, "_enter", enter_and_end)
    folders.use(OTHER)
    folders.close()
    PrivateFolders(str(tmp_path / "private")).sweep(lambda: [OTHER])
    assert names(tmp_path / "private") == [OTHER]


def test_a_process_forked_of_one_that_uses_it_takes_nothing_along(tmp_path):
    folder = tmp_path / "private"
    folders = PrivateFolders(str(folder))
    folders.use(RUN)
    pid = os.fork()
    if pid == 0:
        folders.end(OTHER)
        folders.close()
        os._exit(0)
    os.waitpid(pid, 0)
    ended(in_another_process(folder, f"folders.end({RUN!r})"))
    assert names(folder) == [RUN]
    folders.close()
    assert names(folder) == []


# -- what commands see of it --------------------------------------------------------------------------------

WRITE = "printf a >/tmp/left; printf b >$HOME/left"
LOOK = "cat /tmp/left $HOME/left 2>/dev/null; exit 0"


@pytest.fixture
def walls():
    if missing := "; ".join(finding.why for finding in look_at_machine().missing):
        pytest.skip(f"`confined` is not offered here: {missing}")


def sh(run, line: str, level: str = "confined") -> str:
    return run.call("shell", {"command": line}, level=level).result["stdout"]


@pytest.mark.usefixtures("walls")
def test_commands_of_a_run_find_what_it_left_and_no_others(tmp_path):
    with custody.open(str(tmp_path / "store")) as runtime:
        with runtime.run("build") as run, ThreadPoolExecutor(2) as pool:
            sh(run, WRITE)
            # Each ends when the other has begun, so they are not on one launcher.
            one = pool.submit(sh, run, f"touch /tmp/one; until [ -e /tmp/two ]; do sleep 0.01; done; {LOOK}")
            two = pool.submit(sh, run, f"touch /tmp/two; until [ -e /tmp/one ]; do sleep 0.01; done; {LOOK}")
            assert (one.result(30), two.result(30)) == ("ab", "ab")
            assert sh(run, LOOK, level="transaction") == ""
            assert len(names(tmp_path / "store" / "undo" / "private")) == 1
        assert sh(runtime, LOOK) == ""
        with runtime.run("another") as another:
            assert sh(another, LOOK) == ""
    assert names(tmp_path / "store" / "undo" / "private") == []


@pytest.mark.usefixtures("walls")
def test_what_a_transaction_leaves_there_is_not_found_either(tmp_path):
    with custody.open(str(tmp_path / "store")) as runtime, runtime.run("build") as run:
        sh(run, WRITE, level="transaction")
        assert sh(run, LOOK) == ""


IN_THE_WAY = {
    "a link to a file": "rm -f {0}; ln -s {1} {0}",
    "a link to a folder": "rm -rf {0}; ln -s $(dirname {1}) {0}",
    "a pipe": "rm -f {0}; mkfifo {0}",
    "a folder": "rm -f {0}; mkdir {0}",
    "nothing that may be read": "chmod 0 $HOME",
}


@pytest.mark.usefixtures("walls")
@pytest.mark.parametrize("way", IN_THE_WAY)
def test_what_a_command_puts_in_the_way_harms_nobody_but_its_run(tmp_path, monkeypatch, way):
    """The home folder contains a root, so a place for that is made in the private one."""
    home = tmp_path / "home"
    root, victim = home / "deep" / "root", tmp_path / "elsewhere" / "victim"
    for folder in (root, victim.parent):
        folder.mkdir(parents=True)
    victim.write_text("as it was")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(root)
    for obstacle in (home / "deep", home / ".gitconfig"):
        with custody.open(str(tmp_path / "store")) as runtime, runtime.run("build", shared=True) as run:
            sh(run, IN_THE_WAY[way].format(obstacle, victim))
            with custody.open(str(tmp_path / "store")) as other:  # its launcher is another
                joined = other.join(run.id)
                assert sh(joined, "echo made >made; cat made") == "made\n"
    assert (root / "made").read_text() == "made\n"
    assert victim.read_text() == "as it was"
    assert sorted(os.listdir(victim.parent)) == ["victim"]
    assert names(tmp_path / "store" / "undo" / "private") == []
