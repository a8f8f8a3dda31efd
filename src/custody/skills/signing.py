"""SKILL.sig: who says that these files are what they published.

Owns the text that is signed, a C2SP signed note over the digest of a skill's files, and the verdict on one.
Knows nothing of where skills are or of how keys come to be trusted (`trust`). Used by `catalog`, `install`,
`verify` and `custody skills sign`.

    custody-skill/v1
    pdf                                       what its publisher calls the skill
    sha256:<64 hex>                           digest of its files (`tree`); SKILL.sig itself is none of them

    — example.com/skills <base64 of the key's hash and the signature>

The digest binds every file, the front matter with the skill's name included, so a skill that is installed
under another name keeps its signature. Several keys may sign; one that counts is enough. As C2SP signed-note
demands, a bad signature in the name of a known key voids them all.
"""

import os
import re
from typing import Literal

from msgspec import Struct

from custody.errors import InvalidInput, MalformedNote
from custody.files.small import read_small_file
from custody.journal.checkpoint import SEED_BYTES, Signature, Signer, Verifier, split_note
from custody.skills.skill import SkillKind
from custody.skills.tree import SIGNATURE_FILE
from custody.skills.trust import Standing, Trust, check_key_name, line_fits

HEADER = "custody-skill/v1"

FILE_SIGNATURE_SUFFIX = ".sig"
"""Behind the name of a skill that is a single file: `notes.md.sig`."""

PRIVATE_KEY_BYTES_MAX = 16 * 1024
"""A PEM file of one Ed25519 key has 119 bytes; the rest is room for what people write around it."""

Reason = Literal["valid", "unsigned", "untrusted", "revoked", "expired", "bad_signature", "other_digest"]

_NOT_VALID: tuple[tuple[Standing, Reason], ...] = (("revoked", "revoked"), ("expired", "expired"))
"""Which of several signatures that do not count is told of: what a person decided before what time did."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class SignatureVerdict(Struct, frozen=True, kw_only=True):
    """What a skill's signature is worth here and now."""

    skill: str | None = None
    """The skill's path below its root; null where a note was looked at by itself."""
    reason: Reason
    message: str
    """A sentence; what to do where something is to be done."""
    key_id: str | None = None
    """The name of the key that this is about."""
    key_hash: str | None = None
    signed_name: str | None = None
    """What the publisher calls the skill."""

    @property
    def valid(self) -> bool:
        return self.reason == "valid"


def signature_path(path: str, kind: SkillKind) -> str:
    """Where the signature of the skill at `path` lies."""
    return os.path.join(path, SIGNATURE_FILE) if kind == "folder" else path + FILE_SIGNATURE_SUFFIX


# -- signing --------------------------------------------------------------------------------------------


def sign_tree(
    digest: str, name: str, private_key: bytes, key_name: str, *, beside: bytes | None = None
) -> bytes:
    """The bytes of SKILL.sig.

    `private_key`: 32 bytes, as `read_private_key` gives them. `beside`: a signature file that is there; what
    other keys signed in it stays where it is of the same digest and name. Raises InvalidInput.
    """
    if not _DIGEST.fullmatch(digest):
        raise InvalidInput(f"{digest!r} is no digest of a skill; one is sha256: and 64 hexadecimal digits.")
    if not line_fits(name):
        raise InvalidInput(f"{name!r} cannot stand in a signature as a name: it is one line of visible text.")
    signer = Signer(check_key_name(key_name), private_key)
    text = f"{HEADER}\n{name}\n{digest}\n".encode()
    signature = Signature(signer.name, signer.key_hash, signer.sign(text))
    others = [
        other
        for other in _signatures_of(beside, text)
        if (other.name, other.key_hash) != (signature.name, signature.key_hash)
    ]
    return text + b"\n" + b"".join(each.line() for each in (*others, signature))


def _signatures_of(note: bytes | None, text: bytes) -> tuple[Signature, ...]:
    """Those of a note with this very text; a note of another text says nothing about these files."""
    if note is None:
        return ()
    try:
        other_text, signatures = split_note(note)
    except MalformedNote:
        return ()
    return signatures if other_text == text else ()


