"""Locks that are met again by the thread that holds them.

A finalizer that the garbage collector runs, or a signal handler, may come between any two steps of a thread,
and record something: a coroutine that is thrown away ends the call it was in. Waiting for a lock of its own
thread it would wait for ever, so what guards a few numbers is an RLock, and where a second entry would do
harm one asks first. Owns that question. Used by `journal`, `recorder` and `calls`.
"""

from typing import Any

NESTED = "A finalizer or a signal handler interrupts another record: nothing was run."


def held_here(lock: Any) -> bool:
    """Whether this thread holds it: a `threading.RLock`, asked as `threading.Condition` does."""
    return lock._is_owned()
