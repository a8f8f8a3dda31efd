"""The tables of docs/reference/opentelemetry.md, from the one mapping.

`python -m tests.bridges.otel_reference` writes them, `test_otel_documents` checks them.
"""

import re
from pathlib import Path

from custody.bridges.otel import mapping

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "opentelemetry.md"
MARKED = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- /\2 -->)", re.DOTALL)


def _spans(rows: tuple[mapping.Row, ...]) -> str:
    lines = ["| Attribute | From | |", "|---|---|---|"]
    lines += [f"| `{row.name}` | {row.source} | {'content' if row.content else ''} |" for row in rows]
    return "\n".join(lines)


def _metrics() -> str:
    lines = ["| Metric | Instrument | Unit | Attributes | |", "|---|---|---|---|---|"]
    for metric in mapping.METRICS:
        instrument = "histogram" if metric.bounds else "counter"
        named = ", ".join(f"`{name}`" for name in metric.attributes) or "–"
        lines.append(f"| `{metric.name}` | {instrument} | `{metric.unit}` | {named} | {metric.description} |")
    return "\n".join(lines)


def tables() -> dict[str, str]:
    return {
        "schema": f"`{mapping.SCHEMA_URL}`",
        "run": _spans(mapping.RUN),
        "step": _spans(mapping.STEP),
        "call": _spans(mapping.CALL),
        "metrics": _metrics(),
    }


def made(page: str) -> str:
    """The page with every table as it should be."""
    table = tables()
    return MARKED.sub(lambda found: f"{found[1]}{table[found[2]]}\n{found[3]}", page)


if __name__ == "__main__":
    PAGE.write_text(made(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
