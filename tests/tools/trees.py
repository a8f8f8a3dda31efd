"""A folder for file calls, and everything there is to know of the trees in it.

Used by the tests of the tools that change files.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.sandbox.commands import deadlines

import custody
from custody.blocking import BlockingRuntime


def tree(folder: Path) -> dict[bytes, dict[str, Any]]:
    """Everything below `folder`, itself included: what one would see that nothing has changed by."""
    found: dict[bytes, dict[str, Any]] = {}
    inodes: dict[tuple[int, int], list[bytes]] = {}
    pending = [os.fsencode(folder)]
    while pending:
        path = pending.pop()
        status = os.lstat(path)
        name = os.path.relpath(path, os.fsencode(folder))
        found[name] = _entry(path, status)
        if stat.S_ISDIR(status.st_mode):
            pending.extend(os.path.join(path, name) for name in os.listdir(path))
        else:
            inodes.setdefault((status.st_dev, status.st_ino), []).append(name)
    for names in inodes.values():
        for name in names if len(names) > 1 else ():
            found[name]["names"] = sorted(names)
    return found


def _entry(path: bytes, status: os.stat_result) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "mode": oct(status.st_mode),
        "owner": (status.st_uid, status.st_gid),
        "mtime_ns": status.st_mtime_ns,
        "xattrs": {name: os.getxattr(path, name, follow_symlinks=False) for name in _xattrs(path)},
    }
    if stat.S_ISREG(status.st_mode):
        entry["content"] = Path(os.fsdecode(path)).read_bytes()
    elif stat.S_ISLNK(status.st_mode):
        entry["target"] = os.readlink(path)
    return entry


def _xattrs(path: bytes) -> list[str]:
    try:
        return sorted(os.listxattr(path, follow_symlinks=False))
    except OSError:  # a file system that keeps none
        return []


def temporary_files(folder: Path) -> list[Path]:
    """What a write would leave behind that it did not clear away."""
    return [path for path in folder.rglob("*") if path.name.startswith(".custody-")]


def can_set_xattrs(folder: Path) -> bool:
    probe = folder / ".xattr-probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.custody.probe", b"1")
    except OSError:
        return False
    else:
        return True
    finally:
        probe.unlink()


class Place:
    """A working directory, a temporary folder (the two default roots), a folder outside both, and a store."""

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        self.temporary = folder / "temporary"
        self.outside = folder / "outside"
        self.store = folder / "store"
        for made in (self.work, self.temporary, self.outside):
            made.mkdir(exist_ok=True)

    @contextlib.contextmanager
    def open(self, **options: Any) -> Iterator[BlockingRuntime]:
        before = os.environ.get("TMPDIR")
        os.environ["TMPDIR"] = os.fspath(self.temporary)  # read once, when the store is opened
        try:
            opening = custody.open(self.store, cwd=os.fspath(self.work), **options)
            with opening as runtime:
                yield runtime
        finally:
            if before is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before

    def undo_data(self) -> dict[str, bytes]:
        """Every file of the undo data, by its name."""
        files = sorted(path for path in (self.store / "undo").rglob("*") if path.is_file())
        return {path.name: path.read_bytes() for path in files}


def succeeded(call: Any) -> Any:
    """The call's result; the test ends here with what went wrong, where something did."""
    assert call.outcome == "succeeded", (call.outcome, call.reason, call.error)
    return call.result


def message(call: Any) -> str:
    """What a call that failed, or did not run, says of it."""
    assert call.outcome in ("failed", "rejected"), call.outcome
    return call.reason if call.outcome == "rejected" else call.error["message"]


def write(run: Any, path: str, content: str, **more: Any) -> Any:
    """A call of `file_write` that succeeds, in a run or on a runtime."""
    call = run.call("file_write", {"path": path, "content": content, **more})
    succeeded(call)
    return call


def cut_off(make: Callable[[float], Any], ready: Callable[[Any], Any]) -> Any:
    """A call that its deadline cut off once it was `ready`: `make` is given later ones until one was."""
    for seconds in deadlines(0.3):
        if ready(call := make(seconds)):
            return call
