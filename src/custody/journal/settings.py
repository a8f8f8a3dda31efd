"""The journal's sizes and intervals.

Owns every bound a test or an operator may want to move, with its reason. Used by the whole journal.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class JournalSettings:
    """Defaults are for a store on a local disk; small segments make tests roll over after a few records."""

    first_segment_bytes: int = 256 * 1024
    """An empty store stays far below 1 MiB."""
    segment_bytes_max: int = 64 * 1024 * 1024
    """A zero-filled file of this size takes a helper about a second, a full scan less than one."""
    commit_leaves: int = 64
    """A commit frame at least every so many records: 2 bytes a record."""
    flush_seconds: float = 0.005
    """What was only written is durable after about this long: what a power loss can take."""
    unsynced_bytes_max: int = 8 * 1024 * 1024
    """Kept in memory until synced, so that a failed sync loses none; beyond it callers wait for a sync."""
    refusal_reserve_bytes: int = 16 * 1024
    """Room only refusals, terminal records and purges may use: a full disk can still be told of."""
    spares_max: int = 2
    """One spare is used up by a burst before the next is filled."""
    fill_pause_seconds: float = 0.00025
    """Between runs of zero-filling: the disk and the GIL belong to the records."""
    boot_id: str | None = None
    """None: the kernel's. Another than a shared counter's means that a power loss may have rolled it back."""
