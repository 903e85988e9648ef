"""Rows that wait, in the ledger, for parents in their own cycle of foreign keys, and the keys they hold while they do.

The first of two records with one key counts, also when it has to wait: so a later one with that key waits behind it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from restorer.database.connection import Connection
from restorer.database.ledger import Ledger

if TYPE_CHECKING:
    from restorer.database.tasks import Task

_CHUNK_BYTES = 4 << 20


class Record(msgspec.Struct, frozen=True):
    """A record set aside: its place in the file and its bytes as they were."""

    ordinal: int
    offset: int
    raw: bytes


class Waiting:
    """The waiting rows of one run. Every method is called inside a transaction."""

    def __init__(self, ledger: Ledger) -> None:
        self._run, self._q = ledger.run, ledger.q

    def add(self, conn: Connection, task: Task, records: Iterable[Record], keys: Collection[int]) -> None:
        """`keys`: hashes of the keys that these records have (Keyed.hashes)."""
        with conn.cursor() as cur:
            with cur.copy(
                self._q("COPY {deferred} (run, task, table_name, ordinal, byte_offset, record) FROM STDIN")
            ) as out:
                for r in records:
                    out.write_row((self._run, task.id, task.table, r.ordinal, r.offset, r.raw))
            with cur.copy(self._q("COPY {waiting_keys} (run, table_name, key) FROM STDIN")) as out:
                for key in keys:
                    out.write_row((self._run, task.table, key))

    def any(self, conn: Connection, table: str) -> bool:
        row = conn.execute(
            self._q("SELECT EXISTS (SELECT FROM {deferred} WHERE run = %s AND table_name = %s)"), (self._run, table)
        ).fetchone()
        return row is not None and bool(row[0])

    def held(self, conn: Connection, table: str, keys: Collection[int]) -> set[int]:
        """Those of `keys` that a waiting row of the table has."""
        found = conn.execute(
            self._q("SELECT DISTINCT key FROM {waiting_keys} WHERE run = %s AND table_name = %s AND key = ANY (%s)"),
            (self._run, table, list(keys)),
        )
        return {row[0] for row in found}

    def count(self, conn: Connection, table: str) -> int:
        row = conn.execute(
            self._q("SELECT count(*) FROM {deferred} WHERE run = %s AND table_name = %s"), (self._run, table)
        ).fetchone()
        return int(row[0]) if row else 0

    def chunks(self, conn: Connection, table: str, chunk: int) -> Iterator[list[tuple[int, Record]]]:
        """(id, record) of the rows that wait, in the order they were set aside: at most `chunk` at a time, or fewer whose
        bytes come to _CHUNK_BYTES."""
        last = 0
        while True:
            rows = conn.execute(
                self._q(
                    "SELECT id, ordinal, byte_offset, record FROM ("
                    "SELECT *, sum(octet_length(record)) OVER (ORDER BY id) - octet_length(record) AS before FROM ("
                    "SELECT * FROM {deferred} WHERE run = %s AND table_name = %s AND id > %s ORDER BY id LIMIT %s"
                    ") these) summed WHERE before < %s ORDER BY id"
                ),
                (self._run, table, last, chunk, _CHUNK_BYTES),
                binary=True,
            ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            yield [(row[0], Record(*row[1:])) for row in rows]

    def records(self, conn: Connection, ids: list[int]) -> dict[int, Record]:
        rows = conn.execute(
            self._q("SELECT id, ordinal, byte_offset, record FROM {deferred} WHERE id = ANY (%s)"), (ids,)
        )
        return {row[0]: Record(*row[1:]) for row in rows}

    def clear(self, conn: Connection, table: str) -> None:
        """The table's waiting rows are settled."""
        for name in ("deferred", "waiting_keys"):
            conn.execute(self._q("DELETE FROM {" + name + "} WHERE run = %s AND table_name = %s"), (self._run, table))
