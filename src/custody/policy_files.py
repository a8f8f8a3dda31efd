"""Where policies stand, and which of them count.

Owns the places (the organisation's, the user's, the project's), the order in which they are read, and the
file that says which project policies a person trusts. Knows nothing of what a rule means: that is `policy`.
Used by `settings`, `compose` and the commands about policies.
"""

import functools
import logging
import os
import stat
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import Struct

from custody.errors import CustodyError, InvalidPolicy
from custody.policy import Layer, Policy

if TYPE_CHECKING:
    from custody.trust import TrustFile

ORGANISATION_FILE = "/etc/custody/policy.toml"
POLICY_FILE = "policy.toml"
SETTINGS_FILE = "custody.toml"
PROJECT_FOLDER = os.path.join(".custody", "policy")
TRUST_FILE = "policy.trust.json"

FILES_MAX = 100
"""In a project's policy folder: each is read before the first call."""

FILE_BYTES_MAX = 1024**2
"""What is larger is refused before it is parsed."""

TRUST_BYTES_MAX = 4 * 1024**2
"""Ten thousand projects; people work in some hundreds."""

_UNUSABLE = (
    "No project's policy may widen anything until it is put right: restore it, or move it away and trust the "
    "projects again with custody policy trust."
)

LOOK_SECONDS = 1.0
"""How soon a changed file is noticed by a program that stays."""

LayerKind = Literal["organisation", "user", "project"]

log = logging.getLogger("custody")


class PolicyFile(Struct, frozen=True, kw_only=True):
    """A place a policy is looked for."""

    kind: LayerKind
    path: str
    section: bool = False
    """Whether it is a `custody.toml`, whose `[policy]` is the policy."""


def policy_files(folder: str, user_settings: str) -> tuple[PolicyFile, ...]:
    """All places for calls made in `folder`, the highest first. A project's are those of the nearest folder
    above that has any."""
    user = os.path.join(os.path.dirname(user_settings), POLICY_FILE)
    return (
        PolicyFile(kind="organisation", path=ORGANISATION_FILE),
        PolicyFile(kind="user", path=user),
        PolicyFile(kind="user", path=user_settings, section=True),
        *_project_files(os.path.realpath(folder), os.path.realpath(user_settings)),
    )


def _project_files(folder: str, user_settings: str) -> tuple[PolicyFile, ...]:
    while True:
        found = list(_in_folder(folder, user_settings))
        if found:
            return tuple(found)
        parent = os.path.dirname(folder)
        if parent == folder:
            return ()
        folder = parent


def _in_folder(folder: str, user_settings: str) -> Iterable[PolicyFile]:
    settings = os.path.join(folder, SETTINGS_FILE)
    if settings != user_settings and os.path.lexists(settings):
        yield PolicyFile(kind="project", path=settings, section=True)
    rules = os.path.join(folder, PROJECT_FOLDER)
    try:
        names = sorted(name for name in os.listdir(rules) if name.endswith(".toml"))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise InvalidPolicy(f"{rules} cannot be read: {error.strerror}.") from error
    if len(names) > FILES_MAX:
        raise InvalidPolicy(f"{rules} has {len(names)} policies; {FILES_MAX} at most are read.")
    for name in names:
        yield PolicyFile(kind="project", path=os.path.join(rules, name))


def layers_in_force(folder: str, user_settings: str) -> tuple[Layer, ...]:
    """What holds for calls made in `folder`; nothing where no file says anything, and the built-in rules
    alone hold. Raises InvalidPolicy, TrustUnusable."""
    trusted = functools.cache(lambda: read_trusted(trust_path(user_settings)))
    files = [file for file in policy_files(folder, user_settings) if not _speaks_of_other_things(file)]
    layers = read_layers(files, lambda path, digest: trusted().has(path, digest))
    said = [layer for layer in layers if not says_nothing(layer)]
    if not said:
        return ()
    from custody.policy.builtin import with_built_in

    return with_built_in(said)


def read_layers(
    files: Sequence[PolicyFile], trusted: Callable[[str, str], bool] = lambda _path, _digest: False
) -> tuple[Layer, ...]:
    """The policies that are there, in the order they stand above each other. `trusted` says of a project's
    path and digest whether it may widen what its user's says.

    Raises InvalidPolicy, which names file, line and column, and what `trusted` raises.
    """
    found = [(file, data) for file in files if (data := read_policy(file.path)) is not None]
    if not found:
        return ()
    # Loaded here: most folders have no policy, and every command looks.
    from custody.bridges.policies import OTHER_KINDS
    from custody.policy.document import read_document
    from custody.policy.layers import join

    layers: list[Layer] = []
    for file, data in found:
        layer = read_document(data, file.path, file.kind, section=file.section, other_kinds=OTHER_KINDS)
        if file.kind == "project":
            layer = msgspec.structs.replace(layer, trusted=trusted(file.path, layer.digest))
        layers.append(layer)
    return join(layers)


def _speaks_of_other_things(file: PolicyFile) -> bool:
    """A user's settings without a word of policy, as nearly all are, need not be read for it."""
    data = read_policy(file.path) if file.kind == "user" and file.section else None
    return data is not None and b"policy" not in data


def says_nothing(layer: Layer) -> bool:
    """A `custody.toml` without a policy, or a file of nothing but comments."""
    return not (
        layer.rules
        or layer.default
        or layer.budgets
        or layer.loops
        or layer.approvals
        or layer.walls
        or not layer.may_pause
    )


