"""MCP at the daemon: the official client over streamable HTTP, behind the door's own checks."""

import asyncio
import json
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec
import pytest
from mcp import ClientSession
from mcp.shared.exceptions import MCPError
from tests.doors.asked import PAGE, act, token_of
from tests.doors.mcp_clients import ANSWER_SECONDS, ENVELOPE, GREETING, LEGACY, MODERN, over_http
from tests.doors.serving import Served, serving_in_thread
from tests.sandbox.commands import eventually
from tests.settings_for_tests import never_short_of_resources

from custody.doors.server.app import DoorBounds
from custody.doors.server.checks import Callers
from custody.journal import MemoryDisk
from custody.records import document
from custody.rpc.access import TokenDoor
from custody.rpc.tokens import Tokens
from custody.skills import Root, Shelf

T = TypeVar("T")

ACCEPT = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}


class Place:
    """A served store in which Ada and Bob did something, and tokens for it."""

    def __init__(self, served: Served, tokens: Tokens, made: dict[str, str]) -> None:
        self.served = served
        self.tokens = tokens
        self.made = made

    def with_client(self, token: str, work: Callable[[ClientSession], Awaitable[T]]) -> T:
        async def main() -> T:
            async with over_http(self.served.url, self.made[token]) as session:
                return await asyncio.wait_for(work(session), ANSWER_SECONDS)

        return asyncio.run(main())

    def post(self, token: str | None, message: Any, **headers: str) -> httpx.Response:
        known = {} if token is None else {"Authorization": f"Bearer {self.made[token]}"}
        return httpx.post(
            f"{self.served.url}/mcp",
            json=message,
            headers={**ACCEPT, **known, **headers},
            timeout=ANSWER_SECONDS,
        )

    def modern(self, token: str, method: str, params: dict[str, Any], **headers: str) -> Any:
        """A request of the newest version: no session, its name in the headers too."""
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": ENVELOPE}}
        named = {"Mcp-Name": params["name"]} if "name" in params else {}
        spoken = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method, **named}
        return self.post(token, message, **{**spoken, **headers})


