"""Boundary notices: another program on this machine is told when a call starts and when it has ended.

Such a program (a profiler, a supervisor) learns which stretch of time belongs to which call. The notices are
a courtesy and the journal the record: a notice that nobody takes is counted, and no call waits for one.
`notices` tells, `listener` says whom, `delivery` sends, `received` is the other side. Used by `compose`.
"""

from custody.bridges.boundary.listener import Listener, listener_of
from custody.bridges.boundary.notices import BoundaryNotices
from custody.bridges.boundary.received import Answer, Boundaries

__all__ = ["Answer", "Boundaries", "BoundaryNotices", "Listener", "listener_of"]
