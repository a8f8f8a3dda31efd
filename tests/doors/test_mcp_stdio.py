"""`custody mcp`: what a client on standard input and output is greeted with, gives and gets.

One process for most of it; each test asks for what is its own.
"""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.doors.mcp_clients import LEGACY, MODERN, Home, Lines, lines
from tests.sandbox.commands import eventually


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lines]:
    home = Home(tmp_path_factory.mktemp("mcp"), '[training]\ncommand = ["sh", "-c", "exit 3"]\n')
    with lines(home) as made:
        made.greet()
        yield made


def test_it_greets_in_the_version_the_client_speaks(client: Lines):
    greeting = client.greeting
    assert greeting["protocolVersion"] == LEGACY
    assert greeting["serverInfo"]["name"] == "custody"
    assert set(greeting["capabilities"]) == {"tools", "resources"}


def test_each_tool_has_a_schema_a_description_and_hints(client: Lines):
    tools = {tool["name"]: tool for tool in client.ask("tools/list")["result"]["tools"]}
    assert list(tools) == sorted(tools)
    for tool in tools.values():
        assert tool["inputSchema"]["type"] == "object"
        assert tool["description"]
    assert tools["file_read"]["annotations"]["readOnlyHint"] is True
    assert tools["runs_list"]["annotations"]["readOnlyHint"] is True
    assert tools["exec"]["annotations"] == {
        "readOnlyHint": False, "destructiveHint": True, "idempotentHint": False, "openWorldHint": True,
    }  # fmt: skip
    assert {"undo", "witness_download", "skills_install", "plan_run", "agent_spawn"} <= tools.keys()


def test_a_call_is_made_and_recorded_in_a_run_of_the_client(client: Lines):
    answer = client.call("exec", {"argv": ["echo", "hello"]})
    call = answer["structuredContent"]
    assert answer["isError"] is False
    assert (call["outcome"], call["result"]["stdout"], call["door"]) == ("succeeded", "hello\n", "mcp")
    run = client.call("runs_show", {"run": call["run_id"]})["structuredContent"]
    assert (run["agent"], run["client"], run["outcome"]) == ("tester", "tester 1.2", None)
    assert client.call("calls_show", {"call": call["id"]})["structuredContent"]["id"] == call["id"]


def test_a_call_that_does_not_succeed_is_an_error_that_says_why(client: Lines):
    refused = client.call("file_read", {"path": "/etc/shadow"})
    assert refused["isError"] is True
    assert refused["structuredContent"]["outcome"] == "rejected"
    assert "rejected by path" in refused["content"][0]["text"]
    wrong = client.call("exec", {"argv": "echo"})
    assert (wrong["isError"], wrong["structuredContent"]["decision"]["by"]) == (True, "schema")
    failed = client.call("file_read", {"path": "not-there.txt"})
    assert (failed["isError"], failed["structuredContent"]["outcome"]) == (True, "failed")


def test_an_error_that_answers_nothing_is_not_sent_back(client: Lines):
    identity = client.ask("ping")["id"]
    client.send({"jsonrpc": "2.0", "id": identity + 1, "error": {"code": -32601, "message": "no forms"}})
    assert client.answer_to(client.begin("ping")) == {"jsonrpc": "2.0", "id": identity + 1, "result": {}}


def test_an_unknown_tool_is_an_error_of_the_protocol_and_on_the_record(client: Lines):
    error = client.ask("tools/call", {"name": "exek", "arguments": {}})["error"]
    assert error["code"] == -32602
    assert "Did you mean exec" in error["message"]
    asked = client.call("calls_show", {"call": error["data"]["call_id"]})["structuredContent"]
    assert (asked["tool"], asked["outcome"]) == ("exek", "rejected")


