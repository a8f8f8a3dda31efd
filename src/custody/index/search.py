"""Pages of rows that fulfil conditions, newest or oldest first.

Owns how a question is put so that it reads few rows: through the index whose value occurs least, tools
outcome by outcome, a search for a frequent word block by block. Used by `index`.
"""

import heapq
from typing import NamedTuple

from custody.index.database import SQL, Database, Row
from custody.index.query import EQUAL, INDEXED, OTHER, Conditions, Key, Order
from custody.index.rows import SPAN_ROWS
from custody.records import OUTCOMES

PROBE_ROWS = 10_000
"""Rows counted of a value to tell whether it is rare: half a millisecond."""

FOUND_ROWS_MAX = 2_000
"""Finds of a search that are simply all sorted by time; with more of them it goes block by block."""

ROW_MAX = 2**63 - 1


class Hit(NamedTuple):
    """A row by its time; `row` is good in the present transaction only."""

    at_us: int
    id: bytes
    row: int


class Search:
    """Puts questions to the tables. Runs inside a transaction of its caller's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(
        self, of: str, conditions: Conditions, order: Order, limit: int, after: Key | None, match: str | None
    ) -> list[Hit]:
        """Up to `limit` hits beyond `after`. `match` is a full-text query."""
        if conditions.nothing:
            return []
        if after is not None:
            name = "before" if order == "newest" else "after"
            conditions.add_other(name, at_us=after.at_us, id=after.id)
        conditions.values["limit"] = limit
        if match is not None:
            conditions.values["text"] = match
            return self._found(of, conditions, order, limit)
        driving, _ = self._narrowest(of, conditions)
        if of == "calls" and driving == "tool" and "outcome" not in conditions.equal:
            return self._tool_by_outcome(conditions, order, limit)
        return self._hits(of, conditions, conditions.where(driving), order)

    def _hits(self, statement: str, conditions: Conditions, where: str, order: Order) -> list[Hit]:
        sql = SQL[statement].format(where=where, order="DESC" if order == "newest" else "ASC")
        return [Hit(*row) for row in self._database.query(sql, conditions.values)]

    def _tool_by_outcome(self, conditions: Conditions, order: Order, limit: int) -> list[Hit]:
        """A tool's calls stand in its index outcome by outcome; each of these is in order of time."""
        hits: list[Hit] = []
        for outcome in range(len(OUTCOMES) + 1):
            conditions.add("outcome", outcome)
            hits += self._hits("calls", conditions, conditions.where("tool"), order)
        return _first(hits, order, limit)

    def _narrowest(self, of: str, conditions: Conditions) -> tuple[str | None, int]:
        """The indexed field whose value the fewest rows have, and their number up to PROBE_ROWS."""
        fields = [field for field in INDEXED if field in conditions.equal]
        if "tool" in fields and "outcome" in fields:
            fields.remove("outcome")
        best: tuple[str | None, int] = (None, PROBE_ROWS + 1)
        for field in fields:
            count = self._count(of, conditions, field)
            if count < best[1]:
                best = (field, count)
        if best[0] is None and fields:
            best = (fields[0], PROBE_ROWS)
        return best

    def _count(self, of: str, conditions: Conditions, field: str) -> int:
        times = (name for name in ("since_us", "until_us") if name in conditions.other)
        terms = [EQUAL[field], *(OTHER[name] for name in times)]
        if field == "tool" and "outcome" in conditions.equal:
            terms.append(EQUAL["outcome"])
        sql = f"SELECT count(*) FROM (SELECT 1 FROM {of} c WHERE {' AND '.join(terms)} LIMIT {PROBE_ROWS})"
        return self._database.query(sql, conditions.values)[0][0]

    # -- full text ------------------------------------------------------------------------------------

    def _found(self, of: str, conditions: Conditions, order: Order, limit: int) -> list[Hit]:
        where = conditions.where()
        statement = f"{of}_in_block"
        probe = {"text": conditions.values["text"], "limit": FOUND_ROWS_MAX}
        found = self._database.query(SQL[f"found_{of}"], probe)
        if len(found) < FOUND_ROWS_MAX:
            conditions.values |= {"row_from": 0, "row_to": ROW_MAX}
            return self._hits(statement, conditions, where, order) if found else []
        hits: list[Hit] = []
        for block, low_us, high_us in self._blocks(of, conditions, order):
            if len(hits) >= limit:
                worst = hits[-1].at_us
                if high_us < worst if order == "newest" else low_us > worst:
                    break
            conditions.values |= {"row_from": block * SPAN_ROWS, "row_to": (block + 1) * SPAN_ROWS - 1}
            hits = _first(hits + self._hits(statement, conditions, where, order), order, limit)
        return hits

    def _blocks(self, of: str, conditions: Conditions, order: Order) -> list[Row]:
        """Blocks of rows that may have hits, those with the first in the order first."""
        blocks = self._database.query(SQL[f"{of.removesuffix('s')}_blocks"])
        driving, count = self._narrowest(of, conditions)
        if driving is not None and count < PROBE_ROWS:
            sql = f"SELECT DISTINCT c.row / {SPAN_ROWS} FROM {of} c WHERE {conditions.where(driving)}"
            wanted = {row[0] for row in self._database.query(sql, conditions.values)}
            blocks = [block for block in blocks if block[0] in wanted]
        low = conditions.values.get("since_us", 0)
        high = conditions.values.get("until_us", ROW_MAX)
        if "before" in conditions.other:
            high = min(high, conditions.values["at_us"] + 1)
        elif "after" in conditions.other:
            low = max(low, conditions.values["at_us"])
        blocks = [block for block in blocks if block[2] >= low and block[1] < high]
        if order == "newest":
            return sorted(blocks, key=lambda block: -block[2])
        return sorted(blocks, key=lambda block: block[1])


def _first(hits: list[Hit], order: Order, limit: int) -> list[Hit]:
    return heapq.nlargest(limit, hits) if order == "newest" else heapq.nsmallest(limit, hits)
