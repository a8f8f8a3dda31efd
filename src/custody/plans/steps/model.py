"""Step plans: what is to be done, after what, on which condition, and how far it has come.

Owns the model, its spelling on the wire and in files, and the digest that says whether two plans are to do
the same. Reading starts nothing. Knows nothing of order, which is `standing`'s, nor of tools beyond their
names. Used by the analysis, by what runs step plans, and by the doors that take them.

    {"id": "release", "goal": "…", "actions": [
       {"id": "build", "description": "…", "depends_on": ["fetch"], "tools_required": ["exec"],
        "condition": "always" | {"if_succeeded": ID} | {"if_failed": ID},
        "status": "pending" | "in_progress" | {"in_progress": {"waiting_for": "answer"}} | "completed"
                | {"failed": REASON} | {"skipped": REASON},
        "tool": "exec", "arguments": {…}, "timeout_s": 60, "on_failure": "stop" | "skip" | "continue",
        "retries": 0}]}

Only ids have to be there. Whatever cannot be read is a fault of its own, all are found at once, and the rest
of the plan is kept beside them so that the analysis can go on: a plan that has `faults` is never run.
"""

import difflib
import hashlib
import math
import reprlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import msgspec
from msgspec import Struct

from custody.plans.graph import RETRIES_MAX
from custody.plans.json_values import DEPTH_MAX, is_text, why_not_json
from custody.plans.references import Reference, references_in
from custody.plans.steps.texts import read_text

STEPS_MAX = 20_000
"""Of one plan: twice what is promised to be checked within a second."""

EDGES_MAX = 200_000
"""Of one plan, in `depends_on` and references: an analysis keeps them all in memory."""

ID_CHARACTERS_MAX = 128
"""Ids stand in sentences, in records and on command lines."""

WORDS_CHARACTERS_MAX = 10_000
"""Of a description, a goal, a reason: what somebody is to read."""

FAULTS_MAX = 1000
"""Told of one plan; who reads more mends these first."""

ConditionKind = Literal["always", "if_succeeded", "if_failed"]
StatusKind = Literal["pending", "in_progress", "completed", "failed", "skipped"]
OnFailure = Literal["stop", "skip", "continue"]
FaultKind = Literal[
    "malformed",
    "too_many",
    "duplicate_id",
    "missing_dependency",
    "cycle",
    "self_dependency",
    "unknown_tool",
    "unknown_condition",
    "never",
]


class PlanFault(Struct, frozen=True, kw_only=True):
    """Why a plan cannot be carried out as it stands."""

    kind: FaultKind
    message: str
    action_id: str | None = None
    """The action to be mended; null where it is the plan as a whole."""
    others: tuple[str, ...] = ()
    """Further actions it is about. Of a cycle, and of a condition in a circle: the rest of the way round, in
    order, each waiting for the next and the last for `action_id`."""


MORE_FAULTS = PlanFault(
    kind="too_many",
    message=f"The plan has more than {FAULTS_MAX} faults; the others are told when these are mended.",
)
"""The last one of those that are told, where there are more."""


class StepCondition(Struct, frozen=True):
    """On which end of another action this one is begun."""

    kind: ConditionKind = "always"
    action_id: str | None = None
    """The other action; null for `always`."""

    @property
    def wire(self) -> Any:
        return "always" if self.kind == "always" else {self.kind: self.action_id}

    def __str__(self) -> str:
        return "always" if self.kind == "always" else f"{self.kind} {self.action_id!r}"


class StepStatus(Struct, frozen=True):
    """How far an action has come."""

    kind: StatusKind = "pending"
    reason: str | None = None
    """Of failed and skipped."""
    waiting_for: str | None = None
    """Of in_progress: `answer`, where it goes on when a person has said yes or no."""

    @property
    def ended(self) -> bool:
        return self.kind in ("completed", "failed", "skipped")

    @property
    def wire(self) -> Any:
        if self.kind in ("failed", "skipped"):
            return {self.kind: self.reason or ""}
        if self.waiting_for is not None:
            return {self.kind: {"waiting_for": self.waiting_for}}
        return self.kind


ALWAYS = StepCondition()
PENDING = StepStatus()
COMPLETED = StepStatus("completed")


