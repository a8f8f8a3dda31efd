"""Lines of JSON-RPC: what one says, and how a part of it is replaced with the rest as it was.

Owns reading a line (of a client so strictly that no two readers can take it for different things), the few
messages that are ours, and cutting in the text of an object. Knows nothing of what methods mean. Pure. Used
by everything in this package.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

Id = int | str

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
CONNECTION_CLOSED = -32000
REQUEST_TIMEOUT = -32001
"""The codes the SDKs of the protocol have for these two."""
REQUEST_CANCELLED = -32800
"""As the Language Server Protocol has it; MCP has none."""

REASON_CHARACTERS_MAX = 500
"""Of what a reader's library says of a line that is none."""

ID_CHARACTERS_MAX = 1_024
"""Of an id: it stands in the record of a call."""

NAME_CHARACTERS_MAX = 256
"""Of a tool, and of a client: names stand in the part of a record that is kept for ever. The protocol wants
128 at most of a tool's."""

ENVELOPE_NAMES = frozenset({"jsonrpc", "id", "method", "params", "result", "error"})

_WHITESPACE = re.compile(r"[ \t\n\r]*")
_NAME = re.compile(rb'[ \t\n\r]*("[^"\\]*(?:\\.[^"\\]*)*")[ \t\n\r]*:[ \t\n\r]*')
_AFTER = re.compile(rb"[ \t\n\r]*([,}])")
_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")


