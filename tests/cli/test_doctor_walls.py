"""What `custody doctor` says of the walls."""

import os
from pathlib import Path

import pytest
from tests.cli.test_policy import Typed


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(tmp_path, monkeypatch, capsys)


def test_each_wall_is_told_with_yes_no_or_partly_and_why_and_none_is_an_error(typed: Typed):
    ran = typed("doctor", "--json")
    found = {one["name"]: one for one in ran.json["findings"]}
    walls = {name: one for name, one in found.items() if name.startswith("wall: ")}
    assert {"wall: landlock", "wall: seccomp", "wall: namespaces", "wall: cgroup"} <= set(walls)
    for one in walls.values():
        has = one["value"]["has"]
        assert has in ("yes", "no", "partly") and one["text"].startswith(f"{has}: ")
        assert one["state"] == ("ok" if has == "yes" else "note")
        assert has == "yes" or one["hint"]
    lacking = [name for name, one in walls.items() if one["value"] == {"has": "no", "needed": True}]
    assert found["confined"]["value"] == {
        "offered": not lacking,
        "missing": [name.removeprefix("wall: ") for name in lacking],
    }
    usual = ["none", "process"]  # a transaction that has no overlay works on copies
    assert found["levels"]["value"] == (usual if lacking else [*usual, "confined", "transaction"])


@pytest.mark.skipif(os.geteuid() != 0, reason="others can be run as by root alone")
def test_the_users_of_the_settings_are_told(typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = tmp_path / "custody.toml"
    settings.write_text("[sandbox]\nuids = [80000, 100]\n")
    monkeypatch.setenv("CUSTODY_CONFIG", str(settings))
    found = {one["name"]: one["text"] for one in typed("doctor", "--json").json["findings"]}
    assert "80000 to 80099" in found["wall: user"] or not found["wall: user"].startswith("yes")
