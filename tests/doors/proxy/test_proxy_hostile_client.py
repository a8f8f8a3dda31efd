"""A client that does to `custody proxy` what it likes: what the server gets is what was checked and is on the
record.
"""

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.doors.mcp_clients import GREETING, Home
from tests.doors.proxy.proxied import LEGACY_FORMS, Proxied, calls, events, proxied
from tests.doors.proxy.test_proxy_hostile_server import SERVER
from tests.sandbox.commands import eventually

POLICY = """
[[rules]]
name = "never"
decision = "deny"
tool = "echo__forbidden"

[[rules]]
name = "no-secrets"
decision = "deny"
tool = "echo__do"
when = '"path" in params && params.path.contains("secret")'

[[rules]]
name = "look"
decision = "ask"
tool = "echo__do"
when = 'has(params.risky)'
"""
CALL = '"jsonrpc":"2.0","id":"a","method":"tools/call"'


def with_rules(folder: Path) -> Home:
    home = Home(folder)
    policy = folder / "config" / "custody" / "policy.toml"
    policy.parent.mkdir(parents=True, exist_ok=True)
    policy.write_text(POLICY, encoding="utf-8")
    return home


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    home = with_rules(tmp_path_factory.mktemp("client"))
    with proxied(home, server=SERVER, greet=False) as made:
        made.ask("initialize", LEGACY_FORMS)
        made.ask("tools/list")
        yield made


def refusal_for(client: Proxied) -> dict[str, Any]:
    """The answer to a line whose id is "a", or cannot be told; that to a call of before may still come."""
    while True:
        message = client.read()
        assert message is not None, client.complaints()
        if "method" not in message and message["id"] in ("a", None):
            return message


@pytest.mark.parametrize(
    "said",
    [
        "{" + CALL + ',"params":{"name":"forbidden"}}',
        "{" + CALL + r',"params":{"na\u006de":"forb\u0069dden"}}',
        r'{"jsonrpc":"2.0","id":"a","m\u0065thod":"tools\/c\u0061ll","params":{"name":"forbidden"}}',
        "{" + CALL + r',"params":{"name":"forbidden","n\u0061me":"do"}}',
        "{" + CALL + r',"params":{"name":"do","n\u0061me":"forbidden"}}',
        "{" + CALL + ',"params":{"name":"do"},"params":{"name":"forbidden"}}',
        "{" + CALL + ',"params":{"name":"do"},"Params":{"name":"forbidden"}}',
        "{" + CALL + ',"params":{"name":"do","NAME":"forbidden"}}',
        "{" + CALL + ',"params":{"name":"do","arguments":{"path":"a","path":"secret"}}}',
        "{" + CALL + r',"params":{"name":"do","arguments":{"path":"a","p\u0061th":"secret"}}}',
        "{" + CALL + ',"params":{"name":"do","arguments":{"path":"a","Path":"secret"}}}',
        "{" + CALL + ',"params":{"name":"do","arguments":{"path":"a"},"arguments":{"path":"secret"}}}',
        "{" + CALL + r',"params":{"name":"do","arguments":{"path":"s\u0065cret"}}}',
        "{" + CALL + r',"params":{"name":"forbidden\u0000"}}',
        "{" + CALL + r',"params":{"name":"forbidden\n"}}',
        "{" + CALL + ',"params":{"name":" forbidden"}}',
        "{" + CALL + ',"params":{"name":"do"}}{' + CALL + ',"params":{"name":"forbidden"}}',
        "[{" + CALL + ',"params":{"name":"forbidden"}}]',
        '{"jsonrpc":"2.0","method":"tools/call","params":{"name":"forbidden"}}',
        '{"jsonrpc":"2.0","id":null,"method":"tools/call","params":{"name":"forbidden"}}',
        '{"jsonrpc":"2.0","id":"a","method":"Tools/Call","params":{"name":"forbidden"}}',
        r'{"jsonrpc":"2.0","id":"a","method":"tools/call\u0000","params":{"name":"forbidden"}}',
        '{"jsonrpc":"2.0","id":"a","method":" tools/call","params":{"name":"forbidden"}}',
        '{"jsonrpc":"2.0","id":"a","method":"x","params":[\r{'
        + CALL
        + ',"params":{"name":"forbidden"}}\r]}x',
        '{"jsonrpc":"2.0","id":"a","result":{},"method":"tools/call","params":{"name":"forbidden"}}',
        "{" + CALL + ',"params":{"name":"do","arguments":{"path":1e999,"x":"secret"}}}',
        "{" + CALL + r',"params":{"name":"do","arguments":{"x":"secret\ud800"}}}',
    ],
)
def test_what_is_forbidden_does_not_reach_the_server_however_it_is_written(client: Proxied, said: str):
    before = len(client.settled())
    client.send(said.encode() + b"\n")
    answer = refusal_for(client)
    assert "error" in answer or answer["result"]["isError"] is True
    (ping,) = client.settled()[before:]
    assert json.loads(ping)["method"] == "ping"  # that of before


def test_a_call_and_its_cancellation_at_once_leave_server_and_record_agreed(tmp_path: Path):
    with proxied(tmp_path, server=SERVER) as client:
        client.call("do")
        data = b""
        for number in range(60):
            said = {"name": "do", "arguments": {"number": number, "silent": True}}
            call = {"jsonrpc": "2.0", "id": f"c{number % 20}", "method": "tools/call", "params": said}
            cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled",
                      "params": {"requestId": f"c{number % 20}"}}  # fmt: skip
            data += json.dumps(call).encode() + b"\n" + json.dumps(cancel).encode() + b"\n"
        client.send(data)
        got = [json.loads(line) for line in client.settled()]
        records = calls(client.records())
    sent = [one["params"]["arguments"]["number"] for one in got if one["method"] == "tools/call"
            and "number" in one["params"]["arguments"]]  # fmt: skip
    made = {one["arguments"]["number"]: one for one in records.values() if "number" in one["arguments"]}
    assert set(sent) <= made.keys()
    assert all("call_started" in made[number]["kinds"] for number in sent)
    assert {one["outcome"] for one in made.values()} <= {"cancelled", "rejected"}


