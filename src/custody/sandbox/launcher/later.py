"""The overlays of a launcher that is walled in before anybody knows where its command's changes will go.

Owns the waiting: what the overlays are made of is taken before it is covered, and when the launcher is told
of the folders, each is shown to be the one that was meant. Until then no command has run behind these walls,
and nobody else is there. Used by `confine`, where a plan says so.
"""

from __future__ import annotations  # importing `typing` would cost a sixth of the launcher's start

import marshal
import os
from _socket import socket

from . import kernel, messages
from .mounts import COVER_ATTRIBUTES, Mount, attach
from .overlay import Layers
from .plan import Plan, Wall


class Later:
    """The overlays of one plan that says `later`."""

    def __init__(self, plan: Plan, channel: int) -> None:
        """To be made before anything is covered."""
        self._plan = plan
        self._channel = channel
        self._roots = [root for root, _, _ in plan.overlay]
        self._inside: list[Mount] = []
        self._fresh: set[int] = set()
        if any(map(self.covers, plan.read_only)):  # an overlay would cover what was made read-only
            raise ValueError("read_only")
        store = kernel.open_path(plan.later)  # once: what is attached over it belongs to one root alone
        self._layers = [Layers(root, store, plan.user()) for root in self._roots]
        os.close(store)

    def covers(self, path: str) -> bool:
        """Whether it will be seen through one of them."""
        return any(path == root or path.startswith(f"{root}/") for root in self._roots)

    def put_off(self, mounts: list[Mount], fresh: set[int]) -> list[Mount]:
        """Those of the mounts that can be put in place now; `fresh` is what that makes of it."""
        self._inside = [mount for mount in mounts if self.covers(mount.target)]
        self._fresh = fresh
        return [mount for mount in mounts if not self.covers(mount.target)]

    def put_up(self) -> None:
        """Wait until it is known where the changes go, and put the overlays in place."""
        with Wall("overlay"):
            own = self._plan.user_namespace
            for root, layers, view in zip(self._roots, self._layers, self._told(), strict=True):
                upper, work, *meant = view
                for path in (upper, work):
                    if os.path.normpath(path) != path or path.startswith(("/", "..")):
                        raise ValueError("views")
                mount = layers.overlay(upper, work, COVER_ATTRIBUTES, own=own, meant=tuple(meant))
                self._inside.append(Mount("overlay", root, mount))
        attach(self._inside, self._plan, self._fresh)
        for layers in self._layers:
            layers.close(detach=False)

    def ready(self) -> None:
        """All other walls are up as well."""
        parent = socket(fileno=self._channel)
        try:
            parent.send(messages.READY)
        finally:
            parent.detach()

    def _told(self) -> list[tuple[str, str, int, int, int, int]]:
        parent = socket(fileno=self._channel)
        try:
            message = parent.recv(messages.MESSAGE_BYTES_MAX)
        finally:
            parent.detach()
        if not message:  # nobody needs it any more
            os._exit(0)
        if message[:1] != messages.VIEWS:
            raise ValueError("views")
        return marshal.loads(message[1:])