class NoMessage(Exception):
    """A line is none. `id` is that of the request it may have been meant for, `code` JSON-RPC's."""

    def __init__(self, code: int, reason: str, identity: Id | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.id = identity


class Message(Struct, frozen=True, kw_only=True):
    """One message, read. Of a request `id` and `method` are set, of a notification the second alone, and of
    an answer the first with `result` or `error`."""

    id: Id | None = None
    method: str | None = None
    params: Any = None
    result: Raw | None = None
    """As it stands in the line; `value_of` reads it."""
    error: Any = None

    @property
    def is_request(self) -> bool:
        return self.method is not None and self.id is not None

    @property
    def is_answer(self) -> bool:
        return self.method is None

    @property
    def said(self) -> Mapping[str, Any]:
        """Its parameters by name; of one that has none, or no names, nothing."""
        return cast("Mapping[str, Any]", self.params) if isinstance(self.params, dict) else {}


class _Envelope(Struct):
    jsonrpc: Any = UNSET
    id: Any = UNSET
    method: Any = UNSET
    params: Any = UNSET
    result: Raw | UnsetType = UNSET
    error: Any = UNSET


# -- reading ------------------------------------------------------------------------------------------------


def read_strictly(line: bytes) -> Message:
    """The message in a line of a client: one in which a name stands twice, or a known name in another case,
    is none, as a server may read it otherwise than we do. Raises NoMessage."""
    odd: list[str] = []
    named = _parsed(line, lambda line: _strictly(line, odd))
    if not isinstance(named, dict):
        raise NoMessage(INVALID_REQUEST, "A message is one JSON object a line, and this is none.")
    said = cast("dict[str, Any]", named)
    misspelt_in(said, ENVELOPE_NAMES)
    envelope = _Envelope(**{name: said[name] for name in ENVELOPE_NAMES & said.keys()})
    if odd:
        why = f"Readers take {odd[0]} for different things."
        raise NoMessage(PARSE_ERROR, why, envelope.id if _fits(envelope.id) else None)
    if envelope.result is not UNSET:
        envelope.result = Raw(json.dumps(envelope.result).encode())  # what a client answers is small
    return _message(envelope)


def read(line: bytes) -> Message:
    """The message in a line of a server: of its envelope each name stands there once, as it is spelt; what it
    holds is read later. Raises NoMessage."""
    if not line.isascii():
        _parsed(line, lambda line: line.decode("utf-8"))  # the library passes over texts
    try:
        said = _parsed(line, _decode)
    except NoMessage:
        if not _HALF_CHARACTER.search(line):
            raise
        return _message(_parsed(line, _read_with_half_characters))
    if not _plainly(line, said):
        misspelt_in(_parsed(line, _parts_once), ENVELOPE_NAMES)
    return _message(said)


def _read_with_half_characters(line: bytes) -> _Envelope:
    """Texts that were cut between the halves of a character are common, and the library takes none."""
    text = line.decode("utf-8")
    named: Any = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    if not isinstance(named, dict):
        return _Envelope()
    said = cast("dict[str, Any]", named)
    misspelt_in(said, ENVELOPE_NAMES)
    place = place_of(text, "result")
    envelope = _Envelope(**{name: said[name] for name in ENVELOPE_NAMES & said.keys()})
    envelope.result = UNSET if place is None else Raw(text[place[0] : place[1]].encode("utf-8"))
    return envelope


_decode = msgspec.json.Decoder(_Envelope).decode
_PLAIN = (
    (b'{"jsonrpc":"2.0","id":%b,"result":', b"}"),
    (b'{"result":', b',"jsonrpc":"2.0","id":%b}'),
    (b'{"jsonrpc": "2.0", "id": %b, "result": ', b"}"),
)


def _plainly(line: bytes, said: _Envelope) -> bool:
    """Whether an answer stands there as most libraries write it: then there is no room for a second name."""
    if said.result is UNSET or said.id is UNSET:
        return False
    identity, size = msgspec.json.encode(said.id), memoryview(said.result).nbytes
    for before, after in _PLAIN:
        before, after = before.replace(b"%b", identity), after.replace(b"%b", identity)
        if len(line) == len(before) + size + len(after):
            return line.startswith(before) and line.endswith(after)
    return False


_parts = msgspec.json.Decoder(dict[str, Raw]).decode


def _parts_once(line: bytes) -> dict[str, Raw]:
    """What stands under each name. The library takes the last of two of one name: that there is one of each
    shows where all of them, one behind the other, make up the line."""
    parts = _parts(line)
    at = line.index(b"{") + 1
    for _ in parts:
        named = _NAME.match(line, at)
        raw = None if named is None else parts.get(json.loads(named[1]))
        if named is None or raw is None or not line.startswith(raw, named.end()):
            break
        after = _AFTER.match(line, named.end() + memoryview(raw).nbytes)
        if after is None:
            break
        at = after.end()
    if parts and line[at - 1 : at] != b"}":
        raise ValueError("a name stands twice in its envelope")
    return parts


def _strictly(line: bytes, odd: list[str]) -> Any:
    """What a line says; `odd` is what in it readers have not in common, though they agree where it ends."""

    def number(text: str) -> float:
        value = float(text)
        if math.isinf(value):
            odd.append(f"the number {text[:64]}")
        return value

    # Decoded first: of bytes the library would guess the encoding.
    value = json.loads(
        line.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number, parse_float=number
    )
    if _HALF_CHARACTER.search(line):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            odd.append("half a character")
    return value


def _parsed(line: bytes, parse: Callable[[bytes], Any]) -> Any:
    try:
        return parse(line)
    except msgspec.ValidationError:
        raise NoMessage(INVALID_REQUEST, "A message is one JSON object a line, and this is none.") from None
    except (ValueError, RecursionError) as error:  # msgspec's DecodeError is a ValueError too
        reason = str(error) if isinstance(error, ValueError) else "it is nested without end"
        raise NoMessage(PARSE_ERROR, f"This line is no JSON: {reason[:REASON_CHARACTERS_MAX]}") from None


def _message(said: _Envelope) -> Message:
    identity = said.id
    fits = _fits(identity)
    if said.method is not UNSET:
        if said.result is not UNSET or said.error is not UNSET:
            raise NoMessage(INVALID_REQUEST, "A request and its answer at once.", identity if fits else None)
        if type(said.method) is not str or not (fits or identity is UNSET):
            why = f"A method is a text, and an id an integer or a text of {ID_CHARACTERS_MAX:,} characters."
            raise NoMessage(INVALID_REQUEST, why)
        params = None if said.params is UNSET else said.params
        return Message(id=None if identity is UNSET else identity, method=said.method, params=params)
    if (said.result is UNSET) == (said.error is UNSET) or not (fits or identity is None):
        raise NoMessage(INVALID_REQUEST, "This is no message of JSON-RPC 2.0.", identity if fits else None)
    if said.result is not UNSET:
        return Message(id=identity, result=said.result)
    return Message(id=identity, error=said.error)


def _fits(identity: Any) -> bool:
    if type(identity) is str:
        return len(identity) <= ID_CHARACTERS_MAX
    return type(identity) is int and -(2**63) <= identity < 2**64


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Nobody agrees which of two values of one name counts."""
    named = dict(pairs)
    if len(named) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:64]!r} stands twice in one object")
    return named


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def is_name(text: str) -> bool:
    """Whether a tool can be called by it."""
    return 0 < len(text) <= NAME_CHARACTERS_MAX and text.isprintable() and text == text.strip()


def in_two_cases(value: Any) -> tuple[str, str] | None:
    """Two names of one object that differ in their case alone: some readers take the last for both."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            named = cast("dict[str, Any]", one)
            lowered: dict[str, str] = {}
            for name in named:
                other = lowered.setdefault(name.casefold(), name)
                if other != name:
                    return other[:64], name[:64]
            waiting += named.values()
        elif isinstance(one, list):
            waiting += cast("list[Any]", one)
    return None


def misspelt_in(named: Mapping[str, Any], known: frozenset[str]) -> None:
    """Some readers take names whatever their case: which of `name` and `Name` they mean is not ours to guess.
    Raises NoMessage."""
    lowered = {name.casefold(): name for name in known}
    for name in named:
        meant = lowered.get(name.casefold())
        if meant is not None and meant != name:
            raise NoMessage(INVALID_REQUEST, f"{meant!r} is spelt {name[:64]!r} here.")


def one_line(line: bytes) -> bytes:
    """The same JSON without what some readers end a line at: between values a carriage return is a blank."""
    line = line.rstrip(b"\r")
    return line.replace(b"\r", b" ") if b"\r" in line else line


def value_of(raw: Raw | None) -> Any:
    """What a part of a line says, in which no name stands twice; None for none. Raises NoMessage."""
    if raw is None:
        return None
    try:
        return json.loads(bytes(raw), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise NoMessage(PARSE_ERROR, str(error)[:REASON_CHARACTERS_MAX]) from None


# -- cutting ------------------------------------------------------------------------------------------------


class Member(NamedTuple):
    """One member of an object in a text, or one item of a list (then without a name)."""

    name: str
    start: int
    """Of its name, or of the item."""
    value_start: int
    end: int


_scan = json.JSONDecoder().raw_decode


def members(text: str, start: int) -> tuple[list[Member], int]:
    """The members of the object or the items of the list that begins at `start`, and where it ends. The text
    is known to be JSON."""
    is_object = text[start] == "{"
    found: list[Member] = []
    at = _skip(text, start + 1)
    while text[at] not in "}]":
        begun, name = at, ""
        if is_object:
            name, at = _scan(text, at)
            at = _skip(text, _skip(text, at) + 1)
        _, end = _scan(text, at)
        found.append(Member(name, begun, at, end))
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return found, at + 1


def _skip(text: str, at: int) -> int:
    blank = _WHITESPACE.match(text, at)
    assert blank is not None, "it matches nothing as well"
    return blank.end()


def place_of(text: str, *path: str) -> tuple[int, int] | None:
    """From where to where the value under these names stands; None: it is not there."""
    start, end = _skip(text, 0), len(text)
    for name in path:
        if text[start] != "{":
            return None
        inside = [one for one in members(text, start)[0] if one.name == name]
        if not inside:
            return None
        start, end = inside[-1].value_start, inside[-1].end
    return start, end


def with_value(line: bytes, value: Any, *path: str) -> bytes:
    """The same line with another value at a place that is there."""
    text = line.decode("utf-8")
    place = place_of(text, *path)
    assert place is not None, f"{path} is in the line"
    start, end = place
    return (text[:start] + encoded(value).decode("utf-8") + text[end:]).encode("utf-8")


def kept(text: str, start: int, keep: Callable[[Member], str | None]) -> str:
    """The object or list at `start`, each of its parts as `keep` has it; None: left out."""
    inside, end = members(text, start)
    parts = [part for one in inside if (part := keep(one)) is not None]
    return text[start] + ",".join(parts) + text[end - 1]


def without(line: bytes, names: frozenset[str], *path: str) -> bytes:
    """The same line, these members of the object at the place left out."""
    text = line.decode("utf-8")
    place = place_of(text, *path)
    assert place is not None, f"{path} is in the line"
    start, end = place
    cut = kept(text, start, lambda one: None if one.name in names else text[one.start : one.end])
    return (text[:start] + cut + text[end:]).encode("utf-8")


# -- our own ------------------------------------------------------------------------------------------------


def encoded(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:  # a name of the file system may hold what is no text
        return json.dumps(value).encode()


def error(identity: Id | None, code: int, message: str) -> bytes:
    return encoded({"jsonrpc": "2.0", "id": identity, "error": {"code": code, "message": message}})


def result(identity: Id, value: Mapping[str, Any]) -> bytes:
    return encoded({"jsonrpc": "2.0", "id": identity, "result": value})


def request(identity: Id, method: str, params: Mapping[str, Any]) -> bytes:
    return encoded({"jsonrpc": "2.0", "id": identity, "method": method, "params": params})


def notification(method: str, params: Mapping[str, Any]) -> bytes:
    return encoded({"jsonrpc": "2.0", "method": method, "params": params})


def refused(identity: Id, text: str, *, modern: bool) -> bytes:
    """A tool call that did not run, as a result: a model reads it and goes on."""
    said: dict[str, Any] = {"content": [{"type": "text", "text": text}], "isError": True}
    return result(identity, {**said, "resultType": "complete"} if modern else said)


# -- lines that are too long --------------------------------------------------------------------------------

ENDS_KEPT_BYTES = 256
"""Of a line that is too long: where its id stands, as every library writes it before or after the rest."""

_ID = rb'"id"\s*:\s*(-?\d{1,18}(?=\s*[,}])|"[^"\\]{0,128}")'
_ID_AT_ITS_HEAD = re.compile(rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?' + _ID)
_ID_AT_ITS_TAIL = re.compile(_ID + rb'(?:\s*,\s*"jsonrpc"\s*:\s*"2\.0")?\s*\}\s*$')


def id_of_ends(head: bytes, tail: bytes) -> Id | None:
    """Which request a line answers of which only the ends are there; None where that cannot be told."""
    found = _ID_AT_ITS_HEAD.match(head) or _ID_AT_ITS_TAIL.search(tail)
    return None if found is None else json.loads(found[1])


class Lines:
    """Whole lines out of chunks, each of a bounded length."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._rest: list[bytes] = []
        """Of a line whose end has not come: joined once, so that there are never three copies of it."""
        self._rest_bytes = 0
        self._passed_over: bytes | None = None
        """The head of a line that is too long, while its end has not come."""

    def take(self, data: bytes) -> "list[bytes | TooLong]":
        """The lines that end in `data`."""
        if b"\n" not in data:  # kept as it is
            self._add(data)
            return []
        *ended, last = data.split(b"\n")
        found = [self._line(part) for part in ended]
        self._add(last)
        return found

    def _line(self, part: bytes) -> "bytes | TooLong":
        self._add(part)
        line = b"".join(self._rest)
        self._rest.clear()
        self._rest_bytes = 0
        if self._passed_over is None:
            return line
        head, self._passed_over = self._passed_over, None
        return TooLong(id_of_ends(head, line))

    def _add(self, part: bytes) -> None:
        if part:
            self._rest.append(part)
            self._rest_bytes += len(part)
        if self._passed_over is None and self._rest_bytes > self._bytes_max:
            self._passed_over = b"".join(self._rest)[:ENDS_KEPT_BYTES]
        if self._passed_over is not None:
            tail = b"".join(self._rest)[-ENDS_KEPT_BYTES:]
            self._rest, self._rest_bytes = [tail], len(tail)


def answered_by(line: bytes) -> Id | None:
    """Which request a line was meant to answer that cannot be read; None where that cannot be told, or where
    it may be no message at all."""
    head, tail = line[:ENDS_KEPT_BYTES], line[-ENDS_KEPT_BYTES:]
    ends = head + tail
    return id_of_ends(head, tail) if b'"jsonrpc"' in ends and b'"method"' not in ends else None


class TooLong(NamedTuple):
    """In place of a line that was longer than it may be, and is not kept."""

    id: Id | None
    """Of the request that it answers, where that can be told."""
