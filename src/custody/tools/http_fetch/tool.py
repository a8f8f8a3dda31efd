"""The built-in tool `http_fetch`: one HTTP request, redirects included, and what is answered.

Owns the order of things: at every hop the host is decided anew, and the connection goes to the address that
was decided. Whose list of hosts holds is the call's to say. Used through the registry.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from custody.errors import ToolError
from custody.records import Decision, Effect, Level
from custody.sandbox.egress.rules import Allowed, Resolve, decide, resolved
from custody.tools.http_fetch.body import shown
from custody.tools.http_fetch.exchange import Answer, connected, exchange
from custody.tools.http_fetch.request import (
    BYTES_DEFAULT,
    BYTES_MAX,
    METHODS,
    REDIRECTS_DEFAULT,
    REDIRECTS_MAX,
    Asked,
    Request,
    redirected,
    sends_on,
)
from custody.tools.roots import Scope
from custody.tools.threads import settled
from custody.tools.tool import Context, Ended, Keep


def of_the_call(context: Context) -> Allowed:
    """The hosts that the call's own sandbox, or the settings, allow."""
    return context.egress


class HttpFetch:
    """Send an HTTP request and give what is answered.

    Its effect is `unknown`, as that of a command: what a request does is the server's to know, whatever its
    method.
    """

    name = "http_fetch"
    description = (
        "Send one HTTP request (http or https) and give status, headers and body. Text comes as text, "
        "anything else as base64; `truncated` says whether there is more of the body. Redirects are "
        "followed, and every host has to be an allowed one. A status such as 404 is an answer, no failure."
    )
    effect: Effect = "unknown"
    level: Level = "none"
    timeout_seconds: float | None = None
    keep: Keep = "full"
    schema: Mapping[str, Any] = {
        "type": "object",
        "properties": {
            "url": {"type": "string", "minLength": 1, "description": "http:// or https://, percent-encoded."},
            "method": {"enum": list(METHODS), "description": "What to do. (GET)"},
            "headers": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "Header fields to send. To another host only harmless ones go along.",
            },
            "body": {"type": "string", "description": "Text to send, as UTF-8."},
            "json": {
                "type": ["object", "array", "string", "number", "boolean", "null"],
                "description": "A value to send as JSON, instead of `body`.",
            },
            "bytes_max": {
                "type": "integer",
                "minimum": 1,
                "maximum": BYTES_MAX,
                "description": f"Most bytes of the body to return, expanded. ({BYTES_DEFAULT})",
            },
            "redirects_max": {
                "type": "integer",
                "minimum": 0,
                "maximum": REDIRECTS_MAX,
                "description": f"Most redirects to follow; 0 gives the first one back. ({REDIRECTS_DEFAULT})",
            },
        },
        "required": ["url"],
        "additionalProperties": False,
    }

    def __init__(
        self, *, allowed: Callable[[Context], Allowed] = of_the_call, resolve: Resolve = resolved
    ) -> None:
        """`allowed` says which hosts a call may reach, `resolve` where a name leads."""
        self._allowed = allowed
        self._resolve = resolve

    def validate(self, arguments: Mapping[str, Any], scope: Scope) -> Decision | None:
        try:
            msgspec.convert(arguments, Asked).request()
        except ValueError as error:
            return Decision("deny", "schema", str(error))
        return None

    async def execute(self, arguments: Mapping[str, Any], context: Context) -> Ended:
        began_ns = time.monotonic_ns()
        asked = msgspec.convert(arguments, Asked)
        request = asked.request()
        if context.dry_run:
            return Ended(started_ns=began_ns, ended_ns=began_ns, result=_would_send(request))
        fetch = _Fetch(asked, request, self._allowed(context), self._resolve)
        work = asyncio.ensure_future(fetch.run())
        try:
            over = await settled(work, context)
        finally:
            work.cancel()
            await asyncio.wait({work})
        limit_hit = None if over else "cancelled" if context.cancelled else "deadline"
        error = None if work.cancelled() else work.exception()
        return Ended(
            started_ns=began_ns,
            ended_ns=time.monotonic_ns(),
            result=fetch.result or fetch.so_far(),
            recorded=fetch.recorded,
            error=error if over else None,
            limit_hit=limit_hit,
            changes=(),
        )


class _Fetch:
    """One request on its way, from host to host."""

    def __init__(self, asked: Asked, request: Request, allowed: Allowed, resolve: Resolve) -> None:
        self._asked = asked
        self._request = request
        self._allowed = allowed
        self._resolve = resolve
        self._hops: list[dict[str, Any]] = []
        self._bytes_out = self._bytes_in = 0
        self.result: dict[str, Any] | None = None
        self.recorded: dict[str, Any] | None = None
        """What the record has of it, where that is less."""

    async def run(self) -> None:
        """Raises ToolError, and Refused for a host that may not be reached."""
        while True:
            request = self._request
            answer = await self._hop(request)
            location = answer.header("location")
            if location is None or self._is_last(answer.status, location):
                await self._finish(answer)
                return
            if len(self._hops) > self._asked.redirects_max:
                raise ToolError(
                    f"{request.url.place} sends on once more, after {self._asked.redirects_max} redirects.",
                    hint=f"`redirects_max` allows up to {REDIRECTS_MAX}.",
                )
            self._request = redirected(request, answer.status, location)

    def _is_last(self, status: int, location: str | None) -> bool:
        return self._asked.redirects_max == 0 or not sends_on(status, location)

    async def _hop(self, request: Request) -> Answer:
        url = request.url
        destination = await decide(self._allowed, url.host, url.port, resolve=self._resolve)
        connection = await connected(request, destination)
        hop: dict[str, Any] = {"url": str(url), "status": None, "address": connection.address}
        if request.withheld:
            hop["headers_not_sent"] = list(request.withheld)
        self._hops.append(hop)
        try:
            answer = await exchange(
                request, destination.host, connection, self._asked.bytes_max, self._is_last
            )
        finally:
            connection.close()
        hop["status"] = answer.status
        self._bytes_out += answer.bytes_out
        self._bytes_in += answer.bytes_in
        return answer

    def so_far(self) -> dict[str, Any] | None:
        """What there is to say where it went no further: whom it has been sent to."""
        return {"hops": self._hops} if self._hops else None

    async def _finish(self, answer: Answer) -> None:
        body, recorded = await shown(answer.body, answer.header("content-type") or "")
        said: dict[str, Any] = {
            "status": answer.status,
            "reason": answer.reason,
            "url": str(self._request.url),
            "headers": _as_mapping(answer.headers),
            "hops": self._hops,
            "bytes_out": self._bytes_out,
            "bytes_in": self._bytes_in,
            "decoded": answer.body.coding,
        }
        self.result = said | body
        self.recorded = None if recorded is None else said | recorded


def _as_mapping(fields: Iterable[tuple[str, str]]) -> dict[str, str | list[str]]:
    """By name; those that came more than once are lists."""
    found: dict[str, list[str]] = {}
    for name, value in fields:
        found.setdefault(name, []).append(value)
    return {name: values if len(values) > 1 else values[0] for name, values in found.items()}


def _would_send(request: Request) -> dict[str, Any]:
    """What a dry run says. No name is looked up for it, so neither is whether its host may be reached."""
    return {
        "dry_run": True,
        "would_send": {
            "method": request.method,
            "url": str(request.url),
            "headers": dict(request.fields(request.url.host)),
            "body_bytes": len(request.body or b""),
        },
    }
