"""Facts of a call: what rules may ask of its arguments beyond their plain values.

Owns which arguments are paths, hosts and commands, told by the names of their parameters, and the bounds of
looking. Refuses to touch the machine: links are resolved by what the caller hands in, names are not looked
up, and no line is run. A fact is worked out when it is first asked for. Used by the engine through a case.

Nothing here is a wall: what a program does once it runs, the sandbox sees and these facts do not.
"""

import posixpath
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import msgspec
from msgspec import Struct

from custody.errors import FactsUnclear
from custody.hosts import HOSTS_MAX, Host, host_and_port, hosts_in
from custody.policy.connections import hosts_of_program
from custody.policy.shell import Program, ShellLine, Word, is_harmless, read_argv, read_shell
from custody.records import Effect

VALUES_MAX = 10_000
"""Of one call's arguments, names of nested keys not counted; a rule would look at each again."""
DEPTH_MAX = 64
"""Of lists and maps in each other; the JSON readers of the doors allow no more."""

SCANNED_CHARACTERS_MAX = 4 * 1024 * 1024
"""Of texts that are searched for hosts, some 50 ms each MiB at worst."""
CONTENT_CHARACTERS_MAX = 256 * 1024
"""Of a text that is only handed on. What follows is not searched: it would be a hint, never a connection."""

PATH_NAMES = frozenset(
    (
        "path paths file files folder folders dir dirs directory directories cwd workdir working_directory "
        "source src destination dest dst target from to file_path filepath filename file_name notebook_path "
        "root roots output_path input_path old_path new_path absolute_path relative_path output_file "
        "input_file"
    ).split()
)
_READ_OF_A_WRITE = frozenset({"source", "src", "from", "cwd", "workdir", "working_directory", "old_path"})
"""What a call that writes may only read."""
HOST_NAMES = frozenset(
    (
        "host hosts hostname url urls uri uris href endpoint endpoints remote server servers address domain "
        "domains base_url proxy webhook origin site"
    ).split()
)
COMMAND_NAMES = frozenset({"command", "cmd", "shell_command", "command_line", "argv"})
CONTENT_NAMES = frozenset(
    {"content", "contents", "text", "data", "body", "stdin", "new_string", "new", "patch"}
)
FOLDER_NAMES = ("cwd", "workdir", "working_directory")

COMMAND_TOOLS = frozenset(
    (
        "exec shell bash sh terminal local_shell run_command run_shell_command execute_command exec_command "
        "run_terminal_cmd container.exec"
    ).split()
)
"""Tools whose command is what runs, and nothing else: only of these is a call harmless."""
_HARMLESS_NAMES = COMMAND_NAMES | {
    *FOLDER_NAMES, "env", "stdin", "timeout", "timeout_ms", "timeout_seconds", "description",
    "run_in_background",
}  # fmt: skip
_DEVICES = frozenset({"/dev/null", "/dev/stdout", "/dev/stderr", "/dev/stdin", "/dev/tty"})
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PATH_BEHIND = re.compile(r"(?:--?[\w-]+=|\w+=|-\w(?=[/~.]))(.*)", re.DOTALL)


class _Found(Struct, frozen=True):
    """One text among the arguments."""

    param: str
    """Dotted path of its parameter."""
    name: str
    """The nearest name above it: that of the list it stands in."""
    text: str
    beside: Mapping[Any, Any]
    """The map it stands in."""


