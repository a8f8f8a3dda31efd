"""docs/promises.md names the tests that hold each promise; these tests hold docs/promises.md to that."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROMISES = ROOT / "docs" / "promises.md"
REFERENCE = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows() -> list[tuple[str, str]]:
    """Promise and tests of every row of the tables."""
    found: list[tuple[str, str]] = []
    for line in PROMISES.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and cells[0] != "Promise" and set(cells[0]) != {"-"}:
            promise, tests = cells
            found.append((promise, tests))
    return found


@cache
def names_in(path: str) -> frozenset[str]:
    file = ROOT / path
    if not file.is_file():
        return frozenset()
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(
        node.name
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, functions)
    )


def test_every_promise_names_a_test():
    assert rows() != []
    assert [promise for promise, tests in rows() if not REFERENCE.search(tests)] == []


def test_every_test_a_promise_names_exists():
    missing = [
        f"{path}::{name}"
        for _, tests in rows()
        for path, name in REFERENCE.findall(tests)
        if not name.startswith("test_") or name not in names_in(path)
    ]
    assert missing == []


def test_no_promise_is_made_twice():
    promises = [promise for promise, _ in rows()]
    assert sorted(promises) == sorted(set(promises))
