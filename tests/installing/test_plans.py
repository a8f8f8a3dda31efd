"""Whole files: installed and uninstalled, with the copy beside them, to the very bytes."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.installing.test_hooks import lines
from tests.installing.test_servers import PROXY
from tests.installing.texts import SERVERS, SETTINGS, Text

from custody.installing.jsonc import parse
from custody.installing.plans import Ours, carry_out, plan_install, plan_uninstall
from custody.installing.programs import Place, Surroundings, Target, places
from custody.installing.settings_file import SettingsNotWritten

OURS = Ours(lines={cli: lines() for cli in ("claude-code", "codex", "gemini")}, proxy=PROXY)


ORDERS: list[list[Target]] = [["gemini", "mcp"], ["mcp", "gemini"]]


def at(folder: str) -> Surroundings:
    return Surroundings(home=folder, project=os.path.join(folder, "work"), environ={})


def gemini(around: Surroundings, target: Target) -> Place:
    return next(place for place in places(target, around, "user") if place.title == "Gemini CLI")


@settings(max_examples=25)
@given(SETTINGS | SERVERS, st.sampled_from(ORDERS), st.booleans())
def test_whatever_stood_there_stands_there_again(text: Text, order: list[Target], one_by_one: bool):
    with TemporaryDirectory() as folder:
        around = at(folder)
        file = Path(folder, ".gemini/settings.json")
        file.parent.mkdir()
        file.write_bytes(text[0].encode())
        for target in order:
            for planned in plan_install([gemini(around, target)], OURS, around):
                if planned.changes:
                    carry_out(planned, around)
        steps: list[list[Target]] = [[target] for target in order] if one_by_one else [order]
        for targets in steps:
            for planned in plan_uninstall([gemini(around, each) for each in targets], OURS, around):
                if planned.changes:
                    carry_out(planned, around)
        back = file.read_bytes().decode()
        assert parse(back).value == text[1]
        if not one_by_one:
            assert back == text[0]
        assert os.listdir(file.parent) == ["settings.json"]


def test_a_file_that_changes_between_the_look_and_the_write_stays(tmp_path: Path):
    around = at(str(tmp_path))
    file = tmp_path / ".gemini/settings.json"
    file.parent.mkdir()
    file.write_text("{}")
    [planned] = plan_install([gemini(around, "gemini")], OURS, around)
    file.write_text('{"mine": 1}')
    with pytest.raises(SettingsNotWritten, match="changed meanwhile"):
        carry_out(planned, around)
    assert file.read_text() == '{"mine": 1}'
    assert not [name for name in os.listdir(file.parent) if name.startswith(".custody-")]


def test_a_folder_that_takes_no_copy_leaves_the_file_alone(tmp_path: Path):
    around = at(str(tmp_path))
    file = tmp_path / ".gemini/settings.json"
    file.parent.mkdir()
    file.write_text("{}")
    [planned] = plan_install([gemini(around, "gemini")], OURS, around)
    (tmp_path / ".gemini/settings.json.custody-backup").mkdir()
    with pytest.raises(SettingsNotWritten, match="stays as it is"):
        carry_out(planned, around)
    assert file.read_text() == "{}"
