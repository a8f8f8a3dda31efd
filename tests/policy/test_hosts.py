"""Hosts are found in arguments, and an address is known for what it is however it is spelled."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from custody.hosts import Host, ascii_name, host_and_port, hosts_in, parse_address

KINDS = {
    "loopback": (
        "127.0.0.1 127.1 127.0.1 127.255.255.254 0x7f.1 0x7f000001 0X7F.0.0.1 "
        "017700000001 0177.0.0.1 2130706433 [::1] ::1 0:0:0:0:0:0:0:1 [::ffff:127.0.0.1] "
        "::ffff:7f00:1 ::127.0.0.1 64:ff9b::127.0.0.1 2002:7f00:1:: localhost LOCALHOST "
        "localhost. a.localhost %31%32%37.0.0.1 %2531%2532%2537.1 127%2e1 \uff11\uff12\uff17.0.0.1 "
        "127\u30020\u30020\u30021 \u2460\u2461\u2466.0.0.1 127.0.0.1. loc\xadalhost ip6-localhost "
        "127.0.0.1\u034f loc\u034falhost"
    ),
    "private": (
        "10.0.0.1 10.1 0xa000001 192.168.1.1 172.16.0.1 172.31.255.255 fc00::1 fd12:3456::1 ::ffff:10.0.0.1"
    ),
    "link_local": ("169.254.1.1 fe80::1 fe80::1%eth0 fe80::1%25eth0 [fe80::1%eth0] 0xa9fe0101"),
    "metadata": (
        "169.254.169.254 0xa9fea9fe 2852039166 169.254.43518 ::ffff:169.254.169.254 "
        "fd00:ec2::254 168.63.129.16 100.100.100.200 169.254.170.2 "
        "metadata.google.internal METADATA.google.internal. metadata"
    ),
    "cgnat": ("100.64.0.1 100.127.255.254 1681915905"),
    "multicast": ("224.0.0.1 239.255.255.250 ff02::1"),
    "unspecified": ("0.0.0.0 0 0x0 00 [::] :: 0.0"),
    "reserved": ("240.0.0.1 255.255.255.255 0.0.0.1 0.1"),
    "public": ("8.8.8.8 134744072 1.1 [2606:4700::1111] ::ffff:8.8.8.8 0x08.8.8.8"),
    "name": (
        "example.com xn--bcher-kva.example b\xfccher.example a 1e1 x.y.z. a_b.c "
        "localhost.example.com 127.0.0.1.nip.io"
    ),
    "odd": (
        "a..b 256.1.1.1 1.2.3.4.5 08.1.1.1 .a -a a- 0xg.1 [::1 ::g 1.2.3.99999999 "
        "good%40evil a%2fb 1.2.3.-4 a;b"
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_address_has_the_same_kind_in_every_spelling(kind: str) -> None:
    assert {text: parse_address(text)[1] for text in KINDS[kind].split()} == dict.fromkeys(
        KINDS[kind].split(), kind
    )


def test_the_address_is_given_in_its_usual_spelling() -> None:
    spellings = ("127.1", "0x7f000001", "017700000001", "2130706433", "::ffff:127.0.0.1", "64:ff9b::7f00:1")
    assert {parse_address(text)[0] for text in spellings} == {"127.0.0.1"}
    assert parse_address("[0:0::1]") == ("::1", "loopback")
    assert parse_address("example.com") == (None, "name")


def test_a_name_is_given_as_it_is_asked_for() -> None:
    assert ascii_name("B\xfccher.Example.") == "xn--bcher-kva.example"
    assert ascii_name("LocalHost") == "localhost"
    assert [ascii_name(text) for text in ("127.1", "[::1]", "a..b", "", "127.0.0.1\u034f")] == [None] * 5


def test_what_is_no_host_is_odd_and_never_a_name() -> None:
    for text in ("", " ", "a b", "a\nb", "a" * 256, "a" * 64 + ".b", "\ud800", "a\\b", "a/b", "a@b", "\0"):
        assert parse_address(text) == (None, "odd"), text


def hosts(text: str) -> list[tuple[str, int | None, str | None]]:
    return [(found.host, found.port, found.scheme) for found in hosts_in(text)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("https://example.com/a?b#c", [("example.com", None, "https")]),
        ("HTTP://Example.COM:8080", [("Example.COM", 8080, "http")]),
        ("see http://a.b, (https://c.d).", [("a.b", None, "http"), ("c.d", None, "https")]),
        ("http://user:secret@a.b:1/x", [("a.b", 1, "http")]),
        ("http://good@evil/", [("evil", None, "http")]),
        ("http://good\\@evil/", [("good", None, "http"), ("evil", None, "http")]),
        ("http://good#@evil/", [("good", None, "http"), ("evil", None, "http")]),
        ("http://good?@evil/", [("good", None, "http"), ("evil", None, "http")]),
        ("http://a@b@c/", [("c", None, "http"), ("b", None, "http")]),
        ("http:\\\\evil\\x", [("evil", None, "http")]),
        ("http:/evil", [("evil", None, "http")]),
        ("http:evil/x", [("evil", None, "http")]),
        ("//evil/x", [("evil", None, None)]),
        ("\\\\server\\share", [("server", None, None)]),
        ("http://ev\til.com/", [("evil.com", None, "http"), ("ev", None, "http")]),
        ("http://[::1]:80/", [("::1", 80, "http")]),
        ("git@example.com:a/b.git", [("example.com", None, "ssh")]),
        ("git clone me@[::1]:a", [("::1", None, "ssh")]),
        ("cat < /dev/tcp/10.0.0.1/80", [("10.0.0.1", 80, None)]),
        ("http://a/ http://a/ http://a/b", [("a", None, "http")]),
        ("http://a:99999/", [("a", None, "http")]),
        ("mail a@b: hello", []),
        ("// a comment", []),
        ("a // b", []),
        ("http://", []),
        ("C:\\folder", []),
        ("12:34:56", []),
        ("", []),
    ],
)
def test_hosts_are_found_in_texts(text: str, found: list[tuple[str, int | None, str | None]]) -> None:
    assert hosts(text) == found


def test_a_parameter_that_is_a_host_needs_no_scheme() -> None:
    assert list(host_and_port(" 127.1:80 ")) == [
        Host(host="127.1", port=80, address="127.0.0.1", kind="loopback")
    ]
    assert [found.host for found in host_and_port("::1")] == ["::1"]
    assert [found.host for found in host_and_port("me@example.com/x")] == ["example.com"]
    assert [found.host for found in host_and_port("https://a/b")] == ["a"]
    assert list(host_and_port("  ")) == []


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.sampled_from(["{}", "{:#o}", "{:#x}"]))
def test_every_spelling_of_an_address_is_that_address(number: int, parts: int, form: str) -> None:
    usual = ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))
    front = [number >> (24 - 8 * place) & 255 for place in range(parts - 1)]
    numbers = [*front, number & (256 ** (5 - parts) - 1)]
    text = ".".join(form.format(part).replace("0o", "0") for part in numbers)
    assert parse_address(text) == parse_address(usual)
    assert parse_address(text)[0] == usual


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=100))
def test_any_text_is_looked_at(text: str) -> None:
    parse_address(text)
    list(hosts_in(text))
    list(host_and_port(text))


@pytest.mark.parametrize("piece", ["a", "a:", "http://", "x@y:z ", "//", "[", " ", "/dev/tcp/", "@", "%25"])
def test_a_long_text_is_looked_at(piece: str) -> None:
    assert len(list(hosts_in(piece * 50_000))) <= 1
