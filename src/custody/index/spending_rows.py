"""The tables of what was spent: totals by run, session, agent and store, and the calls still under way.

Owns the layout of these tables in Python, what a bucket of time is, and the sums over them. Knows nothing of
transactions, of records, and of what a policy allows. Used by `spending` and `spending_fold`.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from custody.index.database import Database, statements

RUN, SESSION, AGENT, STORE = 0, 1, 2, 3

Scope = tuple[int, Any]
"""One of the four, and which: the id of a run, the name of a session or an agent, empty for the store."""

THE_STORE: Scope = (STORE, "")

Amount = Literal[
    "calls", "writes", "failures", "wall_us", "cpu_us", "output_bytes", "tokens", "cost_nano_usd", "files"
]
AMOUNTS: tuple[Amount, ...] = (
    "calls", "writes", "failures", "wall_us", "cpu_us", "output_bytes", "tokens", "cost_nano_usd", "files",
)  # fmt: skip
"""In the order of the columns."""

AMOUNT_MAX = 2**44
"""Of one call or step: half a year in microseconds, 17,592 dollars in billionths. What claims to be more is
counted as this much, so that sums of half a million stay within SQLite's integers whatever was recorded."""

MINUTE_US = 60 * 1_000_000
HOUR_US = 60 * MINUTE_US

WINDOW_HOURS_MAX = 31 * 24
"""The longest window; hours older than this are forgotten."""

MINUTES_KEPT_HOURS = 48
"""Windows up to this long begin at a full minute, longer ones at a full hour: they count that much more."""

ENDLESS_US = 2**62
"""Later than any time."""

COUNTED, STARTED, ENDED, ASKED = 1, 2, 4, 8
"""Flags of a call: it is in the totals; its start, its end, its question were folded."""

SPENT_NOTHING = (0,) * len(AMOUNTS)


class CallSaid(Struct, array_like=True, kw_only=True):
    """A call under way: what it was counted for, and what of its end is known already."""

    scopes: tuple[tuple[int, Any], ...] = ()
    tool: str = ""
    effect: str = "unknown"
    dry_run: bool = False
    loop_key: Any = None
    """Where identical calls are counted: its run, or its session; None: nowhere."""
    digest: bytes | None = None
    """Of tool and arguments, keyed."""
    hosts: tuple[bytes, ...] = ()
    """Keyed digests, without repetition: what a purge takes away is not to be read here."""
    used: tuple[int, ...] | None = None
    """AMOUNTS, of a call whose end was folded before its start."""
    outcome: str | None = None
    ended_us: int = 0

    @property
    def writes(self) -> int:
        return int(self.effect in ("write", "irreversible") and not self.dry_run)


class Named(Struct, frozen=True, kw_only=True):
    """What tells a recorded call from others: `digest` and `hosts` of `CallSaid`."""

    digest: bytes | None = None
    hosts: tuple[bytes, ...] = ()


def unknown_same(tool: str) -> bytes:
    """Stands for the digest of those calls of this tool whose arguments nobody knows."""
    return b"unknown " + tool.encode("utf-8", "surrogatepass")


class KnownRun(Struct):
    """A run as its start described it."""

    parent: bytes | None = None
    session: str | None = None
    agent: str | None = None
    streak: int = 0
    """Calls of it that failed since the last that did not."""


class Spent(Struct, frozen=True):
    """Sums over a scope."""

    calls: int = 0
    writes: int = 0
    failures: int = 0
    wall_us: int = 0
    cpu_us: int = 0
    output_bytes: int = 0
    tokens: int = 0
    cost_nano_usd: int = 0
    files: int = 0


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(CallSaid).decode


@functools.cache
def spending_sql() -> dict[str, str]:
    """The statements of `spending.sql`; read when something is first counted."""
    return statements("spending.sql")


def clamped(amount: int | None) -> int:
    """What is unknown or negative is nothing: nobody gives a budget back by recording less than nothing."""
    return 0 if amount is None else min(max(amount, 0), AMOUNT_MAX)


def buckets(scope: int, at_us: int) -> tuple[tuple[int, int], ...]:
    """Span and start of what an amount of that time is added to."""
    if scope in (RUN, SESSION):
        return ((0, 0),)
    return (MINUTE_US, at_us - at_us % MINUTE_US), (HOUR_US, at_us - at_us % HOUR_US)


def window_from(at_us: int, hours: float) -> int:
    """Where a window of so many hours begins that ends then."""
    since_us = at_us - int(hours * HOUR_US)
    return since_us if hours <= MINUTES_KEPT_HOURS else since_us - since_us % HOUR_US


