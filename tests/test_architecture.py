"""The shape of the code, as data and as rules: who may import what, who may touch what, how large a piece is.

Each rule is a function from parsed modules to sentences about what breaks it, so that the rules themselves
are tested: `test_each_rule_finds_a_breach_of_it` hands every one a few lines that break it.
"""

import ast
import gc
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "custody"

# Lowest first. A module imports from lower levels only; names on one level do not import each other.
LEVELS: tuple[tuple[str, ...], ...] = (
    ("errors", "hosts", "native", "cuts", "locks"),
    ("records", "safe_yaml"),
    ("journal", "redaction", "policy", "prices", "host", "sandbox", "files"),
    ("index", "recorder", "trust"),
    ("checkpoints", "verify", "retention", "changes"),
    ("tools",),
    ("calls",),
    ("blocking", "plans", "skills", "bridges", "installing"),
    ("rpc",),
    ("client",),
    ("doors", "adapters"),
    ("policy_files",),
    ("settings",),
    ("stores", "offering"),
    ("compose",),
    ("cli",),
    ("__main__",),
)
LEVEL_OF = {name: level for level, names in enumerate(LEVELS) for name in names}

FROM_THE_ROOT = {"__version__"}
"""What modules below the command line may import from `custody` itself, whose other names lead upwards."""

STORE_CALLS_ANYWHERE = {
    f"os.{name}" for name in "pwrite pwritev fsync fdatasync ftruncate truncate posix_fallocate".split()
} | {"fcntl.lockf", "fcntl.flock"}
STORE_CALLS_IN_JOURNAL = {
    f"os.{name}"
    for name in (
        "open write writev read pread close rename replace link unlink remove mkdir makedirs rmdir listdir"
    ).split()
} | {"open", "shutil.rmtree", "shutil.move", "ctypes.PyDLL", "ctypes.CDLL"}
PATH_METHODS = {"write_bytes", "write_text", "read_bytes", "read_text", "touch", "iterdir"}
STORE_FILES = {
    "calls/numbering.py": "counts in memory that forked processes share; no file of the store",
    "files/putting.py": "puts the user's files in place; no file of the store",
    "cli/outgoing.py": "puts the file the user named in place, which lies outside the store",
    "cli/cursor.py": "keeps the cursor file the user named, which lies outside the store",
}

PROCESS_CALLS = re.compile(
    r"^(subprocess\.(Popen|run|call|check_call|check_output|getoutput|getstatusoutput)"
    r"|os\.(fork|forkpty|posix_spawnp?|exec[lv]\w*|spawn[lv]\w*|system|popen)"
    r"|pty\.(fork|spawn)|multiprocessing\.\w+|concurrent\.futures\.ProcessPoolExecutor"
    r"|asyncio\.create_subprocess_\w+|_posixsubprocess\.\w+)$"
)
PROCESS_FILES = {
    "sandbox/one_launcher.py": "starts a launcher",
    "sandbox/template.py": "starts the template that launchers are forked of",
    "sandbox/walls/machine.py": "tries the walls in a child",
    "sandbox/walls/trial.py": "is that child: each wall is tried in one of its own",
    "sandbox/launcher/spawn.py": "is the launcher's: starts everything else",
    "sandbox/launcher/user_namespace.py": "is the launcher's: forks itself to have a user namespace made",
    "sandbox/launcher/confine.py": "is the launcher's: forks itself to be pid 1 of a namespace",
    "doors/hooks/client.py": "becomes `custody hook run` where no daemon serves",
    "cli/demo.py": "plays the user: it starts `custody` itself and kills it",
    "cli/demo_commands.py": "plays the user: commands of `custody`, one of them killed",
    "cli/demo_daemon.py": "plays the operator: it starts the daemon and kills it",
    "cli/demo_evidence.py": "plays the auditor: each command in a process of its own",
}

APPENDING = {"recorder.py": "the only way on"}

