"""What is written into a CLI's settings so that it calls us: the command, for which events, for how long.

Owns the command line, which says no also when nothing of ours can be started. Knows nothing of settings
files. Used by `custody install`, and by the tests that stand in for a CLI.
"""

import os
import shlex
import sys
from collections.abc import Iterator

from msgspec import Struct

from custody.doors.hooks.dialects import DIALECTS
from custody.doors.hooks.event import BLOCKED, BLOCKS, TOLD_NOTHING

CLIENT = os.path.join(os.path.dirname(__file__), "client.py")

TIMEOUT_SECONDS = 60
"""After which a CLI kills the hook and goes on as if it had said yes: the client gives up, with a no, long
before (`client.SECONDS_MAX`)."""

_SILENT = "Custody did not answer, so this is refused. Run: custody status"


class HookLine(Struct, frozen=True, kw_only=True):
    """One hook to be set up."""

    event: str
    """The CLI's own name."""
    of_tools: bool
    """Whether it takes a matcher of tools; ours is every tool."""
    command: str
    timeout_seconds: int = TIMEOUT_SECONDS
    """Claude Code and Codex take seconds; Gemini CLI takes milliseconds."""
    more: dict[str, str] = {}
    """What else stands beside the command in the settings."""


def hook_lines(cli: str, *, store: str | None = None, rewrite: bool = True) -> tuple[HookLine, ...]:
    """Every hook of a CLI, in the order in which its table has them. `store`: an absolute path; None: the
    user's own. Raises KeyError for a CLI that is not known."""
    return tuple(_lines(cli, store, rewrite))


def _lines(cli: str, store: str | None, rewrite: bool) -> Iterator[HookLine]:
    for event, kind in DIALECTS[cli].events.items():
        yield HookLine(
            event=event,
            of_tools=kind in ("before", "after", "failed"),
            command=hook_command(cli, event, store=store, rewrite=rewrite),
            more=dict(DIALECTS[cli].on_failure) if kind in BLOCKS else {},
        )


def hook_command(cli: str, event: str, *, store: str | None = None, rewrite: bool = True) -> str:
    """The line for one event, for any shell. It begins with `/bin/sh`, so that a missing interpreter is an
    exit code of ours, and not one that a CLI takes for a yes."""
    kind = DIALECTS[cli].events[event]
    words = [sys.executable, "-I", "-S", CLIENT]
    words += [] if store is None else ["--store", store]
    words += [] if rewrite else ["--no-rewrite"]
    words += [cli, event]
    run = shlex.join(words)
    if kind in BLOCKS:
        after = f'case $? in 0) ;; {BLOCKED}) exit {BLOCKED};; *) echo "{_SILENT}" >&2; exit {BLOCKED};; esac'
    else:
        after = f"case $? in 0) ;; *) exit {TOLD_NOTHING};; esac"
    return shlex.join(["/bin/sh", "-c", f"{run}; {after}"])
