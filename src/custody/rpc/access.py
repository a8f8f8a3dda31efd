"""Who a peer is and what it may do: roles, and what a token stands for.

Owns the answer to one question, asked once a connection and once an HTTP request: whom does this token admit.
Knows nothing of files (`tokens` does), of wires or of runs. Used by `peer`, by the method table and by the
doors.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterable
from typing import Literal, Protocol, get_args

from msgspec import Struct

from custody.records import now_us

Role = Literal["agent", "operator", "auditor", "host"]
"""`agent` acts and sees its own; `operator` acts, sees everything and may end anything; `auditor` sees
everything; `host` is the program that agents run under: it acts, sees everything and ends runs."""

ROLES: tuple[Role, ...] = get_args(Role)

READ_EVERYTHING: frozenset[Role] = frozenset({"operator", "auditor", "host"})

TOKEN_CHARACTERS_MAX = 4_096
"""A longer one was not made here; it is not even digested."""


HELD_US = 500_000
"""How old an answer to whether a connection may stay can be: it is asked of each, again and again."""


class Access(Struct, frozen=True, kw_only=True):
    """Who somebody is, once admitted."""

    role: Role | None
    """None: nobody yet."""
    agent: str | None = None
    """The agent it speaks for, whatever it says itself; None where the token binds none."""
    tools: frozenset[str] | None = None
    """Exact names it may call; None: whatever the policy allows."""
    methods: frozenset[str] | None = None
    """Exact names; None: every method of its role."""
    name: str | None = None
    """Of the token; None where none was asked for."""
    fingerprint: str | None = None
    """Of the token, so that a connection ends when its token does; says nothing of the token itself."""

    @property
    def reads_everything(self) -> bool:
        return self.role in READ_EVERYTHING


NOT_YET = Access(role=None)
"""Of a peer that has not said who it is."""

ANYBODY = Access(role="agent")
"""Of every peer where no token is asked for."""


class Doorkeeper(Protocol):
    """Who may come in."""

    @property
    def auth_enabled(self) -> bool:
        """Whether a peer has to show a token first."""
        ...

    def admit(self, token: str) -> Access | None:
        """Whom a token of `session.auth` or of an HTTP request stands for; None: nobody."""
        ...

    def admit_host(self, token: str) -> Access | None:
        """The same for `host_token`: only a host's token will do."""
        ...

    def holds(self, access: Access) -> bool:
        """Whether what was admitted would still be: its token is neither revoked nor expired nor renewed."""
        ...


class KnownToken(Struct, frozen=True, kw_only=True):
    """A token as it is kept: not the token, and what it gives."""

    digest: bytes
    """SHA-256 of the token, which has 256 random bits: no salt is needed."""
    access: Access
    expires_at_us: int | None = None


def digest_of(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def fingerprint_of(digest: bytes) -> str:
    """Half of a digest of the digest: enough to tell tokens apart, of no use to guess one."""
    return hashlib.sha256(b"custody token fingerprint" + digest).hexdigest()[:32]


class TokenDoor:
    """Admits whoever shows a token that is known now.

    `known` gives the tokens at this moment, so that one revoked in another process is refused from then on;
    whatever it raises is a no.
    """

    def __init__(
        self, known: Callable[[], Iterable[KnownToken]], *, clock_us: Callable[[], int] = now_us
    ) -> None:
        self._known = known
        self._clock_us = clock_us
        self._held: tuple[int, frozenset[Access]] = (0, frozenset())

    @property
    def auth_enabled(self) -> bool:
        return True

    def admit(self, token: str) -> Access | None:
        if not 0 < len(token) <= TOKEN_CHARACTERS_MAX:
            return None
        shown = digest_of(token)
        found: Access | None = None
        for known in self._valid():  # all of them, each in constant time: how long it takes tells nothing
            if hmac.compare_digest(known.digest, shown):
                found = known.access
        return found

    def admit_host(self, token: str) -> Access | None:
        found = self.admit(token)
        return found if found is not None and found.role == "host" else None

    def holds(self, access: Access) -> bool:
        if access.role is None:
            return True
        now = self._clock_us()
        fresh = 0 <= now - self._held[0] < HELD_US
        if not fresh or access not in self._held[1]:  # one made a moment ago is not there yet
            self._held = now, frozenset(known.access for known in self._valid())
        return access in self._held[1]

    def _valid(self) -> list[KnownToken]:
        try:
            tokens = list(self._known())
        except Exception:
            return []
        now = self._clock_us()
        return [known for known in tokens if known.expires_at_us is None or known.expires_at_us > now]


class OpenDoor:
    """Admits everybody as an agent; a host's token still makes a host."""

    def __init__(self, hosts: TokenDoor | None = None) -> None:
        self._hosts = hosts

    @property
    def auth_enabled(self) -> bool:
        return False

    def admit(self, token: str) -> Access | None:
        del token
        return ANYBODY

    def admit_host(self, token: str) -> Access | None:
        return None if self._hosts is None else self._hosts.admit_host(token)

    def holds(self, access: Access) -> bool:
        return access.role != "host" or (self._hosts is not None and self._hosts.holds(access))
