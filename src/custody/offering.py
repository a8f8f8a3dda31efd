"""Which tools a runtime offers, by what the settings say: built in, handed in, installed.

Owns how settings become the tools that need some. Used by `compose` and by whoever asks only for names.
"""

import functools
import os
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any

from custody.journal import Disk
from custody.settings import Settings, user_settings_path

if TYPE_CHECKING:
    from custody.calls.runtime import Runtime
    from custody.skills import Shelf
    from custody.tools import Registry, Tool


def witness_download(settings: Settings, disk: Disk, runtime: "Runtime") -> "Tool":
    from custody.bridges.bundle import Limits, WitnessDownload, bundle_maker

    section = settings.file.bundles
    return WitnessDownload(
        lambda: bundle_maker(disk, runtime.journal, lambda: runtime.index, lambda: runtime.ledger.recorder),
        section.callers,
        Limits(count_max=section.count_max, bytes_max=section.bytes_max),
    )


def _drive_cli(settings: Settings) -> "Tool":
    from custody.tools.drive_cli import DriveCli

    section = settings.file.drive_cli
    return DriveCli(section.commands, output_tail_bytes=section.output_tail_bytes)


PROJECT_AND_USER = (os.path.join(".agents", "skills"), os.path.join(".claude", "skills"))
"""Where agents look for skills: first in the project, then in the home folder."""


def shelf_of(settings: Settings) -> "Shelf":
    """Where skills are: the folders that were named, else the project's and the user's. What is installed
    goes to the first, where nothing else is said."""
    from custody.skills import Root, Shelf, TreeBounds

    section = settings.file.skills
    roots = [Root(path=path, kind="given") for path in settings.skill_roots]
    if not roots:
        project, home = settings.workspace or settings.cwd, os.path.expanduser("~")
        roots += [Root(path=os.path.join(project, part), kind="project") for part in PROJECT_AND_USER]
        roots += [Root(path=os.path.join(home, part), kind="user") for part in PROJECT_AND_USER]
    first = {root.path: root for root in reversed(roots)}
    return Shelf(
        roots=tuple(root for root in roots if first[root.path] is root),
        install_root=roots[0].path,
        trust_file=os.path.join(os.path.dirname(user_settings_path()), "skills.trust.json"),
        require_signed=section.require_signed,
        bounds=TreeBounds(
            files_max=section.files_max, bytes_max=section.bytes_max, depth_max=section.depth_max
        ),
    )


def _skill_tools(settings: Settings) -> "dict[str, Callable[[], Tool]]":
    """Each is made when it is first asked for."""

    def made(kind: str) -> "Tool":
        from custody import skills

        return getattr(skills, kind)(shelf_of(settings))

    return {
        "skills_install": functools.partial(made, "SkillsInstall"),
        "skills_remove": functools.partial(made, "SkillsRemove"),
        "skill_run": functools.partial(made, "SkillRun"),
    }


def registry_of(
    settings: Settings, tools: Iterable[Any], witness_download: "Callable[[], Tool]"
) -> "Registry":
    """The tools that are handed in, built in and installed."""
    from custody.tools import Registry, installed_tools

    return Registry(
        tools,
        installed=lambda: installed_tools(settings.file.tools.modules),
        keep=settings.file.tools.keep,
        built_in={
            "witness_download": witness_download,
            "drive_cli": lambda: _drive_cli(settings),
            **_skill_tools(settings),
        },
    )


def tool_names(settings: Settings) -> frozenset[str]:
    """Of every tool a runtime with these settings offers; no store is opened, and no tool of ours made."""

    def never() -> "Tool":
        raise AssertionError("names are asked for, and no tool")

    return frozenset(registry_of(settings, (), never).names())


NEEDS_A_STORE = frozenset({"witness_download"})
"""Tools that are made with a store alone, and so not to be looked into without one."""


def tool_arguments(settings: Settings) -> Callable[[str], Collection[str] | None]:
    """The names of the arguments that a tool of such a runtime takes; None where it takes others as well, or
    where that is not known. No store is opened."""

    def never() -> "Tool":
        raise AssertionError("it needs a store, and is not asked for")

    registry = registry_of(settings, (), never)

    def arguments(name: str) -> Collection[str] | None:
        tool = None if name in NEEDS_A_STORE else registry.get(name)
        if tool is None or tool.schema.get("additionalProperties") is not False:
            return None
        return None if "patternProperties" in tool.schema else frozenset(tool.schema.get("properties", ()))

    return arguments
