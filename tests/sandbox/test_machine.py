"""What walls this machine gives: each really tried, in a child that leaves nothing behind."""

import marshal
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from tests.sandbox.commands import mounts

from custody.sandbox.launcher.tree import children_of
from custody.sandbox.walls import machine, trial
from custody.sandbox.walls.machine import Machine, look_at_machine
from custody.sandbox.walls.seccomp import program
from custody.sandbox.walls.users import UIDS

SYSTEM_PYTHON = "/usr/bin/python3"


@pytest.fixture(scope="module")
def here() -> Machine:
    return look_at_machine()


def test_each_wall_is_told_with_the_reason_and_what_would_change_it(here):
    names = [finding.name for finding in here.findings]
    assert len(set(names)) == len(names) == 11
    for finding in here.findings:
        assert finding.why
        assert finding.has == "yes" or finding.change, finding.name
    assert {finding.name for finding in here.missing} <= set(names)


def test_what_a_plan_is_built_on_agrees_with_what_is_told(here):
    having = {finding.name: finding.has for finding in here.findings}
    assert (having["landlock"] != "no") == (here.landlock_abi >= 3)
    assert (having["namespaces"] == "yes") == (here.namespaces != "none")
    assert (having["overlay"] == "yes") == here.overlay
    assert (here.uids is not None) == (having["user"] == "yes" and os.geteuid() == 0)
    assert all(path == os.path.realpath(path) for path in (*here.homes, *here.prefixes, here.temporary))


def test_trying_leaves_no_mount_no_process_no_descriptor_and_no_file(tmp_path):
    def state() -> tuple[list[str], int, list[str]]:
        return mounts(tmp_path), len(os.listdir("/proc/self/fd")), os.listdir(tmp_path)

    before, strangers = state(), set(children_of(os.getpid()))
    look_at_machine(environ={"HOME": str(tmp_path)})
    assert state() == before
    assert set(children_of(os.getpid())) <= strangers


def test_what_cannot_be_tried_is_not_there():
    found = look_at_machine(python="/nonexistent/python")
    assert {"landlock", "seccomp", "namespaces"} <= {finding.name for finding in found.missing}
    assert (found.landlock_abi, found.namespaces, found.uids) == (0, "none", None)


@pytest.mark.skipif(os.geteuid() != 0, reason="others can be run as by root alone")
@pytest.mark.parametrize(
    "uids", [(65_500, 100), (65_535, 1), (0, 10), (500, 100), (70_000, 0), (2**31 - 1, 2)]
)
def test_a_range_with_users_who_are_somebody_is_not_used(uids, monkeypatch):
    monkeypatch.setattr(machine, "_try_all", lambda told, python: {"way": "direct", "user": ("", 1)})
    found = look_at_machine(uids=uids)
    assert found.uids is None
    assert next(finding for finding in found.findings if finding.name == "user").has == "no"
    assert look_at_machine().uids == UIDS


@pytest.mark.skipif(os.geteuid() != 0, reason="others can be run as by root alone")
def test_inside_a_user_namespace_there_is_nobody_else_to_run_as(monkeypatch):
    monkeypatch.setattr(machine, "_try_all", lambda told, python: {"way": "user", "user": ("", 1)})
    assert look_at_machine().uids is None


def test_an_error_is_said_in_words(monkeypatch):
    said = {"landlock": ("", 2), "seccomp": ("seccomp", 22), "way": "none", "namespaces": ("unshare", 1)}
    said["network"] = ("hold", 0)
    monkeypatch.setattr(machine, "_try_all", lambda told, python: said)
    why = {finding.name: finding.why for finding in look_at_machine().findings}
    assert why["landlock"] == "ABI 2 cannot refuse to truncate a file; `confined` needs ABI 3"
    assert why["seccomp"] == "the kernel does not take it (EINVAL in seccomp)"
    assert why["namespaces"] == "it is not permitted (EPERM in unshare)"
    assert why["network"] == "it can be put up, and holds nothing back"
    assert why["private /proc"] == "it needs namespaces"


@pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists(SYSTEM_PYTHON), reason="drops from root, with a Python for all"
)
def test_an_ordinary_user_finds_his_own_way():
    told = {"folder": "/usr", "temporary": "/tmp", "uid": 0, "seccomp": program(os.uname().machine)}
    sandbox = Path(trial.__file__).parent.parent
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # where this project lies may be closed to others
        told["held"] = f"{folder}/held"
        os.mkdir(told["held"])
        os.chown(told["held"], UIDS[0], UIDS[0])
        for name in (
            "walls/trial.py",
            *(f"launcher/{part}.py" for part in ("__init__", "kernel", "overlay", "user_namespace")),
        ):
            copy = Path(folder, name)
            copy.parent.mkdir(exist_ok=True)
            copy.write_text((sandbox / name).read_text())
        done = subprocess.run(
            [SYSTEM_PYTHON, "-I", "-S", f"{folder}/walls/trial.py"],
            input=marshal.dumps(told, 2),
            stdout=subprocess.PIPE,
            cwd="/",
            user=UIDS[0],
            group=UIDS[0],
            extra_groups=[],
            check=True,
            timeout=30,
        )
    said = marshal.loads(done.stdout)
    assert said["way"] in ("user", "none"), "nothing is left of root to make namespaces directly"
    assert (said["way"] == "user") == (said["namespaces"][0] == "")
    assert (said["landlock"][0] == "") == (said["landlock"][1] >= 1)
    assert (said["way"] == "user") == ("overlaid" in said)
    assert "user" not in said and "idmapped" not in said


def test_what_the_kernel_closed_to_everybody_is_removed_by_an_ordinary_user_as_well():
    def leave_closed_folders(beside: str) -> None:
        with machine._folder_for_trials([beside]) as folder:
            closed = Path(folder, "work", "work", "incompat", "volatile")
            closed.mkdir(parents=True)
            (closed / "dirty").touch(mode=0)
            for path in (closed, *list(closed.parents)[:2]):
                path.chmod(0)

    with tempfile.TemporaryDirectory(dir="/tmp") as beside:
        os.chmod(beside, 0o777)
        pid = os.fork()
        if pid == 0:
            try:
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setresgid(UIDS[0], UIDS[0], UIDS[0])
                    os.setresuid(UIDS[0], UIDS[0], UIDS[0])
                leave_closed_folders(beside)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        assert os.listdir(beside) == []


def test_whether_overlays_can_be_had_is_tried_where_the_store_lies(here):
    def overlay_at(store: str) -> bool:
        return look_at_machine(store=store).overlay

    if not here.overlay:
        pytest.skip("no overlay can be mounted here")
    with tempfile.TemporaryDirectory() as folder:
        assert overlay_at(f"{folder}/not/there/yet") == here.overlay
        assert os.listdir(folder) == []
    assert not overlay_at("/proc/self")
