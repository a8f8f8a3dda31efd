"""What a person is told of a store that fills: the bound of its settings, the disk it is on.

Owns the words. What is near, `retention` says. Used by `runs` and `doctor`.
"""

from typing import TYPE_CHECKING

from custody.cli.invocation import message

if TYPE_CHECKING:
    from custody.retention.bounds import Standing
    from custody.settings import Settings

FILES_MAX = 5_000  # counted by a command that is asked something else: some 15 ms


def warn_of_room(settings: "Settings") -> None:
    """Say it where it is time to."""
    from custody.retention.bounds import standing

    try:
        stands = standing(settings.store, settings.file.retention.bytes_max, files_max=FILES_MAX)
    except OSError:
        return  # whatever is wrong with the store, the answer itself says
    for sentence in (near_bound(stands), nearly_full(stands)):
        if sentence is not None:
            message(sentence)


def near_bound(stands: "Standing") -> str | None:
    from custody.cli.render import size

    if not stands.near_bound:
        return None
    return (
        f"the store takes {size(stands.used_bytes)} of the {size(stands.bytes_max)} that [retention] allows; "
        "custody purge --retention makes room."
    )


def nearly_full(stands: "Standing") -> str | None:
    from custody.cli.render import size

    if not stands.disk_nearly_full:
        return None
    return f"the store's disk has {size(stands.free_bytes)} of {size(stands.total_bytes)} left."
