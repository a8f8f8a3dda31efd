"""Whole files: installed and uninstalled, with the copy beside them, to the very bytes."""

import itertools
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.installing.test_hooks import lines
from tests.installing.test_servers import PROXY
from tests.installing.texts import SERVERS, SETTINGS, Text

from custody.installing import settings_file
from custody.installing.jsonc import parse
from custody.installing.plans import Ours, Planned, carry_out, plan_install, plan_uninstall
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


def test_a_file_that_changes_before_it_would_go_stays(tmp_path: Path):
    around = at(str(tmp_path))
    file = tmp_path / ".gemini/settings.json"
    [planned] = plan_install([gemini(around, "gemini")], OURS, around)
    carry_out(planned, around)
    [planned] = plan_uninstall([gemini(around, "gemini")], OURS, around)
    assert planned.text is None
    file.write_text('{"mine": 1}')
    with pytest.raises(SettingsNotWritten, match="changed meanwhile"):
        carry_out(planned, around)
    assert file.read_text() == '{"mine": 1}'


def test_what_a_link_leads_to_stays_when_all_in_it_was_ours(tmp_path: Path):
    around = at(str(tmp_path))
    real, link = tmp_path / "dotfiles.json", tmp_path / ".gemini/settings.json"
    link.parent.mkdir()
    real.touch()
    link.symlink_to(real)
    for plan in (plan_install, plan_uninstall):
        [planned] = plan([gemini(around, "gemini")], OURS, around)
        carry_out(planned, around)
        link.with_name(link.name + ".custody-backup").unlink(missing_ok=True)
    assert (link.is_symlink(), real.read_text().strip()) == (True, "{}")


STEPS = ("stage_file", "put_in_place", "look")


def killed_at(step: int, planned: Planned, around: Surroundings) -> bool:
    """Whether a process that carries it out was killed before or behind that one of its steps."""
    child = os.fork()
    if child == 0:
        left = itertools.count(1)

        def dies(real: Callable[..., Any]) -> Callable[..., Any]:
            def taken(*words: Any, **named: Any) -> Any:
                if next(left) == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                done = real(*words, **named)
                if next(left) == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return done

            return taken

        for name in STEPS:
            setattr(settings_file, name, dies(getattr(settings_file, name)))
        carry_out(planned, around)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_killed_at_any_step_the_file_is_what_it_was_or_what_it_is_to_be(tmp_path: Path):
    text, seen = '{\n  "mine": 1\n}\n', set[bool]()
    for step in range(1, 12):
        around = at(str(tmp_path / str(step)))
        file = tmp_path / str(step) / ".gemini/settings.json"
        file.parent.mkdir(parents=True)
        file.write_text(text)
        [planned] = plan_install([gemini(around, "gemini")], OURS, around)
        seen.add(killed_at(step, planned, around))
        assert file.read_text() in (text, planned.text)
        for plan in (plan_install, plan_uninstall):
            for one in plan([gemini(around, "gemini")], OURS, around):
                carry_out(one, around)
        assert file.read_text() == text
    assert seen == {True, False}, "the last step was one too many: every other was met"


def test_a_disk_that_is_full_leaves_the_file_as_it_was(tmp_path: Path):
    around = at(str(tmp_path))
    file = tmp_path / ".gemini/settings.json"
    file.parent.mkdir()
    file.write_text("{}")
    [planned] = plan_install([gemini(around, "gemini")], OURS, around)
    assert planned.text is not None
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(planned.text) - 1, before[1]))
    try:
        with pytest.raises(SettingsNotWritten, match="cannot be written: File too large"):
            carry_out(planned, around)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert file.read_text() == "{}"
    assert [name for name in os.listdir(file.parent) if name.startswith(".custody-")] == []


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
