"""Row 1: what recording one whole call costs the caller, beside the tracing libraries people use.

A call of 2 KB: *started* and *finished*, scanned for secrets, hashed, written (they survive `kill -9`).
The peer is a span of the OpenTelemetry SDK with a BatchSpanProcessor and an exporter that throws everything
away, its attributes serialised as a tracer of tools must do; what it holds does not survive. `--peers`
adds Langfuse and MLflow where they are installed.
"""

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path

from harness import Measurement, Way, arguments, interleave, report, scratch, settle
from recording import ARGUMENTS, RESULT, Store

RATIO_MAX = 1.0  # with the scanning for secrets, which is always on
OPENTELEMETRY = "OpenTelemetry SDK, BatchSpanProcessor"


def opentelemetry() -> tuple[Way, Callable[[], dict[str, int]]]:
    """A way that makes one span of a tool call, and a function that says how many got to the exporter."""
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Nowhere(SpanExporter):
        exported = 0

        def export(self, spans: object) -> SpanExportResult:
            assert isinstance(spans, list | tuple)
            self.exported += len(spans)
            return SpanExportResult.SUCCESS

    exporter, made = Nowhere(), [0]
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("benchmark")

    def span() -> None:
        made[0] += 1
        with tracer.start_as_current_span("execute_tool exec") as current:
            current.set_attribute("gen_ai.operation.name", "execute_tool")
            current.set_attribute("gen_ai.tool.name", "exec")
            current.set_attribute("gen_ai.tool.call.arguments", json.dumps(ARGUMENTS))
            current.set_attribute("gen_ai.tool.call.result", json.dumps(RESULT))
            assert isinstance(current, ReadableSpan)

    def count() -> dict[str, int]:
        provider.shutdown()
        return {"spans": made[0], "exported": exporter.exported}

    return span, count


def openai_agents() -> Way:
    """A function span of the OpenAI Agents SDK, with a processor that throws it away."""
    from agents import tracing

    class Nowhere(tracing.TracingProcessor):
        def on_trace_start(self, trace: object) -> None: ...
        def on_trace_end(self, trace: object) -> None: ...
        def on_span_start(self, span: object) -> None: ...
        def on_span_end(self, span: object) -> None: ...
        def shutdown(self) -> None: ...
        def force_flush(self) -> None: ...

    tracing.set_trace_processors([Nowhere()])
    tracing.trace("benchmark").start(mark_as_current=True)

    def span() -> None:
        with tracing.function_span("exec", input=json.dumps(ARGUMENTS)) as current:
            current.span_data.output = json.dumps(RESULT)

    return span


def langfuse() -> Way:
    os.environ.setdefault("LANGFUSE_TRACING_ENVIRONMENT", "benchmark")
    from langfuse import Langfuse

    client = Langfuse(public_key="pk-none", secret_key="sk-none", host="http://127.0.0.1:9")

    def observation() -> None:
        with client.start_as_current_observation(name="exec", as_type="tool", input=ARGUMENTS) as current:
            current.update(output=RESULT)

    return observation


def mlflow(folder: Path) -> Way:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.set_experiment("benchmark")

    def trace() -> None:
        with mlflow.start_span(name="exec", span_type="TOOL") as span:
            span.set_inputs(ARGUMENTS)
            span.set_outputs(RESULT)

    return trace


def peers(folder: Path) -> dict[str, Way]:
    ways: dict[str, Way] = {}
    for name, make in (("langfuse", langfuse), ("mlflow", lambda: mlflow(folder))):
        if importlib.util.find_spec(name) is None:
            print(f"{name} is not installed: left out")
        else:
            ways[name] = make()
    return ways


def main() -> None:
    options = arguments(__doc__, peers=(False, "also Langfuse and MLflow"), calls=(40_000, "calls of each"))
    rounds = options.calls // (2_000 if options.quick else 200)
    with scratch() as folder:
        store = Store(folder)
        span, count = opentelemetry()
        settle()
        timings = interleave({"custody": store.record_call, OPENTELEMETRY: span}, rounds=rounds, calls=200)
        slow = interleave(peers(folder), rounds=max(1, rounds // 20), calls=20) if options.peers else {}
        spans = count()
        store.close()
    ours = timings.pop("custody")
    beside = {name: timing.p50_us for name, timing in (timings | slow).items()}
    measurement = Measurement(
        row=1,
        what="record one whole call of 2 KB, scanned for secrets, caller's thread, p50",
        value=ours.p50_us,
        unit="µs",
        target=f"≤ {RATIO_MAX} × OpenTelemetry",
        limit=RATIO_MAX * beside[OPENTELEMETRY],
        peers=beside,
    )
    report(
        "record_call",
        [measurement],
        {"custody": ours, **timings, **slow, "opentelemetry spans": spans},
        quick=options.quick,
    )


if __name__ == "__main__":
    main()
