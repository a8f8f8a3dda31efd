"""How many messages there are within one request in protobuf, before any of them is made.

Owns the bound and the walk over a body's fields. Knows of each message which of its fields hold others, and
nothing else. Used by `wire`.
"""

PARTS_MAX = 1_000_000
"""Messages within messages in one request: spans, attributes, values. An empty one is two bytes here and some
hundred in memory, so that a body could fill any machine. What programs tell has twenty bytes each or more."""

PART_BYTES_MIN = 2
FIXED_BYTES = {1: 8, 5: 4}
GROUPS = (3, 4)  # begin and end of what no message of these has; what is in one is walked over like the rest
VARINT_BITS_MAX = 56  # before the last of ten bytes

WITHIN: dict[str, dict[int, str]] = {
    "request": {1: "spans of a resource"},
    "spans of a resource": {1: "resource", 2: "spans of a scope"},
    "resource": {1: "pair", 3: "entity"},
    "spans of a scope": {1: "scope", 2: "span"},
    "scope": {3: "pair"},
    "span": {9: "pair", 11: "event", 13: "link", 15: "status"},
    "event": {3: "pair"},
    "link": {4: "pair"},
    "pair": {2: "value"},
    "value": {5: "values", 6: "pairs"},
    "values": {1: "value"},
    "pairs": {1: "pair"},
    "entity": {},
    "status": {},
}
"""Message -> number of a field -> the message in it."""


def count_parts(body: bytes) -> int:
    """How many messages protobuf would make of this body, or so many that it is too many. A short body is not
    looked at: it cannot have more. What is malformed ends the walk, and is protobuf's to refuse."""
    if len(body) <= PART_BYTES_MIN * PARTS_MAX:
        return 0
    count, place, end, within = 0, 0, len(body), WITHIN["request"]
    outer: list[tuple[int, dict[int, str]]] = []
    while count <= PARTS_MAX:
        if place >= end:
            if not outer:
                break
            end, within = outer.pop()
            continue
        tag, place = _read_varint(body, place)
        kind = tag & 7
        if kind == 0:
            _, place = _read_varint(body, place)
        elif kind == 2:
            length, place = _read_varint(body, place)
            inner = within.get(tag >> 3)
            if inner is None or place + length > end:
                place += length
                continue
            count += 1
            outer.append((end, within))
            end, within = place + length, WITHIN[inner]
        elif kind in FIXED_BYTES:
            place += FIXED_BYTES[kind]
        elif kind not in GROUPS:
            break
    return count


def _read_varint(body: bytes, place: int) -> tuple[int, int]:
    """The number, and where what follows begins; behind the end there are zeros."""
    value = shift = 0
    while place < len(body):
        byte = body[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80 or shift > VARINT_BITS_MAX:
            break
        shift += 7
    return value, place