def shelf_in(folder: Path) -> Shelf:
    """With one skill."""
    skill = folder / "skills" / "greet"
    skill.mkdir(parents=True)
    (skill / "SKILL.md").write_text("---\nname: greet\ndescription: Greets somebody.\n---\nSay hello.\n")
    root = Root(path=str(folder / "skills"), kind="given")
    return Shelf(roots=(root,), install_root=root.path, trust_file=str(folder / "trust.json"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("mcp-http")
    store = str(folder / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        never_short_of_resources(folder / "config")
        patch.chdir(folder)
        Path(folder, "note.txt").write_text("hello\n")
        act(store)
        tokens = Tokens(MemoryDisk())
        made = {role: token_of(tokens, f"an-{role}", role) for role in ("operator", "auditor", "host")}
        made |= {name: token_of(tokens, name, "agent", name) for name in ("ada", "bob", "eve")}
        made["reader"], _ = tokens.create(
            "reader", lambda name, data: None, role="agent", agent="kay", tools=["file_read"]
        )
        made["wrong"] = "not-a-token"
        options: dict[str, Any] = {
            "shelf": shelf_in(folder),
            "doorkeeper": TokenDoor(tokens.known),
            "callers": Callers.of([], [PAGE]),
            "bounds": DoorBounds(requests_per_second=1e6, tokens_seconds=0.05),
            "training": ("sh", "-c", "echo trained $0"),
        }
        with serving_in_thread(store, **options) as served:
            yield Place(served, tokens, made)


def content(result: Any) -> Any:
    return result.structured_content


def test_the_official_client_calls_a_tool_in_a_run_that_ends_with_its_session(place: Place):
    async def work(session: ClientSession) -> Any:
        tools = [tool.name for tool in (await session.list_tools()).tools]
        assert {"exec", "runs_list", "agent_spawn"} <= set(tools)
        call = content(await session.call_tool("exec", {"argv": ["echo", "hello"]}))
        run = content(await session.call_tool("runs_show", {"run": call["run_id"]}))
        assert run["outcome"] is None
        return call

    call = place.with_client("bob", work)
    assert (call["result"]["stdout"], call["door"], call["agent"]) == ("hello\n", "mcp", "bob")
    assert call["connection"] is not None
    index = place.served.door.runtime.index
    assert eventually(lambda: index.run(call["run_id"]).outcome)  # recorded behind the answer to the client
    run = index.run(call["run_id"])
    assert (run.outcome, run.reason, run.client) == ("succeeded", "the session is over", "mcp 0.1.0")


def test_an_agent_sees_its_own_and_an_operator_everything(place: Place):
    index = place.served.door.runtime.index
    (bobs,) = [run for run in index.runs().items if run.agent == "bob" and run.intent == "the same"]

    async def work(session: ClientSession) -> tuple[set[str], Any, Any]:
        runs = content(await session.call_tool("runs_list", {}))["items"]
        shown = await session.call_tool("runs_show", {"run": bobs.id})
        rates = content(await session.call_tool("tool_rates", {"tool": "file_read"}))
        return {run["agent"] for run in runs}, shown, rates["items"]

    agents, shown, rates = place.with_client("ada", work)
    assert (agents, shown.is_error) == ({"ada"}, True)
    assert content(shown)["error"]["type"] == "NotFound"
    assert rates[0]["calls"] == 2
    agents, shown, rates = place.with_client("auditor", work)
    assert {"ada", "bob"} <= agents
    assert content(shown)["intent"] == "the same"

    async def read(session: ClientSession) -> str | None:
        try:
            await session.read_resource(f"custody://runs/{bobs.id}")
        except MCPError as error:
            return error.message
        return None

    assert place.with_client("ada", read) == f"There is no resource custody://runs/{bobs.id}."
    assert place.with_client("operator", read) is None


def test_the_numbers_are_the_stores_own(place: Place):
    index = place.served.door.runtime.index

    async def work(session: ClientSession) -> list[Any]:
        asked = [("stats", {}), ("failure_patterns", {"count_min": 1}), ("tool_rates", {})]
        return [content(await session.call_tool(name, params)) for name, params in asked]

    stats, patterns, rates = place.with_client("auditor", work)
    plain = lambda value: msgspec.json.decode(msgspec.json.encode(document(value)))  # noqa: E731
    assert stats == plain(index.stats())
    assert patterns["items"] == plain(index.failure_patterns(count_min=1).items)
    assert rates["items"] == plain(index.tool_rates())


def test_an_auditor_is_offered_what_reads_and_refused_what_acts(place: Place):
    async def work(session: ClientSession) -> None:
        names = {tool.name for tool in (await session.list_tools()).tools}
        assert {"runs_list", "skills_list", "agent_status"} <= names
        assert not {"exec", "file_read", "plan_run", "agent_spawn", "training_trigger"} & names
        refused = await session.call_tool("exec", {"argv": ["true"]})
        assert (refused.is_error, content(refused)["outcome"]) == (True, "rejected")
        for name, arguments in (
            ("training_trigger", {}), ("plan_run", {"plan": {}}), ("agent_cancel", {"id": "abcd"}),
        ):  # fmt: skip
            no = await session.call_tool(name, arguments)
            assert (no.is_error, content(no)["error"]["type"]) == (True, "Denied")

    place.with_client("auditor", work)


def test_a_token_for_some_tools_is_for_those_alone(place: Place):
    async def work(session: ClientSession) -> None:
        names = {tool.name for tool in (await session.list_tools()).tools}
        assert "file_read" in names
        assert not {"exec", "training_trigger", "plan_run"} & names
        assert (await session.call_tool("file_read", {"path": "note.txt"})).is_error is False
        refused = await session.call_tool("exec", {"argv": ["true"]})
        assert content(refused)["decision"]["reason"] == "Its token does not allow this tool."
        assert (await session.call_tool("training_trigger", {})).is_error is True

    place.with_client("reader", work)


def test_training_is_a_run_that_can_be_read_back(place: Place):
    async def work(session: ClientSession) -> tuple[Any, Any]:
        trained = content(await session.call_tool("training_trigger", {}))
        return trained, content(await session.call_tool("runs_show", {"run": trained["run_id"]}))

    trained, run = place.with_client("bob", work)
    assert (trained["outcome"], trained["call"]["result"]["stdout"]) == ("succeeded", "trained incremental\n")
    assert (run["outcome"], run["calls"]) == ("succeeded", 1)
    assert run["parent_run_id"] is not None


PLAN: dict[str, Any] = {
    "id": "two",
    "actions": [
        {"id": "a", "tool": "exec", "arguments": {"argv": ["echo", "one"]}},
        {"id": "b", "tool": "exec", "arguments": {"argv": ["echo", "two"]}, "depends_on": ["a"]},
    ],
}


def test_a_plan_is_checked_without_starting_anything_and_run_with_progress(place: Place):
    index = place.served.door.runtime.index
    wrong = {**PLAN, "actions": [*PLAN["actions"], {"id": "c", "depends_on": ["c", "nowhere"]}]}
    told: list[tuple[float, float | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        del message
        told.append((progress, total))

    async def work(session: ClientSession) -> tuple[Any, Any, Any, Any]:
        before = len(index.calls(limit=1_000).items)
        checked = await session.call_tool("plan_check", {"plan": PLAN})
        faulty = await session.call_tool("plan_check", {"plan": wrong})
        not_begun = await session.call_tool("plan_run", {"plan": wrong})
        assert len(index.calls(limit=1_000).items) == before
        done = await session.call_tool("plan_run", {"plan": PLAN}, progress_callback=note)
        return checked, faulty, not_begun, done

    checked, faulty, not_begun, done = place.with_client("bob", work)
    assert (checked.is_error, content(checked)["ready"]) == (False, ["a"])
    faults = content(faulty)["faults"]
    assert (faulty.is_error, len(faults)) == (True, 2)
    assert (not_begun.is_error, content(not_begun)["error"]["faults"]) == (True, faults)
    assert (done.is_error, content(done)["state"]) == (False, "complete")
    run = index.run(content(done)["run_id"])
    assert (run.outcome, run.calls, run.parent_run_id is not None) == ("succeeded", 2, True)
    assert {call.door for call in index.run_calls(bytes.fromhex(run.id))} == {"mcp"}
    assert told[-1] == (2, 2)


def test_what_is_decided_about_a_plan_that_stopped_is_said_when_it_is_run_again(place: Place):
    plan = {"id": "decided", "actions": [{"id": "a", "tool": "file_read", "arguments": {"path": "gone.txt"}}]}

    async def work(session: ClientSession) -> list[Any]:
        options = ({}, {"done": ["b"]}, {"retry": ["a"]}, {"done": ["a"]}, {})
        return [await session.call_tool("plan_run", {"plan": plan, **more}) for more in options]

    failed, unknown, again, done, still = place.with_client("bob", work)
    assert [content(one)["actions"][0]["status"] for one in (failed, again, done, still)] == [
        "failed", "failed", "completed", "completed",
    ]  # fmt: skip
    assert unknown.is_error and "nothing to decide of 'b'" in content(unknown)["error"]["message"]
    assert content(done)["actions"][0]["reason"] == "bob said that it is done."
    assert content(done)["resumed_from"] == content(again)["run_id"] != content(failed)["run_id"]


def test_a_plan_calls_only_what_its_token_may(place: Place):
    place.made["planner"], _ = place.tokens.create(
        "planner", lambda name, data: None, role="agent", agent="ada", tools=["plan_run", "file_read"]
    )

    async def work(session: ClientSession) -> Any:
        return await session.call_tool("plan_run", {"plan": PLAN})

    refused = place.with_client("planner", work)
    assert refused.is_error is True
    assert content(refused)["error"]["faults"][0]["kind"] == "unknown_tool"


@pytest.mark.long
def test_a_plan_that_was_cut_is_gone_on_with_by_its_own_agent_alone(place: Place):
    index = place.served.door.runtime.index
    waits = {"command": "test -e may-go-on || sleep 4325"}
    second = {"id": "b", "depends_on": ["a"], "tool": "shell", "arguments": waits}
    plan = {"id": "cut", "actions": [PLAN["actions"][0], second]}

    async def begin(session: ClientSession) -> None:
        task = asyncio.create_task(session.call_tool("plan_run", {"plan": plan}))
        await asyncio.to_thread(eventually, lambda: index.calls(text="4325").items)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def go_on(session: ClientSession) -> Any:
        return content(await session.call_tool("plan_run", {"plan": plan}))

    place.with_client("ada", begin)
    (cut,) = eventually(lambda: [run for run in index.runs(name="plan cut").items if run.outcome])
    Path(place.served.door.runtime.settings.scope.cwd, "may-go-on").touch()
    others, own = place.with_client("bob", go_on), place.with_client("ada", go_on)
    assert (others["state"], others["resumed_from"]) == ("complete", None)
    assert (own["state"], own["resumed_from"]) == ("blocked", cut.id)


def test_the_text_of_a_skill_is_given_once_that_is_on_the_record(place: Place):
    index = place.served.door.runtime.index

    async def work(session: ClientSession) -> tuple[Any, Any]:
        known = content(await session.call_tool("skills_info", {"name": "greet"}))
        assert index.events(name="skill.read").items == []
        return known, content(await session.call_tool("skills_info", {"name": "greet", "text": True}))

    known, given = place.with_client("bob", work)
    assert (known["preview"].strip(), given["digest"]) == ("Say hello.", known["digest"])
    assert given["text"].endswith("Say hello.\n")
    (event,) = index.events(name="skill.read").items
    assert (event.data["name"], event.data["digest"], event.data["agent"]) == (
        "greet",
        given["digest"],
        "bob",
    )
    assert event.run_id is not None
    asked = {"name": "skills_info", "arguments": {"name": "greet", "text": True}}
    refused = place.modern("auditor", "tools/call", asked)
    assert refused.json()["result"]["structuredContent"]["error"]["type"] == "Denied"


@pytest.mark.parametrize(
    ("token", "headers", "status"),
    [
        (None, {}, 401),
        ("wrong", {}, 401),
        ("ada", {"Origin": "https://elsewhere.example"}, 403),
        ("ada", {"Host": "elsewhere.example"}, 421),
        ("ada", {"Mcp-Session-Id": "nobodys"}, 404),
        ("ada", {"Accept": "text/html"}, 406),
    ],
)
def test_it_stands_behind_the_checks_of_the_door(
    place: Place, token: str | None, headers: dict[str, str], status: int
):
    greeting = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": GREETING}
    assert place.post(token, greeting, **headers).status_code == status


def test_an_allowed_page_may_read_its_session(place: Place):
    greeting = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": GREETING}
    answer = place.post("ada", greeting, Origin=PAGE)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "mcp-session-id" in answer.headers["access-control-expose-headers"]
    asked = httpx.options(f"{place.served.url}/mcp", headers={"Origin": PAGE}, timeout=ANSWER_SECONDS)
    assert (asked.status_code, "mcp-session-id" in asked.headers["access-control-allow-headers"]) == (
        204,
        True,
    )


def test_a_session_is_its_tokens_alone(place: Place):
    greeting = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": GREETING}
    session = place.post("ada", greeting).headers["mcp-session-id"]
    ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
    mine = {"Mcp-Session-Id": session, "MCP-Protocol-Version": LEGACY}
    assert place.post("bob", ping, **mine).status_code == 404
    assert place.post("ada", ping, **mine).status_code == 200


def test_the_newest_version_needs_no_session(place: Place):
    answer = place.modern("bob", "tools/call", {"name": "exec", "arguments": {"argv": ["echo", "hi"]}})
    assert answer.status_code == 200
    assert "mcp-session-id" not in answer.headers
    call = answer.json()["result"]["structuredContent"]
    assert (call["result"]["stdout"], call["run_id"], call["agent"]) == ("hi\n", None, "bob")
    wrong = place.modern("bob", "tools/call", {"name": "exec", "arguments": {}}, **{"Mcp-Name": "file_read"})
    assert (wrong.status_code, "error" in wrong.json()) == (400, True)


@pytest.mark.parametrize(
    "body", [b"{", b"\xff", b"[]", b"[1]", b'"x"', b'{"jsonrpc":"1.0"}', b"[" * 50_000], ids=range(7)
)
def test_a_wrong_body_is_an_error_of_its_protocol(place: Place, body: bytes):
    for version in ({}, {"MCP-Protocol-Version": MODERN}):
        answer = httpx.post(
            f"{place.served.url}/mcp",
            content=body,
            headers={**ACCEPT, "Authorization": f"Bearer {place.made['ada']}", **version},
            timeout=ANSWER_SECONDS,
        )
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] in (-32700, -32600, -32602)


def test_a_body_has_a_bound(place: Place):
    answer = httpx.post(
        f"{place.served.url}/mcp",
        headers={**ACCEPT, "Authorization": f"Bearer {place.made['ada']}"},
        content=b" " * (17 * 1024**2),
        timeout=ANSWER_SECONDS,
    )
    assert answer.status_code == 413


def test_what_is_larger_than_a_client_takes_in_one_event_is_told_shortened(place: Place):
    quotes = {"command": "head -c 900000 /dev/zero | tr '\\0' '\"'"}

    async def work(session: ClientSession) -> tuple[Any, Any, Any]:
        call = await session.call_tool("shell", quotes)
        found = await session.call_tool("calls_show", {"call": content(call)["id"]})
        resource = await session.read_resource(f"custody://calls/{content(call)['id']}")
        return call, found, resource

    call, found, resource = place.with_client("bob", work)
    assert (call.is_error, content(call)["outcome"]) == (False, "succeeded")
    assert content(call)["result"]["omitted_bytes"] > 900_000
    assert "more characters" in call.content[0].text
    assert content(found)["id"] == content(call)["id"]
    assert json.loads(resource.contents[0].text)["id"] == content(call)["id"]


def test_a_token_for_spawning_needs_the_tool_that_drives_too(place: Place):
    for name, tools in (("spawner", ["agent_spawn"]), ("driver", ["agent_spawn", "drive_cli"])):
        place.made[name], _ = place.tokens.create(
            name, lambda name, data: None, role="agent", agent="ada", tools=tools
        )
    asked = {"name": "agent_spawn", "arguments": {"cli": "nobody", "prompt": "x"}}

    def offered(token: str) -> set[str]:
        tools = place.modern(token, "tools/list", {}).json()["result"]["tools"]
        return {tool["name"] for tool in tools} & {"agent_spawn", "drive_cli"}

    assert (offered("spawner"), offered("driver")) == (set(), {"agent_spawn", "drive_cli"})
    refused = place.modern("spawner", "tools/call", asked).json()["result"]["structuredContent"]
    assert refused["error"]["type"] == "Denied"
    allowed = place.modern("driver", "tools/call", asked).json()["result"]["structuredContent"]
    assert "There is no CLI 'nobody'" in allowed["reason"]


def test_a_name_in_an_address_is_written_as_addresses_are(place: Place):
    plan = {**PLAN, "id": "of three words"}
    done = place.modern("bob", "tools/call", {"name": "plan_run", "arguments": {"plan": plan}}).json()
    address = {"uri": "custody://runs/plan%20of%20three%20words"}
    read = place.modern("bob", "resources/read", address, **{"Mcp-Name": address["uri"]}).json()
    (found,) = read["result"]["contents"]
    assert json.loads(found["text"])["id"] == done["result"]["structuredContent"]["run_id"]


def test_without_the_packages_the_daemon_names_the_extra(place: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "mcp", None)
    answer = place.post("ada", {"jsonrpc": "2.0", "id": 1, "method": "ping"})
    assert (answer.status_code, "custody-runtime[mcp]" in answer.text) == (501, True)


def outcome_of_sleep(place: Place, seconds: str) -> str:
    """What became of the one call that sleeps so long, once it is over."""
    index = place.served.door.runtime.index
    return eventually(lambda: [call.outcome for call in index.calls(text=seconds).items if call.outcome])[0]


def sleeping(place: Place, token: str, seconds: str, begun: threading.Event) -> None:
    """Ask for a call of the newest version that sleeps, until the stream is closed from either side."""
    message = {
        "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {
            "name": "shell", "arguments": {"command": f"echo begun; sleep {seconds}"},
            "_meta": {**ENVELOPE, "progressToken": 1},
        },
    }  # fmt: skip
    headers = {
        **ACCEPT, "Authorization": f"Bearer {place.made[token]}", "MCP-Protocol-Version": MODERN,
        "Mcp-Method": "tools/call", "Mcp-Name": "shell",
    }  # fmt: skip
    address = f"{place.served.url}/mcp"
    with httpx.stream("POST", address, json=message, headers=headers, timeout=ANSWER_SECONDS) as answer:
        for line in answer.iter_lines():
            if "notifications/progress" in line:
                begun.set()
                if token != "eve":
                    return


def test_closing_the_stream_ends_the_call(place: Place):
    sleeping(place, "bob", "4322", threading.Event())
    assert outcome_of_sleep(place, "4322") == "cancelled"


@pytest.mark.long
def test_a_daemon_that_stops_answers_what_ends_in_time(tmp_path: Path, work: Path):
    gate = work / "gate"  # within the root: the command runs behind walls
    os.mkfifo(gate)
    asked = {
        "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {"name": "shell", "arguments": {"command": f"cat {gate}"}, "_meta": ENVELOPE},
    }  # fmt: skip
    headers = {**ACCEPT, "MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": "shell"}
    answers: list[httpx.Response] = []
    with serving_in_thread(str(tmp_path / "store"), drain_seconds=20.0) as served:
        url = f"{served.url}/mcp"
        asking = threading.Thread(
            target=lambda: answers.append(
                httpx.post(url, json=asked, headers=headers, timeout=ANSWER_SECONDS)
            )
        )
        asking.start()
        writing = os.open(gate, os.O_WRONLY)  # waits until the command reads
        opening = threading.Thread(
            target=lambda: eventually(lambda: served.service.draining) and os.close(writing)
        )
        opening.start()
    asking.join(ANSWER_SECONDS)
    opening.join(ANSWER_SECONDS)
    assert answers[0].json()["result"]["structuredContent"]["outcome"] == "succeeded"


@pytest.mark.long
def test_what_is_under_way_ends_with_its_token(place: Place):
    begun = threading.Event()

    def ask() -> None:
        try:
            sleeping(place, "eve", "4323", begun)
        except httpx.HTTPError:
            begun.set()

    thread = threading.Thread(target=ask)
    thread.start()
    assert begun.wait(ANSWER_SECONDS)
    place.tokens.revoke("eve", lambda name, data: None)
    assert outcome_of_sleep(place, "4323") == "cancelled"
    thread.join(ANSWER_SECONDS)
    assert not thread.is_alive()
