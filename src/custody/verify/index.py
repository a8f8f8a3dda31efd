"""The index compared with the journal it is a view of.

Owns the reading of `index.db` as it stands, without making or changing a file, and the naming of rows that
say something else than the records. What differs is a fault although the index can be made anew: whoever
looked at the store was shown it. Used by `verify`.
"""

import os
import re
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import msgspec

from custody.journal.disk import Disk
from custody.records import Leaf, decode_leaf
from custody.verify.findings import Findings
from custody.verify.frames import COMMIT
from custody.verify.gather import Gather
from custody.verify.index_rows import TABLES, Place, Row, RowMaker, Sums, Take, Words, bucket_of, new_tag
from custody.verify.segments import SEGMENT_HEADER_BYTES, find_segments
from custody.verify.shard import ShardEnd
from custody.verify.tails import open_reader

FILE = "index.db"
ROWS_AT_ONCE = 20_000
ID_CHARACTERS_MAX = 40  # of what stands there for an id and is none
TABLE_NAMES = ("calls", "events", "runs", "steps", "watermarks", "words")

BUCKETS_COMPARED_MAX = 64
"""Row by row: an index that differs everywhere is named by these."""

FULL_TEXT = "the index's full text and error patterns"


class IndexCheck:
    """The index of one store, held at one moment from the beginning on."""

    def __init__(self, disk: Disk, root: str | None, findings: Findings) -> None:
        self._disk = disk
        self._findings = findings
        self._connection: Any = None
        self.answer = "absent"
        self.not_checked: list[str] = []
        self._marks: dict[int, tuple[int, int, int, int]] = {}
        """Shard -> next sequence, and segment, offset and check of the last record the index has."""
        self._sums = Sums()
        self._words = Words({None: None})
        self._tag = new_tag()
        if root is not None:
            self._open(os.path.join(root, FILE))
        self._maker = RowMaker(self._tag, self._words, self._sums.add)

    def _open(self, path: str) -> None:
        if not os.path.exists(path):
            return
        from urllib.parse import quote

        import apsw

        from custody.index.database import SCHEMA_VERSION

        # Without a log nobody is writing: then no file has to be made beside it to read it.
        mode = "mode=ro" if os.path.exists(f"{path}-wal") else "immutable=1"
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        try:
            connection: Any = apsw.Connection(f"file:{quote(os.path.abspath(path))}?{mode}", flags=flags)
            connection.set_busy_timeout(1000)
            connection.pragma("trusted_schema", False)
            connection.execute("BEGIN")
            version = connection.pragma("user_version")
            if version != SCHEMA_VERSION:
                self.answer = f"not compared: its tables are of version {version}"
                return
            made = dict(connection.execute("SELECT name, type FROM sqlite_schema").fetchall())
            if any(made.get(name) != "table" for name in TABLE_NAMES):
                raise ValueError("its tables are not those of an index")
            for shard, next_sequence, segment, offset, check in connection.execute(
                "SELECT shard, sequence, last_segment, last_offset, last_check FROM watermarks"
            ):
                self._marks[shard] = (next_sequence, segment, offset, check)
            self._words.update(connection.execute("SELECT word, id FROM words").fetchall())
        except (apsw.CantOpenError, apsw.BusyError, apsw.ReadOnlyError, apsw.PermissionsError) as error:
            self._findings.problem(f"cannot be read: {error}", file=FILE)
            self.answer = "not compared: it cannot be read"
            return
        except (apsw.Error, ValueError, TypeError) as error:
            self._damaged(error)
            return
        self._connection = connection
        self.not_checked.append(FULL_TEXT)

    def _damaged(self, error: Exception) -> None:
        self.answer = "differs"
        what = f"the index is damaged ({error}); it is a view, and is made anew when it is deleted"
        self._findings.fault(what, file=FILE, offset=0)

    # -- while the shards are read ------------------------------------------------------------------------

    def taker(self, shard: int) -> Take | None:
        """What is to be told of each record of a shard."""
        mark = self._marks.get(shard)
        return None if self._connection is None or mark is None else self._maker.taker(shard, mark[0])

    # -- behind them --------------------------------------------------------------------------------------

    def compare(self, ends: list[ShardEnd], gather: Gather, progressed: Callable[[], None]) -> None:
        """Say what the index has that the records do not say, and the other way round."""
        if self._connection is None:
            return
        import apsw

        try:
            self._compare(ends, gather, progressed)
        except (apsw.Error, ValueError, TypeError, OverflowError) as error:
            self._damaged(error)
        finally:
            self._connection.close()

    def _compare(self, ends: list[ShardEnd], gather: Gather, progressed: Callable[[], None]) -> None:
        if self._findings.faulty_shards:
            self.answer = "not compared: the journal is damaged"
            self.not_checked.append("the index: the journal it would be compared with is damaged")
            return
        if not self._belongs(ends, gather):
            return
        self._maker.finish()
        for rows in self._rows():
            while some := list(islice(rows, ROWS_AT_ONCE)):
                self._sums.take_away(some)
                progressed()
        named = self._name(ends) if self._sums.total else 0
        self.answer = "differs" if named else "agrees"

    def _rows(self) -> Iterator[Iterator[Row]]:
        """Each table's rows."""
        for sql in statements().values():
            yield self._connection.execute(sql, {"tag": self._tag})

    def _belongs(self, ends: list[ShardEnd], gather: Gather) -> bool:
        """Whether what the index has last of each shard is there."""
        by_shard = {end.shard: end for end in ends}
        repaired = {repair.shard for repair in gather.repairs}
        for shard, (next_sequence, segment, offset, check) in self._marks.items():
            end = by_shard.get(shard)
            if end is not None and next_sequence <= end.next:
                found = self._leaf_at(end, segment, offset, next_sequence - 1)
                if found is not None and zlib.crc32(found) == check:
                    continue
            if shard in repaired:
                self.answer = "not compared: it is of before a repair, and is made anew when it is next used"
                self._findings.note("the index is of before a repair of the journal", file=FILE, shard=shard)
            else:
                self.answer = "differs"
                what = "the index speaks of records that are not there"
                self._findings.fault(what, file=FILE, shard=shard, sequence=next_sequence - 1)
            return False
        return True

    def _leaf_at(self, end: ShardEnd, segment: int, offset: int, sequence: int) -> bytes | None:
        for found in find_segments(self._disk, end.shard, Findings(), end.dropped):
            if found.index == segment:
                reader = open_reader(self._disk, found)
                try:
                    stored = reader.decode(offset)
                finally:
                    reader.close()
                return stored.leaf if stored is not None and stored.sequence == sequence else None
        return None

    # -- naming -------------------------------------------------------------------------------------------

    def _name(self, ends: list[ShardEnd]) -> int:
        """Say which rows differ; returns how many. There may be none: records of one call can lie in several
        shards, and some of them behind its end."""
        sums = self._sums
        self._make_again(ends, sums.add_grouped)
        for rows in self._rows():
            for row in rows:
                sums.take_away_grouped(row)
        differing = sums.differing()
        chosen = set(sorted(differing)[:BUCKETS_COMPARED_MAX])
        wanted: dict[tuple[int, Any], Row] = {}

        def keep(row: Row) -> None:
            key = (row[0], row[1])
            if bucket_of(row[1]) in chosen and (key not in wanted or row[-3:] < wanted[key][-3:]):
                wanted[key] = row

        self._make_again(ends, keep)
        found = {
            (row[0], row[1]): row for rows in self._rows() for row in rows if bucket_of(row[1]) in chosen
        }
        wrong = 0
        for key in sorted(wanted.keys() | found.keys(), key=repr):
            if wanted.get(key) != found.get(key):
                wrong += 1
                self._name_one(key, wanted.get(key), found.get(key))
        if wrong and len(differing) > len(chosen):
            self._findings.fault(f"{len(differing) - len(chosen)} more groups of rows differ", file=FILE)
        return wrong

    def _make_again(self, ends: list[ShardEnd], made: Callable[[Row], None]) -> None:
        maker = RowMaker(self._tag, self._words, made, patient=True)
        for end in ends:
            mark = self._marks.get(end.shard)
            for leaf, place, sequence in records_again(self._disk, end):
                if mark is not None and sequence < mark[0]:
                    maker.take(leaf, place)
        maker.finish()

    def _name_one(self, key: tuple[int, Any], wanted: Row | None, found: Row | None) -> None:
        table, columns = TABLES[key[0] & 3]
        place: dict[str, Any] = {"file": FILE}
        id_ = key[1].hex() if isinstance(key[1], bytes) else ascii(key[1])[:ID_CHARACTERS_MAX]
        if table in ("call", "run"):
            place[f"{table}_id"] = id_
        at = self._place_of(wanted if wanted is not None else found, columns)
        if at is not None:
            place["shard"] = at[0]
        if found is None:
            what = f"the index lacks {table} {id_}"
        elif wanted is None:
            what = f"the index has {table} {id_}, which no record speaks of"
        else:
            differ = [
                name for name, one, two in zip(columns, wanted[2:], found[2:], strict=True) if one != two
            ]
            named = ", ".join(differ)
            what = f"the index says something else of {table} {id_} than the record: {named}"
        if at is not None:
            what += f" (record at offset {at[2]} of segment {at[1]})"
        self._findings.fault(what, **place)

    def _place_of(self, row: Row | None, columns: tuple[str, ...]) -> Place | None:
        if row is None:
            return None
        values = dict(zip(columns, row[2:], strict=True))
        for prefix in ("first_", "finished_", ""):
            shard, segment, offset = (
                values.get(f"{prefix}{name}") for name in ("shard", "segment", "offset")
            )
            if isinstance(shard, int) and isinstance(segment, int) and isinstance(offset, int):
                return shard, segment, offset
        return None


def records_again(disk: Disk, end: ShardEnd) -> Iterator[tuple[Leaf, Place, int]]:
    """The records of a shard that was found whole, once more."""
    sequence = end.first
    for segment in find_segments(disk, end.shard, Findings(), end.dropped):
        if not segment.counts:
            continue
        reader = open_reader(disk, segment)
        try:
            for found, kind, leaf, _, offset, _ in reader.frames(
                SEGMENT_HEADER_BYTES, sequence, min(segment.limit, end.next)
            ):
                if kind != COMMIT:
                    sequence = found + 1
                    try:
                        yield decode_leaf(kind, leaf), (end.shard, segment.index, offset), found
                    except (msgspec.DecodeError, ValueError):
                        continue
        finally:
            reader.close()


def statements() -> dict[str, str]:
    """Name -> text, of `index.sql`."""
    with open(os.path.join(os.path.dirname(__file__), "index.sql"), encoding="utf-8") as file:
        parts = re.split(r"^-- name: (\w+)\n", file.read(), flags=re.MULTILINE)
    return {name: text.strip().rstrip(";") for name, text in zip(parts[1::2], parts[2::2], strict=True)}
