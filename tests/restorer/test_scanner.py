"""The bracket-and-quote scanner against json, on whole values and on values in parts."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from restorer.source.scanner import ScanError, ValueScanner, pairs, spans, value_end

texts = st.lists(st.sampled_from(['"', "\\", "},{", "[", "]", "é", "\u2028", "a"]), max_size=5).map("".join)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
behind = st.sampled_from([b",", b" ,", b"]", b"}", b"\n", b' , {"id"'])


@settings(max_examples=300, deadline=None)
@given(value=values, tail=behind, indent=st.sampled_from([None, 2]), size=st.integers(1, 9), ascii=st.booleans())
def test_a_value_ends_where_json_says_also_in_parts(
    value: Any, tail: bytes, indent: int | None, size: int, ascii: bool
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii).encode()
    data = text + tail
    assert value_end(b"x" + data, 1) == 1 + len(text)
    scanner, base = ValueScanner(), 0
    for base in range(0, len(data), size):
        end = scanner.feed(data[base : base + size])
        if end != -1:
            break
    assert base + end == len(text)


@settings(max_examples=200, deadline=None)
@given(value=st.dictionaries(texts, values, max_size=5), indent=st.sampled_from([None, 2]))
def test_pairs_of_an_object(value: dict[str, Any], indent: int | None) -> None:
    found = pairs(json.dumps(value, indent=indent).encode())
    assert {key: json.loads(raw) for key, raw in found.items()} == value


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(values, max_size=6), between=st.sampled_from([b",", b"\n", b" ,\r\n "]))
def test_spans_of_values_with_commas_or_newlines_between(rows: list[Any], between: bytes) -> None:
    texts = [json.dumps(r).encode() for r in rows]
    data = b" " + between.join(texts) + b" "
    assert [data[a:b] for a, b in spans(data)] == texts


def test_what_decoders_refuse_is_delimited() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    record = b'{"a":' + deep + b',"b":"\\ud800","c":"raw \x01 and \n","d":"\xff"}'
    assert value_end(record + b",", 0) == len(record)
    assert pairs(record.replace(b"raw \x01 and \n", b""))["a"] == deep


def test_the_last_of_several_equal_keys_counts() -> None:
    assert pairs(b'{"a":1, "\\u0061":2}') == {"a": b"2"}
    assert list(pairs(b'{"\\ud800":1}').values()) == [b"1"]


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"[]",
        b"{",
        b'{"a"}',
        b'{"a":}',
        b'{"a":1',
        b'{"a":1,}',
        b'{"a":1 "b":2}',
        b'{"a":1}x',
        b'{"a":tru}',
        b'{"a":01}',
        b'{"a":1x}',
        b"{a:1}",
        b'{"a":"\x01"}',
        b'{"a":"\\x"}',
        b'{"a":[1}',
        b'{"a":"x',
        b"{,}",
        b'{"a":{"b":[}]}}',
        b'{"a":"x"1}',
    ],
)
def test_what_is_not_one_object_is_an_error(wrong: bytes) -> None:
    with pytest.raises(ScanError):
        pairs(wrong)


def test_brackets_that_do_not_match_are_an_error_with_its_place() -> None:
    with pytest.raises(ScanError) as e:
        value_end(b'  {"a":[1}', 2)
    assert e.value.offset == 7
    with pytest.raises(ScanError) as e:
        spans(b'{"a":1},{"a":[1}')
    assert e.value.offset == 15


@pytest.mark.parametrize(
    "make",
    [
        lambda n: b'{"a":' * n,
        lambda n: b'[{"a":"' * n,
        lambda n: b'["' + b"\\" * n,
        lambda n: b'["' + b'\\"' * n,
        lambda n: b"[" + b'{"a":[1]},' * n,
        lambda n: b"[" + b'"a","' * n,
        lambda n: b"[" + b'{"a":{"b":{"c":{"d":1}}}},' * n,
    ],
)
def test_scanning_is_linear(make: Any) -> None:
    def cost(n: int) -> float:
        data = make(n)
        begun = time.process_time()
        ValueScanner().feed(data)
        return time.process_time() - begun

    small = max(min(cost(20_000) for _ in range(3)), 0.0005)
    assert cost(320_000) < 16 * 5 * small
