"""A guarded call over the wire: what is sent, and the finished call that comes back.

Owns the one place where a call is asked for. Used by both faces through `runtime`.
"""

import asyncio
import itertools
import math
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from msgspec import Struct, structs

from custody.calls.deadline import limit_seconds
from custody.client.link import Link
from custody.client.reading import read
from custody.client.working import Working
from custody.errors import NotRecorded, UsageError
from custody.records import Call
from custody.rpc.spoken import spoken

CANCEL_SECONDS = 8.0
"""How long a cancelled call may take to end and be recorded before it is heard of: less than `work` waits."""


class Asked(Struct, frozen=True, kw_only=True):
    """A call as it is asked for, but for its tool and arguments."""

    run: Working | None = None
    timeout: float | None = None
    level: str | None = None
    sandbox: str | None = None
    afterwards: str | None = None
    dry_run: bool = False
    external_id: str | None = None
    agent: str | None = None
    caller: str | None = None
    session: str | None = None
    cwd: str | None = None
    parent_id: bytes | None = None
    as_recorded: bool = False


_PREFIX = secrets.token_hex(8)
_keys: Callable[[], str] = map(f"{_PREFIX}-{{}}".format, itertools.count(1)).__next__
"""By which a call under way is known to be cancelled."""


async def make_call(link: Link, tool: str, arguments: Mapping[str, Any] | None, asked: Asked) -> Call:
    """Have it made; returns the finished call for every outcome. If it is cancelled, the call is ended and
    recorded first. Raises as `Runtime.call` does."""
    limit_seconds(asked.timeout, None, None)  # a timeout that makes no sense is the caller's to hear of
    run, key = asked.run, _keys()
    if run is not None:
        run.takes("call", tool, strict=True)
        await _in_order(run)
        run.tally.call_offered()
    given: Any = {} if arguments is None else arguments
    said = spoken(given)
    params = {
        "key": key,
        "tool": tool,
        "arguments": said.value,
        "marked": said.marked,
        "part": None if run is None else run.part.id,
        "timeout": 0 if asked.timeout == math.inf else asked.timeout,  # JSON has no infinity
        "level": asked.level,
        "sandbox": asked.sandbox,
        "afterwards": asked.afterwards,
        "dry_run": asked.dry_run,
        "external_id": asked.external_id,
        "agent": asked.agent,
        "caller": asked.caller,
        "session": asked.session,
        "cwd": asked.cwd,
        "parent_id": None if asked.parent_id is None else asked.parent_id.hex(),
        "as_recorded": asked.as_recorded,
    }
    try:
        call: Call = read(Call, await _until_over(link, params, key))
    except (NotRecorded, UsageError):
        if run is not None:
            run.tally.call_withdrawn()
        raise
    except BaseException:
        if run is not None:
            run.tally.call_ended("unknown")
        raise
    if run is not None:
        run.tally.call_ended(call.outcome or "unknown")
    same = not asked.as_recorded and call.arguments == said.value
    return structs.replace(call, arguments=given) if same else call


async def _until_over(link: Link, params: dict[str, Any], key: str) -> Any:
    asking = asyncio.ensure_future(link.act("calls.make", params))
    try:
        return await asyncio.shield(asking)
    except asyncio.CancelledError:
        with suppress(TimeoutError):
            async with asyncio.timeout(CANCEL_SECONDS):
                await link.tell("calls.cancel", {"key": key})
                await asyncio.wait({asking})
        if not asking.done():
            asking.cancel()
        elif not asking.cancelled():
            asking.exception()
        raise


async def _in_order(run: Working) -> None:
    """What the program did itself before has its position first."""
    await run.part.begin()
    last = run.outbox.last(run.part)
    if last is not None:
        await last.settled()