NAMES_THAT_SAY_NOTHING = re.compile(r"^(utils?|common|base|helpers?|misc|managers?|mixins?|core|lib|shared)$")

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
LONG_FUNCTIONS: dict[str, str] = {}
"""`path::function` -> why it is better in one piece."""
LONG_FILES: dict[str, str] = {}

PUBLIC_NAMES_MAX = 15
IMPORT_MS_MAX = 500  # of the processor, generous for a slow one; the figure is in benchmarks/command_line.py

Modules = dict[str, ast.Module]
"""Path below `src/custody`, with slashes -> its tree."""


def parse_source() -> Modules:
    gc.disable()  # it would look through all the trees again and again, for more than half of the time
    try:
        return {
            path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text(encoding="utf-8"), str(path))
            for path in sorted(SOURCE.rglob("*.py"))
        }
    finally:
        gc.enable()


@pytest.fixture(scope="module")
def modules() -> Modules:
    return parse_source()


# -- reading a module -----------------------------------------------------------------------------------


def dotted(path: str) -> str:
    """`journal/shard.py` -> `custody.journal.shard`; a package's `__init__` is the package."""
    parts = path.removesuffix(".py").split("/")
    return ".".join(["custody", *(parts[:-1] if parts[-1] == "__init__" else parts)])


@cache
def nodes_of(tree: ast.Module) -> tuple[ast.AST, ...]:
    """Every rule looks through every tree."""
    return tuple(ast.walk(tree))


def imports_of(path: str, tree: ast.Module, known: set[str]) -> Iterator[tuple[int, str, str]]:
    """Line, module and imported name of every import of Custody's own, wherever in the file it stands."""
    package = ["custody", *path.split("/")[:-1]]
    for node in nodes_of(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "custody":
                    yield node.lineno, alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            near = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*near, *filter(None, [node.module])])
            for alias in node.names if module.split(".")[0] == "custody" else ():
                inner = f"{module}.{alias.name}"
                yield node.lineno, (inner if inner in known else module), alias.name


@cache
def calls_of(tree: ast.Module) -> tuple[tuple[int, str, ast.Call], ...]:
    """Line and full name of every call, aliases resolved (`from os import pwrite as p` is `os.pwrite`)."""
    names: dict[str, str] = {}
    for node in nodes_of(tree):
        if isinstance(node, ast.Import):
            names |= {
                a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0]
                for a in node.names
            }
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    found: list[tuple[int, str, ast.Call]] = []
    for node in nodes_of(tree):
        if isinstance(node, ast.Call):
            head, _, rest = ast.unparse(node.func).partition(".")
            head = names.get(head, head)
            found.append((node.lineno, f"{head}.{rest}" if rest else head, node))
    return tuple(found)


# -- the rules ------------------------------------------------------------------------------------------


def upward_imports(modules: Modules) -> Iterator[str]:
    known = {dotted(path) for path in modules}
    for path, tree in modules.items():
        if path == "__init__.py":
            continue
        own = dotted(path).split(".")[1]
        for line, module, name in imports_of(path, tree, known):
            if module == "custody":
                if name not in FROM_THE_ROOT and own != "cli":
                    yield f"{path}:{line} imports {name or 'custody'} from the public face"
                continue
            other = module.split(".")[1]
            if other != own and LEVEL_OF.get(other, -1) >= LEVEL_OF.get(own, len(LEVELS)):
                yield f"{path}:{line} ({own}) imports {module}, which is not on a lower level"


def unplaced_modules(modules: Modules) -> Iterator[str]:
    tops = {path.split("/")[0].removesuffix(".py") for path in modules} - {"__init__"}
    for top in sorted(tops - LEVEL_OF.keys()):
        yield f"{top} stands on no level of LEVELS"


def import_cycles(modules: Modules) -> Iterator[str]:
    known = {dotted(path) for path in modules}
    graph = {
        dotted(path): {module for _, module, _ in imports_of(path, tree, known) if module != "custody"}
        for path, tree in modules.items()
        if path != "__init__.py"
    }
    done: set[str] = set()

    def walk(module: str, trail: tuple[str, ...]) -> Iterator[str]:
        if module in trail:
            yield " -> ".join((*trail[trail.index(module) :], module))
        elif module not in done:
            for other in sorted(graph.get(module, ())):
                yield from walk(other, (*trail, module))
            done.add(module)

    for module in sorted(graph):
        yield from walk(module, ())


