"""What walls this machine gives: each really tried, in a child that leaves nothing behind."""

import marshal
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

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
    assert len(set(names)) == len(names) == 10
    for finding in here.findings:
        assert finding.why
        assert finding.has == "yes" or finding.change, finding.name
    assert {finding.name for finding in here.missing} <= set(names)


def test_what_a_plan_is_built_on_agrees_with_what_is_told(here):
    having = {finding.name: finding.has for finding in here.findings}
    assert (having["landlock"] != "no") == (here.landlock_abi >= 3)
    assert (having["namespaces"] == "yes") == (here.namespaces != "none")
    assert (here.uids is not None) == (having["user"] == "yes" and os.geteuid() == 0)
    assert all(path == os.path.realpath(path) for path in (*here.homes, *here.prefixes, here.temporary))


def test_trying_leaves_no_mount_no_process_and_no_descriptor():
    def state() -> tuple[str, list[str], int]:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        return Path("/proc/self/mountinfo").read_text(), children, len(os.listdir("/proc/self/fd"))

    before = state()
    look_at_machine()
    assert state() == before


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
        for name in (
            "walls/trial.py",
            *(f"launcher/{part}.py" for part in ("__init__", "kernel", "user_namespace")),
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
    assert "user" not in said and "idmapped" not in said
