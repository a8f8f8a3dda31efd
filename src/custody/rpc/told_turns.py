"""Turns as an agent tells them, checked and cut to their bounds.

Owns what a told turn may look like and how long it may be. What is too long is cut between characters, after
the secrets in it have been replaced, and what is left out is counted. Knows nothing of runs. Used by `live`.
"""

from typing import Any, cast

import msgspec
from msgspec import Struct

from custody.calls import stated
from custody.calls.narrated import NarratedCall, Refusal
from custody.cuts import ACROSS_MAX
from custody.errors import InvalidInput
from custody.recorder import Recorder
from custody.records import Redaction
from custody.rpc.trace_records import CliExited, CliTimeout, PolicyRejected, Verdict

TURNS_MAX = 256
"""Of one batch, as in the reference: it takes its positions while nobody else can."""

STRING_BYTES_MAX = 16 * 1024
"""Of one text in a turn. What a model can use of an output is shorter."""

TURN_BYTES_MAX = 256 * 1024
"""Of one turn as JSON, its texts cut."""

SECRET_CHARACTERS_MAX = 16_384
"""Looked at behind the cut, for a secret that begins before it."""

DEPTH_MAX = 64
"""Of lists and mappings in one another, where something has to be cut; the record keeps no more either."""

EXIT_CODE_MAX = 2**32
"""What any system calls an exit code is smaller, either way."""

CUT = "…[truncated]"
CUT_WHOLE = "…[truncated: turn exceeded 256 KiB]"

_encode = msgspec.json.Encoder().encode


class CliNotRun(Struct, frozen=True, tag_field="kind", tag="not_run"):
    pass


class ToldTurn(Struct, frozen=True, kw_only=True):
    """One turn. An `index` is ignored, whatever it is: the store counts."""

    prompt: str | None = None
    tool: str | None = None
    parameters: Any = None
    output: Any = None
    cli_outcome: CliExited | CliTimeout | CliNotRun | None = None
    verifier_verdict: Verdict | None = None
    policy_rejected: PolicyRejected | None = None


class TurnTooLarge(Exception):
    """Nothing in the turn can be cut that would make it small enough."""


def read_turns(turns: Any) -> list[ToldTurn]:
    """Raises InvalidInput, with the field named, for anything but 1 to 256 well-formed turns."""
    if not isinstance(turns, list):
        raise InvalidInput("turns is not an array.", field="turns")
    listed = cast("list[Any]", turns)
    if not 1 <= len(listed) <= TURNS_MAX:
        raise InvalidInput(f"turns has 1 to {TURNS_MAX} turns, not {len(listed)}.", field="turns")
    return [_turn(item, f"turns[{index}]") for index, item in enumerate(listed)]


def _turn(item: Any, place: str) -> ToldTurn:
    try:
        turn = msgspec.convert(item, ToldTurn)
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at ")
        field = place + where.strip("`").removeprefix("$")
        raise InvalidInput(f"{field}: {problem}.", field=field) from None
    told = turn.cli_outcome
    if isinstance(told, CliExited) and abs(told.code) > EXIT_CODE_MAX:
        raise InvalidInput(f"{place}.cli_outcome.code is no exit code.", field=f"{place}.cli_outcome.code")
    return turn


def narrated(turn: ToldTurn, recorder: Recorder) -> NarratedCall:
    """The call the turn tells of. Raises TurnTooLarge; InvalidInput for what is nested too deep to be cut."""
    cutter = _Cutter(recorder)
    turn = cutter.cut(turn)
    told, refused = turn.cli_outcome, turn.policy_rejected
    passed = {"pass": True, "fail": False}.get(turn.verifier_verdict or "not_run")
    return NarratedCall(
        tool=cutter.name(turn.tool) or "",
        arguments=turn.parameters,
        # What never ran has neither an output nor a verdict.
        result=None if refused else turn.output,
        prompt=turn.prompt,
        exit_code=told.code if isinstance(told, CliExited) and not refused else None,
        timed_out=isinstance(told, CliTimeout) and not refused,
        passed=None if refused else passed,
        refusal=None if refused is None else Refusal(cutter.name(refused.rule), cutter.name(refused.param)),
        cut=cutter.counts,
        redactions=tuple(cutter.redactions),
    )


class _Cutter:
    """Cuts one turn."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._texts = 0
        self._bytes = 0
        self.redactions: list[Redaction] = []

    @property
    def counts(self) -> dict[str, int] | None:
        return None if self._texts == 0 else {"texts": self._texts, "bytes": self._bytes}

    def cut(self, turn: ToldTurn) -> ToldTurn:
        if len(_encode(turn)) <= STRING_BYTES_MAX:
            return turn
        turn = msgspec.structs.replace(
            turn,
            prompt=self._value(turn.prompt, "prompt", 0),
            parameters=self._value(turn.parameters, "arguments", 0),
            output=self._value(turn.output, "result", 0),
        )
        size = len(_encode(turn))
        if size <= TURN_BYTES_MAX:
            return turn
        whole = msgspec.structs.replace(
            turn,
            prompt=None if turn.prompt is None else CUT_WHOLE,
            parameters=None if turn.parameters is None else CUT_WHOLE,
            output=None if turn.output is None else CUT_WHOLE,
        )
        left = len(_encode(whole))
        if left > TURN_BYTES_MAX:
            raise TurnTooLarge
        self._texts += 1
        self._bytes += size - left
        return whole

    def name(self, text: str | None) -> str | None:
        """As a leaf has it, which has to stay small."""
        kept = stated.name(text)
        if kept != text and text is not None and kept is not None:
            self._texts += 1
            self._bytes += max(1, _bytes(text) - _bytes(kept))
        return kept

    def _value(self, value: Any, path: str, depth: int) -> Any:
        if isinstance(value, str):
            return self._text(value, path)
        if depth > DEPTH_MAX:
            raise InvalidInput(f"{path} is nested deeper than {DEPTH_MAX} levels.", field=path)
        if isinstance(value, dict):
            named = cast("dict[str, Any]", value)
            return {name: self._value(item, path, depth + 1) for name, item in named.items()}
        if isinstance(value, list):
            return [self._value(item, path, depth + 1) for item in cast("list[Any]", value)]
        return value

    def _text(self, text: str, path: str) -> str:
        whole_bytes = _bytes(text)
        if whole_bytes <= STRING_BYTES_MAX:
            return text
        seen = text[: STRING_BYTES_MAX + SECRET_CHARACTERS_MAX]
        clean, redactions = self._recorder.clean_text(seen, path)
        if len(seen) < len(text):  # what stands across that end may be half a secret
            clean = clean[: max(0, len(clean) - ACROSS_MAX)]
        elif _bytes(clean) <= STRING_BYTES_MAX:
            self.redactions.extend(redactions)
            return clean
        kept = clean.encode("utf-8", "surrogatepass")[:STRING_BYTES_MAX].decode("utf-8", "ignore")
        self.redactions.extend(redactions)
        self._texts += 1
        self._bytes += max(1, whole_bytes - _bytes(kept))
        return kept + CUT


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
