"""Ids of what a client tells of its own work, derived alike at both ends.

Used by `parts` and by the client.
"""

import hashlib

from custody.records import CALL_ID_BYTES

KEY_BYTES = 16
"""Of the key with which a client shows that a run is its own, and of the name of its part in it."""


def id_of(part: str, number: int) -> bytes:
    """Id of the call or step that was told as this one.

    The daemon mints the part, so that a client can choose no id; and both can say it without asking.
    """
    return hashlib.blake2b(
        number.to_bytes(8, "big"), key=bytes.fromhex(part), digest_size=CALL_ID_BYTES
    ).digest()
