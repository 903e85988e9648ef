"""Values that only PostgreSQL can refuse: each costs its own record, never a neighbour."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import psycopg
import pytest
from fix_restore import Restore
from psycopg.conninfo import make_conninfo

TYPES = (
    "CREATE DOMAIN positive AS int CHECK (VALUE > 0)",
    "CREATE DOMAIN word AS text NOT NULL CHECK (VALUE ~ '^[a-z]+$')",
    "CREATE TYPE pair AS (x int, y text)",
    "CREATE TYPE mood AS ENUM ('sad', 'ok')",
)
BAD = [  # type, good, bad, SQLSTATE
    ("inet", "10.0.0.1/8", "10.0.0.256", "22P02"),
    ("cidr", "10.0.0.0/8", "10.0.0.1/8", "22P02"),
    ("macaddr", "08:00:2b:01:02:03", "08:00:2b", "22P02"),
    ("int4range", "[1,5)", "[5,1)", "22000"),
    ("int4range", "[1,5)", "[1,", "22P02"),
    ("positive", 5, -5, "23514"),
    ("word", "abc", "ABC", "23514"),
    ("pair", "(1,a)", "(1,a,b)", "22P02"),
    ("mood", "ok", "happy", "22P02"),
    ("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc99", "22P02"),
    ("int", 1, "abc", "22P02"),
    ("int", 1, 99999999999, "22003"),
    ("smallint", 1, 40000, "22003"),
    ("varchar(3)", "abc", "abcd", "22001"),
    ("numeric(4,2)", 12.34, 1234, "22003"),
    ("float4", 1.5, "1e99", "22003"),
    ("date", "2024-02-29", "2023-02-29", "22008"),
    ("timestamptz", "2024-01-01T00:00:00Z", "2024-01-01T25:00:00Z", "22008"),
    ("interval", "1 day", "1 parsec", "22007"),
    ("jsonpath", "$.a", "$.[", "42601"),
    ("tsvector", "a b", "a:b:c'", "42601"),
    ("int[]", "{1,2}", "{1,x}", "22P02"),
    ("bit(3)", "101", "1011", "22026"),
    ("point", "(1,2)", "(1,", "22P02"),
    ("jsonb", {"a": 1}, None, ""),
]


@pytest.mark.parametrize(("kind", "good", "bad", "state"), BAD, ids=[f"{b[0]}-{b[3]}" for b in BAD])
def test_one_bad_value_among_good_ones_is_rejected_alone(at: Restore, kind: str, good: object, bad: object, state: str):
    at.schema(*TYPES, f"CREATE TABLE t (id int PRIMARY KEY, v {kind})")
    result = at.file("t", [{"id": i, "v": bad if i == 3 else good} for i in range(1, 8)]).ok()
    if not state:
        assert result.counts() == {"inserted": 7}
        return
    assert result.counts() == {"inserted": 6, "rejected": 1}
    assert [r[0] for r in at.rows("SELECT id FROM t ORDER BY 1")] == [1, 2, 4, 5, 6, 7]
    (reject,) = result.whole_rejects()
    assert reject["ordinal"] == 3
    assert reject["reason"] not in ("", "DatabaseError")
    assert str(bad) not in reject["message"]
    assert json.loads(bytes(reject["record"])) == {"id": 3, "v": bad}


@pytest.mark.parametrize(
    ("batch", "bad"),
    [
        (1, {1, 50}),
        (2, {7, 8, 9, 30}),
        (7, {1}),
        (7, {7, 8, 9, 30}),
        (5000, {50}),
        (5000, {1, 50}),
        (5000, set(range(1, 51))),
    ],
    ids=str,
)
def test_bad_values_anywhere_in_batches_of_any_size(at: Restore, batch: int, bad: set[int]):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, a inet, note text)")
    records = [{"id": i, "a": "nowhere" if i in bad else f"10.0.0.{i}", "note": 'x\ny"z'} for i in range(1, 51)]
    result = at.file("t", records).ok(batch=batch)
    good = [i for i in range(1, 51) if i not in bad]
    assert at.rows("SELECT id, host(a), note FROM t ORDER BY 1") == [(i, f"10.0.0.{i}", 'x\ny"z') for i in good]
    assert result.rejects() == [(i, "InvalidValue", "22P02") for i in sorted(bad)]


def test_good_records_need_no_more_than_copy(at: Restore):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)")
    result = at.file("t", [{"id": i, "v": f"v{i}"} for i in range(100)]).ok(batch=30)
    assert result.levels == {"Copy"}
    assert at.rows() == [(i, f"v{i}") for i in range(100)]


def test_a_reject_has_place_bytes_and_cause(at: Restore):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, a inet)")
    data = b'[ {"id": 1, "a": "10.0.0.1"},\n  {"id" : 2,  "a":"secret-value"}, {"id":3,"a":null}]'
    result = at.file("t", data).ok()
    (reject,) = result.whole_rejects()
    assert reject["run"] == result.run and reject["table_name"] == "t" and reject["ordinal"] == 2
    assert bytes(reject["record"]) == b'{"id" : 2,  "a":"secret-value"}'
    assert reject["byte_offset"] == data.index(b'{"id" :')
    assert (reject["reason"], reject["sqlstate"], reject["column_name"]) == ("InvalidValue", "22P02", "a")
    assert "secret" not in reject["message"]
    assert "secret" not in str(result.report) and "secret" not in str(at.events)


def test_newlines_inside_quotes_do_not_shift_the_blame(at: Restore):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, note text, a inet)")
    records = [{"id": i, "note": "\n" * i, "a": "x" if i in (5, 6, 90) else "::1"} for i in range(1, 101)]
    result = at.file("t", records).ok()
    assert [r[0] for r in result.rejects()] == [5, 6, 90]
    assert at.rows("SELECT id, note FROM t ORDER BY 1") == [(i, "\n" * i) for i in range(1, 101) if i not in (5, 6, 90)]


def test_a_value_that_is_copys_end_mark_is_a_value(at: Restore):
    at.schema("CREATE TABLE t (v text)")
    result = at.file("t", [{"v": v} for v in ("\\.", "a", "\\.", "", "null", "\\N", '"')]).ok()
    assert result.counts() == {"inserted": 7}
    assert [r[0] for r in at.rows("SELECT v FROM t")] == ["\\.", "a", "\\.", "", "null", "\\N", '"']


def test_the_server_may_speak_another_language(at: Restore):
    """The place of a bad value is read out of the error's context, whose words are translated."""
    at.schema("CREATE TABLE t (id int PRIMARY KEY, a inet)")
    from restorer.database.problems import _place

    class Diag:
        context = 'COPY dbrestore_stage_12, Zeile 34, Spalte a: "x, 5"'

    class Fake(Exception):
        diag = Diag()

    match = _place(Fake(), "dbrestore_stage_12")
    assert match and (match[1], match[2]) == ("34", 'a: "x, 5"')
    Diag.context = "COPY dbrestore_stage_12, 34번째 줄, a 열"
    match = _place(Fake(), "dbrestore_stage_12")
    assert match and match[1] == "34"


