"""A host is reached when it is listed, and by the addresses that were judged; nothing inside a network is."""

import asyncio
import threading
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from custody.errors import InvalidSetting
from custody.hosts import parse_address
from custody.sandbox.egress import REGISTRIES, Allowed, Destination, Refused, Unresolved, check_hosts, decide
from custody.sandbox.egress.rules import HOSTS_MAX, Resolve, resolved


def answering(*addresses: str) -> Resolve:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return addresses

    return resolve


async def nobody_is_asked(host: str, port: int) -> Sequence[str]:
    raise AssertionError(f"{host}:{port} was looked up")


def decided(allowed: Allowed, host: str, port: int, resolve: Resolve = nobody_is_asked) -> Destination | str:
    """The destination, or the reason of the refusal. None of these resolvers waits, so no loop is needed."""
    try:
        decide(allowed, host, port, resolve=resolve).send(None)
    except StopIteration as done:
        return done.value
    except Refused as error:
        return error.reason
    raise AssertionError("it waits for something")


def refusal(allowed: Allowed, host: str, port: int, resolve: Resolve = nobody_is_asked) -> Refused:
    with pytest.raises(Refused) as caught:
        asyncio.run(decide(allowed, host, port, resolve=resolve))
    return caught.value


# -- how hosts are listed -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listed", "named", "unnamed"),
    [
        (
            "example.org",
            "example.org:80 example.org:443 EXAMPLE.ORG.:443",
            "example.org:22 a.example.org:443",
        ),
        ("example.org:8080", "example.org:8080", "example.org:80 example.org:443 xexample.org:8080"),
        (
            "*.example.org",
            "a.example.org:443 a.b.example.org:80",
            "example.org:443 aexample.org:443 a.example.org:22 org:443 a.example.org.evil:443",
        ),
        ("*.example.org:22", "a.example.org:22", "a.example.org:443"),
        ("bücher.example", "xn--bcher-kva.example:443 BÜCHER.example:80", "bucher.example:443"),
        ("127.0.0.1:4873", "127.0.0.1:4873 127.1:4873 0x7f000001:4873", "127.0.0.1:80 127.0.0.2:4873"),
        ("0x7f.1:80", "127.0.0.1:80", "0x7f.1:443"),
        ("[::1]:80", "::1:80 0:0::1:80", "::1:443 ::2:80"),
        ("::1", "::1:80 ::1:443", "::1:81"),
        ("::ffff:10.0.0.1", "10.0.0.1:80", "::10.0.0.1:80 64:ff9b::10.0.0.1:80 2002:a00:1:::80"),
        ("10.0.0.1", "::ffff:10.0.0.1:443", "2002:a00:1:::443 ::10.0.0.1:443"),
    ],
)
def test_a_host_is_named_in_whatever_spelling_at_the_ports_listed(listed: str, named: str, unnamed: str):
    allowed = Allowed((listed,))
    for expected, texts in ((True, named), (False, unnamed)):
        for text in texts.split():
            host, _, port = text.rpartition(":")
            assert allowed.names(host, int(port)) is expected, text


@pytest.mark.parametrize(
    "text",
    [
        *"* *.org *.localhost *.1.2 *.*.example.org a.*.org http://a.org a.org/ a.org: a.org:0".split(),
        *"a.org:65536 a.org:http a.org:٤ user@a.org [::1 [::1]80 [::1]:x [a.org]:80 fe80::1%eth0".split(),
        *"0.0.0.0 [::]:80 224.0.0.1 a..b 1.2.3.4.5 %61.org".split(),
        "",
        "a b",
    ],
)
def test_what_names_no_host_cannot_be_listed(text: str):
    with pytest.raises(InvalidSetting) as caught:
        check_hosts([text])
    assert caught.value.hint
    with pytest.raises(InvalidSetting):
        Allowed(("example.org", text))


def test_a_list_has_a_bound():
    names = [f"a{number}.example" for number in range(HOSTS_MAX)]
    check_hosts(names)
    with pytest.raises(InvalidSetting, match=f"{HOSTS_MAX} are the most"):
        check_hosts([*names, "one.more"])


def test_registries_can_be_listed_and_are_reached_encrypted_alone():
    allowed = Allowed(REGISTRIES)
    assert sorted(set(REGISTRIES)) == sorted(REGISTRIES)
    assert [host for host in REGISTRIES if not host.endswith(":443")] == []
    assert all(parse_address(host.removesuffix(":443"))[1] == "name" for host in REGISTRIES)
    assert allowed.names("registry.npmjs.org", 443)
    assert not allowed.names("registry.npmjs.org", 80)


# -- one destination ------------------------------------------------------------------------------------