def store_touched_elsewhere(modules: Modules) -> Iterator[str]:
    for path, tree in modules.items():
        if re.fullmatch(r"journal/disk\w*\.py", path) or path in STORE_FILES:
            continue
        in_journal = path.startswith("journal/") or path == "recorder.py"
        forbidden = STORE_CALLS_ANYWHERE | (STORE_CALLS_IN_JOURNAL if in_journal else set())
        for line, name, _ in calls_of(tree):
            if name in forbidden or (in_journal and name.split(".")[-1] in PATH_METHODS):
                yield f"{path}:{line} calls {name}; files of the store are journal/disk's"


def processes_started_elsewhere(modules: Modules) -> Iterator[str]:
    for path, tree in modules.items():
        if path not in PROCESS_FILES:
            for line, name, _ in calls_of(tree):
                if PROCESS_CALLS.match(name):
                    yield f"{path}:{line} calls {name}; processes are started by sandbox/"


def appends_elsewhere(modules: Modules) -> Iterator[str]:
    for path, tree in modules.items():
        if path in APPENDING or path.startswith("journal/"):
            continue
        for node in nodes_of(tree):
            if isinstance(node, ast.Attribute) and node.attr == "append":
                owner = ast.unparse(node.value).split(".")[-1]
                if owner.lstrip("_") in ("journal", "Journal"):
                    yield f"{path}:{node.lineno} uses the journal's append; only the recorder does"


def redacted_made_elsewhere(modules: Modules) -> Iterator[str]:
    for path, tree in modules.items():
        if path.startswith("redaction"):
            continue
        for line, name, node in calls_of(tree):
            target = name
            if name.split(".")[-1] == "cast" and node.args:
                target = ast.unparse(node.args[0]).strip("'\"")
            if target.split(".")[-1] == "Redacted":
                yield f"{path}:{line} makes Redacted bytes; only redaction does"


def empty_names(modules: Modules) -> Iterator[str]:
    for path in modules:
        for part in path.removesuffix(".py").split("/"):
            if NAMES_THAT_SAY_NOTHING.match(part):
                yield f"{path} is called {part}, which says nothing"


def large_files(modules: Modules) -> Iterator[str]:
    for path, tree in modules.items():
        lines = max((node.end_lineno or 0 for node in tree.body), default=0)
        if lines > FILE_LINES_MAX and path not in LONG_FILES:
            yield f"{path} has {lines} lines"


