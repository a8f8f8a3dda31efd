"""The composition root: settings are read here, and the parts joined.

Owns where the store lies, the settings files and the environment variables, and the public `open`. No
other module but the command line reads either. A workspace's own `custody.toml` may only add policy
rules: it comes with the code an agent works on, and must not loosen anything.
"""

import io
import os
import warnings
from collections.abc import Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import msgspec
from msgspec import Struct

from custody.errors import CorruptJournal, InvalidSetting, NotRecorded, UsageError
from custody.host import BreakerThresholds
from custody.journal import Disk, Journal, MemoryDisk, RealDisk
from custody.policy import Rule, parse_rules
from custody.recorder import Recorder
from custody.records import Effect, IdSource
from custody.redaction import Redactor, secrets_of

if TYPE_CHECKING:
    from custody.blocking import BlockingRuntime
    from custody.calls.recovery import Recovered
    from custody.calls.runtime import CallSettings, Runtime
    from custody.index import Index, Progress
    from custody.sandbox import Launchers

SETTINGS_FILE = "custody.toml"
MEMORY = ":memory:"
PARALLEL_CALLS_MAX = 4096  # each may be a process tree; beyond this the machine, not Custody, decides
REDACTION_KEY = "keys/redaction.key"
REDACTION_KEY_BYTES = 32


class CallsSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[calls]`"""

    timeout_seconds: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    """Deadline of a call that names none; 0 is none."""
    parallel: Annotated[int, msgspec.Meta(ge=1, le=PARALLEL_CALLS_MAX)] = 64
    durable_before: frozenset[Effect] = frozenset({"write", "irreversible", "unknown"})
    """Effects whose *started* record must survive power loss before the tool runs."""
    environment: Literal["all_but_secret", "allow_list"] | None = None
    """What a command gets of our environment: all but secret-looking names, or a stated list. Unset: the
    first at the command line, the second elsewhere."""
    roots: tuple[str, ...] = ()
    """Folders allowed beside the working directory and the temporary folder."""
    limits: dict[str, Annotated[int, msgspec.Meta(ge=0)]] = {}
    """Resource limits of every command, as setrlimit(2) has them: `nofile`, `fsize`, `as`, `cpu` …"""

    def __post_init__(self) -> None:
        if self.limits:
            import resource  # only Unix has it

            for name in self.limits:
                if not hasattr(resource, f"RLIMIT_{name.upper()}"):
                    raise InvalidSetting(f"calls.limits.{name} is no resource limit of setrlimit(2).")


class ToolsSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[tools]`"""

    modules: tuple[str, ...] = ()
    keep: dict[str, Literal["full", "digest", "none"]] = {}
    """What the record holds of a tool's arguments and results, by tool name."""


