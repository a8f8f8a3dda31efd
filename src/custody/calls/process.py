"""Which process this is, without a system call: asked several times for each observed call.

Used by `execute`, and by `observe` and `run`, whose forked children must not end what their parent began.
"""

import os

pid = os.getpid()


def _after_fork_in_child() -> None:
    global pid
    pid = os.getpid()


os.register_at_fork(after_in_child=_after_fork_in_child)
