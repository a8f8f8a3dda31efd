"""What can be asked over HTTP: each question's path, its query, its answer and who may see what.

Owns the filters by the names the command line has for them, and the rule that an agent sees its own. Knows
nothing of HTTP but names of paths; everything here waits for a disk and runs in a thread. Used by `http`,
which routes by `QUESTIONS`, and by `openapi`, which describes them.
"""

import base64
import re
from collections.abc import Callable
from typing import Annotated, Any, Generic, Literal, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta, Struct

from custody.bridges.objects import speakable
from custody.errors import Ambiguous, CorruptJournal, Denied, InvalidInput, NotFound
from custody.index import CallFilter, Index, Page, RunFilter
from custody.journal import Cursor, Journal
from custody.records import Call, Kind, Run, document
from custody.redaction import plain
from custody.rpc.access import Access
from custody.rpc.moments import moment_us
from custody.rpc.trace_records import TraceRecord
from custody.rpc.traces import Trace

LIMIT_MAX = 1_000  # as the index gives them
CHUNK_ITEMS = 50  # read at once: a call may hold megabytes
ANSWER_BYTES_MAX = 16 * 1024**2
"""A page that has grown so large ends early; `next` goes on."""

SCANNED_MAX = 20_000
"""Records looked at for one page of a filtered list."""

PATH_ID = re.compile(r"[0-9a-f]{4,32}", re.ASCII)
RUN_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
CALL_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)
PARAMETERS_MAX = 64
START = "start"

Limit = Annotated[int, Meta(ge=1, le=LIMIT_MAX, description="At most so many.")]
Text = Annotated[str, Meta(max_length=1_024)]
Moment = Annotated[
    str, Meta(max_length=40, description="RFC 3339, a date, or how long ago: 90s, 15m, 2h, 7d.")
]
CursorText = Annotated[
    str, Meta(max_length=65_536, description="`next` of the page before, as it was given.")
]


class Paged(Struct, kw_only=True, forbid_unknown_fields=True):
    """What every list takes."""

    limit: Limit = 50
    cursor: CursorText | None = None


class Filters(Paged, kw_only=True, forbid_unknown_fields=True):
    """What runs and calls can both be filtered by."""

    running: bool | None = None
    outcome: Text | None = None
    session: Text | None = None
    agent: Text | None = None
    caller: Text | None = None
    workspace: Text | None = None
    since: Moment | None = None
    until: Moment | None = None
    parent: Text | None = None
    top_level: bool = False
    text: Text | None = None
    external_id: Text | None = None
    order: Literal["newest", "oldest"] | None = None


class RunsQuery(Filters, kw_only=True, forbid_unknown_fields=True):
    """Filters of a list of runs."""

    name: Text | None = None
    channel: Text | None = None
    reason: Text | None = None


class RunCallsQuery(Filters, kw_only=True, forbid_unknown_fields=True):
    """Filters of the calls of one run."""

    tool: Text | None = None
    effect: Text | None = None
    door: Text | None = None
    dry_run: bool | None = None
    proposal_id: Text | None = None
    action_id: Text | None = None
    attempt: Annotated[int, Meta(ge=1, le=2**31)] | None = None
    connection: Text | None = None


class CallsQuery(RunCallsQuery, kw_only=True, forbid_unknown_fields=True):
    """Filters of a list of calls."""

    run: Text | None = None


class OneQuery(Struct, kw_only=True, forbid_unknown_fields=True):
    """What asking for one thing takes."""

    agent: Text | None = None
    """Who asks, where no token says so."""


class TraceQuery(OneQuery, kw_only=True, forbid_unknown_fields=True):
    """Which records of a trace."""

    limit: Limit = 100
    cursor: Annotated[int, Meta(ge=0, le=2**53, description="How many records to leave out.")] = 0


class RecordsQuery(Struct, kw_only=True, forbid_unknown_fields=True):
    """Which records, in the order of the journal's shards."""

    kind: Literal[
        "run_started", "run_finished", "call_asked", "call_answered", "call_started", "call_finished",
        "step", "event",
    ] | None = None  # fmt: skip
    name: Text | None = None
    """Of an event."""
    limit: Limit = 100
    cursor: CursorText | None = None


T = TypeVar("T")


class Listed(Struct, Generic[T], kw_only=True):
    """A page of a list."""

    items: list[T]
    next: str | None
    """Goes on after this page; null: there is no more."""


class Records(Struct, kw_only=True):
    """A page of the journal's records."""

    items: list[dict[str, Any]]
    next: str | None
    """Goes on after this page; null: there is no more at present."""
    cursor: str
    """The place after the last of `items`: to ask again later, or `GET /events` from there."""


