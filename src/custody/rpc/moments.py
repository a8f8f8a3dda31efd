"""A moment as somebody writes it: a date, a time, or how long ago.

Used by the doors whose questions take `since` and `until` as texts.
"""

import re
import time
from datetime import UTC, datetime

from custody.errors import InvalidInput

AGO = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhd])", re.ASCII)
UNIT_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def moment_us(text: str | None) -> int | None:
    """Microseconds since 1970 UTC. Raises InvalidInput."""
    if text is None:
        return None
    ago = AGO.fullmatch(text)
    if ago is not None:
        return round((time.time() - float(ago[1]) * UNIT_SECONDS[ago[2]]) * 1e6)
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+"))  # a plus sign, as URLs decode it
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1e6)
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"{text!r} is not a time; write 2026-05-01T12:00:00Z, or 2h for two hours ago."
        ) from None
