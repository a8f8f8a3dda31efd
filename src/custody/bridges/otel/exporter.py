"""Following the journal and sending what has ended: calls, runs, steps, and the metrics beside them.

Owns the batch, the cursor and the pauses between attempts. A batch is made of records, sent, and only when
spans and metrics were both taken does the cursor move on: a collector that is down costs nothing but time,
and what is sent twice has the same ids. Writes nothing but the event `export.advanced`, which says where it
stands. Used by `compose` (beside a program) and by `custody export`.
"""

import random
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics, ScopeMetrics
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from custody.bridges.otel.destination import Destination
from custody.bridges.otel.mapping import SCHEMA_URL
from custody.bridges.otel.metrics import Points
from custody.bridges.otel.senders import SEND_SECONDS, Answer, Sender, sender_of
from custody.bridges.otel.spans import SpanMaker, Turn, resource_of, scope
from custody.errors import CorruptJournal, StoreError
from custody.index import EventFilter, Index
from custody.journal import Cursor, Journal, Stored
from custody.recorder import Recorder
from custody.records import CallFinished, Event, Kind, RunFinished, Step, decode_leaf

ADVANCED = "export.advanced"
EXPORTER = "otel"

BATCH_SPANS_MAX = 512  # what OpenTelemetry's own batches hold by default
BATCH_BYTES_MAX = 1024 * 1024  # a quarter of what a gRPC receiver takes by default; proxies take as much

ENDING = frozenset({Kind.CALL_FINISHED, Kind.RUN_FINISHED, Kind.STEP})
"""The records after which something can be exported whole."""


class Pace(Struct, frozen=True, kw_only=True):
    """How often, and how soon again."""

    poll_seconds: float = 1.0
    """How late a collector may hear of what has ended."""
    backoff_seconds: float = 1.0
    """The first pause after a failure; each further one is twice as long."""
    backoff_seconds_max: float = 60.0
    """A collector that is back waits no longer than this for us."""
    save_seconds: float = 10.0
    """Between two records of the cursor: what is sent again after a crash is no more than this."""
    send_seconds: float = SEND_SECONDS


class Progress(Struct, kw_only=True):
    """What one exporter has done so far."""

    spans: int = 0
    """Spans the collector took."""
    rejected: int = 0
    """Spans it would not keep: they are not sent again."""
    points_rejected: int = 0
    unreadable: int = 0
    """Calls and runs that have ended and whose records are damaged or lost."""
    metrics_absent: bool = False
    """The collector takes no metrics."""
    words: str = ""
    """What it last said of what it would not keep."""


class Batch:
    """Some spans and the points beside them, on their way."""

    def __init__(self, cursor: Cursor, counted: Cursor) -> None:
        self.cursor = cursor
        """Where the journal is read on once this is delivered."""
        self.counted = counted
        self.spans: list[list[Span]] = []
        """Requests still to be sent; one that was too large becomes two."""
        self.points = Points()
        self.metrics: bytes | None = None
        self.ends_ns = 0
        self.unreadable = 0


