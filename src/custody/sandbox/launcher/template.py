"""A launcher before it is one: a process in which everything is loaded, and of which launchers are forked.

To start Python and to load what a launcher is made of takes tens of milliseconds, a fork less than one. A
launcher that is forked here is in nothing different from one that was started: it is a child of the process
that started the template (CLONE_PARENT), which takes it up when it ends, and it has a session of its own.

Owns the fork, and what a fork must not share with another: its socket and its errors come with the request.
The template itself is behind no walls and keeps what its user may do, so it holds nothing of anybody's, runs
nothing, and listens to one socket only, whose other end is its parent's. Every fork closes that as soon as it
has told its number, so when it reads as ended no fork is to come. The template ends when the socket does or
the parent is gone. Started by `sandbox.template`.
"""

from __future__ import annotations  # importing `typing` would cost a sixth of the launcher's start

import gc
import os
import select
from _socket import CMSG_SPACE, MSG_CMSG_CLOEXEC, socket

# All that a launcher will need, walls or not: a fork loads nothing any more.
from . import confine, kernel, later, messages, overlay, service

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_LOADED = confine, later, overlay  # `service` and `confine` find them there


def main(descriptor: int, parent: int) -> None:
    """Fork launchers until nobody asks any more."""
    os.set_inheritable(descriptor, False)
    control = socket(fileno=descriptor)
    kernel.call_this_process("template")
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # else any process of this user could change what it does
    bond = os.pidfd_open(parent)
    if os.getppid() != parent:  # it ended before the pidfd was opened, which may be of another then
        return
    gc.freeze()  # a collection would write to pages that all forks share
    poll = select.poll()
    poll.register(control.fileno(), select.POLLIN)
    poll.register(bond, select.POLLIN)
    control.send(messages.FORKED.pack(0))  # ready
    while all(ready == descriptor for ready, _ in poll.poll()) and _serve(control, bond, parent):
        pass


def _serve(control: socket, bond: int, parent: int) -> bool:
    """One request; False when there will be no more."""
    try:
        message, ancillary, _, _ = control.recvmsg(
            messages.MESSAGE_BYTES_MAX, CMSG_SPACE(messages.DESCRIPTORS_MAX * 4), MSG_CMSG_CLOEXEC
        )
    except OSError:
        return False
    if not message:
        return False
    descriptors = service.received(ancillary)
    no_new_privs, walls = messages.FORK.unpack_from(message)
    pid, cgroup = _fork(os.fsdecode(message[messages.FORK.size :]))
    if pid == 0:
        os.close(bond)
        _become(
            control, descriptors, parent, no_new_privs=bool(no_new_privs), cgroup=cgroup, walls=bool(walls)
        )
    for descriptor in descriptors:
        os.close(descriptor)
    try:
        if pid < 0:
            control.send(messages.FORKED.pack(pid))
    except OSError:
        return False
    return True


def _fork(cgroup: str) -> tuple[int, str]:
    """The pid of a sibling, 0 in it, or the negative errno; and the cgroup it was born into, if it was. To
    move there later would take the kernel ten times as long as the fork."""
    try:
        if cgroup:
            try:
                folder = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    return kernel.clone_sibling(folder), cgroup
                finally:
                    os.close(folder)
            except OSError:  # not ours to be in: sweeps do without
                pass
        return kernel.clone_sibling(), ""
    except OSError as error:
        return -(error.errno or 1), ""


def _become(
    control: socket, descriptors: list[int], parent: int, *, no_new_privs: bool, cgroup: str, walls: bool
) -> NoReturn:
    try:
        kernel.call_this_process("launcher")
        os.setsid()  # not before it has its name: the template is what has that name and leads a session
        # Its number comes from itself: were it the template's to tell, one that is killed before it does
        # would leave a child that nobody knows of.
        control.send(messages.FORKED.pack(os.getpid()))
        control.close()
        channel, errors, *plan = descriptors
        os.dup2(errors, 2)
        os.close(errors)
        # The maps of a user namespace are written through files that belong to root otherwise.
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
        service.begin(
            channel, parent, no_new_privs=no_new_privs, cgroup=cgroup, plan=plan[0] if walls else -1
        )
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(1)
