"""An install writes to the folders that the settings name, and not to where an agent's link leads."""

import os
from pathlib import Path
from typing import Any

import pytest
from tests.skills.installing import hidden, is_sound, judged, make_skill, seen, shelf_of
from tests.tools.trees import Place, message, succeeded

from custody.skills import acts
from custody.skills.install import place as put_in_place


@pytest.mark.parametrize("link", [".agents", ".agents/skills"])
def test_a_root_that_a_link_in_the_workspace_leads_out_with_is_left_alone(tmp_path: Path, link: str):
    place = Place(tmp_path)
    mine = make_skill(place.outside / "skills", "pdf", "Mine.")
    (place.work / link).parent.mkdir(exist_ok=True)
    (place.work / link).symlink_to(place.outside if link == ".agents" else place.outside / "skills")
    skills = place.outside / "skills"
    put_in_place(judged(mine, shelf_of(skills)), os.fspath(skills))
    before = seen(place.outside)
    source = os.fspath(make_skill(place.work, "pdf", "Another."))
    with place.open() as runtime:
        for call in (
            runtime.call("skills_install", {"source": source, "replace": True}, dry_run=True),
            runtime.call("skills_install", {"source": source, "replace": True}),
            runtime.call("skills_install", {"source": source, "name": "new"}),
            runtime.call("skills_remove", {"name": "pdf"}),
            runtime.call("skills_remove", {"name": "pdf", "root": os.fspath(place.work / ".agents/skills")}),
        ):
            assert "outside the allowed roots" in message(call)
    assert seen(place.outside) == before
    assert hidden(skills) == []


def test_a_root_that_is_made_a_link_during_an_install_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = Place(tmp_path)
    agents = place.work / ".agents"
    agents.mkdir()
    judge = acts.install.judge

    def judge_slowly(*said: Any, **more: Any) -> Any:
        agents.rename(place.work / "moved")
        agents.symlink_to(place.outside)
        return judge(*said, **more)

    monkeypatch.setattr(acts.install, "judge", judge_slowly)
    source = os.fspath(make_skill(place.work, "pdf"))
    with place.open() as runtime:
        assert "outside the allowed roots" in message(runtime.call("skills_install", {"source": source}))
    assert list(place.outside.iterdir()) == []


def test_a_link_that_stays_in_the_workspace_is_a_root_as_any(tmp_path: Path):
    place = Place(tmp_path)
    (place.work / ".agents").mkdir()
    (place.work / "ours").mkdir()
    (place.work / ".agents" / "skills").symlink_to("../ours")
    with place.open() as runtime:
        source = os.fspath(make_skill(place.work, "pdf"))
        succeeded(runtime.call("skills_install", {"source": source}))
    assert is_sound(place.work / "ours")


def test_only_links_that_no_agent_can_lay_lead_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place = Place(tmp_path)
    dotfiles, root = place.outside / "dotfiles", place.outside / "skills"
    dotfiles.mkdir()
    root.symlink_to(dotfiles)
    monkeypatch.setenv("CUSTODY_SKILLS", os.fspath(root))
    source = os.fspath(make_skill(place.work, "pdf"))
    with place.open() as runtime:
        succeeded(runtime.call("skills_install", {"source": source}))
        assert is_sound(dotfiles)
        root.unlink()
        root.symlink_to(place.work / "by way of")
        (place.work / "by way of").symlink_to(dotfiles)
        refused = message(runtime.call("skills_install", {"source": source, "name": "other"}))
    assert "by the link" in refused and "by way of" in refused
    assert sorted(path.name for path in dotfiles.iterdir()) == ["pdf", "skills.lock.json"]
