"""Checkpoints: what was on the record when, signed, as text that other programs read too.

Owns the form of a note (C2SP signed-note and tlog-checkpoint), of its Ed25519 keys (Go's note package) and
of a store's checkpoint log. Pure: knows nothing of files or of when a checkpoint is due. Used by
`checkpoints`, which makes them, and by `verify`, bundles and proofs, which read them.

    custody-store/<32 hex>                the origin, which is the key's name too
    <n>                                   how many checkpoints there are, this one included
    <base64>                              root of the RFC 6962 tree over the statements of all of them
    time 2026-11-21T14:45:00.000000Z      from here on this one's own statement:
    shard 1 4711 <base64>                 how many leaves each shard's tree had, and their root
    shard 2 12 <base64>

    — custody-store/<32 hex> <base64 of the key's hash and the signature>

The statement of a checkpoint is number `size - 1` of the log's own tree, so each one commits to all before
it. The log is its notes one after another with an empty line between them: split at empty lines, texts
and signatures take turns.
"""

import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from custody.errors import CustodyError, MalformedKey, MalformedNote
from custody.journal.frames import sha256
from custody.journal.tree import Frontier
from custody.records import rfc3339

ORIGIN_PREFIX = "custody-store/"
SIGNATURE_START = "\N{EM DASH} "
PRIVATE_START = "PRIVATE+KEY+"

ED25519 = b"\x01"
"""The kind of key in a note's key hash and in its verifier line."""

KEY_HASH_BYTES = 4
HASH_BYTES = 32
SEED_BYTES = 32
SIGNATURE_BYTES = 64

NOTE_BYTES_MAX = 1_000_000
"""As Go's note package: what is larger is no note. A shard takes some 60 bytes of it."""

SIGNATURES_MAX = 100
"""As Go's note package, so that a hostile note cannot keep a reader busy."""

ROOM_FOR_DIGITS = 20
"""Of a number: more digits than 2**64 has are not read as one."""


class Head(Struct, frozen=True):
    """How far a shard is signed."""

    size: int
    root: bytes


class Checkpoint(Struct, frozen=True):
    """What a note says. `heads` maps shards to how far they are signed; shards ascend."""

    origin: str
    size: int
    root: bytes
    time: str
    """RFC 3339, UTC, with microseconds."""
    heads: dict[int, Head]
    others: tuple[str, ...] = ()
    """Extension lines of a later version, kept so that the statement stays what was signed."""

    @property
    def statement(self) -> bytes:
        """The leaf of this checkpoint in the log's own tree."""
        return statement_of(self.time, self.heads, self.others)

    @property
    def text(self) -> bytes:
        """What is signed."""
        head = f"{self.origin}\n{self.size}\n{_base64(self.root)}\n"
        return head.encode() + self.statement


class Signature(Struct, frozen=True):
    name: str
    key_hash: bytes
    signature: bytes

    def line(self) -> bytes:
        return f"{SIGNATURE_START}{self.name} {_base64(self.key_hash + self.signature)}\n".encode()


class Note(Struct, frozen=True):
    """A checkpoint with its signatures. `data` is the note as it stands in a file."""

    checkpoint: Checkpoint
    text: bytes
    signatures: tuple[Signature, ...]

    @property
    def data(self) -> bytes:
        return self.text + b"\n" + b"".join(signature.line() for signature in self.signatures)

    def signed_by(self, verifiers: Iterable["Verifier"]) -> "list[Verifier]":
        """Those whose signature on this note is good. A bad one of a known key makes it an empty list, as
        C2SP signed-note demands."""
        good: list[Verifier] = []
        for verifier in verifiers:
            for signature in self.signatures:
                if (signature.name, signature.key_hash) == (verifier.name, verifier.key_hash):
                    if not verifier.verify(self.text, signature.signature):
                        return []
                    good.append(verifier)
        return good