def read_policy(path: str) -> bytes | None:
    """The file's bytes; None where there is none. Raises InvalidPolicy."""
    try:
        # Without waiting: whoever put a pipe there may never write to it.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InvalidPolicy(f"{path} is not a file.")
            data = file.read(FILE_BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):  # somebody meant a policy to be here
            raise InvalidPolicy(f"{path} is a link to nothing.", hint="Mend it, or remove it.") from None
        return None
    except OSError as error:
        raise InvalidPolicy(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > FILE_BYTES_MAX:
        raise InvalidPolicy(f"{path} is larger than {FILE_BYTES_MAX} bytes, the most a policy may have.")
    return data


# -- the policy in force ------------------------------------------------------------------------------


class StandingPolicy:
    """The policy in force, read again when one of its files changes. Any thread asks for it.

    A file that cannot be used leaves the policy as it was, and is told once.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        folder: str,
        user_settings: str,
        tell: Callable[[str, dict[str, Any]], object],
    ) -> None:
        """For calls made in `folder`, whose layers were read before; `tell` records an event."""
        self._policy = Policy(layers)
        self._folder = folder
        self._user_settings = user_settings
        self._tell = tell
        self._seen: tuple[Any, ...] = ()
        """Nothing yet: what changed since the layers were read is found by the first look."""
        self._unusable: str | None = None
        """What was last told of a file that cannot be used."""
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __call__(self) -> Policy:
        return self._policy

    def start(self) -> None:
        """Say what is in force, and look after it from now on."""
        if self._policy.layers:
            self._tell("policy.in_force", _said(self._policy))
        self._thread = threading.Thread(target=self._watch, name="custody-policy", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Read again what has changed. Raises nothing."""
        try:
            stamps = self._stamps()
            if stamps == self._seen:
                return
            self._seen = stamps
            policy = Policy(layers_in_force(self._folder, self._user_settings))
        except Exception as error:  # whatever it is: who looks goes on looking
            if not isinstance(error, InvalidPolicy) or isinstance(error.__cause__, OSError):
                self._seen = ()  # it may pass by itself
            unusable = str(error) if isinstance(error, CustodyError) else type(error).__name__
            if unusable != self._unusable:
                self._unusable = unusable
                log.warning("The policy stays as it was: %s", unusable)
                self._record("policy.unusable", {"error": unusable, "policy": self._policy.digest})
            return
        self._unusable = None
        if policy.digest != self._policy.digest:
            self._policy = policy
            self._record("policy.in_force", _said(policy))

    def _stamps(self) -> tuple[Any, ...]:
        """What changes when a file does, the trust file included: its inode, its times and its size."""
        paths = [file.path for file in policy_files(self._folder, self._user_settings)]
        found: list[Any] = []
        for path in (*paths, trust_path(self._user_settings)):
            try:
                status = os.stat(path)
            except OSError:
                found.append((path, os.path.islink(path)))
            else:
                found.append((path, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size))
        return tuple(found)

    def _record(self, name: str, data: dict[str, Any]) -> None:
        try:
            self._tell(name, data)
        except CustodyError as error:
            log.warning("That the policy changed is not on the record: %s", error)


def _said(policy: Policy) -> dict[str, Any]:
    """What the record says of a policy: where it stands, and digests to know it again by."""
    layers = [
        {"kind": layer.kind, "source": layer.source, "digest": layer.digest, "mode": layer.mode}
        for layer in policy.layers
    ]
    return {"policy": policy.digest, "layers": layers}


# -- which project policies may widen -----------------------------------------------------------------


class TrustedPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One that a person has looked at."""

    path: str
    digest: str


class TrustedPolicies(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of the trust file."""

    schema_version: Literal[1] = 1
    trusted: tuple[TrustedPolicy, ...] = ()

    def has(self, path: str, digest: str) -> bool:
        """Whether this very content at this place is trusted."""
        return TrustedPolicy(path=os.path.realpath(path), digest=digest) in self.trusted

    def with_policy(self, path: str, digest: str) -> "TrustedPolicies":
        """The same, this content in place of what was trusted there."""
        one = TrustedPolicy(path=os.path.realpath(path), digest=digest)
        return TrustedPolicies(trusted=(*self.without(path).trusted, one))

    def without(self, path: str) -> "TrustedPolicies":
        """The same, nothing trusted at this place."""
        place = os.path.realpath(path)
        return TrustedPolicies(trusted=tuple(one for one in self.trusted if one.path != place))


def trust_path(user_settings: str) -> str:
    """Beside the user's settings, where no project reaches it."""
    return os.path.join(os.path.dirname(user_settings), TRUST_FILE)


def read_trusted(path: str) -> TrustedPolicies:
    """What a person trusts; nothing where there is no file. Raises TrustUnusable."""
    file = _trust_file(path)
    data = file.read()
    if data is None:
        return TrustedPolicies()
    try:
        return msgspec.json.decode(data, type=TrustedPolicies)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise file.unusable(f"{path} is not a file of trusted policies: {error}.") from error


def change_trusted(path: str, change: Callable[[TrustedPolicies], TrustedPolicies]) -> TrustedPolicies:
    """Replace the trust file as a whole; gives what stands there now. `change` puts what it does on the
    record before it returns. Raises TrustUnusable, and what `change` raises."""
    changed: list[TrustedPolicies] = []

    def make() -> bytes | None:
        before = read_trusted(path)
        changed.append(change(before))
        if changed[0] == before:
            return None
        return msgspec.json.format(msgspec.json.encode(changed[0]), indent=2) + b"\n"

    _trust_file(path).change(make)
    return changed[0]


def _trust_file(path: str) -> "TrustFile":
    from custody.trust import TrustFile

    return TrustFile(path, bytes_max=TRUST_BYTES_MAX, hint=_UNUSABLE)
