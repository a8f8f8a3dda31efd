"""The tools that change what skills there are, and the one that runs a script of a skill.

Owns what an agent or a person may say, and what the record has of it: each install, removal, refusal and run
is a call like any other. How it is done is in `sources`, `install` and `transaction`. Made by `compose`, for
a shelf.

What is read of this machine must lie within the call's roots, as for every tool. The root that is written to
is another matter: it is one of the shelf's, which the settings name and no call does.
"""

import functools
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from custody.errors import CustodyError, InvalidInput, InvalidSkill, NotFound, PathRefused
from custody.records import Decision, Effect, Level, now_us
from custody.sandbox import Command, Finished
from custody.skills import install
from custody.skills.catalog import load_catalog
from custody.skills.names import check_name
from custody.skills.skill import Shelf, Skill
from custody.skills.sources.archive import fetch_archive
from custody.skills.sources.folder import fetch_file, fetch_folder, repository_path
from custody.skills.sources.git import fetch_git
from custody.skills.sources.https import Cut, fetch_https
from custody.skills.sources.wanted import wanted
from custody.skills.staging import Fetched, Staged, Staging
from custody.skills.tree import read_tree
from custody.skills.writable import check_apart, check_files, real_root, root_of
from custody.tools import Context, Ended, Scope
from custody.tools.git.command import CutOff, in_thread
from custody.tools.process import ended, result_of, run_command, secrets_in, without_nul
from custody.tools.threads import run_in_thread
from custody.tools.tool import Keep

TIMEOUT_SECONDS = 300.0
"""Of an install that names no other: a large repository over an ordinary line."""

FINISH_SECONDS = 30.0
"""Past its deadline an install either stops or is past stopping; it is given so long to say which."""

RUNNABLE_NAMED_MAX = 20  # scripts that a refusal names
EXECUTABLES_SAID_MAX = 200  # of an install; the lock has all of them

_NO_BYTECODE = {"PYTHONDONTWRITEBYTECODE": "1"}
"""What Python writes beside the modules that a script imports would be files that nobody installed."""

_TEXT = {"type": "string", "minLength": 1}
_ROOT = {**_TEXT, "description": "One of the folders of skills; the first where none is named."}


class Installed(Struct, frozen=True, kw_only=True):
    """What was installed, or would be."""

    dry_run: bool
    name: str
    description: str
    path: str
    """Below the root."""
    root: str
    digest: str
    files: int
    bytes: int
    executables: list[str]
    """The first of them; the lock has all."""
    source: dict[str, Any]
    signature: dict[str, Any] | None
    """What it is worth; None: nobody signed it."""
    replaced: str | None
    adopted: bool
    unchanged: bool
    locked_too: list[str]
    """Skills that stood in the root before it had a lock: this made it, with them."""
    left: list[str]
    """Names in the root that could not be cleared away; the next install does it."""