class Log(Struct, frozen=True):
    """A store's checkpoint log as far as it can be read."""

    notes: list[Note]
    offsets: list[int]
    """Where each note begins."""
    end: int
    """Behind the last note: what follows is its torn tail."""
    torn: bytes = b""
    """An interrupted write; the next sealer cuts it."""


# -- statements and notes -------------------------------------------------------------------------------


def statement_of(time: str, heads: Mapping[int, Head], others: Sequence[str] = ()) -> bytes:
    """The statement of a checkpoint: its extension lines."""
    lines = [f"time {time}"]
    lines += [f"shard {shard} {head.size} {_base64(head.root)}" for shard, head in sorted(heads.items())]
    return "".join(f"{line}\n" for line in (*lines, *others)).encode()


def next_checkpoint(origin: str, log: Frontier, time_us: int, heads: Mapping[int, Head]) -> Checkpoint:
    """The checkpoint that follows those of `log`, which gets its statement."""
    time = rfc3339(time_us)
    log.add_leaf(statement_of(time, heads))
    return Checkpoint(origin, log.size, log.root(), time, dict(sorted(heads.items())))


def sign_note(checkpoint: Checkpoint, signers: "Sequence[Signer]") -> Note:
    """The note, with a signature of each."""
    text = checkpoint.text
    signatures = (Signature(signer.name, signer.key_hash, signer.sign(text)) for signer in signers)
    return Note(checkpoint, text, tuple(signatures))


def split_note(data: bytes) -> tuple[bytes, tuple[Signature, ...]]:
    """Text and signatures of any C2SP signed note. Raises MalformedNote."""
    if len(data) > NOTE_BYTES_MAX:
        raise MalformedNote(f"A note has at most {NOTE_BYTES_MAX} bytes; this has {len(data)}.")
    if _CONTROL.search(data):
        raise MalformedNote("A note has no control characters.")
    text, found, signed = data.rpartition(b"\n\n")
    if not found or not signed.endswith(b"\n"):
        raise MalformedNote("A note ends with an empty line and its signatures.")
    lines = _decoded(signed)[:-1].split("\n")
    if len(lines) > SIGNATURES_MAX:
        raise MalformedNote(f"A note has at most {SIGNATURES_MAX} signatures; this has {len(lines)}.")
    return text + b"\n", tuple(map(_parse_signature, lines))


def parse_note(data: bytes) -> Note:
    """A checkpoint of ours. Raises MalformedNote; says nothing of whether its signatures are good."""
    text, signatures = split_note(data)
    return Note(_parse_text(text), text, signatures)


def parse_log(data: bytes, *, all_durable: bool = True) -> Log:
    """All notes of a checkpoint log. Raises MalformedNote with `offset` for one that is not readable and is
    followed by others, or that was not merely interrupted.

    If they are not `all_durable`, one that is not readable is where the torn tail begins: a power loss may
    leave a later one behind it.
    """
    notes: list[Note] = []
    offsets: list[int] = []
    end = start = 0
    while start < len(data):
        stop = _end_of_note(data, start)
        try:
            between = data[end:start]
            if stop is None or between not in (b"", b"\n"):
                raise MalformedNote("A note ends with an empty line and its signatures.")
            note = parse_note(data[start:stop])
        except MalformedNote as error:
            if not all_durable or _is_torn(data[start:]):
                break
            raise MalformedNote(
                f"Checkpoint {len(notes) + 1} of the log is not readable: {error.message}",
                number=len(notes) + 1, offset=start,
            ) from error  # fmt: skip
        notes.append(note)
        offsets.append(start)
        end = stop
        start = stop + 1
    return Log(notes, offsets, end, data[end:])


def _end_of_note(data: bytes, start: int) -> int | None:
    """Behind the signatures of the note at `start`; None when they are not there."""
    divide = data.find(b"\n\n", start)
    if divide < 0:
        return None
    stop = first = divide + 2
    while data.startswith(_SIGNATURE, stop) and (end := data.find(b"\n", stop)) >= 0:
        stop = end + 1
    return stop if stop > first else None


