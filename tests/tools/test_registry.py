"""What may be offered as a tool, and under which name."""

from dataclasses import dataclass
from types import MappingProxyType

import pytest
from tests.tools import tools_reference

import custody
from custody.errors import InvalidSetting, UsageError
from custody.tools import Registry, installed_tools
from custody.tools.registry import BUILT_IN


@dataclass
class Point:
    x: int
    y: int = 0


def test_an_object_with_name_schema_and_run_is_a_tool():
    class Greeter:
        name = "greet"
        description = "Say hello."
        schema = MappingProxyType(
            {
                "type": "object",
                "properties": {"who": {"type": "string"}},
                "required": ["who"],
            }
        )
        effect = "read"

        def validate(self, arguments):
            return arguments["who"] != "nobody"

        def run(self, who: str) -> str:
            return f"hello {who}"

    with custody.open(":memory:", tools=[Greeter()]) as runtime:
        assert runtime.call("greet", {"who": "you"}).result == "hello you"
        assert runtime.call("greet", {"who": "nobody"}).outcome == "rejected"
        assert runtime.call("greet", {"who": 1}).decision.by == "schema"


def test_the_schema_of_a_function_covers_nested_types_defaults_and_unknown_names():
    @custody.tool
    def move(to: Point, steps: list[int] | None = None, *, fast: bool = False) -> int:
        return to.x + to.y + (1 if fast else 0) + len(steps or ())

    with custody.open(":memory:", tools=[move]) as runtime:
        assert runtime.call("move", {"to": {"x": 1, "y": 2}, "fast": True}).result == 4
        assert runtime.call("move", {"to": {"x": 1}, "steps": [1, 2]}).result == 3
        wrong_type = runtime.call("move", {"to": {"x": "1"}})
        unknown = runtime.call("move", {"to": {"x": 1}, "speed": 9})

    assert "arguments.to.x" in wrong_type.reason
    assert "speed" in unknown.reason


def test_a_decorated_method_name_or_description_can_be_given():
    @custody.tool(name="fs.list", description="List files.", effect="read")
    def listing() -> list[str]:
        return []

    assert (listing.name, listing.description, listing.effect) == ("fs.list", "List files.", "read")


@pytest.mark.parametrize("name", ["", "two words", "x" * 129, "a/b", "é"])
def test_a_name_no_provider_would_accept_is_refused(name):
    with pytest.raises(UsageError):
        Registry([custody.tool(name=name)(lambda: None)])


def test_a_name_is_taken_once():
    with pytest.raises(UsageError, match="exec"):
        Registry([custody.tool(name="exec")(lambda: None)])


def test_a_function_whose_parameters_have_no_names_on_the_wire_is_refused():
    with pytest.raises(UsageError):

        @custody.tool
        def anything(*things: int) -> None: ...


def test_an_unknown_effect_is_refused():
    with pytest.raises(UsageError, match="harmless"):
        Registry([custody.tool(name="t", effect="harmless")(lambda: None)])


def test_a_schema_that_is_none_is_refused():
    with pytest.raises(UsageError, match="JSON Schema"):
        Registry([custody.tool(name="t", schema={"type": 5})(lambda: None)])


def test_names_are_exact_and_the_nearest_are_told():
    registry = Registry()

    assert registry.get("EXEC") is None
    assert registry.nearest("exce") == ["exec"]
    assert registry.nearest("file_red")[0] == "file_read"
    assert registry.nearest("zzzzzz") == registry.names() == sorted(BUILT_IN)


def test_tools_are_found_in_modules_named_in_settings(tmp_path, monkeypatch):
    (tmp_path / "agent_tools_for_test.py").write_text(
        "import custody\n@custody.tool\ndef ping() -> str:\n    return 'pong'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    assert [tool.name for tool in installed_tools(["agent_tools_for_test"])] == ["ping"]
    with pytest.raises(InvalidSetting, match="no_such_module"):
        installed_tools(["no_such_module"])


def test_an_isolated_tool_must_be_importable_by_name():
    with pytest.raises(UsageError, match="importable"):

        @custody.tool(isolated=True)
        def local() -> None: ...


def test_the_page_of_the_tools_is_made_from_the_tools():
    page = tools_reference.PAGE.read_text(encoding="utf-8")

    assert tools_reference.made(page) == page
    assert "## `file_read`" in page
