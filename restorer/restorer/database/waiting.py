"""Records that wait, in the ledger, until their table is settled.

Either for parents in their own cycle of foreign keys (settle.py): the first of two records with one key counts, also when it
has to wait, so the keys that it holds are kept as well. Or, in a file that several workers load in segments, because another
row with one of their keys was there first, and perhaps should not have been (replay.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import msgspec
from psycopg import sql

from restorer.database.connection import Connection
from restorer.database.copying import copying
from restorer.database.ledger import Ledger
from restorer.database.paging import page


class Record(msgspec.Struct, frozen=True):
    """A record set aside: its place in the file and its bytes as they were."""

    ordinal: int
    offset: int
    raw: bytes


class Waiting:
    """The waiting rows of one run. Every method is called inside a transaction."""

    def __init__(self, ledger: Ledger) -> None:
        self._run, self._q = ledger.run, ledger.q

    def add(
        self, conn: Connection, task: int, table: str, records: Iterable[Record], keys: Collection[int] = ()
    ) -> None:
        """`task`: the id of the one that they belong to; `keys`: hashes of the keys that they hold (Keyed.hashes)."""
        with conn.cursor() as cur:
            rows = self._q(
                "COPY {deferred} (run, task, table_name, ordinal, byte_offset, record) FROM STDIN (FORMAT binary)"
            )
            with copying(cur, rows) as out:
                out.set_types(["text", "int8", "text", "int8", "int8", "bytea"])
                for r in records:
                    out.write_row((self._run, task, table, r.ordinal, r.offset, r.raw))
            if not keys:
                return
            hashes = self._q("COPY {waiting_keys} (run, table_name, key) FROM STDIN (FORMAT binary)")
            with copying(cur, hashes) as out:
                out.set_types(["text", "text", "int8"])
                for key in keys:
                    out.write_row((self._run, table, key))

    def any(self, conn: Connection, table: str) -> bool:
        row = conn.execute(
            self._q("SELECT EXISTS (SELECT FROM {deferred} WHERE run = %s AND table_name = %s)"), (self._run, table)
        ).fetchone()
        return row is not None and bool(row[0])

    def held(self, conn: Connection, table: str, keys: Collection[int]) -> set[int]:
        """Those of `keys` that a waiting row of the table has. By the index: a planner that knows of no rows yet, or of many keys,
        would read the whole table (14 to 16 do)."""
        conn.execute("SET LOCAL enable_seqscan = off")
        found = conn.execute(
            self._q(
                "SELECT DISTINCT key FROM {waiting_keys} WHERE run = %s AND table_name = %s AND key = ANY (%s::bigint[])"
            ),
            (self._run, table, f"{{{','.join(map(str, keys))}}}"),  # a list would be taken apart by Python
        )
        conn.execute("SET LOCAL enable_seqscan = on")
        return {row[0] for row in found}

    def count(self, conn: Connection, table: str) -> int:
        """As each task says of itself, without a look at the records."""
        row = conn.execute(
            self._q("SELECT COALESCE(sum(deferred), 0)::bigint FROM {tasks} WHERE run = %s AND table_name = %s"),
            (self._run, table),
        ).fetchone()
        return int(row[0]) if row else 0

    def chunks(
        self, conn: Connection, table: str, chunk: int, among: list[int] | None = None
    ) -> Iterator[list[Record]]:
        """All that waits, in the file's order; or what waits `among` these ordinals."""
        after = 0
        while records := self.first(conn, table, chunk, after, among):
            after = records[-1].ordinal
            yield records

    def first(
        self, conn: Connection, table: str, chunk: int, after: int = 0, among: list[int] | None = None
    ) -> list[Record]:
        """The first records that wait, in the file's order, of those behind ordinal `after`: a page of `chunk` at most."""
        these = self._q("SELECT * FROM {deferred} WHERE run = %s AND table_name = %s AND ordinal > %s")
        given: tuple[object, ...] = (self._run, table, after)
        if among is not None:
            these, given = these + sql.SQL(" AND ordinal = ANY (%s)"), (*given, among)
        rows = conn.execute(page(these, "ordinal, byte_offset, record", "ordinal", chunk), given, binary=True)
        return [Record(*row) for row in rows]

    def among(self, conn: Connection, table: str, ordinals: list[int]) -> list[int]:
        """Those of `ordinals` whose records wait."""
        rows = conn.execute(
            self._q("SELECT ordinal FROM {deferred} WHERE run = %s AND table_name = %s AND ordinal = ANY (%s)"),
            (self._run, table, ordinals),
        )
        return [row[0] for row in rows]

    def clear(self, conn: Connection, table: str, part: tuple[int, int] | None = None) -> dict[int, int]:
        """The table's waiting rows are settled, all of them or those from one ordinal to another (`part`, both included).
        -> task -> how many it had"""
        first, last = part or (None, None)
        gone = conn.execute(
            self._q(
                "WITH gone AS (DELETE FROM {deferred} WHERE run = %s AND table_name = %s "
                "AND (ordinal BETWEEN %s::bigint AND %s::bigint OR %s::bigint IS NULL) RETURNING task) "
                "SELECT task, count(*) FROM gone GROUP BY task"
            ),
            (self._run, table, first, last, last),
        ).fetchall()
        if part is None:
            conn.execute(self._q("DELETE FROM {waiting_keys} WHERE run = %s AND table_name = %s"), (self._run, table))
        return dict(gone)
