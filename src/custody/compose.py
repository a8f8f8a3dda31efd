"""The composition root: the parts are joined here, by what the settings say.

Owns the public `open`, and what follows a runtime while it works: signing, keeping within bounds, notices,
export. Used by applications and the command line.
"""

import functools
import hmac
import os
from collections.abc import Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec

from custody.checkpoints import Due, start_sealing
from custody.errors import CustodyError, UsageError
from custody.journal import Disk, RealDisk
from custody.offering import registry_of, witness_download
from custody.policy_files import ORGANISATION_FILE, POLICY_FILE, trust_path
from custody.recorder import Recorder
from custody.redaction import SecretTools
from custody.settings import MEMORY, Settings, load_settings, store_path, user_settings_path
from custody.stores import (
    OpenStore,
    discard_expired_of,
    held_store,
    open_index,
    open_store,
    private_folders,
    redaction_key,
    undo_store,
    unfinished_in,
)

if TYPE_CHECKING:
    from custody.blocking import BlockingRuntime
    from custody.bridges.boundary import BoundaryNotices
    from custody.calls.answers import Answering
    from custody.calls.budgets import Spending
    from custody.calls.call_settings import CallSettings
    from custody.calls.deciding import Deciding
    from custody.calls.pause import Pauses
    from custody.calls.recording import ObserveSettings
    from custody.calls.runtime import Runtime
    from custody.client import Address, BlockingRemoteRuntime, RemoteRuntime, Speaker
    from custody.files import Protected
    from custody.index import Index
    from custody.policy_files import StandingPolicy
    from custody.prices import Prices
    from custody.sandbox import Launchers

BOUNDARY_URL = "CUSTODY_BOUNDARY_URL"


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
    boundary: str | None = None,
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
    from custody.sandbox import Launchers

    at_terminal = door == "cli"
    call_settings = msgspec.structs.replace(
        _call_settings(settings, door, environment_added), agent=agent, caller=caller, session_id=session
    )
    launchers = launchers or Launchers()
    launchers.uids = settings.file.sandbox.uids
    registry = registry_of(settings, tools, lambda: witness_download(settings, opened.disk, runtime))
    prices = functools.cache(lambda: _prices(settings))
    make_notices = _prepared_notices(settings, boundary)

    def take_shard() -> OpenStore:
        if door == "python":
            prices()  # a program may record steps; not while its event loop waits for the first
        return open_store(settings, disk, {**os.environ, **call_settings.environment_added})

    try:
        opened = await asyncio.to_thread(take_shard)
    except BaseException:
        await launchers.close()
        raise
    standing = _standing_policy(settings, opened)
    runtime = Runtime(
        journal=opened.journal,
        recorder=opened.recorder,
        open_index=lambda: open_index(settings.store, opened.journal),
        registry=registry,
        policy=standing,
        deciding=_deciding(settings, opened, standing, lambda: runtime.index),
        sampler=Sampler("/" if settings.store == MEMORY else settings.store),
        breaker=Breaker(settings.file.breaker),
        launchers=launchers,
        settings=call_settings,
        observing=_observe_settings(settings, on_error),
        load_prices=prices,
        undo=functools.cache(lambda: undo_store(settings, opened.disk)),
        held=functools.cache(lambda: held_store(settings)),
        private=private_folders(settings),
        unfinished=unfinished_in(settings.store),
        recovered=opened.recovered,
        notices=None if make_notices is None else make_notices(opened.recorder),
    )
    _attend(runtime, settings, opened, standing, one_shot=at_terminal or door == "hook")
    if door == "python" and standing().layers:
        await _prepare(runtime)
    return runtime


async def _prepare(runtime: "Runtime") -> None:
    """Have counted what the policy limits: a guarded call on the event loop could not wait for that."""
    import asyncio

    try:
        await asyncio.to_thread(runtime.recording.guards.prepare)
    except BaseException:
        await runtime.close()
        raise


def _standing_policy(settings: Settings, opened: OpenStore) -> "StandingPolicy":
    from custody.policy_files import StandingPolicy

    return StandingPolicy(
        settings.policy_layers,
        settings.cwd,
        user_settings_path(),
        functools.partial(opened.recorder.event, leaf_data=True),
    )


