"""Locks that are met again by the thread that holds them.

A finalizer that the garbage collector runs, or a signal handler, may come between any two steps of a thread,
and record something: a coroutine that is thrown away ends the call it was in. Waiting for a lock of its own
thread it would wait for ever, so what guards a few numbers is an RLock, and where a second entry would do
harm one asks first. Owns that question. Used by `journal` and `calls`.
"""

import threading
from typing import Any, cast


def held_here(lock: "threading.RLock") -> bool:
    """Whether this thread holds it."""
    return cast("Any", lock)._is_owned()  # as threading.Condition asks it
