"""The reference's own client, unmodified, finds in this daemon what it was written for."""

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.doors.daemons import Daemon, daemon

pytest.importorskip("car_runtime", reason="pip install 'car-runtime>=0.58'")

PROGRAM = Path(__file__).with_name("official_agent.py")  # imports the client, which need not be there
AGENT = "official"

RUN_SECONDS_MAX = 60
"""Loading the client's library alone takes a second."""


def agent(daemon: Daemon, **environment: str) -> dict[str, Any]:
    """What the agent did and saw, in a process and a home of its own."""
    home = daemon.folder / "client"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, os.fspath(PROGRAM)],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=RUN_SECONDS_MAX,
        env={
            "PATH": os.environ["PATH"],
            "HOME": os.fspath(home),
            "CAR_HOME": os.fspath(home / "car"),
            "CAR_DAEMON_URL": daemon.url,
            "CAR_NO_VERSION_WARNING": "1",
            **environment,
        },
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with daemon(tmp_path_factory.mktemp("official")) as serving:
        token = Path(serving.said["token_file"]).read_text(encoding="utf-8").strip()
        said = agent(serving, CAR_AUTH_TOKEN=token)
        said["calls"] = serving.run("calls", "--all", "--limit", "100")[1]["items"]
        serving.is_intact()
        yield said


def statuses(result: dict[str, Any]) -> list[str]:
    return [each["status"] for each in result["results"]]


def test_it_speaks_the_third_version_of_the_wire():
    assert importlib.metadata.version("car-runtime") >= "0.58"


def test_it_registers_and_lists_tools_and_policies(said: dict[str, Any]):
    assert {"echo", "breaks", "fatal", "exec"} <= {*said["tools"]}
    assert "forgotten" not in said["tools"]
    assert said["unregistered"] == 1
    assert said["policies"] == ["no-secrets", "not-yet"]


def test_its_python_functions_run_as_tools(said: dict[str, Any]):
    assert said["started"]["agent_id"] == AGENT
    assert said["verified"]["valid"] is True
    assert statuses(said["succeeded"]) == ["succeeded", "succeeded"]
    outputs = [result["output"] for result in said["succeeded"]["results"]]
    assert outputs == [{"echoed": {"text": "hello"}}, {"echoed": {"text": "again"}}]
    assert statuses(said["broke"]) == ["failed"]
    assert "it broke" in said["broke"]["results"][0]["error"]


def test_what_a_policy_forbids_never_reaches_them(said: dict[str, Any]):
    assert statuses(said["not_ready"]) == ["rejected"]
    assert statuses(said["denied"]) == ["rejected"]
    assert [call["action_id"] for call in said["called"]] == ["one", "two", "four", "five"]
    assert said["called"][0] == {
        "tool": "echo",
        "params": {"text": "hello"},
        "action_id": "one",
        "attempt": 1,
    }


def test_it_keeps_state(said: dict[str, Any]):
    assert said["state"] == ["true", True, ["ready"]]


def test_it_reads_its_trace_and_counts_events(said: dict[str, Any]):
    records = said["trace"]["records"]
    assert [record["record"] for record in records] == ["started"] + ["turn"] * 5
    rejected = [record["policy_rejected"] for record in records[1:]]
    assert rejected == [
        {"rule": "not-yet", "param": None},
        None,
        None,
        {"rule": "no-secrets", "param": "text"},
        None,
    ]
    assert said["events"] > 10
    assert [run["run_id"] for run in said["listed"]["runs"]] == [said["started"]["run_id"]]


def test_it_completes_its_run_once(said: dict[str, Any]):
    assert said["completed"] == {"run_id": said["started"]["run_id"], "ok": True}
    assert said["refused"]["code"] < 0


def test_what_is_not_offered_is_an_unknown_method(said: dict[str, Any]):
    assert said["unknown"]["code"] == -32601


def test_a_final_failure_halts_the_connection_until_it_is_another(said: dict[str, Any]):
    assert said["fatal"]["results"][0]["terminal"] is True
    assert statuses(said["halted"]) == ["rejected"]
    assert said["another_connection"] is True
    assert "echo" not in said["tools_of_another"]


def test_everything_it_did_is_on_the_record(said: dict[str, Any]):
    seen = [(call["tool"], call["action_id"], call["outcome"]) for call in reversed(said["calls"])]
    assert seen[:5] == [
        ("echo", "early", "rejected"),
        ("echo", "one", "succeeded"),
        ("echo", "two", "succeeded"),
        ("echo", "three", "rejected"),
        ("breaks", "four", "failed"),
    ]
