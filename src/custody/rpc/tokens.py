"""The tokens of a store: where they lie and what they give.

Owns `keys/serve.token` and `keys/host.token` (made by the first daemon and kept, so that clients come back
after a crash), `keys/tokens.json` (named tokens, of which only a digest is kept) and the events about them.
A token is 32 random bytes in base64url. Used by `custody serve` and `custody token`.
"""

import base64
import os
import re
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

import msgspec
from msgspec import Struct

from custody.errors import InvalidInput, NotFound, StoreError, UsageError
from custody.journal import Disk
from custody.records import now_us, rfc3339
from custody.rpc.access import ROLES, Access, KnownToken, Role, digest_of, fingerprint_of

SERVE_TOKEN = "keys/serve.token"
HOST_TOKEN = "keys/host.token"
NAMED_TOKENS = "keys/tokens.json"
LOCK_FILE = "keys/tokens.lock"
PLAIN_NAMES: dict[str, tuple[str, Role]] = {
    "serve": (SERVE_TOKEN, "agent"),
    "host": (HOST_TOKEN, "host"),
}
"""The two that lie in the store as they are."""

TOKEN_BYTES = 32
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII | re.IGNORECASE)
ALLOWED = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)
"""What tools and methods are named."""

AGENT_CHARACTERS_MAX = 256  # it goes into every record
TOKENS_MAX = 1_000  # each is compared with what is shown
LOCK_WAIT_SECONDS = 10.0  # another process holds it for milliseconds
LOCK_LOOK_SECONDS = 0.02

OnRecord = Callable[[str, dict[str, Any]], object]
"""Puts an event with this leaf data on the record. Raises NotRecorded."""


class NamedToken(Struct, frozen=True, kw_only=True):
    """A named token as it is kept."""

    name: str
    digest: str
    """SHA-256 of the token, in hex."""
    role: Role
    agent: str | None = None
    tools: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    created_at_us: int
    expires_at_us: int | None = None

    @property
    def known(self) -> KnownToken:
        digest = bytes.fromhex(self.digest)
        access = Access(
            role=self.role,
            agent=self.agent,
            tools=None if self.tools is None else frozenset(self.tools),
            methods=None if self.methods is None else frozenset(self.methods),
            name=self.name,
            fingerprint=fingerprint_of(digest),
        )
        return KnownToken(digest=digest, access=access, expires_at_us=self.expires_at_us)

    def shown(self) -> dict[str, Any]:
        """What may be told of it: everything but its digest."""
        return {
            "name": self.name,
            "role": self.role,
            "agent": self.agent,
            "tools": self.tools,
            "methods": self.methods,
            "created_at": rfc3339(self.created_at_us),
            "expires_at": None if self.expires_at_us is None else rfc3339(self.expires_at_us),
            "fingerprint": fingerprint_of(bytes.fromhex(self.digest)),
        }


