"""Skills: folders of instructions and scripts that agents follow, read, checked, installed and answered for.

Owns which skills are offered, what their files are, where they came from and who signed them. A skill's text
is data here: nothing in it is obeyed, and its scripts run only as guarded calls. Used by the doors, the
command line and the composition root. The questions are in `answers`; the tools need all that calls need, so
they are imported when they are first used.
"""

from typing import TYPE_CHECKING, Any

from custody.skills.catalog import Catalog, load_catalog
from custody.skills.lock import Lock, LockEntry
from custody.skills.skill import Problem, Root, Shelf, Skill
from custody.skills.tree import TreeBounds
from custody.skills.trust import Trust
from custody.skills.verify import RootReport, verify_root

if TYPE_CHECKING:
    from custody.skills.acts import SkillRun, SkillsInstall, SkillsRemove

__all__ = [
    "Catalog",
    "Lock",
    "LockEntry",
    "Problem",
    "Root",
    "RootReport",
    "Shelf",
    "Skill",
    "SkillRun",
    "SkillsInstall",
    "SkillsRemove",
    "TreeBounds",
    "Trust",
    "load_catalog",
    "verify_root",
]

_TOOLS = frozenset(["SkillRun", "SkillsInstall", "SkillsRemove"])


def __getattr__(name: str) -> Any:
    if name not in _TOOLS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.acts"), name)
