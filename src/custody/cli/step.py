"""A step as a person sees it: its figures in a few words, or all that is on the record of it.

Owns the words for tokens and for a turn without text. Unknown is a dash, never 0. Used by `show`,
`timeline`, `lists` and `tail`.
"""

from typing import TYPE_CHECKING, Any

from custody.cli.invocation import printable
from custody.cli.render import (
    UNKNOWN,
    at_least,
    cost,
    count,
    duration,
    fields,
    heading,
    local_time,
    redacted,
    size,
)
from custody.records import Tokens, Totals

if TYPE_CHECKING:
    from custody.index import StepView


def tokens(said: Tokens | None) -> list[str]:
    """`1,200 in (800 cached)` and `90 out (20 reasoning)`."""
    if said is None:
        return [f"tokens {UNKNOWN}"]
    return _tokens(said.input, said.output, said.reasoning, said.cache_read, said.cache_write)


def tokens_in_sum(totals: Totals) -> str | None:
    """The tokens of a run; None for one without steps."""
    if not totals.steps:
        return None
    sums = (totals.reasoning_tokens, totals.cache_read_tokens, totals.cache_write_tokens)
    said = _tokens(totals.input_tokens, totals.output_tokens, *sums, partial=totals.steps_without_tokens > 0)
    return _with_missing(", ".join(said), totals.steps_without_tokens, "said nothing of them")


def cost_in_sum(totals: Totals) -> str | None:
    """What a run cost; None for one without steps."""
    if not totals.steps:
        return None
    said = at_least(cost(totals.cost_nano_usd), totals.steps_without_cost > 0) or UNKNOWN
    return _with_missing(said, totals.steps_without_cost, "could not be priced")


def _tokens(
    taken: int | None,
    given: int | None,
    reasoning: int | None,
    cache_read: int | None,
    cache_write: int | None,
    *,
    partial: bool = False,
) -> list[str]:
    cached = [(cache_read, "cached"), (cache_write, "written to the cache")]
    return [
        f"{at_least(count(total), partial) or UNKNOWN} {way}{_of_which(parts)}"
        for total, way, parts in ((taken, "in", cached), (given, "out", [(reasoning, "reasoning")]))
    ]


def _of_which(parts: list[tuple[int | None, str]]) -> str:
    said = ", ".join(f"{value:,} {name}" for value, name in parts if value)
    return f" ({said})" if said else ""


def _with_missing(said: str, steps: int, what: str) -> str:
    return f"{said}; {steps:,} {'step' if steps == 1 else 'steps'} {what}" if steps else said


def model(step: "StepView") -> str | None:
    """The model that answered, and the one asked for where that is another."""
    if step.model is None or step.requested_model in (None, step.model):
        return step.model or step.requested_model
    return f"{step.model} (asked for {step.requested_model})"


def without_text(step: "StepView") -> str | None:
    """Why there is no text to show; None if there is, or was none."""
    if not step.responded:
        return "no response"
    if step.text_withheld:
        return f"text withheld ({_bytes(step.text_bytes)})"
    if step.text is None and step.text_bytes:
        return f"text not kept any more ({_bytes(step.text_bytes)})"
    return None


def text_cut(step: "StepView") -> str | None:
    """How much of the text was not recorded."""
    return f"{_bytes(step.text_cut_bytes)} were not kept" if step.text_cut_bytes else None


def _bytes(value: int | None) -> str:
    return f"{UNKNOWN if value is None else f'{value:,}'} {'byte' if value == 1 else 'bytes'}"


def print_step(step: "StepView") -> None:
    """Everything that is known of a step; what is unknown is left out, of tokens and cost a dash."""
    heading(f"Step {step.id}")
    fields(
        [
            ("model", step.model),
            ("asked for", step.requested_model if step.requested_model != step.model else None),
            ("response", None if step.responded else "no response"),
            ("finished", step.finish_reason),
            ("run", f"{step.run_id}, position {UNKNOWN if step.position is None else step.position}"),
            ("turn", count(step.iteration)),
            ("parent call", step.parent_id),
            ("external id", step.external_id),
            ("agent", step.agent),
            ("at", local_time(step.at)),
            ("since previous", duration(step.since_previous_us)),
            ("model took", duration(step.model_us)),
            ("tokens", UNKNOWN if step.tokens is None else ", ".join(tokens(step.tokens))),
            ("cost", _priced(step)),
            ("asked for tools", ", ".join(step.requested)),
            ("not usable", ", ".join(step.unusable)),
            ("record", f"shard {step.shard}, sequence {step.sequence}"),
        ]
    )
    redacted(step.redactions)
    _print_content(step)


def _priced(step: "StepView") -> str:
    said = cost(step.cost_nano_usd)
    if said is None:
        return UNKNOWN
    return f"{said} by the prices {step.prices}" if step.prices else said


def _print_content(step: "StepView") -> None:
    said = without_text(step)
    if step.text is not None or (said is not None and step.responded):
        whole = "" if step.text_bytes is None else f", {size(step.text_bytes)}"
        heading(f"Text{whole}")
        print(printable(_text(step.text)) if step.text is not None else said)
        cut = text_cut(step)
        if cut:
            print(f"… {cut}")
    for title, value in (("Asked for", step.calls), ("Data", step.data)):
        if value is not None:
            heading(title)
            print(printable(_text(value)))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value.rstrip("\n")
    import msgspec

    from custody.cli.document import encode

    return msgspec.json.format(encode(value), indent=2).decode()
