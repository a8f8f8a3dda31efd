"""Row 1 for agents that run their own tools: what `run.observe` and `run.step` cost them.

`with run.observe(...)` around a tool that does nothing, with the call of 2 KB of `record_call.py`; a step of
600 bytes of text, tokens and two requested calls; the same with recording disabled. Beside them the spans of
the OpenTelemetry SDK (BatchSpanProcessor, an exporter that throws everything away) and of the OpenAI Agents
SDK. `--peers` adds Langfuse and MLflow where they are installed.
"""

import json
from typing import Any

import custody
from harness import Measurement, Timing, Way, arguments, interleave, never_refused, report, scratch, settle
from record_call import OPENTELEMETRY, openai_agents, opentelemetry, peers
from record_call_busy import P99_US_MAX, busy_thread
from recording import ARGUMENTS, RESULT

RATIO_MAX = 0.5
DISABLED_US_MAX = 0.3
OPENAI_AGENTS = "OpenAI Agents SDK span, no exporter"

TEXT = "I will look at the failing basket test first, then at what it imports. " * 8
TOKENS = {"input": 2_140, "output": 187, "reasoning": 64, "cache_read": 1_920, "cache_write": 0}
ASKED_FOR = [
    {"id": "call_1", "name": "exec", "arguments": {"argv": ["git", "status", "--short"]}},
    {"id": "call_2", "name": "file_read", "arguments": {"path": "src/shop/basket.py"}},
]


def observing(run: Any) -> Way:
    def call() -> None:
        with run.observe("exec", ARGUMENTS, external_id="call_1") as observed:
            observed.result = RESULT

    return call


def stepping(run: Any) -> Way:
    def step() -> None:
        run.step(TEXT, model="gpt-4o", tokens=TOKENS, finish_reason="tool_calls", calls=ASKED_FOR)

    return step


def opentelemetry_step() -> Way:
    """The same as an inference span of the GenAI conventions."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Nowhere(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    tracer = provider.get_tracer("benchmark")

    def span() -> None:
        with tracer.start_as_current_span("chat gpt-4o") as current:
            current.set_attribute("gen_ai.operation.name", "chat")
            current.set_attribute("gen_ai.response.model", "gpt-4o")
            current.set_attribute("gen_ai.response.finish_reasons", ("tool_calls",))
            current.set_attribute("gen_ai.usage.input_tokens", TOKENS["input"])
            current.set_attribute("gen_ai.usage.output_tokens", TOKENS["output"])
            current.set_attribute("gen_ai.usage.cache_read.input_tokens", TOKENS["cache_read"])
            current.set_attribute(
                "gen_ai.output.messages",
                json.dumps([{"role": "assistant", "content": TEXT, "tool_calls": ASKED_FOR}]),
            )

    return span


def disabled_us(calls: int) -> float:
    """Of one disabled call, `with` included: too short to be timed one by one."""
    import time

    with custody.disabled().run("benchmark") as run:
        call = observing(run)
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - start) / calls * 1e6


def row(what: str, ours: Timing, beside: dict[str, float], peer: str) -> Measurement:
    return Measurement(
        row=1,
        what=what,
        value=ours.p50_us,
        unit="µs",
        target=f"≤ {RATIO_MAX} × OpenTelemetry",
        limit=RATIO_MAX * beside[peer],
        peers=beside,
    )


def main() -> None:
    options = arguments(__doc__, peers=(False, "also Langfuse and MLflow"), calls=(40_000, "calls of each"))
    rounds = options.calls // (2_000 if options.quick else 200)
    with scratch() as folder:
        never_refused(folder)
        with custody.open(folder / "store") as runtime, runtime.run("benchmark") as run:
            call, step = observing(run), stepping(run)
            settle()
            # Before OpenTelemetry's thread is there, to which this one would lose the interpreter's lock.
            agents = interleave({"observe": call, OPENAI_AGENTS: openai_agents()}, rounds=rounds, calls=200)
            span, count = opentelemetry()
            step_span = opentelemetry_step()
            timings = interleave({"observe": call, OPENTELEMETRY: span}, rounds=rounds, calls=200)
            timings[OPENAI_AGENTS] = agents[OPENAI_AGENTS]
            steps = interleave({"step": step, OPENTELEMETRY: step_span}, rounds=rounds, calls=200)
            slow = interleave(peers(folder), rounds=max(1, rounds // 20), calls=20) if options.peers else {}
            with busy_thread():
                busy = interleave({"observe": call, OPENTELEMETRY: span}, rounds=rounds, calls=100)
            dropped = run.totals.dropped
        spans = count()
    nothing_us = disabled_us(options.calls * 10)
    measurements = [
        row(
            "observe one call of 2 KB, caller's thread, p50",
            timings["observe"],
            {name: timing.p50_us for name, timing in (timings | slow).items() if name != "observe"},
            OPENTELEMETRY,
        ),
        row(
            "record one step of 600 bytes, p50",
            steps["step"],
            {OPENTELEMETRY: steps[OPENTELEMETRY].p50_us},
            OPENTELEMETRY,
        ),
        Measurement(
            row=1,
            what="observe one call with recording disabled",
            value=nothing_us,
            unit="µs",
            target=f"≤ {DISABLED_US_MAX} µs",
            limit=DISABLED_US_MAX,
        ),
        Measurement(
            row=2,
            what="observe beside one busy Python thread, p99",
            value=busy["observe"].p99_us,
            unit="µs",
            target=f"≤ {P99_US_MAX:.0f} µs",
            limit=P99_US_MAX,
            peers={OPENTELEMETRY: busy[OPENTELEMETRY].p99_us},
        ),
    ]
    details = {
        **timings,
        **slow,
        "steps": steps,
        "busy": busy,
        "dropped": dropped,
        "opentelemetry spans": spans,
    }
    report("observe", measurements, details, quick=options.quick)


if __name__ == "__main__":
    main()
