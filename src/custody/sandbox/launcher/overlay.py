"""A folder as a command sees it whose changes are held back: it shows what lies there, and takes what is
changed into another folder.

Owns how the overlay is made: whose files are shown as whose, and what is asked of the kernel. Where it is
attached, and what becomes of the changes, is decided elsewhere. Used by `mounts` and `later` where a plan has
one, and by the trials of `walls`, so that what is tried is what is done.
"""

from __future__ import annotations  # importing `typing` would cost a sixth of the launcher's start

import errno
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


class Layers:
    """The two folders an overlay is made of: the root that it shows, and one in which there is, or will be, a
    place for what is changed.

    What belongs to the owner of the root is shown as belonging to `user`, and what the user makes belongs on
    disk to that owner; None shows it as it is. What the mount of the root forbids, the overlay forbids as
    well. All of it raises OSError.
    """

    def __init__(self, root: str, beside: int, user: User | None) -> None:
        """`beside` is a descriptor of the other folder."""
        self._opened: list[int] = []
        self._attached: list[int] = []
        try:
            self._lower = self._opening(kernel.open_path(root))
            self._beside = self._opening(os.dup(beside))
            flags = os.fstatvfs(self._lower).f_flag
            self._attributes = kernel.MOUNT_READ_ONLY if flags & os.ST_RDONLY else 0
            self._attributes |= kernel.MOUNT_NO_EXECUTE if flags & os.ST_NOEXEC else 0
            if user is not None:
                self._map(user)
        except BaseException:
            self.close(detach=True)
            raise

    def _map(self, user: User) -> None:
        owners = self._opening(_owners(self._lower, user))
        self._attached.append(self._opening(_shown(self._beside, owners)))
        self._attached.append(self._opening(_shown(self._lower, owners)))
        self._beside, self._lower = self._attached

    def _opening(self, descriptor: int) -> int:
        self._opened.append(descriptor)
        return descriptor

    def overlay(
        self, upper: str, work: str, attributes: int, *, own: bool, meant: tuple[int, ...] | None = None
    ) -> int:
        """A mount, not attached yet, that shows the root and writes to `upper`.

        `upper` and `work` lie in the folder beside the root, and are relative to it; `upper` has the owner
        and mode of the root. `own` is for whoever is inside a user namespace of his own. `meant` has device
        and inode of the root and of `upper`, where others may lie there by now.
        """
        layers = {
            "lowerdir": self._lower,
            "upperdir": self._opening(kernel.open_path(upper, self._beside)),
            "workdir": self._opening(kernel.open_path(work, self._beside)),
        }
        found = [os.fstat(layers[name]) for name in ("lowerdir", "upperdir")]
        if meant not in (None, tuple(number for one in found for number in (one.st_dev, one.st_ino))):
            raise OSError(errno.ESTALE, "layers")
        _check_attributes(layers["workdir"], own=own)
        # By descriptors: a path could mean another place by now, and has to be spelled for the kernel.
        options = [(name, f"/proc/self/fd/{layer}") for name, layer in layers.items()]
        return kernel.new_mount(
            "overlay",
            attributes | self._attributes,
            [*options, *_OPTIONS, *([("userxattr", None)] if own else [])],
        )

    def close(self, *, detach: bool) -> None:
        """Let the folders go. What was attached over them to show them goes too; or it stays, for whom it is
        covered by now: to detach it takes the kernel as long as all the rest."""
        for mount in self._attached if detach else ():
            kernel.detach_mount(mount)
        for descriptor in self._opened:
            os.close(descriptor)


def new_overlay(root: str, upper: str, work: str, attributes: int, user: User | None, *, own: bool) -> int:
    """An overlay at once, as `Layers` makes them; `upper` and `work` lie in one folder. Raises OSError."""
    folder = os.path.dirname(upper)
    if os.path.dirname(work) != folder:  # the kernel takes them from one mount alone
        raise ValueError("work")
    beside = kernel.open_path(folder)
    try:
        layers = Layers(root, beside, user)
        try:
            return layers.overlay(os.path.basename(upper), os.path.basename(work), attributes, own=own)
        finally:
            layers.close(detach=True)
    finally:
        os.close(beside)


def _shown(place: int, owners: int) -> int:
    """A mount that shows what is at `place` with other owners. It lies over `place`: kernels before 6.15 take
    no layer from a mount that is attached nowhere."""
    mount = kernel.clone_mount(place, below=False)  # an overlay shows nothing that is mounted below
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
