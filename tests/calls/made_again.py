"""The calls of a made-up week made again under a policy, for whoever foresees what becomes of them."""

import random
from collections import defaultdict, deque

from tests.calls.week import EFFECTS, Made

from custody.bridges.policies import OTHER_KINDS
from custody.policy import Case, Layer, Policy, Rule
from custody.policy.document import read_document

WORDS = {"allow": "allowed", "ask": "asked", "deny": "refused"}

STRICTER = """
[[rules]]
name = "no force"
tool = "shell"
decision = "deny"
when = 'params.command.startsWith("rm ")'

[[rules]]
name = "ask before a push"
tool = "git"
decision = "ask"
when = 'params.argv[0] == "push"'

[[rules]]
name = "no mail of cy"
tool = "mail_send"
agent = "cy"
decision = "deny"

[[rules]]
name = "bob reads only"
agent = "bob"
effect = ["write", "irreversible"]
decision = "deny"

[[rules]]
name = "few fetches"
tool = "http_fetch"
decision = "deny"
rate = { calls = 3, seconds = 21600, per = "agent" }

[[rules]]
name = "no network after a secret"
tool = ["http_fetch", "mail_send"]
decision = "deny"
sequence = { after = "secret_read", per = "run" }
"""
"""Denies by arguments, names, rate and sequence, and asks."""


def layer_of(text: str) -> Layer:
    return read_document(text, "stricter.toml", "user", other_kinds=OTHER_KINDS)


class Live:
    """The same calls made again under a policy, counted as they are admitted: what a replay has to foresee.

    A call that would be asked for is answered as `yes` says; nothing that is refused counts.
    """

    def __init__(self, layer: Layer, yes: random.Random | None = None) -> None:
        self.policy = Policy([layer])
        self.yes = yes
        self.admitted: dict[tuple[str, str | None], deque[int]] = defaultdict(deque)
        self.secrets: set[int] = set()

    def make(self, made: Made) -> str:
        asked: list[Rule] = []
        ruling = self.policy.decide(
            Case(
                tool=made.tool,
                effect=EFFECTS[made.tool],
                params=made.arguments,
                agent=made.agent,
                session_id=made.session,
                rate_used=lambda rule: asked.append(rule) or self._used(rule, made),
                happened=lambda _: made.run in self.secrets,
            )
        )
        verdict = "allow" if ruling is None else ruling.verdict
        if verdict == "allow" or (verdict == "ask" and self.yes is not None and self.yes.random() < 0.5):
            for rule in asked:
                self.admitted[rule.name, made.agent].append(made.at_us)
            if made.tool == "secret_read" and made.succeeded:
                self.secrets.add(made.run)
        return verdict

    def _used(self, rule: Rule, made: Made) -> bool:
        assert rule.rate is not None
        times = self.admitted[rule.name, made.agent]
        since = made.at_us - rule.rate.seconds * 1e6
        return sum(1 for at_us in times if at_us > since) >= rule.rate.calls
