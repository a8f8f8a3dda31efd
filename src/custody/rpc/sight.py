"""What of the record a peer may see, and how it is shown to it.

Owns the rule: operators, auditors and hosts see everything, an agent what is its own, and to it the rest does
not exist: the same answers as for what never was. Used by `methods.audit` and `methods.calls`.
"""

import asyncio
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import msgspec
from msgspec import structs

from custody.bridges.objects import speakable
from custody.errors import Ambiguous, Denied, InvalidInput, NotFound, StoreClosed
from custody.index import CallFilter, EventFilter, Index, RunFilter, Scope, StepView
from custody.index.lookup import LATEST
from custody.index.query import LIMIT_MAX
from custody.records import Call, Run, document
from custody.redaction import plain
from custody.rpc.identity import is_mine
from custody.rpc.peer import Peer
from custody.rpc.service import Service

ANSWER_BYTES_MAX = 8 * 1024 * 1024
"""Of one answer as JSON: it is held for as long as its reader takes."""

PART_MAX = 1_000  # calls or steps of a run in one answer, as of any list

ASKING_THREADS = 2
"""Threads that answer questions, of all connections together: more would only take the interpreter from each
other, and from whoever records."""

OWN_DIGITS_MIN = 8
"""Of the beginning of an id by which an agent finds what is its own. Fewer are shared with what is not, so
whether they suffice would tell of that; among so many no store has two that begin alike."""

F = TypeVar("F", CallFilter, RunFilter, EventFilter, Scope)
T = TypeVar("T")


async def ask(peer: Peer, question: Callable[[Index], T]) -> T:
    """Put a question to the index, which waits."""
    return await apart(peer, lambda: question(peer.service.runtime.index))


async def apart(peer: Peer, read: Callable[[], T]) -> T:
    """Read in a thread: of each connection one thing at a time, and not where records are written."""
    loop, live = asyncio.get_running_loop(), peer.service.live
    async with live.alone(("asked", peer.connection)):
        try:
            reading = loop.run_in_executor(_threads_of(peer.service), read)
        except RuntimeError:  # the pool is closed
            raise StoreClosed() from None
        return await reading


_threads: "weakref.WeakKeyDictionary[Service, ThreadPoolExecutor]" = weakref.WeakKeyDictionary()


def _threads_of(service: Service) -> ThreadPoolExecutor:
    """Made when somebody first asks."""
    threads = _threads.get(service)
    if threads is None:
        threads = _threads[service] = ThreadPoolExecutor(ASKING_THREADS, "custody-questions")
        service.runtime.closing.insert(0, partial(threads.shutdown, wait=False, cancel_futures=True))
    return threads


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


Seen = Run | Call | StepView
Find = Callable[[Index, str, bool], Seen]
"""One of the ways in which the index finds one thing by a text, which may be a run's name where that is
asked for."""


async def own_run(peer: Peer, text: str) -> Run:
    """A run by what `Index.run` finds it by. Raises NotFound, Ambiguous."""
    return await _own(peer, text, lambda index, text, by_name: index.run(text, by_name=by_name), named=True)


async def own_call(peer: Peer, text: str, *, details: bool = False) -> Call:
    """A call by its id or the beginning of it. Raises NotFound, Ambiguous."""
    return await _own(peer, text, lambda index, text, _: index.call(text, details=details))


async def own_step(peer: Peer, text: str) -> StepView:
    """A step by its id or the beginning of it. Raises NotFound, Ambiguous."""
    return await _own(peer, text, lambda index, text, _: index.step(text))


async def own(peer: Peer, text: str) -> Seen:
    """Whatever it is. Raises NotFound, Ambiguous."""
    return await _own(peer, text, lambda index, text, by_name: index.find(text, by_name=by_name), named=True)


async def _own(peer: Peer, text: str, find: Find, *, named: bool = False) -> Any:
    """One thing; `named` where it may be a run's name.

    What is not the peer's to see is not there: not as the latest, not under the same name, and not as one
    more whose id begins so.
    """
    if peer.access.reads_everything:
        return await ask(peer, lambda index: find(index, text, True))
    if len(text) >= OWN_DIGITS_MIN:
        held = await ask(peer, lambda index: _held(index, find, text))
        mine = [one for one, agent in held if _is_own(peer, one, agent)]
        if len(mine) == 1:
            return mine[0]
    found = await _own_named(peer, text) if named else None
    if found is None:
        raise nothing_here()
    return found


async def _own_named(peer: Peer, text: str) -> Run | None:
    """The newest of its runs that has this name, or the newest of all."""
    asked = RunFilter() if text in LATEST else RunFilter(name=text)
    filters = [structs.replace(asked, agent=peer.service.live.as_recorded(one)) for one in peer.agents]
    pages = [await ask(peer, lambda index, one=one: index.runs(one, 1).items) for one in filters]
    if peer.agent is None:  # what names no agent cannot be asked for
        pages.append(await ask(peer, lambda index: index.runs(asked, LIMIT_MAX).items))
    found = [run for page in pages for run in page if is_mine(peer, run.agent)]
    return max(found, key=lambda run: (run.started_at, run.id), default=None)


def _held(index: Index, find: Find, text: str) -> list[tuple[Seen, str | None]]:
    """What has this id or one that begins so, each with the agent it is of. In a thread."""
    try:
        found = [find(index, text, False)]
    except NotFound:
        return []
    except Ambiguous as error:
        found = [find(index, one, False) for one in error.details["candidates"]]
    return [(one, index.run(one.run_id).agent if isinstance(one, StepView) else one.agent) for one in found]


def _is_own(peer: Peer, found: Seen, agent: str | None) -> bool:
    return (isinstance(found, Call) and found.connection == peer.connection) or is_mine(peer, agent)


def nothing_here() -> NotFound:
    """The same words for what is not there and for what is somebody else's."""
    return NotFound("Nothing here has that id.")


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
