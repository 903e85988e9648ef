"""Records out of the ledger, page by page: so many at most, and so many bytes, as one alone may have 64 MiB."""

from __future__ import annotations

from typing import LiteralString

from psycopg import sql

PAGE_BYTES = 1 << 20  # on their way through Python they are there a dozen times


def page(rows: sql.Composable, columns: LiteralString, key: LiteralString, limit: int) -> sql.Composed:
    """The first of `rows`, a SELECT of everything that a table with a `record` has, in the order of the column `key`: up to `limit` of
    them, and none behind the one with which their records come to PAGE_BYTES. (Of a record that is kept out of line only the length is read.)"""
    return sql.SQL(
        "SELECT {columns} FROM ("
        "SELECT *, sum(octet_length(record)) OVER (ORDER BY {key}) - octet_length(record) AS before FROM ("
        "{rows} ORDER BY {key} LIMIT {limit}"
        ") these) summed WHERE before < {bytes} ORDER BY {key}"
    ).format(
        columns=sql.SQL(columns), key=sql.SQL(key), rows=rows, limit=sql.Literal(limit), bytes=sql.Literal(PAGE_BYTES)
    )  # fmt: skip
