"""The tools a runtime offers, by exact name.

Owns finding them (built-in, entry points of the group `custody.tools`, modules named in settings),
checking their shape and compiling their schemas. Used by every door through the runtime.
"""

import difflib
import functools
import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, overload

from custody.errors import InvalidSetting, UsageError
from custody.records import EFFECTS, Effect
from custody.tools.function import FunctionTool
from custody.tools.isolated import IsolatedTool
from custody.tools.schema import ArgumentsSchema
from custody.tools.tool import Keep, Tool

ENTRY_POINTS = "custody.tools"

BUILT_IN = {
    "check_outcome": "check_outcome:CheckOutcome",
    "commit": "held_changes:CommitTool",
    "discard": "held_changes:DiscardTool",
    "drive_cli": "drive_cli:DriveCli",
    "exec": "process:ExecTool",
    "file_delete": "file_delete:FileDelete",
    "file_edit": "file_edit:FileEdit",
    "file_list": "file_list:FileList",
    "file_read": "file_read:FileRead",
    "file_search": "file_search:FileSearch",
    "file_write": "file_write:FileWrite",
    "git": "git.tool:GitTool",
    "http_fetch": "http_fetch.tool:HttpFetch",
    "process_kill": "process_kill:ProcessKill",
    "shell": "process:ShellTool",
    "undo": "undo:UndoTool",
}
"""Name -> module of this package and class: loaded when first asked for, as most commands use one or none."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")  # what every model provider and MCP accept as a tool's name


class Registry:
    """Tools by name, each with its compiled schema."""

    def __init__(
        self,
        tools: Iterable[Any] = (),
        *,
        installed: Callable[[], Iterable[Any]] = tuple,
        keep: Mapping[str, Keep] | None = None,
        built_in: Mapping[str, Callable[[], Tool]] | None = None,
        over: "Registry | None" = None,
    ) -> None:
        """`installed` gives further tools; it is asked once, when a name is not among those at hand.
        `keep` overrides, by tool name, what the record holds of arguments and results. `built_in` are tools
        that need what lies above this package; each is made when it is first asked for. `over` is a registry
        beneath, which has what this one lacks: the built-in tools are its."""
        self._installed: Callable[[], Iterable[Any]] | None = installed
        self._keep = keep or {}
        self._over = over
        self._built_in: dict[str, Callable[[], Tool]] = {**(built_in or {})}
        if over is None:
            self._built_in = {name: functools.partial(_built_in, name) for name in BUILT_IN} | self._built_in
        self._tools: dict[str, Tool] = {}
        self._schemas: dict[str, ArgumentsSchema] = {}
        for tool in tools:
            self.add(tool)

    def add(self, tool: Any) -> Tool:
        """Offer a tool: one of Custody's, a function, or an object with name, description, schema and run.

        Raises UsageError for a shape that cannot be offered or a name that is taken.
        """
        tool = as_tool(tool)
        if tool.name in self._tools or tool.name in self._built_in:
            raise UsageError(f"There already is a tool named {tool.name!r}.")
        return self._offer(tool)

    def _offer(self, tool: Tool) -> Tool:
        self._schemas[tool.name] = ArgumentsSchema(tool.schema, tool.name)
        self._tools[tool.name] = tool
        return tool

    def offer(self, tool: Any) -> Tool:
        """Offer a tool in place of whatever has its name, here or beneath. Raises UsageError."""
        return self._offer(as_tool(tool))

    def withdraw(self, name: str) -> bool:
        """Offer a tool of this registry no longer; False where it has none of that name."""
        self._schemas.pop(name, None)
        return self._tools.pop(name, None) is not None

    @property
    def own(self) -> tuple[Tool, ...]:
        """The tools at hand in this registry, not those beneath or still to be made; by name."""
        return tuple(self._tools[name] for name in sorted(self._tools))

    def know(self, candidate: Any) -> Tool:
        """The tool a program gave: a function, made a tool when it is first seen, or a tool object.

        One given later under the same name takes its place; that of a built-in tool is never given away.
        """
        name = getattr(candidate, "name", None) or getattr(candidate, "__name__", "")
        known = self._tools.get(name)
        if known is not None and known is candidate:
            return known
        if isinstance(known, FunctionTool):
            if known.function is candidate:
                return known
            del self._tools[name]
        return self.add(candidate)

    def keep(self, tool: Tool) -> Keep:
        """What the record holds of this tool's arguments and results."""
        if self._over is not None and tool.name not in self._tools:
            return self._over.keep(tool)
        return self._keep.get(tool.name, tool.keep)

    def get(self, name: str) -> Tool | None:
        if name not in self._tools:
            if name in self._built_in:
                return self._offer(self._built_in[name]())
            self._load_installed()
        found = self._tools.get(name)
        return found if found is not None or self._over is None else self._over.get(name)

    def schema(self, name: str) -> ArgumentsSchema:
        if self._over is not None and name not in self._schemas:
            return self._over.schema(name)
        return self._schemas[name]

    def names(self) -> list[str]:
        self._load_installed()
        beneath = () if self._over is None else self._over.names()
        return sorted({*self._tools, *self._built_in, *beneath})

    def __iter__(self) -> Iterator[Tool]:
        tools = map(self.get, self.names())
        return (tool for tool in tools if tool is not None)

    def _load_installed(self) -> None:
        installed, self._installed = self._installed, None
        for tool in installed() if installed is not None else ():
            self.add(tool)

    def nearest(self, name: str) -> list[str]:
        """Names a person may have meant, best first; all names if none is near."""
        known = self._tools.keys() | self._built_in.keys()
        if self._over is not None:
            known |= set(self._over.names())
        return difflib.get_close_matches(name, known, n=3, cutoff=0.4) or self.names()


