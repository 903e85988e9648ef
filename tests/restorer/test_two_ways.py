"""Both ways of converting store the same rows in a real PostgreSQL, for every type and for hostile values.

What a record becomes is compared as PostgreSQL's own text of the stored value. The oracle is PostgreSQL itself: the
type's input function, fed by an INSERT with the value's text as a parameter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from restorer.convert import Converter
from restorer.model import Column, ColumnPlan, ColumnType, Table, TableFile, TablePlan
from restorer.piece import Piece

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
#: Of these the exact way knows every value: it takes all that the input function takes, and passes on nothing it refuses.
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

WORDS = [
    "", " ", "null", "NULL", "\\.", "\\N", "a,b", ",{", ",[", "{", "[", "{}", "{1,2}", "{{1},{2}}", '{"a",NULL}', "[1,2)",
    "(1,b)", "(1,2)", '"', '""', "'", "a\nb", "\r\n", "\\", "\\x", "\\x00ff", "\\xzz", "\\\\x41", "x,\"y", "a\tb", "\x7f",
    "żółć", "日本語", "🎉", "é", "abcd", "abcde", "abcd  ", "abc\u00a0d ", "a" * 70, "YQ==", "YQ", "3q2+7w==",
    "0", "1", "-1", "+1", "01", " 12 ", "1.0", "1.50", "1e3", "1E+3", "1e-3", "123n", "12 n", "0x1F", "1_000", "1.", ".5", ".",
    "999.994", "999.995", "-999.995", "99.999", "1000", "32767", "32768", "-32768", "-32769", "2147483647", "2147483648",
    "9223372036854775807", "9223372036854775808", "-9223372036854775808", "4294967295", "4294967296", "1e400", "1e-400",
    "1e39", "3.4028235e38", "1e-45", "1e-46", "5e-324", "0e999", "0x1p3", "NaN", "nan", "Infinity", "-inf", "infinity",
    "t", "true", "TRUE", "tru", "yes", "on", "of", "o", "2", "happy", "so so", 'quo"te', "żal", "sad",
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "{A0EEBC999C0B4EF8BB6D6BB9BD380A11}", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1",
    "2024-02-29", "2023-02-29", "1900-02-29", "2000-02-29", "2024-12-31", "2024-13-01", "2024-04-31", "0000-01-01", "0001-01-01", "9999-12-31",
    "2024-01-01T10:00:00Z", "2024-01-01T10:00:00.123Z", "2024-01-01 10:00:00", "2024-01-01T10:00", "2024-01-01T02:00:00+05:30",
    "2024-12-31T22:00:00-05:00", "2024-01-01T10:00:00+0530", "2024-01-01T10:00:00+05", "2024-01-01T10:00:00-15:59", "2024-01-01T10:00:00+16:00",
    "2024-01-01T24:00:00Z", "2024-01-01T24:00:01Z", "2024-01-01T23:59:60Z", "2024-01-01T23:59:60.5Z", "2024-01-01T23:60:00Z", "2024-01-01T10:00:00.123456789Z",
    "2024-01-01T23:59:59.9999999Z", "2024-01-01T10:00:00.1234567+01:00", "2024-01-01Z", "2024-01-01T10:00:00 Europe/Berlin",
    "+012345-06-07T08:09:10.000Z", "-000044-03-15T12:00:00.000Z", "+000000-01-01T00:00:00Z", "-004713-01-01T00:00:00Z", "+294277-01-01T00:00:00Z",
    "0044-03-15 BC", "0044-03-15 10:00:00 BC", "12345-01-01", "12345-01-01T10:00:00Z", "0001-01-01T00:00:00+01:00", "epoch", "now", "today", "01/02/2024", "2024-1-5",
    "10:00:00", "10:00", "10:00:00.123", "24:00:00", "24:00:01", "10:00:60", "10:00:00Z", "10:00:00+05", "01:00:00+05:30", "10:00:00+14:00", "25:00:00", "T10:00:00",
    "1 day", "P1DT2H", "1.5", "10.0.0.0/8", "10.1.2.3/8", "::1", "08:00:2b:01:02:03", "08002b010203", "101", "10", "1010", "b101", "xF", "x", "a b", "'a' 'b", "$.a", "$.a[*] ?",
    "12.50", "$1,234.56", "-$5.00", "1.234", "1,23", "92233720368547758.07", "92233720368547758.08", "((1,2),(3,4))", "{((1,2),(3,4))}", "0/1", "empty",
]  # fmt: skip
RAW = [
    b"null", b"true", b"false", b"0", b"-0", b"1", b"-1", b"2", b"1.0", b"1.50", b"1.5", b"1e3", b"1E+2", b"1e-3", b"15e-1", b"100e-2", b"12345678901234567890",
    b"32767", b"32768", b"-32769", b"2147483648", b"4294967296", b"9223372036854775807", b"-9223372036854775809", b"9223372036854775807.0", b"999.994", b"999.995", b"99999e-2", b"1e99999999999999999999",
    b"1e400", b"-1e400", b"1e-400", b"1e39", b"1e-46", b"16777217", b"0.1", b"0e-999", b"1e1000000", b"1704103200000", b"101",
    b"{}", b"[]", b"[[]]", b"[[],[]]", b"[null]", b"[1,2]", b"[1,null,\"3\"]", b"[[1,2],[3,4]]", b"[[1],[2,3]]", b"[1,[2]]", b"[[[1]]]", b'["a","b"]', b'["a,b","{}","","null","NULL",null]',
    b'["q\\"uo","back\\\\slash","new\\nline"]', b'["happy","null"]', b'["2024-01-01T10:00:00+02:00",null]', b'[{"a":[1]},[2],"x",null,1.50]', b'["((1,2),(3,4))","((5,6),(7,8))"]',
    b'[true,1.5e3]', b'[ 1 , 2 ]', b'[\n1,\r\n2]', b'{"a":1,"a":2}', b'{"a": [1, {"b": "x,y"}],\n "c": null}', b'{"type":"Buffer","data":[222,173]}', b'{"type":"Buffer","data":[256]}',
    b'{"type":"Buffer","data":"3q0="}', b'{"0":222,"1":173}', b'{"1":1}', b'{"0":true}', b'{"a":"\\u0000"}', b'{"\\u0000":1}', b'{"a":"\\\\u0000"}', b'{"a":"\\ud800"}', b'["\\udc00\\ud800"]',
    b'"\\u0000"', b'"a\\u0000b"', b'"\\ud800"', b'"\\ud83c\\udf89"', b'"\\u0031"', b'"\\u0032024-01-01"', b'"\\u0061"', b'"\\/"', b'"\xff"', b'"\xc3"', b'"\xed\xa0\x80"', b'{"a":"\xff"}', b'["\xff"]',
]  # fmt: skip
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
def bench(db: psycopg.Connection) -> Iterator[psycopg.Connection]:
    """A database with the types, in a session set up as the loader does."""
    labels = sql.SQL(",").join(map(sql.Literal, MOOD))
    db.execute(sql.SQL("CREATE TYPE mood AS ENUM ({})").format(labels))
    db.execute("CREATE TYPE pair AS (a int, b text)")
    for setting in ("TimeZone TO 'UTC'", "DateStyle TO ISO", "IntervalStyle TO postgres", "lc_monetary TO 'C'"):
        db.execute(sql.SQL("SET " + setting))  # type: ignore[arg-type]
    db.autocommit = False
    yield db


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
        db.execute(f"CREATE TABLE t (i int NOT NULL, v {spelling})")  # type: ignore[arg-type]
        names = sql.SQL(",").join(map(sql.Identifier, columns))
        self.copy_sql = sql.SQL("COPY t ({}) FROM STDIN (FORMAT csv, NULL 'null', ENCODING 'UTF8')").format(names)

    def copied(self, lines: dict[int, bytes]) -> dict[int, Any]:
        """number -> stored text (None for NULL) of those lines that PostgreSQL takes."""
        if not lines:
            return {}
        try:
            with self.db.transaction(force_rollback=True):
                with self.db.cursor().copy(self.copy_sql) as copy:
                    copy.write(b"".join(line + b"\n" for line in lines.values()))
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
                    self.db.execute(f"INSERT INTO t VALUES (1, {how})", (text,))  # type: ignore[arg-type]
                    found[number] = self.db.execute("SELECT v::text FROM t").fetchone()[0]  # type: ignore[index]
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
        rows = convert.exact(piece(convert, records))
        sent = {n: line for n, line in enumerate(rows.lines) if n not in rows.problems}
        exact = target.copied(sent)
        oracle = target.oracle(dict(enumerate(values)))

    for way in (verbatim, mixed):
        for number, stored in way.items():
            assert number in exact, (
                "verbatim stores what exact refuses",
                values[number],
                stored,
                rows.problems.get(number),
            )
            assert exact[number] == stored, ("the ways differ", values[number])
    for number, problem in rows.problems.items():
        assert problem.reason and problem.sqlstate and problem.column in ("v", ""), (values[number], problem)
        assert rows.lines[number] == b""
    if spelling not in ("bytea", "timetz", "money", '"char"'):  # these have spellings of their own
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
def test_hostile_values(bench: psycopg.Connection, spelling: str) -> None:
    check(bench, spelling, HOSTILE)


@pytest.mark.parametrize("spelling", TYPES)
def test_any_values(bench: psycopg.Connection, spelling: str) -> None:
    @settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(VALUES | st.sampled_from(HOSTILE), min_size=1, max_size=60))
    def holds(values: list[bytes]) -> None:
        check(bench, spelling, values)

    holds()
