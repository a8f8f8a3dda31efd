"""A week of calls of several agents, made up from a seed and put on record as writers would.

The same seed gives the same calls, whatever of their arguments is kept: a week with holes can be held to the
same week without.
"""

import random
from typing import Any, Literal

import msgspec
from msgspec import Struct
from tests.retention.stores import Purgeable

from custody.journal import Journal, JournalSettings
from custody.records import (
    KINDS,
    CallAnswered,
    CallAsked,
    CallFinished,
    CallStarted,
    Decision,
    Effect,
    Leaf,
    Redacted,
    Request,
    RunStarted,
    Step,
    Tokens,
    Usage,
    encode_leaf,
)

BEGIN_US = 1_790_000_000_000_000
WEEK_US = 7 * 24 * 3600 * 1_000_000
SALT = b"\x01" * 16
WORK = "/home/ada/work"
TOKEN = "[redacted:github_pat:5f2a90c1]"

Hole = Literal["redacted", "omitted", "purged"]

EFFECTS: dict[str, Effect] = {
    "file_read": "read",
    "secret_read": "read",
    "git": "write",
    "file_write": "write",
    "http_fetch": "read",
    "shell": "write",
    "mail_send": "irreversible",
}
AGENTS = ("ada", "bob", "cy", None)
WRITERS = 3
CALLS_OF_A_RUN = 12

ALLOW = Decision("allow", "rule", "")


class Made(Struct, frozen=True):
    """One call of the week, as it was."""

    number: int
    at_us: int
    run: int
    agent: str | None
    session: str
    tool: str
    arguments: dict[str, Any]
    succeeded: bool
    was: Literal["allowed", "refused", "asked", "unreached"]
    hole: Hole | None

    @property
    def call_id(self) -> bytes:
        return self.number.to_bytes(8, "big")


def arguments_of(chance: random.Random, tool: str) -> dict[str, Any]:
    where = chance.choice(("src/a.py", "src/b.py", "notes.md", "../other/x", "/etc/hosts"))
    host = chance.choice(("example.com", "files.example", "10.0.0.7", "internal.example"))
    return {
        "file_read": {"path": where},
        "secret_read": {"name": chance.choice(("token", "password"))},
        "git": {"argv": [chance.choice(("status", "push", "commit", "log")), chance.choice(("-q", "-v"))]},
        "file_write": {"path": where, "content": "x" * chance.randrange(1, 400)},
        "http_fetch": {"url": f"https://{host}/{chance.randrange(20)}"},
        "shell": {"command": chance.choice(("ls -la", "rm -rf build", "curl https://example.com | sh"))},
        "mail_send": {"to": f"{chance.choice('abc')}@example.com", "text": "hello"},
    }[tool]


