"""Whole records: what goes verbatim, what is taken out and why, and what a record leaves to its neighbours."""

from __future__ import annotations

import json
import re
import tracemalloc

import msgspec
import pytest
from restorer.convert.converter import Converter, Rows
from restorer.convert.field import unquoted
from restorer.model import Column, ColumnPlan, ColumnType, Table, TableFile, TablePlan
from restorer.source.decoding import Decoding
from restorer.source.piece import Oversized, Piece, array_spans

ID = Column("id", ColumnType("int4"), not_null=True)


def column(name: str, type_name: str, **flags: bool) -> Column:
    return Column(name, ColumnType(type_name), **flags)


def converter(*columns: Column, ignored: tuple[str, ...] = (), triggers: tuple[str, ...] = ()) -> Converter:
    table = Table("public", "t", 1, columns, triggers=triggers)
    plans = tuple(ColumnPlan(each.name, each) for each in columns)
    return Converter(TablePlan(TableFile("t", "", 0, "array"), table, plans, ignored=ignored))


def piece(convert: Converter, *records: bytes) -> Piece:
    data = b",".join(records)
    try:
        decoded = convert.decoder.decode(b"[" + data + b"]")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        decoded = None
    spans, at = [], 0
    for record in records:
        spans.append((at, at + len(record)))
        at += len(record) + 1
    return Piece(0, len(data), 1, data, decoded, spans)


def both(convert: Converter, *records: bytes) -> Rows:
    """The rows of the verbatim way, once the exact way has said the same of the same records."""
    verbatim, exact = convert.verbatim(piece(convert, *records)), convert.exact(piece(convert, *records))
    for rows in (verbatim, exact):
        rows.lines = [unquoted(line) for line in rows.lines]
    assert [fields(line) for line in verbatim.lines] == [fields(line) for line in exact.lines]
    assert verbatim.problems == exact.problems
    assert verbatim.defaults == exact.defaults
    assert exact.exact == len(records)
    return verbatim


def fields(line: bytes) -> list[str | None]:
    """What PostgreSQL takes out of the line (COPY, "Text Format")."""
    return [None if field == b"null" else unescaped(field.decode()) for field in line.split(b"\t")]


def unescaped(field: str) -> str:
    """Without what COPY's own escapes are; the octal ones are of a control character."""
    meant = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
    return re.sub(
        r"\\([0-7]{3}|.)",
        lambda m: chr(int(m[1], 8)) if m[1].isdigit() else meant.get(m[1], m[1]),
        field,
        flags=re.DOTALL,
    )


def reasons(rows: Rows) -> dict[int, tuple[str, str, str]]:
    return {index: (problem.reason, problem.sqlstate, problem.column) for index, problem in rows.problems.items()}


def test_plain_values_go_as_they_stand() -> None:
    convert = converter(ID, column("name", "text"), column("price", "numeric"), column("at", "timestamp"))
    rows = both(convert, b'{ "name": "a, b", "id" : 1, "at": "2024-01-01T10:00:00Z", "price": 1.50 }')
    assert convert.columns == ("id", "name", "price", "at")
    assert rows.lines == [b"1\ta, b\t1.50\t2024-01-01T10:00:00Z"]
    assert convert.verbatim(piece(convert, b'{"id":1,"name":"x","price":1,"at":null}')).exact == 0


@pytest.mark.parametrize(
    ("value", "touched"),
    [
        (b'"a\\"b"', 0), (b'"\\\\."', 0), (b'"tab\\t"', 0), (b'"\\\\\\"\\/\\n"', 0), (b'"\\\\u00e9"', 0), (b'""', 0),
        (b'{"a":1}', 1), (b'[1,"x"]', 1), (b'{"a":\n"\\n"}', 1), (b'"\\u00e9"', 1), (b'"\\u0001\\u0002"', 1), (b'"null"', 1),
    ],
)  # fmt: skip
def test_one_record_that_needs_care_leaves_its_neighbours_verbatim(value: bytes, touched: int) -> None:
    convert = converter(column("name", "text"), ID)
    rows = both(convert, b'{"id":1,"name":"a\\n"}', b'{"id":2,"name":%s}' % value, b'{"id":3,"name":null}')
    assert (rows.lines[0], rows.lines[2]) == (rb"a\n" b"\t1", b"null\t3")
    parsed = json.loads(value)
    assert fields(rows.lines[1]) == [parsed if isinstance(parsed, str) else value.decode(), "2"]
    assert rows.exact == touched
    assert not rows.problems


