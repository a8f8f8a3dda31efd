"""One store, one root of skills, one plan: each question has the same answer at the command line, in Python,
over the daemon's wire and over MCP."""

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.cli.conftest import Program
from tests.doors.daemons import Daemon
from tests.doors.mcp_clients import over_http

import custody
from custody.index import CallFilter, Index, RunFilter
from custody.plans import check_plan, parse_plan
from custody.records import document
from custody.skills import Root, Shelf, answers

pytestmark = pytest.mark.long

PLAN = {
    "id": "release",
    "actions": [
        {"id": "test", "tool": "exec", "arguments": {"argv": ["true"]}, "status": {"failed": "red"}},
        {"id": "ship", "depends_on": ["test"], "tools_required": ["exec", "teleport"]},
        {"id": "tell", "condition": {"if_failed": "test"}},
    ],
}


class Place:
    """A daemon, and what lies on its disk."""

    def __init__(self, served: Daemon, program: Program, skills: Path, run_id: str, call_id: str) -> None:
        self.served, self.program, self.run_id, self.call_id = served, program, run_id, call_id
        root = os.fspath(skills)
        self.token = served.run("token", "create", "auditor", "--role", "auditor")[1]["token"]
        self.shelf = Shelf(
            roots=(Root(path=root, kind="given"),),
            install_root=root,
            trust_file=os.fspath(program.folder / "config" / "custody" / "skills.trust.json"),
        )

    def at_the_command_line(self, *arguments: str) -> Any:
        ran = self.program(*arguments, "--json", **self.variables)
        assert ran.code in (0, 1), ran.err
        return ran.json

    @property
    def variables(self) -> dict[str, str]:
        return {"CUSTODY_STORE": os.fspath(self.served.store), "CUSTODY_SKILLS": self.shelf.install_root}

    def of_the_index(self, question: Callable[[Index], Any]) -> Any:
        with custody.open(os.fspath(self.served.store)) as runtime:
            return json.loads(msgspec.json.encode(plain(question(runtime.index))))

    def over_the_wire(self, method: str, params: dict[str, Any]) -> Any:
        async def main() -> Any:
            async with custody.open(self.served.url, token=self.token) as runtime:
                return await runtime.link.work(runtime.link.ask(method, params)).over()

        return asyncio.run(main())

    def over_mcp(self, tool: str, arguments: dict[str, Any]) -> Any:
        async def main() -> Any:
            async with over_http(f"http://{self.served.address}", self.token) as session:
                return (await session.call_tool(tool, arguments)).structured_content

        return asyncio.run(main())