def _deciding(
    settings: Settings,
    opened: OpenStore,
    standing: "StandingPolicy",
    index: "Callable[[], Index]",
) -> "Deciding":
    """Who is asked, and what counts what was used up: each is made where a policy first needs it."""
    from custody.calls.deciding import Deciding

    def key() -> bytes:
        return hmac.digest(redaction_key(opened.disk), b"custody decisions 1", "sha256")

    def spending() -> "Spending":
        from custody.calls.budgets import open_spending

        path = None if settings.store == MEMORY else os.path.join(settings.store, "index.db")
        return open_spending(path, opened.journal, deciding.key)

    def answering() -> "Answering":
        from custody.calls.answers import Answering, ApprovalSettings
        from custody.calls.notify import Notifier
        from custody.policy.model import Approvals

        def said() -> Approvals:
            return standing().approvals or Approvals()

        def record(name: str, data: dict[str, Any]) -> None:
            opened.recorder.event(name, data, leaf_data=True)

        def how() -> ApprovalSettings:
            now, default = said(), ApprovalSettings()
            return ApprovalSettings(
                wait_seconds=default.wait_seconds if now.wait_seconds is None else now.wait_seconds,
                open_hours=default.open_hours if now.open_hours is None else now.open_hours,
            )

        notify = Notifier(lambda: said().notify, record)
        deciding.ending.append(notify.close)
        return Answering(
            journal=opened.journal,
            recorder=opened.recorder,
            index=index,
            key=deciding.key,
            settings=how,
            someone=lambda: bool(notify) or opened.journal.approver_listens(),
            notify=notify,
        )

    def pauses() -> "Pauses":
        from custody.calls.pause import Pauses

        return Pauses(index, may_pause=lambda: standing().may_pause)

    deciding = Deciding(key=key, spending=spending, answering=answering, pauses=pauses)
    return deciding


def _attend(
    runtime: "Runtime", settings: Settings, opened: OpenStore, standing: "StandingPolicy", *, one_shot: bool
) -> None:
    """Start what works beside the runtime until it is closed: signing comes last."""
    if not one_shot:
        standing.start()
        runtime.closing.append(standing.stop)
    if settings.store == MEMORY:
        return
    runtime.closing.append(_start_sealing(settings, opened, one_shot=one_shot))
    if not one_shot:
        runtime.closing.insert(0, _start_keeping(settings, opened))


def _start_sealing(settings: Settings, opened: OpenStore, *, one_shot: bool) -> Callable[[], None]:
    """Sign what is recorded from here on; gives what stops it, last of what follows the journal."""
    section = settings.file.checkpoints
    return start_sealing(
        opened.disk,
        opened.journal,
        functools.partial(opened.recorder.event, leaf_data=True),
        Due(records=section.records, seconds=section.seconds, always_at_close=not one_shot),
        section.files,
        section.commands,
    )


def _prepared_notices(
    settings: Settings, boundary: str | None
) -> "Callable[[Recorder], BoundaryNotices] | None":
    """What tells a listener of each call, where one is named: here, in the environment, or in the settings.
    Raises InvalidSetting."""
    url = boundary or os.environ.get(BOUNDARY_URL) or settings.file.boundary.url
    if not url:
        return None
    from custody.bridges.boundary import BoundaryNotices, listener_of

    return functools.partial(BoundaryNotices, listener_of(url))


def _prices(settings: Settings) -> "Prices":
    from custody.prices import load_prices

    own = settings.file.observe.prices
    return load_prices(None if own is None else os.path.expanduser(own))


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


def _call_settings(
    settings: Settings, door: str, environment_added: Mapping[str, str] | None
) -> "CallSettings":
    """What the settings say of calls; a person at a terminal gets more of the machine than an agent."""
    from custody.calls.call_settings import CallSettings
    from custody.tools import Scope

    calls, at_terminal = settings.file.calls, door == "cli"
    return CallSettings(
        door=door,
        environment_added=environment_added or {},
        scope=Scope(settings.cwd, settings.roots, functools.cache(lambda: protected_by(settings))),
        timeout_seconds=calls.timeout_seconds or None,
        parallel_calls=calls.parallel,
        durable_before=calls.durable_before,
        environment=calls.environment or ("all_but_secret" if at_terminal else "allow_list"),
        no_new_privs=not at_terminal,
        level=calls.level,
        sandbox=calls.sandbox,
        afterwards=calls.afterwards,
        hosts=settings.file.sandbox.hosts,
        limits=calls.limits,
        watch=settings.file.files.watch,
        workspace=settings.workspace,
    )


def protected_by(settings: Settings) -> "Protected":
    """What no tool may touch: the list, what the settings add to it, and what is Custody's own."""
    from custody.files import load_protected

    files = settings.file.files
    path = user_settings_path()
    own = [path, trust_path(path), os.path.join(os.path.dirname(path), POLICY_FILE), ORGANISATION_FILE]
    if settings.store != MEMORY:
        own.append(settings.store)
    return load_protected(own=own, secret=files.secret, write=files.protected)


