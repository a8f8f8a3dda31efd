"""The start of a command.

Owns how a name becomes a program, the spawn over vfork, and the slower one over fork for what must be done in
the child before it is the command. Used by the launcher's service.
"""

from __future__ import annotations  # importing `typing` would cost a sixth of the launcher's start

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import NoReturn

    from .messages import Request
else:
    import _signal as signal  # `signal` itself brings `enum`: a third of the launcher's start


class Refused(Exception):
    """The command could not be started."""

    def __init__(self, stage: str, errno: int) -> None:
        self.stage = stage
        self.errno = errno


def find(name: bytes, path: bytes) -> bytes:
    """The file a shell would run for this name."""
    if b"/" in name:
        return name
    refusal = Refused("find", 2)
    for folder in path.split(b":"):
        candidate = os.path.join(folder or b".", name)
        if os.access(candidate, os.X_OK) and not os.path.isdir(candidate):
            return candidate
        if os.path.isfile(candidate):
            refusal = Refused("find", 13)
    raise refusal


def start(request: Request, signals_default: list[int]) -> int:
    """The pid of the command, which is in execve already; raises Refused."""
    try:
        os.chdir(request.cwd)
    except OSError as error:
        raise Refused("cwd", error.errno or 0) from error
    try:
        program = find(request.argv[0], request.environment.get(b"PATH", os.defpath.encode()))
        if request.limits or request.terminal is not None or request.group is not None:
            return _start_by_fork(program, request, signals_default)
        try:
            return os.posix_spawn(  # clone(CLONE_VM | CLONE_VFORK): no page table is copied
                program,
                request.argv,
                request.environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, here, there) for here, there in request.standard()],
                setsid=True,
                setsigmask=[],
                setsigdef=signals_default,
            )
        except OSError as error:
            missing = error.errno == 2 and not os.path.exists(program)  # else its interpreter is
            raise Refused("find" if missing else "exec", error.errno or 0) from error
    finally:
        os.chdir("/")  # so that the folder can be removed or unmounted


def _start_by_fork(program: bytes, request: Request, signals_default: list[int]) -> int:
    """The slow way (a fork instead of a vfork), for what has to be done in the child before it is one."""
    reading, writing = os.pipe()
    try:
        pid = os.fork()
        if pid == 0:
            _become(program, request, signals_default, writing)
    except OSError as error:
        os.close(reading)
        raise Refused("fork", error.errno or 0) from error
    finally:
        os.close(writing)
    failure = os.read(reading, 64)  # empty when execve closed the other end
    os.close(reading)
    if failure:
        os.waitpid(pid, 0)
        stage, errno = failure.decode().split()
        raise Refused(stage, int(errno))
    return pid


def _become(program: bytes, request: Request, signals_default: list[int], failure: int) -> NoReturn:
    """In the forked child: become the command, or write why not."""
    import resource  # not at the top: hardly any command has limits of its own

    stage = "group"
    try:
        signal.set_wakeup_fd(-1)
        if request.group is not None:  # before it is anything that could have children outside
            os.write(request.group, b"0")
        stage = "terminal"
        if request.terminal is not None:
            os.login_tty(os.dup(request.terminal))  # leads a session of which it is the controlling terminal
        else:
            os.setsid()
            for here, there in request.standard():
                os.dup2(here, there)
        stage = "limits"
        for number, value in request.limits:
            _, most = resource.getrlimit(number)
            hard = value
            if number == resource.RLIMIT_CPU and value != resource.RLIM_INFINITY:
                hard = value + 1  # the soft one ends it with a signal that says why, the hard one by SIGKILL
            if most != resource.RLIM_INFINITY:
                value = most if value == resource.RLIM_INFINITY else min(value, most)
                hard = most if hard == resource.RLIM_INFINITY else min(hard, most)
            resource.setrlimit(number, (value, hard))
        stage = "exec"
        for number in signals_default:
            signal.signal(number, signal.SIG_DFL)
        os.execve(program, request.argv, request.environment)
    except OSError as error:
        os.write(failure, f"{stage} {error.errno or 0}".encode())
    except ValueError:  # setrlimit's word for EINVAL
        os.write(failure, f"{stage} 22".encode())
    finally:
        os._exit(127)
