"""Secrets planted through every way in that a Python program has are on no byte of the store."""

from pathlib import Path
from typing import Any

import pytest
from tests.calls.faces import FACES
from tests.evidence.planting import PIECE_CHARACTERS, Secret, files_of, no_trace
from tests.evidence.python_doors import PLACES, look
from tests.redaction.rule_examples import positives

from custody.compose import open_runtime
from custody.redaction.rules import RULES
from custody.settings import load_settings
from custody.stores import open_view

LONG = {"commands", "commands that encode", "contents of files", "names of files", "repositories"}
"""Each of these starts hundreds of processes, or syncs as often."""


def plant(face: str, store: Path, name: str, secrets: tuple[Secret, ...]) -> None:
    async def scenario(runtime: Any) -> None:
        async with runtime.run("plant") as run:
            for secret in secrets:
                await PLACES[name](runtime, run, secret)

    FACES[face](scenario, lambda: open_runtime(load_settings(store=str(store))))
    with open_view(load_settings(store=str(store))) as view:
        assert view.index.damage is None
    assert sum(len(data) for _, data in files_of(store)) > 100_000, "it was recorded"


@pytest.mark.parametrize("face", ["asyncio", pytest.param("blocking", marks=pytest.mark.long)])
@pytest.mark.parametrize("name", [name for name in PLACES if name not in LONG])
def test_a_secret_is_on_no_byte_of_the_store(face: str, name: str, store: Path, secrets: tuple[Secret, ...]):
    plant(face, store, name, secrets)
    no_trace(secrets, store)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", sorted(LONG))
def test_a_secret_that_commands_and_files_have_is_on_no_byte_of_the_store(
    name: str, store: Path, secrets: tuple[Secret, ...]
):
    plant("asyncio", store, name, secrets)
    no_trace(secrets, store)


def every_kind() -> list[Secret]:
    """Two of each kind that the scanners know, in varied surroundings. How one begins is often a word."""
    return [
        Secret(rule.id, example.text, example.secret, example.secret[len(example.secret) // 4 :])
        for rule in RULES
        for example in positives(rule.id, seed=5, count=2)
        if len(example.secret) * 3 // 4 >= PIECE_CHARACTERS
    ]


@pytest.mark.parametrize("face", ["asyncio", pytest.param("blocking", marks=pytest.mark.long)])
def test_every_kind_that_scanners_know_is_on_no_byte_of_the_store(face: str, store: Path):
    secrets = every_kind()
    assert len({secret.kind for secret in secrets}) >= 60

    async def scenario(runtime: Any) -> None:
        async with runtime.run("plant") as run:
            for secret in secrets:
                text = secret.text
                await run.call(look, {"what": {"text": text, text: [text.encode()]}})
                run.step(text, data=text, model=text)
                async with run.observe("search", {"q": text}, external_id=text) as call:
                    call.result = [f"found {text}"]
                    call.fail(text)

    FACES[face](scenario, lambda: open_runtime(load_settings(store=str(store))))
    with open_view(load_settings(store=str(store))) as view:
        assert view.index.damage is None
    no_trace(secrets, store)
