"""Another coding CLI is driven with a prompt, and a verifier command says whether the work is done."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.sandbox.commands import eventually, is_alive
from tests.settings_for_tests import NEVER_SHORT, nothing_is_asked
from tests.tools.trees import Place, cut_off, message, succeeded

from custody.blocking import BlockingRuntime
from custody.errors import InvalidSetting
from custody.records import Call
from custody.tools.drive_cli import ARGUMENT_BYTES_MAX, COMMANDS, DriveCli

ECHOES = """\
#!/bin/sh
printf '%s|' "$#" "$@"
"""
READS = """\
#!/bin/sh
exec wc -c
"""
WORKS = """\
#!/bin/sh
echo "thinking about it" >&2
echo "$2" > answer.txt
echo "done"
exit 3
"""
HANGS = """\
#!/bin/sh
sleep 4321 &
echo "$! $$"
wait
"""
TALKS = """\
#!/bin/sh
i=0; while [ $i -lt 3000 ]; do echo "line $i — über"; i=$((i+1)); done
"""
DIES = """\
#!/bin/sh
echo "last words"
kill -SEGV $$
"""
SCRIPTS = {
    "echoes": ECHOES, "reads": READS, "works": WORKS, "hangs": HANGS, "talks": TALKS, "dies": DIES,
}  # fmt: skip
COMMANDS_SET = """
[drive_cli]
output_tail_bytes = 8192
[drive_cli.commands]
echoes = ["{bin}/echoes", "--", "{{prompt}}", "--last"]
bare = ["{bin}/echoes", "{{prompt}}"]
joined = ["{bin}/echoes", "--prompt={{prompt}}"]
reads = ["{bin}/reads"]
works = ["{bin}/works", "run", "{{prompt}}"]
hangs = ["{bin}/hangs", "{{prompt}}"]
talks = ["{bin}/talks", "{{prompt}}"]
dies = ["{bin}/dies", "{{prompt}}"]
claude = ["{bin}/echoes", "mine", "{{prompt}}"]
gone = ["{bin}/gone", "{{prompt}}"]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("driven"))


@pytest.fixture(scope="module")
def runtime(place: Place) -> Iterator[BlockingRuntime]:
    scripts = place.temporary / "bin"
    scripts.mkdir()
    for name, text in SCRIPTS.items():
        (scripts / name).write_text(text, encoding="utf-8")
        (scripts / name).chmod(0o755)
    config = place.temporary / "config" / "custody"
    config.mkdir(parents=True)
    (config / "custody.toml").write_text(NEVER_SHORT + COMMANDS_SET.format(bin=scripts), encoding="utf-8")
    nothing_is_asked(config.parent)
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # settings are read once, when the store is opened
            patch.setenv("XDG_CONFIG_HOME", os.fspath(config.parent))
            runtime = stack.enter_context(place.open())
        yield runtime


def drive(runtime: BlockingRuntime, cli: str, prompt: str, **more: Any) -> Call:
    options = {name: more.pop(name) for name in ("timeout", "dry_run") if name in more}
    return runtime.call("drive_cli", {"cli": cli, "prompt": prompt, **more}, **options)


def check(runtime: BlockingRuntime, command: str | list[str], **more: Any) -> Call:
    return runtime.call("check_outcome", {"command": command, **more})


def said_something(call: Call) -> bool:
    return bool((call.result or {}).get("output_tail"))


# -- a CLI ----------------------------------------------------------------------------------------------


def test_a_prompt_is_one_argument_whatever_it_contains(runtime: BlockingRuntime):
    prompt = 'fix "it"; $(rm -rf nothing)\n`date` * {prompt} \\ ünïcode'
    result = succeeded(drive(runtime, "echoes", prompt))
    assert result == {
        "cli": "echoes",
        "exit_code": 0,
        "timed_out": False,
        "output_tail": f"3|--|{prompt}|--last|",
        "output_dropped_bytes": 0,
    }


