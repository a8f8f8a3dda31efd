"""How whoever made a call hears of its end.

Used by `runtime`.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from custody.records import Call


async def tell(work: Coroutine[Any, Any, Call], told: asyncio.Future[Call]) -> Call | None:
    """Do the work and tell its end as its last act: whoever waits for the task itself hears a turn later.

    Of a caller that has been cancelled `told` is over; then the end is the task's own.
    """
    try:
        call = await work
    except asyncio.CancelledError:
        told.cancel()
        raise
    except BaseException as error:
        if told.done():
            raise
        told.set_exception(error)
        return None
    if not told.done():
        told.set_result(call)
    return call
