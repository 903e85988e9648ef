"""Both ways of converting store the same rows in a real PostgreSQL, for every type and for hostile values.

What a record becomes is compared as PostgreSQL's own text of the stored value. The oracle is PostgreSQL itself: the
type's input function, fed by an INSERT with the value's text as a parameter.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import psycopg
import pytest
from hostile_values import RAW, WORDS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql
from restorer.convert.converter import Converter
from restorer.convert.field import unquoted
from restorer.load.staged import COPY_OPTIONS
from restorer.model import Column, ColumnPlan, ColumnType, Table, TableFile, TablePlan
from restorer.source.piece import Piece

MOOD = ("happy", "so so", "1", "null", 'quo"te', "żal", "true")


def array(element: ColumnType) -> ColumnType:
    return ColumnType("_" + element.name, element=element)


#: How SQL spells the type -> what the catalog says of it.
TYPES: dict[str, ColumnType] = {
    "bool": ColumnType("bool"),
    "int2": ColumnType("int2"),
    "int4": ColumnType("int4"),
    "int8": ColumnType("int8"),
    "numeric": ColumnType("numeric"),
    "numeric(5,2)": ColumnType("numeric", precision=5, scale=2),
    "numeric(3,0)": ColumnType("numeric", precision=3, scale=0),
    "float4": ColumnType("float4"),
    "float8": ColumnType("float8"),
    "text": ColumnType("text"),
    "varchar(4)": ColumnType("varchar", length=4),
    "char(4)": ColumnType("bpchar", length=4),
    "uuid": ColumnType("uuid"),
    "mood": ColumnType("mood", kind="e", labels=MOOD),
    "bytea": ColumnType("bytea"),
    "date": ColumnType("date"),
    "time": ColumnType("time"),
    "timetz": ColumnType("timetz"),
    "timestamp": ColumnType("timestamp"),
    "timestamptz": ColumnType("timestamptz"),
    "timestamp(3)": ColumnType("timestamp", precision=3),
    "interval": ColumnType("interval"),
    "json": ColumnType("json"),
    "jsonb": ColumnType("jsonb"),
    "int4[]": array(ColumnType("int4")),
    "text[]": array(ColumnType("text")),
    "timestamp[]": array(ColumnType("timestamp")),
    "jsonb[]": array(ColumnType("jsonb")),
    "mood[]": array(ColumnType("mood", kind="e", labels=MOOD)),
    "box[]": array(ColumnType("box")),
    "pair": ColumnType("pair", kind="c"),
    "int4range": ColumnType("int4range", kind="r"),
    "inet": ColumnType("inet"),
    "cidr": ColumnType("cidr"),
    "macaddr": ColumnType("macaddr"),
    "money": ColumnType("money"),
    "bit(3)": ColumnType("bit", length=3),
    "varbit(3)": ColumnType("varbit", length=3),
    '"char"': ColumnType("char"),
    "name": ColumnType("name"),
    "oid": ColumnType("oid"),
    "tsvector": ColumnType("tsvector"),
    "jsonpath": ColumnType("jsonpath"),
    "point": ColumnType("point"),
    "pg_lsn": ColumnType("pg_lsn"),
}
#: Types whose values have spellings of their own here. (Before 16 a cut "char" may be half a character, which nobody can read.)
SPELL_OTHERWISE = ("bytea", "timetz", "money", '"char"')
#: Of these the exact way knows every value: it takes what the input function takes, and sends nothing it refuses.
KNOWN = (
    "bool",
    "int2",
    "int4",
    "int8",
    "numeric(5,2)",
    "float4",
    "float8",
    "text",
    "varchar(4)",
    "char(4)",
    "uuid",
    "mood",
)
DATES = {
    "date": "((%s)::timestamptz AT TIME ZONE 'UTC')::date",
    "time": "((%s)::timestamptz AT TIME ZONE 'UTC')::time",
    "timestamp": "(%s)::timestamptz AT TIME ZONE 'UTC'",
    "timestamptz": "(%s)::timestamptz",
    "timestamp(3)": "((%s)::timestamptz AT TIME ZONE 'UTC')::timestamp(3)",
}

HOSTILE = [json.dumps(word, ensure_ascii=False).encode() for word in WORDS] + RAW
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
STRINGS = (
    st.datetimes().map(lambda moment: moment.isoformat())
    | st.datetimes(timezones=st.timezones()).map(lambda moment: moment.isoformat())
    | st.decimals(allow_nan=False, places=3).map(str)
    | st.integers(-(2**64), 2**64).map(str)
    | st.uuids().map(str)
    | st.text(alphabet="\\\"',{}[]nul.N\n\r a0-:TZ+", max_size=8)
)
VALUES = JSON_VALUES.map(
    lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
) | STRINGS.map(lambda text: json.dumps(text).encode())


@pytest.fixture
def bench(db: psycopg.Connection) -> psycopg.Connection:
    """A database with the types, in a session set up as the loader does."""
    labels = sql.SQL(",").join(map(sql.Literal, MOOD))
    db.execute(sql.SQL("CREATE TYPE mood AS ENUM ({})").format(labels))
    db.execute("CREATE TYPE pair AS (a int, b text)")
    for setting in ("TimeZone TO 'UTC'", "DateStyle TO ISO", "IntervalStyle TO postgres", "lc_monetary TO 'C'"):
        db.execute(sql.SQL("SET " + setting))
    db.autocommit = False
    return db


def converter(type_: ColumnType) -> Converter:
    columns = (Column("i", ColumnType("int4"), not_null=True), Column("v", type_))
    plans = tuple(ColumnPlan(column.name, column) for column in columns)
    return Converter(TablePlan(TableFile("t", "", 0, "array"), Table("public", "t", 1, columns), plans))


def piece(convert: Converter, records: list[bytes]) -> Piece:
    data = b",".join(records)
    try:
        decoded = convert.decoder.decode(b"[" + data + b"]")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        decoded = None
    return Piece(0, len(data), 1, data, decoded)


class Target:
    """The table of one type: what PostgreSQL makes of lines, and of values through the input function."""

    def __init__(self, db: psycopg.Connection, spelling: str, columns: tuple[str, ...]) -> None:
        self.db, self.spelling = db, spelling
        db.execute(f"CREATE TABLE t (i int NOT NULL, v {spelling})")
        names = sql.SQL(",").join(map(sql.Identifier, columns))
        self.copy_sql = sql.SQL("COPY t ({}) FROM STDIN {}").format(names, COPY_OPTIONS)

    def copied(self, lines: dict[int, bytes]) -> dict[int, Any]:
        """number -> stored text (None for NULL) of those lines that PostgreSQL takes."""
        if not lines:
            return {}
        try:
            with self.db.transaction(force_rollback=True):
                with self.db.cursor().copy(self.copy_sql) as copy:
                    copy.write(unquoted(b"".join(line + b"\n" for line in lines.values())))
                stored = self.db.execute("SELECT i, v::text FROM t").fetchall()
                assert sorted(i for i, _ in stored) == sorted(lines)
                return dict(stored)
        except (psycopg.DataError, psycopg.errors.SyntaxError):  # the latter of tsvector and jsonpath
            if len(lines) == 1:
                return {}
        numbers = list(lines)
        half = len(numbers) // 2
        return self.copied({n: lines[n] for n in numbers[:half]}) | self.copied({n: lines[n] for n in numbers[half:]})

    def oracle(self, values: dict[int, bytes]) -> dict[int, Any]:
        """number -> stored text of those values whose text the type's input function takes."""
        found = {}
        how = DATES.get(self.spelling, "%s")
        for number, raw in values.items():
            text = input_text(raw, self.spelling)
            if text is None:
                continue
            try:
                with self.db.transaction(force_rollback=True):
                    self.db.execute(f"INSERT INTO t VALUES (1, {how})", (text,))
                    found[number] = self.db.execute("SELECT v::text FROM t").fetchone()[0]
            except (psycopg.DataError, psycopg.NotSupportedError, psycopg.errors.SyntaxError):
                pass
        return found


