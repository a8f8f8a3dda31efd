"""Whether code gives up the interpreter lock: beside a busy thread each time costs 5 ms."""

import gc
import sys
import threading
from collections.abc import Callable


def times_given_up(work: Callable[[], object]) -> int:
    """How often another thread got the lock meanwhile, that asks for it all along and with so long a patience
    that it gets it only when it is given up."""
    turns = 0
    stop, running = threading.Event(), threading.Event()

    def ask() -> None:
        nonlocal turns
        while not stop.wait(0.0001):
            turns += 1
            running.set()

    thread = threading.Thread(target=ask)
    patience = sys.getswitchinterval()
    sys.setswitchinterval(60)  # before it first asks: whoever waits already goes on with the patience it had
    gc.disable()  # what other tests left to be collected may be files, and closing one gives it up
    try:
        thread.start()
        assert running.wait(60)
        before = turns
        work()
        return turns - before
    finally:
        gc.enable()
        sys.setswitchinterval(patience)
        stop.set()
        thread.join()