class Facts(Mapping[str, Any]):
    """The facts of one call, as a mapping of plain values; each is worked out when it is first asked for.

    Raises FactsUnclear, from whatever is asked for, where the arguments are beyond the bounds.
    """

    def __init__(
        self,
        tool: str,
        effect: Effect,
        params: Mapping[str, Any],
        *,
        cwd: str,
        roots: Sequence[str],
        resolve: Callable[[str], str] = posixpath.normpath,
        home: str | None = None,
    ) -> None:
        """`resolve` makes an absolute path one without links; `roots` have none. `home` is what
        `~` stands for; without it a path that begins so is inside of no root."""
        self._tool = tool
        self._effect: Effect = effect
        self._params = params
        self._cwd = cwd
        self._roots = tuple(roots)
        self._resolve = resolve
        self._home = home
        self._known: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._known:
            self._known[name] = FACTS[name](self)
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        return name in FACTS

    def __iter__(self) -> Iterator[str]:
        return iter(FACTS)

    def __len__(self) -> int:
        return len(FACTS)

    # -- what is looked at once -----------------------------------------------------------------------

    @cached_property
    def _texts(self) -> tuple[_Found, ...]:
        return tuple(_walk(self._params))

    @cached_property
    def _folder(self) -> str:
        """Where relative paths of the call begin."""
        for name in FOLDER_NAMES:
            folder = self._params.get(name)
            if isinstance(folder, str) and folder:
                return self._absolute(folder, self._cwd)
        return self._cwd

    @cached_property
    def _lines(self) -> tuple[tuple[str, ShellLine], ...]:
        """The commands among the arguments, by parameter."""
        lines: list[tuple[str, ShellLine]] = []
        for name, value in self._params.items():
            if name not in COMMAND_NAMES:
                continue
            if isinstance(value, str):
                lines.append((name, read_shell(value)))
            elif isinstance(value, (list, tuple)):
                words = cast("Sequence[Any]", value)
                texts = [word for word in words if isinstance(word, str)]
                if len(texts) != len(words):
                    lines.append((name, ShellLine(why=("no text",))))
                else:
                    lines.append((name, read_argv(texts)))
        return tuple(lines)

    @cached_property
    def _set_outside(self) -> tuple[str, ...]:
        """Names of the variables the call sets for its command."""
        env = self._params.get("env")
        return tuple(map(str, cast("Mapping[Any, Any]", env))) if isinstance(env, Mapping) else ()

    def _programs(self) -> Iterator[tuple[str, Program]]:
        for param, line in self._lines:
            for program in line.programs:
                yield param, program

    # -- paths ----------------------------------------------------------------------------------------

    def _absolute(self, text: str, folder: str) -> str:
        if text == "~" or text.startswith("~/"):
            if self._home is None:
                return text
            text = self._home + text[1:]
        return self._resolve(posixpath.join(folder, text))

    def _path(self, param: str, path: str | None, *, writes: bool | None) -> dict[str, Any]:
        inside = path is not None and any(
            path == root or path.startswith(root.rstrip("/") + "/") for root in self._roots
        )
        name = None if path is None else posixpath.basename(path)
        return {"param": param, "path": path, "inside": inside, "name": name, "writes": writes}

    def paths(self) -> list[dict[str, Any]]:
        found: dict[tuple[Any, ...], dict[str, Any]] = {}
        for entry in (*self._paths_of_params(), *self._paths_of_commands()):
            found.setdefault((entry["param"], entry["path"], entry["writes"]), entry)
        return list(found.values())

    def _paths_of_params(self) -> Iterator[dict[str, Any]]:
        for text in self._texts:
            if text.name not in PATH_NAMES or _is_url(text.text):
                continue
            folder = self._cwd if text.name in FOLDER_NAMES else self._folder
            beside = text.beside.get("path")
            if text.name == "files" and isinstance(
                beside, str
            ):  # files of a folder that is named beside them
                folder = self._absolute(beside, folder)
            yield self._path(text.param, self._absolute(text.text, folder), writes=self._writes(text.name))

    def _writes(self, name: str) -> bool | None:
        if self._effect == "read":
            return False
        return None if self._effect == "unknown" or name in _READ_OF_A_WRITE else True

    def _paths_of_commands(self) -> Iterator[dict[str, Any]]:
        for param, line in self._lines:
            for redirect in line.redirects:
                if not redirect.duplicates and redirect.target.text not in _DEVICES:
                    yield self._path_of_word(param, redirect.target, line, writes=redirect.writes)
            for program in line.programs:
                for word in program.words:
                    operand = _path_like(word)
                    if operand is not None:
                        yield self._path_of_word(param, operand, line, writes=None)

    def _path_of_word(
        self, param: str, word: Word, line: ShellLine, *, writes: bool | None
    ) -> dict[str, Any]:
        text = word.text
        if text is None and word.pattern and ".." not in word.known:
            text = posixpath.dirname(word.prefix) or "."
        if text is None and word.known.startswith("~") and self._home is not None:
            text = word.known if word.known[1:2] in ("", "/") and word.prefix == "~" else None
        if text is None or (line.moves and not text.startswith(("/", "~"))):
            return self._path(param, None, writes=writes)
        return self._path(param, self._absolute(text, self._folder), writes=writes)

    # -- hosts ----------------------------------------------------------------------------------------

    def hosts(self) -> list[dict[str, Any]]:
        """`content` says that the host stands in a text the call only hands on, such as that of a file."""
        found: dict[tuple[str, Host, bool], None] = {}
        for param, host, content in self._every_host():
            found[param, host, content] = None
            if len(found) > HOSTS_MAX:
                raise FactsUnclear(f"The call names more than {HOSTS_MAX} hosts.", hint="Make it smaller.")
        return [
            {"param": param, **msgspec.structs.asdict(host), "content": content}
            for param, host, content in found
        ]

    def _every_host(self) -> Iterator[tuple[str, Host, bool]]:
        left = SCANNED_CHARACTERS_MAX
        for text in self._texts:
            content = text.name in CONTENT_NAMES
            searched = text.text[:CONTENT_CHARACTERS_MAX] if content else text.text
            left -= len(searched)
            if left < 0:
                raise FactsUnclear(
                    "The arguments are too long to find the hosts in them.", hint="Make the call smaller."
                )
            named = text.name in HOST_NAMES and not (self._tool == "git" and text.name == "remote")
            for host in (host_and_port if named else hosts_in)(searched):
                yield text.param, _with_port(host, text) if named else host, content
        for param, line in self._lines:
            for program in line.programs:
                for host in hosts_of_program(program):
                    yield param, host, False
            for redirect in line.redirects:
                for host in hosts_in(redirect.target.known):
                    yield param, host, False

    # -- commands -------------------------------------------------------------------------------------

    def argv(self) -> list[str] | None:
        """The words of the only program there is; None where there are several or one cannot be told."""
        if len(self._lines) != 1 or not self._lines[0][1].programs:
            return None
        name, line = self._lines[0]
        value = self._params[name]
        if not isinstance(value, str):
            return [str(word) for word in value]
        words = line.programs[0].argv
        if line.unclear or len(line.programs) != 1:
            return None
        told = [word for word in words if word is not None]
        return told if len(told) == len(words) else None

    def programs(self) -> list[str]:
        return [program.name for _, program in self._programs() if program.name is not None]

    def program_paths(self) -> list[str]:
        return [program.path for _, program in self._programs() if program.path is not None]

    def harmless(self) -> bool:
        if (
            self._tool.lower() not in COMMAND_TOOLS
            or not self._lines
            or not _HARMLESS_NAMES.issuperset(self._params)
        ):
            return False
        moved = self._folder not in (self._cwd, self._resolve(self._cwd))
        return all(
            is_harmless(
                msgspec.structs.replace(
                    line,
                    assignments=(*line.assignments, *self._set_outside),
                    moves=line.moves or moved,
                )
            )
            for _, line in self._lines
        )

    def unclear(self) -> bool:
        return any(line.unclear for _, line in self._lines)

    def why_unclear(self) -> list[str]:
        return list(dict.fromkeys(why for _, line in self._lines for why in line.why))

    def assignments(self) -> list[str]:
        inside = (name for _, line in self._lines for name in line.assignments)
        return list(dict.fromkeys((*inside, *self._set_outside)))

    def redirects(self) -> list[dict[str, Any]]:
        return [
            {"op": redirect.op, "path": redirect.target.text}
            for _, line in self._lines
            for redirect in line.redirects
        ]

    def shell(self) -> bool:
        return any(isinstance(self._params[name], str) for name, _ in self._lines)

    def sizes(self) -> dict[str, int | None]:
        sizes = [(text.name, _bytes(text.text)) for text in self._texts]
        contents = [size for name, size in sizes if name in CONTENT_NAMES]
        return {
            "arguments_bytes": sum(size for _, size in sizes),
            "content_bytes": sum(contents) if contents else None,
            "strings_max_bytes": max((size for _, size in sizes), default=0),
        }


