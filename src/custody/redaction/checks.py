"""Whether text of a secret's format is one: checksums, and what tells a key from a placeholder.

Owns the functions that rules name in `check`. Each takes the secret's bytes and answers yes or no; none
raises, whatever the bytes. Where a provider publishes a checksum it decides; elsewhere a test of variety
stands on top of a format that is selective by itself, so that `ghp_xxxx…`, `YOUR_TOKEN` and `${TOKEN}` are no
secrets. Nothing is a secret by its entropy alone. Knows nothing of rules. Used by the scanner.
"""

import re
import zlib
from collections import Counter
from collections.abc import Callable

# -- placeholders --------------------------------------------------------------------------------------

_PLACEHOLDER = re.compile(
    rb"(?i:example|placeholder|changeme|change[-_]me|redacted|yourtoken|yourkey|yourapi|yoursecret|deadbeef"
    rb"|replaceme|1234567890|0123456789|12345678[^9]|abcdefgh|987654321)"
    rb"|xxxxx|XXXXX|(?:your|YOUR|Your)[-_]|[-_](?:your|YOUR|dummy|DUMMY|fake|FAKE)|(?:insert|INSERT|dummy|DUMMY|sample|SAMPLE)[-_]"
    rb"|(?:fake|FAKE|todo|TODO)[-_]|(?:replace|REPLACE)[-_]?(?:me|ME|with|WITH)|[-_](?:here|HERE)\b"
    rb"|\.\.\.|\xe2\x80\xa6|\*\*\*"
)
"""What documents write where a secret goes. Each is too long to stand in a random text by chance."""

_ONE_CHARACTER = re.compile(rb"(.)\1{7}", re.DOTALL)

_TEMPLATE = re.compile(
    rb"&(?:lt|#x3[Cc]|#60);|\$\{|\$\(|\$\[|\{\{|\}\}|<[A-Za-z_][^<>]{0,63}>|%\([A-Za-z_]|\{(?:[A-Za-z_][^{}]{0,60})?\}"
)
_VARIABLE = re.compile(rb"\$[A-Za-z_]\w*\W*|%[A-Za-z_]\w*%|[^%]{0,16}%[sdr]\W*|\$[0-9@*]")
"""A place that a shell, a template or a formatting call fills."""

_DISTINCT_MIN = 7
"""Different characters in a text of 20 and more. A random one of 20 hexadecimal digits has fewer once in a
million, a placeholder nearly always."""

JUDGED_BYTES_MAX = 1024
"""Of a secret without a checksum: what follows says nothing new of it, and a text may be made to be long."""


def is_placeholder(secret: bytes) -> bool:
    """Whether the text only shows where a secret goes."""
    secret = secret[:JUDGED_BYTES_MAX]
    return _PLACEHOLDER.search(secret) is not None or _ONE_CHARACTER.search(secret) is not None


