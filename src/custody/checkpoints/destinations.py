"""Where checkpoints go besides the store: files and commands that the settings name.

Owns the thread that brings them there, its bounds, and the counts of what did not arrive. Nobody waits for
it: a checkpoint commits to all before it, so one that arrives makes up for those that did not. Knows nothing
of how a checkpoint is made. Used by `background`.
"""

import contextlib
import functools
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from custody.checkpoints.log import FOLDER
from custody.errors import CustodyError
from custody.journal import Disk, RealDisk
from custody.journal.checkpoint import Note
from custody.records import now_us, rfc3339

DELIVERED = "checkpoints/delivered"
"""A view for people: what arrived where, and what did not. May be deleted."""

WAITING_MAX = 16
"""Checkpoints on their way; beyond this the oldest gives way to the newest, which commits to it."""

COMMAND_SECONDS = 10.0
"""A push over a slow line takes some seconds; what takes longer hangs."""

STOP_SECONDS = 2.0
"""A program that ends does not wait longer for a place that does not answer."""

ERROR_CHARACTERS_MAX = 200

log = logging.getLogger("custody")


class Arrival(Struct):
    """How one destination fares."""

    size: int = 0
    """Of the newest checkpoint that arrived."""
    at: str | None = None
    undelivered: int = 0
    """Since then."""
    error: str | None = None
    """Why not; None when the last one arrived."""


class Destinations:
    """Brings checkpoints to files and commands, in a thread of its own that begins with the first of them."""

    def __init__(self, disk: Disk, files: Sequence[str], commands: Sequence[Sequence[str]]) -> None:
        self._disk = disk
        self._files = tuple(os.path.abspath(os.path.expanduser(file)) for file in files)
        self._commands = {
            f"command {number}: {command[0]}": tuple(command)
            for number, command in enumerate(commands, 1)
            if command
        }
        """By what they are called: their arguments may hold what nobody is to read."""
        self.arrivals = read_arrivals(disk) if self else {}
        """By file, or by what a command is called."""
        self.forget()

    def __bool__(self) -> bool:
        return bool(self._files or self._commands)

    def forget(self) -> None:
        """In a forked child: the thread is the parent's, and so is what waits."""
        self._waiting: deque[Note] = deque()
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._busy = False
        self._unsaid: dict[str, int] = {}

    def have(self, note: Note) -> bool:
        """Whether it has arrived everywhere, as far as is known."""
        size = note.checkpoint.size
        return all(name in self.arrivals and self.arrivals[name].size >= size for name in self._names())

    def offer(self, note: Note) -> None:
        """Have a new checkpoint delivered; returns at once."""
        if not self:
            return
        with self._change:
            if len(self._waiting) >= WAITING_MAX:
                self._waiting.popleft()
                for name in self._names():
                    self._failed(name, "earlier ones were still on their way")
            self._waiting.append(note)
            self._change.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="custody-deliver", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:
                    self._thread = None  # the interpreter is ending

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """What is not there by then counts as undelivered."""
        with self._change:
            self._stopping = True
            self._change.notify_all()
            self._change.wait_for(lambda: not self._waiting and not self._busy, seconds)
            left, self._waiting = len(self._waiting) + self._busy, deque()
            for name in self._names() if left else ():
                self._failed(name, "the program ended before it was delivered", left)
        if left:
            self._save()

    def unsaid(self) -> dict[str, Any] | None:
        """Leaf data of `checkpoint.undelivered`: what did not arrive since this was asked last."""
        with self._change:
            counts, self._unsaid = self._unsaid, {}
            if not counts:
                return None
            return {
                "undelivered": [
                    {"to": name, "count": count, "error": self.arrivals[name].error}
                    for name, count in counts.items()
                ]
            }

    def _names(self) -> list[str]:
        return [*self._files, *self._commands]

    # -- in the thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._stopping)
                if not self._waiting:
                    return
                note = self._waiting.popleft()
                self._busy = True
            try:
                self._deliver(note)
            finally:
                with self._change:
                    self._busy = False
                    self._change.notify_all()

    def _deliver(self, note: Note) -> None:
        for file in self._files:
            self._try(file, note, functools.partial(append_to, file, note))
        for name, command in self._commands.items():
            self._try(name, note, functools.partial(_hand_to, command, note))
        self._save()

    def _try(self, name: str, note: Note, deliver: Callable[[], None]) -> None:
        if name in self.arrivals and self.arrivals[name].size >= note.checkpoint.size:
            return  # another process, or `custody checkpoint` before, has brought it there
        try:
            deliver()
        except Exception as error:  # whatever is wrong there must not end the deliveries elsewhere
            with self._change:
                self._failed(name, _words(error))
        else:
            with self._change:
                self.arrivals[name] = Arrival(note.checkpoint.size, rfc3339(now_us()))

    def _failed(self, name: str, why: str, count: int = 1) -> None:
        known = self.arrivals.get(name) or Arrival()
        if known.error != why:
            log.warning("Checkpoints do not arrive at %s: %s", name, why)
        self.arrivals[name] = Arrival(known.size, known.at, known.undelivered + count, why)
        self._unsaid[name] = self._unsaid.get(name, 0) + count

    def _save(self) -> None:
        with self._change:
            named = {name: self.arrivals[name] for name in self._names() if name in self.arrivals}
            data = msgspec.json.encode(named)
        with contextlib.suppress(OSError):
            self._disk.make_folder(FOLDER)
            self._disk.replace(DELIVERED, data)


def append_to(path: str, note: Note) -> None:
    """Put a note behind those that the file holds, durably. Raises OSError.

    The file reads as a checkpoint log; its folder has to be there.
    """
    folder, name = os.path.split(path)
    disk = RealDisk(folder, create=False)
    try:
        file = disk.open(name)
    except FileNotFoundError:
        file = disk.open(name, create=True)
    try:
        size = file.size_bytes()
        file.put((b"\n" if size else b"") + note.data, size)
        file.sync()
    finally:
        file.close()


def _hand_to(command: Sequence[str], note: Note) -> None:
    """Run a command with the note on its standard input. Raises CustodyError when it does not succeed."""
    from custody.sandbox.handing import hand_to  # what starts a process: few stores have such commands

    wrong = hand_to(command, note.data, COMMAND_SECONDS)
    if wrong is not None:
        raise CustodyError(wrong)


def read_arrivals(disk: Disk) -> dict[str, Arrival]:
    """What arrived where by now, as far as that is known."""
    try:
        return msgspec.json.decode(disk.read_all(DELIVERED) or b"{}", type=dict[str, Arrival])
    except (OSError, msgspec.DecodeError):
        return {}


def _words(error: Exception) -> str:
    text = getattr(error, "strerror", None) or getattr(error, "message", None) or repr(error)
    return str(text)[:ERROR_CHARACTERS_MAX]