FACTS: Mapping[str, Callable[[Facts], Any]] = {
    "paths": Facts.paths,
    "hosts": Facts.hosts,
    "argv": Facts.argv,
    "programs": Facts.programs,
    "program_paths": Facts.program_paths,
    "harmless": Facts.harmless,
    "unclear": Facts.unclear,
    "why_unclear": Facts.why_unclear,
    "assignments": Facts.assignments,
    "redirects": Facts.redirects,
    "shell": Facts.shell,
    "sizes": Facts.sizes,
}
"""Every fact, by the name a rule asks for it."""


def _walk(params: Mapping[str, Any]) -> Iterator[_Found]:
    """Every text among the arguments, in order, without recursion."""
    left = VALUES_MAX
    stack: list[tuple[str, str, Any, Mapping[Any, Any], int]] = [("", "", params, {}, 0)]
    while stack:
        left -= 1
        param, name, value, beside, depth = stack.pop()
        if left < 0 or depth > DEPTH_MAX:
            raise FactsUnclear(
                f"The arguments have more than {VALUES_MAX} values or {DEPTH_MAX} levels.",
                hint="Make the call smaller.",
            )
        if isinstance(value, str):
            yield _Found(param, name, value, beside)
        elif isinstance(value, (bytes, bytearray)):
            yield _Found(param, name, bytes(value).decode("utf-8", "surrogateescape"), beside)
        elif isinstance(value, Mapping):
            fields = cast("Mapping[Any, Any]", value)
            _bounded(fields, left)
            stack += [
                (f"{param}.{key}" if param else str(key), str(key), fields[key], fields, depth + 1)
                for key in reversed(list(fields))
            ]
        elif isinstance(value, (list, tuple)):
            items = cast("Sequence[Any]", value)
            _bounded(items, left)
            stack += [
                (f"{param}.{index}", name, items[index], beside, depth + 1)
                for index in range(len(items) - 1, -1, -1)
            ]


