"""What is generated from the table of methods: the schema, and the page of the reference."""

import asyncio
import hashlib
import json
from typing import Any

import jsonschema_rs
import pytest
from tests.rpc import rpc_reference
from tests.rpc.clients import connected, opened_runtime

from custody.rpc.description import Table
from custody.rpc.method import Method
from custody.rpc.table import TABLE

SCHEMA: dict[str, Any] = json.loads(TABLE.schema)


@pytest.mark.parametrize("method", list(TABLE), ids=lambda method: method.name)
def test_every_method_has_a_line_of_help_and_a_schema_that_is_one(method: Method) -> None:
    said = SCHEMA["methods"][method.name]

    assert method.help == said["description"] and method.help.endswith((".", "?"))
    for part in ("params", "result"):
        jsonschema_rs.validator_for({**said[part], "$schema": SCHEMA["$schema"], "$defs": SCHEMA["$defs"]})


def test_the_schema_knows_every_method_and_what_is_sent_unasked() -> None:
    assert set(SCHEMA["methods"]) == {method.name for method in TABLE}
    assert {"tools.execute", "tools.cancel", "runs.trace.event"} <= set(SCHEMA["pushes"])


def test_the_digest_is_of_the_schema_as_it_stands_in_the_answer(transport: str) -> None:
    async def main() -> Any:
        frames: list[str] = []
        async with opened_runtime() as runtime, connected(transport, runtime) as client:
            take = client.take

            def keep(text: str) -> None:
                frames.append(text)
                take(text)

            client.take = keep
            return await client.call("server.schema"), frames

    said, (frame,) = asyncio.run(main())
    start = frame.index('"schema":') + len('"schema":')
    end = frame.index(',"digest":"', start)  # a shape may have a member of that name
    assert said["digest_algorithm"] == "sha256"
    assert said["digest"] == hashlib.sha256(frame[start:end].encode()).hexdigest()
    assert said["schema"] == SCHEMA


def test_the_same_methods_have_the_same_digest_whatever_their_order() -> None:
    assert Table(reversed(list(TABLE)), TABLE.pushes).schema == TABLE.schema


def test_the_page_of_the_wire_is_made_from_the_methods() -> None:
    page = rpc_reference.PAGE.read_text(encoding="utf-8")

    assert rpc_reference.made(page) == page
    assert "### `runs.start`" in page
