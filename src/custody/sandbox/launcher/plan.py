"""What a launcher is told of its walls, as it arrives, and how it says which of them it cannot put up.

Owns that a plan is one this launcher understands whole. What a plan says is decided by `walls`, and it is
carried out by `confine`.
"""

from __future__ import annotations  # importing `typing` would cost a sixth of the launcher's start

import errno
import marshal
import os

from . import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

VERSION = 4

_NAMESPACES_LEAST = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWIPC
_NAMESPACES_MOST = _NAMESPACES_LEAST | kernel.CLONE_NEWNET | kernel.CLONE_NEWUTS
_OVERFLOW_ID = 65534  # the owner of all that cannot be mapped, and of what other programs left to "nobody"


class Plan:
    """What is to be done, as it arrives."""

    def __init__(self, body: bytes) -> None:
        fields = marshal.loads(body)
        self.user_namespace: bool = fields["user_namespace"]
        self.namespaces: int = fields["namespaces"]
        self.loopback: bool = fields["loopback"]
        self.listener: bool = fields["listener"]
        self.overlay: list[tuple[str, str, str]] = [
            (root, upper, work) for root, upper, work in fields["overlay"]
        ]
        self.later: str = fields["later"]
        self.keep: list[tuple[str, str, str]] = [(source, to, how) for source, to, how in fields["keep"]]
        self.cover: list[tuple[str, str]] = [(target, options) for target, options in fields["cover"]]
        self.private: list[str] = fields["private"]
        self.kept: str = fields["kept"]
        self.files: list[tuple[str, bytes]] = [(path, content) for path, content in fields["files"]]
        self.read_only: list[str] = fields["read_only"]
        self.landlock: dict[str, int] = fields["landlock"]
        self.rules: list[tuple[str, int]] = fields["landlock"]["rules"]
        self.ports: list[tuple[int, int]] = fields["landlock"]["ports"]
        self.uid: int | None = fields["uid"]
        self.gid: int | None = fields["gid"]
        self.filter: bytes = fields["seccomp"]
        self.limits: list[tuple[int, int]] = fields["limits"]
        self.hostname: str | None = fields["hostname"]
        self._check(fields["version"], fields["proc"])

    def user(self) -> tuple[int, int] | None:
        """Uid and gid of its commands; None: as we are."""
        return None if self.uid is None or self.gid is None else (self.uid, self.gid)

    def _check(self, version: int, proc: bool) -> None:
        """That it is a plan this launcher understands whole, and no less than it stands for."""
        missing = _NAMESPACES_LEAST & ~self.namespaces
        unknown = self.namespaces & ~_NAMESPACES_MOST
        # Without a proc of its own pid 1 would take the machine's processes for those it started.
        if version != VERSION or missing or unknown or not proc:
            raise ValueError("namespaces")
        if _OVERFLOW_ID in (self.uid, self.gid):
            raise ValueError("uid")
        if self.hostname is not None and not self.namespaces & kernel.CLONE_NEWUTS:
            raise ValueError("hostname")  # it would be the machine's
        if self.loopback and not self.namespaces & kernel.CLONE_NEWNET:
            raise ValueError("loopback")
        if self.listener and not self.loopback:
            raise ValueError("listener")
        if self.later and not self.overlay:
            raise ValueError("later")
        targets = [target for _, target, _ in self.keep] + [root for root, _, _ in self.overlay]
        targets += [self.later] if self.later else []
        for target in (*targets, *(target for target, _ in self.cover)):
            if not target.startswith("/") or target == "/" or os.path.normpath(target) != target:
                raise ValueError("target")


class Refused(Exception):
    """A wall that cannot be put up."""

    def __init__(self, wall: str, error: Exception) -> None:
        number = (error.errno if isinstance(error, OSError) else None) or errno.EINVAL
        call = f" in {error.call}" if isinstance(error, kernel.CallFailed) else ""
        self.line = f"{wall}: {number} {os.strerror(number)}{call}"


class Wall:
    """What is done within it belongs to one wall: any error there is a `Refused` that names it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, Refused):
            raise Refused(self._name, error) from error
