"""The cursor file of a reader: where it stands, so that it goes on there.

Owns the file, which the user named. Used by `tail`.
"""

import os
from typing import TYPE_CHECKING

from custody.errors import InvalidInput

if TYPE_CHECKING:
    from custody.journal import Cursor


def read_cursor(path: str) -> "Cursor | None":
    """The cursor kept in a file; None when there is no such file yet. Raises InvalidInput."""
    import msgspec

    from custody.journal import Cursor

    try:
        with open(path, "rb") as file:
            return Cursor.from_json(file.read())
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, ValueError) as error:
        raise InvalidInput(
            f"{path} does not hold a cursor: {error}.", hint="Remove it to start from the beginning."
        ) from None


def write_cursor(path: str, cursor: "Cursor") -> None:
    """Replace the file as a whole, so that a reader killed here finds the old cursor or the new one."""
    beside = f"{path}.{os.getpid()}.new"
    try:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(cursor.to_json())
        os.replace(beside, path)
    except OSError as error:
        raise InvalidInput(f"The cursor cannot be kept in {path}: {error.strerror}.") from None
