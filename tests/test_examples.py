"""Every example, and every piece of Python in the tutorial, runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.settings_for_tests import NEVER_SHORT

from custody.settings import load_settings
from custody.stores import open_view

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LINES_MAX = 40
SECONDS_MAX = 60


def run_example(code: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    settings = folder / "custody.toml"
    settings.write_text(NEVER_SHORT, encoding="utf-8")
    environment = {**os.environ, "CUSTODY_STORE": str(folder / "store"), "CUSTODY_CONFIG": str(settings)}
    return subprocess.run(
        [sys.executable, *code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
    )


def names(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("example", EXAMPLES, ids=names)
def test_an_example_is_short(example: Path):
    assert len(example.read_text(encoding="utf-8").splitlines()) < LINES_MAX


def test_there_are_five_examples_and_the_page_lists_them():
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert sorted(set(re.findall(r"\]\((\w+\.py)\)", page))) == [path.name for path in EXAMPLES]
    assert len(EXAMPLES) == 5


def test_an_audited_loop_leaves_a_run_with_its_steps_calls_and_answer(tmp_path: Path):
    done = run_example([str(ROOT / "examples" / "audit_a_loop.py")], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    with open_view(load_settings(store=str(tmp_path / "store"))) as view:
        run = view.index.run("latest")
        assert (run.outcome, run.output, run.caller) == ("succeeded", "It is 42.", "ada")
        assert (run.totals.steps, run.totals.input_tokens, run.calls) == (2, 280, 1)
        (call,) = view.index.run_calls(bytes.fromhex(run.id))
        assert (call.position, call.external_id, call.step_id is None) == (1, "c1", False)


def test_a_decorated_function_is_recorded_also_when_it_fails(tmp_path: Path):
    done = run_example([str(ROOT / "examples" / "decorate_a_function.py")], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    with open_view(load_settings(store=str(tmp_path / "store"))) as view:
        calls = view.index.run_calls(bytes.fromhex(view.index.run("latest").id))
        assert [(call.tool, call.arguments, call.outcome) for call in calls] == [
            ("fetch_rate", {"currency": "EUR"}, "succeeded"),
            ("fetch_rate", {"currency": "XYZ"}, "failed"),
            ("convert", {"amount": 100, "rate": 1.07}, "succeeded"),
        ]


def test_guarded_commands_time_out_and_are_refused_on_the_record(tmp_path: Path):
    done = run_example([str(ROOT / "examples" / "guard_a_command.py")], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    with open_view(load_settings(store=str(tmp_path / "store"))) as view:
        run = view.index.run("latest")
        assert run.calls_by_outcome == {"succeeded": 2, "timed_out": 1, "rejected": 1}


def test_questions_are_answered_after_the_other_examples(tmp_path: Path):
    run_example([str(ROOT / "examples" / "audit_a_loop.py")], tmp_path)
    run_example([str(ROOT / "examples" / "decorate_a_function.py")], tmp_path)
    done = run_example([str(ROOT / "examples" / "ask_questions.py")], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "fetch_rate: 2 calls, 50% succeeded" in done.stdout
    assert "gpt-4o: 280 tokens in, 24 out, $0.0009" in done.stdout
    assert "1 × fetch_rate: LookupError" in done.stdout
    assert "last of oracle: 'answer a question', succeeded" in done.stdout


def test_an_export_without_a_collector_loses_nothing_and_says_so(tmp_path: Path):
    example = str(ROOT / "examples" / "export_to_opentelemetry.py")
    done = run_example([example, "http://127.0.0.1:9"], tmp_path)
    assert done.returncode == 1
    assert "Nothing is lost" in done.stderr
    with open_view(load_settings(store=str(tmp_path / "store"))) as view:
        assert view.index.run("latest").calls == 1


def test_the_python_of_the_tutorial_runs(tmp_path: Path):
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    code = "import custody\n" + "\n".join(blocks)
    done = run_example(["-W", "error", "-c", code], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    with open_view(load_settings(store=str(tmp_path / "store"))) as view:
        run = view.index.run("latest")
        assert (run.output, run.totals.steps, run.calls) == ({"airline": "A", "price": 99}, 2, 2)
