"""The built-in tool `witness_download`: a bundle of the record, for an agent's program or an auditor's.

Owns who may have one, how large it is, and what is said of it. The store's owner at the terminal may have all
of it. At other doors only a caller named in the settings may, and then only of the session its run belongs
to, or of that run where it belongs to none. Whatever is asked is recorded as a call, a refusal as a rejected
one; the bundle itself never is: it would lie in the next one. Registered by `compose`.
"""

import base64
import functools
import hashlib
import io
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from custody.bridges.bundle.making import BundleMaker, Limits
from custody.bridges.bundle.selection import Selection, check_selection
from custody.errors import InvalidInput
from custody.records import Decision, Effect, Level
from custody.tools import Asker, Context, Ended, Scope
from custody.tools.threads import run_in_thread

NAME = "witness_download"

FINISH_SECONDS = 10.0
"""Past its deadline: what it writes is in memory alone, so nothing is lost when it is left behind."""

LAST_MAX = 100_000


class WitnessDownload:
    """Hand out records, proofs and witnesses of calls as a bundle."""

    name = NAME
    description = (
        "The newest calls on the record as a bundle: a base64 tar.gz with each call as it was asked, decided "
        "and ended, the proofs that nothing of it was changed since, and a program that checks them. Only "
        "for callers the store's settings name, and only of their own session."
    )
    effect: Effect = "read"
    level: Level = "none"
    timeout_seconds: float | None = None
    keep: Any = "full"
    schema: Mapping[str, Any] = {
        "type": "object",
        "properties": {
            "last_n": {
                "type": "integer",
                "minimum": 1,
                "maximum": LAST_MAX,
                "description": "At most so many calls, the newest. (as many as a bundle may have)",
            },
            "tool_filter": {
                "type": "string",
                "minLength": 1,
                "maxLength": 1024,
                "description": "Only of the tool of this name, or `glob:` and a pattern: `glob:file_*`.",
            },
            "run": {
                "type": "string",
                "minLength": 1,
                "maxLength": 1024,
                "description": "Only of this run: its id, the id's beginning, or its name.",
            },
        },
        "additionalProperties": False,
    }

    def __init__(
        self, make_maker: Callable[[], BundleMaker], callers: Collection[str], limits: Limits
    ) -> None:
        """`callers` may ask at other doors than the terminal, for bundles within `limits`."""
        self._make_maker = make_maker
        self._callers = callers
        self._limits = limits

    def validate(self, arguments: Mapping[str, Any], scope: Scope) -> Decision | None:
        try:
            check_selection(_selection(arguments))
        except InvalidInput as error:
            return Decision("deny", "schema", str(error))
        return None

    def permit(self, arguments: Mapping[str, Any], asker: Asker) -> Decision | None:
        """The built-in rule of who may."""
        if asker.typed:
            return None
        if asker.caller is None or asker.caller not in self._callers:
            who = "This caller" if asker.caller is None else f"Caller {asker.caller}"
            reason = (
                f"{who} may not download records; `callers` under [bundles] in the settings names who may."
            )
            return Decision("deny", "rule", reason, NAME)
        if asker.session_id is None and asker.run_id is None:
            reason = (
                "Records are handed out of the asker's own session or run, and this call belongs to none."
            )
            return Decision("deny", "rule", reason, NAME)
        return None

    async def execute(self, arguments: Mapping[str, Any], context: Context) -> Ended:
        work = functools.partial(self._download, arguments, context)
        ended = await run_in_thread(work, context, self.name, finish_seconds=FINISH_SECONDS)
        if isinstance(ended.result, _Download):
            result = ended.result
            return msgspec.structs.replace(ended, result=result.answer, recorded=result.recorded)
        return ended

    def _download(self, arguments: Mapping[str, Any], context: Context) -> Any:
        """Raises what making a bundle raises; a run that is not the asker's is one that is not there."""
        selection = _bounded(_selection(arguments), context)
        out = io.BytesIO()
        made = self._make_maker().make(selection, self._limits, out)
        answer: dict[str, Any] = {"count": made.calls}
        if not made.calls:
            answer |= {"message": _nothing(made.omitted, made.unsigned), "omitted": made.omitted}
            return _Download(answer, answer)
        data = out.getvalue()
        answer |= {
            "format": "tar.gz",
            "encoding": "base64",
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "omitted": made.omitted,
            "unsigned": made.unsigned,
        }
        recorded = {**answer, "data": None}
        return _Download({**answer, "data": base64.b64encode(data).decode()}, recorded)


class _Download(Struct, frozen=True):
    """What the asker gets, and what the record says of it."""

    answer: dict[str, Any]
    recorded: dict[str, Any]


def _selection(arguments: Mapping[str, Any]) -> Selection:
    return Selection(
        last=arguments.get("last_n"), tool=arguments.get("tool_filter"), run=arguments.get("run")
    )


def _bounded(selection: Selection, context: Context) -> Selection:
    """What the asker may see of it."""
    asker = context.asker
    only: dict[str, Any] = {}
    if not asker.typed:
        only = {"only_run": asker.run_id} if asker.session_id is None else {"only_session": asker.session_id}
        assert any(only.values()), "the rule has refused who belongs nowhere"
    return msgspec.structs.replace(selection, not_call=context.call_id, **only)


def _nothing(omitted: int, unsigned: int) -> str:
    if omitted:
        return f"No call fits: the newest alone is larger than a bundle may be; {omitted} are left out."
    if unsigned:
        return f"No call is signed yet: {unsigned} have just been recorded; ask again in some seconds."
    return "No call matches."
