"""Row 13: how fast a whole store is verified, in one process: a million small records, signed every 10,000.

The store is made first and is not measured. Two figures: the journal alone with its signatures, and beside it
the same with an index that is compared row by row. The peer is plain `sha256` over the same files, which is
less than anything that proves something can do.
"""

import hashlib
import time
from pathlib import Path

from custody.checkpoints import Sealer
from custody.index import Index
from custody.journal import Journal, RealDisk, boot_id
from custody.verify import Report, Wanted, verify_store
from harness import Measurement, arguments, report, scratch, settle
from recording import SMALL_ARGUMENTS, SMALL_RESULT, Store

RECORDS_PER_SECOND_MIN = 300_000
SEAL_EVERY_CALLS = 5_000
ROUNDS = 3


def make_store(folder: Path, calls: int) -> Path:
    store = Store(folder)
    sealer = Sealer(
        RealDisk(store.folder),
        store.journal,
        lambda name, data: store.recorder.event(name, data, leaf_data=True).wait_durable(),
    )
    for number in range(1, calls + 1):
        store.record_call(SMALL_ARGUMENTS, SMALL_RESULT)
        if number % SEAL_EVERY_CALLS == 0:
            store.journal.sync()
            sealer.seal()
    store.journal.sync()
    sealer.seal(all_shards=True)
    store.journal.close()
    return store.folder


def verified(folder: Path) -> tuple[Report, float, float]:
    """With the seconds it took, by the clock and of a processor: on a busy machine they differ."""
    start, used = time.perf_counter(), time.process_time()
    found = verify_store(RealDisk(folder), root=str(folder), wanted=Wanted(), boot_id=boot_id())
    return found, time.perf_counter() - start, time.process_time() - used


def hashed_seconds(folder: Path) -> float:
    start = time.perf_counter()
    for path in sorted(folder.rglob("*.seg")):
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")
    return time.perf_counter() - start


def main() -> None:
    options = arguments(__doc__, calls=(500_000, "calls recorded, two records each"))
    calls = options.calls // (10 if options.quick else 1)
    with scratch() as scratched:
        folder = make_store(scratched, calls)
        settle()
        alone = [verified(folder) for _ in range(ROUNDS)]
        peer = min(hashed_seconds(folder) for _ in range(ROUNDS))
        index = Index(str(folder / "index.db"), _journal(folder))
        index.refresh()
        index.close()
        settle()
        compared = [verified(folder) for _ in range(ROUNDS)]
    found = compared[0][0]
    assert found.ok, found.faults
    assert found.index == "agrees", found.index
    rate = found.records / min(seconds for _, seconds, _ in alone)
    rate_with_index = found.records / min(seconds for _, seconds, _ in compared)
    rate_of_processor = found.records / min(used for _, _, used in alone)
    rate_of_processor_with_index = found.records / min(used for _, _, used in compared)
    report(
        "verify",
        [
            Measurement(
                row=13,
                what="verify a store, journal and signatures",
                value=rate,
                unit="records/s",
                target=f"≥ {RECORDS_PER_SECOND_MIN:,} records/s",
                limit=RECORDS_PER_SECOND_MIN,
                better="more",
                peers={"sha256 of the segment files": found.records / peer},
            )
        ],
        {
            "records": found.records,
            "checkpoints": found.checkpoints,
            "with_index_records_per_second": rate_with_index,
            "records_per_processor_second": rate_of_processor,
            "records_per_processor_second_with_index": rate_of_processor_with_index,
            "rounds_seconds": [seconds for _, seconds, _ in alone],
            "rounds_with_index_seconds": [seconds for _, seconds, _ in compared],
        },
        quick=options.quick,
    )
    print(f"  with the index compared: {rate_with_index:,.0f} records/s")
    print(f"  a second of one processor: {rate_of_processor:,.0f} records,", end=" ")
    print(f"with the index {rate_of_processor_with_index:,.0f}")


def _journal(folder: Path) -> Journal:
    return Journal(RealDisk(folder))


if __name__ == "__main__":
    main()
