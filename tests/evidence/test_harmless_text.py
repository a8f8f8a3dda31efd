"""Ordinary text that looks like secrets comes back from the record byte for byte."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.calls.faces import FACES, records
from tests.evidence.look_alikes import look_alikes

import custody
from custody.compose import open_runtime
from custody.records import CallFinished, CallStarted, Event, RunStarted, Step
from custody.redaction import secret_name
from custody.settings import load_settings


@custody.tool(effect="read")
def look(what: Any) -> Any:
    return what


@pytest.mark.parametrize("face", FACES)
def test_two_hundred_look_alikes_survive_byte_for_byte(face: str, store: Path):
    texts = look_alikes()
    assert len(set(texts)) >= 200

    async def scenario(runtime: Any) -> list[Any]:
        for text in texts:
            async with runtime.run(text, inputs={"text": text}) as run:
                run.step(text, whole_text=True, text_characters_max=None)
                run.event("noted", text=text)
                await run.call(
                    look, {"what": {"alone": text, "within": f"see {text} there", "list": [f"- {text}"]}}
                )
        return records(runtime)

    found = FACES[face](scenario, lambda: open_runtime(load_settings(store=str(store))))
    touched = [(leaf.redactions, said) for leaf, said in found if leaf.redactions]
    assert touched == []
    shown = iter(texts)
    for leaf, said in found:
        match leaf:
            case RunStarted():
                text = next(shown)
                assert (said["intent"], said["inputs"]) == (text, {"text": text})
            case Step():
                assert said["text"] == text
            case Event():
                assert said["data"]["text"] == text
            case CallStarted():
                values = {"alone": text, "within": f"see {text} there", "list": [f"- {text}"]}
                assert said["arguments"]["what"] == values
            case CallFinished():
                assert said["result"] == values
            case _:
                pass


def test_look_alikes_that_a_command_prints_survive_byte_for_byte(store: Path):
    text = "\n".join(look_alikes()) + "\n"
    with custody.open(store) as runtime:
        call = runtime.call("exec", {"argv": ["sh", "-c", "cat; cat /dev/null >&2"], "stdin": text})
        found = runtime.index.call(call.id)
    assert found.redactions == ()
    assert found.result["stdout"] == text
    assert found.arguments["stdin"] == text


def test_look_alikes_as_names_and_in_json_survive(store: Path):
    texts = [text for text in look_alikes() if not secret_name(text)]
    value = {"names": {text: number for number, text in enumerate(texts)}, "json": json.dumps(texts)}
    with custody.open(store) as runtime:
        call = runtime.call(look, {"what": value})
        found = runtime.index.call(call.id)
    assert found.redactions == ()
    assert found.arguments["what"] == value
