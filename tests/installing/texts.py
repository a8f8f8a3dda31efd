"""Settings as people write them: JSON with comments, blanks and trailing commas wherever they may stand.

Each is made of one number: drawing every blank by itself takes longer than all that is tested.
"""

import json
from collections.abc import Callable
from random import Random
from typing import Any, cast

from hypothesis import strategies as st

NAMES = ["model", "PreToolUse", "Stop", "env", "a b", "ü", "//no", "", "/*"]
SCALARS: list[Any] = [None, True, False, 0, -1, 1.5, 10**20, "", "text", "/* text */", "ü\n", '"', "\\", "{"]
BLANKS = ["", "", "", " ", "\n", "\n  ", "\t", "\r\n", " // said\n", "/* a */", " /* a\n b */ ", " // x\r\n "]
GROUP = {"matcher": "Bash", "hooks": [{"type": "command", "command": "mine"}]}

Text = tuple[str, Any]
"""A text, and what it says."""


def written(make: Callable[[Random], Any]) -> st.SearchStrategy[Text]:
    """Texts of what `make` makes."""

    def text(seed: int) -> Text:
        random = Random(seed)
        value = make(random)
        return random.choice(BLANKS) + _written(random, value) + random.choice(BLANKS), value

    return st.integers(0, 2**32).map(text)


def _written(random: Random, value: Any) -> str:
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value).items()
        parts = [
            f"{json.dumps(name)}{random.choice(BLANKS)}:{_blank(random, inner)}" for name, inner in members
        ]
        return _joined(random, "{", parts, "}")
    if isinstance(value, list):
        return _joined(random, "[", [_written(random, inner) for inner in cast("list[Any]", value)], "]")
    return json.dumps(value, ensure_ascii=random.random() < 0.5)


def _blank(random: Random, value: Any) -> str:
    return random.choice(BLANKS) + _written(random, value)


def _joined(random: Random, opens: str, parts: list[str], closes: str) -> str:
    text = opens
    for number, part in enumerate(parts):
        comma = "," if number + 1 < len(parts) else random.choice(["", ","])
        text += random.choice(BLANKS) + part + random.choice(BLANKS) + comma
    return text + random.choice(BLANKS) + closes


def value_of(random: Random, depth: int = 3) -> Any:
    kind = random.random()
    if depth and kind < 0.3:
        return [value_of(random, depth - 1) for _ in range(random.randrange(4))]
    return mapping_of(random, depth - 1) if depth and kind < 0.6 else random.choice(SCALARS)


def mapping_of(random: Random, depth: int = 2) -> dict[str, Any]:
    return {random.choice(NAMES): value_of(random, depth) for _ in range(random.randrange(4))}


def _settings(random: Random) -> dict[str, Any]:
    some = mapping_of(random)
    events = random.sample(["PreToolUse", "PostToolUse", "Stop", "Other"], random.randrange(4))
    hooks = {event: [GROUP] * random.randrange(3) for event in events}
    return some | ({"hooks": hooks} if random.random() < 0.7 else {})


def _entry(random: Random) -> dict[str, Any]:
    kind = random.random()
    entry: dict[str, Any] = {"command": random.choice(["npx", "/opt/my server", 'a"b'])}
    if kind < 0.3:
        entry = {"url": "https://example.org/mcp"}
        more: dict[str, Any] = {"type": random.choice(["http", "sse"]), "headers": {"A": "b"}}
    elif kind < 0.9:
        arguments = random.choices(["-y", "x", "--", "", "ü"], k=random.randrange(4))
        more = {"args": arguments, "env": {"TOKEN": "t", "A": "1"}, "type": "stdio"}
    else:
        return {"disabled": True}
    named = list((entry | {name: value for name, value in more.items() if random.random() < 0.6}).items())
    random.shuffle(named)
    return dict(named)


def _servers(random: Random) -> dict[str, Any]:
    names = random.sample(["one", "two", "drei", "a.b"], random.randrange(4))
    return {"before": value_of(random), "mcpServers": {name: _entry(random) for name in names}}


VALUES = written(value_of)
OBJECTS = written(mapping_of)
LISTS = written(lambda random: [value_of(random) for _ in range(random.randrange(1, 6))])
SETTINGS = written(_settings)
"""Of a coding CLI."""
SERVERS = written(_servers)
"""Of an MCP client."""
