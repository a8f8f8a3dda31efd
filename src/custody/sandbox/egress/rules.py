"""Which hosts may be reached: by name and port, and by the addresses a name leads to.

Owns how hosts are listed, and the decision about one destination: it is looked up once, every address
found is judged, and whoever connects is given those very addresses, so that no second answer of the DNS
counts. Knows nothing of protocols and opens no connection. Used by the proxy of confined commands and by
`http_fetch`.
"""

import asyncio
import functools
import socket
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv6Address, ip_address

from msgspec import Struct

from custody.errors import CustodyError, InvalidSetting
from custody.hosts import AddressKind, ascii_name, parse_address

WEB_PORTS = (80, 443)
"""What a host that is listed without a port may be reached at."""
_ANY_PORT = 9
LOCALHOST = ("127.0.0.1", "::1")
"""Where the names of this machine lead (RFC 6761); no file and no server is asked."""
HOSTS_MAX = 256  # as many as a sandbox lists
RESOLVE_SECONDS = 5.0  # as long as the C library waits for one server
RESOLVING_MAX = 64
"""Names being looked up at once for calls, and as many for commands, those included that nobody waits for any
more: each holds a thread."""
RESOLVING_EACH_MAX = 8
"""Of one `LookUps`; the next wait for their turn, and those of others do not wait for them."""

_NO_ONE_MACHINE = ("unspecified", "multicast")
_NAME_THE_MACHINE = "List the address of the machine that is meant."

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Name and port -> addresses. May raise OSError."""


class Refused(CustodyError):
    """The host may not be reached."""

    exit_code = 3

    def __init__(self, reason: str, *, hint: str | None = None) -> None:
        super().__init__(reason, hint=hint)
        self.reason = reason


class Unresolved(Refused):
    """The host is allowed, and nobody knows where it is."""

    exit_code = 1


class Destination(Struct, frozen=True):
    """Where to connect to. The addresses are tried as they stand; the name is for TLS and `Host` alone."""

    host: str
    port: int
    addresses: tuple[str, ...]


class Allowed(Struct, frozen=True):
    """The hosts somebody listed. Raises InvalidSetting as `check_hosts` does."""

    hosts: tuple[str, ...] = ()
    """`example.org` (ports 80 and 443), `example.org:8080`, `*.example.org` (every name below it, itself
    not), `127.0.0.1:4873`, `[::1]:80`."""
    anywhere: bool = False
    """Every public address may be reached too, whatever its port."""

    def __post_init__(self) -> None:
        check_hosts(self.hosts)

    def names(self, host: str, port: int) -> bool:
        """Whether this very host is listed, in whatever spelling."""
        try:
            return _listing(self.hosts).has(plain_host(host)[0], port)
        except Refused:
            return False


class _Listing(Struct, frozen=True):
    exact: frozenset[tuple[str, int]]
    below: frozenset[tuple[str, int]]

    def has(self, host: str, port: int) -> bool:
        if (host, port) in self.exact:
            return True
        if not self.below:
            return False
        labels = host.split(".")
        return any((".".join(labels[at:]), port) in self.below for at in range(1, len(labels) - 1))


# -- how hosts are listed -------------------------------------------------------------------------------


def check_hosts(hosts: Sequence[str]) -> None:
    """Raises InvalidSetting for what names no host."""
    if len(hosts) > HOSTS_MAX:
        raise InvalidSetting(f"{len(hosts)} hosts are listed, and {HOSTS_MAX} are the most.")
    _listing(tuple(hosts))


def spelling(host: str, port: int) -> str:
    """How a host and its port are listed."""
    shown = f"[{host}]" if ":" in host else host
    return shown if port in WEB_PORTS else f"{shown}:{port}"


def line_for(*hosts: str) -> str:
    """The line of the settings that allows these."""
    return "[sandbox] hosts = [" + ", ".join(f'"{host}"' for host in hosts) + "]"


@functools.lru_cache(maxsize=256)  # the sandboxes of one program are few
def _listing(hosts: tuple[str, ...]) -> _Listing:
    exact: set[tuple[str, int]] = set()
    below: set[tuple[str, int]] = set()
    for text in hosts:
        host, ports = _split(text)
        if host.startswith("*."):
            below.update((_checked_suffix(text, host[2:]), port) for port in ports)
        else:
            exact.update((_checked_host(text, host), port) for port in ports)
    return _Listing(exact=frozenset(exact), below=frozenset(below))


def _split(text: str) -> tuple[str, tuple[int, ...]]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")) or ":" not in host:
            raise _invalid(text)
        colon, port = rest[:1], rest[1:]
    elif text.count(":") > 1:  # an IPv6 address by itself
        host, colon, port = text, "", ""
    else:
        host, colon, port = text.partition(":")
    if not colon:
        return host, WEB_PORTS
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65_536):
        raise _invalid(text)
    return host, (int(port),)


def _checked_suffix(text: str, suffix: str) -> str:
    """Of `*.suffix`. Below a single label lies much of the world, or a network's inside."""
    name = ascii_name(suffix)
    if name is None or parse_address(suffix)[1] != "name" or "." not in name:
        raise _invalid(text)
    return name