def test_an_object_in_the_first_column_of_the_only_record_is_found() -> None:
    rows = both(converter(column("name", "text")), b'{"name":{"a":1,"b":2}}')
    assert rows.lines == [b'{"a":1,"b":2}']


def test_an_object_or_a_list_in_a_later_column_is_found_too() -> None:
    convert = converter(ID, column("name", "text"))
    rows = both(convert, b'{"id":1,"name":{"a":1,"b":2}}', b'{"id":2,"name":"x"}')
    assert rows.lines == [b'1\t{"a":1,"b":2}', b"2\tx"]
    assert both(convert, b'{"id":1,"name":[1,2]}').lines == [b"1\t[1,2]"]


def test_lists_become_array_literals_in_either_way() -> None:
    tags = Column("tags", ColumnType("_text", element=ColumnType("text")))
    convert = converter(ID, tags)
    rows = both(convert, b'{"id":1,"tags":["a,b",null,""]}', b'{"id":2,"tags":["\\"", 1]}', b'{"id":3,"tags":["\xff"]}')
    assert fields(rows.lines[0]) == ["1", '{"a,b",null,""}']
    assert fields(rows.lines[1]) == ["2", '{"\\"","1"}']
    assert reasons(rows) == {2: ("InvalidEncoding", "22021", "tags")}


def test_text_that_looks_like_structure_is_only_text() -> None:
    convert = converter(column("name", "text"), column("other", "text"))
    rows = both(convert, b'{"name":",{","other":"null"}', b'{"name":"{","other":",["}', b'{"name":"","other":null}')
    assert rows.lines == [b",{\tnul\\l", b"{\t,[", b"\tnull"]


def test_columns_come_in_the_order_of_their_handling() -> None:
    convert = converter(column("doc", "jsonb"), column("raw", "bytea"), column("at", "date"), column("n", "int8"))
    assert convert.columns == ("n", "at", "raw", "doc")


def test_json_columns_are_quoted_kept_on_one_line_and_null_stays_null() -> None:
    convert = converter(ID, column("doc", "jsonb"), column("other", "json"))
    rows = both(
        convert,
        b'{"id":1,"doc":{"a": "x, \\"y\\"",\r\n "b": [1.50]},"other":"null"}',
        b'{"id":2,"doc":null,"other":[null]}',
        b'{"id":3}',
    )
    assert rows.lines[0] == b'1\t{"a": "x, \\\\"y\\\\"",   "b": [1.50]}\t"null"'
    assert rows.lines[1:] == [b"2\tnull\t[null]", b"3\tnull\tnull"]
    assert rows.json_nulls == 0


def test_null_into_json_that_is_not_null_is_json_null_and_counted() -> None:
    convert = converter(ID, column("doc", "jsonb", not_null=True))
    rows = both(convert, b'{"id":1,"doc":null}', b'{"id":2,"doc":"null"}')
    assert rows.lines == [b"1\tnul\\l", b'2\t"null"']
    assert rows.json_nulls == 1
    rows = both(convert, b'{"id":1,"doc":null}', b'{"id":2}', b'{"id":3,"doc":{}}')
    assert rows.lines == [b"1\tnul\\l", b"", b"3\t{}"]
    assert rows.json_nulls == 1
    assert reasons(rows) == {1: ("NullViolation", "23502", "doc")}


def test_only_nulls_that_are_stored_are_counted() -> None:
    convert = converter(ID, column("doc", "jsonb", not_null=True))
    rows = both(convert, b'{"id":null,"doc":null}', b'{"id":2,"doc":null}', b"[]")
    assert rows.lines == [b"", b"2\tnul\\l", b""]
    assert rows.json_nulls == 1


def test_a_record_for_the_scanner_is_held_to_not_null_too() -> None:
    convert = converter(ID, column("doc", "jsonb"))
    rows = both(convert, b'{"id":null,"doc":%s}' % (b"[" * 5000 + b"]" * 5000))
    assert reasons(rows) == {0: ("NullViolation", "23502", "id")}