def varied(secret: bytes) -> bool:
    """Not a placeholder, and of as many different characters as random text of that length has."""
    if is_placeholder(secret):
        return False
    secret = secret[:JUDGED_BYTES_MAX]
    return len(set(secret)) >= min(_DISTINCT_MIN, max(3, len(secret) // 3))


def _is_filled_in(secret: bytes) -> bool:
    """Whether something else stands there when the text is used."""
    secret = secret[:JUDGED_BYTES_MAX]
    return _TEMPLATE.search(secret) is not None or _VARIABLE.fullmatch(secret) is not None


_WORDS = re.compile(rb"[a-z]?(?>[A-Z]?[a-z]{2,}+|[A-Z]{2,}+|[0-9]{1,4}+|[-_.~/+=]|[A-Za-z](?![A-Za-z0-9]))*+")
_WORD = re.compile(rb"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_WORD_CHARACTERS_MIN = 4.5
"""Of names of code, on average. Random text that can be cut into words at all has shorter ones."""


def _is_words(secret: bytes) -> bool:
    """Names of code: words joined by capitals or signs, with numbers between them."""
    if _WORDS.fullmatch(secret) is None:
        return False
    words = _WORD.findall(secret)
    return sum(map(len, words)) >= _WORD_CHARACTERS_MIN * len(words)


def mixed(secret: bytes) -> bool:
    """`lettered`, and not put together from words: as random text in base62 is, and few names are."""
    return lettered(secret) and not _is_words(secret[:JUDGED_BYTES_MAX])


def _sorts(secret: bytes) -> set[str]:
    """Which of capitals, small letters and digits stand in it."""
    sorts = {"A": rb"[A-Z]", "a": rb"[a-z]", "0": rb"[0-9]"}
    return {sort for sort, pattern in sorts.items() if re.search(pattern, secret[:JUDGED_BYTES_MAX])}


def lettered(secret: bytes) -> bool:
    """`varied`, with letters of both cases or letters and digits."""
    return varied(secret) and len(_sorts(secret)) >= 2


def both_cases(secret: bytes) -> bool:
    """`varied`, with capitals and small letters: no hexadecimal digest."""
    return varied(secret) and _sorts(secret) >= {"A", "a"}


# -- checksums -----------------------------------------------------------------------------------------

_BASE62 = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_CHECKED_CHARACTERS = 30
_LONG_TOKEN_CHARACTERS_MIN = 60


def _base62(number: int, digits: int) -> bytes:
    out = bytearray()
    for _ in range(digits):
        number, digit = divmod(number, 62)
        out.append(_BASE62[digit])
    return bytes(reversed(out))


def github(secret: bytes) -> bool:
    """A prefix of four, 30 characters and their CRC-32 as six digits of base62 ("Behind GitHub's new
    authentication token formats", 2021). Longer tokens (`ghr_`) are not known to carry one."""
    body = secret[4:]
    checked, checksum = body[:_CHECKED_CHARACTERS], body[_CHECKED_CHARACTERS : _CHECKED_CHARACTERS + 6]
    if len(checksum) == 6 and _base62(zlib.crc32(checked), 6) == checksum:
        return True
    return len(body) >= _LONG_TOKEN_CHARACTERS_MIN and varied(body)


def grafana(secret: bytes) -> bool:
    """`glsa_`, 32 characters, `_` and the CRC-32 of all before it, its bytes little-endian in hexadecimal."""
    checked, _, checksum = secret.rpartition(b"_")
    return zlib.crc32(checked).to_bytes(4, "little").hex().encode() == checksum.lower()


_BECH32 = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_BECH32_GENERATORS = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def bech32_remainder(prefix: bytes, values: list[int]) -> int:
    """The checksum's polynomial over a human-readable part and its data (BIP 173); 1 where they agree."""
    remainder = 1
    spread = [byte >> 5 for byte in prefix] + [0] + [byte & 31 for byte in prefix]
    for value in spread + values:
        top = remainder >> 25
        remainder = (remainder & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_BECH32_GENERATORS):
            if top >> bit & 1:
                remainder ^= generator
    return remainder


def bech32(secret: bytes) -> bool:
    """A Bech32 text of one case whose checksum holds (`AGE-SECRET-KEY-1…`)."""
    if secret not in (secret.upper(), secret.lower()):
        return False
    prefix, _, data = secret.lower().rpartition(b"1")
    values = [_BECH32.find(byte) for byte in data]
    return bool(prefix) and min(values, default=-1) >= 0 and bech32_remainder(prefix, values) == 1


# -- what is inside ------------------------------------------------------------------------------------


def unbase64(data: bytes) -> bytes:
    """What base64 or base64url stands for, padded or not; nothing where it is neither."""
    import binascii

    data = data.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    try:
        return binascii.a2b_base64(data + b"=" * (-len(data) % 4))
    except ValueError:
        return b""


def jwt(secret: bytes) -> bool:
    """Its first part is a JOSE header (RFC 7515, section 4; RFC 7516): JSON with `alg` or `enc`."""
    header = unbase64(secret.partition(b".")[0])
    if header.lstrip()[:1] != b"{":
        return False
    import msgspec

    try:
        fields = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return "alg" in fields or "enc" in fields


def _printable(data: bytes) -> bool:
    return (
        all(byte >= 0x20 and byte != 0x7F for byte in data) and data.decode("utf-8", "replace").isprintable()
    )


def basic(secret: bytes) -> bool:
    """The credentials of HTTP Basic (RFC 7617): base64 of `name:password`, the password not a placeholder."""
    name, colon, password = unbase64(secret).partition(b":")
    if not colon or not password or not _printable(name + password):
        return False
    return not _is_filled_in(password) and password.strip(b"*xX.") != b""


def discord(secret: bytes) -> bool:
    """Its first part is a bot's number in base64."""
    number = unbase64(secret.partition(b".")[0])
    return number.isdigit() and len(number) >= 16 and varied(secret)


_KEY_LINE = re.compile(rb"[A-Za-z0-9+/]{24,}")


def key_block(secret: bytes) -> bool:
    """Between the lines that begin and end a private key there is one: base64 of some length and variety; no
    expression that puts a key together, and not one shortened for a document."""
    lines = [line for line in _KEY_LINE.findall(secret) if len(set(line)) >= _DISTINCT_MIN]
    shortened = _SHORTENED.search(secret) is not None
    return len(lines) >= (_SHORTENED_LINES_MIN if shortened else 1)


_SHORTENED = re.compile(rb"\.\.\.|\xe2\x80\xa6|example|placeholder|your[-_ ]|<[a-z]", re.IGNORECASE)
_SHORTENED_LINES_MIN = 3
"""Of a key that says it is none: so much may be a real one all the same."""


# -- what people write after `password =` --------------------------------------------------------------

_WORD_OF_CODE = re.compile(
    rb"[A-Za-z_]\w*(?:(?:\.|->|::)[A-Za-z_]\w*)+|[A-Za-z_][\w.:]*[(\[].*|(?!.*[A-Za-z0-9+]{20})(?:~|\.{0,2})/[\w.@/+-]*"
    rb"|[A-Za-z][A-Za-z0-9+.-]*://.*|[\w.+-]+@[\w-]+(?:\.[\w-]+)+|sha(?:1|256|384|512)[:-].*|arn:.*|projects/.*"
    rb"|[0-9.,:+TZ/_-]+|0[xX][0-9A-Fa-f]+|(?:[A-Za-z]?[a-z]{1,14}|[A-Z]{1,15})[-_]?[vV]?[0-9]{0,2}"
    rb"|[A-Za-z]{1,15}(?:[-_./:][A-Za-z]{1,15})+[-_./:]?[vV]?[0-9]{0,2}"
    rb"|[A-Za-z]{1,15}(?:[-_./:][A-Za-z]{1,15}[0-9]{0,4})+|[A-Z]{1,6}[0-9]{0,4}(?:[-_][A-Z]{0,6}[0-9]{0,4}){1,4}",
    re.DOTALL,
)
"""An attribute, a call, a path, a URL, an address, a digest, a number, words joined by signs and a short
number behind them, a constant's name: none of them says of itself that it is a secret."""

_TURNS_MIN = 2
"""Changes between letters and digits: `s3cr3t` has four, `password123` and `utf8` one."""


def _turns(secret: bytes) -> int:
    return len(re.findall(rb"(?<=[A-Za-z])[0-9]|(?<=[0-9])[A-Za-z]", secret[:JUDGED_BYTES_MAX]))


def _literal(secret: bytes) -> bool:
    """A value written out, neither a placeholder nor something to be looked up or computed."""
    secret = secret[:JUDGED_BYTES_MAX]
    if is_placeholder(secret) or _is_filled_in(secret) or _WORD_OF_CODE.fullmatch(secret):
        return False
    return len(set(secret)) >= 5 and re.search(rb"[A-Za-z]", secret) is not None


def assigned(secret: bytes) -> bool:
    """A literal that is no word: digits among letters, or three kinds of characters over some length."""
    secret = secret.rstrip(b")]},;.:")
    return _literal(secret) and (_turns(secret) >= _TURNS_MIN or (len(secret) >= 16 and mixed(secret)))


def password(secret: bytes) -> bool:
    """A literal somebody chose: letters with digits or signs; a word with a number (`hunter2`) too, unless it
    is one that forms and examples use."""
    if _WORD_AND_NUMBER.fullmatch(secret):
        return not is_placeholder(secret) and _WORD_OF_FORMS.search(secret) is None
    return _literal(secret) and (_DIGIT_OR_SIGN.search(secret) is not None or assigned(secret))


_WORD_AND_NUMBER = re.compile(rb"[A-Za-z]{5,15}[0-9]{1,4}")
_WORD_OF_FORMS = re.compile(
    rb"pass|pwd|secret|token|field|input|label|string|value|test|user|step|text|utf", re.IGNORECASE
)


_BARE_END = re.compile(rb"[;&,|)\]}]")
_CLASS_NAME = re.compile(
    rb"(?:[A-Z][a-z]{2,}[0-9]*){2,}|(?=[A-Za-z0-9]{10})[A-Z][A-Za-z]+[0-9]{0,5}[A-Za-z]*(?:Keys?|[A-Z][a-z]{3,})"
    rb"|[a-z]+[0-9]*(?:_[a-z]+[0-9]*)+"
)
"""A class or a variable, which needs no quotes: `Ed25519PrivateKey`, `OAuth2Token`, `token_2`."""


def _bare(secret: bytes) -> bytes:
    """Of a value without quotes what is surely its own; nothing where it could be a name of code."""
    if _is_filled_in(secret):
        return b""
    value = _BARE_END.split(secret[:JUDGED_BYTES_MAX], maxsplit=1)[0].rstrip(b".:=") or secret
    return b"" if _is_name_of_code(value) else value


_NAME_CHARACTERS_MAX = 40


def _is_name_of_code(text: bytes) -> bool:
    """Random text of that form has more capitals."""
    if len(text) > _NAME_CHARACTERS_MAX or _CLASS_NAME.fullmatch(text) is None:
        return False
    small, capital = (len(re.findall(letters, text)) for letters in (rb"[a-z]", rb"[A-Z]"))
    return 2 * small >= len(text) and 3 * capital <= len(text) + _ACRONYM_CHARACTERS


_ACRONYM_CHARACTERS = 2
"""Capitals allowed beyond one in three characters."""


def assigned_bare(secret: bytes) -> bool:
    """`assigned`, of a value without quotes."""
    return assigned(_bare(secret))


def password_bare(secret: bytes) -> bool:
    """Of a value without quotes: letters with digits or signs, and no name of code."""
    value = _bare(secret)
    return _literal(value) and (_DIGIT_OR_SIGN.search(value) is not None or assigned(value))


_DIGIT_OR_SIGN = re.compile(rb"[0-9!@#$%^&*+=?~]")


def given(secret: bytes) -> bool:
    """What stands where a command or a statement takes a password: whatever is no place to be filled."""
    if is_placeholder(secret) or _is_filled_in(secret):
        return False
    return secret.lower().strip(b",;()[]{}\"'") not in _STAND_INS


_STAND_INS = frozenset({
    b"password", b"passwd", b"pass", b"secret", b"token", b"prompt", b"none", b"null", b"str", b"name",
    b"user", b"this",
})  # fmt: skip


def credential(secret: bytes) -> bool:
    """What stands after `Bearer`: no word and no placeholder."""
    return assigned(secret) or (len(secret) >= 24 and both_cases(secret) and entropy(secret) >= _ENTROPY_MIN)


_ENTROPY_MIN = 4.2
"""Bits a character that long names of programs do not reach."""


def cookies(secret: bytes) -> bool:
    """A list of `name=value` with a value among them that is a key to something."""
    values = [pair.partition(b"=")[2].strip() for pair in secret.split(b";")]
    return any(len(value) >= 8 and assigned(value) for value in values)


def entropy(secret: bytes) -> float:
    """Bits a character, by how often each occurs (Shannon 1948)."""
    from math import log2

    counts = Counter(secret).values()
    return -sum(count / len(secret) * log2(count / len(secret)) for count in counts)


CHECKS: dict[str, Callable[[bytes], bool]] = {
    check.__name__: check
    for check in (
        varied, mixed, lettered, both_cases, github, grafana, bech32, jwt, basic, discord, key_block,
        assigned, assigned_bare, password, password_bare, given, credential, cookies,
    )
}  # fmt: skip
"""By the name a rule gives."""
