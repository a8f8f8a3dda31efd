"""A plan as a picture: a tree of lines for people, or a Mermaid flow chart for documents.

Owns which action is drawn beneath which, and how a text of somebody else's is made harmless: in a line of a
tree as in the source of a chart. Pure: nothing is begun, and no record is read. Knows nothing of terminals,
which fit and colour the lines, nor of how a plan stands, which it is told. Used by `shown`.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Literal

from msgspec import Struct

ActionWord = Literal["pending", "ready", "in_progress", "waiting", "completed", "failed", "skipped"]
"""How an action stands: its status, with `ready` for one that could begin now, and `waiting` for one in
progress that waits for an answer."""

DEPTH_MAX = 12
"""Levels of a tree before it goes on at the margin: 36 columns leave room for the words, and a chain of
20,000 actions is not drawn as a triangle."""

NAMED_MAX = 6  # of the actions another one comes after, in one line: who wants them all asks for JSON
DESCRIPTION_CHARACTERS_MAX = 200  # a line of a tree
REASON_CHARACTERS_MAX = 500  # as records of plans have them
LABEL_CHARACTERS_MAX = 80  # of a description in a box of a chart

SIGNS: dict[ActionWord, str] = {
    "pending": "○",
    "ready": "▷",
    "in_progress": "▶",
    "waiting": "?",
    "completed": "✓",
    "failed": "✗",
    "skipped": "–",
}
WORDS: dict[ActionWord, str] = {
    "pending": "pending",
    "ready": "ready",
    "in_progress": "in progress",
    "waiting": "waiting for an answer",
    "completed": "completed",
    "failed": "failed",
    "skipped": "skipped",
}


class After(Struct, frozen=True, kw_only=True):
    """That an action comes after another."""

    action_id: str
    needed: bool = True
    """Whether it depends on the other; false: only its condition asks how the other ended."""
    only_if: Literal["succeeded", "failed"] | None = None
    """How the other has to end for this one to be begun; null: that is not asked."""


class ShownAction(Struct, frozen=True, kw_only=True):
    """An action as it stands."""

    id: str
    description: str = ""
    tool: str | None = None
    after: tuple[After, ...] = ()
    status: ActionWord = "pending"
    reason: str | None = None
    """Why it failed or was skipped."""


class Line(Struct, frozen=True, kw_only=True):
    """A line of a tree, in the parts a terminal may show apart. Nothing in it steers a terminal."""

    branches: str = ""
    status: ActionWord | None = None
    """Of the action drawn here; null in lines that refer to another, or say more of the one above."""
    text: str

    def __str__(self) -> str:
        if self.status is None:
            return f"{self.branches}{self.text}"
        return f"{self.branches}{SIGNS[self.status]} {WORDS[self.status]} {self.text}"


def harmless(text: str) -> str:
    """On one line, with what cannot be seen or would steer a terminal shown escaped."""
    folded = " ".join(text.split())
    if folded.isprintable():
        return folded
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in folded
    )


# -- the tree -------------------------------------------------------------------------------------------


class _Place(Struct, frozen=True):
    """Where an action may be drawn."""

    index: int
    above: int | None
    """The action it would hang under."""
    branches: str = ""
    depth: int = 0
    last: bool = True


class _Tree:
    """An action hangs under the last of those it comes after, so that all of them stand above it; under the
    others stands where it is. What waits for itself is drawn all the same, at the margin."""

    def __init__(self, actions: Sequence[ShownAction]) -> None:
        self._actions = actions
        numbers: dict[str, int] = {}
        for index, action in enumerate(actions):
            numbers.setdefault(action.id, index)
        self._numbers = numbers
        self._below: list[list[int]] = [[] for _ in actions]
        self._left = [0] * len(actions)
        """Of what each comes after: how many are not drawn yet."""
        for index, action in enumerate(actions):
            above = {numbers[one.action_id] for one in action.after if one.action_id in numbers} - {index}
            self._left[index] = len(above)
            for other in above:
                self._below[other].append(index)
        self._drawn = [False] * len(actions)
        self._at_the_margin: deque[int] = deque()
        """What is to be drawn there because it would stand too deep."""

    def lines(self) -> Iterator[Line]:
        for index, left in enumerate(list(self._left)):
            if left == 0:
                yield from self._from(index)
        for index in range(len(self._actions)):
            if not self._drawn[index]:
                yield from self._from(index)

    def _from(self, index: int) -> Iterator[Line]:
        """The tree of an action at the margin, and of those that it sends there."""
        self._at_the_margin.append(index)
        while self._at_the_margin:
            root = self._at_the_margin.popleft()
            if not self._drawn[root]:
                yield from self._beneath(_Place(root, None))

    def _beneath(self, top: _Place) -> Iterator[Line]:
        rest = [top]
        while rest:
            place = rest.pop()
            if place.above is not None and not self._is_the_place(place):
                yield self._reference(place)
                continue
            self._drawn[place.index] = True
            yield from self._action(place)
            inner = _continued(place)
            below = self._below[place.index]
            rest += [
                _Place(one, place.index, inner, place.depth + 1, number == 0)
                for number, one in enumerate(reversed(below))
            ]

    def _is_the_place(self, place: _Place) -> bool:
        if self._drawn[place.index]:
            return False
        self._left[place.index] -= 1
        if self._left[place.index] > 0:
            return False
        if place.depth <= DEPTH_MAX:
            return True
        self._at_the_margin.append(place.index)
        return False

    def _reference(self, place: _Place) -> Line:
        above = self._drawn[place.index]
        words = f"{'↑' if above else '↓'} {harmless(self._actions[place.index].id)}"
        return Line(branches=_branch(place), text=f"{words}, {'above' if above else 'below'}")

    def _action(self, place: _Place) -> Iterator[Line]:
        action = self._actions[place.index]
        text = harmless(action.id)
        notes = self._notes(action, None if place.above is None else self._actions[place.above].id)
        if notes:
            text += f" [{'; '.join(notes)}]"
        if action.description:
            text += f": {bounded(action.description, DESCRIPTION_CHARACTERS_MAX)}"
        yield Line(branches=_branch(place), status=action.status, text=text)
        if action.reason:
            inner = _continued(place) + ("│  " if self._below[place.index] else "   ")
            yield Line(branches=inner, text=bounded(action.reason, REASON_CHARACTERS_MAX))

    def _notes(self, action: ShownAction, above: str | None) -> list[str]:
        """What the place in the tree does not say of how an action comes after others."""
        notes: list[str] = []
        missing = [one.action_id for one in action.after if one.action_id not in self._numbers]
        others = [
            one.action_id
            for one in action.after
            if one.action_id in self._numbers and one.action_id != above and one.only_if is None
        ]
        if others:
            notes.append(f"after {_named(others)}")
        notes += [
            f"if {harmless(one.action_id)} {one.only_if}" for one in action.after if one.only_if is not None
        ]
        if missing:
            notes.append(f"there is no {_named(missing)}")
        return notes


def _branch(place: _Place) -> str:
    if place.above is None:
        return ""
    return place.branches + ("└─ " if place.last else "├─ ")


def _continued(place: _Place) -> str:
    """What stands before the lines beneath a place."""
    if place.above is None:
        return ""
    return place.branches + ("   " if place.last else "│  ")


def _named(ids: Sequence[str]) -> str:
    named = ", ".join(map(harmless, ids[:NAMED_MAX]))
    return named if len(ids) <= NAMED_MAX else f"{named} and {len(ids) - NAMED_MAX} more"


def bounded(text: str, characters_max: int) -> str:
    """Harmless, and what is left out counted."""
    if len(text) <= characters_max:
        return harmless(text)
    return f"{harmless(text[:characters_max])} … ({len(text) - characters_max:,} more characters)"


def tree(actions: Sequence[ShownAction]) -> list[Line]:
    """Each action once, beneath what it comes after; however they refer to each other, it ends."""
    return list(_Tree(actions).lines())


# -- the chart ------------------------------------------------------------------------------------------

CLASSES: dict[str, str] = {
    "pending": "fill:#f4f4f4,stroke:#888,color:#222",
    "ready": "fill:#e2ecff,stroke:#3465a4,color:#222",
    "in_progress": "fill:#cfe8ff,stroke:#0969da,color:#222,stroke-width:2px",
    "waiting": "fill:#fff3c4,stroke:#b58900,color:#222",
    "completed": "fill:#dcf5dc,stroke:#2e7d32,color:#222",
    "failed": "fill:#fbdcdc,stroke:#b3261e,color:#222,stroke-width:2px",
    "skipped": "fill:#eeeeee,stroke:#888,color:#666,stroke-dasharray:4 3",
    "missing": "fill:#ffffff,stroke:#b3261e,color:#b3261e,stroke-dasharray:4 3",
}
"""How boxes look; each also says its status in words."""


def mermaid(actions: Sequence[ShownAction]) -> str:
    """The source of a flow chart. Boxes have names of their own, since an id may be any text."""
    boxes: dict[str, str] = {}
    classes: dict[str, list[str]] = {}
    lines = ["flowchart TD"]
    for number, action in enumerate(actions, 1):
        box = f"a{number}"
        boxes.setdefault(action.id, box)
        classes.setdefault(action.status, []).append(box)
        lines.append(f'    {box}["{_label(action)}"]')
    edges: list[str] = []
    missing: dict[str, str] = {}
    for number, action in enumerate(actions, 1):
        for one in action.after:
            box = boxes.get(one.action_id) or missing.setdefault(one.action_id, f"m{len(missing) + 1}")
            edges.append(f"    {box} {_arrow(one)} a{number}")
    lines += [f'    {box}["{_quoted(name)}<br/>missing"]' for name, box in missing.items()]
    lines += edges
    if missing:
        classes["missing"] = list(missing.values())
    lines += [f"    classDef {name} {CLASSES[name]}" for name in classes]
    lines += [f"    class {','.join(named)} {name}" for name, named in classes.items()]
    return "\n".join(lines) + "\n"


def _label(action: ShownAction) -> str:
    parts = [_quoted(action.id)]
    if action.description:
        parts.append(_quoted(_short(action.description)))
    said = WORDS[action.status] if action.reason is None else f"{WORDS[action.status]}: {action.reason}"
    parts.append(_quoted(_short(said)))
    return "<br/>".join(parts)


def _short(text: str) -> str:
    return text if len(text) <= LABEL_CHARACTERS_MAX else f"{text[: LABEL_CHARACTERS_MAX - 1]}…"


def _arrow(one: After) -> str:
    if one.only_if is None:
        return "-->"
    line = "-->" if one.needed else "-.->"
    return f'{line}|"if {one.only_if}"|'


def _quoted(text: str) -> str:
    """For a text in double quotes: whatever is neither letter, digit nor plain punctuation is written by its
    number, so that nothing in it ends the text, is a tag, a link, or a directive."""
    return "".join(
        character if character.isalnum() or character in " ,.:_-…" else f"#{ord(character)};"
        for character in harmless(text)
    )
