"""What can be set: the settings files, the environment variables and the arguments, joined.

Owns where the store lies and what a `custody.toml` may say. No other module but the command line reads
either. A workspace's own file may only add policy rules: it comes with the code an agent works on, and
must not loosen anything. Used by `compose` and the command line.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Struct

from custody.bridges.otel.destination import OtelSection
from custody.errors import InvalidSetting
from custody.host import BreakerThresholds
from custody.policy import Layer
from custody.policy_files import layers_in_force
from custody.records import Effect

SETTINGS_FILE = "custody.toml"
MEMORY = ":memory:"
HOSTS_MAX = 200  # with the registries and remotes that are listed anyway as many as a sandbox takes
PARALLEL_CALLS_MAX = 4096  # each may be a process tree; beyond this the machine, not Custody, decides


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
    level: Literal["strongest", "process", "confined", "transaction"] = "strongest"
    """What the commands of agents run at; what a person types says it for itself. `strongest`: those of
    `exec`, `shell`, `git` and `check_outcome` at `confined`, where this machine gives that."""
    sandbox: str = "workspace"
    """The walls from level `confined` up, where a call names none; for agents never more than these."""
    afterwards: Literal["discard", "hold", "ask", "commit_if_passed", "commit"] = "hold"
    """What becomes of the changes of a transaction that says nothing of it."""
    limits: dict[str, Annotated[int, msgspec.Meta(ge=0)]] = {}
    """Resource limits of every command, as setrlimit(2) has them: `nofile`, `fsize`, `as`, `cpu` …"""

    def __post_init__(self) -> None:
        if self.limits:
            import resource  # only Unix has it

            for name in self.limits:
                if not hasattr(resource, f"RLIMIT_{name.upper()}"):
                    raise InvalidSetting(f"calls.limits.{name} is no resource limit of setrlimit(2).")
        if self.sandbox != "workspace":
            from custody.sandbox.walls import NAMED  # most settings name none

            if self.sandbox not in NAMED:
                raise InvalidSetting(f"calls.sandbox names no sandbox; there are {', '.join(NAMED)}.")


class ToolsSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[tools]`"""

    modules: tuple[str, ...] = ()
    keep: dict[str, Literal["full", "digest", "none"]] = {}
    """What the record holds of a tool's arguments and results, by tool name."""


class FilesSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[files]`"""

    protected: tuple[str, ...] = ()
    """Names that no tool writes, beside the built-in list: `deploy.key`, `infra/*.tfstate`."""
    secret: tuple[str, ...] = ()
    """Names that no tool reads or writes, beside the built-in list."""
    watch: bool = True
    """Whether a command's changes to files are told."""


class UndoSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[undo]`"""

    bytes_max: Annotated[int, msgspec.Meta(ge=0)] = 2 * 1024**3
    """Of all that is kept to undo with; the oldest goes first."""
    days_max: Annotated[float, msgspec.Meta(ge=0)] = 7
    call_bytes_max: Annotated[int, msgspec.Meta(ge=0)] = 512 * 1024**2
    """Of one call; a change whose old state is larger is refused."""
    held_days_max: Annotated[float, msgspec.Meta(ge=0)] = 0
    """How long changes of commands are held that nobody commits or discards; 0: for ever."""


class ObserveSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[observe]`"""

    on_error: Literal["warn", "raise"] = "warn"
    """What becomes of a record that cannot be kept: `warn` logs and counts it, and the agent goes on."""
    delay_ms: Annotated[float, msgspec.Meta(ge=0, le=60_000)] = 100
    """How long a slow disk may hold up who offers a record."""
    child_depth_max: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 8
    """How deep runs may be started from runs."""
    secret_tools: tuple[str, ...] = ()
    """Tools that handle secrets, beside the built-in list: a step that asks for one keeps its text back."""
    secret_tools_keep: Literal["full", "digest", "none"] = "full"
    """What the record holds of the arguments and results of those tools."""
    prices: str | None = None
    """A price table of your own, as TOML."""


class RedactionSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[redaction]`"""

    rules: tuple[str, ...] = ()
    """Files with more scanner rules, in the TOML form of gitleaks. The built-in rules always hold."""
    bytes_max: Annotated[int, msgspec.Meta(ge=1)] = 8 * 1024**2
    """Of one record that are scanned; of what is larger only a digest is kept."""
    ms_max: Annotated[float, msgspec.Meta(gt=0)] = 250
    """For scanning one record; of what takes longer only a digest is kept."""


class CheckpointsSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[checkpoints]`"""

    records: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    """So many new records are signed at the latest."""
    seconds: Annotated[float, msgspec.Meta(gt=0)] = 10
    """So long after the last checkpoint new records are signed."""
    files: tuple[str, ...] = ()
    """Files that each checkpoint is added to: on another disk, in a git repository."""
    commands: tuple[tuple[str, ...], ...] = ()
    """Commands that get each checkpoint on their standard input."""


class RetentionSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[retention]`; 0 deletes nothing."""

    days_max: Annotated[float, msgspec.Meta(ge=0)] = 0
    """What calls said is purged when it is so old."""
    bytes_max: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Of payloads and blobs; the oldest go first."""


class BoundarySection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[boundary]`"""

    url: str | None = None
    """Where the start and the end of each call are told: `http://127.0.0.1:9718`."""


class BundlesSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[bundles]`"""

    callers: tuple[str, ...] = ()
    """Who may ask for a bundle other than at the terminal, and then of their own session alone."""
    count_max: Annotated[int, msgspec.Meta(ge=1)] = 1_000
    """Calls in one bundle that a tool hands out."""
    bytes_max: Annotated[int, msgspec.Meta(ge=1)] = 16 * 1024**2
    """Of such a bundle, before base64."""


class SandboxSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[sandbox]`"""

    uids: tuple[int, int] | None = None
    """First and count of the users that root's commands behind walls run as; unset: 70000 to 79999."""
    hosts: Annotated[tuple[str, ...], msgspec.Meta(max_length=HOSTS_MAX)] = ()
    """What commands behind walls with a list may reach beside it: `example.org`, `*.example.org`,
    `example.org:8443`, `127.0.0.1:4873`."""

    def __post_init__(self) -> None:
        if self.hosts:
            from custody.sandbox.egress.rules import check_hosts  # most settings name none

            check_hosts(self.hosts)
        if self.uids is not None:
            from custody.sandbox.walls.users import not_users  # hardly anybody says another range

            why = not_users(self.uids)
            if why is not None:
                raise InvalidSetting(f"sandbox.uids cannot be used: {why}.")


class ServeSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[serve]`"""

    listen: str = "127.0.0.1:9100"
    """Host and port; port 0 takes a free one."""
    socket: str | None = None
    """Path of a Unix socket with the same wire; unset: one in the user's runtime folder."""
    connections_max: Annotated[int, msgspec.Meta(ge=1)] = 1_024
    frame_bytes_max: Annotated[int, msgspec.Meta(ge=1_024)] = 16 * 1024**2
    """Of one message."""
    in_flight_max: Annotated[int, msgspec.Meta(ge=1)] = 256
    """Requests of one connection that are worked on at once."""
    requests_per_second: Annotated[float, msgspec.Meta(gt=0)] = 2_000
    """Of one connection, over time; a burst may be as many as one second's at once."""
    drain_seconds: Annotated[float, msgspec.Meta(ge=0)] = 10
    """How long what is under way may take to end when the daemon is told to stop."""
    allowed_hosts: tuple[str, ...] = ()
    """Names a request may call this daemon by, beside those of loopback."""
    allowed_origins: tuple[str, ...] = ()
    """Web pages that may connect: `https://console.example`. Without any, no browser reaches it."""
    tls_cert: str | None = None
    """PEM file of the certificate, with `tls_key` that of its key."""
    tls_key: str | None = None


class DriveCliSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[drive_cli]`"""

    commands: dict[str, Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]] = {}
    """Coding CLIs that the tool `drive_cli` may start, beside the built-in ones: name, and its command with
    `{prompt}` where the prompt goes; one without it reads the prompt from its standard input."""
    output_tail_bytes: Annotated[int, msgspec.Meta(ge=0)] = 16 * 1024
    """Of what the CLI printed, from its end."""


class SkillsSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[skills]`"""

    roots: tuple[str, ...] = ()
    """Folders with skills, the first before the others; unset: those of the project and of the user."""
    require_signed: bool = False
    """Whether only skills signed by a trusted key are offered and installed."""
    files_max: Annotated[int, msgspec.Meta(ge=1)] = 2_000
    """Of one skill, with the two bounds below: what is larger is neither installed nor offered."""
    bytes_max: Annotated[int, msgspec.Meta(ge=1)] = 64 * 1024**2
    depth_max: Annotated[int, msgspec.Meta(ge=1)] = 16
    """Folders within folders."""


class TrainingSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[training]`"""

    command: tuple[str, ...] = ()
    """What the MCP tool `training_trigger` runs, the scope behind it; unset: it says that there is none."""


class SettingsFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `custody.toml`."""

    calls: CallsSection = CallsSection()
    tools: ToolsSection = ToolsSection()
    policy: dict[str, Any] = {}
    """Read as a policy: see `policy_files`."""
    files: FilesSection = FilesSection()
    undo: UndoSection = UndoSection()
    observe: ObserveSection = ObserveSection()
    redaction: RedactionSection = RedactionSection()
    checkpoints: CheckpointsSection = CheckpointsSection()
    retention: RetentionSection = RetentionSection()
    bundles: BundlesSection = BundlesSection()
    boundary: BoundarySection = BoundarySection()
    serve: ServeSection = ServeSection()
    drive_cli: DriveCliSection = DriveCliSection()
    sandbox: SandboxSection = SandboxSection()
    skills: SkillsSection = SkillsSection()
    training: TrainingSection = TrainingSection()
    otel: OtelSection = OtelSection()
    breaker: BreakerThresholds = BreakerThresholds()


class Settings(Struct, frozen=True, kw_only=True):
    """Everything a runtime needs to know, from files, environment and arguments."""

    store: str
    cwd: str
    workspace: str | None
    roots: tuple[str, ...]
    file: SettingsFile
    files_read: tuple[str, ...]
    policy_layers: tuple[Layer, ...] = ()
    """What the policies say that stand for this folder, the highest first."""
    skill_roots: tuple[str, ...] = ()
    """Named folders with skills, the first before the others; none: the project's and the user's."""


def store_path(store: str | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """Where the store is, named or not; nothing else of the settings is read."""
    return _store_path(store or default_store(environ))


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
    skills: Iterable[str] = (),
    environ: Mapping[str, str] = os.environ,
    layers_of: Callable[[str, str], tuple[Layer, ...]] = layers_in_force,
) -> Settings:
    """Join arguments, environment and settings files. `layers_of` reads the policies of a folder and a user.
    Raises InvalidSetting naming file and key, and what `layers_of` raises."""
    folder = os.path.abspath(cwd or os.getcwd())
    workspace = workspace_of(folder)
    user_path = user_settings_path(environ)
    user = _read_settings(user_path)
    layers = layers_of(folder, user_path)
    read = [] if user is None else [user_path]
    read += [layer.source for layer in layers if layer.source not in read]
    file = user or SettingsFile()
    allowed = dict.fromkeys(
        os.path.realpath(os.path.expanduser(root))
        for root in (folder, _temporary_folder(environ), *file.calls.roots, *roots)
    )
    return Settings(
        store=store_path(store, environ),
        cwd=folder,
        workspace=workspace,
        roots=tuple(allowed),
        file=file,
        files_read=tuple(read),
        skill_roots=_skill_roots(skills, environ, file),
        policy_layers=layers,
    )


def _skill_roots(given: Iterable[str], environ: Mapping[str, str], file: SettingsFile) -> tuple[str, ...]:
    """Those given, else those of `CUSTODY_SKILLS` (separated as in PATH), else those of the settings."""
    named = [*given] or [part for part in environ.get("CUSTODY_SKILLS", "").split(os.pathsep) if part]
    return tuple(os.path.abspath(os.path.expanduser(path)) for path in named or file.skills.roots)


def _temporary_folder(environ: Mapping[str, str]) -> str:
    """As the tempfile module chooses, which takes longer to load than this whole file to run."""
    named = (environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    return next(
        (folder for folder in (*named, "/tmp", "/var/tmp") if folder and os.path.isdir(folder)), "/tmp"
    )


def _store_path(store: str) -> str:
    return store if store == MEMORY else os.path.abspath(os.path.expanduser(store))


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
        with open(path, "rb") as file:
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidSetting(f"{path} cannot be read: {error.strerror}.") from error
    import tomllib  # most machines have no settings file

    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # also a number too large, or nesting without end
        raise InvalidSetting(f"{path} cannot be read: {error}.") from error
