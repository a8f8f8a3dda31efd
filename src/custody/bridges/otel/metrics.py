"""Counters and histograms of one batch, as differences (delta temporality).

Owns how calls and steps add to the instruments of `mapping`. A batch's points say what that batch added,
nothing of what was before: a resend repeats one batch and never a total. Used by `exporter`.
"""

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    NumberDataPoint,
    Sum,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    Metric as MetricMessage,
)

from custody.bridges.otel import mapping
from custody.bridges.otel.mapping import Metric
from custody.bridges.otel.spans import Turn, key_value
from custody.records import Call

DELTA = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA

Attributes = tuple[tuple[str, str], ...]


class _Histogram:
    """What was recorded under one set of attributes."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.least = float("inf")
        self.most = 0.0

    def record(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value
        self.least = min(self.least, value)
        self.most = max(self.most, value)


class Points:
    """What one batch adds to every instrument."""

    def __init__(self) -> None:
        self._histograms: dict[Metric, dict[Attributes, _Histogram]] = {}
        self._counters: dict[Metric, dict[Attributes, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._histograms or self._counters)

    def add_call(self, call: Call) -> None:
        named = {
            "gen_ai.tool.name": call.tool,
            "gen_ai.agent.name": call.agent,
            "error.type": mapping.call_error(call),
            "custody.outcome": call.outcome,
        }
        self._count(mapping.CALLS, named, 1)
        if call.latency_us is not None:
            self._record(mapping.TOOL_DURATION, named, call.latency_us / 1e6)

    def add_turn(self, turn: Turn) -> None:
        step = turn.step
        named = {
            "gen_ai.operation.name": mapping.STEP_OPERATION,
            "gen_ai.request.model": turn.requested_model,
            "gen_ai.response.model": step.model,
            "error.type": mapping.step_error(turn),
        }
        if step.model_us is not None:
            self._record(mapping.MODEL_DURATION, named, step.model_us / 1e6)
        if step.tokens is not None:
            for kind, count in (("input", step.tokens.input), ("output", step.tokens.output)):
                if count is not None:
                    self._record(mapping.TOKEN_USAGE, {**named, "gen_ai.token.type": kind}, count)

    def add_dropped(self, count: int) -> None:
        self._count(mapping.DROPPED, {}, count)

    def messages(self, start_ns: int, end_ns: int) -> list[MetricMessage]:
        """The points of the time since the last ones were accepted."""
        made: list[MetricMessage] = []
        for metric in mapping.METRICS:
            message = MetricMessage(name=metric.name, unit=metric.unit, description=metric.description)
            if metric in self._histograms:
                recorded = self._histograms[metric].items()
                points = [_histogram_point(of, one, start_ns, end_ns) for of, one in recorded]
                message.histogram.CopyFrom(Histogram(data_points=points, aggregation_temporality=DELTA))
            elif metric in self._counters:
                counted = self._counters[metric].items()
                numbers = [_number_point(of, count, start_ns, end_ns) for of, count in counted]
                message.sum.CopyFrom(
                    Sum(data_points=numbers, aggregation_temporality=DELTA, is_monotonic=True)
                )
            else:
                continue
            made.append(message)
        return made

    def _record(self, metric: Metric, named: Mapping[str, str | None], value: float) -> None:
        series = self._histograms.setdefault(metric, {})
        attributes = _attributes(metric, named)
        if attributes not in series:
            series[attributes] = _Histogram(metric.bounds)
        series[attributes].record(value)

    def _count(self, metric: Metric, named: Mapping[str, str | None], count: int) -> None:
        series = self._counters.setdefault(metric, {})
        attributes = _attributes(metric, named)
        series[attributes] = series.get(attributes, 0) + count


def _attributes(metric: Metric, named: Mapping[str, str | None]) -> Attributes:
    return tuple((name, value) for name in metric.attributes if (value := named.get(name)) is not None)


def _histogram_point(of: Attributes, one: _Histogram, start_ns: int, end_ns: int) -> HistogramDataPoint:
    return HistogramDataPoint(
        attributes=_messages(of),
        start_time_unix_nano=start_ns,
        time_unix_nano=end_ns,
        count=sum(one.counts),
        sum=one.total,
        bucket_counts=one.counts,
        explicit_bounds=one.bounds,
        min=one.least,
        max=one.most,
    )


def _number_point(of: Attributes, count: int, start_ns: int, end_ns: int) -> NumberDataPoint:
    return NumberDataPoint(
        attributes=_messages(of), start_time_unix_nano=start_ns, time_unix_nano=end_ns, as_int=count
    )


def _messages(attributes: Attributes) -> list[Any]:
    return [key_value(name, value) for name, value in attributes]