def input_text(raw: bytes, spelling: str) -> str | None:
    """What the input function gets: the characters of a string, the JSON text of another value; None for no oracle."""
    try:
        raw.decode()
        value = json.loads(raw)
    except ValueError:
        return None
    if spelling in ("json", "jsonb"):
        return None if value is None else raw.decode().replace("\n", " ").replace("\r", " ")
    if isinstance(value, str):
        return None if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value) else value
    if value is None or (isinstance(value, dict | list) and not spelling.startswith(("text", "varchar", "char"))):
        return None
    return raw.decode()


def check(db: psycopg.Connection, spelling: str, values: list[bytes]) -> None:
    convert = converter(TYPES[spelling])
    records = [b'{"i":%d,"v":%s}' % (number, raw) for number, raw in enumerate(values)]
    with db.transaction(force_rollback=True):
        target = Target(db, spelling, convert.columns)
        alone = [convert.verbatim(piece(convert, [record])) for record in records]
        verbatim = target.copied({n: rows.lines[0] for n, rows in enumerate(alone) if not rows.problems})
        together = convert.verbatim(piece(convert, records))
        assert len(together.lines) == len(records)
        mixed = target.copied({n: line for n, line in enumerate(together.lines) if n not in together.problems})
        trusting = convert.trusting(piece(convert, records))
        trusted = target.copied({n: line for n, line in enumerate(trusting.lines) if n not in trusting.problems})
        rows = convert.exact(piece(convert, records))
        sent = {n: line for n, line in enumerate(rows.lines) if n not in rows.problems}
        exact = target.copied(sent)
        oracle = {} if spelling in SPELL_OTHERWISE else target.oracle(dict(enumerate(values)))

    for way in (verbatim, mixed, trusted):
        for number, stored in way.items():
            assert number in exact, (
                "stored as it stands, what exact refuses",
                values[number],
                stored,
                rows.problems.get(number),
            )
            assert exact[number] == stored, ("the ways differ", values[number])
    for number, problem in rows.problems.items():
        assert problem.reason, values[number]
        assert problem.sqlstate, values[number]
        assert problem.column in ("v", ""), values[number]
        assert rows.lines[number] == b""
    for number in exact.keys() & oracle.keys():
        assert exact[number] == oracle[number], ("not what the input function makes of it", values[number])
    if spelling in KNOWN:
        for number in sent.keys() - exact.keys():
            assert b"_" in values[number] or b"0x" in values[number], (
                "PostgreSQL refuses an exact row",
                values[number],
            )
        for number in oracle.keys() - exact.keys():
            raise AssertionError(
                ("exact refuses what the input function takes", values[number], rows.problems.get(number))
            )


@pytest.mark.parametrize("spelling", TYPES)
def test_both_ways_store_the_same(bench: psycopg.Connection, spelling: str) -> None:
    check(bench, spelling, HOSTILE)

    @settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(VALUES | st.sampled_from(HOSTILE), min_size=1, max_size=60))
    def holds(values: list[bytes]) -> None:
        check(bench, spelling, values)

    holds()


def test_a_dot_after_a_backslash_ends_no_copy(bench: psycopg.Connection) -> None:
    r"""A line of `\.` ends the data of a COPY; where it is data its backslash is doubled."""
    texts = ["\\.", "\n\\.\n", "a\r\n\\.\r\nb", "\\.\n", "last"]
    convert = converter(ColumnType("text"))
    records = [json.dumps({"i": number, "v": text}).encode() for number, text in enumerate(texts)]
    target = Target(bench, "text", convert.columns)
    rows = convert.verbatim(piece(convert, records))
    assert target.copied(dict(enumerate(rows.lines))) == dict(enumerate(texts))
