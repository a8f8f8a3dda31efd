"""What in the documents can rot: links, commands, the benchmark table, the list of decisions."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from custody.host import BreakerThresholds
from custody.settings import CallsSection, SettingsFile, ToolsSection

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)[^)]*\)")
COMMAND = re.compile(r"`custody ([a-z][a-z-]*)[^`\n]*`(?! \*\(planned\)\*)")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_link_leads_somewhere(document: Path):
    targets = LINK.findall(document.read_text(encoding="utf-8"))
    assert [target for target in targets if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_command_named_is_one(document: Path):
    from custody.cli.program import HOMES

    named = set(COMMAND.findall(document.read_text(encoding="utf-8")))
    assert named - HOMES.keys() == set()


def test_the_list_of_decisions_is_complete():
    folder = ROOT / "docs" / "decisions"
    listed = LINK.findall((folder / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(path.name for path in folder.glob("[0-9]*.md"))


@pytest.mark.skipif(not (ROOT / "benchmarks" / "results.json").exists(), reason="nothing was measured yet")
def test_the_benchmark_table_is_made_from_the_measurements():
    command = [sys.executable, str(ROOT / "benchmarks" / "table.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_setting_is_explained() -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"`([a-z_]+)`", text)) | {"policy"}
    sections = SettingsFile.__struct_fields__
    assert set(sections) <= set(re.findall(r"## `\[+([a-z_]+)", text)) | {"policy"}
    for keys in (CallsSection, ToolsSection):
        assert set(keys.__struct_fields__) <= explained
    for key in BreakerThresholds.__struct_fields__:
        assert key in explained or key.endswith("_resume"), key
