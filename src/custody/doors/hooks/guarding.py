"""Whether a CLI's tool may run: secrets, protected files, and the rules of the policy.

Owns what is refused at this door whatever the policy says, and that rules count here which mean the tool of
Custody's that does the same. Nobody is asked here: an ask is handed to the CLI. Used by `answering`. Waits:
not for an event loop.
"""

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from custody.calls.guards import facts_for
from custody.calls.run import RunRecord
from custody.calls.runtime import Runtime
from custody.doors.hooks.event import HookEvent
from custody.doors.hooks.own_files import credentials, guarded, refusal, spellings
from custody.doors.hooks.secrets import RULE, Secrets
from custody.doors.hooks.sessions import DOOR
from custody.doors.hooks.tools import Use
from custody.files import Reach
from custody.records import Decision
from custody.tools import Scope

Means = tuple[tuple[str, dict[str, Any]], ...]


def scope_of(runtime: Runtime, cwd: str | None, workspace: str | None) -> Scope:
    """Where the CLI works: its folder, the working tree that is in, and what is allowed anyway."""
    cwd = os.path.realpath(cwd or runtime.settings.scope.cwd)
    workspace = workspace or cwd
    roots = dict.fromkeys((workspace, *runtime.settings.scope.roots[1:]))
    return msgspec.structs.replace(runtime.settings.scope, cwd=cwd, roots=tuple(roots))


def reach_of(scope: Scope) -> Reach:
    """What a CLI's own file tools reach: everything but protected files. Whether that lies outside its folder
    is for the CLI's permissions, and for rules."""
    return Reach(scope.cwd, ("/",), scope.protected())


def decided(
    runtime: Runtime,
    run: RunRecord,
    event: HookEvent,
    use: Use,
    means: Means,
    call_id: bytes,
    secrets: Secrets,
    scope: Scope,
    folders: Mapping[str, str],
) -> Decision:
    """`folders`: where the CLI's environment says that its settings are. After an allow or an ask its start
    follows, or `recording.guards.release`."""
    refused = _of_secrets(runtime, event, use, secrets) or _of_files(use, scope, folders)
    if refused is not None:
        return refused
    recording = run.recording
    decision = recording.decide(
        event.tool or "",
        event.arguments,
        run=run,
        call_id=call_id,
        effect=use.effect,
        agent=event.agent_type,
        door=DOOR,
        asks=True,
        scope=scope,
    )
    for tool, arguments in means:
        if decision.verdict == "deny":
            return decision
        said = recording.decide(
            tool,
            arguments,
            run=run,
            effect=use.effect,
            agent=event.agent_type,
            door=DOOR,
            asks=True,
            scope=scope,
        )
        if said.verdict == "deny" or (said.verdict == "ask" and decision.verdict == "allow"):
            decision = said
    if decision.verdict == "deny":
        recording.guards.release(call_id)
    return decision


def _of_secrets(runtime: Runtime, event: HookEvent, use: Use, secrets: Secrets) -> Decision | None:
    """A value that is a secret here has no business in a command, an address or a message."""
    if use.reads or use.writes:
        return None
    names = secrets.found_in(event.arguments)
    what = f"the value of {', '.join(names)}" if names else ""
    if not names:
        said = runtime.ledger.recorder.redact({"arguments": event.arguments})
        if not any(hit.rule == RULE for hit in said.redactions):
            return None
        what = "a value that is a secret here"
    reason = f"{event.tool} would be handed {what}. Name the variable, and let the command read it."
    return Decision("deny", "rule", reason)


def _of_files(use: Use, scope: Scope, folders: Mapping[str, str]) -> Decision | None:
    """A path is refused where any way to read it is."""
    reach, own = reach_of(scope), guarded(folders, scope.roots[0], scope.cwd)
    secret = credentials(folders)
    named = [(path, True) for path in use.writes] + [(path, False) for path in use.reads]
    for path, write in (*named, *((path, not use.looks) for path in use.names)):
        for spelt in spellings(path, scope.cwd):
            if path in use.names and "\0" not in spelt and os.path.isdir(_real(spelt, scope.cwd)):
                write = False  # where it works, more often than what it removes
            decision = reach.decision(spelt, write=write)
            if decision is None:
                words = refusal(_real(spelt, scope.cwd), own if write else secret)
                decision = None if words is None else Decision("deny", "path", words)
            if decision is not None and (decision.by == "path" or path not in use.names):
                return decision
    return None if use.command is None else _of_command(use.command, scope, own)


def _real(path: str, cwd: str) -> str:
    """Of a path that `Reach` has found nothing wrong with."""
    home = os.path.expanduser("~") + path[1:] if path == "~" or path.startswith("~/") else path
    return os.path.realpath(os.path.join(cwd, home))


def _of_command(command: str, scope: Scope, own: tuple[str, ...]) -> Decision | None:
    """Protected files that a command plainly names. A hint for the model and no wall: that is the sandbox."""
    from custody.calls.guards import Proposal

    proposal = Proposal(
        name="shell", tool=None, arguments={"command": command}, scope=scope, host=None, effect="unknown"
    )
    protected = scope.protected()
    for entry in facts_for(proposal)["paths"]:
        if entry["path"] is None:
            continue  # it is not known before the command runs
        path, writes = os.path.realpath(entry["path"]), entry["writes"] is True
        words = protected.refusal(path, write=writes) or (refusal(path, own) if writes else None)
        if words is not None:
            return Decision("deny", "path", words)
    return None
