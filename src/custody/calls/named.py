"""What counting tells calls apart by: a digest of what was called, and the hosts it would reach.

Owns that a call on the record is counted as the same call was before it started, and as what it might have
been where the record does not hold all of it. Knows nothing of limits. Used by `taking` for calls about to
start, and by `budgets` where counts are made from the record again.
"""

import hmac
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from custody.calls.history import History
from custody.calls.question_digest import question_digest
from custody.index.spending_rows import Named, unknown_same
from custody.journal import Journal, Stored
from custody.records import Request

if TYPE_CHECKING:
    from custody.policy.facts import Facts

HOST_DIGEST_BYTES = 16
"""Two hosts of one store never have the same."""


def digest_of_same(key: bytes, tool: str, arguments: Mapping[str, Any]) -> bytes:
    """Calls of the same tool with the same arguments are the same, whoever makes them."""
    digest = question_digest(key, tool=tool, arguments=arguments, cwd=None, agent=None, policy_digest=None)
    return bytes.fromhex(digest)


def hosts_reached(facts: "Facts") -> tuple[str, ...]:
    """Those a call would reach. Raises FactsUnclear."""
    # A text that is only handed on may name any number of hosts, and reaches none of them.
    return tuple(dict.fromkeys(host["host"] for host in facts["hosts"] if not host["content"]))


def host_digests(key: bytes, hosts: Iterable[str]) -> tuple[bytes, ...]:
    """Names without case, each once."""
    return tuple(_host_digest(key, name) for name in dict.fromkeys(host.lower() for host in hosts))


def _host_digest(key: bytes, name: str) -> bytes:
    data = name.encode("utf-8", "surrogatepass")
    return hmac.digest(key, data, "sha256")[:HOST_DIGEST_BYTES]


class RecordedNames:
    """What calls named that nobody counted before they started, from their first records.

    Of one whose arguments are purged, not kept or replaced in part it cannot be told, and counts on the safe
    side: it may have been any call of its tool, and where no host can be read it reached one of its own.
    """

    def __init__(self, journal: Journal, key: bytes) -> None:
        self._history = History(journal)
        self._key = key

    def __call__(self, call_id: bytes, request: Request, stored: Stored) -> Named:
        said = self._history.said_in(stored)
        if said.arguments is not None:
            digest = digest_of_same(self._key, request.tool, said.arguments)
        else:
            digest = unknown_same(request.tool)
        arguments = said.left if said.arguments is None else said.arguments
        hosts = None if arguments is None else _hosts_in(request, arguments)
        if hosts is None or (not hosts and said.arguments is None):
            hosts = (f"of call {call_id.hex()}",)  # no name of a host has spaces
        return Named(digest=digest, hosts=host_digests(self._key, hosts))


def _hosts_in(request: Request, arguments: Mapping[str, Any]) -> tuple[str, ...] | None:
    """None where it cannot be told."""
    from custody.policy.facts import Facts  # a reader of shell lines and more; counts are seldom made again

    try:
        # No host depends on folders.
        return hosts_reached(Facts(request.tool, request.effect, arguments, cwd="/", roots=()))
    except Exception:  # one call that cannot be looked at must not keep all others from being counted
        return None
