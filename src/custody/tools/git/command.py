"""How git is run for the `git` tool: a process of the call, without anything that would run something else.

Owns the environment and the settings git gets, how much of its output is kept, and the words for its
failures. Knows nothing of operations. Used by everything of the `git` tool that asks git.

What a repository's or a user's settings say of hooks, pagers, editors, signing, prompts, external diff
programs and file system monitors does not hold here. Filters and merge drivers, which change what is kept and
not only how, do.
"""

import asyncio
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from custody.cuts import beginning, ending
from custody.errors import ToolError
from custody.sandbox import Command, Finished
from custody.tools.tool import Context

LISTING_BYTES_MAX = 64 * 1024 * 1024
"""Of names that git lists for us: a million paths. Half a list would be a wrong answer."""

SAID_BYTES = 32 * 1024
"""Kept of the beginning, and as much of the end, of what git says to people while it changes something."""

WORDS_CHARACTERS_MAX = 2000  # of git's own words in an error; the rest is in the result

NETWORK_PROTOCOLS = ("https", "http", "ssh", "git", "file")
"""What a configured remote may use. Transports that run a program (`ext::`, `fd::`) are not among them."""

_SETTINGS = {
    "advice.detachedHead": "false",
    "color.ui": "false",
    "column.ui": "never",
    "commit.gpgSign": "false",
    "commit.verbose": "false",
    "core.askPass": "",
    "core.editor": ":",
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "core.pager": "cat",
    "core.quotePath": "false",
    "diff.autoRefreshIndex": "false",
    "fetch.recurseSubmodules": "false",
    "fetch.writeCommitGraph": "false",
    "gc.auto": "0",
    "i18n.logOutputEncoding": "UTF-8",
    "log.showSignature": "false",
    "maintenance.auto": "false",
    "merge.autoStash": "false",
    "merge.directoryRenames": "false",
    "merge.verifySignatures": "false",
    "protocol.ext.allow": "never",
    "rebase.autoStash": "false",
    "rebase.updateRefs": "false",
    "rerere.enabled": "false",
    "safe.bareRepository": "explicit",
    "submodule.recurse": "false",
    "tag.gpgSign": "false",
}
"""Given on the command line, where they outrank every file. Signing would ask a person for a passphrase, and
say that a person did it; maintenance would go on behind the call's back; a diff that refreshes the index
changes it."""

_ENVIRONMENT = {
    "GCM_INTERACTIVE": "never",
    "GIT_ASKPASS": "",
    "GIT_EDITOR": ":",
    "GIT_MERGE_AUTOEDIT": "no",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_PAGER": "cat",
    "GIT_SEQUENCE_EDITOR": ":",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
    "SSH_ASKPASS_REQUIRE": "never",
}

_LET_THROUGH = re.compile(
    r"GIT_(AUTHOR|COMMITTER)_(NAME|EMAIL|DATE)|GIT_SSL_\w+|GIT_SSH(_COMMAND|_VARIANT)?"
    r"|GIT_CONFIG_(GLOBAL|SYSTEM|NOSYSTEM)|GIT_CEILING_DIRECTORIES"
)
"""Of our environment's own `GIT_` names: who commits, how servers are reached, where settings are. The rest
(`GIT_DIR`, `GIT_INDEX_FILE`, `GIT_CONFIG_COUNT`) would point git at another repository or undo the above."""

_LEFT_OUT = frozenset({"SSH_ASKPASS", "DISPLAY", "WAYLAND_DISPLAY", "PAGER", "EDITOR", "VISUAL", "LANGUAGE"})
"""By these a program would show a window, ask, or speak another language."""

_Answer = TypeVar("_Answer")

_LOCKED = re.compile(r"Unable to create '([^'\n]+\.lock)': File exists")


class GitFailed(ToolError):
    """git said no.

    `details` has `exit_code`.
    """


class CutOff(Exception):
    """The call's deadline or cancellation ended git."""

    def __init__(self, finished: Finished) -> None:
        super().__init__(finished.limit_hit)
        self.finished = finished


async def in_thread(work: Callable[[], _Answer]) -> _Answer:
    """Work on files waits for disks, which has no place on the event loop."""
    return await asyncio.get_running_loop().run_in_executor(None, work)