class Tokens:
    """The tokens of one store, read from it each time they are asked for."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._read: tuple[bytes | None, tuple[KnownToken, ...]] = (None, ())

    # -- for the doorkeeper -------------------------------------------------------------------------------

    def known(self) -> list[KnownToken]:
        """All that are good now, or were until they expired. Raises StoreError, OSError."""
        plain = [self._plain(name) for name in PLAIN_NAMES]
        return [*filter(None, plain), *self._named_known()]

    def known_hosts(self) -> list[KnownToken]:
        """Those of hosts, which are asked for also where nobody else's is."""
        return [known for known in self.known() if known.access.role == "host"]

    def _plain(self, name: str) -> KnownToken | None:
        path, role = PLAIN_NAMES[name]
        data = self._disk.read_all(path)
        token = b"" if data is None else data.strip()
        if not token:
            return None
        digest = digest_of(token.decode("ascii", "replace"))
        access = Access(role=role, name=name, fingerprint=fingerprint_of(digest))
        return KnownToken(digest=digest, access=access)

    def _named_known(self) -> tuple[KnownToken, ...]:
        data = self._disk.read_all(NAMED_TOKENS)
        if data != self._read[0]:
            self._read = data, tuple(each.known for each in _decoded(data))
        return self._read[1]

    # -- the plain ones -----------------------------------------------------------------------------------

    def ensure(self, name: str) -> str:
        """The plain token of this name, made where there is none. Raises StoreError, OSError."""
        path, _ = PLAIN_NAMES[name]
        with self._locked():
            data = self._disk.read_all(path)
            if data is not None and data.strip():
                return data.strip().decode("ascii", "replace")
            return self._put_plain(path)

    def renew(self, name: str, on_record: OnRecord) -> str:
        """Another plain token of this name: whoever has the one before is out. Raises NotRecorded."""
        path, role = PLAIN_NAMES[name]
        with self._locked():
            old = self._plain(name)
            token = new_token()
            if old is not None:
                on_record("token.revoked", {"name": name, "fingerprint": old.access.fingerprint})
            fingerprint = fingerprint_of(digest_of(token))
            on_record("token.created", {"name": name, "role": role, "fingerprint": fingerprint})
            return self._put_plain(path, token)

    def _put_plain(self, path: str, token: str | None = None) -> str:
        token = token or new_token()
        self._disk.replace(path, token.encode() + b"\n")
        return token

    # -- the named ones -----------------------------------------------------------------------------------

    def named(self) -> list[NamedToken]:
        """By name. Raises StoreError, OSError."""
        return sorted(_decoded(self._disk.read_all(NAMED_TOKENS)), key=lambda each: each.name)

    def create(
        self,
        name: str,
        on_record: OnRecord,
        *,
        role: Role,
        agent: str | None = None,
        tools: Iterable[str] | None = None,
        methods: Iterable[str] | None = None,
        expires_at_us: int | None = None,
    ) -> tuple[str, NamedToken]:
        """A new token and what it gives; the token is nowhere else. Raises UsageError, NotRecorded."""
        tools = None if tools is None else tuple(sorted(set(tools)))
        methods = None if methods is None else tuple(sorted(set(methods)))
        _check(name, role, agent, (*(tools or ()), *(methods or ())))
        with self._locked():
            others = self.named()
            if any(each.name == name for each in others):
                raise UsageError(
                    f"There is a token {name} already.", hint=f"`custody token revoke {name}` ends it."
                )
            if len(others) >= TOKENS_MAX:
                raise UsageError(f"There are {TOKENS_MAX} tokens already.", hint="Revoke those of no use.")
            token = new_token()
            made = NamedToken(
                name=name,
                digest=digest_of(token).hex(),
                role=role,
                agent=agent,
                tools=tools,
                methods=methods,
                created_at_us=now_us(),
                expires_at_us=expires_at_us,
            )
            on_record("token.created", made.shown())
            self._put_named([*others, made])
        return token, made

    def revoke(self, name: str, on_record: OnRecord) -> NamedToken:
        """End a named token, in running daemons too. Raises NotFound, UsageError, NotRecorded."""
        if name in PLAIN_NAMES:
            raise UsageError(
                f"The token {name} is every daemon's own.", hint="`custody token renew` makes another."
            )
        with self._locked():
            tokens = self.named()
            gone = next((each for each in tokens if each.name == name), None)
            if gone is None:
                raise NotFound(f"There is no token {name}.", hint="`custody token list` shows them.")
            # Out first, then on the record: a crash in between leaves nobody in whom the record says is out.
            self._put_named([each for each in tokens if each is not gone])
            on_record("token.revoked", {"name": name, "fingerprint": gone.known.access.fingerprint})
        return gone

    def _put_named(self, tokens: list[NamedToken]) -> None:
        data = msgspec.json.format(msgspec.json.encode({"tokens": tokens}), indent=1)
        self._disk.replace(NAMED_TOKENS, data + b"\n")

    @contextmanager
    def _locked(self) -> Generator[None]:
        self._disk.make_folder("keys")
        deadline = time.monotonic() + LOCK_WAIT_SECONDS
        while (lock := self._disk.lock(LOCK_FILE)) is None:
            if time.monotonic() > deadline:
                raise UsageError("Another process has been changing tokens all this time.")
            time.sleep(LOCK_LOOK_SECONDS)
        try:
            yield
        finally:
            lock.release()


class _File(Struct):
    tokens: list[NamedToken]


def _decoded(data: bytes | None) -> list[NamedToken]:
    """Raises StoreError: a file that cannot be read admits nobody."""
    if data is None:
        return []
    try:
        tokens = msgspec.json.decode(data, type=_File).tokens
        if not all(len(bytes.fromhex(each.digest)) == TOKEN_BYTES for each in tokens):
            raise ValueError("a digest is none")
    except (msgspec.DecodeError, ValueError) as error:
        raise StoreError(f"{NAMED_TOKENS} cannot be read: {error}.") from error
    return tokens


def _check(name: str, role: str, agent: str | None, allowed: Iterable[str]) -> None:
    if not NAME.fullmatch(name) or name in PLAIN_NAMES:
        raise InvalidInput(
            f"{name!r} cannot be a token's name.",
            hint="Letters, digits, dot, dash, underscore; up to 64; not `serve` or `host`.",
        )
    if role not in ROLES:
        raise InvalidInput(f"{role!r} is no role.", hint=f"One of: {', '.join(ROLES)}.")
    if agent is not None and not (0 < len(agent) <= AGENT_CHARACTERS_MAX and agent.isprintable()):
        raise InvalidInput(
            f"{agent[:40]!r} cannot be an agent's id.",
            hint=f"1 to {AGENT_CHARACTERS_MAX} printable characters; without an id it may be any agent.",
        )
    for wrong in (each for each in allowed if not ALLOWED.fullmatch(each)):
        raise InvalidInput(
            f"{wrong[:40]!r} is no name of a tool or method.", hint="Exact names: echo,file_read."
        )


def new_token() -> str:
    """43 characters of base64url."""
    return base64.urlsafe_b64encode(os.urandom(TOKEN_BYTES)).rstrip(b"=").decode()
