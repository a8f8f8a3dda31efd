"""Row 14: a proof of one record out of a million: made, checked; and sealing ten thousand new records.

Made means the whole of it as `custody prove` does it once the hashes are there: the path read from the
store's files and put into a document. Checked means from the leaf up to the signed root. What is paid once
is beside it: catching up with the hashes of a million records, and checking a signature. The peer is
pymerkle, in memory.
"""

import functools
import random
import time
from collections.abc import Callable

import pymerkle

from custody.checkpoints import Prover, Sealer, newest_note, read_verifiers
from custody.journal import RealDisk, Stored
from custody.journal.checkpoint import Head
from custody.journal.proofs import verify_inclusion
from custody.journal.tree import leaf_hash
from harness import Measurement, Timing, arguments, report, scratch, settle
from recording import SMALL_ARGUMENTS, SMALL_RESULT, Store

MADE_US_MAX = 1_000.0
CHECKED_US_MAX = 50.0
SEALED_MS_MAX = 50.0
SEALED_RECORDS = 10_000
SEALINGS = 20
PROOFS = 2_000
PEER_PROOFS = 200


def timed(work: Callable[[], object]) -> int:
    start = time.perf_counter_ns()
    work()
    return time.perf_counter_ns() - start


def check(stored: Stored, path: list[bytes], head: Head) -> None:
    assert verify_inclusion(leaf_hash(stored.leaf), stored.sequence - 1, head.size, path, head.root)


def sealing(store: Store, sealer: Sealer, count: int, times: int) -> Timing:
    """What the sealer needs for that many new records, off every caller's path."""
    taken: list[int] = []
    for _ in range(times):
        for _ in range(count // 2):
            store.record_call(SMALL_ARGUMENTS, SMALL_RESULT)
        store.journal.sync()
        taken.append(timed(sealer.seal))
    return Timing.of(taken)


def peer(count: int) -> Timing:
    """pymerkle, making the same kind of proof out of as many leaves."""
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for number in range(count):
        tree.append_entry(b"%064d" % number)
    chance = random.Random(1)
    return Timing.of(
        [timed(lambda: tree.prove_inclusion(chance.randrange(count) + 1)) for _ in range(PEER_PROOFS)]
    )


def main() -> None:
    options = arguments(__doc__, calls=(500_000, "calls recorded, two records each"))
    calls = options.calls // (10 if options.quick else 1)
    with scratch() as folder:
        store = Store(folder)
        disk = RealDisk(store.folder)
        sealer = Sealer(
            disk, store.journal, lambda name, data: store.recorder.event(name, data, leaf_data=True)
        )
        seals = sealing(store, sealer, SEALED_RECORDS, min(SEALINGS, calls * 2 // SEALED_RECORDS))
        for _ in range(calls - SEALINGS * SEALED_RECORDS // 2):
            store.record_call(SMALL_ARGUMENTS, SMALL_RESULT)
        sealer.seal()
        note = newest_note(disk)
        assert note is not None, "it has just been made"
        head = note.checkpoint.heads[1]
        settle()
        chance = random.Random(7)
        wanted = {chance.randrange(1, head.size + 1) for _ in range(PROOFS)}
        records: list[Stored] = [stored for stored in store.journal.follow() if stored.sequence in wanted]
        chance.shuffle(records)
        with Prover(disk, store.journal, note) as prover:
            caught_up = timed(lambda: prover.record(records[0])) / 1e9
            made = Timing.of([timed(functools.partial(prover.record, stored)) for stored in records])
            tiles = prover._tiles[1]  # pyright: ignore[reportPrivateUsage]
            paths = [tiles.inclusion_path(stored.sequence - 1, head.size) for stored in records]
        checked = Timing.of(
            [
                timed(functools.partial(check, stored, path, head))
                for stored, path in zip(records, paths, strict=True)
            ]
        )
        keys = read_verifiers(disk)
        signature = Timing.of([timed(lambda: note.signed_by(keys)) for _ in range(200)])
        store.journal.close()
    theirs = peer(head.size)
    report(
        "proofs",
        [
            Measurement(
                row=14, what=f"proof of one record of {head.size:,}, made", value=made.p50_us, unit="µs",
                target="≤ 1 ms", limit=MADE_US_MAX, peers={"pymerkle, in memory": theirs.p50_us},
            ),
            Measurement(
                row=14, what="proof of one record, checked", value=checked.p50_us, unit="µs",
                target="≤ 50 µs", limit=CHECKED_US_MAX,
            ),
            Measurement(
                row=14, what="sealing 10,000 records, off the caller's path", value=seals.p50_us / 1e3,
                unit="ms", target="≤ 50 ms", limit=SEALED_MS_MAX,
            ),
        ],
        {
            "leaves": head.size,
            "made_p99_us": made.p99_us,
            "checked_p99_us": checked.p99_us,
            "sealing_p99_ms": seals.p99_us / 1e3,
            "hashes_caught_up_seconds": caught_up,
            "signature_checked_p50_us": signature.p50_us,
        },
        quick=options.quick,
    )  # fmt: skip
    print(f"hashes of {head.size:,} records caught up in {caught_up:.1f} s")


if __name__ == "__main__":
    main()