def test_wrong_arguments_of_a_question_are_an_error_of_the_tool(client: Lines):
    for arguments, said in (({"limit": "many"}, "limit"), ({"nope": 1}, "nope"), ({"limit": 0}, "limit")):
        answer = client.call("runs_list", arguments)
        assert answer["isError"] is True
        assert answer["structuredContent"]["error"]["type"] == "InvalidInput"
        assert said in answer["content"][0]["text"]
    nowhere = client.call("runs_show", {"run": "feedfeed"})
    assert nowhere["structuredContent"]["error"]["type"] == "NotFound"


def test_what_needs_a_daemon_says_so_after_its_arguments_are_checked(client: Lines):
    wrong = client.call("agent_spawn", {"cli": "claude"})["structuredContent"]
    assert wrong["error"]["type"] == "InvalidInput"
    asked = {"cli": "claude", "prompt": "write a poem"}
    answer = client.call("agent_spawn", asked)
    said = answer["structuredContent"]
    assert answer["isError"] is True
    assert {**said, "message": None} == {
        **asked, "tool": "agent_spawn", "status": "not_implemented", "reason_code": "runtime_unavailable",
        "message": None,
    }  # fmt: skip
    assert "custody serve" in said["message"]
    for name in ("agent_status", "agent_cancel"):
        assert client.call(name, {"id": "ab"})["structuredContent"]["status"] == "not_implemented"


def test_a_trainer_runs_to_its_end_in_a_run_that_can_be_read_back(client: Lines):
    answer = client.call("training_trigger", {"scope": "full"})
    trained = answer["structuredContent"]
    assert (answer["isError"], trained["outcome"], trained["scope"]) == (True, "failed", "full")
    assert trained["call"]["arguments"]["argv"] == ["sh", "-c", "exit 3", "full"]
    run = client.call("runs_show", {"run": trained["run_id"]})["structuredContent"]
    assert (run["name"], run["outcome"], run["reason"]) == (
        "training", "failed", "exit code 3",
    )  # fmt: skip


def test_progress_is_told_to_whoever_asks_for_it(client: Lines):
    asking = {
        "name": "shell", "arguments": {"command": "echo one; echo two"}, "_meta": {"progressToken": "mine"},
    }  # fmt: skip
    client.told.clear()
    answer = client.ask("tools/call", asking)
    told = [message["params"] for message in client.told if message["method"] == "notifications/progress"]
    assert answer["result"]["isError"] is False
    assert {one["progressToken"] for one in told} == {"mine"}
    assert [one["progress"] for one in told] == sorted({one["progress"] for one in told})
    assert told[-1]["progress"] == 8


def test_a_cancelled_request_ends_its_call_on_the_record(client: Lines):
    asking = {
        "name": "shell", "arguments": {"command": "echo begun; sleep 4321"}, "_meta": {"progressToken": 7},
    }  # fmt: skip
    identity = client.begin("tools/call", asking)
    client.told_of("notifications/progress")  # it runs
    cancelled = {"requestId": identity, "reason": "enough"}
    client.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancelled})
    found = {"tool": "shell", "text": "4321"}

    def outcome() -> str | None:
        return client.call("calls_search", found)["structuredContent"]["items"][0]["outcome"]

    assert eventually(outcome) == "cancelled"


@pytest.mark.long
def test_progress_comes_at_most_ten_times_a_second(client: Lines):
    client.told.clear()
    printing = {"command": "for i in $(seq 100); do echo $i; sleep 0.003; done"}
    asking = {"name": "shell", "arguments": printing, "_meta": {"progressToken": "often"}}
    answer = client.ask("tools/call", asking)["result"]["structuredContent"]
    told = [message for message in client.told if message["method"] == "notifications/progress"]
    assert 1 <= len(told) <= answer["latency_us"] / 1e5 + 2
    assert told[-1]["params"]["progress"] == len(answer["result"]["stdout"])