def test_an_id_in_flight_is_not_taken_again_and_its_answer_stays_that_of_the_first(client: Proxied):
    steps: list[Any] = []
    for name, arguments in (("do", {"steps": steps, "silent": True}), ("do", {"which": "second"})):
        said = {"name": name, "arguments": arguments}
        client.send({"jsonrpc": "2.0", "id": "same", "method": "tools/call", "params": said})
    assert "open already" in refusal_for(client)["error"]["message"]
    client.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "same"}})
    assert not any(b"second" in line for line in client.settled())


def test_a_question_is_answered_by_its_own_id_alone_and_once(client: Proxied):
    yes = {"action": "accept", "content": {"answer": "yes"}}
    for guess in ("custody-1", "custody", 1):
        client.send({"jsonrpc": "2.0", "id": guess, "result": yes})
    asking = client.begin("tools/call", {"name": "do", "arguments": {"risky": 1}})
    form = client.told_of("elicitation/create")
    client.send({"jsonrpc": "2.0", "id": asking, "result": yes})
    assert not any(b'"risky"' in line for line in client.settled())
    client.send({"jsonrpc": "2.0", "id": form["id"], "result": {"action": "decline"}})
    client.send({"jsonrpc": "2.0", "id": form["id"], "result": yes})
    assert client.answer_to(asking)["result"]["isError"] is True
    assert not any(b'"risky"' in line for line in client.settled())


@pytest.mark.parametrize("answer", [7, [], {"action": "accept"}, {"action": "accept", "content": []}, "yes"])
def test_nonsense_is_no_yes(client: Proxied, answer: Any):
    asking = client.begin("tools/call", {"name": "do", "arguments": {"risky": 2}})
    form = client.told_of("elicitation/create")
    client.send({"jsonrpc": "2.0", "id": form["id"], "result": answer})
    client.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": asking}})
    assert not any(b'"risky"' in line for line in client.settled())


def test_a_flood_of_calls_is_refused_beyond_a_bound_and_the_rest_is_answered(tmp_path: Path):
    with proxied(tmp_path, server=SERVER) as client:
        told: list[dict[str, Any]] = [
            {"id": f"n{number}", "method": "ping" if number % 8 else "tools/call"} for number in range(1_600)
        ]
        said: dict[str, Any] = {"jsonrpc": "2.0", "params": {"name": "do", "arguments": {}}}
        client.send(b"".join(json.dumps(said | one).encode() + b"\n" for one in told))
        answers = [client.read() or {} for _ in told]
        assert {str(one["id"]) for one in answers} == {one["id"] for one in told}


def test_faults_beyond_a_number_are_counted(tmp_path: Path):
    with proxied(tmp_path, server=SERVER) as client:
        client.send(b"junk\n" * 500)
        for _ in range(500):
            client.read()
        told = events(client.records(), "mcp.fault")
    assert sum(one.get("count", 1) for one in told) == 500
    assert len(told) == 101


GREETS = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": GREETING}).encode() + b"\n"
CALLS = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"do","arguments":{"silent":true}}}\n'
IS_ASKED = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"do","arguments":{"risky":1}}}\n'
LISTS = b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}\n'


@pytest.mark.parametrize(
    "last",
    [
        pytest.param(b"", id="nothing", marks=pytest.mark.long),
        pytest.param(b'{"jsonrpc":"2.0","id":1,"met', id="half a line", marks=pytest.mark.long),
        pytest.param(GREETS, id="its greeting", marks=pytest.mark.long),
        pytest.param(CALLS, id="a call"),
        pytest.param(IS_ASKED, id="a question", marks=pytest.mark.long),
        pytest.param(LISTS, id="a list", marks=pytest.mark.long),
    ],
)
def test_a_client_may_go_at_any_step(tmp_path: Path, last: bytes):
    with proxied(with_rules(tmp_path), server=SERVER, greet=False) as client:
        client.send(last)
        assert client.close() == 0
        records = client.records() if b"tools/call" in last else []
    assert all(one["kinds"][-1] == "call_finished" for one in calls(records).values())


@pytest.mark.long
def test_a_client_that_goes_while_the_server_takes_nothing_leaves_no_proxy_behind(tmp_path: Path):
    deaf = [sys.executable, "-c", "import signal; signal.pause()"]
    line = json.dumps({"jsonrpc": "2.0", "method": "x", "params": {"text": "x" * 60_000}}).encode() + b"\n"
    with proxied(tmp_path, server=deaf, greet=False) as client:
        client.send(line * 3)  # one is taken by a pipe, one waits, one is not read
        assert client.close() == 0


def test_a_proxy_that_is_told_to_stop_finishes_its_record(tmp_path: Path):
    with proxied(tmp_path, server=SERVER) as client:
        client.begin("tools/call", {"name": "do", "arguments": {"silent": True}})
        eventually(lambda: any(b'"silent"' in line for line in client.sent()))
        client.process.send_signal(signal.SIGTERM)
        assert client.process.wait(30) == 0
        (call,) = calls(client.records()).values()
    assert call["outcome"] == "cancelled"