def _with_port(host: Host, text: _Found) -> Host:
    """`{"host": ..., "port": 80}`: the port stands beside."""
    port = text.beside.get("port")
    if host.port is not None or not isinstance(port, int) or isinstance(port, bool):
        return host
    return msgspec.structs.replace(host, port=port)


def _bounded(values: Collection[Any], left: int) -> None:
    if len(values) > left:
        raise FactsUnclear(
            f"The arguments have more than {VALUES_MAX} values.", hint="Make the call smaller."
        )


def _path_like(word: Word) -> Word | None:
    """The word, or the part behind `--option=`, where it may be a path; what is not known at all may be."""
    text = word.text
    if text is None:
        behind = _PATH_BEHIND.fullmatch(word.known)
        known = behind[1] if behind else word.known
        return word if "/" in known or word.prefix in ("", "~") or behind else None
    behind = _PATH_BEHIND.fullmatch(text)
    if behind is not None:
        text = behind[1]
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    elif _SCHEME.match(text):
        return None
    if "/" in text or text in (".", "..", "~") or (text.startswith(".") and not text.startswith("...")):
        return Word(text, text, text)
    return None


def _is_url(text: str) -> bool:
    return _SCHEME.match(text) is not None and not text.startswith("file:")


def _bytes(text: str) -> int:
    if text.isascii():
        return len(text)
    try:
        return len(text.encode("utf-8", "surrogateescape"))  # bytes that are no UTF-8 count as they are
    except UnicodeEncodeError:
        return len(text.encode("utf-8", "surrogatepass"))
