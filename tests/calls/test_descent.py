"""A process that a recorded call or an agent started is told from one that a person started."""

import json
import os
import subprocess
import sys

import pytest
from tests.settings_for_tests import without_walls

import custody
from custody.calls.descent import ParentsUnclear, ancestors, descent
from custody.settings import load_settings
from custody.stores import open_view

PROBE = (
    "import json, msgspec; from custody.calls.descent import descent;"
    "print(json.dumps(msgspec.to_builtins(descent())))"
)
WAYS_OUT = f"""
mkfifo said
env -i {sys.executable} -c '{PROBE}'
(setsid env -i {sys.executable} -c '{PROBE}' > said &)
cat said
"""
"""Without the token; and orphaned in a session of its own, without the token."""


def test_a_command_of_a_call_is_known_however_it_frees_itself(tmp_path):
    without_walls(tmp_path / "config")
    with custody.open(os.fspath(tmp_path / "store")) as runtime:
        call = runtime.call("shell", {"command": WAYS_OUT})
    said = [json.loads(line) for line in call.result["stdout"].splitlines()]

    assert said == [
        {"why": "a recorded call", "certain": True, "call_id": call.id, "run_id": None},
        {"why": "a recorded call", "certain": True, "call_id": None, "run_id": None},
    ]


def test_what_a_person_types_descends_from_nothing_recorded(tmp_path):
    assert descent() is None

    store = os.fspath(tmp_path / "store")
    with custody.open(store) as runtime:
        assert runtime.call("exec", {"argv": ["true"]}).outcome == "succeeded"
    with open_view(load_settings(store=store, cwd=os.fspath(tmp_path))) as view:
        assert descent(view.index) is None


def test_a_child_of_the_program_whose_run_is_open_descends_from_an_agent(tmp_path):
    with custody.open(os.fspath(tmp_path / "store")) as runtime, runtime.run("work") as run:
        found = descent(runtime.index)

    assert found is not None
    assert (found.why, found.run_id) == ("an agent whose run is on the record", run.id)


@pytest.mark.long
def test_a_tool_in_the_program_itself_descends_from_its_own_call(tmp_path):
    found = []

    @custody.tool(effect="read")
    def look() -> None:
        with open_view(load_settings(store=store, cwd=os.fspath(tmp_path))) as view:
            found.append(descent(view.index))

    store = os.fspath(tmp_path / "store")
    with custody.open(store, tools=[look]) as runtime:
        call = runtime.call("look", {})

    assert [(one.why, one.call_id) for one in found] == [("a program that makes a recorded call", call.id)]


def test_the_parents_of_a_process_are_told_up_to_the_first():
    found = [one.pid for one in ancestors()]

    assert found[:2] == [os.getpid(), os.getppid()]
    assert len(found) == len(set(found))


def test_a_process_that_is_gone_has_no_parents_to_be_told():
    with subprocess.Popen(["true"]) as process:
        pass
    with pytest.raises(ParentsUnclear):
        list(ancestors(process.pid))
