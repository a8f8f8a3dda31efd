"""A question is put to the person behind an MCP client, where that one may answer it; and to nobody else."""

import asyncio
import os
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import StdioServerParameters
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitResult, Implementation, InputRequiredResult
from msgspec import structs
from tests.calls.desk import Desk
from tests.doors.asked import token_of
from tests.doors.mcp_clients import ANSWER_SECONDS, GREETING, MODERN, Home, lines
from tests.doors.serving import Served, serving_in_thread
from tests.settings_for_tests import never_short_of_resources

import custody
from custody.calls.questions import REASON_CHARACTERS_MAX, answer_question, open_questions
from custody.doors.mcp.asking import ARGUMENTS_CHARACTERS_MAX, FORM, QUESTIONS_MAX, message_of
from custody.doors.mcp.rounds import ROUNDS_MAX, WAITING_OF_ONE_MAX
from custody.doors.server.app import DoorBounds
from custody.journal import MemoryDisk
from custody.records import now_us
from custody.rpc.access import TokenDoor
from custody.rpc.tokens import Tokens
from custody.sandbox.survivors import TOKEN_NAME

POLICY = """
[[rules]]
name = "look-at-writes"
decision = "ask"
tool = "file_write"
reason = "Writes are looked at."

[approvals]
wait_seconds = 20
"""
NOT_LONG = POLICY.replace("20", "5")
"""Where the wait is to end, though not before a slow machine has shown what it waits for."""
LEGACY = "legacy"
BOTH = pytest.mark.parametrize("version", [LEGACY, MODERN], ids=["greeted", "newest"])
TESTER = Implementation(name="te\x1bst\ner", version="1.2")

Dialog = Callable[[Any], Awaitable[ElicitResult]]
"""What a person does with a form."""


class Place:
    """A daemon whose policy asks about writes, and another process at its store."""

    def __init__(self, served: Served, tokens: dict[str, str], folder: Path) -> None:
        self.served = served
        self.tokens = tokens
        self.folder = folder
        self.index = served.door.runtime.index
        self.elsewhere = Desk(folder / "store")

    @asynccontextmanager
    async def client(
        self, dialog: Dialog | None, version: str, token: str = "operator", **options: Any
    ) -> AsyncGenerator[Client]:
        async def shown(context: Any, params: Any) -> ElicitResult:
            assert dialog is not None
            return await dialog(params)

        headers = {"Authorization": f"Bearer {self.tokens[token]}"}
        async with httpx2.AsyncClient(headers=headers, timeout=ANSWER_SECONDS) as http:
            transport = streamable_http_client(f"{self.served.url}/mcp", http_client=http)
            asked = {} if dialog is None else {"elicitation_callback": shown}
            async with Client(transport, mode=version, client_info=TESTER, **asked, **options) as client:
                yield client

    def write(self, dialog: Dialog | None, version: str, path: str, **options: Any) -> dict[str, Any]:
        """The call, as its client hears of it."""

        async def main() -> Any:
            async with self.client(dialog, version, **options) as client:
                return await wrote(client, path)

        return asyncio.run(main())

    def answers(self, call: str, verdict: Any) -> None:
        """Another process does."""
        answer_question(self.elsewhere.means, call, verdict, person="kim")

    def answer_of(self, call: str) -> Any:
        return self.index.questions.one(call).answer

    async def asked_about(self, path: str) -> str:
        """The call that waits for an answer about this file."""
        while True:
            for question in await asyncio.to_thread(open_questions, self.elsewhere.index, now_us()):
                if question.arguments["path"] == path and question.waiting:
                    return question.call_id
            await asyncio.to_thread(threading.Event().wait, 0.005)


async def wrote(client: Client, path: str, content: str = "x") -> dict[str, Any]:
    arguments = {"path": path, "content": content}
    result = await asyncio.wait_for(client.call_tool("file_write", arguments), ANSWER_SECONDS)
    return result.structured_content


def says(action: Any, **content: Any) -> Dialog:
    async def dialog(params: Any) -> ElicitResult:
        return ElicitResult.model_construct(action=action, content=content or None)

    return dialog