def _built_in(name: str) -> Tool:
    module, _, kind = BUILT_IN[name].partition(":")
    tool: Tool = getattr(importlib.import_module(f"custody.tools.{module}"), kind)()
    assert tool.name == name, f"{kind} calls itself {tool.name}"
    return tool


def as_tool(candidate: Any) -> Tool:
    """Whatever a program offers as a tool, as a `Tool`."""
    if all(hasattr(candidate, part) for part in Tool.__annotations__) and hasattr(candidate, "execute"):
        tool: Tool = candidate
    elif hasattr(candidate, "run") and hasattr(candidate, "name"):
        tool = _from_object(candidate)
    elif callable(candidate):
        tool = FunctionTool(candidate)
    else:
        raise UsageError(f"{candidate!r} is not a tool: it is neither callable nor has `name` and `run`.")
    if not _NAME.fullmatch(tool.name):
        raise UsageError(
            f"{tool.name!r} is no name for a tool.", hint="Letters, digits, _ . and - are, 128 at most."
        )
    if tool.effect not in EFFECTS:
        raise UsageError(
            f"Tool {tool.name!r} has the unknown effect {tool.effect!r}.",
            hint=f"One of {', '.join(EFFECTS)}.",
        )
    return tool


def _from_object(candidate: Any) -> FunctionTool:
    return FunctionTool(
        candidate.run,
        name=candidate.name,
        description=getattr(candidate, "description", None),
        schema=getattr(candidate, "schema", None),
        effect=getattr(candidate, "effect", "unknown"),
        timeout_seconds=getattr(candidate, "timeout_seconds", None),
        keep=getattr(candidate, "keep", "full"),
        validate=getattr(candidate, "validate", None),
    )


@overload
def tool(function: Callable[..., Any], /) -> FunctionTool: ...
@overload
def tool(
    *,
    name: str | None = ...,
    description: str | None = ...,
    schema: Mapping[str, Any] | None = ...,
    effect: Effect = ...,
    timeout: float | None = ...,
    keep: Keep = ...,
    validate: Callable[[dict[str, Any]], Any] | None = ...,
    isolated: bool = ...,
) -> Callable[[Callable[..., Any]], FunctionTool]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    schema: Mapping[str, Any] | None = None,
    effect: Effect = "unknown",
    timeout: float | None = None,
    keep: Keep = "full",
    validate: Callable[[dict[str, Any]], Any] | None = None,
    isolated: bool = False,
) -> Any:
    """Make a typed function a tool: `@tool` or `@tool(effect="write", timeout=5)`.

    The schema comes from the annotations unless given. `effect` is read, write, irreversible or unknown;
    `timeout` in seconds; `keep` says what the record holds of arguments and result (full, digest, none);
    `validate(arguments)` refuses by returning False or a sentence; `isolated` runs the function in a
    child process that can be killed. A parameter named `context` gets the call's `Context`.
    """

    def decorate(function: Callable[..., Any]) -> FunctionTool:
        return (IsolatedTool if isolated else FunctionTool)(
            function,
            name=name,
            description=description,
            schema=schema,
            effect=effect,
            timeout_seconds=timeout,
            keep=keep,
            validate=validate,
        )

    return decorate if function is None else decorate(function)


def installed_tools(modules: Iterable[str] = ()) -> list[Any]:
    """Tools of installed packages (entry points) and of the modules named in settings.

    A module offers what its `tools` list holds, or else its module-level tools.
    """
    import importlib.metadata  # a tenth of a second that `custody exec` has no use for

    found: list[Any] = [entry.load() for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)]
    for name in modules:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise InvalidSetting(f"The tool module {name!r} cannot be imported: {error}.") from error
        found.extend(
            getattr(module, "tools", None)
            or [value for value in vars(module).values() if isinstance(value, FunctionTool)]
        )
    return found