def new_private_key(path: str) -> bytes:
    """A new Ed25519 key, kept in a new PEM file (PKCS #8) that its owner alone can read; its 32 bytes.

    Raises InvalidInput where something is at that path or it cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(path, flags, 0o600), "wb") as file:
            file.write(pem)
    except FileExistsError:
        raise InvalidInput(f"{path} is there already.", hint="A key is never written over another.") from None
    except OSError as error:
        raise InvalidInput(f"The key cannot be kept at {path}: {error.strerror}.") from error
    return key.private_bytes_raw()


def read_private_key(path: str) -> bytes:
    """The 32 bytes of the Ed25519 key in a PEM file, as `new_private_key` and `openssl genpkey` write it.

    Raises InvalidInput: no such file, one that others may read, or no such key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    data = read_small_file(path, PRIVATE_KEY_BYTES_MAX)
    if data is not None and b"-----BEGIN" in data:  # of what is no key nobody is told to change the mode
        data = read_small_file(path, PRIVATE_KEY_BYTES_MAX, forbidden_mode=0o077)
    if data is None:
        raise InvalidInput(
            f"There is no key at {path}.", hint="Make one with `custody skills trust new-key`."
        )
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidInput(
            f"{path} is no Ed25519 key in PEM form without a password.",
            hint="Make one with `custody skills trust new-key` or `openssl genpkey -algorithm ed25519`.",
        )
    return key.private_bytes_raw()


def verifier_line(private_key: bytes, key_name: str) -> str:
    """The public half, as those who trust it add it: `NAME+HASH+KEY`. Raises InvalidInput."""
    assert len(private_key) == SEED_BYTES, "read_private_key and new_private_key give 32 bytes"
    return Signer(check_key_name(key_name), private_key).verifier.line


# -- checking -------------------------------------------------------------------------------------------


def check_signature(note: bytes | None, digest: str, trust: Trust, now_us: int) -> SignatureVerdict:
    """What a skill's signature says of files with this digest. Loads `cryptography` where a known key signed.

    In this order: no note is *unsigned*; one that cannot be read, or with a bad signature in the name of a
    known key, is *bad_signature*; one over other files is *other_digest*, whoever signed it; one good
    signature of a key that is trusted at `now_us` is *valid*; then *revoked* before *expired*, and
    *untrusted* where no key is known.
    """
    if note is None:
        return SignatureVerdict(reason="unsigned", message="Nobody signed it.")
    try:
        text, signatures = split_note(note)
        name, signed_digest = _parse_text(text)
    except MalformedNote as error:
        message = f"Its signature file cannot be read: {error.message}"
        return SignatureVerdict(reason="bad_signature", message=message)
    known: dict[Standing, Signature] = {}
    for signature in signatures:
        key = trust.find(signature.name, signature.key_hash)
        if key is None:
            continue
        if not Verifier.parse(key.vkey).verify(text, signature.signature):
            return _verdict("bad_signature", signature, name)
        known.setdefault(key.standing(now_us), signature)
    if signed_digest != digest:
        return _verdict("other_digest", known.get("trusted", signatures[0]), name)
    if "trusted" in known:
        return _verdict("valid", known["trusted"], name)
    for standing, reason in _NOT_VALID:
        if standing in known:
            return _verdict(reason, known[standing], name)
    return _verdict("untrusted", signatures[0], name)


_MESSAGES: dict[Reason, str] = {
    "valid": "Signed by {key}.",
    "untrusted": "Signed by {key}, which is not trusted here; "
    "`custody skills trust add` trusts a key whose owner you know.",
    "revoked": "Signed by {key}, which was revoked.",
    "expired": "Signed by {key}, which has expired; ask its publisher for a signature of a newer key.",
    "bad_signature": "The signature in the name of {key} is not that key's: "
    "the signature file was changed or forged.",
    "other_digest": "The signature, in the name of {key}, is for other files than these: "
    "something was changed after it was signed.",
}


def _verdict(reason: Reason, signature: Signature, name: str) -> SignatureVerdict:
    return SignatureVerdict(
        reason=reason,
        message=_MESSAGES[reason].format(key=f"{signature.name} ({signature.key_hash.hex()})"),
        key_id=signature.name,
        key_hash=signature.key_hash.hex(),
        signed_name=name,
    )


def _parse_text(text: bytes) -> tuple[str, str]:
    """The skill's name and the digest that were signed. Raises MalformedNote."""
    try:
        lines = text.decode().split("\n")
    except UnicodeDecodeError as error:
        raise MalformedNote("A note is UTF-8 text.") from error
    if len(lines) != 4 or lines[0] != HEADER:
        raise MalformedNote(f"It does not say {HEADER}, a name and a digest.")
    if not line_fits(lines[1]) or not _DIGEST.fullmatch(lines[2]):
        raise MalformedNote("It has no name and digest of a skill.")
    return lines[1], lines[2]
