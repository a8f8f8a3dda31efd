"""Row 12: how fast text is searched for secrets.

16 MB of what tools say: logs, JSON, code, listings, lock files, with a secret every 64 KB; and text made to
be slow: keywords without end, and what nearly is a secret. Beside it the same rules one after another, as
scanners without a keyword filter search: RE2, and Python's re. `--peers` adds detect-secrets where it is
installed.
"""

import importlib.util
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from custody.redaction import Redactor
from custody.redaction.rules import RULES
from harness import Measurement, arguments, report

MIXED_BYTES = 16 * 1024 * 1024
PIECE_BYTES = 64 * 1024
"""About the size of one result of a tool; each is searched as a text of its own."""

MIXED_LIMIT, ADVERSARIAL_LIMIT = 70.0, 4.0
TIMES = 3
PEER_BYTES = 512 * 1024

SECRET = "AKIAQRSYO262JEBNU56J"


def main() -> None:
    options = arguments(__doc__, peers=(False, "also detect-secrets, where it is installed"))
    redactor = Redactor(b"k" * 32, {"SHOP_API_TOKEN": "5up3r-s3cret-value"}, bytes_max=1 << 30, ms_max=1e9)
    mixed = [*pieces(MIXED_BYTES // (10 if options.quick else 1))]
    found = sum(len(redactor.scan(piece)) for piece in mixed)
    speed = best(lambda: [redactor.scan(piece) for piece in mixed], sum(map(len, mixed)), TIMES)
    slowest: dict[str, float] = {}
    for name, text in adversarial(len(mixed) * PIECE_BYTES // 8):
        parts = [text[at : at + PIECE_BYTES] for at in range(0, len(text), PIECE_BYTES)]
        slowest[name] = best(lambda parts=parts: [redactor.scan(part) for part in parts], len(text), 1)
        slowest[f"{name}, in one"] = best(lambda text=text: redactor.scan(text), len(text), 1)
    sample = b"".join(mixed)[:PEER_BYTES]
    peers = {
        "RE2, rule by rule": with_re2(sample),
        "Python's re, rule by rule": with_re(sample[: PEER_BYTES // 8]),
    }
    if options.peers and importlib.util.find_spec("detect_secrets"):
        peers["detect-secrets"] = best(lambda: detect_secrets(sample), len(sample), 1)
    report(
        "scan",
        [
            Measurement(
                12,
                "search text for secrets: logs, JSON, code",
                speed,
                "MB/s",
                "≥ 70 MB/s",
                MIXED_LIMIT,
                "more",
                peers,
            ),
            Measurement(
                12,
                "search text for secrets: text made to be slow, the slowest",
                min(slowest.values()),
                "MB/s",
                "≥ 4 MB/s",
                ADVERSARIAL_LIMIT,
                "more",
            ),
        ],
        {"found": found, "pieces": len(mixed), "adversarial": slowest},
        quick=options.quick,
    )


def best(way: Callable[[], object], size: int, times: int) -> float:
    """MB/s of this thread's processor time: a machine busy with something else changes little of it."""
    spent: list[float] = []
    for _ in range(times):
        begin = time.thread_time()
        way()
        spent.append(time.thread_time() - begin)
    return size / min(spent) / 1e6


# -- texts -----------------------------------------------------------------------------------------------


def pieces(size: int) -> Iterator[bytes]:
    chance = random.Random(1)
    code = source_code()
    kinds = (
        logs,
        json_lines,
        lambda _: code[chance.randrange(max(1, len(code) - PIECE_BYTES)) :],
        listings,
        locks,
    )
    for number in range(size // PIECE_BYTES):
        text = kinds[number % len(kinds)](chance)[: PIECE_BYTES - 40]
        yield f"{text}\nkey={SECRET}\n".encode()[:PIECE_BYTES]


def source_code() -> str:
    folder = Path(os.__file__).parent
    names = sorted(folder.glob("*.py"))[:60] + sorted(folder.glob("asyncio/*.py"))
    return "".join(name.read_text(encoding="utf-8", errors="replace") for name in names)


def lines(make: Callable[[], str]) -> str:
    made: list[str] = []
    size = 0
    while size < PIECE_BYTES:
        made.append(make())
        size += len(made[-1])
    return "".join(made)


def logs(chance: random.Random) -> str:
    levels = ("INFO", "DEBUG", "WARN", "ERROR")
    said = (
        "request finished status=200 bytes=5120",
        "user 4711 signed in from 10.1.2.3",
        "cache miss key=basket:4711:eu",
        "token_count=1532 max_tokens=4096",
        "GET https://shop.example/api/v2/orders?page=3&limit=50 200",
        "password changed for user 4711",
        "authorization header is missing",
    )
    return lines(
        lambda: (
            f"2026-11-21T14:{chance.randrange(60):02}:{chance.randrange(60):02}.{chance.randrange(1000):03}Z "
            f"{chance.choice(levels)} shop.orders trace={chance.getrandbits(128):032x} {chance.choice(said)} "
            f"in {chance.random() * 100:.2f} ms\n"
        )
    )


def json_lines(chance: random.Random) -> str:
    return lines(
        lambda: (
            f'{{"id": "{chance.getrandbits(64):016x}", "at": {chance.random() * 1e9:.3f}, "name": "o", '
            f'"tags": ["a", "b"], "user": {{"id": {chance.randrange(9999)}, "mail": "a@b.c"}}, "sha256": '
            f'"{chance.getrandbits(256):064x}", "next_page_token": null}}\n'
        )
    )


def listings(chance: random.Random) -> str:
    return lines(
        lambda: (
            f"-rw-r--r-- 1 ada ada {chance.randrange(10**7):>9} Nov 21 14:{chance.randrange(60):02} "
            f"src/shop/module_{chance.randrange(9999)}.py\n"
        )
    )


def locks(chance: random.Random) -> str:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return lines(
        lambda: (
            f'    "node_modules/p{chance.randrange(9999)}": {{\n'
            f'      "version": "{chance.randrange(20)}.1.0",\n'
            f'      "integrity": "sha512-{"".join(chance.choices(letters, k=86))}==",\n    }},\n'
        )
    )


def adversarial(size: int) -> Iterator[tuple[str, bytes]]:
    chance = random.Random(2)
    keywords = [keyword.encode() for rule in RULES for keyword in rule.keywords]
    letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

    def filled(make: Callable[[], bytes]) -> bytes:
        made = bytearray()
        while len(made) < size:
            made += make()
        return bytes(made[:size])

    yield "one keyword", b"AKIA" * (size // 4)
    yield "every keyword", filled(lambda: chance.choice(keywords))
    yield (
        "every keyword and a value",
        filled(lambda: chance.choice(keywords) + b' = "' + bytes(chance.choices(letters, k=30)) + b'" '),
    )
    yield "assignments", b"password = " * (size // 11)
    yield "nearly secrets", filled(lambda: b"AKIA" + bytes(chance.choices(letters, k=15)) + b" ")
    yield "base64 of keywords", b"QUtJQVFSU1lPMjYySkVCTlU1Nko" * (size // 27)
    yield "escapes", b"password%3A%20%22" * (size // 17)
    yield "one long run", b"eyJ" + b"a" * (size - 3)


# -- beside it -------------------------------------------------------------------------------------------


def with_re2(sample: bytes) -> float:
    import re2

    patterns = [re2.compile(rule.pattern.encode()) for rule in RULES]
    return best(lambda: [sum(1 for _ in pattern.finditer(sample)) for pattern in patterns], len(sample), 1)


def with_re(sample: bytes) -> float:
    import re

    patterns: list[re.Pattern[bytes]] = []
    for rule in RULES:
        try:
            patterns.append(re.compile(rule.pattern.encode()))
        except re.error:  # syntax that RE2 alone has
            continue
    return best(lambda: [sum(1 for _ in pattern.finditer(sample)) for pattern in patterns], len(sample), 1)


def detect_secrets(sample: bytes) -> None:
    from detect_secrets.core.scan import scan_line
    from detect_secrets.settings import default_settings

    with default_settings():
        for line in sample.decode("utf-8", "replace").splitlines():
            for _ in scan_line(line):
                pass


if __name__ == "__main__":
    main()
