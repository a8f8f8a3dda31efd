"""`custody show` of a call that walls kept something from: what, and the line that would allow it."""

import re
from typing import Any

import pytest
from tests.cli.conftest import Program

from custody.sandbox.survivors import TOKEN_NAME
from custody.sandbox.walls.machine import look_at_machine

TITLE = "Refused by its sandbox"


@pytest.fixture
def walls():
    missing = "; ".join(finding.why for finding in look_at_machine().missing)
    if missing:
        pytest.skip(f"`confined` is not offered here: {missing}")


def ran(custody: Program, *argv: str, sandbox: str = "workspace") -> str:
    """The id of a call that ran it behind walls."""
    found = custody("exec", "--json", "--sandbox", sandbox, "--", *argv)
    return found.json["id"]


def refused(custody: Program, call: str, **environment: Any) -> list[list[str]]:
    """What, wanted, and what would allow it."""
    shown = custody("show", call, **environment)
    assert shown.code == 0
    lines = shown.out.splitlines()
    if TITLE not in lines:
        return []
    below = lines[lines.index(TITLE) + 2 :]
    return [re.split(" {2,}", line) for line in below[: below.index("")]]


@pytest.mark.usefixtures("walls")
def test_a_path_that_was_hidden_is_told_with_what_would_allow_it(custody: Program):
    (custody.folder / "beside").mkdir()
    (custody.folder / "beside" / "data").touch()
    hidden = f"{custody.folder}/beside/data"
    call = ran(custody, "sh", "-c", f"cat {hidden}; echo x > mine; exit 1")
    assert refused(custody, call) == [[hidden, "to read", f"--root {custody.folder}/beside"]]
    assert (custody.work / "mine").exists()


@pytest.mark.usefixtures("walls")
def test_a_root_that_was_to_be_read_alone_is_told_with_the_sandbox_that_writes(custody: Program):
    (custody.work / "kept").touch()
    path = f"{custody.work}/kept"
    call = ran(custody, "touch", path, sandbox="read_only")
    assert refused(custody, call) == [[path, "to change", "--sandbox workspace"]]


@pytest.mark.usefixtures("walls")
def test_what_would_allow_it_does_allow_it(custody: Program):
    (custody.folder / "beside").mkdir()
    (custody.folder / "beside" / "data").write_text("here\n")
    command = ("cat", f"{custody.folder}/beside/data")
    ((_, _, line),) = refused(custody, ran(custody, *command))
    again = custody("exec", "--sandbox", "workspace", *line.split(), "--", *command)
    assert (again.code, again.out) == (0, "here\n")


@pytest.mark.usefixtures("walls")
def test_an_agent_is_not_told_what_the_walls_hide(custody: Program):
    (custody.folder / "beside").touch()
    call = ran(custody, "cat", f"{custody.folder}/beside")
    assert refused(custody, call)
    started_by_a_call: dict[str, Any] = {TOKEN_NAME: "0" * 16}
    assert refused(custody, call, **started_by_a_call) == []


@pytest.mark.usefixtures("walls")
def test_a_host_that_was_refused_is_told_with_the_line_that_would_allow_it(custody: Program):
    asks = "import urllib.request as r; r.urlopen('http://evil.example/')"
    call = ran(custody, "python3", "-c", asks)
    assert refused(custody, call) == [
        ["evil.example:80", "to reach", 'Allow it in the settings: [sandbox] hosts = ["evil.example"]']
    ]


@pytest.mark.usefixtures("walls")
def test_of_a_command_that_succeeds_or_fails_of_itself_nothing_is_named(custody: Program):
    assert refused(custody, ran(custody, "sh", "-c", f"cat {custody.folder}/store; true")) == []
    assert refused(custody, ran(custody, "cat", f"{custody.work}/not-there")) == []
