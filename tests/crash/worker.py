"""A writer for the kill lane: run as a program, it appends until it is killed and tells each receipt at once.

Each message on standard output is one `Told`: smaller than a pipe's atomic write, so that a kill leaves
whole messages only. Records are made from (token, number), so that whoever judges can make them again.
"""

import asyncio
import itertools
import os
import random
import struct
import sys
import threading

from custody.journal import Journal, JournalSettings, Receipt
from custody.journal.disk import RealDisk
from custody.records import SALT_BYTES, Kind, Redacted

TOLD = struct.Struct("<cQIQ")
"""W (written) or D (durable), number, shard, sequence."""
TAG = b"\xa6kill--"
DURABLE_WAIT_SECONDS = 60.0


def make_record(token: str, number: int) -> tuple[bytes, bytes]:
    """Leaf and payload."""
    chance = random.Random(f"{token}:{number}")
    leaf = TAG + f"{token}:{number}:".encode() + chance.randbytes(chance.choice((4, 60, 300)))
    return leaf, chance.randbytes(SALT_BYTES + chance.choice((0, 40, 500, 2000, 9000)))


def parse_leaf(leaf: bytes) -> tuple[str, int]:
    token, number, _ = leaf[len(TAG) :].split(b":", 2)
    return token.decode(), int(number)


class Writer:
    def __init__(self, store: str, token: str) -> None:
        settings = JournalSettings(first_segment_bytes=64 * 1024, segment_bytes_max=256 * 1024)
        self.journal = Journal(RealDisk(store), settings=settings)
        self.token = token
        self.numbers = itertools.count()

    def append(self) -> tuple[int, Receipt]:
        number = next(self.numbers)
        leaf, payload = make_record(self.token, number)
        receipt = self.journal.append(Kind.EVENT, leaf, Redacted(payload))
        self.tell(b"W", number, receipt)
        return number, receipt

    async def append_from_loop(self) -> tuple[int, Receipt]:
        number = next(self.numbers)
        leaf, payload = make_record(self.token, number)
        receipt = self.journal.append_at_once(Kind.EVENT, leaf, Redacted(payload))
        if receipt is None:
            receipt = await asyncio.to_thread(self.journal.append, Kind.EVENT, leaf, Redacted(payload))
        self.tell(b"W", number, receipt)
        return number, receipt

    def tell(self, what: bytes, number: int, receipt: Receipt) -> None:
        os.write(1, TOLD.pack(what, number, receipt.shard, receipt.sequence))

    def one_thread(self) -> None:
        while True:
            number, receipt = self.append()
            if number % 3 == 0:
                receipt.wait_durable(DURABLE_WAIT_SECONDS)
                self.tell(b"D", number, receipt)

    def durable_thread(self) -> None:
        while True:
            number, receipt = self.append()
            receipt.wait_durable(DURABLE_WAIT_SECONDS)
            self.tell(b"D", number, receipt)

    def threads(self) -> None:
        threads = [threading.Thread(target=self.durable_thread) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def tasks(self) -> None:
        self.journal.lease()
        asyncio.run(self.all_tasks())

    async def all_tasks(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(self.task())

    async def task(self) -> None:
        while True:
            number, receipt = await self.append_from_loop()
            await receipt.durable()
            self.tell(b"D", number, receipt)


if __name__ == "__main__":
    _, store, token, mode = sys.argv
    getattr(Writer(store, token), mode)()