async def nobody_may_see_it(params: Any) -> ElicitResult:
    raise AssertionError("it was shown")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("mcp-asks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        never_short_of_resources(folder / "config").with_name("policy.toml").write_text(POLICY)
        patch.chdir(folder)
        tokens = Tokens(MemoryDisk())
        made = {role: token_of(tokens, f"an-{role}", role) for role in ("operator", "host", "agent")}
        options = {"doorkeeper": TokenDoor(tokens.known), "bounds": DoorBounds(requests_per_second=1e6)}
        with serving_in_thread(str(folder / "store"), **options) as served:
            place = Place(served, made, folder)
            yield place
            place.elsewhere.close()


@BOTH
def test_a_yes_lets_the_call_run_and_is_a_persons_on_the_record(place: Place, version: str):
    shown: list[Any] = []

    async def dialog(params: Any) -> ElicitResult:
        shown.append(params)
        return ElicitResult(action="accept", content={"answer": "yes"})

    path = f"yes-{version}"
    call = place.write(dialog, version, path)

    assert (call["outcome"], (place.folder / path).read_text()) == ("succeeded", "x")
    answer = place.answer_of(call["id"])
    assert (answer.decision.verdict, answer.decision.by) == ("allow", "person")
    assert (answer.person, answer.decision.rule) == ("mcp client te\\x1bst er", "look-at-writes")
    (params,) = shown
    assert params.requested_schema == FORM
    first, arguments, *_, last = params.message.splitlines()
    assert first.endswith(f"asks: file_write (write), call {call['id'][:8]}")
    assert f'"path": "{path}"' in arguments
    assert last == "rule look-at-writes: Writes are looked at."


@pytest.mark.long
@BOTH
def test_a_no_rejects_it_and_its_reason_is_told(place: Place, version: str):
    path = f"no-{version}"
    call = place.write(says("accept", answer="no", reason=" not on\na Friday "), version, path)

    assert (call["outcome"], call["decision"]["by"], call["reason"]) == (
        "rejected",
        "person",
        "not on a Friday",
    )
    assert not (place.folder / path).exists()


@pytest.mark.long
def test_to_decline_is_a_no(place: Place):
    call = place.write(says("decline"), LEGACY, "declined")

    assert (call["outcome"], call["decision"]["by"]) == ("rejected", "person")
    assert place.answer_of(call["id"]).decision.verdict == "deny"


NOT_ANSWERS = {
    "closed": says("cancel"),
    "empty": says("accept"),
    "another word": says("accept", answer="YES"),
    "another type": says("accept", answer=True),
    "a list": says("accept", answer=["yes"]),
    "a reason that is none": says("accept", answer="yes", reason=7),
    "a long reason": says("accept", answer="yes", reason="r" * (REASON_CHARACTERS_MAX + 1)),
    "a reason of 10 MB": says("accept", answer="yes", reason="r" * 10_000_000),
    "an action that is none": says("allow", answer="yes"),
}


@pytest.mark.long
@BOTH
@pytest.mark.parametrize("name", NOT_ANSWERS)
def test_what_is_no_clear_answer_leaves_it_to_others(place: Place, version: str, name: str):
    if (version, name) == (MODERN, "an action that is none"):
        pytest.skip("the request that brings it is no request of the protocol")

    async def main() -> Any:
        async with place.client(NOT_ANSWERS[name], version) as client:
            writing = asyncio.create_task(wrote(client, path))
            asked = await place.asked_about(path)
            await asyncio.to_thread(place.answers, asked, "allow")
            return await writing

    path = f"others-{version}-{name}"
    call = asyncio.run(main())

    assert call["outcome"] == "succeeded"
    assert place.answer_of(call["id"]).person == "kim"


@pytest.mark.long
@BOTH
def test_a_client_that_shows_no_forms_is_not_asked(place: Place, version: str):
    call = place.write(None, version, f"silent-{version}")

    assert (call["outcome"], call["decision"]["by"]) == ("rejected", "nobody")


@pytest.mark.parametrize("version", [MODERN, pytest.param(LEGACY, marks=pytest.mark.long)])
def test_an_agents_client_is_not_asked(place: Place, version: str):
    call = place.write(nobody_may_see_it, version, f"agent-{version}", token="agent")

    assert (call["outcome"], call["decision"]["by"]) == ("rejected", "nobody")


@pytest.mark.long
def test_a_hosts_client_may_answer(place: Place):
    call = place.write(says("accept", answer="yes"), LEGACY, "host", token="host")

    assert call["outcome"] == "succeeded"


def test_who_answers_elsewhere_first_ends_the_dialog(place: Place):
    ended = asyncio.Event()

    async def dialog(params: Any) -> ElicitResult:
        try:
            return await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    async def main() -> Any:
        async with place.client(dialog, LEGACY) as client:
            writing = asyncio.create_task(wrote(client, "elsewhere"))
            asked = await place.asked_about("elsewhere")
            await asyncio.to_thread(place.answers, asked, "deny")
            call = await writing
            await asyncio.wait_for(ended.wait(), ANSWER_SECONDS)
            return call

    call = asyncio.run(main())

    assert (call["outcome"], call["reason"]) == ("rejected", "kim said no")


@pytest.mark.long
def test_a_late_answer_in_the_newest_version_changes_nothing(place: Place):
    async def main() -> Any:
        async def dialog(params: Any) -> ElicitResult:
            asked = await place.asked_about("late")
            await asyncio.to_thread(place.answers, asked, "deny")
            await asyncio.to_thread(_until_ended, place, asked)
            return ElicitResult(action="accept", content={"answer": "yes"})

        async with place.client(dialog, MODERN) as client:
            return await wrote(client, "late")

    call = asyncio.run(main())

    assert (call["outcome"], call["reason"]) == ("rejected", "kim said no")
    assert place.answer_of(call["id"]).person == "kim"


def _until_ended(place: Place, call: str) -> None:
    while place.elsewhere.index.call(call).outcome is None:
        threading.Event().wait(0.005)


@pytest.mark.long
@BOTH
def test_so_many_are_shown_at_a_time_and_no_more(place: Place, version: str):
    shown: list[str] = []

    async def main() -> list[Any]:
        enough = asyncio.Event()

        async def dialog(params: Any) -> ElicitResult:
            shown.append(params.message)
            if len(shown) == QUESTIONS_MAX:
                enough.set()
            await others_are_answered.wait()
            return ElicitResult(action="accept", content={"answer": "yes"})

        others_are_answered = asyncio.Event()
        async with place.client(dialog, version) as client:
            paths = [f"many-{version}-{number}" for number in range(QUESTIONS_MAX)]
            writing = [asyncio.create_task(wrote(client, path)) for path in paths]
            await asyncio.wait_for(enough.wait(), ANSWER_SECONDS)
            last = asyncio.create_task(wrote(client, f"last-{version}"))
            asked = await place.asked_about(f"last-{version}")
            await asyncio.to_thread(place.answers, asked, "deny")
            assert (await last)["reason"] == "kim said no"
            others_are_answered.set()
            return [call["outcome"] for call in await asyncio.gather(*writing)]

    assert asyncio.run(main()) == ["succeeded"] * QUESTIONS_MAX
    assert len(shown) == QUESTIONS_MAX


@pytest.mark.long
@BOTH
def test_a_question_outlives_a_client_that_goes(place: Place, version: str):
    path = f"gone-{version}"

    async def main() -> str:
        shown = asyncio.Event()

        async def dialog(params: Any) -> ElicitResult:
            shown.set()
            return await asyncio.get_running_loop().create_future()

        async with place.client(dialog, version) as client:
            writing = asyncio.create_task(wrote(client, path))
            asked = await place.asked_about(path)
            await asyncio.wait_for(shown.wait(), ANSWER_SECONDS)
            writing.cancel()
            return asked

    asked = asyncio.run(main())

    place.answers(asked, "allow")
    assert place.answer_of(asked).person == "kim"


@pytest.mark.long
def test_what_is_shown_is_as_on_the_record_and_steers_nothing(place: Place):
    shown: list[str] = []

    async def dialog(params: Any) -> ElicitResult:
        shown.append(params.message)
        return ElicitResult(action="decline")

    async def main() -> None:
        async with place.client(dialog, LEGACY) as client:
            secret = "AKIA" + "Z3QW5RTY7UPLKJH2"  # made up
            await wrote(client, "shown", f"{secret} \x1b[2J \u202e {'x' * ARGUMENTS_CHARACTERS_MAX}")
            assert secret not in shown[0]

    asyncio.run(main())

    (message,) = shown
    assert message.replace("\n", "").isprintable()
    assert "more characters, which custody approvals --json has" in message
    assert len(message) < ARGUMENTS_CHARACTERS_MAX + 1_000


def test_what_is_long_and_strange_is_looked_at_as_far_as_it_is_shown(tmp_path: Path):
    desk = Desk(tmp_path)
    looked_at = 0

    class Strange(str):
        def isprintable(self) -> bool:
            raise AssertionError("all of it was looked at")

        def __iter__(self) -> Iterator[str]:
            nonlocal looked_at
            for one in super().__iter__():
                looked_at += 1
                yield one

    question = structs.replace(desk.question(), shown=Strange("\u202e" * 100_000))
    desk.close()
    message = message_of(question)

    assert looked_at <= ARGUMENTS_CHARACTERS_MAX
    escapes = ARGUMENTS_CHARACTERS_MAX // len("\\u202e")
    assert "\\u202e" * escapes + f" … and {100_000 - escapes:,} more characters" in message


def test_what_would_change_is_shown_line_by_line_and_what_is_left_out_is_counted(tmp_path: Path):
    desk = Desk(tmp_path)
    lines = ["--- a/x", "+++ b/x", "\x1b[2Jnew\tx", *("+" + "y" * 98 for _ in range(100))]
    question = structs.replace(desk.question(), difference="".join(f"{line}\n" for line in lines))
    desk.close()
    message = message_of(question)

    assert "\n| --- a/x\n| +++ b/x\n| \\x1b[2Jnew" in message
    assert message.replace("\n", "").isprintable()
    shown = message.count("| +y")
    assert 0 < shown < 100
    assert f"\n| … and {100 - shown:,} more lines, which custody approvals --json has\n" in message


def plan_of(actions: int, prefix: str) -> dict[str, Any]:
    return {
        "id": prefix,
        "actions": [
            {
                "id": f"a{number}",
                "tool": "file_write",
                "arguments": {"path": f"{prefix}-{number}", "content": "x"},
                "depends_on": [f"a{number - 1}"] if number else [],
            }
            for number in range(actions)
        ],
    }


@pytest.mark.long
@BOTH
def test_each_action_of_a_plan_that_is_asked_about_is_put_to_the_client(place: Place, version: str):
    shown: list[str] = []

    async def dialog(params: Any) -> ElicitResult:
        shown.append(params.message)
        return ElicitResult(action="accept", content={"answer": "yes" if len(shown) < 3 else "no"})

    async def main() -> Any:
        async with place.client(dialog, version) as client:
            result = await client.call_tool("plan_run", {"plan": plan_of(3, f"plan-{version}")})
            return result.structured_content

    said = asyncio.run(main())

    assert len(shown) == 3
    assert [one["status"] for one in said["actions"]] == ["completed", "completed", "failed"]


@pytest.mark.long
def test_a_request_of_the_newest_version_comes_back_for_so_many_questions(place: Place):
    shown: list[str] = []

    async def dialog(params: Any) -> ElicitResult:
        shown.append(params.message)
        return ElicitResult(action="accept", content={"answer": "yes"})

    async def main() -> Any:
        async with place.client(dialog, MODERN) as client:
            plan = plan_of(ROUNDS_MAX + 1, "rounds")
            running = asyncio.create_task(client.call_tool("plan_run", {"plan": plan}))
            asked = await place.asked_about(f"rounds-{ROUNDS_MAX}")
            await asyncio.to_thread(place.answers, asked, "allow")
            return (await running).structured_content

    assert asyncio.run(main())["state"] == "complete"
    assert len(shown) == ROUNDS_MAX


@pytest.mark.long
def test_what_waits_is_gone_on_with_by_whoever_asked_with_the_same_request_and_once(place: Place):
    yes = {"question-1": ElicitResult(action="accept", content={"answer": "yes"})}

    async def main() -> None:
        async with (
            place.client(nobody_may_see_it, MODERN) as client,
            place.client(nobody_may_see_it, MODERN, token="host") as other,
        ):
            named = {"path": "bound", "content": "x"}
            first = await client.session.call_tool("file_write", named, allow_input_required=True)
            assert isinstance(first, InputRequiredResult)
            assert first.input_requests is not None and list(first.input_requests) == ["question-1"]
            again = {"input_responses": yes, "request_state": first.request_state}
            for session, arguments in ((other, named), (client, {**named, "content": "y"})):
                with pytest.raises(MCPError, match="Nothing waits"):
                    await session.session.call_tool("file_write", arguments, **again)
            last = await client.session.call_tool("file_write", named, **again)
            assert last.structured_content["outcome"] == "succeeded"
            with pytest.raises(MCPError, match="Nothing waits"):
                await client.session.call_tool("file_write", named, **again)

    asyncio.run(main())


@pytest.mark.long
def test_who_never_comes_again_leaves_room_for_others(place: Place):
    async def main() -> Any:
        async def left(path: str) -> Any:
            named = {"path": path, "content": "x"}
            return await client.session.call_tool("file_write", named, allow_input_required=True)

        async with place.client(nobody_may_see_it, MODERN, token="host") as client:
            for number in range(WAITING_OF_ONE_MAX):
                first = await left(f"left-{number}")
                assert isinstance(first, InputRequiredResult)
                asked = await place.asked_about(f"left-{number}")
                await asyncio.to_thread(place.answers, asked, "deny")
                await asyncio.to_thread(_until_ended, place, asked)
            one_more = asyncio.create_task(left("one-more"))
            asked = await place.asked_about("one-more")
            await asyncio.to_thread(place.answers, asked, "deny")
            assert (await one_more).structured_content["reason"] == "kim said no"
        async with place.client(says("accept", answer="yes"), MODERN) as other:
            return await wrote(other, "room")

    assert asyncio.run(main())["outcome"] == "succeeded"


# -- over standard input and output -------------------------------------------------------------------------


def rule(home: Home, policy: str) -> None:
    (home.folder / "config" / "custody" / "policy.toml").write_text(policy, encoding="utf-8")


@asynccontextmanager
async def over_stdio(
    home: Home, dialog: Dialog, version: str, *options: str, policy: str = POLICY, **variables: str
) -> AsyncGenerator[Client]:
    async def shown(context: Any, params: Any) -> ElicitResult:
        return await dialog(params)

    rule(home, policy)
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "custody", "mcp", *options],
        cwd=home.work,
        env={**home.environment, **variables},
    )
    async with Client(server, mode=version, client_info=TESTER, elicitation_callback=shown) as client:
        yield client


