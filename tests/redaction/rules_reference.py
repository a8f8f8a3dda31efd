"""The page docs/reference/redaction-rules.md, from the rules themselves.

`python -m tests.redaction.rules_reference` writes it, `test_rules` checks it.
"""

import re
from pathlib import Path

from custody.redaction import ScanRule
from custody.redaction.checks import CHECKS
from custody.redaction.rules import RULES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "redaction-rules.md"
MARKED = re.compile(r"(<!-- (rules|checks) -->\n).*?(<!-- /\2 -->)", re.DOTALL)

KEYWORDS_SHOWN = 6


def _row(rule: ScanRule) -> str:
    shown = [f"`` {keyword} ``".replace("|", "\\|") for keyword in rule.keywords[:KEYWORDS_SHOWN]]
    if len(rule.keywords) > KEYWORDS_SHOWN:
        shown.append("…")
    return f"| `{rule.id}` | {rule.kind} | {' '.join(shown)} | {rule.check or ''} |"


def _rules() -> str:
    return "\n".join(["| rule | what it is | keywords | check |", "|---|---|---|---|", *map(_row, RULES)])


def _checks() -> str:
    rows = ["| check | what must hold |", "|---|---|"]
    for name, check in CHECKS.items():
        said = " ".join((check.__doc__ or "").split())
        rows.append(f"| `{name}` | {said} |")
    return "\n".join(rows)


def made(page: str) -> str:
    """The page with every rule and check as it is."""
    parts = {"rules": _rules(), "checks": _checks()}
    return MARKED.sub(lambda found: f"{found[1]}\n{parts[found[2]]}\n\n{found[3]}", page)


if __name__ == "__main__":
    PAGE.write_text(made(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