class SpendingRows:
    """Statements on the tables, inside somebody's transaction."""

    def __init__(self, database: Database) -> None:
        self._sql = spending_sql()
        self._cursor = database.cursor
        self._added: dict[tuple[int, Any, int, int], list[int]] = {}

    def do(self, name: str, *values: Any) -> None:
        self._cursor.execute(self._sql[name], values)

    def do_all(self, name: str, rows: Iterable[Sequence[Any]]) -> None:
        self._cursor.executemany(self._sql[name], rows)

    def rows(self, name: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._cursor.execute(self._sql[name], values).fetchall()

    def row(self, name: str, *values: Any) -> tuple[Any, ...] | None:
        return self._cursor.execute(self._sql[name], values).fetchone()

    def script(self, name: str, **values: Any) -> None:
        self._cursor.execute(self._sql[name], values)

    # -- totals -----------------------------------------------------------------------------------------

    def add(self, scopes: Iterable[Scope], at_us: int, amounts: Sequence[int], sign: int = 1) -> None:
        """Added up here; `flush` writes it."""
        for scope, key in scopes:
            for span, start in buckets(scope, at_us):
                place = scope, key, span, start
                found = self._added.get(place)
                if found is None:
                    self._added[place] = [sign * amount for amount in amounts]
                else:
                    for column, amount in enumerate(amounts):
                        found[column] += sign * amount

    def flush(self) -> None:
        added, self._added = self._added, {}
        if added:
            self.do_all("add", [(*place, *amounts) for place, amounts in added.items()])

    def spent(self, scope: Scope, since_us: int | None) -> Spent:
        """Of a run or a session altogether; of the others from that time on."""
        assert not self._added, "sums are asked for once everything is written"
        kind, key = scope
        if kind in (RUN, SESSION) or since_us is None:
            return Spent(*map(int, self.row("total", kind, key, 0, 0, ENDLESS_US) or SPENT_NOTHING))
        hour = since_us - since_us % HOUR_US
        full_hour = hour if hour == since_us else hour + HOUR_US
        minute = since_us - since_us % MINUTE_US
        hours = self.row("total", kind, key, HOUR_US, full_hour, ENDLESS_US) or SPENT_NOTHING
        minutes = self.row("total", kind, key, MINUTE_US, minute, full_hour) or SPENT_NOTHING
        return Spent(*(int(one) + int(other) for one, other in zip(hours, minutes, strict=True)))

    # -- calls under way --------------------------------------------------------------------------------

    def call(self, call_id: bytes) -> tuple[int, int, CallSaid] | None:
        """Flags, the time it was counted at, and what is known of it."""
        found = self.row("call", call_id)
        return None if found is None else (found[0], found[1], _decode(found[2]))

    def put_call(self, call_id: bytes, flags: int, at_us: int, said: CallSaid) -> None:
        self.do("put_call", call_id, flags, at_us, _encode(said))

    def put_reservation(
        self, call_id: bytes, flags: int, at_us: int, said: CallSaid, holder: tuple[int, int | None, str]
    ) -> None:
        self.do("put_reservation", call_id, flags, at_us, _encode(said), *holder)

    def count(self, said: CallSaid, at_us: int, sign: int = 1) -> None:
        """One more call of this kind, or one less."""
        self.add(said.scopes, at_us, (1, said.writes, 0, 0, 0, 0, 0, 0, 0), sign)

    def count_named(self, said: CallSaid, at_us: int) -> None:
        """Its hosts, and that it was made with these arguments."""
        if said.hosts:
            self.do_all(
                "use_host",
                [(*scope, host, at_us) for scope in said.scopes for host in said.hosts],
            )
        if said.digest is not None and said.loop_key is not None:
            self.do("count_same", said.loop_key, said.digest, at_us)

    def uncount(self, call_id: bytes, said: CallSaid, at_us: int) -> None:
        """The call never ran: what it took is there again."""
        self.count(said, at_us, -1)
        for scope in said.scopes:
            for host in said.hosts:
                self.do("leave_host", *scope, host)
                self.do("forget_host", *scope, host)
        if said.digest is not None and said.loop_key is not None:
            self.do("uncount_same", said.loop_key, said.digest)
        self.do("leave_slots", call_id)

    def hosts(self, scope: Scope, since_us: int | None, named: Sequence[bytes]) -> tuple[int, int]:
        """How many hosts were named since then, and how many of `named` are not among them."""
        since_us = 0 if since_us is None or scope[0] in (RUN, SESSION) else since_us
        (count,) = self.row("hosts", *scope, since_us) or (0,)
        return count, sum(self.row("has_host", *scope, host, since_us) is None for host in named)

    def same(self, key: Any, digest: bytes, tool: str) -> int:
        """How often such a call was made there, at the most: those nobody knows may each have been one."""
        found = (self.row("same", key, one) for one in (digest, unknown_same(tool)))
        return sum(max(0, row[0]) for row in found if row is not None)

    # -- runs -------------------------------------------------------------------------------------------

    def run(self, run_id: bytes) -> KnownRun | None:
        found = self.row("run", run_id)
        return None if found is None else KnownRun(*found)