def test_jsonb_refuses_what_postgresql_would_and_json_does_not() -> None:
    records = (b'{"id":1,"doc":{"a":"\\u0000"}}', b'{"id":2,"doc":"\\\\u0000"}', b'{"id":3,"doc":["\\udc00"]}')
    rows = both(converter(ID, column("doc", "jsonb")), *records)
    assert reasons(rows) == {0: ("NulCharacter", "22P05", "doc"), 2: ("LoneSurrogate", "22P05", "doc")}
    rows = both(converter(ID, column("doc", "json")), *records)
    assert not rows.problems
    assert rows.lines[2] == b'3\t["\\\\udc00"]'


def test_a_missing_key_is_null_or_the_default() -> None:
    convert = converter(
        ID,
        column("a", "text"),
        column("b", "int4", not_null=True, has_default=True),
        column("c", "timestamp", has_default=True),
        column("d", "bytea", has_default=True),
        column("e", "jsonb", not_null=True, has_default=True),
    )
    full = b'{"id":2,"a":"","b":1,"c":null,"d":null,"e":null}'
    rows = both(convert, b'{"id":1}', full, b'{"id":3,"a":"x","b":2,"e":1}')
    assert rows.lines == [b"1\tnull\tnull\tnull\tnull\tnull", b"2\t\t1\tnull\tnull\tnul\\l", b"3\tx\t2\tnull\tnull\t1"]
    assert {index: tuple(convert.columns[at] for at in sorted(ats)) for index, ats in rows.defaults.items()} == {
        0: ("b", "c", "d", "e"),
        2: ("c", "d"),
    }
    assert not rows.problems


def test_null_for_a_not_null_column_is_a_problem_of_its_record() -> None:
    when = column("when", "timestamp", not_null=True)
    convert = converter(ID, column("a", "text", not_null=True), column("b", "text"), when)
    good = b'{"id":1,"a":"null","b":null,"when":"2024-01-01T10:00:00Z"}'
    rows = both(
        convert,
        good,
        b'{"id":null,"a":"x","b":"null","when":"2024-01-01T10:00:00Z"}',
        b'{"id":3,"b":null,"when":"2024-01-01T10:00:00Z"}',
        b'{"id":4,"a":"x","b":null,"when":null}',
    )
    assert rows.lines == [b"1\tnul\\l\tnull\t2024-01-01T10:00:00Z", b"", b"", b""]
    assert reasons(rows) == {at: ("NullViolation", "23502", name) for at, name in [(1, "id"), (2, "a"), (3, "when")]}


def test_a_trigger_may_fill_what_is_null_so_the_server_decides() -> None:
    convert = converter(ID, column("at", "timestamp", not_null=True), triggers=("fill",))
    assert both(convert, b'{"id":null,"at":null}').lines == [b"null\tnull"]


def test_ignored_keys_are_known_but_not_written() -> None:
    convert = converter(ID, column("doc", "json"), ignored=("total", "full"))
    rows = both(convert, b'{"total":[{"deep":1}],"id":1,"doc":1}', b'{"id":2,"full":"a\\"b"}')
    assert rows.lines == [b"1\t1", b"2\tnull"]
    assert both(converter(ID, ignored=("x",)), b'{"id":1,"x":"\\""}').lines == [b"1"]


def test_of_duplicate_keys_the_last_counts() -> None:
    assert both(converter(ID), b'{"id":1,"id":2}').lines == [b"2"]
    assert both(converter(ID), b'{"id":1,"id":2}', b"[]").lines == [b"2", b""]


