"""A store opened to have something taken out of it.

Owns what `custody purge` and `custody hold` need of the store, joined as `retention` wants it. Used by those
two commands alone.
"""

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from custody.errors import CheckpointRefused, CustodyError, StoreReadOnly

if TYPE_CHECKING:
    from custody.recorder import Recorder
    from custody.retention import Means
    from custody.settings import Settings
    from custody.stores import View

ANY_BYTES = 1 << 62
SEAL_SECONDS = 10.0  # another process signs for milliseconds; what takes longer hangs


@contextmanager
def opened_to_purge(settings: "Settings") -> Generator[tuple["View", "Means"]]:
    """The store, and what a purge of it works with."""
    from custody.cli.view import opened
    from custody.retention import Means, forgetting
    from custody.stores import held_store

    with opened(settings) as view:
        recorder: list[Recorder] = []

        def make_recorder() -> "Recorder":
            if not recorder:
                recorder.append(_recorder(settings, view))
            return recorder[0]

        means = Means(
            journal=view.journal,
            index=view.index,
            make_recorder=make_recorder,
            forget_undo=forgetting(lambda: view.undo, lambda: held_store(settings)),
            seal=lambda: _seal(settings, view, make_recorder),
        )
        try:
            yield view, means
        except PermissionError as error:
            raise StoreReadOnly(f"The store {settings.store} cannot be written: {error.strerror}.") from error
        except OSError as error:
            raise CustodyError(
                f"The purge could not be carried through: {error.strerror or error}.",
                hint="What had begun is finished by the next command that opens the store.",
            ) from error


def finder(settings: "Settings") -> Any:
    """Which of today's rules find a secret in a payload. A purge has all the time it takes."""
    from custody.redaction import Redactor, secrets_of
    from custody.stores import allowed_in, open_disk, redaction_key, scan_rules

    disk = open_disk(settings.store, create=False)
    redactor = Redactor(
        redaction_key(disk),
        secrets_of(os.environ),
        rules=scan_rules(settings),
        allowed=allowed_in(disk),
        bytes_max=ANY_BYTES,
        ms_max=float("inf"),
    )

    def find(said: Mapping[str, Any]) -> dict[str, int]:
        found: dict[str, int] = {}
        for hit in redactor.keep(said, "").hits:
            found[hit.rule] = found.get(hit.rule, 0) + hit.count
        return found

    return find


def _recorder(settings: "Settings", view: "View") -> "Recorder":
    from custody.stores import make_recorder, open_disk

    return make_recorder(open_disk(settings.store, create=False), view.journal, os.environ, settings)


def _seal(settings: "Settings", view: "View", make_recorder: Any) -> dict[int, int]:
    """Sign everything that is durable; up to where each shard is signed. Raises CheckpointRefused."""
    from custody.checkpoints import Sealer
    from custody.stores import open_disk

    def record(name: str, data: dict[str, Any]) -> None:
        make_recorder().event(name, data, leaf_data=True)

    sealer = Sealer(open_disk(settings.store, create=False), view.journal, record)
    note = sealer.seal(all_shards=True, wait_seconds=SEAL_SECONDS)
    if note is None:
        raise CheckpointRefused("Another process has been signing all this time.", hint="Try again.")
    for shard, wrong in sealer.refused.items():
        raise CheckpointRefused(f"Shard {shard} cannot be signed, so nothing is dropped: {wrong}.")
    return {shard: head.size for shard, head in note.checkpoint.heads.items()}
