"""May it happen: the rules a person wrote, asked before every call.

Owns the rules, their spelling in `custody.toml` and the answer to one question. Pure: does no I/O, knows
nothing of tools beyond their names, and keeps no state between calls. Used by the guards; an error raised
while deciding is theirs to turn into a deny.
"""

from custody.policy.rules import ParamCondition, Policy, Rule, json_equal, parse_rules

__all__ = ["ParamCondition", "Policy", "Rule", "json_equal", "parse_rules"]
