"""`GET /metrics`: what the daemon counts, for Prometheus.

Owns the names of the metrics; the numbers are read where they are kept, when they are asked for. Nothing in
them names a run, an agent or a tool: labels stay few. Used by `http`.
"""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from custody import __version__
from custody.doors.server.events_stream import EventStreams
from custody.doors.server.protocols import Occupancy
from custody.rpc.service import Service


class Metrics:
    """The metrics of one daemon, in a registry of its own."""

    def __init__(self, service: Service, occupancy: Occupancy, streams: EventStreams) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Counted(service, occupancy, streams))
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