def _is_torn(rest: bytes) -> bool:
    """Whether an interrupted write leaves this: the beginning of a note, or one with zeros where bytes were
    to come, and none behind it."""
    zero = rest.rfind(b"\0")
    if zero >= 0:
        return b"\n\n" + ORIGIN_PREFIX.encode() not in rest[zero:]
    return _SIGNED.search(rest) is None


_SIGNATURE = SIGNATURE_START.encode()
_SIGNED = re.compile(b"\n\n" + _SIGNATURE + rb"[^\n]*\n")
_CONTROL = re.compile(rb"[\x00-\x09\x0b-\x1f\x7f]")
_SHARD = re.compile(r"shard ([1-9][0-9]*) (0|[1-9][0-9]*) ([A-Za-z0-9+/]{43}=)")
_TIME = re.compile(r"time ([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z)")
_ORIGIN = re.compile(re.escape(ORIGIN_PREFIX) + r"[0-9a-f]{32}")
_SIZE = re.compile(r"[1-9][0-9]*")


def _parse_text(text: bytes) -> Checkpoint:
    lines = _decoded(text)[:-1].split("\n")
    if len(lines) < 4:
        raise MalformedNote("A checkpoint has an origin, a size, a root and a statement.")
    origin, size, root, time, *rest = lines
    found = _TIME.fullmatch(time)
    if not _ORIGIN.fullmatch(origin) or found is None or not _SIZE.fullmatch(size):
        raise MalformedNote("The first lines of the checkpoint are not those of a Custody store.")
    heads: dict[int, Head] = {}
    others: list[str] = []
    for line in rest:
        head = None if others else _SHARD.fullmatch(line)
        if head is None:
            if not line or line.startswith(("shard ", "time ")):
                raise MalformedNote("A line of the checkpoint cannot be understood.", line=line)
            others.append(line)
            continue
        shard = _number(head[1])
        if heads and shard <= next(reversed(heads)):
            raise MalformedNote("The shards of a checkpoint ascend.", line=line)
        heads[shard] = Head(_number(head[2]), _from_base64(head[3], HASH_BYTES, MalformedNote))
    checkpoint = Checkpoint(
        origin, _number(size), _from_base64(root, HASH_BYTES, MalformedNote), found[1], heads, tuple(others)
    )
    if checkpoint.text != text:
        raise MalformedNote("The checkpoint is not in the one spelling it has.")
    return checkpoint


def _parse_signature(line: str) -> Signature:
    name, _, encoded = line.removeprefix(SIGNATURE_START).partition(" ")
    if not line.startswith(SIGNATURE_START) or not name or "+" in name:
        raise MalformedNote("A signature line is an em dash, a name and base64.")
    data = _from_base64(encoded, None, MalformedNote)
    if len(data) <= KEY_HASH_BYTES:
        raise MalformedNote("A signature is too short.")
    return Signature(name, data[:KEY_HASH_BYTES], data[KEY_HASH_BYTES:])


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise MalformedNote("A note is UTF-8 text.") from error


def _number(digits: str) -> int:
    if len(digits) > ROOM_FOR_DIGITS:
        raise MalformedNote("A number of the checkpoint is too large.")
    return int(digits)


def _base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


def _from_base64(text: str, count: int | None, error: type[CustodyError]) -> bytes:
    """Standard base64 in its one spelling, of `count` bytes."""
    try:
        data = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except (ValueError, UnicodeEncodeError):
        raise error("What should be base64 is not.") from None
    if _base64(data) != text or (count is not None and len(data) != count):
        raise error("A base64 text has another length or spelling than it should.")
    return data


# -- keys -----------------------------------------------------------------------------------------------


def key_hash(name: str, public: bytes) -> bytes:
    """C2SP signed-note: the first four bytes of SHA-256 over name, newline, kind and key."""
    return sha256(name.encode() + b"\n" + ED25519 + public)[:KEY_HASH_BYTES]


