"""A folder as a command sees it whose changes are held back: it shows what lies there, and takes what is
changed into another folder.

Owns how the overlay is made: whose files are shown as whose, and what is asked of the kernel. Where it is
attached, and what becomes of the changes, is decided elsewhere. Used by `confine` where a plan has one, and
by the trials of `walls`, so that what is tried is what is done.
"""

from __future__ import annotations  # importing `typing` would cost a sixth of the launcher's start

import os

from . import kernel, user_namespace

_OPTIONS: list[tuple[str, str | None]] = [
    ("redirect_dir", "nofollow"),  # a folder that is moved is moved by copying: what is new is all there
    ("metacopy", "off"),  # so is the content of a file of which the mode alone was changed
    ("index", "off"),
    # Nothing is written through to the disk for a command, which may yet be dropped: whoever keeps what it
    # changed does that.
    ("volatile", None),
]


TYPE_CHECKING = False
if TYPE_CHECKING:
    User = tuple[int, int]  # uid and gid


def new_overlay(root: str, upper: str, work: str, attributes: int, user: User | None, *, own: bool) -> int:
    """A mount, not attached yet, that shows `root` and writes to `upper`. Raises OSError.

    `upper` and `work` lie in one folder, and `upper` has the owner and mode of `root`. What belongs to the
    owner of `root` is shown as belonging to `user`, and what the user makes belongs on disk to that owner;
    None shows it as it is. `own` is for whoever is inside a user namespace of his own. What the mount of
    `root` forbids, the overlay forbids as well.
    """
    folder = os.path.dirname(upper)
    if os.path.dirname(work) != folder:  # the kernel takes them from one mount alone
        raise ValueError("work")
    opened: list[int] = []

    def opening(descriptor: int) -> int:
        opened.append(descriptor)
        return descriptor

    attached: list[int] = []
    try:
        lower, beside = opening(kernel.open_path(root)), opening(kernel.open_path(folder))
        flags = os.fstatvfs(lower).f_flag
        attributes |= kernel.MOUNT_READ_ONLY if flags & os.ST_RDONLY else 0
        attributes |= kernel.MOUNT_NO_EXECUTE if flags & os.ST_NOEXEC else 0
        if user is not None:
            owners = opening(_owners(lower, user))
            attached.append(beside := opening(_shown(beside, owners)))
            attached.append(lower := opening(_shown(lower, owners)))
        layers = {
            "lowerdir": lower,
            "upperdir": opening(kernel.open_path(os.path.basename(upper), beside)),
            "workdir": opening(kernel.open_path(os.path.basename(work), beside)),
        }
        _check_attributes(layers["workdir"], own=own)
        # By descriptors: a path could mean another place by now, and has to be spelled for the kernel.
        options = [(name, f"/proc/self/fd/{layer}") for name, layer in layers.items()]
        return kernel.new_mount(
            "overlay", attributes, [*options, *_OPTIONS, *([("userxattr", None)] if own else [])]
        )
    finally:
        for mount in attached:
            kernel.detach_mount(mount)
        for descriptor in opened:
            os.close(descriptor)


def _shown(place: int, owners: int) -> int:
    """A mount that shows what is at `place` with other owners. It lies over `place`: kernels before 6.15 take
    no layer from a mount that is attached nowhere."""
    mount = kernel.clone_mount(place)
    try:
        kernel.restrict_mount(mount, 0, owners)
        kernel.attach_mount(mount, place)
    except OSError:
        os.close(mount)
        raise
    return mount


def _owners(root: int, user: User) -> int:
    """A user namespace in which the user and the owner of the root stand for one another. The kernel makes
    files of its own in a layer, as root, and copies others' with their owner: all have to be in it."""
    owner = os.fstat(root)
    with open("/proc/self/uid_map") as uids, open("/proc/self/gid_map") as gids:
        return user_namespace.mapping(
            user_namespace.swapped(owner.st_uid, user[0], uids.read()),
            user_namespace.swapped(owner.st_gid, user[1], gids.read()),
        )


def _check_attributes(work: int, *, own: bool) -> None:
    """Without extended attributes the kernel would mount it all the same, and a folder that takes the place
    of another would show what was in the other."""
    name = f"{'user' if own else 'trusted'}.overlay.custody"
    os.setxattr(f"/proc/self/fd/{work}", name, b"y")
    os.removexattr(f"/proc/self/fd/{work}", name)
