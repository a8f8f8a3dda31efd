"""Recorded calls decided again under another policy file: what would change, and what cannot be told.

Owns the comparison and its table. What a rule cannot see of a recorded call (arguments that were purged,
redacted or not kept, the state of then) makes the rule undecidable, and with it the call, unless a rule that
can be decided denies it anyway. Runs nothing and writes nothing. Used by the command line.

Paths are taken as they were written: where links led then is not on the record. A call that would be asked
for may be answered either way, so what it counts towards is not certain from there on.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import msgspec
from msgspec import Struct

from custody.calls.history import History, Missing, RecordedCall, Said
from custody.calls.recount import FREE, RANK, Recount, Standing
from custody.calls.replayed import Decided, Now, Replayed, Table
from custody.errors import CorruptJournal
from custody.journal import Journal
from custody.policy import Case, Layer, Policy, Rule
from custody.policy.facts import Facts
from custody.records import CallFinished, Step, Verdict

TOOLS_MAX = 4_096
"""Tools whose rules' needs are remembered."""

PROGRESS_CALLS = 256
"""Between two looks at the clock by whoever shows how far it is."""

NOW: Mapping[Verdict, Now] = {"allow": "allowed", "ask": "asked", "deny": "refused"}

WHY: Mapping[Missing, str] = {
    "purged": "its arguments were purged",
    "redacted": "its arguments are redacted",
    "not_kept": "its arguments are not kept as they were",
}
WHY_HIDDEN: Mapping[str, str] = {
    "state": "the state of then is not on the record",
    "counters": "whether calls before it count is not certain",
    "facts": "where it worked is not on the record",
}
OF_THE_RUN = frozenset({"agent", "session"})
"""What a call may have from its run alone."""

ARGUMENTS = frozenset({"params", "facts"})
"""What conditions read that is made of a call's arguments."""

CHECKED = frozenset({"params"})
"""What a check looks at that says nothing else of itself."""

Progress = Callable[[int], None]
"""Told the number of calls decided so far."""


class Wanted(Struct, frozen=True, kw_only=True):
    """Which calls are shown. The others count all the same, where one call bears on another."""

    since_us: int | None = None
    until_us: int | None = None
    """Not included."""
    run_id: bytes | None = None
    agent: str | None = None

    def takes(self, call: RecordedCall) -> bool:
        return (
            (self.since_us is None or call.request.asked_at_us >= self.since_us)
            and (self.until_us is None or call.request.asked_at_us < self.until_us)
            and (self.run_id is None or call.request.run_id == self.run_id)
            and (self.agent is None or call.agent == self.agent)
        )


ALLOWED = Decided("allowed")


