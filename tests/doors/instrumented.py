"""A program that is instrumented for OpenTelemetry and knows nothing of Custody: an agent, a model, a tool.

Sends with the SDK's own exporter to where `OTEL_EXPORTER_OTLP_*` says. With `twice` it sends every batch a
second time, as an exporter does that missed the answer. Writes the id of its trace.
"""

import sys

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult


class Twice(SpanExporter):
    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans):
        first = self._exporter.export(spans)
        return self._exporter.export(spans) if first is SpanExportResult.SUCCESS else first

    def shutdown(self) -> None:
        self._exporter.shutdown()


def main(twice: bool, calls: int) -> None:
    exporter = OTLPSpanExporter()
    provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
    provider.add_span_processor(
        BatchSpanProcessor(Twice(exporter) if twice else exporter, max_export_batch_size=16)
    )
    tracer = provider.get_tracer("shop.agents")
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "shopper"}
    with tracer.start_as_current_span("invoke_agent shopper", attributes=agent) as root:
        model = {
            "gen_ai.operation.name": "chat", "gen_ai.request.model": "m-1",
            "gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 2,
        }  # fmt: skip
        with tracer.start_as_current_span("chat m-1", attributes=model):
            pass
        for number in range(calls):
            tool = {
                "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search",
                "gen_ai.tool.call.arguments": f'{{"page": {number}}}', "gen_ai.tool.call.result": "[]",
            }  # fmt: skip
            with tracer.start_as_current_span("execute_tool search", attributes=tool):
                pass
        sys.stdout.write(f"{root.get_span_context().trace_id:032x}\n")
    provider.shutdown()


if __name__ == "__main__":
    main("twice" in sys.argv, calls=50)
