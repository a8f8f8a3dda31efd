"""What a command finds in its file system: the mounts that hide, keep and restrict places.

Owns how a plan's mounts are made, and that each is put exactly where the plan says: what lies above first,
no link followed, nothing made but on a fresh file system. The order in which that and the other walls are
put up is `confine`'s; how a root is shown as a transaction sees it is `overlay`'s.
"""

from __future__ import annotations  # importing `typing` would cost a sixth of the launcher's start

import errno
import os
import stat

from . import kernel, private
from .plan import Plan, Wall
from .user_namespace import Mappings

COVER_ATTRIBUTES = kernel.MOUNT_NO_SETUID | kernel.MOUNT_NO_DEVICES
_PROC_ATTRIBUTES = COVER_ATTRIBUTES | kernel.MOUNT_NO_EXECUTE
_TERMINALS_ATTRIBUTES = kernel.MOUNT_NO_SETUID | kernel.MOUNT_NO_EXECUTE


class Mount:
    """A mount that is attached nowhere yet."""

    def __init__(self, wall: str, target: str, descriptor: int, *, fresh: bool = False) -> None:
        """`fresh`: nobody else can see it, so what is missing in it may be made there."""
        self.fresh = fresh
        self.wall = wall
        self.target = target
        self.descriptor = descriptor

    def order(self) -> tuple[list[str], bool]:
        """What lies above comes first; in one place what covers comes before what is kept."""
        return self.target.split("/"), self.wall != "cover"


def kept_mounts(plan: Plan, mappings: Mappings) -> list[Mount]:
    found: list[Mount] = []
    for source, target, how in plan.keep:
        folder = kernel.open_path(source)
        mount = kernel.clone_mount(folder)
        if how == "idmap":
            kernel.restrict_mount(mount, COVER_ATTRIBUTES, mappings.of(os.fstat(folder)))
        elif how in ("rw", "ro"):
            kernel.restrict_mount(mount, COVER_ATTRIBUTES | kernel.MOUNT_READ_ONLY * (how == "ro"))
        else:
            raise ValueError(how)
        os.close(folder)
        found.append(Mount("keep", target, mount))
    return found


def overlays(plan: Plan) -> list[Mount]:
    if not plan.overlay:
        return []
    from .overlay import new_overlay  # most launchers have none

    own = plan.user_namespace
    return [
        Mount("overlay", root, new_overlay(root, upper, work, COVER_ATTRIBUTES, plan.user(), own=own))
        for root, upper, work in plan.overlay
    ]


def covering_mounts(plan: Plan, mappings: Mappings) -> list[Mount]:
    found: list[Mount] = []
    mapped = None if plan.uid is None else mappings.of
    mask = os.umask(0)
    for target, options in plan.cover:
        pairs = [(name, value) for name, _, value in (option.partition("=") for option in options.split(","))]
        mount = None
        if target in plan.private:
            mode, wanted = int(dict(pairs)["mode"], 8), _beneath(target, plan)
            mount = private.shared_mount(plan.kept, target, mode, wanted, mapped)
        is_own = mount is None
        if mount is None:
            mount = kernel.new_mount("tmpfs", COVER_ATTRIBUTES, pairs)
        found.append(Mount("cover", target, mount, fresh=is_own))
    os.umask(mask)
    return found


def _beneath(target: str, plan: Plan) -> list[tuple[str, bytes | None]]:
    """What has to be in a covered place: places for mounts, and files with their content; None: a folder."""
    wanted: list[tuple[str, bytes | None]] = [
        *((to, None if os.path.isdir(source) else b"") for source, to, _ in plan.keep),
        *((covered, None) for covered, _ in plan.cover),
        *plan.files,
    ]
    return [(path, content) for path, content in wanted if _covered_by(path, plan) == target]


def _covered_by(path: str, plan: Plan) -> str:
    above = (target for target, _ in plan.cover if path.startswith(f"{target}/"))
    return max(above, key=len, default="")


def attach(mounts: list[Mount], plan: Plan, fresh: set[int]) -> None:
    """Put them in place. `fresh` has the devices of fresh file systems, and gets those of these."""
    mask = os.umask(0o022)
    for mount in sorted(mounts, key=Mount.order):
        with Wall(mount.wall):
            found = os.fstat(mount.descriptor)
            place = _place(mount.target, stat.S_ISDIR(found.st_mode), fresh, plan)
            kernel.attach_mount(mount.descriptor, place)
            os.close(place)
            os.close(mount.descriptor)
            if mount.fresh:
                fresh.add(found.st_dev)
    os.umask(mask)


def write_files(plan: Plan, fresh: set[int]) -> None:
    """What stands in covered folders from the start."""
    mask = os.umask(0o022)
    for path, content in plan.files:
        if os.lstat(_covered_by(path, plan)).st_dev not in fresh:
            continue  # there it is since the run's first command, and that command's to change
        place = _place(path, False, fresh, plan)
        file = os.open(f"/proc/self/fd/{place}", os.O_WRONLY | os.O_CLOEXEC)
        os.write(file, content)  # in memory, and a few lines
        os.close(file)
        os.close(place)
    os.umask(mask)


def _place(target: str, is_folder: bool, fresh: set[int], plan: Plan) -> int:
    """Where a mount goes. What is missing is made, on a fresh file system only."""
    place = os.open("/", os.O_PATH | os.O_CLOEXEC)
    names = target.split("/")[1:]
    for position, name in enumerate(names):
        above = place
        try:
            place = kernel.open_path(name, above)
        except kernel.CallFailed as error:
            if error.errno != errno.ENOENT or os.fstat(above).st_dev not in fresh:
                raise
            if is_folder or position < len(names) - 1:
                os.mkdir(name, 0o755, dir_fd=above)
            else:
                os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644, dir_fd=above))
            owner = (-1 if plan.uid is None else plan.uid, -1 if plan.gid is None else plan.gid)
            os.chown(name, *owner, dir_fd=above, follow_symlinks=False)
            place = kernel.open_path(name, above)
        os.close(above)
    return place


def attach_proc() -> None:
    """A proc shows the pid namespace of who mounts it."""
    _put(kernel.new_mount("proc", _PROC_ATTRIBUTES, []), kernel.open_path("/proc"))


def _put(mount: int, place: int) -> None:
    kernel.attach_mount(mount, place)
    os.close(mount)
    os.close(place)


def hide_terminals() -> None:
    """A command could read what its user types at another one. /dev/ptmx makes new ones in what is mounted
    beside it; a terminal that is handed to a command stays its own."""
    try:
        place = kernel.open_path("/dev/pts")
    except kernel.CallFailed as error:
        if error.errno == errno.ENOENT:  # nor are there any terminals then
            return
        raise
    options = [("ptmxmode", "0666"), ("mode", "0620")]
    _put(kernel.new_mount("devpts", _TERMINALS_ATTRIBUTES, options), place)


def make_read_only(path: str) -> None:
    try:
        place = kernel.open_path(path)
    except kernel.CallFailed as error:
        if error.errno == errno.ENOENT:
            return
        raise
    mount = kernel.clone_mount(place)
    kernel.restrict_mount(mount, kernel.MOUNT_READ_ONLY)
    _put(mount, place)