def test_thousands_of_bad_values_in_a_row_take_seconds(at: Restore):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, a inet, pad text)")
    records = [{"id": i, "a": "x" if i <= 3000 else "::1", "pad": "p" * 100} for i in range(1, 5001)]
    result = at.file("t", records).ok()
    assert result.counts() == {"inserted": 2000, "rejected": 3000}
    assert result.report.seconds < 15


def test_values_with_several_ways_to_be_wrong_in_one_batch(at: Restore):
    at.schema(
        "CREATE TABLE p (id int PRIMARY KEY)", "INSERT INTO p VALUES (1)",
        "CREATE TABLE t (id int PRIMARY KEY, a inet, n int NOT NULL CHECK (n < 100), p int REFERENCES p, "
        "e text UNIQUE, x int, EXCLUDE USING btree (x WITH =))",
    )  # fmt: skip
    good = {"a": "::1", "n": 1, "p": 1}
    records = [
        {"id": 1, **good, "e": "a", "x": 1},
        {"id": 2, **good, "a": "bad", "e": "b", "x": 2},
        {"id": 3, **good, "n": None, "e": "c", "x": 3},
        {"id": 4, **good, "n": 100, "e": "d", "x": 4},
        {"id": 5, **good, "p": 2, "e": "e", "x": 5},
        {"id": 6, **good, "e": "a", "x": 6},
        {"id": 7, **good, "e": "g", "x": 1},
        {"id": 1, **good, "e": "a", "x": 1},
        {"id": "eight", **good, "e": "h", "x": 8},
        [1, 2],
        {"id": 10, **good, "e": "j", "x": 10},
    ]
    result = at.file("t", records).ok()
    assert result.counts() == {"inserted": 2, "duplicate": 1, "conflict": 1, "rejected": 7}
    assert [(o, r) for o, r, _ in result.rejects()] == [
        (2, "InvalidValue"), (3, "NullViolation"), (4, "CheckViolation"), (5, "MissingParent"),
        (7, "ExclusionViolation"), (9, "InvalidValue"), (10, "NotAnObject"),
    ]  # fmt: skip
    by = {r["ordinal"]: r for r in result.whole_rejects()}
    assert by[3]["column_name"] == "n" and by[4]["constraint_name"] == "t_n_check"
    assert by[5]["constraint_name"] == "t_p_fkey" and by[7]["sqlstate"] == "23P01"
    assert at.rows("SELECT id FROM t ORDER BY 1") == [(1,), (10,)]
    assert result.levels == {"Row"}


