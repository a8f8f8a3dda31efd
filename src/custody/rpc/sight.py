"""What of the record a peer may see, and how it is shown to it.

Owns the rule: operators, auditors and hosts see everything, an agent what is its own, and to it the rest does
not exist: the same answers as for what never was. Used by `methods.audit`.
"""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import structs

from custody.bridges.objects import speakable
from custody.errors import Ambiguous, Denied, InvalidInput, NotFound
from custody.index import CallFilter, EventFilter, Index, RunFilter, Scope, StepView
from custody.records import Call, Run, document
from custody.redaction import plain
from custody.rpc.identity import is_mine
from custody.rpc.peer import Peer

ANSWER_BYTES_MAX = 8 * 1024 * 1024
"""Of one answer as JSON: it is held for as long as its reader takes."""

PART_MAX = 1_000  # calls or steps of a run in one answer, as of any list

F = TypeVar("F", CallFilter, RunFilter, EventFilter, Scope)
T = TypeVar("T")


async def ask(peer: Peer, question: Callable[[Index], T]) -> T:
    """Put a question to the index, which waits."""
    return await asyncio.to_thread(lambda: question(peer.service.runtime.index))


def filter_of(kind: type[F], params: Any) -> F:
    """The filter among params."""
    return kind(**{name: getattr(params, name) for name in kind.__struct_fields__})


async def narrowed(peer: Peer, given: F) -> F:
    """The filter, for an agent narrowed to what is its own. Raises Denied, NotFound."""
    if peer.access.reads_everything:
        return given
    assert not isinstance(given, EventFilter), "events are of a run"
    agent = given.agent
    if agent is None:
        agent = peer.agent or (next(iter(peer.agents)) if len(peer.agents) == 1 else None)
    if agent is None or not is_mine(peer, agent):
        raise Denied(
            "An agent may ask for what is its own.",
            hint="Say which agent you are, or show an operator's or auditor's token.",
        )
    fields: dict[str, Any] = {"agent": agent}
    if isinstance(given, RunFilter):
        if given.parent is not None:
            fields["parent"] = (await own_run(peer, given.parent)).id
    else:
        if given.run is not None:
            fields["run"] = (await own_run(peer, given.run)).id
        if isinstance(given, CallFilter) and given.parent is not None:
            fields["parent"] = (await own_call(peer, given.parent)).id
    return structs.replace(given, **fields)


async def own_run(peer: Peer, text: str) -> Run:
    """A run by what `Index.run` finds it by. Raises NotFound, Ambiguous."""
    found: Any = await own(peer, lambda index: index.run(text))
    return found


async def own_call(peer: Peer, text: str, *, details: bool = False) -> Call:
    """A call by its id or the beginning of it. Raises NotFound, Ambiguous."""
    found: Any = await own(peer, lambda index: index.call(text, details=details))
    return found


async def own(peer: Peer, find: Callable[[Index], Run | Call | StepView]) -> Any:
    """One thing; what is not the peer's to see is not there. Raises NotFound, Ambiguous."""
    try:
        found = await ask(peer, find)
        if peer.access.reads_everything or await _is_own(peer, found):
            return found
    except (NotFound, Ambiguous):
        if peer.access.reads_everything:
            raise
    raise NotFound("Nothing here has that id.")


async def _is_own(peer: Peer, found: Run | Call | StepView) -> bool:
    if isinstance(found, Call) and found.connection == peer.connection:
        return True
    if isinstance(found, StepView):
        run_id = found.run_id
        return is_mine(peer, (await ask(peer, lambda index: index.run(run_id))).agent)
    return is_mine(peer, found.agent)


def said(found: Any) -> dict[str, Any]:
    """A read model as every door shows it."""
    return speakable(plain(document(found)))


def items(found: list[Any]) -> list[Any]:
    """As JSON already, within the bound of an answer."""
    shown: list[Any] = []
    size_bytes = 0
    for one in found:
        item = msgspec.json.encode(said(one))
        size_bytes += len(item)
        if size_bytes > ANSWER_BYTES_MAX:
            raise InvalidInput(
                f"The answer is larger than {ANSWER_BYTES_MAX:,} bytes.", hint="Ask for fewer with limit."
            )
        shown.append(msgspec.Raw(item))
    return shown


def checked(limit: int) -> int:
    """Of a page of a run's parts. Raises InvalidInput."""
    if not 0 < limit <= PART_MAX:
        raise InvalidInput(f"limit is 1 to {PART_MAX}.", field="limit")
    return limit
