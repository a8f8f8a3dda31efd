"""`GET /metrics`: what the daemon counts, for Prometheus.

Owns the names of the metrics; the numbers are read where they are kept, when they are asked for. Nothing in
them names a run, an agent or a tool: labels stay few. Used by `http`.
"""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from custody import __version__
from custody.doors.server.events_stream import EventStreams
from custody.doors.server.otlp import OtlpMount
from custody.doors.server.protocols import Occupancy
from custody.rpc.service import Service


class Metrics:
    """The metrics of one daemon, in a registry of its own."""

    def __init__(
        self, service: Service, occupancy: Occupancy, streams: EventStreams, mounts: Iterable[object] = ()
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Counted(service, occupancy, streams))
        for mount in mounts:
            if isinstance(mount, OtlpMount):
                self._registry.register(_SpansIn(mount))
        ProcessCollector(registry=self._registry)

    def text(self) -> tuple[bytes, bytes]:
        """The exposition, and its content type. May read /proc."""
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4.encode()


class _Counted(Collector):
    def __init__(self, service: Service, occupancy: Occupancy, streams: EventStreams) -> None:
        self._service = service
        self._occupancy = occupancy
        self._streams = streams

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("custody", "The daemon.", {"version": __version__})
        yield from self._connections()
        yield from self._requests()
        journal = self._service.runtime.journal
        yield GaugeMetricFamily(
            "custody_journal_durable_sequence",
            "Sequence of the last record of this process that survives a loss of power.",
            journal.durable_sequence,
        )
        yield GaugeMetricFamily(
            "custody_draining", "1 once the daemon is about to stop.", int(self._service.draining)
        )

    def _connections(self) -> Iterator[Metric]:
        counters, room = self._service.counters, self._occupancy
        yield GaugeMetricFamily("custody_connections", "Open, of any kind.", len(room.connections))
        yield GaugeMetricFamily(
            "custody_peers", "Connections that are served as peers.", len(self._service.peers)
        )
        yield GaugeMetricFamily("custody_event_streams", "Open readers of /events.", self._streams.open)
        for name, words, value in (
            ("connections_refused", "Connections that found no room.", room.refused),
            (
                "connections_dropped",
                "Connections closed because nothing came or nothing was taken.",
                room.dropped,
            ),
            ("peers_served", "Peers since the start.", counters.connections),
            ("peers_given_up", "Peers closed because they took nothing.", counters.peers_given_up),
            ("event_records_sent", "Records sent to readers of /events.", self._streams.sent),
        ):
            yield CounterMetricFamily(f"custody_{name}", words, value)

    def _requests(self) -> Iterator[Metric]:
        counters = self._service.counters
        frames = CounterMetricFamily("custody_frames", "Frames of peers.", labels=["direction"])
        frames.add_metric(["in"], counters.frames_in)
        frames.add_metric(["out"], counters.frames_out)
        yield frames
        requests = CounterMetricFamily(
            "custody_requests", "Requests of peers; code 0 is a result.", labels=["method", "code"]
        )
        for (method, code), count in list(counters.requests.items()):
            requests.add_metric([method, str(code)], count)
        yield requests
        yield GaugeMetricFamily(
            "custody_requests_in_flight",
            "Requests being worked on.",
            self._service.under_way,
        )
        for name, words, value in (
            ("callbacks", "Requests to peers.", counters.callbacks),
            ("callbacks_answered", "Requests to peers that were answered.", counters.callbacks_answered),
            (
                "answers_ignored",
                "Answers that came late, twice, or to nothing asked.",
                counters.answers_ignored,
            ),
            (
                "notifications_dropped",
                "Notifications that were not let through.",
                counters.notifications_dropped,
            ),
        ):
            yield CounterMetricFamily(f"custody_{name}", words, value)


class _SpansIn(Collector):
    """What programs send to `/v1/traces`."""

    def __init__(self, mount: OtlpMount) -> None:
        self._mount = mount

    def collect(self) -> Iterator[Metric]:
        counts = self._mount.counts
        yield GaugeMetricFamily(
            "custody_otlp_waiting", "Requests of spans that are not answered yet.", self._mount.waiting
        )
        for name, words, value in (
            ("bytes", "Of bodies with spans, packed where they were.", counts.bytes),
            ("spans_recorded", "Spans that became a record.", counts.recorded),
            ("spans_known", "Spans that were on the record already.", counts.known),
        ):
            yield CounterMetricFamily(f"custody_otlp_{name}", words, value)
        for name, words, label, by_word in (
            ("requests", "Requests of spans that were answered.", "code", counts.requests),
            ("spans_left_out", "Spans of nothing that is recorded.", "kind", counts.left_out),
            ("spans_rejected", "Spans that could not be taken.", "reason", counts.rejected),
        ):
            family = CounterMetricFamily(f"custody_otlp_{name}", words, labels=[label])
            for word, count in list(by_word.items()):
                family.add_metric([str(word)], count)
            yield family