class Replay:
    """One replay of one layer over one journal. Iterate once, or ask for the `report`."""

    def __init__(self, journal: Journal, layer: Layer, *, roots: Sequence[str] = ()) -> None:
        """`layer` is taken as enforced, whatever its mode; `roots` are those of today."""
        self.layer = msgspec.structs.replace(layer, mode="enforce")
        self._roots = tuple(roots)
        policy = Policy([self.layer])
        self._policy = policy
        self._counts = Recount(layer.rules, layer.budgets, layer.loops)
        self._tools: dict[str, _ForTool] = {}
        self._splits: dict[frozenset[str], _Split] = {frozenset(): _Split(policy, None, frozenset())}
        self._rules_alone = layer.default is None and not self._counts.looks_at_every_call
        """Whether a tool that no rule is about is allowed without another look."""
        self.history = History(journal, steps=self._counts.reads_steps)
        self._reads_facts = False

    @property
    def damage(self) -> CorruptJournal | None:
        """What of the journal could not be read, once all that can be was."""
        return self.history.damage

    def report(self, wanted: Wanted = Wanted(), progress: Progress | None = None) -> Replayed:  # noqa: B008
        """The table of what would change."""
        table = Table()
        for call, decided in self.decided(wanted):
            table.add(call, decided)
            if progress is not None and not table.calls % PROGRESS_CALLS:
                progress(table.calls)
        return table.report(self.layer, self._notes())

    def decided(self, wanted: Wanted = Wanted()) -> Iterator[tuple[RecordedCall, Decided]]:  # noqa: B008
        """Every wanted call with what would become of it, in the order they were made."""
        counts, every = self._counts, wanted == Wanted()
        for found in self.history:
            if type(found) is RecordedCall:
                shown = every or wanted.takes(found)
                if shown or counts.remembers:
                    decided = self._decide(found)
                    if shown:
                        yield found, decided
            elif counts.remembers:
                at_us, leaf = cast("tuple[int, CallFinished | Step]", found)
                if isinstance(leaf, CallFinished):
                    counts.finished(at_us, leaf)
                elif (run := self.history.run_of(leaf.run_id)) is None or not run.told:
                    counts.stepped(at_us, leaf, run)

    # -- one call -------------------------------------------------------------------------------------

    def _decide(self, call: RecordedCall) -> Decided:
        """What would become of the call; it is counted if it would be let through, or might be."""
        if call.was == "unreached":
            return Decided("refused", call.request.decision.rule)
        about = self._about(call.request.tool)
        counts = self._counts
        if self._rules_alone and not about.ruled and not call.redactions:
            if counts.remembers:
                counts.admit(call, {}, None, None, certain=True)
            return ALLOWED
        look = self._look_at(call, about)
        decided = self._ruled(look)
        if counts.remembers and decided.now != "refused":
            counts.admit(call, look.slots, look.same, look.hosts, certain=decided.now == "allowed")
        return decided

    def _look_at(self, call: RecordedCall, about: "_ForTool") -> "_Look":
        """Read what the rules for its tool read, and what is counted, of one call."""
        counts = self._counts
        said = None
        if about.reads_arguments or counts.compares_arguments or counts.reads_hosts:
            said = self.history.said(call)
        look = _Look(call, said, counts, self._roots)
        look.hidden = _hidden(call, said, about.needs)
        if counts.compares_arguments:
            look.same = _same(call, said)
        if counts.reads_hosts:
            look.hosts = look.named_hosts()
        if "counters" in about.needs:
            look.counters = counts.counters(call, look.same)
            look.hidden |= {"counters"} if look.counters is None else frozenset[str]()
        return look

    def _ruled(self, look: "_Look") -> Decided:
        """The rules, then loops and budgets; each as strict as it can be told to be."""
        call = look.call
        if call.redactions and call.names_redacted and self.layer.rules:
            return Decided("undecidable", None, "its name or its agent's is redacted")
        split = self._split(look.hidden)
        ruling = split.known.decide(look.case())
        verdict: Verdict = "allow" if ruling is None else ruling.verdict
        rule = None if ruling is None else ruling.rule
        if verdict == "deny" and rule is not None:
            return Decided("refused", rule)
        standing = FREE if verdict == "deny" else self._counts.standing(call, look.same, look.hosts)
        if standing.certain == "deny":
            return Decided("refused", standing.name)
        if look.uncertain or split.opened is not None:
            for name, decision in self._unsure(look, split):
                if _matters(decision, verdict, ruled=rule is not None):
                    return Decided("undecidable", name, look.why_not())
        return Decided(NOW[verdict], rule) if standing is FREE else _with_counts(verdict, rule, standing)

    def _unsure(self, look: "_Look", split: "_Split") -> Iterator[tuple[str, Verdict]]:
        """Rules that may or may not match, by name, with what they would say."""
        if look.uncertain:
            ruling = split.known.decide(look.case(perhaps=True))
            for matched in () if ruling is None else ruling.matched:
                if matched.rule in look.uncertain:
                    yield matched.rule, matched.decision
        if split.opened is not None:
            ruling = split.opened.decide(look.case(perhaps=True))
            for matched in () if ruling is None else ruling.matched:
                if matched.rule is not None:
                    yield matched.rule, matched.decision
                    if matched.rule in split.may_fail:
                        yield matched.rule, "deny"

    # -- rules by what they read ----------------------------------------------------------------------

    def _about(self, tool: str) -> "_ForTool":
        """What the rules for a tool read of a call."""
        about = self._tools.get(tool)
        if about is None:
            rules = self._policy.rules_for(tool)
            needs = frozenset[str]().union(*map(reads, rules))
            about = _ForTool(bool(rules), needs, bool(needs & ARGUMENTS))
            self._reads_facts |= "facts" in needs
            if len(self._tools) < TOOLS_MAX:
                self._tools[tool] = about
        return about

    def _split(self, hidden: frozenset[str]) -> "_Split":
        split = self._splits.get(hidden)
        if split is None:
            known = tuple(rule for rule in self.layer.rules if hidden.isdisjoint(reads(rule)))
            others = tuple(rule for rule in self.layer.rules if hidden & reads(rule))
            opened = tuple(_opened(rule, hidden) for rule in others)
            split = self._splits[hidden] = _Split(
                Policy([msgspec.structs.replace(self.layer, rules=known)]),
                Policy([msgspec.structs.replace(self.layer, rules=opened, default=None)]) if others else None,
                frozenset(rule.name for rule in others if rule.when or rule.check),
            )
        return split

    def _notes(self) -> tuple[str, ...]:
        notes: list[str] = []
        if self._reads_facts:
            notes.append("Paths are taken as they were written: where links led then is not on the record.")
        if self._counts.remembers:
            notes.append("Of calls that would be asked for it is not certain whether they count.")
        if self._counts.unknown_ends:
            notes.append(
                f"{self._counts.unknown_ends:,} calls that were refused might run: what they would have used "
                "is not known."
            )
        if self._counts.forgotten:
            notes.append(f"{self._counts.forgotten:,} counts were dropped: too many were under way at once.")
        return tuple(notes)