def test_an_exit_code_is_an_answer_and_what_was_changed_is_told(runtime: BlockingRuntime, place: Place):
    call = drive(runtime, "works", "make it green")
    assert succeeded(call) == {
        "cli": "works",
        "exit_code": 3,
        "timed_out": False,
        "output_tail": "thinking about it\ndone\n",
        "output_dropped_bytes": 0,
    }
    assert (call.effect, call.level, call.arguments["prompt"]) == ("irreversible", "process", "make it green")
    assert [change.path for change in call.changes or ()] == [os.fspath(place.work / "answer.txt")]


def test_it_works_in_the_folder_that_is_named(runtime: BlockingRuntime, place: Place):
    (place.work / "sub").mkdir(exist_ok=True)
    succeeded(drive(runtime, "works", "x", cwd="sub"))
    assert (place.work / "sub" / "answer.txt").read_text(encoding="utf-8") == "x\n"
    refused = drive(runtime, "works", "x", cwd=os.fspath(place.outside))
    assert "is outside the allowed roots" in message(refused)


@pytest.mark.parametrize("own", [True, False], ids=["its own deadline", "the call's deadline"])
def test_past_the_deadline_its_whole_tree_is_ended(own: bool, runtime: BlockingRuntime):
    def hang(seconds: float) -> Call:
        ms = round(seconds * 1000)
        limits = {"timeout_ms": ms} if own else {"timeout": seconds, "timeout_ms": 60_000}
        return drive(runtime, "hangs", f"{ms}", **limits)

    call = cut_off(hang, said_something)
    assert call.outcome == "timed_out"
    assert call.reason is not None
    assert call.reason.endswith(f"; its timeout_ms was {call.arguments['prompt']}" if own else "")
    result = dict(call.result)
    pids = [int(pid) for pid in result.pop("output_tail").split()]
    assert result == {"cli": "hangs", "exit_code": None, "timed_out": True, "output_dropped_bytes": 0}
    assert len(pids) == 2
    eventually(lambda: not any(map(is_alive, pids)))


def test_of_a_long_output_the_end_is_kept_in_whole_lines(runtime: BlockingRuntime):
    result = succeeded(drive(runtime, "talks", "x"))
    whole = "".join(f"line {number} — über\n" for number in range(3000))
    tail: str = result["output_tail"]
    assert whole.endswith("\n" + tail)
    assert 4096 < len(tail.encode()) <= 8192
    assert result["output_dropped_bytes"] == len(whole.encode()) - len(tail.encode())


def test_one_that_is_ended_by_a_signal_has_failed(runtime: BlockingRuntime):
    call = drive(runtime, "dies", "x")
    assert (call.outcome, call.signal) == ("failed", signal.SIGSEGV)
    assert (call.result["exit_code"], call.result["output_tail"]) == (None, "last words\n")


def test_one_that_is_not_there_has_failed(runtime: BlockingRuntime):
    call = drive(runtime, "gone", "x")
    assert call.outcome == "failed"
    assert "gone" in message(call)


def test_one_that_nobody_configured_is_refused_with_the_names_of_those_that_are(runtime: BlockingRuntime):
    call = drive(runtime, "nobody", "x")
    assert call.outcome == "rejected"
    assert "bare, claude, codex, dies, echoes, gemini, gone" in message(call)


def test_a_configured_one_takes_the_place_of_a_known_one(runtime: BlockingRuntime):
    assert succeeded(drive(runtime, "claude", "x"))["output_tail"] == "2|mine|x|"


def test_no_prompt_becomes_an_option(runtime: BlockingRuntime):
    hostile = "--dangerously-skip-permissions"
    assert "may take for an option" in message(drive(runtime, "bare", hostile))
    assert succeeded(drive(runtime, "echoes", hostile))["output_tail"] == f"3|--|{hostile}|--last|"
    assert succeeded(drive(runtime, "joined", hostile))["output_tail"] == f"1|--prompt={hostile}|"