def test_keys_no_column_can_hold_still_make_a_reject(at: Restore):
    at.schema("CREATE TABLE t (id int PRIMARY KEY)")
    data = b'[{"id":1},' + b'{"id":2},' * 300 + b'{"id":3,"a\\u0000b":1},{"id":4,"\\ud800":1},{"id":5}]'
    result = at.file("t", data).ok()
    assert at.rows() == [(1,), (2,), (5,)]
    assert [r[1] for r in result.rejects()] == ["UnknownColumn", "InvalidEncoding"]


@pytest.mark.parametrize("encoding", ["UTF8", "SQL_ASCII", "LATIN1"])
def test_bytes_that_are_not_utf8_are_rejected_whatever_the_database_takes(server: str, tmp_path: Path, encoding: str):
    """Straight into a table the server is trusted with finding them. SQL_ASCII takes any bytes, but not of a COPY that says
    that they are UTF-8."""
    name = f"test_encoding_{encoding.lower()}_{secrets.token_hex(4)}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
        try:
            dsn = make_conninfo(server, dbname=name)
            with psycopg.connect(dsn, autocommit=True, client_encoding="UTF8") as db:
                at = Restore(dsn, db, tmp_path)
                at.schema("CREATE TABLE t (id int PRIMARY KEY, name text NOT NULL, data jsonb)")
                records = [b'{"id":%d,"name":"caf\xc3\xa9","data":{"a":"\xc3\xa9"}}' % i for i in range(1, 2001)]
                records[9] = b'{"id":10,"name":"a\xff\xfeb","data":null}'
                records[19] = b'{"id":20,"name":"a","data":{"b":"\xc3"}}'
                result = at.file("t", b"[" + b",".join(records) + b"]").ok()
                assert result.counts() == {"inserted": 1998, "rejected": 2}
                assert [(o, r) for o, r, _ in result.rejects()] == [(10, "InvalidEncoding"), (20, "InvalidEncoding")]
                assert at.value("SELECT count(DISTINCT (name, data->>'a')) FROM t") == 1
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