class SkillsInstall:
    """Install a skill."""

    name = "skills_install"
    description = (
        "Install a skill: from a folder, a .md file or an archive inside the allowed roots, from "
        "git+https://…@COMMIT, or from https:// with its sha256. It is checked first, and put in place with "
        "its entry in skills.lock.json or not at all. Nothing of it is run."
    )
    effect: Effect = "write"
    level: Level = "none"
    timeout_seconds: float | None = TIMEOUT_SECONDS
    keep: Keep = "full"
    schema: Mapping[str, Any] = {
        "type": "object",
        "properties": {
            "source": {**_TEXT, "description": "A path or an address."},
            "name": {**_TEXT, "description": "What it is called here. (as at its source)"},
            "replace": {"type": "boolean", "description": "In place of the skill of that name. (false)"},
            "sha256": {**_TEXT, "description": "What the archive or the download must be; https needs it."},
            "commit": {**_TEXT, "description": "Of a git repository: all of its digits."},
            "ref": {**_TEXT, "description": "Instead of `commit` a branch or a tag, as it stands now."},
            "path": {**_TEXT, "description": "The skill's folder in an archive or repository."},
            "digest": {
                "type": "string",
                "pattern": "^sha256:[0-9a-f]{64}$",
                "description": "Only if this is the digest of its files, as a dry run tells it.",
            },
            "root": _ROOT,
            "require_signed": {"type": "boolean", "description": "Only with a valid signature. (false)"},
        },
        "required": ["source"],
        "additionalProperties": False,
    }

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def validate(self, arguments: Mapping[str, Any], scope: Scope) -> Decision | None:
        try:
            source = wanted(arguments)
            root = root_of(self._shelf, arguments.get("root"))
            if "name" in arguments:
                check_name(arguments["name"])
            real_root(root, scope.reach)
        except InvalidInput as error:
            return Decision("deny", "schema", str(error))
        except PathRefused as error:
            return Decision("deny", "path", str(error))
        if source.kind in ("local", "archive") or source.address == "local":
            return scope.reach.decision(source.location, write=False, follow=False)
        return None

    async def execute(self, arguments: Mapping[str, Any], context: Context) -> Ended:
        began_ns = time.monotonic_ns()
        try:
            staging = await in_thread(Staging)
            try:
                return await self._install(arguments, context, staging)
            finally:
                await in_thread(staging.close)
        except CutOff as cut:
            return Ended(started_ns=began_ns, ended_ns=time.monotonic_ns(), limit_hit=cut.finished.limit_hit)
        except (CustodyError, OSError) as error:
            return Ended(started_ns=began_ns, ended_ns=time.monotonic_ns(), error=error)

    async def _install(self, arguments: Mapping[str, Any], context: Context, staging: Staging) -> Ended:
        source, reach, bounds = wanted(arguments), context.scope.reach, self._shelf.bounds
        cut = Cut()
        context.on_cancel(cut.end)
        fetched: Fetched | None = None
        if source.kind == "git":
            if source.address == "local":
                path = await in_thread(lambda: repository_path(source, reach))
                source = msgspec.structs.replace(source, location=path, said=path)
            fetched = await fetch_git(source, context, staging, bounds)

        def fetch() -> Fetched:
            if fetched is not None:
                return fetched
            if source.kind == "https":
                return fetch_https(source, staging, bounds, context.remaining_seconds(), cut)
            if source.form == "archive":
                return fetch_archive(source, reach, staging, bounds)
            if source.form == "file":
                return fetch_file(source, reach, staging, bounds)
            return fetch_folder(source, reach, staging, bounds, self._stands_in_place(arguments))

        work = functools.partial(self._put, arguments, context, fetch)
        return await run_in_thread(work, context, self.name, finish_seconds=FINISH_SECONDS)

    def _stands_in_place(self, arguments: Mapping[str, Any]) -> Callable[[str], bool]:
        """Raises, when it is asked, InvalidSkill for a folder that the root is in."""
        root = root_of(self._shelf, arguments.get("root"))

        def stands(path: str) -> bool:
            check_apart(path, root)
            return os.path.dirname(path) == os.path.realpath(root)

        return stands

    def _put(self, arguments: Mapping[str, Any], context: Context, fetch: Callable[[], Fetched]) -> Any:
        """Raises CustodyError, Stopped; then nothing was changed."""
        shelf, replace = self._shelf, arguments.get("replace", False)
        root = root_of(shelf, arguments.get("root"))
        staged = install.judge(
            fetch(), shelf, now_us(),
            name=arguments.get("name"),
            require_signed=arguments.get("require_signed", False),
            digest=arguments.get("digest"),
        )  # fmt: skip
        install.check_look_alikes(staged.name, shelf)
        real = real_root(root, context.scope.reach)
        if staged.kind == "folder" and staged.source.location != os.path.join(
            real, staged.name
        ):  # it is not there yet
            check_files(os.path.join(real, staged.name), staged.tree.files, context.scope.reach)
        if context.dry_run:
            placed = install.foresee(staged, root, replace=replace, bounds=shelf.bounds)
        else:
            placed = install.place(
                staged, root, real=real, replace=replace, bounds=shelf.bounds, stop=lambda: context.cancelled
            )
        return msgspec.to_builtins(_installed(staged, placed, root, dry_run=context.dry_run))


def _installed(staged: Staged, placed: install.Placed, root: str, *, dry_run: bool) -> Installed:
    verdict = staged.verdict
    signed = None if verdict.reason == "unsigned" else msgspec.to_builtins(verdict)
    return Installed(
        dry_run=dry_run,
        name=staged.name,
        description=staged.description,
        path=placed.path,
        root=root,
        digest=staged.tree.digest,
        files=len(staged.tree.files),
        bytes=staged.tree.size_bytes,
        executables=list(staged.tree.executables[:EXECUTABLES_SAID_MAX]),
        source=msgspec.to_builtins(staged.source),
        signature=signed,
        replaced=placed.replaced,
        adopted=placed.adopted,
        unchanged=placed.unchanged,
        locked_too=list(placed.locked_too),
        left=list(placed.left),
    )


class SkillsRemove:
    """Remove a skill."""

    name = "skills_remove"
    description = (
        "Remove an installed skill and its entry in skills.lock.json. What was not installed by Custody is "
        "left alone."
    )
    effect: Effect = "write"
    level: Level = "none"
    timeout_seconds: float | None = None
    keep: Keep = "full"
    schema: Mapping[str, Any] = {
        "type": "object",
        "properties": {"name": {**_TEXT, "description": "The skill."}, "root": _ROOT},
        "required": ["name"],
        "additionalProperties": False,
    }

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def validate(self, arguments: Mapping[str, Any], scope: Scope) -> Decision | None:
        try:
            root_of(self._shelf, arguments.get("root"))
            check_name(arguments["name"])
        except InvalidInput as error:
            return Decision("deny", "schema", str(error))
        return None

    async def execute(self, arguments: Mapping[str, Any], context: Context) -> Ended:
        work = functools.partial(self._remove, arguments, context)
        return await run_in_thread(work, context, self.name, finish_seconds=FINISH_SECONDS)

    def _remove(self, arguments: Mapping[str, Any], context: Context) -> Any:
        """Raises CustodyError, Stopped; then nothing was changed."""
        name: str = arguments["name"]
        root = self._root_with(name, arguments)
        real = real_root(root, context.scope.reach)
        if context.dry_run:
            removed = install.foresee_removal(root, name)
        else:
            removed = install.remove(root, name, real=real, stop=lambda: context.cancelled)
        return {
            "dry_run": context.dry_run,
            "name": name,
            "root": root,
            "path": removed.path,
            "digest": removed.digest,
            "left": list(removed.left),
        }

    def _root_with(self, name: str, arguments: Mapping[str, Any]) -> str:
        """The root that is named, else the first whose lock has the skill. Raises NotFound."""
        if "root" in arguments:
            return root_of(self._shelf, arguments["root"])
        missing: NotFound | None = None
        for root in self._shelf.roots:
            try:
                install.foresee_removal(root.path, name)
            except NotFound as error:
                # The one that says more than that nothing is there.
                missing = error if missing is None or error.details else missing
            else:
                return root.path
        raise missing or NotFound(f"There is no skill {name!r}, and no folder of skills.")


