"""`http_fetch`: a server that says its body is a text of some charset, and sends what it likes."""

import asyncio
import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tools.http_servers import Fetching, Server, answer, succeeded

from custody.tools.http_fetch.body import CHARSETS, TEXT_PIECE_BYTES, Body, shown


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def fetch(tmp_path: Path, server: Server) -> Iterator[Fetching]:
    fetching = Fetching(tmp_path)
    fetching.reset(server.place)
    yield fetching
    fetching.close()


def whole(data: bytes, *, more: bool = False) -> Body:
    """A body that has arrived; or all of it that is wanted, where there is more."""
    body = Body(max(1, len(data)), None, None)
    body.feed(data + b"x" if more else data)
    return body


def said(body: Body, charset: str) -> dict[str, Any]:
    """It waits for nothing but its turn, so no loop is needed."""
    showing = shown(body, f"text/plain; charset={charset}")
    try:
        while True:
            showing.send(None)
    except StopIteration as done:
        return done.value[0]


@pytest.mark.parametrize(
    ("charset", "data", "encoding"),
    [
        ("utf-16", "größer".encode("utf-16-le"), "utf-16-le"),
        ("utf-16", "größer".encode("utf-16"), "utf-16"),
        ("utf-16", b"\xfe\xff" + "größer".encode("utf-16-be"), "utf-16"),
        ("utf-32", "größer".encode("utf-32-le"), "utf-32-le"),
    ],
)
def test_a_wide_charset_needs_no_byte_order_mark(
    server: Server, fetch: Fetching, charset: str, data: bytes, encoding: str
):
    """Little endian is what browsers take it for (WHATWG Encoding)."""
    server.answers["/"] = answer(data, f"Content-Type: text/plain; charset={charset}")
    result = succeeded(fetch(server.url))
    assert (result["body"], result["encoding"], result["undecodable"]) == ("größer", encoding, 0)


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(CHARSETS)),
    st.binary(max_size=60),
    st.sampled_from([1, 1, 1, 400]),
    st.booleans(),
)
def test_any_bytes_are_a_text_of_any_charset_however_they_are_cut_in_pieces(
    charset: str, data: bytes, repeated: int, more: bool
):
    body = whole(data * repeated, more=more)
    found = said(body, charset)
    name = found["encoding"]
    if name == "base64":
        return
    text = codecs.getincrementaldecoder(name)("replace").decode(body.data, not body.truncated)
    assert found["body"] == text.removeprefix("\ufeff")
    sent = body.data[: found["body_bytes"]].decode(name, "ignore")
    assert found["undecodable"] == text.count("\ufffd") - sent.count("\ufffd")


def test_bytes_that_are_no_text_leave_turns_of_the_loop_to_others():
    """Each costs about a microsecond, and there may be sixteen million."""
    number = 50
    body = whole(b"\xff" * TEXT_PIECE_BYTES * number)

    async def main() -> int:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(others())
        text, _ = await shown(body, "text/plain; charset=utf-8")
        task.cancel()
        assert text["undecodable"] == TEXT_PIECE_BYTES * number
        return turns

    assert asyncio.run(main()) >= number