def _start_keeping(settings: Settings, opened: OpenStore) -> Callable[[], None]:
    """Keep a store within the bounds of its settings; gives what stops it."""
    section, held_days_max = settings.file.retention, settings.file.undo.held_days_max
    if not (section.days_max or section.bytes_max or held_days_max):
        return lambda: None
    from custody.retention import Bounds, Means, forgetting
    from custody.retention.keeper import Keeper

    expire = functools.partial(discard_expired_of, settings, opened.journal, lambda: opened.recorder)
    keeper = Keeper(
        Bounds(days_max=section.days_max, bytes_max=section.bytes_max),
        lambda: Means(
            journal=opened.journal,
            index=open_index(settings.store, opened.journal),
            make_recorder=lambda: opened.recorder,
            forget_undo=forgetting(lambda: undo_store(settings, opened.disk), lambda: held_store(settings)),
        ),
        beside=expire if held_days_max else None,
    )
    keeper.start()
    return keeper.stop


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


async def open_lasting_runtime(settings: Settings, *, door: str) -> "Runtime":
    """A runtime that serves others for long: with the export that `[otel]` asks for. Raises as
    `open_runtime`, and UsageError."""
    prepare = _prepared_export(settings)
    runtime = await open_runtime(settings, door=door)
    if prepare is not None:
        runtime.closing.insert(0, prepare(runtime))
    return runtime


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


TOKEN_VARIABLES = ("CUSTODY_TOKEN", "CAR_AUTH_TOKEN")
"""Where a token is looked for; the second is what agents of the other system have. Blank is unset."""


def daemon_token(address: "Address", store: str | None = None, path: str | None = None) -> str | None:
    """The token for a daemon: of the environment, else of the store on this machine (that for agents, or the
    one in `path`); never sent elsewhere."""
    for name in TOKEN_VARIABLES:
        if said := os.environ.get(name, "").strip():
            return said
    if not address.local:
        return None
    from custody.rpc.tokens import SERVE_TOKEN

    try:
        kept = RealDisk(store_path(store), create=False).read_all(path or SERVE_TOKEN)
    except (CustodyError, OSError):
        return None  # there is no store here, or it is somebody else's
    return None if kept is None else kept.decode("ascii", "replace").strip() or None


class _RemoteOpening:
    """`Opening` for a URL: the same words, over a connection."""

    def __init__(
        self, address: "Address", speaker: "Speaker", tools: Iterable[Any], on_error: Literal["warn", "raise"]
    ) -> None:
        self._address = address
        self._options: dict[str, Any] = {"tools": tuple(tools), "on_error": on_error}
        self._speaker = speaker
        self._blocking: BlockingRemoteRuntime | None = None
        self._runtime: RemoteRuntime | None = None

    def __enter__(self) -> "BlockingRemoteRuntime":
        from custody.client import BlockingRemoteRuntime

        self._blocking = BlockingRemoteRuntime(self._address, self._speaker, **self._options)
        return self._blocking.open()

    def __exit__(self, *_: object) -> None:
        assert self._blocking is not None, "left before it was entered"
        self._blocking.close()

    async def __aenter__(self) -> "RemoteRuntime":
        import asyncio

        from custody.client import RemoteRuntime

        home = asyncio.get_running_loop()
        self._runtime = RemoteRuntime(self._address, self._speaker, home_loop=home, **self._options)
        return await self._runtime.open()

    async def __aexit__(self, *_: object) -> None:
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
    token: str | None = None,
) -> Opening:
    """Open a store: `with custody.open() as runtime:` or `async with custody.open() as runtime:`.

    `store` is a folder, or `":memory:"`; by default `CUSTODY_STORE`, else the XDG data directory. Or it is
    the URL of a daemon (`ws://127.0.0.1:9100`, `wss://…`, `unix:///…`), to which `token` says who you are:
    by default `CUSTODY_TOKEN` or `CAR_AUTH_TOKEN`, else that of the store on this machine. `tools`
    are functions, `@custody.tool` functions or tool objects; `roots` are folders allowed beside the
    working directory and the temporary folder. `on_error` says what becomes of an observed record that cannot
    be kept: `warn` (the default) logs and counts it, `raise` raises NotRecorded. Raises StoreError,
    InvalidSetting, and of a daemon Denied.
    """
    store = None if store is None else os.fspath(store)
    if store is not None and "://" in store:
        if tuple(roots):
            raise UsageError("The roots of a daemon are its own.", hint="`custody serve --root` sets them.")
        from custody.client import Address, Speaker

        address = Address.of(store)
        speaker = Speaker(
            token=token or daemon_token(address), agent=agent, caller=caller, session=session, cwd=cwd
        )
        return cast("Opening", _RemoteOpening(address, speaker, tools, on_error or "warn"))
    if token is not None:
        raise UsageError("A token is for a daemon.", hint="Give the daemon's URL, or leave it out.")

    async def make_runtime() -> "Runtime":
        settings = load_settings(store=store, cwd=cwd, roots=roots)
        prepare = _prepared_export(settings)
        runtime = await open_runtime(
            settings, tools=tools, agent=agent, caller=caller, session=session, on_error=on_error
        )
        if prepare is not None:
            runtime.closing.insert(0, prepare(runtime))
        return runtime

    return Opening(make_runtime)
