"""What is kept how long: payloads purged, segments dropped, runs held.

Owns which records are concerned, the statement that goes on the record first, and the steps that follow it,
each of which a crash may interrupt and the next opening of the store finishes. Leaves stay: what was done,
when and with what outcome can be proved for ever, what was said cannot be read any more. Knows nothing of
how bytes are zeroed (`journal.purging`), of scanners or of undo data, which are handed in. Used by the
command line and by whoever opens a store.
"""

from custody.retention.bounds import Bounds
from custody.retention.drop import DropPlan, drop_segments, plan_drop
from custody.retention.finish import finish_purges
from custody.retention.holds import held_runs, hold_run, release_run
from custody.retention.means import Means, forgetting
from custody.retention.plan import PurgePlan, plan_purge
from custody.retention.purge import Purged, carry_out
from custody.retention.selection import Selection

__all__ = [
    "Bounds",
    "DropPlan",
    "Means",
    "PurgePlan",
    "Purged",
    "Selection",
    "carry_out",
    "drop_segments",
    "finish_purges",
    "forgetting",
    "held_runs",
    "hold_run",
    "plan_drop",
    "plan_purge",
    "release_run",
]