class _ForTool(Struct, frozen=True):
    """What the rules for one tool come to."""

    ruled: bool
    """There are any."""
    needs: frozenset[str]
    reads_arguments: bool


class _Split(Struct, frozen=True):
    """The rules by whether they can be decided without what is hidden."""

    known: Policy
    opened: Policy | None
    """Those that cannot, as if what they look at were as they want it; None where there are none."""
    may_fail: frozenset[str]
    """Those of them with a condition: it may as well fail, and then they deny whatever they say."""


def reads(rule: Rule) -> frozenset[str]:
    """What of a call the rule looks at, beside its tool, effect and door."""
    found = set[str]() if rule.when is None else set(rule.when.reads)
    if rule.check is not None:
        found |= getattr(rule.check, "reads", CHECKED)
    if rule.match.agents:
        found.add("agent")
    if rule.match.sessions:
        found.add("session")
    return frozenset(found)


def _same(call: RecordedCall, said: Said | None) -> str | None:
    """Equal for calls of the same tool with the same arguments; None where they are not known.

    What is redacted in one record may stand unredacted in another, so tokens are not compared.
    """
    if said is None or said.missing is not None:
        return None
    try:
        data = msgspec.msgpack.encode(said.arguments, order="sorted")
    except (TypeError, ValueError, RecursionError):
        return None
    return f"{call.request.tool}\0{hashlib.sha256(data).hexdigest()}"


def _opened(rule: Rule, hidden: frozenset[str]) -> Rule:
    """The rule as if all that is hidden of the call were as it wants it."""
    match = rule.match
    if "agent" in hidden:
        match = msgspec.structs.replace(match, agents=())
    if "session" in hidden:
        match = msgspec.structs.replace(match, sessions=())
    return msgspec.structs.replace(rule, when=None, check=None, match=match)


def _hidden(call: RecordedCall, said: Said | None, needs: frozenset[str]) -> frozenset[str]:
    """What the rules want to see of the call and cannot."""
    if not needs:
        return needs
    hidden = needs & {"state"}
    if call.run_lost:
        hidden |= needs & OF_THE_RUN
    if said is not None and said.missing is not None:
        hidden |= needs & ARGUMENTS
    elif "facts" in needs and said is not None and said.cwd is None and call.workspace is None:
        hidden |= {"facts"}
    return hidden