class Asking(Struct, frozen=True):
    """One request, as a question sees it."""

    index: Index
    journal: Journal
    access: Access
    query: Any
    id: str = ""

    def agent(self) -> str | None:
        """Whose things alone are seen; None: everybody's. Raises InvalidInput where nobody says who asks."""
        if self.access.reads_everything:
            return None
        agent = self.access.agent or getattr(self.query, "agent", None)
        if agent is None:
            raise InvalidInput(
                "An agent sees its own, and nothing says which agent asks.",
                hint="Say ?agent=NAME, or show a token that names one, or an auditor's.",
            )
        return agent

    def everything(self) -> None:
        """Raises Denied for who does not see everything."""
        if not self.access.reads_everything:
            raise Denied(
                "An agent does not see what others do.",
                hint="Show the token of an auditor, an operator or the host (keys/host.token).",
            )


class Question(Struct, frozen=True, kw_only=True):
    """One thing that can be asked."""

    path: str
    name: str
    query: type[Struct]
    result: Any
    answer: Callable[[Asking], Any]

    @property
    def summary(self) -> str:
        return (self.answer.__doc__ or "").strip().splitlines()[0]


def query_pairs(query_string: bytes) -> list[tuple[str, str]]:
    """Raises InvalidInput for more parameters than there are."""
    try:
        return parse_qsl(
            query_string.decode("latin-1"), keep_blank_values=True, max_num_fields=PARAMETERS_MAX
        )
    except ValueError:
        raise InvalidInput(f"A query has at most {PARAMETERS_MAX} parameters.") from None