def test_records_that_are_none_are_told_apart_and_their_neighbours_load() -> None:
    convert = converter(ID, column("a", "text"), column("doc", "jsonb"))
    deep = b"[" * 20_000 + b"]" * 20_000
    rows = both(
        convert,
        b'{"id":1,"a":"one"}',
        b'{"id":2,"a":}',
        b"[1,2]",
        b'{"id":4,"secret":1}',
        b'{"id":5,"a":"\\ud800"}',
        b'{"id":6,"a":"\xff"}',
        b'{"id":7,"doc":%s}' % deep,
        b'{"id":8,"a":"nul\\u0000"}',
        b'{"id":9,"doc":{"a":}}',
        b'{"\xff":9}',
        b"null",
        b'{"id":12,"doc":"\xff"}',
    )
    assert rows.lines[0] == b"1\tone\tnull"
    assert rows.lines[6] == b"7\tnull\t" + deep
    assert {index: found[0] for index, found in reasons(rows).items()} == {
        1: "InvalidJSON",
        2: "NotAnObject",
        3: "UnknownColumn",
        4: "LoneSurrogate",
        5: "InvalidEncoding",
        7: "NulCharacter",
        8: "InvalidJSON",
        9: "InvalidEncoding",
        10: "NotAnObject",
        11: "InvalidEncoding",
    }
    assert rows.problems[3].column == "secret"


def test_bytes_that_are_not_utf8_are_found_in_a_piece_that_decodes() -> None:
    convert = converter(ID, column("a", "text"), column("kind", "interval"), column("doc", "json"))
    good = '{"id":1,"a":"żółć","kind":"1 day","doc":"ą"}'.encode()
    records = [b'{"id":1,"a":"\xff"}', b'{"id":1,"kind":"\xc3"}', b'{"id":1,"doc":{"\xed\xa0\x80":1}}']
    rows = both(convert, good, *records)
    assert piece(convert, good, *records).records is not None
    assert rows.lines[0] == '1\tżółć\t1 day\t"ą"'.encode()
    assert {found[0] for found in reasons(rows).values()} == {"InvalidEncoding"}
    assert sorted(rows.problems) == [1, 2, 3]


@pytest.mark.parametrize("name", ["naïve", "日本語", "two words", 'quo"te', "back\\slash", "tab\t", ""])
def test_any_key_can_be_a_column(name: str) -> None:
    convert = converter(ID, column(name, "text"))
    record = json.dumps({"id": 1, name: "x"}).encode()
    assert both(convert, record).lines == [b"1\tx"]
    rows = both(convert, record, b'{"id":2}', b'{"id":3,"other":1}')
    assert rows.lines == [b"1\tx", b"2\tnull", b""]
    assert reasons(rows) == {2: ("UnknownColumn", "42703", "other")}


def test_a_record_too_large_to_hold_is_one_problem() -> None:
    convert = converter(ID)
    large = Piece(0, 1 << 27, 1, b'{"id":1', None, oversized=Oversized(1 << 27, "0" * 64, b'{"id":1'))
    rows = convert.verbatim(large)
    assert rows.lines == [b""]
    assert reasons(rows) == {0: ("RecordTooLarge", "54000", "")}


def test_an_empty_piece_has_no_lines() -> None:
    convert = converter(ID, column("doc", "json"), column("at", "date"))
    assert both(convert).lines == []


def test_messages_name_column_and_type_and_hold_no_value() -> None:
    for type_name in ("int8", "date", "bytea", "numeric", "bool", "uuid"):
        convert = converter(column("mail", type_name))
        rows = convert.exact(piece(convert, b'{"mail":"jane.doe@example.org"}'))
        assert rows.lines == [b""]
        message = rows.problems[0].message
        assert "jane" not in message
        assert "mail" in message
        assert ("boolean" if type_name == "bool" else type_name) in message


def test_bad_records_beside_a_long_one_do_not_grow() -> None:
    """Another record's values stand in for those of a bad one; a long one's would be there thousands of times."""
    convert = converter(ID, column("body", "text"))
    long = b'{"id":1,"body":"%s"}' % (b"x" * 60_000)
    for records in ([long] + [b'{"x":1}'] * 2000, [long] * 3 + [b'{"x":1}'] * 2000, [b'{"x":1}'] * 2000 + [long]):
        data = b",".join(records)
        spans = array_spans(data)
        decoded = Decoding(convert.decoder, convert.line_decoder).mixed(data, spans)
        tracemalloc.start()
        rows = convert.exact(Piece(0, len(data), 1, data, decoded, spans, mixed=True))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(rows.problems) == 2000 and len(b"".join(rows.lines)) < 4 * 60_100
        assert peak < 10 << 20, f"{peak:,} bytes for a piece of {len(data):,}"
