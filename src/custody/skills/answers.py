"""What can be asked about skills: one implementation and one shape an answer, whoever asks.

Owns the answers and the order in which a text is given: first the event `skill.read` is on the record, then
the text is. Knows nothing of terminals or wires: the command line, RPC and MCP each show the JSON of these
structures. All but `read_skill` wait for the disk, so a caller on an event loop asks them in a thread.
"""

import asyncio
import os
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from custody.errors import InvalidSkill, NotFound, TrustUnusable
from custody.records import now_us
from custody.skills.catalog import Catalog, load_catalog
from custody.skills.content import Content, read_content
from custody.skills.front_matter import split
from custody.skills.search import preview
from custody.skills.skill import Problem, Shelf, Skill, SkillKind, Source, SourceKind
from custody.skills.trust import Trust
from custody.skills.verify import RootReport, about, verify_root

if TYPE_CHECKING:
    from custody.calls.run import RunRecord
    from custody.calls.runtime import Runtime

FOUND_MAX = 10  # a model or a person chooses among a few; whoever wants more says so
PREVIEW_CHARACTERS = 500  # enough to see what a skill is for; its text is a question of its own


class SkillLine(Struct, frozen=True, kw_only=True):
    """A skill in a list."""

    name: str
    description: str
    kind: SkillKind
    root: str
    path: str
    """Below the root."""
    digest: str
    """Of all its files: `sha256:…`."""
    locked: bool
    """Whether it is what the lock file of its root says."""
    source_kind: SourceKind | None
    """Where it was installed from; null where no lock file says."""
    signed_by: str | None
    """The trusted key that signed it."""


class SkillsList(Struct, frozen=True, kw_only=True):
    """Every skill that is offered, by name, and what is the matter with others."""

    items: list[SkillLine]
    problems: list[Problem]
    next: None = None


class SkillFound(SkillLine, frozen=True, kw_only=True):
    """A skill that was looked for."""

    score: float
    """The higher, the better it fits."""


class SkillsFound(Struct, frozen=True, kw_only=True):
    """What fits best, the best first; complete is false where there is more."""

    items: list[SkillFound]
    complete: bool


class SkillInfo(SkillLine, frozen=True, kw_only=True):
    """What is known of one skill."""

    file: str
    """Absolute path of its text."""
    files: tuple[str, ...]
    """Relative to the skill's folder."""
    metadata: dict[str, Any]
    """The whole front matter."""
    source: Source | None
    preview: str
    """How its text begins, front matter left out; never half a character."""
    preview_complete: bool
    problems: list[Problem]
    """What a person should know of it, or of others by this name."""


class SkillText(Struct, frozen=True, kw_only=True):
    """The text of a skill; that it was given is on the record."""

    name: str
    root: str
    path: str
    file: str
    digest: str
    """Of all its files, at the moment the text was read."""
    locked: bool
    files: tuple[str, ...]
    text: str
    """Whole, front matter included."""


class SkillsVerified(Struct, frozen=True, kw_only=True):
    """What differs from the lock files, root by root."""

    roots: list[RootReport]
    problem: str | None
    """Why the file of trusted keys cannot be used; no signature counts then."""
    ok: bool


# -- the questions --------------------------------------------------------------------------------------


def list_skills(shelf: Shelf) -> SkillsList:
    """Every skill that is offered, and every problem: none is passed over in silence."""
    catalog = load_catalog(shelf)
    return SkillsList(
        items=[SkillLine(**_line(skill)) for skill in catalog.skills], problems=list(catalog.problems)
    )


def search_skills(shelf: Shelf, query: str, limit: int = FOUND_MAX) -> SkillsFound:
    """The skills that fit a query best. Raises InvalidInput for a query that cannot be one."""
    found = load_catalog(shelf).search(query, limit + 1)
    items = [SkillFound(**_line(one.skill), score=one.score) for one in found]
    return SkillsFound(items=items[:limit], complete=len(items) <= limit)


