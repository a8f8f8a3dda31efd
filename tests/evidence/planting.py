"""Secrets to plant, made anew from a seed, and the search for what is left of them.

A planted text holds one secret; its pieces are stretches of the secret's own random characters. Wherever a
piece is found, in whatever spelling, enough of the secret is left to recognise it by: so a redaction that
leaves a half behind is found as well as one that was never made.
"""

import base64
import json
import random
import re
import string
import zlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import apsw
import msgspec
import re2
import zstandard
from msgspec import Struct

PIECE_CHARACTERS = 12
"""Twelve random characters stand nowhere by chance, and few secrets are shorter."""

AROUND = 30
"""Bytes shown on either side of what was found."""

SEED = 20_260_501

DIGITS = string.digits
HEX = "0123456789abcdef"
UPPER32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
ALNUM = string.digits + string.ascii_uppercase + string.ascii_lowercase
"""In the order in which GitHub and npm count in base 62."""
URL64 = ALNUM + "-_"


class Secret(Struct, frozen=True):
    """One secret, and the text it is planted in."""

    kind: str
    text: str
    """What is planted: the secret alone, or as a configuration, a command line or a header has it."""
    value: str
    """The secret itself."""
    random: str
    """The part of it that nobody can know."""

    @property
    def pieces(self) -> tuple[str, ...]:
        """Its beginning, middle and end."""
        size, middle = min(PIECE_CHARACTERS, len(self.random)), len(self.random) // 2
        starts = (0, max(0, middle - size // 2), len(self.random) - size)
        return tuple(dict.fromkeys(self.random[start : start + size] for start in starts))


# -- secrets that are known by their form ------------------------------------------------------------------


class Maker:
    """Makes secrets as their providers do; the same ones each time."""

    def __init__(self, seed: int = SEED) -> None:
        self._random = random.Random(seed)

    def of(self, alphabet: str, count: int) -> str:
        """Random characters, upper and lower case and digits among them where the alphabet has them."""
        mixed = {"0", "a"} <= set(alphabet)
        while True:
            text = "".join(self._random.choice(alphabet) for _ in range(count))
            if not mixed or (not text.isdigit() and not text.isalpha()):
                return text

    def checked62(self, prefix: str, count: int = 30) -> tuple[str, str]:
        """With the CRC-32 in base 62 behind it, as GitHub and npm write it."""
        body = self.of(ALNUM, count)
        number, digits = zlib.crc32(body.encode()), ""
        while number:
            number, digit = divmod(number, 62)
            digits = ALNUM[digit] + digits
        return prefix + body + digits.rjust(6, "0"), body

    def age(self) -> tuple[str, str]:
        """A Bech32 (BIP 173) of 32 bytes."""
        charset = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
        number = int.from_bytes(self._random.randbytes(32), "big") << 4
        data = [number >> shift & 31 for shift in range(255, -1, -5)]
        prefix = "age-secret-key-"
        expanded = [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix]
        rest = _bech32_polymod([*expanded, *data, 0, 0, 0, 0, 0, 0]) ^ 1
        check = [rest >> shift & 31 for shift in range(25, -1, -5)]
        body = "".join(charset[value] for value in data + check).upper()
        return f"{prefix.upper()}1{body}", body

    def jwt(self) -> tuple[str, str]:
        def part(value: object) -> str:
            return base64.urlsafe_b64encode(msgspec.json.encode(value)).rstrip(b"=").decode()

        header = part({"alg": "HS256", "typ": "JWT"})
        claims = part({"sub": self.of(DIGITS, 10), "name": "J. Doe", "iat": 1_760_000_000})
        signature = self.of(URL64, 43)
        return f"{header}.{claims}.{signature}", signature

    def pem(self, label: str, start: str, lines: int = 12) -> tuple[str, str]:
        body = start + self.of(ALNUM + "+/", 64 * lines - len(start) - 2) + "=="
        rows = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
        return f"-----BEGIN {label}-----\n{rows}\n-----END {label}-----\n", body[len(start) + 64 : 128 * 2]


def _bech32_polymod(values: Iterable[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            if top >> bit & 1:
                check ^= generator
    return check


@cache
def by_form() -> tuple[Secret, ...]:
    """One of each kind that is known by its own form, wherever it stands."""
    make = Maker()
    of = make.of
    secrets: list[Secret] = []

    def add(kind: str, form: str, alphabet: str = "", count: int = 0) -> None:
        """`form` with `{}` where the random characters stand."""
        body = of(alphabet, count)
        value = form.format(body)
        secrets.append(Secret(kind, value, value, body))

    def made(kind: str, value: str, body: str) -> None:
        secrets.append(Secret(kind, value, value, body))

    add("AWS access key id", "AKIA{}", UPPER32, 16)
    for prefix in ("ghp_", "gho_", "ghs_"):
        made(f"GitHub token {prefix}", *make.checked62(prefix))
    add("GitHub fine-grained token", f"github_pat_{of(ALNUM, 22)}_{{}}", ALNUM, 59)
    add("GitLab personal token", "glpat-{}", ALNUM, 20)
    add("Slack bot token", f"xoxb-{of(DIGITS, 12)}-{of(DIGITS, 13)}-{{}}", ALNUM, 24)
    hook = f"https://hooks.slack.com/services/T{of(UPPER32, 10)}/B{of(UPPER32, 10)}/{{}}"
    add("Slack webhook", hook, ALNUM, 24)
    add("Stripe secret key", "sk_live_{}", ALNUM, 24)
    add("Stripe restricted key", "rk_live_{}", ALNUM, 24)
    add("OpenAI key", f"sk-{of(ALNUM, 20)}T3BlbkFJ{{}}", ALNUM, 20)
    add("OpenAI project key", f"sk-proj-{of(URL64, 74)}T3BlbkFJ{{}}", ALNUM, 74)
    add("Anthropic key", "sk-ant-api03-{}AA", URL64, 93)
    add("Google API key", "AIzaSy{}", ALNUM, 33)
    made("npm token", *make.checked62("npm_"))
    add("PyPI token", "pypi-AgEIcHlwaS5vcmc{}", ALNUM, 150)
    add("SendGrid key", f"SG.{of(ALNUM, 22)}.{{}}", ALNUM, 43)
    add("Telegram bot token", f"{of(DIGITS[1:], 10)}:AA{{}}", ALNUM, 33)
    add("Hugging Face token", "hf_{}", string.ascii_letters, 34)
    add("DigitalOcean token", "dop_v1_{}", HEX, 64)
    add("Shopify token", "shpat_{}", HEX, 32)
    add("Vault token", "hvs.CAESI{}", ALNUM, 90)
    add("Terraform Cloud token", f"{of(ALNUM, 14)}.atlasv1.{{}}", ALNUM, 67)
    add("Databricks token", "dapi{}", HEX, 32)
    add("Doppler token", "dp.pt.{}", ALNUM, 43)
    add("Linear key", "lin_api_{}", ALNUM, 40)
    grafana = of(ALNUM, 32)
    check = zlib.crc32(f"glsa_{grafana}".encode()).to_bytes(4, "little").hex()
    made("Grafana token", f"glsa_{grafana}_{check}", grafana)
    made("age key", *make.age())
    made("JSON web token", *make.jwt())
    made("private key", *make.pem("PRIVATE KEY", "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC"))
    made("OpenSSH private key", *make.pem("OPENSSH PRIVATE KEY", "b3BlbnNzaC1rZXktdjEAAAAA"))
    add("Groq key", "gsk_{}", ALNUM, 52)
    add("Replicate token", "r8_{}", ALNUM, 37)
    add("xAI key", "xai-{}", ALNUM, 80)
    add("Perplexity key", "pplx-{}", ALNUM, 48)
    add("OpenRouter key", "sk-or-v1-{}", HEX, 64)
    add("Docker token", "dckr_pat_{}", ALNUM, 27)
    add("RubyGems key", "rubygems_{}", HEX, 48)
    add("Figma token", "figd_{}", ALNUM, 40)
    add("Postman key", f"PMAK-{of(HEX, 24)}-{{}}", HEX, 34)
    add("Dynatrace token", f"dt0c01.{of(UPPER32, 24)}.{{}}", UPPER32, 64)
    add("New Relic key", "NRAK-{}", UPPER32, 27)
    add("Pulumi token", "pul-{}", HEX, 40)
    add("PlanetScale token", "pscale_tkn_{}", ALNUM, 43)
    add("Airtable token", f"pat{of(ALNUM, 14)}.{{}}", HEX, 64)
    add("Buildkite token", "bkua_{}", HEX, 40)
    add("Atlassian token", f"ATATT3xFfGF0{{}}={of(HEX, 8).upper()}", ALNUM, 171)
    return tuple(secrets)


# -- secrets that are known by what stands around them -----------------------------------------------------


@cache
def by_surroundings() -> tuple[Secret, ...]:
    """Secrets without a form of their own, as commands, configurations and messages show them."""
    make = Maker(SEED + 1)
    secrets: list[Secret] = []

    def add(kind: str, text: str, alphabet: str = ALNUM, count: int = 24, encode: str = "") -> None:
        value = make.of(alphabet, count)
        shown = base64.b64encode(encode.encode() + value.encode()).decode() if encode else value
        secrets.append(Secret(kind, text.replace("SECRET", shown), value, value))

    add("AWS secret key", "aws_secret_access_key = SECRET", count=40)
    add("password in a URL", "git clone https://bob:SECRET@git.example.com/a.git")
    add("token in a URL", "https://SECRET@github.com/a/b.git", count=30)
    add("token= in a query", "GET https://api.example.com/v1/x?page=2&token=SECRET&sort=asc")
    add("access_token= in a query", "https://api.example.com/me?access_token=SECRET")
    add(
        "sig= of a shared access signature",
        "https://a.blob.core.windows.net/c/f?sv=2024-11-04&sr=b&sp=r&se=2026-05-02T00%3A00%3A00Z&sig=SECRET%3D",
        count=43,
    )
    add(
        "storage account's key",
        "DefaultEndpointsProtocol=https;AccountName=shop;AccountKey=SECRET==;EndpointSuffix=core.windows.net",
        count=86,
    )
    add("bearer header", "Authorization: Bearer SECRET", count=40)
    add("basic header", "Authorization: Basic SECRET", count=30, encode="bob:")
    add(
        "curl with a header", "curl -s -H 'Authorization: Bearer SECRET' https://api.example.com/v1", count=40
    )
    add("curl with a key's header", 'curl -H "X-Api-Key: SECRET" https://api.example.com/v1', count=32)
    add("curl -u", "curl -u admin:SECRET https://api.example.com/v1")
    add("cookie", "Cookie: theme=dark; session_token=SECRET", count=40)
    add("set-cookie", "Set-Cookie: session_token=SECRET; Path=/; HttpOnly", count=40)
    add(".env line", "DB_HOST=db\nDB_PASSWORD=SECRET\nDB_PORT=5432\n")
    add("quoted .env line", 'SMTP_PASSWORD="SECRET"\n')
    add("export", "export PAYMENT_API_KEY=SECRET", count=32)
    add("docker -e", "docker run -e API_TOKEN=SECRET -p 80:80 web", count=32)
    add("database URL", "postgres://shop:SECRET@db.internal:5432/shop")
    add("Redis URL", "redis://:SECRET@cache:6379/0")
    add("JDBC URL", "jdbc:postgresql://db/shop?user=shop&password=SECRET&ssl=true")
    add("connection string", "Server=db;Database=shop;User Id=sa;Password=SECRET;Encrypt=true")
    add("SQL", "CREATE USER 'shop'@'%' IDENTIFIED BY 'SECRET';")
    add("SQL of PostgreSQL", "ALTER ROLE shop WITH LOGIN PASSWORD 'SECRET';")
    add("YAML", 'database:\n  user: shop\n  password: "SECRET"\n')
    add("Kubernetes secret", "kind: Secret\ndata:\n  password: SECRET\n", encode="pass-")
    add("netrc", "machine api.example.com login bob password SECRET\n")
    add("npmrc", "//registry.npmjs.org/:_authToken=SECRET\n", count=36)
    add("JSON in a text", '{"user": "bob", "client_secret": "SECRET", "scope": "all"}', count=32)
    add("JSON in JSON in a text", r'{"body": "{\"client_secret\": \"SECRET\", \"a\": 1}"}', count=32)
    add("JSON twice escaped", r'"{\\\"client_secret\\\": \\\"SECRET\\\", \\\"a\\\": 1}"', count=32)
    pem, body = make.pem("RSA PRIVATE KEY", "MIIEowIBAAKCAQEA")
    escaped = pem.replace("\n", "\\n")
    secrets.append(Secret("private key on one line", f'{{"key": "{escaped}"}}', pem, body[:48]))
    return tuple(secrets)


KNOWN = {
    "DEPLOY_TOKEN": "s3cr3t-v4lue-that-nobody-may-keep",
    "SHOP_PASSWORD": 'q"uo\\te d&/ü?=+%20 end9',
    "MAIL_API_KEY": "k3y+with/slashes==and+plus/7Hq2",
    "SESSION_SECRET": "Zm9vYmFyMTIzNDU2Nzg5MGFiY2RlZg",
}
"""Values the runtime knows from its environment."""


@cache
def known_values() -> tuple[Secret, ...]:
    """The same, as they are and in the spellings whose characters nothing spells anew."""
    return tuple(
        Secret(f"{name} {spelling}".strip(), text, value, value)
        for name, value in KNOWN.items()
        for spelling, text in _encoded(value).items()
    )


@cache
def escaped_values() -> tuple[Secret, ...]:
    """The same, in the spellings that escape characters: each is looked for once, not within another."""
    return tuple(
        Secret(f"{name} {spelling}", text, value, value)
        for name, value in KNOWN.items()
        for spelling, text in _escaped(value).items()
    )


def _encoded(value: str) -> dict[str, str]:
    data = value.encode()
    return {
        "": value,
        "URL": f"https://example.com/?q={quote(value, safe='')}&x=1",
        "form": f"q={quote_plus(value)}&x=1",
        "hex": data.hex(),
        "HEX": data.hex().upper(),
        "base64": base64.b64encode(data).decode(),
        "base64, one byte before": base64.b64encode(b"a" + data + b"zz").decode(),
        "base64, two bytes before": base64.b64encode(b"a:" + data + b"z").decode(),
        "base64url": base64.urlsafe_b64encode(b"id:" + data).rstrip(b"=").decode(),
    }


def _escaped(value: str) -> dict[str, str]:
    return {
        "JSON": msgspec.json.encode({"v": value}).decode(),
        "JSON in ASCII": json.dumps({"v": value}),
        "repr": f"KeyError({value!r})",
        "repr in ASCII": f"KeyError({value!a})",
    }


# -- looking for them ---------------------------------------------------------------------------------------


def spellings_of(piece: str) -> dict[str, bytes]:
    """How a stretch of a secret may be written."""
    data = piece.encode()
    written = {
        "as it is": data,
        "JSON": msgspec.json.encode(piece)[1:-1],
        "JSON in ASCII": json.dumps(piece).encode()[1:-1],
        "repr": repr(piece).encode()[1:-1],
        "repr in ASCII": ascii(piece).encode()[1:-1],
        "URL": quote(piece, safe="").encode(),
        "url": quote(piece, safe="").lower().encode(),
        "form": quote_plus(piece).encode(),
        "hex": data.hex().encode(),
        "HEX": data.hex().upper().encode(),
    }
    for before in range(3):
        core = _base64_core(data, before)
        written[f"base64+{before}"] = core
        written[f"base64url+{before}"] = core.translate(bytes.maketrans(b"+/", b"-_"))
    seen: dict[bytes, str] = {}
    for name, needle in written.items():
        seen.setdefault(needle, name)
    return {name: needle for needle, name in seen.items()}


def _base64_core(data: bytes, before: int) -> bytes:
    """The characters of Base64 that these bytes alone decide, with so many others before them."""
    whole = base64.b64encode(b"\0" * before + data + b"\0" * 3)
    return whole[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]


@cache
def _needles(secret: Secret) -> tuple[tuple[str, bytes], ...]:
    return tuple(item for piece in secret.pieces for item in spellings_of(piece).items())


def traces_of(secret: Secret, data: bytes) -> dict[str, str]:
    """The spellings in which something of the secret stands in the bytes, each with what stands around it."""
    found: dict[str, str] = {}
    for spelling, needle in _needles(secret):
        at = data.find(needle)
        if at >= 0:
            found.setdefault(spelling, repr(data[max(0, at - AROUND) : at + len(needle) + AROUND])[2:-1])
    return found


def files_of(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Everything in a store: names, each file's bytes, blobs also unpacked, and the words of the index."""
    names: list[str] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        names.append(name)
        if not path.is_file():
            continue
        data = path.read_bytes()
        yield name, data
        if data[:4] == zstandard.MAGIC_NUMBER.to_bytes(4, "little"):
            yield f"{name} (unpacked)", zstandard.ZstdDecompressor().stream_reader(data).read()
        if name == "index.db":
            yield f"{name} (words)", "\n".join(_words_of(path)).encode()
    yield "names of files", "\n".join(names).encode()


def _words_of(database: Path) -> Iterator[str]:
    """The full text's words: SQLite keeps of each only what differs from the one before."""
    index = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY)
    index.execute("PRAGMA temp_store = memory")
    try:
        for table in ("call_text", "run_text"):
            index.execute(f"CREATE VIRTUAL TABLE temp.words_{table} USING fts5vocab(main, {table}, row)")
            yield from (term for (term,) in index.execute(f"SELECT term FROM temp.words_{table}"))
    finally:
        index.close()


def leaks(secrets: Iterable[Secret], stretches: Iterable[tuple[str, bytes]]) -> list[str]:
    """`KIND in NAME as SPELLING: …` for all that is left of any of them."""
    found: list[str] = []
    different = tuple({secret.random: secret for secret in reversed(list(secrets))}.values())
    for name, data in stretches:
        data = _ZEROS.sub(b"", data)
        if not name.endswith("(words)") and _any_needle(different).search(data) is None:
            continue
        for secret in different:
            if name.endswith("(words)"):
                traces = {"a word": ""} if any(_as_words(secret, data)) else {}
            else:
                traces = traces_of(secret, data)
            found += [f"{secret.kind} in {name} as {how}: {around}" for how, around in traces.items()]
    return found


_ZEROS = re.compile(rb"\0{64,}")
"""Segments are filled with them ahead."""


@cache
def _any_needle(secrets: tuple[Secret, ...]) -> Any:
    """Finds whether there is anything at all; a thousand searches say what."""
    needles = sorted({needle for secret in secrets for _, needle in _needles(secret)})
    options = re2.Options()
    options.max_mem = 1 << 30
    return re2.compile(b"|".join(map(re2.escape, needles)), options)


def _as_words(secret: Secret, words: bytes) -> Iterator[bool]:
    for piece in secret.pieces:
        word = max("".join(c if c.isalnum() else " " for c in piece.lower()).split(), key=len, default="")
        yield len(word) >= 7 and word.encode() in words


def no_trace(secrets: Iterable[Secret], folder: Path) -> None:
    """Fails with the list of what is left of the secrets in a store."""
    __tracebackhide__ = True
    found = leaks(secrets, files_of(folder))
    assert found == [], f"{len(found)} traces:\n" + "\n".join(found)
