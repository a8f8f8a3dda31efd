"""Which skills are offered: everything in the roots, judged by lock, signature and name.

Owns the order of precedence and what keeps a skill back. Reads and never writes; nothing of a skill is run
or obeyed. Knows nothing of where roots come from. Used by the answers, by what runs a skill's scripts, and by
whoever puts skills before a model.

A root holds folders with a SKILL.md and single `.md` files, one level deep. Names that begin with a dot are
not looked at. In a root with a lock only what is exactly what its entry says is offered; a root without one
offers whatever is valid, as not locked. A name belongs to the first root that has it, and there to a folder
before a file, also where that skill is kept back: another skill never stands in for one that was changed,
taken away or not signed. Of two names that look alike the later is kept back. Nothing is kept back, and no
name is used twice, without a problem that says so.
"""

import difflib
import os

from msgspec import Struct

from custody.errors import InvalidInput, NotFound, TrustUnusable
from custody.files.small import read_small_file
from custody.records import now_us as wall_clock_us
from custody.skills.front_matter import BODY_BYTES_MAX, FRONT_MATTER_BYTES_MAX
from custody.skills.names import skeleton
from custody.skills.root import Candidate, Demands, read_root
from custody.skills.search import Hit, search
from custody.skills.skill import Problem, ProblemKind, Shelf, Skill
from custody.skills.trust import Trust

NEAREST_SHOWN = 3


class Catalog(Struct, frozen=True, kw_only=True):
    """The skills that are offered, and everything that is the matter with these and others."""

    skills: tuple[Skill, ...]
    """By name, each name once."""
    problems: tuple[Problem, ...]
    """In the order of the roots, by path."""

    def get(self, name: str) -> Skill:
        """Raises NotFound, which says what keeps the skill back, or which names are near."""
        for skill in self.skills:
            if skill.name == name:
                return skill
        raise self._not_found(name)

    def search(self, query: str, limit: int = 10) -> list[Hit]:
        """The skills that fit, the best first. Reads texts, so it waits for the disk. Raises InvalidInput."""
        return search(self.skills, query, limit, _text_of)

    def _not_found(self, name: str) -> NotFound:
        for problem in self.problems:
            if problem.name == name and not problem.offered:
                return NotFound(f"The skill {name!r} is kept back: {problem.message}", problem=problem.kind)
        for problem in self.problems:
            if problem.kind == "lock" and not problem.offered:
                return NotFound(f"No skill {name!r} is offered. {problem.message}", problem=problem.kind)
        near = difflib.get_close_matches(name, [skill.name for skill in self.skills], NEAREST_SHOWN, 0.4)
        if near:
            return NotFound(f"There is no skill {name!r}; near it: {', '.join(near)}.")
        return NotFound(
            f"There is no skill {name!r}.", hint="`custody skills list` shows those that are offered."
        )


def load_catalog(shelf: Shelf, *, now_us: int | None = None) -> Catalog:
    """Everything in the roots of the shelf, read and judged now. Waits for the disk; raises nothing for what
    it finds there: that becomes problems."""
    problems: list[Problem] = []
    demands = Demands(
        bounds=shelf.bounds,
        require_signed=shelf.require_signed,
        trust=_trust(shelf, problems),
        now_us=wall_clock_us() if now_us is None else now_us,
    )
    candidates: list[Candidate] = []
    seen: set[tuple[int, int]] = set()
    for root in shelf.roots:
        contents = read_root(root, demands)
        if contents.identity is not None:
            if contents.identity in seen:  # two paths to one folder are one root
                continue
            seen.add(contents.identity)
        candidates += contents.candidates
        problems += contents.problems
    skills = _not_alike(_first_of_each_name(candidates, problems), problems)
    return Catalog(skills=tuple(sorted(skills, key=lambda skill: skill.name)), problems=tuple(problems))


def _trust(shelf: Shelf, problems: list[Problem]) -> Trust:
    try:
        return Trust.load(shelf.trust_file)
    except TrustUnusable as error:
        folder, name = os.path.split(shelf.trust_file)
        problem = Problem(
            kind="unsigned", root=folder, path=name, name=None, message=str(error), offered=False
        )
        problems.append(problem)
        return Trust(path=shelf.trust_file)


def _first_of_each_name(candidates: list[Candidate], problems: list[Problem]) -> list[Skill]:
    first: dict[str, Candidate] = {}
    for candidate in candidates:
        holder = first.setdefault(candidate.name, candidate)
        if holder is not candidate and candidate.skill is not None:
            state = "" if holder.skill else ", which is kept back itself"
            message = (
                f"{os.path.join(holder.root, holder.path)}{state}, has its name. Remove one of the two, or "
                "install one by another name."
            )
            problems.append(_kept_back("conflict", candidate.skill, message))
    return [candidate.skill for candidate in first.values() if candidate.skill is not None]


def _not_alike(skills: list[Skill], problems: list[Problem]) -> list[Skill]:
    """Those that nobody takes for one before them."""
    first: dict[str, Skill] = {}
    for skill in skills:
        holder = first.setdefault(skeleton(skill.name), skill)
        if holder is not skill:
            message = (
                f"Its name looks like {holder.name!r}, which is {os.path.join(holder.root, holder.path)}. "
                "Install one of the two by another name."
            )
            problems.append(_kept_back("look_alike", skill, message))
    return list(first.values())


def _kept_back(kind: ProblemKind, skill: Skill, message: str) -> Problem:
    return Problem(
        kind=kind, root=skill.root, path=skill.path, name=skill.name, message=message, offered=False
    )


def _text_of(skill: Skill) -> str:
    """As far as it can be read; a skill is found by its other words where it cannot."""
    try:
        data = read_small_file(skill.file, FRONT_MATTER_BYTES_MAX + BODY_BYTES_MAX) or b""
    except InvalidInput:
        return ""
    return data.decode(errors="replace")