class SkillRun:
    """Run a script of a skill."""

    name = "skill_run"
    description = (
        "Run a script of a skill, after its files were found to be those that were installed. Executable "
        "files are run as they are, .py with python3, .sh with sh."
    )
    effect: Effect = "unknown"
    level: Level = "process"
    timeout_seconds: float | None = None
    keep: Keep = "full"
    schema: Mapping[str, Any] = {
        "type": "object",
        "properties": {
            "name": {**_TEXT, "description": "The skill."},
            "script": {**_TEXT, "description": "The file in the skill's folder, such as scripts/fill.py."},
            "args": {"type": "array", "items": {"type": "string"}, "description": "What it is given."},
            "stdin": {"type": "string", "description": "Text for its standard input."},
        },
        "required": ["name", "script"],
        "additionalProperties": False,
    }

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def validate(self, arguments: Mapping[str, Any], scope: Scope) -> Decision | None:
        return without_nul(arguments["script"], *arguments.get("args", ())) or scope.check()

    async def execute(self, arguments: Mapping[str, Any], context: Context) -> Ended:
        began = time.monotonic_ns()
        try:
            skill, argv = await in_thread(lambda: self._checked(arguments))
        except CustodyError as error:
            return Ended(started_ns=began, ended_ns=time.monotonic_ns(), error=error)
        said = {"skill": skill.name, "script": arguments["script"], "digest": skill.digest}
        if context.dry_run:
            result = {"dry_run": True, "would_run": list(argv), **said}
            return Ended(started_ns=began, ended_ns=time.monotonic_ns(), result=result)
        stdin = arguments.get("stdin")
        environment = context.environment(
            {**_NO_BYTECODE, "CUSTODY_SKILL": skill.name, "CUSTODY_SKILL_FOLDER": os.path.dirname(skill.file)}
        )
        command = Command(
            argv=argv,
            cwd=context.cwd,
            environment=environment,
            whole=secrets_in(environment),
            stdin=None if stdin is None else stdin.encode("utf-8", "surrogateescape"),
            deadline_seconds=context.remaining_seconds(),
        )

        def read(finished: Finished) -> Ended:
            return ended(finished, {**result_of(finished), **said})

        done = await run_command(command, context.scope, context, read)
        if done.result is None or await in_thread(lambda: self._is_still(skill)):
            return done
        return msgspec.structs.replace(done, result={**done.result, "skill_changed": True})

    def _is_still(self, skill: Skill) -> bool:
        """Whether its files are what they were: who changes them right before the start is found out by what
        he leaves, and a script that changes its own skill has it offered no more."""
        try:
            tree = read_tree(os.path.join(skill.root, skill.path), self._shelf.bounds)
        except InvalidSkill:
            return False
        return tree.digest == skill.digest

    def _checked(self, arguments: Mapping[str, Any]) -> tuple[Skill, tuple[str, ...]]:
        """The skill as it is right now, and the command. Raises NotFound, InvalidSkill."""
        skill = load_catalog(self._shelf).get(arguments["name"])
        if skill.kind == "file":
            raise InvalidSkill(f"{skill.name} is a single file; it has no scripts.")
        tree = read_tree(os.path.join(skill.root, skill.path), self._shelf.bounds)
        if tree.digest != skill.digest:
            raise InvalidSkill(f"{skill.name} changed while it was looked at; nothing was run.")
        script: str = arguments["script"]
        state = tree.files.get(script)
        runnable = [path for path, file in tree.files.items() if file.executable or _interpreter(path)]
        if state is None or script not in runnable:
            what = "has no file" if state is None else "cannot run"
            can = ", ".join(runnable[:RUNNABLE_NAMED_MAX]) or "nothing in it"
            raise NotFound(f"{skill.name} {what} {script!a}; what can be run: {can}.")
        path = os.path.join(skill.root, skill.path, script)
        begin = () if state.executable else (_interpreter(script) or "",)
        return skill, (*begin, path, *arguments.get("args", ()))


def _interpreter(script: str) -> str | None:
    """What runs a file that is not executable, by the end of its name."""
    return {".py": "python3", ".sh": "sh"}.get(os.path.splitext(script)[1])