class StepAction(Struct, frozen=True, kw_only=True):
    """One action of a step plan."""

    id: str
    description: str = ""
    depends_on: tuple[str, ...] = ()
    tools_required: tuple[str, ...] = ()
    condition: StepCondition = ALWAYS
    status: StepStatus = PENDING
    tool: str | None = None
    """What is called when the plan is run; null: the action is one for people, or for an agent."""
    arguments: dict[str, Any] = {}  # msgspec gives every action its own
    """Of the tool. They may refer to what earlier actions gave, as in proposals: `$build.output`."""
    timeout_s: float | None = None
    """Null: the tool's own."""
    on_failure: OnFailure = "stop"
    retries: int = 0
    """Attempts after the first, where that failed or timed out."""

    @property
    def references(self) -> tuple[Reference, ...]:
        """Where its arguments speak of what another action gave: it depends on that one as well."""
        return tuple(references_in(self.arguments)) if self.arguments else ()

    @property
    def after(self) -> tuple[str, ...]:
        """The ids it depends on: those it names, then those its arguments refer to, whether there is such an
        action or not."""
        return tuple(dict.fromkeys((*self.depends_on, *(one.action_id for one in self.references))))

    @property
    def tools(self) -> tuple[str, ...]:
        """Every tool it asks for, each once."""
        own = () if self.tool is None else (self.tool,)
        return tuple(dict.fromkeys((*own, *self.tools_required)))

    @property
    def wire(self) -> dict[str, Any]:
        """As a plan in a file has it; what is as usual is left out."""
        said: dict[str, Any] = {"id": self.id}
        if self.condition.kind != "always":
            said["condition"] = self.condition.wire
        if self.status.kind != "pending":
            said["status"] = self.status.wire
        for name in _PLAIN:
            value = getattr(self, name)
            if value != _USUAL[name]:
                said[name] = list(value) if isinstance(value, tuple) else value  # pyright: ignore[reportUnknownArgumentType]
        return said


_DIGESTED_AS = b"custody-step-plan/v1\n"
"""Begins what is hashed, so that no other digest of Custody's is one of a plan."""

_PLAIN = (
    "description",
    "depends_on",
    "tools_required",
    "tool",
    "arguments",
    "timeout_s",
    "on_failure",
    "retries",
)
_USUAL: dict[str, Any] = {name: getattr(StepAction(id="usual"), name) for name in _PLAIN}


class StepPlan(Struct, frozen=True, kw_only=True):
    """A step plan as it was read."""

    id: str
    goal: str = ""
    actions: tuple[StepAction, ...] = ()
    faults: tuple[PlanFault, ...] = ()
    """What could not be read. Where there is any, `actions` may lack what stood there."""

    @property
    def digest(self) -> str:
        """Of what is to be done: equal for two plans that differ in statuses, in words for people (goal,
        descriptions), or in how they are written down, and for no others."""
        said = [
            {name: value for name, value in action.wire.items() if name not in ("status", "description")}
            for action in self.actions
        ]
        encoded = msgspec.json.encode({"id": self.id, "actions": said}, order="sorted")
        return f"sha256:{hashlib.sha256(_DIGESTED_AS + encoded).hexdigest()}"

    @property
    def wire(self) -> dict[str, Any]:
        return {"id": self.id, "goal": self.goal, "actions": [action.wire for action in self.actions]}


def read_plan(text: str | bytes, suffix: str) -> tuple[StepPlan | None, tuple[PlanFault, ...]]:
    """The plan in the text of a file with that suffix (`.json .yaml .yml .toml`, or empty for a pipe).

    Raises InvalidInput for what is not written as its suffix says, with line and column where they are known.
    """
    return parse_plan(read_text(text, suffix))


def parse_plan(data: Any) -> tuple[StepPlan | None, tuple[PlanFault, ...]]:
    """A plan of plain values, and every fault of its spelling. None where there is nothing to go on with;
    else the plan has the same faults as its `faults`."""
    return _Parsing().plan(data)