def plain(value: Any) -> Any:
    """A page, an answer or a list of read models as JSON has them."""
    if isinstance(value, list):
        return [document(one) for one in value]
    if hasattr(value, "items"):
        return {name: getattr(value, name) for name in value.__struct_fields__} | {
            "items": [document(one) for one in value.items]
        }
    return document(value)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Calls that succeeded, failed and were refused, and two skills."""
    folder = tmp_path_factory.mktemp("same")
    skills = folder / "skills"
    for name in ("pdf", "notes"):
        (skills / name).mkdir(parents=True)
        (skills / name / "SKILL.md").write_text(f"---\nname: {name}\ndescription: About {name}.\n---\nHow.\n")
    (folder / "home").mkdir()
    program = Program(folder / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUSTODY_SKILLS", os.fspath(skills))
        made = Daemon(folder)
        made.environment["CUSTODY_SKILLS"] = os.fspath(skills)
        made.environment["XDG_CONFIG_HOME"] = os.fspath(program.folder / "config")
        made.start()
        try:
            program.store = made.store
            with program.recording() as runtime, runtime.run("some work", agent="ada") as run:
                for argv in (["true"], ["false"], ["sh", "-c", "exit 3"], ["sh", "-c", "exit 3"]):
                    call = run.call("exec", {"argv": argv})
                run.call("file_read", {"path": "../../nowhere"})
            yield Place(made, program, skills, run.id, call.id)
        finally:
            made.stop()


Answer = Callable[[Place], Any]

QUESTIONS: dict[str, tuple[Answer, Answer, Answer, Answer]] = {
    "runs": (
        lambda place: place.at_the_command_line("runs", "--all", "--agent", "ada"),
        lambda place: place.of_the_index(lambda index: index.runs(RunFilter(agent="ada"), 50)),
        lambda place: place.over_the_wire("audit.runs", {"agent": "ada"}),
        lambda place: place.over_mcp("runs_list", {"agent": "ada"}),
    ),
    "one run": (
        lambda place: place.at_the_command_line("show", place.run_id),
        lambda place: place.of_the_index(lambda index: index.run(place.run_id)),
        lambda place: place.over_the_wire("audit.run", {"id": place.run_id}),
        lambda place: place.over_mcp("runs_show", {"run": place.run_id}),
    ),
    "one call": (
        lambda place: place.at_the_command_line("show", place.call_id),
        lambda place: place.of_the_index(lambda index: index.call(place.call_id, details=True)),
        lambda place: place.over_the_wire("audit.call", {"id": place.call_id}),
        lambda place: place.over_mcp("calls_show", {"call": place.call_id}),
    ),
    "calls": (
        lambda place: place.at_the_command_line("calls", "--all", "--outcome", "failed"),
        lambda place: place.of_the_index(lambda index: index.calls(CallFilter(outcome="failed"), 50)),
        lambda place: place.over_the_wire("audit.calls", {"outcome": "failed", "agent": "ada"}),
        lambda place: place.over_mcp("calls_search", {"outcome": "failed", "agent": "ada"}),
    ),
    "stats": (
        lambda place: place.at_the_command_line("stats", "--all", "--agent", "ada"),
        lambda place: place.of_the_index(lambda index: index.stats(CallFilter(agent="ada"))),
        lambda place: place.over_the_wire("audit.stats", {"agent": "ada"}),
        lambda place: place.over_mcp("stats", {"agent": "ada"}),
    ),
    "failure patterns": (
        lambda place: place.at_the_command_line("stats", "failures", "--all", "--agent", "ada"),
        lambda place: place.of_the_index(
            lambda index: index.failure_patterns(CallFilter(agent="ada"), 2, 20)
        ),
        lambda place: place.over_the_wire("audit.failure_patterns", {"agent": "ada"}),
        lambda place: place.over_mcp("failure_patterns", {"agent": "ada"}),
    ),
    "skills": (
        lambda place: place.at_the_command_line("skills", "list"),
        lambda place: msgspec.to_builtins(answers.list_skills(place.shelf)),
        lambda place: place.over_the_wire("skills.list", {}),
        lambda place: place.over_mcp("skills_list", {}),
    ),
    "a search for skills": (
        lambda place: place.at_the_command_line("skills", "search", "pdf"),
        lambda place: msgspec.to_builtins(answers.search_skills(place.shelf, "pdf")),
        lambda place: place.over_the_wire("skills.search", {"query": "pdf"}),
        lambda place: place.over_mcp("skills_search", {"query": "pdf"}),
    ),
    "one skill": (
        lambda place: place.at_the_command_line("skills", "info", "pdf"),
        lambda place: msgspec.to_builtins(answers.skill_info(place.shelf, "pdf")),
        lambda place: place.over_the_wire("skills.info", {"name": "pdf"}),
        lambda place: place.over_mcp("skills_info", {"name": "pdf"}),
    ),
    "skills verified": (
        lambda place: place.at_the_command_line("skills", "verify"),
        lambda place: msgspec.to_builtins(answers.verify_skills(place.shelf)),
        lambda place: place.over_the_wire("skills.verify", {}),
        lambda place: place.over_mcp("skills_verify", {}),
    ),
    "a plan": (
        lambda place: place.at_the_command_line("plan", "check", write_plan(place)),
        lambda place: msgspec.to_builtins(check_plan(parse_plan(PLAN)[0], tool_names(place))),
        lambda place: place.over_the_wire("plans.check", {"plan": PLAN}),
        lambda place: place.over_mcp("plan_check", {"plan": PLAN}),
    ),
}


def write_plan(place: Place) -> str:
    path = place.program.work / "release.plan.json"
    path.write_text(json.dumps(PLAN), encoding="utf-8")
    return os.fspath(path)


def tool_names(place: Place) -> list[str]:
    """Those of a plain store: what the plan names is there or is not."""

    async def main() -> list[str]:
        async with custody.open(":memory:") as runtime:
            return runtime.tools.names()

    return asyncio.run(main())


@pytest.mark.parametrize("question", QUESTIONS)
def test_four_ways_to_ask_have_one_answer(place: Place, question: str):
    at_the_command_line, in_python, over_the_wire, over_mcp = (ask(place) for ask in QUESTIONS[question])
    assert over_mcp
    assert over_the_wire == over_mcp
    assert at_the_command_line == over_mcp
    assert json.loads(json.dumps(in_python)) == over_mcp
