"""Values by type: the text that PostgreSQL gets, or the reason why it gets none."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from restorer.convert.dates import _DAY, _civil, _day_number
from restorer.convert.exact import rule
from restorer.convert.field import Unfit, easy, escaped, hard, lone_surrogate, nul_escape, string, unquoted, well_formed
from restorer.model import ColumnType

VARCHAR = ColumnType("varchar", length=3)
CHAR = ColumnType("bpchar", length=3)
MONEY_LIKE = ColumnType("numeric", precision=5, scale=2)
TENS = ColumnType("numeric", precision=2, scale=-1)
MOOD = ColumnType("mood", kind="e", labels=("sad", "so so", "1"))


def array(name: str, **more: int) -> ColumnType:
    return ColumnType("_" + name, element=ColumnType(name, **more))


def text(column_type: ColumnType | str, raw: str) -> str:
    if isinstance(column_type, str):
        column_type = ColumnType(column_type)
    return rule(column_type).text(raw.encode())


@pytest.mark.parametrize(
    ("column_type", "raw", "expected"),
    [
        # integers: however they are spelled
        ("int4", "5", "5"),
        ("int4", "1.0", "1"),
        ("int4", "1e3", "1000"),
        ("int4", "120e-1", "12"),
        ("int4", "-0.0", "0"),
        ("int4", '"123"', "123"),
        ("int4", '"123n"', "123"),
        ("int4", '" +12 "', "12"),
        ("int8", "9223372036854775807.0", "9223372036854775807"),
        ("int8", '"-9223372036854775808"', "-9223372036854775808"),
        ("int4", '"0x1F"', "0x1F"),
        ("oid", "4294967295", "4294967295"),
        # numeric: never through a float
        ("numeric", "0.1000000000000000000000000001", "0.1000000000000000000000000001"),
        ("numeric", '"1e5"', "1e5"),
        ("numeric", '"NaN"', "NaN"),
        ("numeric", '"Infinity"', "Infinity"),
        (MONEY_LIKE, "999.994", "999.994"),
        (MONEY_LIKE, '"NaN"', "NaN"),
        (MONEY_LIKE, "1e-9", "1e-9"),
        (TENS, "994", "994"),
        # floats
        ("float8", "1e308", "1e308"),
        ("float8", "0e-999", "0e-999"),
        ("float8", '"-inf"', "-inf"),
        ("float4", "3.4e38", "3.4e38"),
        # texts take any value by its JSON text
        ("text", '"a\\u00e9\\n\\"b\\\\"', 'aé\n"b\\'),
        ("text", '"\\ud83c\\udf89"', "🎉"),
        ("text", "1.50", "1.50"),
        ("text", "true", "true"),
        ("text", '{"a": [1,  2]}', '{"a": [1,  2]}'),
        (VARCHAR, '"abc  "', "abc  "),
        (VARCHAR, '"żół"', "żół"),
        (CHAR, "123", "123"),
        # booleans, uuids, enums
        ("bool", "true", "true"),
        ("bool", "0", "0"),
        ("bool", '" YES "', " YES "),
        ("uuid", '"{A0EEBC999C0B4EF8BB6D6BB9BD380A11}"', "{A0EEBC999C0B4EF8BB6D6BB9BD380A11}"),
        (MOOD, '"so so"', "so so"),
        (MOOD, "1", "1"),
        # bytea in its spellings
        ("bytea", '"3q2+7w=="', "\\xdeadbeef"),
        ("bytea", '""', "\\x"),
        ("bytea", '"\\\\xDEad"', "\\xDEad"),
        ("bytea", '{"type":"Buffer","data":[222,173]}', "\\xdead"),
        ("bytea", '{"type": "Buffer", "data": "3q0="}', "\\xdead"),
        ("bytea", '{"0":222,"1":173}', "\\xdead"),
        ("bytea", "{}", "\\x"),
        # arrays
        (array("int4"), "[]", "{}"),
        (array("int4"), '[1, null, "2", 3.0]', '{"1",NULL,"2","3"}'),
        (array("int4"), "[[1,2],[3,4]]", '{{"1","2"},{"3","4"}}'),
        (array("text"), '["a\\"b","c\\\\d","null","",null]', '{"a\\"b","c\\\\d","null","",NULL}'),
        (array("text"), '"{1,2}"', "{1,2}"),
        (array("timestamp"), '["2024-01-01T10:00:00+02:00"]', '{"2024-01-01 08:00:00"}'),
        (array("jsonb"), '[{"a":[1]},[2]]', '{"{\\"a\\":[1]}","[2]"}'),
        (array("box"), '["((1,2),(3,4))","((5,6),(7,8))"]', '{"((1,2),(3,4))";"((5,6),(7,8))"}'),
        # others
        ("json", '{"a":\r\n1}', '{"a":  1}'),
        ("json", '"\\u0000"', '"\\u0000"'),
        ("jsonb", '"\\\\u0000"', '"\\\\u0000"'),
        ("money", "1e2", "100"),
        ("money", '"$1,234.56"', "$1,234.56"),
        (ColumnType("bit", length=3), '"101"', "101"),
        (ColumnType("varbit", length=5), '"xF"', "xF"),
        ("char", '"a"', "a"),
        ("vector", "[1,2.5]", "[1,2.5]"),
        ("inet", '"10.0.0.1"', "10.0.0.1"),
        ("ltree", '"a.b"', "a.b"),
        ("interval", '"P1D"', "P1D"),
    ],
)
def test_a_value_becomes_the_text_of_its_type(column_type: ColumnType | str, raw: str, expected: str) -> None:
    assert text(column_type, raw) == expected


@pytest.mark.parametrize(
    ("type_name", "value", "expected"),
    [
        ("timestamp", "2024-01-01T10:00:00.123Z", "2024-01-01T10:00:00.123Z"),
        ("timestamp", "2024-01-01T02:00:00.5+05:30", "2023-12-31 20:30:00.5"),
        ("timestamp", "2023-12-31T22:00:00-0500", "2024-01-01 03:00:00"),
        ("timestamp", "2024-02-29T23:59:60+00:30", "2024-02-29 23:30:00"),
        ("timestamp", "+012345-06-07T08:09:10.000Z", "12345-06-07 08:09:10.000"),
        ("timestamp", "-000044-03-15T12:00:00.000Z", "0045-03-15 12:00:00.000 BC"),
        ("timestamp", "+000000-01-01T00:00:00Z", "0001-01-01 00:00:00 BC"),
        ("timestamp", "0001-01-01T00:00:00+01:00", "0001-12-31 23:00:00 BC"),
        ("timestamp", "0045-03-15 12:00 BC", "0045-03-15 12:00:00 BC"),
        ("timestamp", "infinity", "infinity"),
        ("timestamp", "2024-01-01", "2024-01-01"),
        ("timestamptz", "2024-01-01T10:00:00+05:30", "2024-01-01T10:00:00+05:30"),
        ("timestamptz", "2024-01-01T10:00:00", "2024-01-01T10:00:00"),
        ("timestamptz", "-000044-03-15T12:00:00.000Z", "0045-03-15 12:00:00.000Z BC"),
        ("date", "2024-01-01", "2024-01-01"),
        ("date", "2024-01-01T23:00:00Z", "2024-01-01"),
        ("date", "2024-01-01T02:00:00+05:30", "2023-12-31"),
        ("date", "2024-12-31T24:00:00Z", "2025-01-01"),
        ("date", "2024-12-31T23:59:59.9999999Z", "2025-01-01"),
        ("date", "-000044-03-15", "0045-03-15 BC"),
        ("time", "10:00", "10:00:00"),
        ("time", "2024-01-01T10:00:00.25Z", "10:00:00.25"),
        ("time", "2024-01-01T01:00:00+05:30", "19:30:00"),
        ("time", "01:00:00+05:30", "19:30:00"),
        ("time", "24:00:00", "24:00:00"),
        ("timetz", "10:00:00+05", "10:00:00+05"),
        ("timetz", "2024-01-01T10:00:00-05:00", "10:00:00-05:00"),
        ("timetz", "2024-01-01T09:59:59.9999999Z", "10:00:00.000000Z"),
    ],
)
def test_one_instant_is_one_value_however_it_is_spelled(type_name: str, value: str, expected: str) -> None:
    assert text(type_name, f'"{value}"') == expected


@pytest.mark.parametrize(
    ("column_type", "raw", "reason", "sqlstate"),
    [
        ("int2", "32768", "OutOfRange", "22003"),
        ("int4", '"-2147483649"', "OutOfRange", "22003"),
        ("int8", "1e99999999999999999999", "OutOfRange", "22003"),
        ("int8", "1" * 5000, "OutOfRange", "22003"),
        ("int4", "1.5", "InvalidValue", "22P02"),
        ("int4", "1e-5", "InvalidValue", "22P02"),
        ("int4", '""', "InvalidValue", "22P02"),
        ("int4", '"12 n"', "InvalidValue", "22P02"),
        ("int4", "true", "TypeMismatch", "42804"),
        ("int4", "{}", "TypeMismatch", "42804"),
        ("oid", "-1", "OutOfRange", "22003"),
        (MONEY_LIKE, "999.995", "OutOfRange", "22003"),
        (MONEY_LIKE, "1000", "OutOfRange", "22003"),
        (MONEY_LIKE, '"inf"', "OutOfRange", "22003"),
        (TENS, "995", "OutOfRange", "22003"),
        ("numeric", '"abc"', "InvalidValue", "22P02"),
        ("numeric", "1e200000", "OutOfRange", "22003"),
        ("float8", "1e309", "OutOfRange", "22003"),
        ("float8", "1e-400", "OutOfRange", "22003"),
        ("float4", "1e39", "OutOfRange", "22003"),
        ("float4", "1e-60", "OutOfRange", "22003"),
        ("float8", '"1,5"', "InvalidValue", "22P02"),
        ("bool", "2", "InvalidValue", "22P02"),
        ("bool", '"o"', "InvalidValue", "22P02"),
        ("bool", "[]", "TypeMismatch", "42804"),
        ("uuid", '"a0eebc99"', "InvalidValue", "22P02"),
        ("uuid", '"{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"', "InvalidValue", "22P02"),
        (VARCHAR, '"abcd"', "TooLong", "22001"),
        (VARCHAR, '"abc\\u00a0"', "TooLong", "22001"),
        (CHAR, '{"a":1}', "TooLong", "22001"),
        (MOOD, '"glad"', "InvalidEnum", "22P02"),
        ("text", '"a\\u0000"', "NulCharacter", "22021"),
        ("text", '"\\ud800x\\udc00"', "LoneSurrogate", "22P05"),
        ("jsonb", '{"\\u0000":1}', "NulCharacter", "22P05"),
        ("jsonb", '["\\ud800"]', "LoneSurrogate", "22P05"),
        ("bytea", '"abc"', "InvalidValue", "22P02"),
        ("bytea", '"\\\\xABC"', "InvalidValue", "22P02"),
        ("bytea", '"a!b!c!d!"', "InvalidValue", "22P02"),
        ("bytea", '{"0":256}', "InvalidValue", "22P02"),
        ("bytea", '{"0":1,"2":1}', "InvalidValue", "22P02"),
        ("bytea", '{"0":true}', "InvalidValue", "22P02"),
        ("bytea", '{"type":"Buffer","data":5}', "InvalidValue", "22P02"),
        ("bytea", "5", "TypeMismatch", "42804"),
        (array("int4"), "[1,[2]]", "InvalidValue", "2202E"),
        (array("int4"), "[[1],[2,3]]", "InvalidValue", "2202E"),
        (array("int4"), "[[],[]]", "InvalidValue", "2202E"),
        (array("int4"), "[1.5]", "InvalidValue", "22P02"),
        (array("int4"), "5", "TypeMismatch", "42804"),
        (array("varchar", length=3), '["abcd"]', "TooLong", "22001"),
        (array("text"), '["\\ud800"]', "LoneSurrogate", "22P05"),
        (array("text"), '"a"', "InvalidValue", "22P02"),
        ("timestamp", "1704103200000", "TypeMismatch", "42804"),
        ("timestamp", '"01/02/2024"', "InvalidDate", "22007"),
        ("timestamp", '"now"', "InvalidDate", "22007"),
        ("timestamp", '""', "InvalidDate", "22007"),
        ("date", '"2023-02-29"', "InvalidDate", "22008"),
        ("date", '"1900-02-29"', "InvalidDate", "22008"),
        ("date", '"0000-00-00"', "InvalidDate", "22008"),
        ("timestamp", '"2024-01-01T25:00:00Z"', "InvalidDate", "22008"),
        ("timestamp", '"2024-01-01T10:60:00Z"', "InvalidDate", "22008"),
        ("timestamptz", '"2024-01-01T10:00:00+16:00"', "InvalidDate", "22008"),
        ("timestamptz", '"+294277-01-01T00:00:00Z"', "InvalidDate", "22008"),
        ("time", '"2024-01-01"', "InvalidDate", "22007"),
        ("money", "1.005", "OutOfRange", "22003"),
        ("money", "1e18", "OutOfRange", "22003"),
        ("money", '"1.234,56"', "InvalidValue", "22P02"),
        (ColumnType("bit", length=3), '"1010"', "TooLong", "22026"),
        (ColumnType("bit", length=3), "101", "TypeMismatch", "42804"),
        ("char", '"ab"', "TooLong", "22001"),
        ("name", f'"{"x" * 64}"', "TooLong", "22001"),
        ("interval", "5", "TypeMismatch", "42804"),
        (ColumnType("pair", kind="c"), '{"a":1}', "TypeMismatch", "42804"),
        ("inet", "{}", "TypeMismatch", "42804"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_a_reason(
    column_type: ColumnType | str, raw: str, reason: str, sqlstate: str
) -> None:
    with pytest.raises(Unfit) as refused:
        text(column_type, raw)
    assert (refused.value.reason, refused.value.sqlstate) == (reason, sqlstate)


def test_calendar_arithmetic_is_its_own_inverse_before_christ_and_after_9999() -> None:
    for number in range(-2_000_000, 4_000_000, 997):
        assert _day_number(*_civil(number)) == number
    assert _day_number(1970, 1, 1) - _day_number(0, 3, 1) == 719_468
    assert [_civil(_day_number(-4712, 1, 1) + days) for days in (0, 366)] == [(-4712, 1, 1), (-4711, 1, 1)]


def test_what_is_surely_a_day_is_one_and_most_days_are() -> None:
    surely = re.compile(_DAY).fullmatch
    for year in (1, 4, 1900, 2000, 2023, 2024, 2100, 9996):
        for month in range(14):
            for day in range(33):
                written = f"{year:04d}-{month:02d}-{day:02d}"
                exists = (
                    1 <= month <= 12 and 1 <= day <= 31 and _civil(_day_number(year, month, day)) == (year, month, day)
                )
                assert bool(surely(written)) == (exists and written != "2000-02-29"), written
    assert not surely("0000-01-01")


@pytest.mark.parametrize(
    ("raw", "lone", "nul"),
    [
        (b'"\\ud83c\\udf89"', False, False),
        (b'"\\ud83c x\\udf89"', True, False),
        (b'"\\udf89\\ud83c"', True, False),
        (b'"\\ud83c\\ud83c\\udf89"', True, False),
        (b'"\\\\ud83c"', False, False),
        (b'"\\\\\\u0000"', False, True),
        (b'"\\\\u0000"', False, False),
        (b'{"\\u0000":1}', False, True),
    ],
)
def test_escapes_are_read_as_json_reads_them(raw: bytes, lone: bool, nul: bool) -> None:
    assert lone_surrogate(raw) is lone
    assert nul_escape(raw) is nul


@pytest.mark.parametrize(
    ("raw", "is_json"),
    [
        (b'{"a":[1,{}]}', True),
        (b'"\\ud800"', True),
        (b"[" * 5000 + b"]" * 5000, True),
        (b'{"a":}', False),
        (b"[01]", False),
        (b"[NaN]", False),
        (b'["\n"]', False),
    ],
)
def test_a_well_formed_value_is_told_from_another(raw: bytes, is_json: bool) -> None:
    assert well_formed(raw) is is_json


def test_a_field_escapes_what_ends_lines_and_fields_and_nothing_else() -> None:
    assert unquoted(escaped('a"b\n\\.,é\t\r\x01\x02')) == 'a"b\\n\\\\.,é\\t\\r\\001\x02'.encode()
    assert escaped("null") == rb"nul\l" and escaped("nulls") == b"nulls"
    assert string(b'"null"') == "null"


@given(st.lists(st.sampled_from(['"', "\\", "n", "u0041", "/", "\t", "\n", "é"]), max_size=12))
@settings(deadline=None)
def test_escapes_of_json_are_those_of_copy_but_for_one(parts: list[str]) -> None:
    """Whatever JSON spells without a \\u goes as it stands, its quotes apart; `string` says what it means."""
    text = "".join(parts)
    for raw in (json.dumps(text, ensure_ascii=False), json.dumps(text, ensure_ascii=False).replace("/", "\\/")):
        assert not hard(raw.encode())
        read = re.sub(r"\\(.)", lambda m: {"n": "\n", "t": "\t"}.get(m[1], m[1]), unquoted(easy(raw.encode())).decode())
        assert read == text
    assert hard(json.dumps(text + "\x07").encode())
