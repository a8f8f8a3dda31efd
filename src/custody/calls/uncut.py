"""Waiting for what cannot be cut short, by somebody who can be.

Owns nothing. Used by what records, locks and ends things on behalf of tasks that others may cancel.
"""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


async def to_the_end(work: Awaitable[T]) -> T:
    """Wait for work that cannot be cut short; whoever is cancelled meanwhile hears when it is done."""
    task: asyncio.Future[T] = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await until_done(task)
        raise


async def until_done(task: "asyncio.Future[Any]") -> None:
    """Wait for its end, however it comes and whoever is cancelled meanwhile."""
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # so that nobody is told that nobody looked