def _checked_host(text: str, host: str) -> str:
    try:
        name, kind = plain_host(host)
    except Refused:
        raise _invalid(text) from None
    if kind in _NO_ONE_MACHINE:
        raise InvalidSetting(
            f"The host {text!r} cannot be listed: it is {_WORDS[kind]} and no one machine.",
            hint=_NAME_THE_MACHINE,
        )
    return name


def _invalid(text: str) -> InvalidSetting:
    return InvalidSetting(
        f"The host {text!r} cannot be listed.",
        hint="Hosts are spelled `example.org` (ports 80 and 443), `example.org:8080`, `*.example.org`, "
        "`127.0.0.1:4873` or `[::1]:80`, without scheme and path. For every host there is the sandbox "
        "`network`.",
    )


def plain_host(host: str) -> tuple[str, AddressKind]:
    """A host as it is compared: an address in its usual spelling, a name as the DNS has it; and its kind.

    Raises Refused for what cannot be told. Percent signs begin zones of IPv6 or hide characters: neither is
    anything to connect to.
    """
    address, kind = parse_address(host)
    name = ascii_name(host) if address is None else _address(host, address)
    if kind == "odd" or "%" in host or name is None:
        shown = ascii(host if len(host) <= 100 else host[:100] + "…")
        raise Refused(f"{shown} is no host one could connect to.", hint="Spell it as a name or an address.")
    return name, kind


def _address(host: str, found: str) -> str | None:
    """An IPv6 address is a place of its own beside the IPv4 address it may end up at (`found`); only a mapped
    one is nothing but a spelling of that."""
    if not host.isascii():
        return None
    if ":" not in host:
        return found
    try:
        address = IPv6Address(host.removeprefix("[").removesuffix("]"))
    except ValueError:  # hidden characters, which `parse_address` looks past
        return None
    return str(address.ipv4_mapped or address)


# -- one destination ------------------------------------------------------------------------------------

_WORDS: dict[AddressKind, str] = {
    "private": "a private address",
    "loopback": "this machine itself",
    "link_local": "an address of the local link",
    "cgnat": "an address inside a provider's network",
    "metadata": "the metadata service of a cloud, which hands out credentials",
    "multicast": "a multicast address",
    "unspecified": "the unspecified address",
    "reserved": "a reserved address",
}


async def resolved(host: str, port: int) -> Sequence[str]:
    """The addresses of a name, by the C library's resolver. Raises OSError."""
    answer: asyncio.Future[Sequence[str]] = asyncio.get_running_loop().create_future()
    _look_up(host, port, functools.partial(_hand_over, answer), _resolving)
    async with asyncio.timeout(RESOLVE_SECONDS):
        return await answer


class LookUps:
    """`resolved` for one who may ask for many names, and whose names may hang: a few at once, each name once
    at a time, and whoever asks for it meanwhile is given the same answer."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, int], asyncio.Future[Sequence[str]]] = {}
        self._waiting: deque[tuple[str, int]] = deque()
        self._under_way = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        answer = self._answers.get((host, port))
        if answer is None:
            answer = self._answers[host, port] = asyncio.get_running_loop().create_future()
            self._waiting.append((host, port))
            self._begin()
        async with asyncio.timeout(RESOLVE_SECONDS):
            return await asyncio.shield(answer)

    def close(self) -> None:
        """Begin no further one. What is under way nobody can end."""
        self._waiting.clear()

    def _begin(self) -> None:
        while self._waiting and self._under_way < RESOLVING_EACH_MAX:
            name = self._waiting.popleft()
            try:
                _look_up(*name, functools.partial(self._found, name), _resolving_for_commands)
                self._under_way += 1
            except OSError as error:
                self._answer(name, error)

    def _found(self, name: tuple[str, int], found: list[str] | OSError) -> None:
        self._under_way -= 1
        self._answer(name, found)
        self._begin()

    def _answer(self, name: tuple[str, int], found: list[str] | OSError) -> None:
        answer = self._answers.pop(name)
        _hand_over(answer, found)
        answer.exception()  # who asked may have gone, and asyncio would complain


def _hand_over(answer: "asyncio.Future[Sequence[str]]", found: list[str] | OSError) -> None:
    if answer.cancelled():
        return
    if isinstance(found, OSError):
        answer.set_exception(found)
    else:
        answer.set_result(found)


def _look_up(
    host: str,
    port: int,
    hand_over: Callable[[list[str] | OSError], None],
    places: threading.BoundedSemaphore,
) -> None:
    """Have an answer handed over, on the loop. Raises OSError where there is no place.

    In a thread of its own, and one that nothing waits for: a server that does not answer must hold up neither
    other work nor the end of the program.
    """
    loop = asyncio.get_running_loop()

    def look_up() -> None:
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found: list[str] | OSError = list(dict.fromkeys(str(info[4][0]) for info in infos))
        except (OSError, UnicodeError) as error:
            found = error if isinstance(error, OSError) else OSError(str(error))
        finally:
            places.release()
        try:
            loop.call_soon_threadsafe(hand_over, found)
        except RuntimeError:  # the loop has ended: nobody asks any more
            pass

    if not places.acquire(blocking=False):
        raise OSError(f"{RESOLVING_MAX} names are being looked up already")
    try:
        threading.Thread(target=look_up, name="custody-resolve", daemon=True).start()
    except RuntimeError as error:  # no more threads to be had
        places.release()
        raise OSError(str(error)) from error


_resolving = threading.BoundedSemaphore(RESOLVING_MAX)
_resolving_for_commands = threading.BoundedSemaphore(RESOLVING_MAX)
"""Apart from those above, which one agent's calls can use up."""


