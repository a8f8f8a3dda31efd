"""A call nobody made, as rules see one: for trying a policy out.

Owns what is assumed of what nobody said: the effect of a tool that is known, facts of the arguments as this
machine sees them, and no call before. Used by `policy_test` and `policy_explain`.
"""

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from custody.calls.descent import TYPED_DOOR
from custody.policy import Case, Rule
from custody.policy.facts import Facts
from custody.records import Effect

if TYPE_CHECKING:
    from custody.files import Opening
    from custody.settings import Settings
    from custody.tools import Registry


def case_of(
    settings: "Settings",
    tool: str,
    params: Mapping[str, Any],
    *,
    effect: Effect,
    cwd: str | None = None,
    state: Mapping[str, Any] | None = None,
    counters: Mapping[str, Any] | None = None,
    rate_used: Callable[[Rule], bool] | None = None,
    happened: Callable[[Rule], bool] | None = None,
    **who: Any,
) -> Case:
    """`who` are the other fields of a Case."""
    folder = settings.cwd if cwd is None else os.path.join(settings.cwd, cwd)

    def facts() -> Mapping[str, Any]:
        home = os.path.expanduser("~")
        return Facts(
            tool, effect, params, cwd=folder, roots=settings.roots, resolve=os.path.realpath, home=home
        )

    return Case(
        tool=tool,
        effect=effect,
        params=params,
        facts=facts,
        state=lambda: state or {},
        counters=lambda: counters or {},
        rate_used=rate_used,
        happened=happened,
        typed=who.get("door") == TYPED_DOOR,
        **who,
    )


def openings_here(
    settings: "Settings", tool: str, params: Mapping[str, Any], cwd: str | None = None
) -> "list[Opening]":
    """Paths the call would write that a person would have to open; of a tool that is known here."""
    from custody.calls.guards import openings_of
    from custody.compose import protected_by
    from custody.tools import Scope

    registry = registry_of(settings)
    known = registry.get(tool)
    if known is None or registry.schema(tool).violation(params) is not None:
        return []
    folder = settings.cwd if cwd is None else os.path.join(settings.cwd, cwd)
    scope = Scope(folder, settings.roots, lambda: protected_by(settings))
    return openings_of(known, params, scope)[1]


def registry_of(settings: "Settings") -> "Registry":
    """The tools there are, built in and installed."""
    from custody.tools import Registry, installed_tools

    return Registry(installed=lambda: installed_tools(settings.file.tools.modules))


def starts_process(registry: "Registry", tool: str) -> bool:
    """Whether walls can be around it; of a tool that is not known here nobody can tell, so they are."""
    found = registry.get(tool)
    return found is None or found.level != "none"


def effect_of(registry: "Registry", tool: str) -> Effect:
    """What the tool says of itself; `unknown` of one that is not known here."""
    found = registry.get(tool)
    return "unknown" if found is None else found.effect
