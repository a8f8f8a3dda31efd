"""What `custody doctor` says of the policy: which files hold, what of them cannot be used, and a pause.

Owns the words for it. What holds is said by `policy_files`, what a pause is by `calls.pause`. Used by
`doctor` alone.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from custody.cli.finding import Finding

if TYPE_CHECKING:
    from custody.errors import CustodyError
    from custody.index import Index
    from custody.policy import Layer

NO_FILE = "there is no file: the built-in default holds"
BUILT_IN = "the built-in default holds as well: no file of yours or of the organisation says what may happen"
BROKEN = (
    "It is ignored: no call begins here until it is put right, and what runs already keeps the policy from "
    "before."
)
UNTRUSTED = "What it allows has no effect until you say so: custody policy trust."
SHADOW = "It blocks nothing, and records what it would refuse."


def policy_findings(layers: "Sequence[Layer]", unusable: "Sequence[CustodyError]" = ()) -> Iterator[Finding]:
    """Each file that holds for calls made here, the highest first, and why others cannot be used."""
    for error in unusable:
        hint = BROKEN if error.hint is None else f"{BROKEN} {error.hint}"
        yield Finding("policy", "wrong", type(error).__name__, error.message, hint)
    for layer in layers:
        yield _standing(layer)
    if not layers and not unusable:
        yield Finding("policy", "ok", None, NO_FILE)


def _standing(layer: "Layer") -> Finding:
    value = {
        "kind": layer.kind,
        "path": None if layer.kind == "builtin" else layer.source,
        "mode": layer.mode,
        "rules": len(layer.rules),
        "trusted": layer.trusted if layer.kind == "project" else None,
    }
    name = f"policy: {layer.kind}"
    if layer.kind == "builtin":
        return Finding(name, "ok", value, BUILT_IN)
    said = [layer.source, "1 rule" if len(layer.rules) == 1 else f"{len(layer.rules):,} rules"]
    said += ["in shadow"] if layer.mode == "shadow" else ["enforced"]
    if layer.kind == "project":
        said.append("trusted" if layer.trusted else "not trusted")
    hints = [SHADOW] if layer.mode == "shadow" else []
    hints += [] if layer.trusted else [UNTRUSTED]
    return Finding(name, "note" if hints else "ok", value, ", ".join(said), " ".join(hints) or None)


def pause_finding(index: "Index", layers: "Sequence[Layer]") -> Finding:
    """Whether the rules are enforced just now. Raises what the index raises."""
    from custody.calls.pause import pause_at
    from custody.cli.pause import pause_words
    from custody.policy.layers import may_pause
    from custody.records import now_us

    pause = pause_at(index, now_us())
    if pause is None:
        return Finding("pause", "ok", None, "the policy is not paused")
    words = pause_words(pause)
    if not may_pause(layers):
        return Finding("pause", "ok", None, f"none: the policy may not be paused, as was asked {words}")
    hint = "Rules block nothing meanwhile; custody pause --end."
    return Finding("pause", "note", pause.shown(), f"the policy is paused {words}", hint)