async def decide(allowed: Allowed, host: str, port: int, *, resolve: Resolve = resolved) -> Destination:
    """Where to connect to for this host and port. Raises Refused.

    What is not listed is not looked up either: the question itself would tell somebody something.
    """
    name, kind = plain_host(host)
    if not 0 < port < 65_536:
        raise Refused(f"{port} is no port.", hint="Ports are 1 to 65535.")
    listed = allowed.names(name, port)
    if not (listed or allowed.anywhere):
        raise _unlisted(name, port, kind)
    if parse_address(name)[0] is not None:
        kind = _kind(name)
        if not listed and kind != "public":
            raise _unlisted(name, port, kind)
        return Destination(host=name, port=port, addresses=(name,))
    if kind == "loopback":
        if not listed:
            raise _unlisted(name, port, kind)
        return Destination(host=name, port=port, addresses=LOCALHOST)
    found = await _looked_up(name, port, resolve)
    for address in found:
        _check_answer(allowed, name, port, address)
    return Destination(host=name, port=port, addresses=found)


def _kind(address: str) -> AddressKind:
    """What an address is from here: whatever listens on all of this machine's is reached at a public one too,
    past what keeps the world from it."""
    kind = parse_address(address)[1]
    return "loopback" if kind == "public" and _is_own(address) else kind


def _is_own(address: str) -> bool:
    """Only to itself does a machine send from the address it sends to. Nothing is sent for it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.connect((address, _ANY_PORT))
            return ip_address(asking.getsockname()[0]) == ip_address(address)
    except (OSError, ValueError):  # there is no way to it, or it is none to connect to
        return False


def _unlisted(name: str, port: int, kind: AddressKind) -> Refused:
    what = f" ({_WORDS[kind]})" if kind in _WORDS else ""
    listable = kind not in _NO_ONE_MACHINE
    return Refused(
        f"{_where(name, port)}{what} is not on the list of hosts.",
        hint=f"Allow it in the settings: {line_for(spelling(name, port))}" if listable else _NAME_THE_MACHINE,
    )


def _where(name: str, port: int) -> str:
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


async def _looked_up(name: str, port: int, resolve: Resolve) -> tuple[str, ...]:
    try:
        found = tuple(dict.fromkeys(await resolve(name, port)))
    except TimeoutError as error:
        raise Unresolved(
            f"{name} could not be looked up: no answer within {RESOLVE_SECONDS:g} s.",
            hint="See whether this machine reaches its name servers.",
        ) from error
    except OSError as error:
        raise Unresolved(
            f"{name} could not be looked up: {error.strerror or error}.",
            hint="See whether the name is right, and whether this machine reaches its name servers.",
        ) from error
    if not found:
        raise Unresolved(f"{name} has no address.", hint="See whether the name is right.")
    return found


def _check_answer(allowed: Allowed, name: str, port: int, address: str) -> None:
    """One address that is not public spoils them all: a name with both is how a network's inside is reached
    from outside (DNS rebinding)."""
    kind = _kind(address)
    if "%" not in address and (kind == "public" or allowed.names(address, port)):
        return
    allow_it = f"Allow the address too, in the settings: {line_for(spelling(address, port))}"
    raise Refused(
        f"{_where(name, port)} leads to {address}, {_WORDS.get(kind, 'no usual address')}.",
        hint="Names count for public addresses only. "
        + (_NAME_THE_MACHINE if kind in _NO_ONE_MACHINE else allow_it),
    )
