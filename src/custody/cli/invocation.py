"""What is known of one command line while it runs, and Custody's own line on standard error.

Used by `program`, which makes it, and by the commands, which read it from click's context.
"""

import os
import sys
from typing import TextIO


class Invocation:
    """One command line."""

    def __init__(self, *, json: bool = False) -> None:
        self.json = json
        """Standard output holds one JSON document and nothing else, errors included."""
        self.transparent = False
        """The command stands in for another program (`exec`): its exit codes are that program's, and
        Custody's own refusals are 125."""


class Interrupted(Exception):
    """A signal ended the command; what it was doing has been ended and recorded."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"signal {number}")


def turn_away(stream: TextIO) -> None:
    """What is still in the stream's buffer, and all that comes, goes nowhere."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)


def message(text: str) -> None:
    """Say something on standard error, in one line that names its speaker."""
    sys.stdout.flush()
    sys.stderr.write(f"custody: {printable(text)}\n")
    sys.stderr.flush()


def fold_lines(text: str) -> str:
    """`text` on one line."""
    return " ".join(text.split())


def printable(text: str, *, keep: str = "\n\t") -> str:
    """`text` with control characters shown escaped: what was recorded must not steer the terminal."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else _escaped(character)
        for character in text
    )


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