class _Parsing:
    """One plan being read; what is wrong is noted, and reading goes on."""

    def __init__(self) -> None:
        self.faults: list[PlanFault] = []
        self._edges = 0

    def plan(self, data: Any) -> tuple[StepPlan | None, tuple[PlanFault, ...]]:
        fields = self._fields(data, _PLAN_FIELDS, "The plan", None)
        if fields is None:
            return None, tuple(self.faults)
        listed = fields.get("actions")
        if not isinstance(listed, list):
            said = "has no `actions`" if listed is None else f"has {_kind(listed)} as `actions`"
            self._fault(f"The plan {said}; they are a list.")
            return None, tuple(self.faults)
        actions = cast("list[Any]", listed)
        if len(actions) > STEPS_MAX:
            message = f"The plan has {len(actions)} actions; {STEPS_MAX} is the most it may have."
            self._note(PlanFault(kind="too_many", message=message))
            return None, tuple(self.faults)
        plan_id = self._take(fields, "id", "The plan")
        if "id" not in fields:
            self._fault(f"The plan has no `id`; {_FORMS['id']}.")
        goal = self._take(fields, "goal", "The plan")
        steps = tuple(filter(None, (self._action(one, number) for number, one in enumerate(actions, 1))))
        if self._edges > EDGES_MAX:
            message = f"The plan has {self._edges} dependencies; {EDGES_MAX} is the most it may have."
            self._note(PlanFault(kind="too_many", message=message))
            return None, tuple(self.faults)
        faults = tuple(self.faults)
        return StepPlan(id=plan_id, goal=goal, actions=steps, faults=faults), faults

    def _action(self, data: Any, number: int) -> StepAction | None:
        own: Any = cast("dict[Any, Any]", data).get("id") if isinstance(data, dict) else None
        action_id = own if isinstance(own, str) and _id(own) is own else None
        who = f"Action {number}" if action_id is None else f"Action {action_id!r}"
        fields = self._fields(data, _STEP_FIELDS, who, action_id)
        if fields is None:
            return None
        if action_id is None:
            said = "has no `id`" if "id" not in fields else f"has {_shown(own)} as `id`"
            self._fault(f"{who} {said}; {_FORMS['id']}.")
        read = {name: self._take(fields, name, who, action_id) for name in fields if name != "id"}
        self._edges += len(read.get("depends_on", ()))
        return None if action_id is None else StepAction(id=action_id, **read)

    def _fields(
        self, data: Any, known: Sequence[str], who: str, action_id: str | None
    ) -> dict[str, Any] | None:
        """Those that have a meaning; the others are faults."""
        if not isinstance(data, dict):
            self._fault(f"{who} is {_kind(data)}; it is an object with {', '.join(known)}.", action_id)
            return None
        said = cast("dict[Any, Any]", data)
        for name in said:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, 1) if len(str(name)) <= 100 else []
                meant = f"; `{near[0]}` is meant, perhaps" if near else f"; there are {', '.join(known)}"
                self._fault(f"{who} has a field {_shown(name)}, which means nothing{meant}.", action_id)
        return {name: value for name, value in said.items() if name in known}

    def _take(self, fields: dict[str, Any], name: str, who: str, action_id: str | None = None) -> Any:
        """The value of a field; what is usual where it is not there or, with a fault, cannot be read."""
        read, usual = _READ[name]
        if name not in fields:
            return usual
        value = read(fields[name])
        if value is not _WRONG:
            return value
        self._fault(f"{who} has {_shown(fields[name])} as `{name}`; {_FORMS[name]}.", action_id)
        return usual

    def _fault(self, message: str, action_id: str | None = None) -> None:
        self._note(PlanFault(kind="malformed", message=message, action_id=action_id))

    def _note(self, fault: PlanFault) -> None:
        if len(self.faults) <= FAULTS_MAX:
            self.faults.append(fault if len(self.faults) < FAULTS_MAX else MORE_FAULTS)


# -- the values of fields: what they are, or _WRONG -------------------------------------------------------

_WRONG: Any = object()


def _id(value: Any) -> Any:
    is_id = isinstance(value, str) and 0 < len(value) <= ID_CHARACTERS_MAX and value.isprintable()
    return value if is_id and value == value.strip() else _WRONG


def _words(value: Any) -> Any:
    if not isinstance(value, str) or len(value) > WORDS_CHARACTERS_MAX or not is_text(value):
        return _WRONG
    return value