def test_runs_and_calls_are_resources(client: Lines):
    call = client.call("exec", {"argv": ["true"]})["structuredContent"]
    listed = client.ask("resources/list")["result"]["resources"]
    uris = {resource["uri"] for resource in listed}
    assert {"custody://runs", f"custody://runs/{call['run_id']}"} <= uris
    templates = client.ask("resources/templates/list")["result"]["resourceTemplates"]
    assert [one["uriTemplate"] for one in templates] == ["custody://runs/{id}", "custody://calls/{id}"]

    def read(uri: str) -> Any:
        (content,) = client.ask("resources/read", {"uri": uri})["result"]["contents"]
        assert content["mimeType"] == "application/json"
        return json.loads(content["text"])

    assert read(f"custody://calls/{call['id']}")["tool"] == "exec"
    assert read(f"custody://runs/{call['run_id']}")["agent"] == "tester"
    assert call["run_id"] in [run["id"] for run in read("custody://runs")["items"]]
    error = client.ask("resources/read", {"uri": "custody://calls/feedfeedfeedfeed"})["error"]
    assert error["code"] == -32002


def test_a_large_resource_tells_what_was_left_out(client: Lines):
    large = client.call("shell", {"command": "head -c 900000 /dev/zero | tr '\\0' '\\1'"})[
        "structuredContent"
    ]
    (content,) = client.ask("resources/read", {"uri": f"custody://calls/{large['id']}"})["result"]["contents"]
    assert len(content["text"]) < 1024 * 1024
    assert json.loads(content["text"])["result"]["omitted_bytes"] > 900_000


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"{\n", -32700),
        (b"\xff\xfe\n", -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":"\xc3"}}\n', -32700),
        (b"[" * 100_000 + b"\n", -32700),
        (b"[]\n", -32600),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]\n', -32600),
        (b'"ping"\n', -32600),
        (b'{"id":1,"method":"ping"}\n', -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}\n', -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}\n', -32600),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}\n', -32600),
        (b'{"jsonrpc":"2.0","id":{},"method":"ping"}\n', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":5}\n', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}\n', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"no/such"}\n', -32601),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}\n', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":5}}\n', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"exec","arguments":[]}}\n', -32602),
    ],
    ids=range(18),
)
def test_a_wrong_frame_is_answered_with_an_error_and_changes_nothing(client: Lines, frame: bytes, code: int):
    client.send(frame)
    answer = client.read()
    assert answer is not None
    assert answer["error"]["code"] == code
    assert "result" in client.ask("ping")


