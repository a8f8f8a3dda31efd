"""The sentences of a refusal for want of budget: how much was used of what, and what to do.

Owns the words alone. Used by `budgets`.
"""

from custody.policy.model import Per

_OF: dict[str, str] = {
    "wall_seconds": "seconds of running time",
    "cpu_seconds": "seconds of CPU time",
    "output_bytes": "bytes of output",
    "cost_usd": "US dollars",
    "files": "changed files",
}
"""Amounts that are not called what they are named."""


def refusal_sentence(per: Per, amount: str, used: float, limit: float, hours: float, *, above: bool) -> str:
    """`above`: the budget is that of a run this one was started from."""
    who = "A run above this one" if above else f"The {per}"
    window = f" in {_number(hours)} hours" if per in ("agent", "store") else ""
    more = ", and this call names another" if amount == "hosts" else ""
    said = f"{who} has used {_number(used)} of {_number(limit)} {_OF.get(amount, amount)}{window}{more}."
    if per in ("run", "session"):
        way = f"Start another {per}" if not above else "Start another run on its own"
    else:
        way = "Wait until some of it is longer ago"
    return f"{said} {way}, or raise `{amount}` of [budgets.{per}] in the policy."


def loop_sentence(verdict: str, tool: str, before: int) -> str:
    """`before` times the call was made already."""
    times = "once" if before == 1 else f"{before} times"
    said = f"{tool} was called {times} with exactly these arguments in this run."
    if verdict == "ask":
        return f"{said} Whether it may go on is for a person to say."
    return f"{said} Do something else, or raise `same_call` of [loops] in the policy."


def _number(amount: float) -> str:
    return f"{int(amount):,}" if amount == int(amount) else f"{amount:,.4g}"