def test_a_prompt_too_long_for_an_argument_goes_by_standard_input(runtime: BlockingRuntime):
    longest = "x" * ARGUMENT_BYTES_MAX
    succeeded(drive(runtime, "bare", longest))
    assert "standard input" in message(drive(runtime, "bare", longest + "x"))
    assert succeeded(drive(runtime, "reads", longest + "x"))["output_tail"].strip() == str(len(longest) + 1)


@pytest.mark.parametrize("wrong", [{"prompt": "a\0b"}, {"prompt": 3}, {"timeout_ms": 0}, {"timeout_ms": "1"}])
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], runtime: BlockingRuntime):
    call = runtime.call("drive_cli", {"cli": "echoes", "prompt": "x", **wrong})
    assert (call.outcome, call.decision.by) == ("rejected", "schema")


def test_a_dry_run_says_what_would_be_run(runtime: BlockingRuntime, place: Place):
    (place.work / "untouched").mkdir()
    result = succeeded(drive(runtime, "works", "x", cwd="untouched", dry_run=True))
    assert result["would_run"][1:] == ["run", "x"]
    assert list((place.work / "untouched").iterdir()) == []


def test_the_known_ones_take_any_prompt(tmp_path: Path):
    with Place(tmp_path).open() as runtime:
        for name in COMMANDS:
            call = drive(runtime, name, "--version", dry_run=True)
            assert "--version" in " ".join(succeeded(call)["would_run"])


@pytest.mark.parametrize("command", [(), ("{prompt}", "x")])
def test_a_command_without_a_program_of_its_own_is_no_setting(command: tuple[str, ...]):
    with pytest.raises(InvalidSetting):
        DriveCli({"wrong": command})


# -- a verifier -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["echo said; true", ["sh", "-c", "echo said"]], ids=["line", "argv"])
def test_a_verifier_that_exits_with_0_has_passed(command: Any, runtime: BlockingRuntime):
    call = check(runtime, command)
    assert succeeded(call) == {
        "passed": True,
        "exit_code": 0,
        "timed_out": False,
        "output_tail": "said\n",
        "output_dropped_bytes": 0,
    }
    assert call.passed is True


def test_a_verdict_of_no_is_an_answer(runtime: BlockingRuntime):
    call = check(runtime, "echo '2 failed' >&2; exit 1")
    assert succeeded(call) == {
        "passed": False,
        "exit_code": 1,
        "timed_out": False,
        "output_tail": "2 failed\n",
        "output_dropped_bytes": 0,
    }
    assert call.passed is False


def test_a_verifier_past_its_deadline_has_not_passed(runtime: BlockingRuntime):
    def hang(seconds: float) -> Call:
        line = "trap 'exit 0' TERM; echo begun; sleep 4321 & wait"
        return check(runtime, line, timeout_ms=round(seconds * 1000))

    call = cut_off(hang, said_something)
    assert (call.outcome, call.passed) == ("timed_out", False)
    assert call.result == {
        "passed": False,
        "exit_code": None,
        "timed_out": True,
        "output_tail": "begun\n",
        "output_dropped_bytes": 0,
    }


def test_a_verifier_that_cannot_be_started_says_nothing_of_the_work(runtime: BlockingRuntime):
    call = check(runtime, ["/nowhere/verify"])
    assert (call.outcome, call.passed) == ("failed", None)


def test_a_verifier_works_in_the_folder_that_is_named(runtime: BlockingRuntime, place: Place):
    (place.work / "sub").mkdir(exist_ok=True)
    assert succeeded(check(runtime, "pwd", cwd="sub"))["output_tail"] == f"{place.work}/sub\n"
    assert "is outside the allowed roots" in message(check(runtime, "pwd", cwd=os.fspath(place.outside)))


@pytest.mark.parametrize("command", ["", [], ["a\0b"], 3, ["a", 3]])
def test_a_verifier_that_makes_no_sense_is_refused(command: Any, runtime: BlockingRuntime):
    call = check(runtime, command)
    assert (call.outcome, call.decision.by) == ("rejected", "schema")