def _matters(decision: Verdict, verdict: Verdict, *, ruled: bool) -> bool:
    """Whether one more matching rule would change the verdict; a match of any kind replaces a default."""
    return decision != verdict if not ruled else RANK[decision] > RANK[verdict]


def _with_counts(verdict: Verdict, rule: str | None, standing: Standing) -> Decided:
    least = max(verdict, standing.certain, key=RANK.__getitem__)
    most = max(verdict, standing.possible, key=RANK.__getitem__)
    if least != most:
        return Decided("undecidable", standing.name, WHY_HIDDEN["counters"])
    return Decided(NOW[least], standing.name if least != verdict else rule)


class _Look:
    """One call under the rules' eyes: what they ask of it, answered as far as the record goes."""

    def __init__(
        self, call: RecordedCall, said: Said | None, counts: Recount, roots: tuple[str, ...]
    ) -> None:
        self.call = call
        self.hidden: frozenset[str] = frozenset()
        self.slots: dict[Rule, bool] = {}
        """Rules whose rate the call uses up if it is let through, and whether that is certain."""
        self.uncertain: set[str] = set()
        """Rules whose rate or sequence cannot be told."""
        self.same: str | None = None
        self.hosts: frozenset[str] | None = None
        self.counters: Mapping[str, Any] | None = None
        """The three as far as they are counted, and None where they are not known."""
        self._said = said
        self._counts = counts
        self._roots = roots
        self._perhaps = False
        self._worked_out: Facts | None = None

    def case(self, *, perhaps: bool = False) -> Case:
        """With `perhaps`, a rate or sequence that cannot be told is taken to be so."""
        self._perhaps = perhaps
        call, request = self.call, self.call.request
        said = self._said
        return Case(
            tool=request.tool,
            effect=request.effect,
            params={} if said is None or said.arguments is None else said.arguments,
            door=request.door,
            agent=call.agent,
            caller=call.caller,
            session_id=call.session_id,
            run={} if request.run_id is None else {"id": request.run_id.hex()},
            facts=self._facts,
            counters=self._counters,
            rate_used=self._rate_used,
            happened=self._happened,
        )

    def named_hosts(self) -> frozenset[str] | None:
        """None where they are not known."""
        said = self._said
        if said is None or said.missing is not None:
            return None
        try:
            return frozenset(host["host"].lower() for host in self._facts()["hosts"])
        except Exception:  # arguments that facts cannot be made of: the live guard refuses such a call
            return None

    def why_not(self) -> str:
        """What keeps it from being decided."""
        said = self._said
        if said is not None and said.missing is not None and self.hidden & ARGUMENTS:
            return WHY[said.missing]
        for name, why in WHY_HIDDEN.items():
            if name in self.hidden:
                return why
        if self.hidden:
            return "the beginning of its run is not on the record"
        return WHY_HIDDEN["counters"]

    def _facts(self) -> Mapping[str, Any]:
        """The same for everybody who asks: the rules, taken certainly or perhaps, and the budgets."""
        if self._worked_out is None:
            self._worked_out = self._facts_of_record()
        return self._worked_out

    def _facts_of_record(self) -> Facts:
        said, call = self._said, self.call
        assert said is not None, "facts are hidden where the arguments are"
        assert said.arguments is not None, "so are they where nothing is kept"
        workspace = call.workspace
        roots = self._roots if workspace is None else (workspace, *self._roots)
        return Facts(
            call.request.tool,
            call.request.effect,
            said.arguments,
            cwd=said.cwd or workspace or "/",
            roots=roots,
        )

    def _counters(self) -> Mapping[str, Any]:
        assert self.counters is not None, "rules that read what cannot be told are not asked"
        return self.counters

    def _rate_used(self, rule: Rule) -> bool:
        if not self._perhaps or rule not in self.slots:
            self.slots[rule] = not self._perhaps
        return self._told(rule, self._counts.rate_used(rule, self.call))

    def _happened(self, rule: Rule) -> bool:
        return self._told(rule, self._counts.happened(rule, self.call))

    def _told(self, rule: Rule, certain: bool | None) -> bool:
        if certain is None:
            self.uncertain.add(rule.name)
            return self._perhaps
        return certain
