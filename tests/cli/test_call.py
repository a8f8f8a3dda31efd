"""`custody call`: any tool, arguments as JSON, the exit table."""

import json
import re
import signal
import subprocess

import pytest
from tests.cli.conftest import eventually

from custody.tools.registry import BUILT_IN


def test_a_call_prints_its_result(custody):
    ran = custody("call", "shell", "--args", '{"command": "echo hi"}')
    assert ran.code == 0
    assert json.loads(ran.out)["stdout"] == "hi\n"
    assert ran.err == ""


def test_with_json_it_prints_the_call(custody):
    ran = custody("call", "shell", "--args", '{"command": "exit 4"}', "--json")
    assert ran.code == 1
    assert (ran.json["outcome"], ran.json["exit_code"], ran.json["run_id"]) == ("failed", 4, None)


def test_an_intent_makes_a_run_around_the_call(custody):
    call = custody("call", "shell", "--args", '{"command": "true"}', "--intent", "try", "--json").json
    assert custody("show", call["run_id"], "--json").json["intent"] == "try"


def test_arguments_come_from_a_file_or_standard_input(custody):
    text = '{"command": "echo from there"}'
    (custody.work / "arguments.json").write_text(text)
    assert "from there" in custody("call", "shell", "--args", "@arguments.json").out
    assert "from there" in custody("call", "shell", "--args", "-", stdin=text).out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{"command": "x",}',
            "--args is not JSON: Expecting property name enclosed in double quotes at line 1, column 17.",
        ),
        ('{\n  "command": nope\n}', "--args is not JSON: Expecting value at line 2, column 14."),
        ('{"command": NaN}', "--args is not JSON: NaN is not a JSON value."),
        ("[1]", "--args is a list, and a tool takes a JSON object."),
        ('"x"', "--args is a string, and a tool takes a JSON object."),
        ("@missing.json", "missing.json cannot be read: No such file or directory."),
        ("[" * 100_000, "--args is nested too deeply to be read."),
    ],
)
def test_arguments_that_are_no_json_object_are_told_where(custody, text, said):
    ran = custody("call", "shell", "--args", text)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"custody: {said}")
    ran = custody("call", "shell", "--args", text, "--json")
    assert (ran.code, ran.err) == (2, "")
    assert ran.json["error"]["message"] == said


def test_standard_input_that_is_not_text_is_said_so(custody):
    done = subprocess.run(
        custody.command("call", "shell", "--args", "-"),
        input=b"\xff\xfe{", capture_output=True, env=custody.environment, cwd=custody.work, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(b"custody: Standard input is not")


def test_an_unknown_tool_is_told_the_nearest_and_recorded(custody):
    ran = custody("call", "shel", "--args", "{}")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "custody: shel: refused by schema: There is no tool named 'shel'; there is: shell.\n"
    assert custody("calls", "--json").json["items"][0]["outcome"] == "rejected"
    assert custody("calls", "--json").json["items"][0]["tool"] == "shel"


def test_arguments_that_fail_the_schema_are_told_path_and_expectation(custody):
    ran = custody("call", "exec", "--args", '{"argv": ["echo", 7]}')
    assert ran.code == 2
    assert "argv" in ran.err
    assert "string" in ran.err
    assert custody("call", "exec").code == 2


def test_a_denied_call_is_3(custody):
    custody.settings.write_text('[[policy.rules]]\nname = "no-shell"\ndeny_tool = "shell"\n')
    ran = custody("call", "shell", "--args", '{"command": "true"}')
    assert ran.code == 3
    assert "refused by rule" in ran.err
    call = custody("call", "shell", "--args", '{"command": "true"}', "--json").json
    assert (call["decision"]["verdict"], call["decision"]["rule"]) == ("deny", "no-shell")


def test_a_call_that_overruns_is_4(custody):
    ran = custody("call", "shell", "--args", '{"command": "sleep 60"}', "--timeout", "300ms")
    assert ran.code == 4
    assert re.search(r"timed out after [\d.]+ s \(limit 0\.3 s\)", ran.err)


def test_a_setting_that_cannot_be_is_2_and_names_the_file(custody):
    custody.settings.write_text("[calls]\ntimeout_seconds = 'soon'\n")
    ran = custody("call", "shell", "--args", '{"command": "true"}')
    assert (ran.code, ran.out) == (2, "")
    assert str(custody.settings) in ran.err
    assert "timeout_seconds" in ran.err


@pytest.mark.parametrize(("name", "code"), [("INT", 130), ("TERM", 143), ("HUP", 129)])
def test_a_signal_cancels_the_call_and_the_end_is_recorded(custody, name, code):
    process = custody.start("call", "shell", "--args", '{"command": "sleep 300"}', stderr=subprocess.PIPE)
    call = eventually(
        lambda: custody.store.exists() and custody("calls", "--json", "--running").json["items"]
    )[0]
    process.send_signal(signal.Signals[f"SIG{name}"])
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (code, b"")
    assert custody("show", call["id"], "--json").json["outcome"] == "cancelled"


@pytest.mark.parametrize("name", ["", "  ", "two\nlines", "x" * 300])
def test_a_name_that_cannot_be_a_sessions_never_fails_the_call(custody, name):
    ran = custody("call", "shell", "--args", '{"command": "true"}', "--session", name, "--json")
    assert (ran.code, ran.json["session_id"]) == (0, None)
    assert "cannot name a session" in ran.err


def test_a_named_run_is_joined_by_later_commands_of_the_same_shell(custody):
    calls = [
        custody("call", "shell", "--args", '{"command": "true"}', "--run", "nightly", "--json").json
        for _ in range(3)
    ]
    assert len({call["run_id"] for call in calls}) == 1
    assert [call["position"] for call in calls] == [0, 1, 2]
    assert custody("runs", "--running", "--json").json["items"][0]["name"] == "nightly"


def test_the_built_in_tools_are_named_by_the_help_and_completed(custody):
    told = custody("call", "--help").out
    assert [name for name in BUILT_IN if name not in told] == []
    words = custody(_CUSTODY_COMPLETE="bash_complete", COMP_WORDS="custody call file_w", COMP_CWORD="2")
    assert words.out == "plain,file_write\n"
