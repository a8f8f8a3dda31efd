"""How many examples of a property and how many seeds of a loop one run tries.

A few with the other tests; in the long run many, and every day others: what one run leaves out the next ones
try. A test that fails shows its seeds, and `TEST_DAY` set to the day beside them tries the same ones again.
"""

import os
import sys
from datetime import UTC, datetime

from hypothesis import settings

EXAMPLES_MANY = 100
"""Of each property, in the long run."""


def as_many(examples: int) -> int:
    """For a property that needs another number than the others: in the long run so many, else a part."""
    return max(1, examples * settings().max_examples // EXAMPLES_MANY)


def today() -> int:
    """The day's number. Not for what tests are named by: workers may begin on different days."""
    return int(os.environ.get("TEST_DAY", datetime.now(UTC).toordinal()))


def todays_seeds(first: int, count: int) -> range:
    """So many seeds, from `first` on, none of which was tried yesterday."""
    start = first + today() * count
    sys.stdout.write(f"seeds {start} to {start + count - 1}, TEST_DAY={today()}\n")
    return range(start, start + count)


def todays_part(part: int, of: int) -> int:
    """Of so many parts, 0 and up, one that stands at another place each day."""
    found = (part + today() * 3) % of
    sys.stdout.write(f"part {found} of {of}, TEST_DAY={today()}\n")
    return found
