"""May it happen: the rules people wrote, asked before every call.

Owns the rules, how they are written, joined and decided, and the facts of a call they speak of. Pure: does no
I/O, has no clock, and keeps no state between calls. Used by the guards. An error while a rule is decided is a
deny; nothing in here lets a call through because it failed.
"""

from custody.policy.arguments import json_equal
from custody.policy.conditions import Condition, compile_condition
from custody.policy.engine import Policy
from custody.policy.model import Case, Layer, Match, Matched, Rule, RuleExplained, Ruling, Walls

__all__ = [
    "Case",
    "Condition",
    "Layer",
    "Match",
    "Matched",
    "Policy",
    "Rule",
    "RuleExplained",
    "Ruling",
    "Walls",
    "compile_condition",
    "json_equal",
]