class Exporter:
    """Exports one store to one destination. Whoever runs it holds `Journal.export_lock`.

    `resume`, `follow` and `deliver_all` belong to one thread; `abort`, `save` and `progress` to any.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        index: Index,
        make_recorder: Callable[[], Recorder],
        destination: Destination,
        content: bool = False,
        service_name: str = "custody",
        pace: Pace = Pace(),  # noqa: B008 - frozen
        say: Callable[[str], None] = lambda _: None,
        stop: threading.Event | None = None,
    ) -> None:
        """`say` gets a sentence when something changes that a person should know; setting `stop` lets
        `follow` end after one more attempt at what is left."""
        self.destination = destination
        self.progress = Progress()
        self._journal = journal
        self._index = index
        self._make_recorder = make_recorder
        self._recorder: Recorder | None = None
        self._pace = pace
        self._say = say
        self._resource = resource_of(service_name)
        self._content = content
        self._spans = SpanMaker(index, content=content)
        self._sender: Sender = sender_of(destination, send_seconds=pace.send_seconds)
        self._cursor = Cursor()
        self._counted = Cursor()
        """Up to where records have been counted in metrics: ahead of the cursor when spans are sent anew."""
        self._pending: Batch | None = None
        self._points_since_ns = time.time_ns()
        self._saving = threading.Lock()
        self._unsaved = False
        self._saved = time.monotonic()
        self._said_since_save = [0, 0]
        self._stop = stop or threading.Event()
        self._resumed = False
        self._aborted = False
        self._damage: CorruptJournal | None = None
        self._trouble = ""

    @property
    def damage(self) -> CorruptJournal | None:
        """What was found damaged in the journal: nothing behind it is exported."""
        return self._damage

    # -- where it stands ------------------------------------------------------------------------------

    def resume(self, *, from_start: bool = False) -> None:
        """Go on where the last export to this destination stopped; from the start, count nothing twice."""
        self._index_caught_up()
        self._resumed = True
        cursor: str | None = None
        while True:
            page = self._index.events(EventFilter(name=ADVANCED), cursor=cursor, refresh=False)
            for event in page.items:
                if event.data.get("destination") == self.destination.name:
                    self._counted = Cursor.from_json(event.data["counted"])
                    if not from_start:
                        self._cursor = Cursor.from_json(event.data["cursor"])
                    return
            cursor = page.next
            if cursor is None:
                return

    def save(self) -> None:
        """Record where it stands, if anything was exported since. Raises NotRecorded, StoreClosed."""
        with self._saving:
            if not self._unsaved:
                return
            self._recorder = self._recorder or self._make_recorder()
            before = self._said_since_save
            now = [self.progress.spans, self.progress.rejected]
            data = {
                "exporter": EXPORTER,
                "destination": self.destination.name,
                "endpoint": self.destination.shown,
                "cursor": self._cursor.to_json(),
                "counted": self._counted.to_json(),
                "spans": now[0] - before[0],
                "rejected": now[1] - before[1],
            }
            self._recorder.event(ADVANCED, data, leaf_data=True)
            self._unsaved, self._said_since_save, self._saved = False, now, time.monotonic()

    def remaining(self) -> int:
        """How many spans are still to be exported, as far as the journal can be read."""
        count = 0
        try:
            for stored in self._journal.follow(self._cursor):
                count += stored.kind in ENDING
        except CorruptJournal:
            pass  # `damage` says it
        return count

    # -- running --------------------------------------------------------------------------------------

    def deliver_all(
        self, *, patience_seconds: float = 0.0, progressed: Callable[[Progress], None] = lambda _: None
    ) -> Answer | None:
        """Export all there is; the answer that stopped it, if one did.

        A collector that asks to be tried again is, for so long as `patience_seconds`.
        """
        end = time.monotonic() + patience_seconds
        pause = self._pace.backoff_seconds
        while not self._aborted and (batch := self._next_batch()) is not None:
            failure = self._deliver(batch)
            if failure is None:
                pause = self._pace.backoff_seconds
                self._save_now_and_then()
                progressed(self.progress)
                continue
            wait = failure.retry_after_seconds or pause
            if failure.kind != "busy" or time.monotonic() + wait > end or self._stop.wait(wait):
                return failure
            pause *= 2
        return None

    def follow(self, progressed: Callable[[Progress], None] = lambda _: None) -> None:
        """Export what there is and what comes until `stop`; whatever fails is tried again, for ever."""
        pause = self._pace.backoff_seconds
        while True:
            stopping = self._stop.is_set()
            failure = self._attempt(progressed)
            if stopping:
                return
            if failure is None:
                self._recovered()
                pause = self._pace.backoff_seconds
                self._stop.wait(self._pace.poll_seconds)
                continue
            self._in_trouble(failure.words)
            if failure.kind in ("denied", "absent"):
                pause = self._pace.backoff_seconds_max  # somebody has to change something first
            wait = max(pause * (0.5 + random.random() / 2), failure.retry_after_seconds or 0.0)
            self._stop.wait(min(wait, self._pace.backoff_seconds_max))
            pause = min(pause * 2, self._pace.backoff_seconds_max)

    def abort(self) -> None:
        """End what is under way; nothing more is sent."""
        self._aborted = True
        self._stop.set()
        self._sender.abort()

    def _attempt(self, progressed: Callable[[Progress], None]) -> Answer | None:
        try:
            if not self._resumed:
                self.resume()
            failure = self.deliver_all(progressed=progressed)
            self._save_now_and_then()
        except Exception as error:  # the store, a disk, a fault of ours: it may pass, and nobody else exports
            return Answer("busy", f"{type(error).__name__}: {error}")
        return failure

    def _in_trouble(self, words: str) -> None:
        if words != self._trouble and not self._stop.is_set():
            self._say(
                f"Nothing goes to {self.destination.shown}: {words}. It is tried again; nothing is lost."
            )
        self._trouble = words

    def _recovered(self) -> None:
        if self._trouble:
            self._say(f"{self.destination.shown} takes records again.")
        self._trouble = ""

    def _save_now_and_then(self) -> None:
        if time.monotonic() - self._saved >= self._pace.save_seconds:
            self.save()

    # -- delivering -----------------------------------------------------------------------------------

    def _deliver(self, batch: Batch) -> Answer | None:
        """Send what is left of the batch; the answer that stops it, None when it is delivered."""
        failure = self._deliver_spans(batch) or self._deliver_points(batch)
        if failure is not None:
            return failure
        self.progress.unreadable += batch.unreadable
        self._cursor, self._counted, self._pending = batch.cursor, batch.counted, None
        self._unsaved = True
        return None

    def _deliver_spans(self, batch: Batch) -> Answer | None:
        while batch.spans:
            spans = batch.spans[0]
            answer = self._sender.send("traces", self._spans_request(spans))
            if answer.kind == "too_large" and len(spans) > 1:
                half = len(spans) // 2
                batch.spans[:1] = [spans[:half], spans[half:]]
                continue
            rejected = self._judge(answer, len(spans))
            if rejected is None:
                return answer
            del batch.spans[0]
            self.progress.spans += len(spans) - rejected
            self.progress.rejected += rejected
        return None

    def _deliver_points(self, batch: Batch) -> Answer | None:
        if not batch.points or self.progress.metrics_absent:
            return None
        if batch.metrics is None:
            batch.ends_ns = max(time.time_ns(), self._points_since_ns + 1)
            batch.metrics = self._points_request(batch)
        answer = self._sender.send("metrics", batch.metrics)
        if answer.kind == "absent":
            self.progress.metrics_absent = True
            self._say(f"{self.destination.shown} takes no metrics ({answer.words}), only spans.")
            return None
        rejected = self._judge(answer, 1)
        if rejected is None:
            return answer
        self.progress.points_rejected += rejected
        self._points_since_ns = batch.ends_ns
        return None

    def _judge(self, answer: Answer, count: int) -> int | None:
        """How many of `count` the collector will never keep; None when the request is to be sent again."""
        if answer.kind == "accepted":
            rejected = answer.rejected
        elif answer.kind in ("refused", "too_large"):
            rejected = count
        else:
            return None
        if rejected:
            words = answer.words or "it did not say why"
            if words != self.progress.words:
                self._say(f"{self.destination.shown} did not keep {rejected} of {count}: {words}")
            self.progress.words = words
        return rejected

    def _spans_request(self, spans: Iterable[Span]) -> bytes:
        scoped = ScopeSpans(scope=scope(), spans=spans, schema_url=SCHEMA_URL)
        whole = ResourceSpans(resource=self._resource, scope_spans=[scoped], schema_url=SCHEMA_URL)
        return ExportTraceServiceRequest(resource_spans=[whole]).SerializeToString(deterministic=True)

    def _points_request(self, batch: Batch) -> bytes:
        metrics = batch.points.messages(self._points_since_ns, batch.ends_ns)
        scoped = ScopeMetrics(scope=scope(), metrics=metrics, schema_url=SCHEMA_URL)
        whole = ResourceMetrics(resource=self._resource, scope_metrics=[scoped], schema_url=SCHEMA_URL)
        return ExportMetricsServiceRequest(resource_metrics=[whole]).SerializeToString(deterministic=True)

    # -- reading --------------------------------------------------------------------------------------

    def _next_batch(self) -> Batch | None:
        """The batch on its way, else the next one; None when all there is has been delivered."""
        while self._pending is None:
            found, end, more = self._read()
            if found:
                self._index_caught_up()
                self._pending = self._batch(found, end)
            else:
                self._cursor = end
                if not more:
                    return None
        return self._pending

    def _read(self) -> tuple[list[tuple[Stored, Cursor]], Cursor, bool]:
        """Records to export, each with the cursor behind it; where that ends; whether there may be more."""
        found: list[tuple[Stored, Cursor]] = []
        following = self._journal.follow(self._cursor)
        try:
            for stored in following:
                if stored.kind in ENDING or (stored.kind == Kind.EVENT and b"journal.gap" in stored.leaf):
                    found.append((stored, following.cursor))
                if len(found) == BATCH_SPANS_MAX or self._aborted:
                    return found, following.cursor, not self._aborted
        except CorruptJournal as error:
            if self._damage is None:
                self._say(f"{error} What lies behind is not exported.")
            self._damage = error
        return found, following.cursor, False

    def _batch(self, found: list[tuple[Stored, Cursor]], end: Cursor) -> Batch:
        batch = Batch(end, self._counted)
        spans: list[Span] = []
        size_bytes = 0
        for number, (stored, behind) in enumerate(found):
            new = not _is_before(stored, self._counted)
            span = self._exported(stored, batch, counts=new)
            if span is not None:
                size_bytes += span.ByteSize()
                spans.append(span)
            if new:
                batch.counted = batch.counted.after(stored)
            if size_bytes >= BATCH_BYTES_MAX and number + 1 < len(found):
                batch.cursor = behind
                break
        if spans:
            batch.spans.append(spans)
        return batch

    def _exported(self, stored: Stored, batch: Batch, *, counts: bool) -> Span | None:
        """The span of what this record ends; adds it to the batch's points where it is new."""
        points = batch.points if counts else Points()
        try:
            leaf = decode_leaf(stored.kind, stored.leaf)
            if isinstance(leaf, CallFinished):
                call = self._index.call(leaf.call_id.hex(), details=False, refresh=False)
                points.add_call(call)
                return self._spans.of_call(call)
            if isinstance(leaf, RunFinished):
                return self._spans.of_run(self._index.run(leaf.run_id.hex(), refresh=False))
            if isinstance(leaf, Step):
                turn = self._turn(stored, leaf)
                points.add_turn(turn)
                return self._spans.of_turn(turn)
            if isinstance(leaf, Event) and leaf.name == "journal.gap":
                points.add_dropped((leaf.data or {}).get("count", 0))
        except Exception as error:
            if isinstance(error, StoreError | OSError) and not isinstance(error, CorruptJournal):
                raise  # of the index as a whole: it is tried again
            batch.unreadable += 1  # of this record: it must not keep all later ones from being exported
            self._say(
                f"What ended at shard {stored.shard}, sequence {stored.sequence} is not exported: {error}"
            )
        return None

    def _turn(self, stored: Stored, step: Step) -> Turn:
        agent, session_id = self._spans.tree.agent_and_session(step.run_id)
        # Only content comes from the payload, whose blobs are files to read.
        payload: dict[str, Any] | None = self._index.describe(stored)["payload"] if self._content else None
        return Turn(
            step=step,
            payload=payload or {},
            agent=step.agent or agent,
            session_id=session_id,
            shard=stored.shard,
            sequence=stored.sequence,
        )

    def _index_caught_up(self) -> None:
        try:
            self._index.refresh()
        except CorruptJournal:
            pass  # what could be read is folded; following names the damage


def _is_before(stored: Stored, cursor: Cursor) -> bool:
    place = cursor.places.get(stored.shard)
    return place is not None and (stored.segment, stored.offset) < place[:2]
