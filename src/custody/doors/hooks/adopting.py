"""A CLI's command run by Custody: the line that is put in its place, and what that line is good for.

The line names the call. It is good once, for exactly this command, root and deadline, in the folder that was
decided on, and only from below the CLI's own process: knowing the call's id gives nobody anything. Owns the
line and its digest. Used by `answering`, and by `custody exec --adopt`.
"""

import hashlib
import hmac
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from custody.calls.runtime import Runtime
from custody.doors.hooks.event import HookEvent
from custody.doors.hooks.told import Told
from custody.doors.hooks.tools import Use, command_seconds, in_background, rewritten
from custody.tools import Scope

SALT_BYTES = 16
SHELLS = ("/bin/bash", "/usr/bin/bash", "/bin/sh")
"""The first that is there: models write for bash, and CLIs run their commands with it."""


class Kept(Struct, frozen=True, kw_only=True):
    """What lies in the store until the line is run."""

    digest: bytes
    owner_pid: int
    """The CLI, below whose process the line is good, and when that started."""
    owner_start_ticks: int
    background: bool
    """The tool may be over before its command begins."""
    cwd: str
    """The folder it was decided in; it runs there, wherever its line is started."""


class Offer(Struct, frozen=True, kw_only=True):
    """A command that may be run in place of the CLI's own."""

    command: list[str]
    """What Custody will run."""
    arguments: dict[str, Any]
    """Of the CLI's tool, with the line that has Custody run it."""
    publish: Callable[[], None]
    """From here on it is good."""


def offer(
    runtime: Runtime, event: HookEvent, told: Told, use: Use, call_id: bytes, scope: Scope
) -> Offer | None:
    """None where the tool runs no command, or its CLI takes no other."""
    if use.command is None or not told.rewrite or not told.dialect.rewrites:
        return None
    command = [shell(), "-c", use.command]
    seconds = command_seconds(event)
    timeout = None if seconds is None else round(seconds, 3)
    roots = (scope.roots[0],)
    line = [*custody_command(), "exec", "--adopt", call_id.hex(), "--store", told.store]
    line += [] if timeout is None else ["--timeout", seconds_spelt(timeout)]
    line += [word for root in roots for word in ("--root", root)]
    line += ["--", *command]
    kept = Kept(
        digest=digest(os.urandom(SALT_BYTES), command, roots, timeout),
        owner_pid=told.owner_pid,
        owner_start_ticks=told.owner_start_ticks,
        background=in_background(event.arguments),
        cwd=scope.cwd,
    )
    return Offer(
        command=command,
        arguments=rewritten(event, line),
        publish=lambda: runtime.journal.adoptions.offer(call_id, msgspec.msgpack.encode(kept)),
    )


def seconds_spelt(seconds: float) -> str:
    """To the millisecond and no further: what is read of it is the very number that was decided on."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


def digest(salt: bytes, argv: Sequence[str], roots: Sequence[str], timeout: float | None) -> bytes:
    """Salted, so that what lies in the store says nothing of the command."""
    said = json.dumps([list(argv), list(roots), timeout])
    return salt + hashlib.sha256(salt + said.encode("utf-8", "surrogatepass")).digest()


def read_kept(data: bytes | None) -> Kept | None:
    try:
        return None if data is None else msgspec.msgpack.decode(data, type=Kept)
    except msgspec.DecodeError:
        return None


def fits(kept: Kept, argv: Sequence[str], roots: Sequence[str], timeout: float | None) -> bool:
    return hmac.compare_digest(kept.digest, digest(kept.digest[:SALT_BYTES], argv, roots, timeout))


def shell() -> str:
    return next((path for path in SHELLS if os.access(path, os.X_OK)), SHELLS[-1])


def custody_command() -> list[str]:
    """The program beside this interpreter: a PATH is the CLI's to change."""
    script = os.path.join(os.path.dirname(sys.executable), "custody")
    return [script] if os.access(script, os.X_OK) else [sys.executable, "-m", "custody"]