def large_functions(modules: Modules) -> Iterator[str]:
    for path, tree in modules.items():
        for node in nodes_of(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES_MAX and f"{path}::{node.name}" not in LONG_FUNCTIONS:
                    yield f"{path}:{node.lineno} {node.name} has {lines} lines"


RULES: dict[Callable[[Modules], Iterator[str]], dict[str, str]] = {
    upward_imports: {"journal/shard.py": "def f():\n    from custody.calls import runtime"},
    unplaced_modules: {"gizmo/wheel.py": ""},
    import_cycles: {"calls/a.py": "import custody.calls.b", "calls/b.py": "from custody.calls import a"},
    store_touched_elsewhere: {"journal/shard.py": "from os import open as o\no('x', 0)"},
    processes_started_elsewhere: {"tools/run.py": "import subprocess as s\ns.Popen(['true'])"},
    appends_elsewhere: {"calls/execute.py": "def f(self): self._journal.append(1)"},
    redacted_made_elsewhere: {"recorder.py": "from custody import records\nrecords.Redacted(b'')"},
    empty_names: {"journal/utils.py": ""},
    large_files: {"index/sql.py": "\n" * FILE_LINES_MAX + "x = 1"},
    large_functions: {"index/sql.py": "def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX},
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_code_keeps_every_rule(rule: Callable[[Modules], Iterator[str]], modules: Modules):
    assert list(rule(modules)) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_each_rule_finds_a_breach_of_it(rule: Callable[[Modules], Iterator[str]]):
    assert list(rule({path: ast.parse(text) for path, text in RULES[rule].items()})) != []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("policy/rules.py", "from custody.redaction import Redactor"),
        ("recorder.py", "import custody.index"),
        ("records.py", "from custody import Runtime"),
        ("journal/shard.py", "from ..redaction import keys"),
    ],
)
def test_a_sibling_or_the_public_face_is_not_a_lower_level(path: str, text: str):
    assert list(upward_imports({path: ast.parse(text)})) != []


def test_exceptions_name_files_that_are_there(modules: Modules):
    """An exception outlives its reason unless something asks for it."""
    named = {name.split("::")[0] for name in (*LONG_FUNCTIONS, *LONG_FILES)}
    assert named - modules.keys() == set()


# -- the public face ------------------------------------------------------------------------------------


def test_public_names_are_few_sorted_and_there():
    import custody

    assert list(custody.__all__) == sorted(custody.__all__)
    assert len(custody.__all__) <= PUBLIC_NAMES_MAX
    assert [name for name in custody.__all__ if not hasattr(custody, name)] == []


def test_importing_custody_is_quick_and_opens_nothing(tmp_path: Path):
    program = (
        "import sys, time; before = set(sys.modules); start = time.process_time(); import custody; "
        "print((time.process_time() - start) * 1000); "
        "print(*sorted({'apsw', 'cryptography', 'rich', 'click'} & (set(sys.modules) - before)))"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "data")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    milliseconds, loaded = done.stdout.splitlines()
    assert float(milliseconds) < IMPORT_MS_MAX
    assert loaded == ""
    assert list(tmp_path.iterdir()) == []


# -- what the repository must not know ------------------------------------------------------------------

TEXT_SUFFIXES = {".py", ".md", ".toml", ".sql", ".lock", ".json", ".txt", ".cfg", ".ini", ".yml", ".yaml", ""}
NOT_OURS = {".git", ".venv", "__pycache__", "results", "dist", "build"}
LOCK_LINE = re.compile(r"#.*|[a-z0-9-]+==[\w.+!]+ \\|    --hash=sha256:[0-9a-f]{64}( \\)?|")


def text_files() -> Iterator[Path]:
    for folder, names, files in os.walk(ROOT):
        names[:] = [
            name for name in names if name not in NOT_OURS and (name == ".ci" or not name.startswith("."))
        ]
        for name in files:
            if Path(name).suffix in TEXT_SUFFIXES and not name.startswith(".cover"):
                yield Path(folder, name)


@pytest.mark.skipif(len(ROOT.parts) < 3, reason="the clone lies in the root folder, whose name is everywhere")
def test_no_file_knows_where_this_clone_lies():
    place = f"{ROOT}/"
    knowing = [
        path.relative_to(ROOT).as_posix()
        for path in text_files()
        if place in path.read_text(encoding="utf-8", errors="replace")
    ]
    assert knowing == []


def test_lock_files_hold_pins_and_hashes_and_nothing_else():
    locks = sorted(ROOT.glob("requirements*.lock"))
    assert [lock.name for lock in locks] == [
        "requirements-bench.lock",
        "requirements-dev.lock",
        "requirements-peers.lock",
        "requirements.lock",
    ]
    for lock in locks:
        other = [
            line for line in lock.read_text(encoding="utf-8").splitlines() if not LOCK_LINE.fullmatch(line)
        ]
        assert other == [], lock.name


def test_every_dependency_is_locked():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = {
        "requirements.lock": project["project"]["dependencies"],
        "requirements-dev.lock": project["project"]["dependencies"] + project["dependency-groups"]["dev"],
        "requirements-bench.lock": project["dependency-groups"]["bench"],
        "requirements-peers.lock": project["dependency-groups"]["peers"],
    }
    for lock, requirements in wanted.items():
        pinned = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE))
        assert {re.split(r"[<>=!~ \[]", requirement)[0] for requirement in requirements} <= pinned, lock