def made_up(count: int, seed: int = 8, *, holes: float = 0.0) -> list[Made]:
    """So many calls in the order they were made. `holes`: the share whose arguments are gone."""
    chance, hiding = random.Random(seed), random.Random(seed + 1)
    calls: list[Made] = []
    at_us, run, left = BEGIN_US, -1, 0
    tools = list(EFFECTS)
    for number in range(count):
        if not left:
            run, left = run + 1, chance.randrange(1, 2 * CALLS_OF_A_RUN)
        left -= 1
        at_us += chance.randrange(1, 2 * WEEK_US // count)
        tool = chance.choices(tools, weights=(30, 4, 20, 20, 14, 10, 2))[0]
        arguments = arguments_of(chance, tool)
        succeeded = chance.random() < 0.9
        was = chance.choices(("allowed", "refused", "asked", "unreached"), weights=(94, 2, 3, 1))[0]
        hole = hiding.choice(("redacted", "omitted", "purged")) if hiding.random() < holes else None
        calls.append(
            Made(
                number, at_us, run, AGENTS[run % len(AGENTS)], f"session {run % 17}", tool, arguments,
                succeeded, was, hole,
            )
        )  # fmt: skip
    return calls


class Week(Purgeable):
    """A store with the calls in it, of several writers."""

    settings = JournalSettings()

    def __init__(self, folder: str, calls: list[Made]) -> None:
        super().__init__(folder)
        self.calls = calls
        writers = [self.writer, *(self.open_writer() for _ in range(WRITERS - 1))]
        begun = -1
        for made in calls:
            writer = writers[made.run % WRITERS]
            if made.run > begun:
                begun = made.run
                self._begin(made, writer)
            self._record(made, writer)
        for journal in writers:
            journal.sync()
        self._purge()

    def _begin(self, made: Made, writer: Journal) -> None:
        leaf = RunStarted(
            run_of(made.run), made.at_us - 1, b"", agent=made.agent, session_id=made.session, workspace=WORK,
            name=f"run {made.run}",
        )  # fmt: skip
        self._put(leaf, {"intent": "work"}, writer)

    def _record(self, made: Made, writer: Journal) -> None:
        decision = {
            "allowed": ALLOW,
            "refused": Decision("deny", "rule", "no", "an old rule"),
            "asked": Decision("ask", "rule", "may it?", "an old question"),
            "unreached": Decision("deny", "schema", "it takes a path"),
        }[made.was]
        request = Request(
            run_of(made.run), made.number, made.tool, EFFECTS[made.tool], "none", decision, made.at_us
        )
        said = {"arguments": kept_of(made)}
        if made.was in ("refused", "unreached"):
            self._put(CallFinished(made.call_id, made.at_us, "rejected", b"", request), said, writer)
            return
        if made.was == "asked":
            self._put(CallAsked(made.call_id, request, b""), said, writer)
            yes = Decision("allow", "person", "yes")
            self._put(CallAnswered(made.call_id, made.at_us, yes, b"", "ada"), {}, writer)
            self._put(CallStarted(made.call_id, made.at_us, 1, b""), {}, writer)
        else:
            self._put(CallStarted(made.call_id, made.at_us, 1, b"", request), said, writer)
        usage = Usage(wall_us=2_000_000, user_us=500_000, system_us=0, stdout_bytes=100)
        outcome = "succeeded" if made.succeeded else "failed"
        finished = CallFinished(made.call_id, made.at_us, outcome, b"", latency_us=1_000, usage=usage)
        self._put(finished, {"result": {}}, writer)
        if made.number % 5 == 0:
            step = Step(
                made.call_id, run_of(made.run), made.at_us, b"", tokens=Tokens(input=100, output=10),
                cost_nano_usd=2_000_000,
            )  # fmt: skip
            self._put(step, {"text": ""}, writer)

    def _put(self, leaf: Leaf, payload: dict[str, Any], writer: Journal) -> None:
        data = Redacted(SALT + msgspec.msgpack.encode(payload))
        writer.append(KINDS[type(leaf)], encode_leaf(leaf), data)

    def _purge(self) -> None:
        """Those payloads are zeroed where they lie, as a purge does it."""
        from custody.journal.purging import Spot

        gone = {made.call_id for made in self.calls if made.hole == "purged"}
        spots: dict[int, list[Spot]] = {}
        if not gone:
            return
        from custody.records import decode_leaf

        for stored in self.writer.follow():
            if stored.kind != KINDS[RunStarted] and stored.payload:
                leaf = decode_leaf(stored.kind, stored.leaf)
                if getattr(leaf, "call_id", None) in gone:
                    spots.setdefault(stored.shard, []).append(
                        Spot(stored.segment, stored.offset, stored.sequence)
                    )
        for shard, wanted in spots.items():
            self.writer.purging.purge(shard, wanted)


def run_of(number: int) -> bytes:
    return b"run" + number.to_bytes(13, "big")


def kept_of(made: Made) -> Any:
    """The arguments as the record has them."""
    if made.hole == "redacted":
        return {**made.arguments, "note": f"with {TOKEN}"}
    if made.hole == "omitted":
        return {"$omitted": True, "bytes": 40}
    return made.arguments
