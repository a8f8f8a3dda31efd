"""Commands that see a root through a real overlay, and ordinary users: in processes of their own, that go."""

import ctypes
import os
import pickle
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from custody.sandbox.walls.model import View

_T = TypeVar("_T")

USER = 70_001
"""An ordinary user nobody else is."""

_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000
_PRIVATE, _BIND, _RECURSIVE = 1 << 18, 4096, 16384
_SET_DUMPABLE = 4
_libc = ctypes.CDLL(None, use_errno=True)


def in_child(work: Callable[[], _T]) -> _T:
    """What `work` returns, done in a forked process: what it does to itself is gone with it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            try:
                answer: tuple[bool, Any] = True, work()
            except BaseException:
                answer = False, traceback.format_exc()
            with open(writing, "wb") as file:
                pickle.dump(answer, file)
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        data = file.read()
    os.waitpid(pid, 0)
    succeeded, answer = pickle.loads(data)
    assert succeeded, answer
    return answer


def as_user(work: Callable[[], _T], *places: Path) -> _T:
    """`work` done by an ordinary user, who owns these folders and all in them; by us where we are one."""
    if os.geteuid() != 0:
        return work()
    for place in places:
        for path in (place, *place.rglob("*")):
            os.chown(path, USER, USER, follow_symlinks=False)

    def drop() -> _T:
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)
        _libc.prctl(_SET_DUMPABLE, 1, 0, 0, 0)  # else /proc/self is root's, and no namespace can be made
        return work()

    return in_child(drop)


def seeing(views: tuple[View, ...], work: Callable[[], _T]) -> _T:
    """What a command returns that sees these in place of the roots."""

    def see() -> _T:
        _enter_namespace()
        for view in views:
            if view.kind == "copy":
                _mount(view.upper, view.root, None, _BIND)
            else:
                _mount("overlay", view.root, "overlay", 0, _options(view))
        return work()

    return in_child(see)


@cache
def why_no_overlays(folder: str) -> str | None:
    """Why a command of this user can see none here; None where it can."""
    places = [Path(folder) / "trial" / name for name in ("root", "upper", "work")]
    for place in places:
        place.mkdir(parents=True)
    root, upper, work = map(os.fspath, places)
    try:
        seeing((View(root, "overlay", upper, work),), lambda: Path(root, "x").write_bytes(b"x"))
    except AssertionError as error:
        return str(error).strip().splitlines()[-1]
    return None


def _enter_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    _done(_libc.unshare(_NEW_MOUNTS | (_NEW_USER if uid != 0 else 0)), "unshare")
    if uid != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    _mount("none", "/", None, _PRIVATE | _RECURSIVE)


def _options(view: View) -> str:
    own = ",userxattr" if os.geteuid() != 0 else ""
    layers = f"lowerdir={view.root},upperdir={view.upper},workdir={view.work}"
    return f"{layers},redirect_dir=nofollow,metacopy=off,index=off,volatile{own}"


def _mount(source: str, place: str, kind: str | None, flags: int, options: str = "") -> None:
    kind_bytes = None if kind is None else kind.encode()
    _done(
        _libc.mount(source.encode(), place.encode(), kind_bytes, ctypes.c_ulong(flags), options.encode()),
        f"mount of {kind or source}",
    )


def _done(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