class PolicySection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[policy]`"""

    rules: tuple[dict[str, Any], ...] = ()


class SettingsFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `custody.toml`."""

    calls: CallsSection = CallsSection()
    tools: ToolsSection = ToolsSection()
    policy: PolicySection = PolicySection()
    breaker: BreakerThresholds = BreakerThresholds()


class Settings(Struct, frozen=True, kw_only=True):
    """Everything a runtime needs to know, from files, environment and arguments."""

    store: str
    cwd: str
    workspace: str | None
    roots: tuple[str, ...]
    file: SettingsFile
    rules: tuple[Rule, ...]
    files_read: tuple[str, ...]


def default_store(environ: Mapping[str, str] = os.environ) -> str:
    """`CUSTODY_STORE`, else `custody` in the XDG data directory."""
    named = environ.get("CUSTODY_STORE")
    if named:
        return named
    data = environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(data, "custody")


def user_settings_path(environ: Mapping[str, str] = os.environ) -> str:
    """`CUSTODY_CONFIG`, else `custody/custody.toml` in the XDG configuration directory."""
    config = environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return environ.get("CUSTODY_CONFIG") or os.path.join(config, "custody", SETTINGS_FILE)


def workspace_of(folder: str) -> str | None:
    """The root of the git working tree a folder is in, without asking git."""
    folder = os.path.realpath(folder)
    while True:
        if os.path.exists(os.path.join(folder, ".git")):
            return folder
        parent = os.path.dirname(folder)
        if parent == folder:
            return None
        folder = parent


def load_settings(
    *,
    store: str | None = None,
    cwd: str | None = None,
    roots: Iterable[str] = (),
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Join arguments, environment and settings files. Raises InvalidSetting naming file and key."""
    folder = os.path.abspath(cwd or os.getcwd())
    workspace = workspace_of(folder)
    user_path = user_settings_path(environ)
    user = _read_settings(user_path)
    rules = [] if user is None else list(parse_rules(user.policy.rules, user_path))
    read = [] if user is None else [user_path]
    if workspace is not None:
        workspace_path = os.path.join(workspace, SETTINGS_FILE)
        rules.extend(_workspace_rules(workspace_path, read))
    file = user or SettingsFile()
    allowed = dict.fromkeys(
        os.path.realpath(os.path.expanduser(root))
        for root in (folder, _temporary_folder(environ), *file.calls.roots, *roots)
    )
    return Settings(
        store=_store_path(store or default_store(environ)),
        cwd=folder,
        workspace=workspace,
        roots=tuple(allowed),
        file=file,
        rules=tuple(rules),
        files_read=tuple(read),
    )


def _temporary_folder(environ: Mapping[str, str]) -> str:
    """As the tempfile module chooses, which takes longer to load than this whole file to run."""
    named = (environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    return next(
        (folder for folder in (*named, "/tmp", "/var/tmp") if folder and os.path.isdir(folder)), "/tmp"
    )


def _store_path(store: str) -> str:
    return store if store == MEMORY else os.path.abspath(os.path.expanduser(store))


def _workspace_rules(path: str, read: list[str]) -> tuple[Rule, ...]:
    """The rules a workspace adds; anything else in its file is refused."""
    raw = _read_toml(path)
    if raw is None:
        return ()
    others = ", ".join(sorted(set(raw) - {"policy"}))
    if others:
        raise InvalidSetting(
            f"{path}: a workspace's own file may only add [[policy.rules]]; it has {others}.",
            hint=f"Move the rest to {user_settings_path()}.",
        )
    read.append(path)
    return parse_rules(_convert(raw, path).policy.rules, path)


def _read_settings(path: str) -> SettingsFile | None:
    raw = _read_toml(path)
    return None if raw is None else _convert(raw, path)


def _convert(raw: dict[str, Any], path: str) -> SettingsFile:
    try:
        return msgspec.convert(raw, SettingsFile)
    except InvalidSetting as error:
        raise InvalidSetting(f"{path}: {error.message}", hint=error.hint) from error
    except msgspec.ValidationError as error:
        raise InvalidSetting(f"{path}: {str(error).replace('`$', '`').replace('`.', '`')}.") from error


def _read_toml(path: str) -> dict[str, Any] | None:
    try:
        with io.open(path, "rb") as file:  # noqa: UP020 - `open` is this module's own
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidSetting(f"{path} cannot be read: {error.strerror}.") from error
    import tomllib  # most machines have no settings file

    try:
        return tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidSetting(f"{path} cannot be read: {error}.") from error


# -- joining the parts --------------------------------------------------------------------------------


def open_disk(store: str, *, create: bool = True) -> Disk:
    """The store's folder, or memory. Raises StoreError; warns about a network file system."""
    if store == MEMORY:
        return MemoryDisk()
    disk = RealDisk(store, create=create)
    network = disk.network_filesystem()
    if network is not None:
        warnings.warn(
            f"The store {store} is on a network file system ({network}): locks and syncs there may not hold. "
            "Choose a local folder with --store.",
            stacklevel=2,
        )
    return disk


def open_index(store: str, journal: Journal) -> "Index":
    """The index of a store. Loaded here, not with this module: most commands only make calls."""
    from custody.index import Index

    return Index(None if store == MEMORY else os.path.join(store, "index.db"), journal)


def redaction_key(disk: Disk) -> bytes:
    """The store's fingerprint key, made on first use."""
    key = disk.read_all(REDACTION_KEY)
    if key is None:
        disk.make_folder("keys")
        lock = disk.lock(REDACTION_KEY + ".lock")
        key = disk.read_all(REDACTION_KEY)
        if key is None:
            key = os.urandom(REDACTION_KEY_BYTES)
            disk.replace(REDACTION_KEY, key)
        if lock is not None:
            lock.release()
    return key


def make_recorder(disk: Disk, journal: Journal, environ: Mapping[str, str]) -> Recorder:
    """The recorder of a store; knows the values of secret-looking environment variables."""
    return Recorder(journal, Redactor(redaction_key(disk), secrets_of(environ)), IdSource())


class View:
    """A store opened to be looked at. Calls of dead processes are closed first where it may be written."""

    def __init__(self, settings: Settings, progress: "Progress | None" = None) -> None:
        from custody.calls.recovery import Recovered, recover

        disk = open_disk(settings.store, create=False)
        self.journal = Journal(disk)
        self.index = open_index(settings.store, self.journal)
        self.recovered = Recovered()
        try:
            self.index.refresh(progress)
            self.recovered = recover(
                self.journal, self.index, lambda: make_recorder(disk, self.journal, os.environ)
            )
        except CorruptJournal:
            pass  # what can be read is shown; `index.damage` says what cannot
        except (OSError, NotRecorded) as error:
            warnings.warn(f"Calls of dead processes could not be closed: {error}", stacklevel=2)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.index.close()
        self.journal.close()


def open_view(settings: Settings, progress: "Progress | None" = None) -> View:
    """Open a store for questions, the index caught up. Raises StoreError when there is none."""
    return View(settings, progress)


async def open_runtime(
    settings: Settings,
    *,
    door: str = "python",
    tools: Iterable[Any] = (),
    agent: str | None = None,
    caller: str | None = None,
    session: str | None = None,
    environment_added: Mapping[str, str] | None = None,
    disk: Disk | None = None,
    launchers: "Launchers | None" = None,
) -> "Runtime":
    """Open a store for calls: take a shard, close what dead processes left open, find the tools.

    `disk` stands in for the one that `settings.store` names; `launchers` may have been started already, and
    become the runtime's.
    """
    # Here, not with this module: commands that only look never make a call.
    import asyncio

    from custody.calls.runtime import Runtime
    from custody.host import Breaker, Sampler
    from custody.policy import Policy
    from custody.sandbox import Launchers
    from custody.tools import Registry, installed_tools

    at_terminal = door == "cli"
    call_settings = msgspec.structs.replace(
        _call_settings(settings, at_terminal=at_terminal),
        door=door,
        agent=agent,
        caller=caller,
        session_id=session,
        environment_added=environment_added or {},
    )
    launchers = launchers or Launchers()
    registry = Registry(
        tools,
        installed=lambda: installed_tools(settings.file.tools.modules),
        keep=settings.file.tools.keep,
    )

    def open_store() -> tuple[Journal, Recorder, "Recovered | None"]:
        on = disk or open_disk(settings.store)
        journal = Journal(on)
        recorder = make_recorder(on, journal, {**os.environ, **call_settings.environment_added})
        journal.lease()
        return journal, recorder, recover_from_crashes(settings.store, journal, lambda: recorder)

    try:
        journal, recorder, recovered = await asyncio.to_thread(open_store)
    except BaseException:
        await launchers.close()
        raise
    return Runtime(
        journal=journal,
        recorder=recorder,
        open_index=lambda: open_index(settings.store, journal),
        registry=registry,
        policy=Policy(settings.rules),
        sampler=Sampler("/" if settings.store == MEMORY else settings.store),
        breaker=Breaker(settings.file.breaker),
        launchers=launchers,
        settings=call_settings,
        recovered=recovered,
    )


def _call_settings(settings: Settings, *, at_terminal: bool) -> "CallSettings":
    """What the settings say of calls; a person at a terminal gets more of the machine than an agent."""
    from custody.calls.runtime import CallSettings

    calls = settings.file.calls
    return CallSettings(
        roots=settings.roots,
        cwd=settings.cwd,
        timeout_seconds=calls.timeout_seconds or None,
        parallel_calls=calls.parallel,
        durable_before=calls.durable_before,
        environment=calls.environment or ("all_but_secret" if at_terminal else "allow_list"),
        no_new_privs=not at_terminal,
        limits=calls.limits,
        workspace=settings.workspace,
    )


def recover_from_crashes(
    store: str, journal: Journal, recorder: Callable[[], Recorder]
) -> "Recovered | None":
    """Close what dead processes left open; None when none did."""
    if not journal.left_open():
        return None
    from custody.calls.recovery import recover

    index = open_index(store, journal)
    try:
        return recover(journal, index, recorder)
    finally:
        index.close()


class Opening:
    """What `custody.open` gives: `with` it for the blocking face, `async with` it for the other."""

    def __init__(self, make_runtime: Callable[[], Coroutine[Any, Any, "Runtime"]]) -> None:
        self._make_runtime = make_runtime
        self._blocking: BlockingRuntime | None = None
        self._runtime: Runtime | None = None

    def __enter__(self) -> "BlockingRuntime":
        from custody.blocking import BlockingRuntime

        self._blocking = BlockingRuntime(self._make_runtime)
        return self._blocking

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._blocking is not None, "left before it was entered"
        self._blocking.close()

    async def __aenter__(self) -> "Runtime":
        runtime = self._runtime = await self._make_runtime()
        return runtime

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runtime is not None, "left before it was entered"
        await self._runtime.close()


def open(  # noqa: A001 - the public name is custody.open
    store: str | os.PathLike[str] | None = None,
    *,
    tools: Iterable[Any] = (),
    roots: Iterable[str] = (),
    cwd: str | None = None,
    agent: str | None = None,
    caller: str | None = None,
    session: str | None = None,
) -> Opening:
    """Open a store: `with custody.open() as runtime:` or `async with custody.open() as runtime:`.

    `store` is a folder, or `":memory:"`; by default `CUSTODY_STORE`, else the XDG data directory. `tools`
    are functions, `@custody.tool` functions or tool objects; `roots` are folders allowed beside the
    working directory and the temporary folder. Raises StoreError, InvalidSetting.
    """
    store = None if store is None else os.fspath(store)
    if store is not None and "://" in store:
        raise UsageError(
            f"{store} is a URL; this version opens folders.", hint='Give a folder or ":memory:".'
        )

    async def make_runtime() -> "Runtime":
        settings = load_settings(store=store, cwd=cwd, roots=roots)
        return await open_runtime(settings, tools=tools, agent=agent, caller=caller, session=session)

    return Opening(make_runtime)