@pytest.mark.long
def test_over_standard_input_and_output_it_is_asked_too(tmp_path: Path):
    async def main() -> Any:
        async with over_stdio(Home(tmp_path), says("accept", answer="yes"), MODERN) as client:
            return await wrote(client, "yes")

    call = asyncio.run(main())

    assert (call["outcome"], (tmp_path / "work" / "yes").read_text()) == ("succeeded", "x")


@pytest.mark.long
def test_a_dialog_nobody_answers_ends_with_the_wait_and_the_question_stays_open(tmp_path: Path):
    ended = asyncio.Event()

    async def dialog(params: Any) -> ElicitResult:
        if '"path": "now"' in params.message:
            return ElicitResult(action="accept", content={"answer": "yes"})
        try:
            return await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    async def main() -> list[Any]:
        home = Home(tmp_path)
        async with over_stdio(home, dialog, LEGACY, policy=NOT_LONG) as client:
            first = await wrote(client, "later")
            await asyncio.wait_for(ended.wait(), ANSWER_SECONDS)
            desk = Desk(tmp_path / "store")
            await asyncio.to_thread(answer_question, desk.means, first["id"], "allow", person="kim")
            desk.close()
            rule(home, POLICY)
            return [first, await wrote(client, "later"), await wrote(client, "now")]

    first, second, third = asyncio.run(main())

    assert (first["outcome"], first["decision"]["by"]) == ("rejected", "nobody")
    assert "waiting for a person" in first["reason"]
    assert (second["outcome"], third["outcome"]) == ("succeeded", "succeeded")


