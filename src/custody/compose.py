"""The composition root: the parts are joined here, by what the settings say.

Owns the public `open`, and what opening a store for calls or for questions takes. Used by applications and
the command line.
"""

import functools
import os
import warnings
from collections.abc import Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import msgspec

from custody.errors import CorruptJournal, NotRecorded, StoreReadOnly, UsageError
from custody.journal import Disk, Journal, MemoryDisk, RealDisk
from custody.recorder import Draft, Recorder
from custody.records import IdSource
from custody.redaction import Redactor, SecretTools, secrets_of
from custody.settings import MEMORY, Settings, load_settings, user_settings_path

if TYPE_CHECKING:
    from custody.blocking import BlockingRuntime
    from custody.calls.recording import ObserveSettings
    from custody.calls.recovery import Recovered
    from custody.calls.runtime import CallSettings, Runtime
    from custody.changes import UndoStore
    from custody.files import Protected
    from custody.index import Index, Progress
    from custody.prices import Prices
    from custody.sandbox import Launchers

DAY_SECONDS = 24 * 3600
REDACTION_KEY = "keys/redaction.key"
REDACTION_KEY_BYTES = 32


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
        self._open_undo = lambda: undo_store(settings, disk)
        self.recovered = Recovered()
        try:
            self.index.refresh(progress)
            self.recovered = recover(
                self.journal,
                self.index,
                lambda: make_recorder(disk, self.journal, os.environ),
                lambda: self.undo,
            )
        except CorruptJournal:
            pass  # what can be read is shown; `index.damage` says what cannot
        except (OSError, NotRecorded) as error:
            warnings.warn(f"Calls of dead processes could not be closed: {error}", stacklevel=2)

    @functools.cached_property
    def undo(self) -> "UndoStore":
        """What files were before calls changed them."""
        return self._open_undo()

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
    on_error: Literal["warn", "raise"] | None = None,
    disk: Disk | None = None,
    launchers: "Launchers | None" = None,
) -> "Runtime":
    """Open a store for calls: take a shard, close what dead processes left open.

    `disk` stands in for the one that `settings.store` names; `launchers` may have been started already, and
    become the runtime's.
    """
    import asyncio  # here, with what follows: commands that only look never make a call

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

    prices = functools.cache(lambda: _prices(settings))

    def open_store() -> _OpenStore:
        if door == "python":
            prices()  # a program may record steps; not while its event loop waits for the first
        return _open_store(settings, disk, {**os.environ, **call_settings.environment_added})

    try:
        opened = await asyncio.to_thread(open_store)
    except BaseException:
        await launchers.close()
        raise
    return Runtime(
        journal=opened.journal,
        recorder=opened.recorder,
        open_index=lambda: open_index(settings.store, opened.journal),
        registry=registry,
        policy=Policy(settings.rules),
        sampler=Sampler("/" if settings.store == MEMORY else settings.store),
        breaker=Breaker(settings.file.breaker),
        launchers=launchers,
        settings=call_settings,
        observing=_observe_settings(settings, on_error),
        load_prices=prices,
        undo=functools.cache(lambda: undo_store(settings, opened.disk)),
        unfinished=_unfinished_in(settings.store),
        recovered=opened.recovered,
    )


def _prices(settings: Settings) -> "Prices":
    from custody.prices import load_prices

    own = settings.file.observe.prices
    return load_prices(None if own is None else os.path.expanduser(own))


class _OpenStore(NamedTuple):
    disk: Disk
    journal: Journal
    recorder: Recorder
    recovered: "Recovered | None"


def _open_store(settings: Settings, disk: Disk | None, environ: Mapping[str, str]) -> _OpenStore:
    """Take a shard of the store, and close what dead processes left open. Raises StoreError, NotRecorded."""
    try:
        disk = disk or open_disk(settings.store)
        journal = Journal(disk)
        recorder = make_recorder(disk, journal, environ)
        journal.lease()
    except OSError as error:
        raise StoreReadOnly(
            f"The store {settings.store} cannot be written: {error.strerror or error}.",
            hint="Make room, or choose another with CUSTODY_STORE or --store.",
        ) from error
    unfinished = _unfinished_in(settings.store)
    if unfinished:
        from custody.calls.recording import retry_unfinished

        retry_unfinished(recorder, unfinished)
    recovered = recover_from_crashes(settings, journal, disk, lambda: recorder)
    return _OpenStore(disk, journal, recorder, recovered)


_unfinished: "dict[str, list[Draft]]" = {}
"""Store -> ends of runs that this process could not record; tried again when it opens the store again."""


