"""The rules a peer sets upon itself: three kinds, each a check of one call that says no or nothing.

Owns their bounds, their scopes (the whole connection, or one policy session of it) and the sentences of a
refusal, which name the rule and the parameter, never the value. They are asked after the guards of the
runtime and cannot allow what those refuse. Knows nothing of the wire; used by `session`.
"""

import secrets
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from custody.calls.guards import Guard, Proposal
from custody.errors import InvalidInput, NotFound
from custody.plans.conditions import Condition, Readable
from custody.records import Decision

RuleKind = Literal["deny_tool", "deny_tool_param", "require_state"]

POLICIES_MAX = 1_000
"""Of one connection: each is asked before every call."""

POLICY_SESSIONS_MAX = 100  # open at once on one connection; whoever opens and never closes is told

POLICY_TEXT_CHARACTERS_MAX = 4_096  # of a name, target, key or pattern: they are kept in the record's leaf

POLICY_VALUE_BYTES_MAX = 4_096  # as JSON, for the same reason


class Policy(Struct, frozen=True, kw_only=True):
    """One rule."""

    name: str
    rule: RuleKind
    target: str | None = None
    """The tool's exact name."""
    key: str | None = None
    """The parameter, or the key of the state."""
    pattern: str | None = None
    """Plain text, found anywhere in the parameter."""
    value: Any = msgspec.UNSET
    """What the state has to hold."""

    def description(self) -> str:
        """What it forbids, for a person."""
        if self.rule == "deny_tool":
            return f"The tool {self.target} is denied."
        if self.rule == "deny_tool_param":
            return f"The tool {self.target} is denied where its parameter {self.key} holds a certain text."
        return f"Every tool is denied until the state {self.key} is as required."

    def violation(self, proposal: Proposal, state: Readable) -> Decision | None:
        """A deny, or None. Raises for a parameter that has no text: a guard that errs says no."""
        if self.rule == "require_state":
            assert self.key is not None, "checked when it was registered"
            if Condition(key=self.key, value=self.value).holds(state):
                return None
            return self._deny(f"the state {self.key} is not as it requires")
        if proposal.name != self.target:
            return None
        if self.rule == "deny_tool":
            return self._deny(f"it denies the tool {self.target}")
        assert self.key is not None and self.pattern is not None, "checked when it was registered"
        if self.key not in proposal.arguments or self.pattern not in _text(proposal.arguments[self.key]):
            return None
        return self._deny(f"it denies what the parameter {self.key} holds", self.key)

    def _deny(self, reason: str, param: str | None = None) -> Decision:
        return Decision("deny", "rule", f"The policy {self.name} says no: {reason}.", self.name, param)


def checked(policy: Policy) -> Policy:
    """The policy itself. Raises InvalidInput for one that lacks what its kind needs, or has too much text."""
    needed = {
        "deny_tool": ("target",),
        "deny_tool_param": ("target", "key", "pattern"),
        "require_state": ("key",),
    }[policy.rule]
    for field in ("name", *needed):
        text = getattr(policy, field)
        if not text:
            raise InvalidInput(f"A policy of the kind {policy.rule} needs a {field}.", field=field)
    for field in ("name", "target", "key", "pattern"):
        if len(getattr(policy, field) or "") > POLICY_TEXT_CHARACTERS_MAX:
            raise InvalidInput(
                f"The {field} is longer than {POLICY_TEXT_CHARACTERS_MAX} characters.", field=field
            )
    if policy.rule == "require_state" and policy.value is msgspec.UNSET:
        raise InvalidInput("A policy of the kind require_state needs a value.", field="value")
    if policy.value is not msgspec.UNSET:
        _check_value(policy.value)
    return policy


def _check_value(value: Any) -> None:
    if len(msgspec.json.encode(value)) > POLICY_VALUE_BYTES_MAX:
        raise InvalidInput(f"The value is longer than {POLICY_VALUE_BYTES_MAX} bytes.", field="value")
    try:
        msgspec.msgpack.encode(value)
    except OverflowError:  # the leaf that is to keep it could not
        raise InvalidInput("The value has an integer beyond 64 bits.", field="value") from None


class Policies:
    """The rules of one connection, in the order they came."""

    def __init__(self) -> None:
        self._everywhere: list[Policy] = []
        self._sessions: dict[str, list[Policy]] = {}

    def open(self) -> str:
        """The id of a new policy session. Raises InvalidInput when too many are open."""
        if len(self._sessions) >= POLICY_SESSIONS_MAX:
            raise InvalidInput(
                f"{POLICY_SESSIONS_MAX} policy sessions are open, the most a connection may have.",
                hint="Close one with session.policy.close.",
            )
        policy_session = secrets.token_hex(8)
        self._sessions[policy_session] = []
        return policy_session

    def has(self, policy_session: str) -> bool:
        return policy_session in self._sessions

    def close(self, policy_session: str) -> bool:
        """Forget a policy session and its rules; whether there was one."""
        return self._sessions.pop(policy_session, None) is not None

    def add(self, policy: Policy, policy_session: str | None = None) -> None:
        """Register a rule; a name may be given more than once. Raises InvalidInput, NotFound."""
        scope = self._scope(policy_session)
        if len(self._everywhere) + sum(map(len, self._sessions.values())) >= POLICIES_MAX:
            raise InvalidInput(
                f"The connection has {POLICIES_MAX} policies, the most it may have.",
                hint="Take one away with policy.unregister.",
            )
        scope.append(checked(policy))

    def remove(self, name: str, policy_session: str | None = None) -> int:
        """Take away every rule of this name; how many there were. Raises NotFound."""
        scope = self._scope(policy_session)
        before = len(scope)
        scope[:] = [policy for policy in scope if policy.name != name]
        return before - len(scope)

    def registered(self, policy_session: str | None = None) -> Sequence[Policy]:
        """In the order they came. Raises NotFound."""
        return tuple(self._scope(policy_session))

    def guards(self, policy_session: str | None, state: Readable) -> tuple[Guard, ...]:
        """The connection's rules, then those of a policy session, as one guard. Raises NotFound.

        Rules that come or go later count for calls decided later; those of a policy session that is closed
        meanwhile still count for whoever began under it.
        """
        scopes = [self._everywhere]
        if policy_session is not None:
            scopes.append(self._scope(policy_session))

        def policies(proposal: Proposal) -> Decision | None:
            for scope in scopes:
                for policy in scope:
                    decision = policy.violation(proposal, state)
                    if decision is not None:
                        return decision
            return None

        return (policies,)

    def _scope(self, policy_session: str | None) -> list[Policy]:
        if policy_session is None:
            return self._everywhere
        try:
            return self._sessions[policy_session]
        except KeyError:
            raise NotFound(
                "There is no such policy session on this connection.",
                hint="session.policy.open gives the id of one.",
                field="session_id",
            ) from None


def _text(value: Any) -> str:
    """A parameter as its text: a string as it is, anything else as JSON. Raises for what is neither."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