def _ids(value: Any) -> Any:
    if not isinstance(value, list):
        return _WRONG
    read = [_id(one) for one in cast("list[Any]", value)]
    return _WRONG if _WRONG in read else tuple(dict.fromkeys(read))


def _condition(value: Any) -> Any:
    if value == "always":
        return ALWAYS
    kind, action_id = _pair(value)
    if kind not in ("if_succeeded", "if_failed") or _id(action_id) is _WRONG:
        return _WRONG
    return StepCondition(kind, action_id)


def _status(value: Any) -> Any:
    if value in ("pending", "in_progress", "completed"):
        return StepStatus(value)
    kind, said = _pair(value)
    if kind in ("failed", "skipped") and _words(said) is not _WRONG:
        return StepStatus(kind, reason=said)
    if kind == "in_progress" and _pair(said) == ("waiting_for", "answer"):
        return StepStatus("in_progress", waiting_for="answer")
    return _WRONG


def _pair(value: Any) -> tuple[Any, Any]:
    """Name and value of an object that has one of each."""
    if not isinstance(value, dict) or len(cast("dict[Any, Any]", value)) != 1:
        return None, None
    return next(iter(cast("dict[Any, Any]", value).items()))


def _tool(value: Any) -> Any:
    return None if value is None else _id(value)


def _arguments(value: Any) -> Any:
    is_json = isinstance(value, dict) and why_not_json(cast("Any", value)) is None
    return cast("Any", value) if is_json else _WRONG


def _seconds(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _WRONG
    try:
        seconds = float(value)
    except OverflowError:
        return _WRONG
    return seconds if seconds > 0 and math.isfinite(seconds) else _WRONG


def _on_failure(value: Any) -> Any:
    return value if value in ("stop", "skip", "continue") else _WRONG


def _retries(value: Any) -> Any:
    return value if type(value) is int and 0 <= value <= RETRIES_MAX else _WRONG


_ID_FORM = f"an id is a text of 1 to {ID_CHARACTERS_MAX} characters that can be seen, with no blank around it"
_WORDS_FORM = f"it is a text of at most {WORDS_CHARACTERS_MAX} characters"
_FORMS: dict[str, str] = {
    "id": _ID_FORM,
    "goal": _WORDS_FORM,
    "description": _WORDS_FORM,
    "depends_on": "it is a list of the ids of actions",
    "tools_required": "it is a list of the names of tools",
    "condition": 'it is "always", {"if_succeeded": ID} or {"if_failed": ID}',
    "status": (
        'it is "pending", "in_progress", {"in_progress": {"waiting_for": "answer"}}, "completed", '
        '{"failed": REASON} or {"skipped": REASON}'
    ),
    "tool": "it is the name of a tool",
    "arguments": f"it is an object of JSON values, at most {DEPTH_MAX} within each other",
    "timeout_s": "it is a number of seconds greater than 0",
    "on_failure": 'it is "stop", "skip" or "continue"',
    "retries": f"it is a whole number from 0 to {RETRIES_MAX}",
}
_READ: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "id": (_id, ""),
    "goal": (_words, ""),
    "description": (_words, ""),
    "depends_on": (_ids, ()),
    "tools_required": (_ids, ()),
    "condition": (_condition, ALWAYS),
    "status": (_status, PENDING),
    "tool": (_tool, None),
    "arguments": (_arguments, {}),
    "timeout_s": (_seconds, None),
    "on_failure": (_on_failure, "stop"),
    "retries": (_retries, 0),
}
"""How a field is read, and what is usual."""

_PLAN_FIELDS = ("id", "goal", "actions")
_STEP_FIELDS = tuple(name for name in _READ if name != "goal")


def _kind(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case dict():
            return "an object"
        case _:
            return "no JSON value"


def _shown(value: Any) -> str:
    """A few words of it, whatever it is: as deep and as long as anybody likes to make it."""
    if isinstance(value, int) and value.bit_length() > SHOWN_BITS_MAX:
        return "a number of very many digits"
    return _SHOWN.repr(value)


SHOWN_BITS_MAX = 1024  # Python writes no number of more than some thousand digits

_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 80
