"""A command that reads what nobody can look at before: what a yes to it is worth."""

import asyncio
import os

import pytest
from tests.settings_for_tests import without_walls

from custody.calls.answers import no, yes
from custody.calls.questions import Means, answer_question
from custody.compose import open_runtime
from custody.errors import AnswerRefused
from custody.settings import load_settings
from custody.tools.tool import ProcessIO

ASKS = "[approvals]\nwait_seconds = {wait}\n[[rules]]\nname = 'look'\ndecision = 'ask'\ntool = 'exec'\n"


def pipe_with(content):
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    return reading


async def silent(question):
    await asyncio.Event().wait()


def test_a_yes_while_it_waits_lets_it_run_and_cannot_be_for_more_calls(policy):
    policy(ASKS.format(wait=20))
    asked = []

    async def prompt(question):
        asked.append(question)
        return yes(question, "kim")

    async def main():
        async with await open_runtime(load_settings(store=":memory:")) as runtime:
            runtime.prompt = prompt
            fd = pipe_with(b"told")
            try:
                return await runtime.call("exec", {"argv": ["cat"]}, io=ProcessIO(stdin_fd=fd))
            finally:
                os.close(fd)

    call = asyncio.run(main())
    assert (call.outcome, call.result["stdout"]) == ("succeeded", "told")
    assert asked[0].once and not asked[0].standing_allowed


@pytest.mark.parametrize("source", ["pipe", "null"])
def test_a_late_yes_is_not_for_input_that_nobody_has_seen(policy, tmp_path, source):
    policy(ASKS.format(wait=0.05))

    async def main():
        async with await open_runtime(load_settings(store=os.fspath(tmp_path / "store"))) as runtime:
            runtime.prompt = silent

            async def call():
                fd = pipe_with(b"told") if source == "pipe" else os.open(os.devnull, os.O_RDONLY)
                try:
                    return await runtime.call("exec", {"argv": ["cat"]}, io=ProcessIO(stdin_fd=fd))
                finally:
                    os.close(fd)

            first = await call()
            means = Means(journal=runtime.journal, recorder=runtime.ledger.recorder, index=runtime.index)
            try:
                await asyncio.to_thread(answer_question, means, first.id, "allow", person="kim")
                answered = True
            except AnswerRefused as error:
                answered = error.details["why"]
            return first, answered, await call()

    first, answered, second = asyncio.run(main())
    assert first.outcome == "rejected"
    if source == "pipe":
        assert "standard input" in first.reason and "repeat" not in first.reason
        assert (answered, second.outcome) == ("expired", "rejected")
    else:
        assert "repeat the same call" in first.reason
        assert (answered, second.outcome) == (True, "succeeded")


def test_a_yes_behind_walls_is_none_without_them_and_the_question_says_which(policy, tmp_path):
    without_walls(tmp_path / "config")
    policy(ASKS.format(wait=20))
    asked = []

    async def prompt(question):
        asked.append(question)
        return no(question, "kim")

    async def main():
        async with await open_runtime(load_settings(store=":memory:")) as runtime:
            runtime.prompt = prompt
            for walls in ({}, {"sandbox": "workspace"}, {"sandbox": "read_only"}, {}):
                await runtime.call("exec", {"argv": ["true"]}, **walls)

    asyncio.run(main())
    assert len({question.digest for question in asked}) == 3
    assert asked[0].digest == asked[3].digest
    assert "behind the walls of read_only" in asked[2].summary