def test_a_listed_name_is_looked_up_once_and_its_addresses_are_pinned():
    asked: list[tuple[str, int]] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append((host, port))
        return ("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "93.184.215.14")

    found = decided(Allowed(("example.org",)), "Example.ORG.", 443, resolve)
    assert found == Destination(
        host="example.org", port=443, addresses=("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c")
    )
    assert asked == [("example.org", 443)]


def test_what_is_not_listed_is_refused_without_being_looked_up_and_says_the_line_that_allows_it():
    error = refusal(Allowed(("example.org",)), "secret.Evil.example", 8443)
    assert error.reason == "secret.evil.example:8443 is not on the list of hosts."
    assert error.hint == 'Allow it in the settings: [sandbox] hosts = ["secret.evil.example:8443"]'
    assert not isinstance(error, Unresolved)


@pytest.mark.parametrize("host", ["example.org", "example.com", "10.0.0.1", "::1", "localhost", "fe80::1"])
@pytest.mark.parametrize("port", [80, 8080])
def test_the_line_of_a_refusal_allows_what_was_refused(host: str, port: int):
    hint = refusal(Allowed(), host, port).hint or ""
    line = hint.partition('["')[2].removesuffix('"]')
    assert isinstance(decided(Allowed((line,)), host, port, answering("8.8.8.8")), Destination)


@pytest.mark.parametrize("host", ["0.0.0.0", "0", "::", "224.0.0.1", "ff02::1"])
def test_what_is_no_one_machine_is_refused_without_a_line_that_would_not_be_taken(host: str):
    direct = refusal(Allowed(), host, 80)
    through = refusal(Allowed(("a.example",)), "a.example", 80, answering("0.0.0.0" if host == "0" else host))
    assert direct.hint == "List the address of the machine that is meant."
    assert through.hint == f"Names count for public addresses only. {direct.hint}"


@pytest.mark.parametrize(
    "address",
    "10.0.0.1 172.16.0.1 192.168.1.1 fd00::1 127.0.0.1 ::1 169.254.1.1 fe80::1 fe80::1%eth0 100.64.0.1 "
    "169.254.169.254 fd00:ec2::254 100.100.100.200 224.0.0.1 ff02::1 0.0.0.0 :: 240.0.0.1 ::ffff:10.0.0.1 "
    "64:ff9b::10.0.0.1 64:ff9b:1::8.8.8.8 64:ff9b:1:a00:0:100:808:808 2002:7f00:1:: 198.18.0.1 "
    "192.0.2.1".split(),
)
def test_a_listed_name_that_leads_inside_is_refused_also_beside_a_public_address(address: str):
    for answers in ((address,), ("8.8.8.8", address), (address, "8.8.8.8")):
        for allowed in (Allowed(("example.org",)), Allowed(anywhere=True)):
            error = refusal(allowed, "example.org", 443, answering(*answers))
            assert f"example.org:443 leads to {address}" in error.reason
            assert error.hint
    assert "public" not in parse_address(address)[1]


def test_a_listed_name_may_lead_inside_where_the_address_is_listed_too():
    allowed = Allowed(("inside.example:8080", "10.0.0.5:8080", "10.0.0.6:9090"))
    reached = decided(allowed, "inside.example", 8080, answering("10.0.0.5"))
    assert reached == Destination(host="inside.example", port=8080, addresses=("10.0.0.5",))
    refused = decided(allowed, "inside.example", 8080, answering("10.0.0.5", "10.0.0.6"))
    assert refused == "inside.example:8080 leads to 10.0.0.6, a private address."


def test_this_machine_is_reached_by_its_name_only_where_that_is_listed():
    assert decided(Allowed(("localhost:80",)), "LOCALHOST.", 80) == Destination(
        host="localhost", port=80, addresses=("127.0.0.1", "::1")
    )
    for allowed in (
        Allowed(),
        Allowed(anywhere=True),
        Allowed(("127.0.0.1:80",)),
        Allowed(("localhost:81",)),
    ):
        assert "this machine itself" in refusal(allowed, "localhost", 80).reason


def test_anywhere_is_every_public_address_and_no_other():
    anywhere = Allowed(anywhere=True)
    assert isinstance(decided(anywhere, "example.org", 12345, answering("8.8.8.8")), Destination)
    assert isinstance(decided(anywhere, "8.8.8.8", 53), Destination)
    assert "credentials" in refusal(anywhere, "169.254.169.254", 80).reason
    assert isinstance(decided(Allowed(("10.0.0.1:80",), anywhere=True), "10.0.0.1", 80), Destination)


@pytest.mark.parametrize(
    "host", ["", "a b", "a..b", "fe80::1%eth0", "%31%32%37.0.0.1", "a" * 300, "a\r\nb", "\ud800"]
)
def test_odd_hosts_are_refused_by_whatever_list(host: str):
    error = refusal(Allowed(anywhere=True), host, 80)
    assert "is no host one could connect to" in error.reason
    assert str(error).isascii()
    assert str(error).isprintable()


@pytest.mark.parametrize("port", [0, -1, 65_536])
def test_what_is_no_port_is_refused(port: int):
    assert "is no port" in refusal(Allowed(anywhere=True), "example.org", port).reason


def test_a_name_nobody_knows_is_told_apart_from_one_that_is_refused():
    async def failing(_host: str, _port: int) -> Sequence[str]:
        raise OSError(-2, "Name or service not known")

    async def silent(_host: str, _port: int) -> Sequence[str]:
        raise TimeoutError

    for resolve, words in ((failing, "not known"), (silent, "no answer"), (answering(), "no address")):
        error = refusal(Allowed(("example.org",)), "example.org", 443, resolve)
        assert isinstance(error, Unresolved)
        assert words in error.reason
        assert error.hint


def test_names_are_looked_up_by_the_machines_resolver(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("custody.sandbox.egress.rules.RESOLVE_SECONDS", 60.0)
    found = asyncio.run(resolved("localhost", 80))
    assert "127.0.0.1" in found
    with pytest.raises(OSError, match=r"."):
        asyncio.run(resolved("no-such-name.invalid", 80))


def test_a_look_up_that_hangs_holds_up_neither_others_nor_the_end(monkeypatch: pytest.MonkeyPatch):
    release = threading.Event()

    def hanging(*_: object, **__: object) -> list[object]:
        release.wait(30)
        return []

    monkeypatch.setattr("custody.sandbox.egress.rules.RESOLVE_SECONDS", 0.05)
    monkeypatch.setattr("custody.sandbox.egress.rules._resolving", threading.BoundedSemaphore(1))
    monkeypatch.setattr("socket.getaddrinfo", hanging)

    async def twice() -> list[str]:
        return [await reason(host) for host in ("a.example", "b.example")]

    async def reason(host: str) -> str:
        with pytest.raises(Unresolved) as caught:
            await decide(Allowed(anywhere=True), host, 80)
        return caught.value.reason

    try:
        first, second = asyncio.run(twice())
    finally:
        release.set()
    assert "no answer within 0.05 s" in first
    assert "names are being looked up already" in second


# -- properties -----------------------------------------------------------------------------------------

addresses = st.one_of(
    st.ip_addresses(),
    st.sampled_from(["10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "100.64.0.0/10", "224.0.0.0/4"]).flatmap(
        lambda network: st.ip_addresses(network=network)
    ),
    st.sampled_from(["fc00::/7", "fe80::/10", "::ffff:0:0/96", "64:ff9b::/96", "ff00::/8"]).flatmap(
        lambda network: st.ip_addresses(network=network)
    ),
)


def spellings(address: IPv4Address | IPv6Address) -> list[str]:
    if isinstance(address, IPv6Address):
        return [str(address), f"[{address}]", address.exploded, str(address).upper()]
    number = int(address)
    octal = ".".join(f"0{part:o}" for part in address.packed)
    return [str(address), str(number), hex(number), octal, f"::ffff:{address}", f"{address}."]


def is_inside(address: IPv4Address | IPv6Address) -> bool:
    """By the standard library, and not by the code under test."""
    inner = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    judged = inner or address
    return not judged.is_global or judged.is_multicast


@settings(max_examples=60)
@given(addresses, st.integers(1, 65_535), st.booleans())
def test_no_address_inside_is_reached_unless_it_is_listed(
    address: IPv4Address | IPv6Address, port: int, anywhere: bool
):
    others = Allowed(("example.org", "*.example.org", "10.255.255.254:1"), anywhere=anywhere)
    for text in spellings(address):
        reached = decided(others, text, port)
        if is_inside(address):
            assert isinstance(reached, str), text
        through = decided(Allowed(("a.example:" + str(port),)), "a.example", port, answering(str(address)))
        if is_inside(address):
            assert isinstance(through, str), text


@settings(max_examples=50)
@given(addresses, st.integers(1, 65_535))
def test_a_listed_address_is_reached_in_each_of_its_spellings_and_at_no_other_port(
    address: IPv4Address | IPv6Address, port: int
):
    shown = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
    try:
        allowed = Allowed((shown,))
    except InvalidSetting:
        assert parse_address(str(address))[1] in ("unspecified", "multicast")
        return
    for text in spellings(address):
        reached = decided(allowed, text, port)
        assert isinstance(reached, Destination), text
        assert len(reached.addresses) == 1
        assert isinstance(decided(allowed, text, port % 65_535 + 1), str)


@settings(max_examples=80)
@given(st.text(max_size=80), st.integers(-1, 70_000))
def test_any_text_is_decided_and_nothing_unlisted_is_reached(host: str, port: int):
    assert isinstance(decided(Allowed(("example.org",)), host, port), str)
