"""Guarded calls that their caller runs, made on an event loop: what may wait is waited for off it."""

import asyncio

import pytest

import custody
from custody.calls.pause import begin_pause
from custody.compose import open_runtime
from custody.errors import Denied
from custody.index import EventFilter
from custody.settings import load_settings


@pytest.fixture
def refuses(work):
    """The policy that stands refuses writes."""
    path = work / ".custody" / "policy" / "rules.toml"
    path.parent.mkdir(parents=True)
    path.write_text('[[rules]]\nname = "no writes"\ndecision = "deny"\neffect = "write"\n')


@custody.observed(effect="write", guard=True)
async def write(text):
    return text


@custody.observed(effect="write", guard=True)
async def lines(*texts):
    for text in texts:
        yield text


async def read_lines(*texts):
    return [text async for text in lines(*texts)]


async def refusal(making):
    """What refuses the call; None where it is made."""
    try:
        await making
    except Denied as error:
        return error.details["decision"]
    return None


def begin(runtime):
    recorder = runtime.recording.recorder
    begin_pause(recorder, runtime.index, seconds=60, reason="a move", person="kim", may_pause=True)


def on_loop(scenario):
    async def main():
        async with await open_runtime(load_settings(store=":memory:")) as runtime, runtime.run("loop"):
            return await scenario(runtime)

    return asyncio.run(main())


@pytest.mark.usefixtures("refuses")
def test_coroutines_and_async_generators_are_refused_by_rules_and_pass_in_a_pause():
    async def scenario(runtime):
        refused = [await refusal(write("a")), await refusal(read_lines("a"))]
        await asyncio.to_thread(begin, runtime)
        while await refusal(write("b")) is not None:
            pass  # that there is none was seen a moment ago
        passed = await read_lines("c", "d")
        said = runtime.index.events(EventFilter(name="shadow.denied")).items
        return refused, passed, [event.data["rule"] for event in said]

    refused, passed, said = on_loop(scenario)
    assert [refusal.rule for refusal in refused] == ["no writes"] * 2
    assert passed == ["c", "d"]
    assert said == ["no writes"] * 2
