"""What stands for a secret.

Owns the fingerprint by which equal secrets can be told to be equal, and the token around it. Knows nothing of
where secrets stand. Used by the redactor and the scanner.
"""

import hashlib

_DIGEST_PIECE_BYTES = 2047
"""hashlib gives up the interpreter lock for more at once."""

FINGERPRINT_CHARACTERS = 8
"""32 bits: enough to tell the secrets of one store apart, too few to find a secret by."""


class Fingerprints:
    """HMAC-SHA256 (RFC 2104), in pieces small enough for hashlib to keep the interpreter lock; hmac's
    own call into OpenSSL always gives it up."""

    def __init__(self, key: bytes) -> None:
        block = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def digest(self, data: bytes) -> str:
        """All of it, in hexadecimal."""
        inner = self._inner.copy()
        for start in range(0, len(data), _DIGEST_PIECE_BYTES):
            inner.update(data[start : start + _DIGEST_PIECE_BYTES])
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.hexdigest()

    def of(self, secret: bytes) -> str:
        return self.digest(secret)[:FINGERPRINT_CHARACTERS]

    def token(self, rule: str, secret: bytes) -> str:
        return f"[redacted:{rule}:{self.of(secret)}]"


def encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