def skill_info(shelf: Shelf, name: str) -> SkillInfo:
    """What is known of a skill, without its text. Raises NotFound, which says why one is kept back."""
    catalog = load_catalog(shelf)
    skill = catalog.get(name)
    _, body = split(_content(skill, shelf).text)
    shown = preview(body, PREVIEW_CHARACTERS)
    return SkillInfo(
        **_line(skill),
        file=skill.file,
        files=skill.files,
        metadata=skill.metadata,
        source=skill.source,
        preview=shown,
        preview_complete=len(shown) == len(body),
        problems=_about(catalog, skill),
    )


async def read_skill(
    runtime: "Runtime",
    shelf: Shelf,
    name: str,
    run: "RunRecord | None" = None,
    agent: str | None = None,
) -> SkillText:
    """The text of a skill, once it is on the record who was given which version of it.

    Raises NotFound, InvalidSkill, RunClosed, and NotRecorded, after which nobody was given anything.
    """
    skill, text = await asyncio.to_thread(_read, shelf, name)
    if run is not None:
        run.takes("event", "skill.read", strict=True)
        await run.first.on_record()
    said = {
        "name": skill.name,
        "path": skill.path,
        "root": skill.root,
        "digest": skill.digest,
        "locked": skill.locked,
        "agent": agent or (runtime.settings.agent if run is None else run.who.agent),
    }
    ledger = runtime.ledger
    draft = ledger.recorder.draft_event("skill.read", said, run_id=None if run is None else run.run_id)
    await ledger.append(draft)
    return SkillText(
        name=skill.name,
        root=skill.root,
        path=skill.path,
        file=skill.file,
        digest=skill.digest,
        locked=skill.locked,
        files=skill.files,
        text=text,
    )


def verify_skills(shelf: Shelf, name: str | None = None) -> SkillsVerified:
    """What differs from the lock file of each root, and what the signatures are worth. Changes nothing.

    With a name only what concerns the skill of that name. Raises NotFound where no root and no lock has one.
    """
    problem = None
    try:
        trust = Trust.load(shelf.trust_file)
    except TrustUnusable as error:
        trust, problem = Trust(path=shelf.trust_file), str(error)
    now = now_us()
    reports = [verify_root(root, shelf, trust, now) for root in shelf.roots]
    if name is not None:
        reports = [report for one in reports if (report := about(one, name, shelf)) is not None]
        if not reports:
            raise NotFound(
                f"There is no skill {name!r}.", hint="`custody skills list` shows those that are offered."
            )
    return SkillsVerified(
        roots=reports, problem=problem, ok=problem is None and all(report.ok for report in reports)
    )


# -- parts of an answer ---------------------------------------------------------------------------------


def _line(skill: Skill) -> dict[str, Any]:
    return {
        "name": skill.name,
        "description": skill.description,
        "kind": skill.kind,
        "root": skill.root,
        "path": skill.path,
        "digest": skill.digest,
        "locked": skill.locked,
        "source_kind": None if skill.source is None else skill.source.kind,
        "signed_by": skill.signed_by,
    }


def _about(catalog: Catalog, skill: Skill) -> list[Problem]:
    """What concerns this skill, or its name in another root."""
    return [problem for problem in catalog.problems if problem.name == skill.name]


def _read(shelf: Shelf, name: str) -> tuple[Skill, str]:
    skill = load_catalog(shelf).get(name)
    return skill, _content(skill, shelf).text


def _content(skill: Skill, shelf: Shelf) -> Content:
    """What the digest of the skill is about, and nothing that came there since. Raises InvalidSkill."""
    content = read_content(os.path.join(skill.root, skill.path), shelf.bounds)
    if content.tree.digest != skill.digest:
        raise InvalidSkill(f"{skill.name} changed while it was read.", hint="Ask again.")
    return content
