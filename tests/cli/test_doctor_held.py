"""What `custody doctor` says of changes that are held."""

from pathlib import Path
from typing import Any

import pytest
from tests.cli.test_policy import Typed
from tests.tools.holding import Rearrange

import custody


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(tmp_path, monkeypatch, capsys)


def told(typed: Typed) -> dict[str, Any]:
    found = {one["name"]: one for one in typed("doctor", "--json").json["findings"]}
    return found["held changes"]


def write_one(root: Path) -> None:
    (root / "one").write_text("1\n")


def test_changes_that_wait_are_counted_with_the_time_of_the_oldest(typed: Typed):
    with custody.open(str(typed.store), tools=[Rearrange({"one": write_one})]) as runtime:
        first, second = [runtime.call("rearrange", {"act": "one"}) for _ in range(2)]
        assert (first.held, second.held) == ("held", "held")
        waiting = told(typed)
        for call in (first, second):
            runtime.call("discard", {"call": call.id})
    assert waiting["state"] == "note"
    assert waiting["value"] == {"calls": 2, "oldest": first.asked_at}
    assert waiting["text"].startswith("of 2 calls, to be committed or discarded; the oldest: ")
    assert "custody calls --held" in waiting["hint"]
    after = told(typed)
    assert (after["state"], after["value"]) == ("ok", {"calls": 0, "oldest": None})