def _unfinished_in(store: str) -> "list[Draft]":
    return [] if store == MEMORY else _unfinished.setdefault(store, [])


def _observe_settings(settings: Settings, on_error: Literal["warn", "raise"] | None) -> "ObserveSettings":
    from custody.calls.recording import ObserveSettings, check_on_error

    check_on_error(on_error)
    observe = settings.file.observe
    return ObserveSettings(
        on_error=on_error or observe.on_error,
        delay_seconds=observe.delay_ms / 1000,
        child_depth_max=observe.child_depth_max,
        keep=settings.file.tools.keep,
        secret_tools=SecretTools(observe.secret_tools),
        secret_tools_keep=observe.secret_tools_keep,
    )


def _call_settings(settings: Settings, *, at_terminal: bool) -> "CallSettings":
    """What the settings say of calls; a person at a terminal gets more of the machine than an agent."""
    from custody.calls.runtime import CallSettings
    from custody.tools import Scope

    calls = settings.file.calls
    return CallSettings(
        scope=Scope(settings.cwd, settings.roots, functools.cache(lambda: protected_by(settings))),
        timeout_seconds=calls.timeout_seconds or None,
        parallel_calls=calls.parallel,
        durable_before=calls.durable_before,
        environment=calls.environment or ("all_but_secret" if at_terminal else "allow_list"),
        no_new_privs=not at_terminal,
        limits=calls.limits,
        watch=settings.file.files.watch,
        workspace=settings.workspace,
    )


def protected_by(settings: Settings) -> "Protected":
    """What no tool may touch: the list, what the settings add to it, and what is Custody's own."""
    from custody.files import load_protected

    files = settings.file.files
    own = [user_settings_path()]
    if settings.store != MEMORY:
        own.append(settings.store)
    return load_protected(own=own, secret=files.secret, write=files.protected)


def undo_store(settings: Settings, disk: Disk) -> "UndoStore":
    """Where a store keeps what files were before they were changed."""
    from custody.changes import UndoStore

    undo = settings.file.undo
    return UndoStore(
        disk,
        bytes_max=undo.bytes_max,
        age_seconds=undo.days_max * DAY_SECONDS,
        call_bytes_max=undo.call_bytes_max,
    )


def recover_from_crashes(
    settings: Settings, journal: Journal, disk: Disk, recorder: Callable[[], Recorder]
) -> "Recovered | None":
    """Close what dead processes left open; None when none did."""
    if not journal.left_open():
        return None
    from custody.calls.recovery import recover

    index = open_index(settings.store, journal)
    try:
        return recover(journal, index, recorder, lambda: undo_store(settings, disk))
    finally:
        index.close()


def _prepared_export(settings: Settings) -> "Callable[[Runtime], Callable[[], None]] | None":
    """What starts the exporter that `[otel]` asks for, and gives what stops it. Raises UsageError.

    Only for programs that open the store: a single command does not wait for a collector.
    """
    section = settings.file.otel
    if section.endpoint is None:
        return None
    from custody.bridges.otel.destination import destination_of, require_packages

    destination = destination_of(section, os.environ)
    require_packages(destination.protocol)

    def start(runtime: "Runtime") -> Callable[[], None]:
        from custody.bridges.otel.background import start_export

        index = open_index(settings.store, runtime.journal)
        return start_export(
            destination, section, runtime.journal, index, lambda: runtime.ledger.recorder
        ).stop

    return start


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
    on_error: Literal["warn", "raise"] | None = None,
) -> Opening:
    """Open a store: `with custody.open() as runtime:` or `async with custody.open() as runtime:`.

    `store` is a folder, or `":memory:"`; by default `CUSTODY_STORE`, else the XDG data directory. `tools`
    are functions, `@custody.tool` functions or tool objects; `roots` are folders allowed beside the
    working directory and the temporary folder. `on_error` says what becomes of an observed record that cannot
    be kept: `warn` (the default) logs and counts it, `raise` raises NotRecorded. Raises StoreError,
    InvalidSetting.
    """
    store = None if store is None else os.fspath(store)
    if store is not None and "://" in store:
        raise UsageError(
            f"{store} is a URL; this version opens folders.", hint='Give a folder or ":memory:".'
        )

    async def make_runtime() -> "Runtime":
        settings = load_settings(store=store, cwd=cwd, roots=roots)
        prepare = _prepared_export(settings)
        runtime = await open_runtime(
            settings, tools=tools, agent=agent, caller=caller, session=session, on_error=on_error
        )
        if prepare is not None:
            runtime.closing.append(prepare(runtime))
        return runtime

    return Opening(make_runtime)
