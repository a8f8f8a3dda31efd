"""The program as a whole: help, version, errors, exit codes, what it imports."""

import os
import re
import subprocess
import sys

import pytest

from custody import __version__
from custody.cli.program import HOMES, SECTIONS


def test_help_shows_the_sections_that_have_commands_and_no_others(custody):
    ran = custody("--help")
    assert ran.code == 0
    headings = re.findall(r"^(\w+):$", ran.out, re.MULTILINE)
    assert headings == ["Options", "Act", "Look", "Decide", "Prove", "Connect"]
    for name in HOMES:
        assert re.search(rf"^  {name}  +\S", ran.out, re.MULTILINE), name


def test_every_command_has_a_line_of_help_and_an_example(custody):
    for name in HOMES:
        ran = custody(name, "--help")
        assert ran.code == 0
        assert "Example:  custody " in ran.out, name
        assert "--json" in ran.out, name


def test_sections_hold_each_command_once():
    names = [name for commands in SECTIONS.values() for name in commands]
    assert len(names) == len(set(names))


def test_version_is_the_packages(custody):
    assert custody("--version").out == f"custody {__version__}\n"


def test_an_unknown_command_is_told_the_nearest(custody):
    ran = custody("exce", "--", "true")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "custody: There is no command 'exce'. Did you mean 'exec'? See 'custody --help'.\n"


@pytest.mark.parametrize(
    "arguments", [["runs", "--bogus"], ["show"], ["calls", "--limit", "x"], ["nonsense"]]
)
def test_a_command_line_that_cannot_be_understood_exits_2(custody, arguments):
    ran = custody(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("custody: ")
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["runs", "--bogus", "--json"], ["calls", "--json", "--limit", "x"]])
def test_with_json_a_usage_error_is_a_document_on_standard_output(custody, arguments):
    ran = custody(*arguments)
    assert (ran.code, ran.err) == (2, "")
    assert set(ran.json["error"]) == {"type", "message", "hint"}
    assert ran.json["error"]["type"] == "UsageError"


def test_an_unexpected_error_is_one_line_and_a_traceback_only_when_asked_for(custody):
    broken = custody.folder / "broken"
    (broken / "apsw").mkdir(parents=True)
    (broken / "apsw" / "__init__.py").write_text("raise LookupError('no such thing')")
    assert custody("exec", "--", "true").code == 0
    ran = custody("runs", PYTHONPATH=str(broken))
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == (
        "custody: Unexpected LookupError: no such thing This is a bug in Custody. "
        "CUSTODY_DEBUG=1 shows where it happened.\n"
    )
    assert "Traceback" in custody("runs", PYTHONPATH=str(broken), CUSTODY_DEBUG="1").err


def test_a_working_directory_that_is_gone_is_said_so(custody):
    gone = custody.folder / "gone"
    gone.mkdir()
    script = f"cd {gone} && rmdir {gone} && {sys.executable} -m custody runs"
    ran = subprocess.run(["sh", "-c", script], capture_output=True, text=True, env=custody.environment)
    assert ran.returncode == 2
    assert ran.stderr == "custody: The working directory is gone. Change to a folder that exists.\n"


def test_the_shells_completion_is_clicks(custody):
    ran = custody(_CUSTODY_COMPLETE="bash_source")
    assert ran.code == 0
    assert "_CUSTODY_COMPLETE=bash_complete" in ran.out
    words = custody(_CUSTODY_COMPLETE="bash_complete", COMP_WORDS="custody ru", COMP_CWORD="1")
    assert words.out == "plain,runs\n"
    call = custody("exec", "--json", "--", "true").json
    ids = custody(
        _CUSTODY_COMPLETE="bash_complete", COMP_WORDS=f"custody show {call['id'][:6]}", COMP_CWORD="2"
    )
    assert f"plain,{call['id']}\n" in ids.out


def test_help_imports_neither_tables_nor_storage(custody):
    code = (
        "import sys; sys.argv = ['custody', '--help']\nfrom custody.cli.program import run\nrun(['--help'])\n"
    )
    code += "heavy = {'rich', 'apsw', 'asyncio', 'custody.compose', 'jsonschema_rs'}\n"
    code += "print(sorted(set(sys.modules) & heavy), file=sys.stderr)"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=custody.environment
    )
    assert ran.stderr == "[]\n"


def test_a_command_without_walls_loads_none(custody):
    code = (
        "import sys, atexit\nfrom custody.cli.program import run\n"
        "walls = {f'custody.sandbox.walls.{name}' for name in ('machine', 'plan', 'seccomp', 'landlock')}\n"
        "atexit.register(lambda: print(sorted(set(sys.modules) & walls), 'custody.sandbox' in sys.modules))\n"
        "run(['exec', '--', 'true'])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=custody.environment
    )
    assert ran.stdout == "[] True\n"


def test_a_reader_that_goes_away_ends_the_command_quietly(custody):
    assert custody("exec", "--", "true").code == 0
    reading, writing = os.pipe()
    os.close(reading)
    process = custody.start("runs", stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    _, err = process.communicate(timeout=30)
    assert err == b""