class Git:
    """Runs git in one folder for one call."""

    def __init__(self, context: Context, cwd: str, *, protocols: Sequence[str] = NETWORK_PROTOCOLS) -> None:
        self._context = context
        self._protocols = tuple(protocols)
        self.cwd = cwd

    def at(self, cwd: str) -> "Git":
        """The same in another folder."""
        return Git(self._context, cwd, protocols=self._protocols)

    async def run(
        self,
        *arguments: str,
        stdin: bytes | None = None,
        head_bytes: int = SAID_BYTES,
        tail_bytes: int = SAID_BYTES,
    ) -> Finished:
        """Run it to its end. Raises CutOff when the call is over before, SandboxError."""
        command = Command(
            argv=argv(arguments),
            cwd=self.cwd,
            environment=environment(self._context.environment({}), self._protocols),
            stdin=stdin,
            deadline_seconds=self._context.remaining_seconds(),
            keep_head_bytes=head_bytes,
            keep_tail_bytes=tail_bytes,
        )
        finished = await self._context.run_process(command)
        if finished.is_cut:
            raise CutOff(finished)
        return finished

    async def ask(self, *arguments: str, stdin: bytes | None = None) -> bytes | None:
        """The whole answer to a question; None where git says no. Raises ToolError for an answer too long."""
        finished = await self.run(*arguments, stdin=stdin, head_bytes=LISTING_BYTES_MAX, tail_bytes=0)
        if finished.exit_code != 0:
            return None
        if finished.stdout.dropped_bytes:
            raise ToolError(
                f"git {arguments[0]} lists more than {LISTING_BYTES_MAX} bytes; name `files` to ask for less."
            )
        return finished.stdout.data

    async def answer(self, *arguments: str, stdin: bytes | None = None) -> bytes:
        """As `ask`; where git says no, raises GitFailed with its words."""
        finished = await self.run(*arguments, stdin=stdin, head_bytes=LISTING_BYTES_MAX, tail_bytes=0)
        if finished.exit_code != 0:
            raise failure(finished)
        if finished.stdout.dropped_bytes:
            raise ToolError(f"git {arguments[0]} lists more than {LISTING_BYTES_MAX} bytes; ask for less.")
        return finished.stdout.data


def argv(arguments: Sequence[str]) -> tuple[str, ...]:
    """The whole command line."""
    settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
    return ("git", "--no-pager", *settings, *arguments)


def environment(ours: Mapping[str, str], protocols: Sequence[str]) -> dict[str, str]:
    """What git gets of the environment a command of this call would get."""
    kept = {
        name: value
        for name, value in ours.items()
        if name not in _LEFT_OUT and (not name.startswith("GIT_") or _LET_THROUGH.fullmatch(name))
    }
    return {**kept, **_ENVIRONMENT, "GIT_ALLOW_PROTOCOL": ":".join(protocols)}


def failure(finished: Finished) -> GitFailed:
    """git's own words for what went wrong, and what to do about a lock that was left."""
    both = (finished.stderr.data, finished.stdout.data)
    words = "\n".join(filter(None, (data.decode("utf-8", "replace").strip() for data in both)))
    if len(words) > WORDS_CHARACTERS_MAX:
        half = WORDS_CHARACTERS_MAX // 2
        words = f"{beginning(words, half)} […] {ending(words, half)}"
    how = f"signal {finished.signal}" if finished.signal else f"exit code {finished.exit_code}"
    locked = _LOCKED.search(words)
    return GitFailed(
        words or f"git ended with {how} and said nothing.",
        hint=None if locked is None else lock_hint(locked[1]),
        exit_code=finished.exit_code,
    )


def lock_hint(path: str) -> str:
    """What to do about a lock file."""
    return (
        f"Where no git is at work in this repository any more, one was killed: delete {path} and try again."
    )


def names(data: bytes) -> list[str]:
    """Names that git ended with NUL each; bytes that are not UTF-8 as lone surrogates (PEP 383)."""
    return [os.fsdecode(name) for name in data.split(b"\0") if name]


def text(data: bytes) -> str:
    """One line that git said."""
    return data.decode("utf-8", "surrogateescape").rstrip("\n")


def said(finished: Sequence[Finished]) -> dict[str, Any]:
    """What one git after another said, for the result."""
    last = finished[-1] if finished else None
    streams = {
        "stdout": [each.stdout for each in finished],
        "stderr": [each.stderr for each in finished],
    }
    joined: dict[str, Any] = {"exit_code": 0 if last is None else last.exit_code}
    if last is not None and last.signal is not None:
        joined["signal"] = last.signal
    for name, outputs in streams.items():
        joined[name] = b"".join(output.data for output in outputs).decode("utf-8", "replace")
    for name, outputs in streams.items():
        joined[f"{name}_dropped_bytes"] = sum(output.dropped_bytes for output in outputs)
    return joined