class Verifier(Struct, frozen=True):
    """A public key: who can tell whether a note was signed by its other half."""

    name: str
    public: bytes

    @property
    def key_hash(self) -> bytes:
        return key_hash(self.name, self.public)

    @property
    def key_id(self) -> str:
        """As it stands in a verifier line."""
        return self.key_hash.hex()

    @property
    def line(self) -> str:
        return f"{self.name}+{self.key_id}+{_base64(ED25519 + self.public)}"

    @classmethod
    def parse(cls, line: str) -> "Verifier":
        """Raises MalformedKey."""
        name, hash_hex, public = _parse_key(line.strip(), "")
        verifier = cls(name, public)
        if verifier.key_id != hash_hex:
            raise MalformedKey("The key's hash is not that of the key.")
        return verifier

    def verify(self, text: bytes, signature: bytes) -> bool:
        """Loads `cryptography`."""
        if len(signature) != SIGNATURE_BYTES:
            return False
        try:
            _ed25519().from_public_bytes(self.public).verify(signature, text)
        except Exception:  # InvalidSignature, or a public key that is no point of the curve
            return False
        return True


class Signer(Struct, frozen=True):
    """A private key. Its text form is Go's: keep it as you would a password."""

    name: str
    seed: bytes

    @property
    def verifier(self) -> Verifier:
        return Verifier(self.name, _ed25519().from_private_bytes(self.seed).public_key().public_bytes_raw())

    @property
    def key_hash(self) -> bytes:
        return self.verifier.key_hash

    @property
    def line(self) -> str:
        return f"{PRIVATE_START}{self.name}+{self.verifier.key_id}+{_base64(ED25519 + self.seed)}"

    @classmethod
    def parse(cls, line: str) -> "Signer":
        """Raises MalformedKey. Loads `cryptography`."""
        name, hash_hex, seed = _parse_key(line.strip(), PRIVATE_START)
        signer = cls(name, seed)
        if signer.verifier.key_id != hash_hex:
            raise MalformedKey("The key's hash is not that of the key.")
        return signer

    def sign(self, text: bytes) -> bytes:
        """Loads `cryptography`."""
        return _ed25519().from_private_bytes(self.seed).sign(text)

    def __repr__(self) -> str:
        return f"Signer(name={self.name!r})"


def parse_verifiers(text: str) -> list[Verifier]:
    """The verifier lines of a file, empty lines left out. Raises MalformedKey."""
    return [Verifier.parse(line) for line in text.splitlines() if line.strip()]


def _parse_key(line: str, start: str) -> tuple[str, str, bytes]:
    name, _, rest = line.removeprefix(start).partition("+")
    hash_hex, _, encoded = rest.partition("+")
    if not line.startswith(start) or not _NAME.fullmatch(name) or not _KEY_HASH.fullmatch(hash_hex):
        raise MalformedKey
    data = _from_base64(encoded, len(ED25519) + SEED_BYTES, MalformedKey)
    if data[:1] != ED25519:
        raise MalformedKey("The key is of a kind that is not known here.")
    return name, hash_hex, data[1:]


_NAME = re.compile(r"[^\s+]+")
_KEY_HASH = re.compile(r"[0-9a-f]{8}")


def _ed25519() -> Any:
    """`from_private_bytes` and `from_public_bytes`: the inside of `cryptography`, which loads in 4 ms where
    its public module takes 22."""
    try:
        from cryptography.hazmat.bindings._rust import openssl

        return openssl.ed25519
    except (ImportError, AttributeError):
        return _PublicEd25519


class _PublicEd25519:
    """The same through the public names, should the inside change."""

    @staticmethod
    def from_private_bytes(seed: bytes) -> Any:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(seed)

    @staticmethod
    def from_public_bytes(public: bytes) -> Any:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        return Ed25519PublicKey.from_public_bytes(public)