@pytest.mark.long
def test_a_client_that_cannot_put_it_after_all_says_so_with_an_error(tmp_path: Path):
    home = Home(tmp_path)
    rule(home, NOT_LONG)
    with lines(home) as client:
        client.ask("initialize", {**GREETING, "capabilities": {"elicitation": {}}})
        asking = client.begin(
            "tools/call", {"name": "file_write", "arguments": {"path": "no", "content": "x"}}
        )
        form = client.read()
        assert form is not None and form["method"] == "elicitation/create"
        client.send({"jsonrpc": "2.0", "id": form["id"], "error": {"code": -32601, "message": "no forms"}})
        call = client.answer_to(asking)["result"]["structuredContent"]

    assert (call["outcome"], call["decision"]["by"]) == ("rejected", "nobody")
    assert client.told == []  # it has said so: nobody takes the form from it at the end of the wait


@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "variables"),
    [
        pytest.param(("--no-ask",), {}, id="switched off"),
        pytest.param((), {TOKEN_NAME: "0123456789abcdef"}, id="started by a recorded call"),
    ],
)
def test_nobody_is_asked_where_it_is_switched_off_or_an_agent_would_answer(
    tmp_path: Path, options: tuple[str, ...], variables: dict[str, str]
):
    async def main() -> Any:
        async with over_stdio(Home(tmp_path), nobody_may_see_it, LEGACY, *options, **variables) as client:
            return await wrote(client, "no")

    call = asyncio.run(main())

    assert (call["outcome"], call["decision"]["by"]) == ("rejected", "nobody")
    assert "nobody is there" in call["reason"]


@pytest.mark.long
def test_the_client_of_an_agent_whose_run_is_open_is_not_asked(tmp_path: Path):
    async def main() -> Any:
        async with over_stdio(Home(tmp_path), nobody_may_see_it, LEGACY, policy=NOT_LONG) as client:
            return await wrote(client, "no")

    Home(tmp_path)
    with custody.open(os.fspath(tmp_path / "store")) as runtime, runtime.run("work", agent="ada"):
        call = asyncio.run(main())

    assert (call["outcome"], call["decision"]["by"]) == ("rejected", "nobody")
    assert "waiting for a person" in call["reason"]