def parsed(query: type[Struct], given: list[tuple[str, str]]) -> Any:
    """The query's values. Raises InvalidInput naming the parameter."""
    named = dict(given)
    if len(named) < len(given):
        twice = next(name for name, _ in given if sum(name == other for other, _ in given) > 1)
        raise InvalidInput(f"{twice} is given twice.")
    try:
        return msgspec.convert(named, query, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        what = str(error).replace(" - at `$.", ": `").replace("Object contains unknown field", "There is no")
        raise InvalidInput(f"{what}.", hint=f"There are: {', '.join(query.__struct_fields__)}.") from None


# -- answers ------------------------------------------------------------------------------------------------


def runs(asking: Asking) -> Listed[Run]:
    """Runs, newest first."""
    return _listed(asking, asking.index.runs, RunFilter(**_filter(asking, RunFilter)))


def run(asking: Asking) -> Any:
    """One run."""
    return _shown_own(asking, asking.index.run, "run")


def calls(asking: Asking) -> Listed[Call]:
    """Calls, newest first."""
    return _listed(asking, asking.index.calls, CallFilter(**_call_filter(asking)))


def run_calls(asking: Asking) -> Listed[Call]:
    """The calls of one run, in the order they were asked for."""
    found = _own(asking, asking.index.run, "run")
    fields = _call_filter(asking) | {"run": found.id}
    fields.setdefault("order", "oldest")
    return _listed(asking, asking.index.calls, CallFilter(**fields))


def call(asking: Asking) -> Any:
    """One call."""
    return _shown_own(asking, asking.index.call, "call")


def records(asking: Asking) -> Records:
    """The journal's records from a cursor on, as they are kept."""
    asking.everything()
    query: RecordsQuery = asking.query
    read = read_records(asking, decode_cursor(query.cursor), query.kind, query.name, query.limit)
    cursor = encode_cursor(read.cursor)
    return Records(
        items=[record for _, record in read.items], next=cursor if read.more else None, cursor=cursor
    )


def trace(asking: Asking) -> Listed[TraceRecord]:
    """The trace of a run: its turns between its start and its end."""
    query: TraceQuery = asking.query
    found = _own(asking, asking.index.run, "run")
    reader = Trace(asking.index, bytes.fromhex(found.id))
    page = reader.page(reader.seek(query.cursor), query.limit, bytes_max=ANSWER_BYTES_MAX)
    return Listed(
        items=[shown(msgspec.to_builtins(record)) for record in page.records],
        next=str(page.mark.records) if page.more else None,
    )


class Read(Struct, frozen=True):
    """Some records, each with the cursor behind it."""

    items: list[tuple[Cursor, dict[str, Any]]]
    cursor: Cursor
    more: bool


def read_records(
    asking: Asking,
    cursor: Cursor | None,
    kind: str | None,
    name: str | None,
    limit: int,
    bytes_max: int = ANSWER_BYTES_MAX,
) -> Read:
    """The next records of the journal. Raises CorruptJournal once all before the damage has been given."""
    following = asking.journal.follow(cursor)
    items: list[tuple[Cursor, dict[str, Any]]] = []
    size, more = 0, False
    try:
        for scanned, stored in enumerate(following, 1):
            if kind is None or Kind(stored.kind).name.lower() == kind:
                record = asking.index.describe(stored)
                if name is None or record.get("name") == name:
                    items.append((following.cursor, shown(record)))
                    size += len(stored.payload) + len(stored.leaf)
            if len(items) >= limit or scanned >= SCANNED_MAX or size >= bytes_max:
                more = True
                break
    except CorruptJournal:
        if not items:
            raise
        more = True
    return Read(items, following.cursor, more)


QUESTIONS: tuple[Question, ...] = (
    Question(path="/runs", name="runs", query=RunsQuery, result=Listed[Run], answer=runs),
    Question(path="/runs/{id}", name="run", query=OneQuery, result=Run, answer=run),
    Question(
        path="/runs/{id}/calls", name="run_calls", query=RunCallsQuery, result=Listed[Call], answer=run_calls
    ),
    Question(
        path="/runs/{id}/trace", name="trace", query=TraceQuery, result=Listed[TraceRecord], answer=trace
    ),
    Question(path="/calls", name="calls", query=CallsQuery, result=Listed[Call], answer=calls),
    Question(path="/calls/{id}", name="call", query=OneQuery, result=Call, answer=call),
    Question(path="/records", name="records", query=RecordsQuery, result=Records, answer=records),
)


# -- how --------------------------------------------------------------------------------------------------


def shown(value: Any) -> Any:
    """Plain data as every door shows it."""
    return speakable(plain(document(value)))


def _filter(asking: Asking, kind: type[RunFilter] | type[CallFilter]) -> dict[str, Any]:
    """The fields of the index's filter that were asked for."""
    query: Filters = asking.query
    fields = {
        name: value
        for name in query.__struct_fields__
        if name in kind.__struct_fields__ and (value := getattr(query, name)) is not None
    }
    fields["since_us"], fields["until_us"] = moment_us(query.since), moment_us(query.until)
    agent = asking.agent()
    if agent is not None:
        if fields.setdefault("agent", agent) != agent:
            raise NotFound("There is nothing of that agent.")
        _check_whole(fields, {"run": RUN_ID, "parent": RUN_ID if kind is RunFilter else CALL_ID})
    return {name: value for name, value in fields.items() if value is not None}


def _call_filter(asking: Asking) -> dict[str, Any]:
    fields = _filter(asking, CallFilter)
    if asking.query.running:
        fields["outcome"] = "running"
    return fields


def _check_whole(fields: dict[str, Any], ids: dict[str, re.Pattern[str]]) -> None:
    """A name or the beginning of an id might be another's, and would be looked for. Raises NotFound."""
    for name, whole in ids.items():
        if name in fields and not whole.fullmatch(fields[name]):
            raise NotFound(f"There is no {name} {fields[name][:64]!r}.", hint="Say the whole id.")


def _listed(asking: Asking, lister: Callable[..., Page[Any]], asked: Any) -> Any:
    """A page, read in pieces so that a few large calls do not fill the memory."""
    query: Filters = asking.query
    items: list[Any] = []
    cursor, size = query.cursor, 0
    try:
        while True:
            page = lister(asked, limit=min(CHUNK_ITEMS, query.limit - len(items)), cursor=cursor)
            for item in page.items:
                object_ = shown(item)
                size += len(msgspec.json.encode(object_))
                items.append(object_)
            cursor = page.next
            if cursor is None or len(items) >= query.limit or size >= ANSWER_BYTES_MAX:
                return Listed(items=items, next=cursor)
    except (NotFound, Ambiguous):
        if asking.access.reads_everything:
            raise
        raise NotFound("There is nothing of that agent.") from None


def _own(asking: Asking, find: Callable[[str], Any], what: str) -> Any:
    """One thing by its id; another's is not there."""
    agent = asking.agent()
    pattern = PATH_ID if agent is None else RUN_ID if what == "run" else CALL_ID
    try:
        if pattern.fullmatch(asking.id):
            found = find(asking.id)
            if agent is None or found.agent == agent:
                return found
    except NotFound:
        pass
    except Ambiguous as error:
        if agent is None:
            raise InvalidInput(error.message, hint=error.hint) from None
    raise NotFound(f"There is no {what} {asking.id[:64]!r}.", hint="Ids are hexadecimal; lists show them.")


def _shown_own(asking: Asking, find: Callable[[str], Any], what: str) -> Any:
    return shown(_own(asking, find, what))


def encode_cursor(cursor: Cursor) -> str:
    return base64.urlsafe_b64encode(cursor.to_json().encode()).rstrip(b"=").decode()


def decode_cursor(text: str | None) -> Cursor | None:
    """None, the empty text and `start` are the beginning. Raises InvalidInput."""
    if text is None or text in ("", START):
        return None
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        cursor = Cursor.from_json(data)
        for shard, place in cursor.places.items():
            if shard < 0 or any(number < 0 for number in place) or any(number > 2**63 for number in place):
                raise ValueError("out of range")
    except (ValueError, msgspec.DecodeError):
        raise InvalidInput(
            f"{text[:80]!r} is no cursor.", hint="Pass one back as it was given, or `start`."
        ) from None
    return cursor