def test_a_line_without_end_is_refused_and_passed_over(client: Lines):
    client.send(b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":"' + b"y" * (17 * 1024**2) + b'"}}\n')
    answer = client.read()
    assert answer is not None
    assert (answer["error"]["code"], "16,777,216" in answer["error"]["message"]) == (-32600, True)
    assert "result" in client.ask("ping")


def test_an_answer_to_nothing_and_an_empty_line_are_passed_over(client: Lines):
    client.send(b'\n{"jsonrpc":"2.0","id":99,"result":{}}\n{"jsonrpc":"2.0","method":"no/such"}\n')
    assert "result" in client.ask("ping")


@pytest.mark.long
def test_when_the_client_goes_what_is_under_way_is_cancelled_and_the_run_finished(tmp_path: Path):
    with lines(tmp_path, "--agent", "ada", "--tools", "shell,runs_list") as made:
        made.greet()
        assert [tool["name"] for tool in made.ask("tools/list")["result"]["tools"]] == ["runs_list", "shell"]
        refused = made.call("exec", {"argv": ["true"]})
        assert "--tools" in refused["structuredContent"]["decision"]["reason"]
        asking = {
            "name": "shell", "arguments": {"command": "echo $$; sleep 4321"}, "_meta": {"progressToken": 1},
        }  # fmt: skip
        made.begin("tools/call", asking)
        made.told_of("notifications/progress")
        made.send(
            b'{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"shell","arguments":{"comm'
        )
        assert made.close() == 0, made.complaints()
        (run,) = made.home.run("runs", "--all")["items"]
        assert (run["agent"], run["outcome"], run["calls"]) == ("ada", "succeeded", 2)
        assert run["reason"] == "the client closed the session"
        outcomes = {call["tool"]: call["outcome"] for call in made.home.run("calls", "--all")["items"]}
        assert outcomes == {"shell": "cancelled", "exec": "rejected"}
        assert made.home.run("verify")["ok"] is True


@pytest.mark.long
def test_a_signal_ends_it_in_order(tmp_path: Path):
    with lines(tmp_path) as made:
        made.greet()
        made.call("exec", {"argv": ["true"]})
        made.process.send_signal(signal.SIGTERM)
        assert made.read() is None
        assert made.process.wait(30) == 0, made.complaints()
        (run,) = made.home.run("runs", "--all")["items"]
        assert (run["outcome"], run["reason"]) == ("succeeded", "the server was stopped")


@pytest.mark.long
def test_looking_leaves_nothing_on_the_record(tmp_path: Path):
    with lines(tmp_path) as made:
        for tool in ("runs_list", "calls_search", "stats", "failure_patterns", "tool_rates", "skills_list"):
            assert made.call(tool, modern=True)["isError"] is False
        made.close()
        assert made.home.run("runs", "--all")["items"] == []
        assert made.home.run("calls", "--all")["items"] == []


@pytest.mark.long
def test_the_newest_version_needs_no_greeting(tmp_path: Path):
    with lines(tmp_path) as made:
        found = made.ask("server/discover", modern=True)["result"]
        assert found["supportedVersions"] == [MODERN]
        answer = made.call("exec", {"argv": ["echo", "hello"]}, modern=True)
        run = made.call("runs_show", {"run": "latest"}, modern=True)["structuredContent"]
        assert (run["id"], run["client"]) == (answer["structuredContent"]["run_id"], "tester 1.2")


@pytest.mark.long
def test_two_clients_at_once_on_one_store_have_each_a_run_of_their_own(tmp_path: Path):
    home = Home(tmp_path)
    with lines(home) as one, lines(home) as other:
        for client in (one, other):
            client.greet()
        asked = {"name": "exec", "arguments": {"argv": ["echo", "hello"]}}
        calls: list[Any] = []
        for _ in range(5):
            waiting = [(client, client.begin("tools/call", asked)) for client in (one, other)]
            answers = [client.answer_to(identity) for client, identity in waiting]
            calls += [answer["result"]["structuredContent"] for answer in answers]
        assert {call["outcome"] for call in calls} == {"succeeded"}
        runs = one.call("runs_list")["structuredContent"]["items"]
        assert sorted((run["id"], run["calls"]) for run in runs) == sorted(
            (run, 5) for run in {call["run_id"] for call in calls}
        )
    assert home.run("verify")["ok"] is True


@pytest.mark.long
def test_a_store_that_cannot_be_opened_ends_it_with_a_sentence(tmp_path: Path):
    (tmp_path / "store").write_text("no folder")
    with lines(tmp_path) as made:
        made.greet()
        error = made.ask("tools/list")["error"]
        assert f"{tmp_path / 'store'} is not a folder. Name another" in error["message"]
        assert made.read() is None
        assert made.process.wait(30) == 2
        assert str(tmp_path / "store") in made.complaints()


@pytest.mark.long
def test_nothing_but_the_protocol_is_on_standard_output(tmp_path: Path):
    (tmp_path / "noisy.py").write_text(
        "import os, sys\nprint('imported')\n\ndef noisy() -> str:\n    '''Make noise.'''\n"
        "    print('printed'); os.write(1, b'written'); sys.stdout.flush()\n    return 'done'\n\n"
        "def stats() -> None:\n    '''Takes a name of the door's.'''\n\ntools = [noisy, stats]\n"
    )
    made = Lines(Home(tmp_path, '[tools]\nmodules = ["noisy"]\n', path=tmp_path))
    try:
        made.greet()
        assert made.call("noisy")["structuredContent"]["result"] == "done"
        assert made.close() == 0
        assert all(word in made.complaints() for word in ("imported", "printed", "written", "'stats' is not"))
    finally:
        made.kill()
