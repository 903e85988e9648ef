"""A probe that is a query, and one that is a stage, say the same; where the query is not enough the stage is asked."""

from __future__ import annotations

from typing import Any

import pytest
from fix_restore import Restore, Result
from fix_sifting import SIFTING, again
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from restorer.load import ladder, merging
from restorer.load.asking import Asking
from restorer.load.experience import Experience
from restorer.load.merging import Merger

# Names that are not to be taken for parameters, nor for what the query itself has.
SCHEMA = (
    "DROP TABLE IF EXISTS t, p, q",
    "DO $$ BEGIN CREATE TYPE level AS ENUM ('low', 'mid, or \"so\"'); EXCEPTION WHEN duplicate_object THEN END $$",
    "CREATE TABLE p (id int PRIMARY KEY)",
    "CREATE TABLE q (a int, b text, PRIMARY KEY (a, b))",
    "INSERT INTO p VALUES (1), (2), (3)",
    "INSERT INTO q VALUES (1, 'x'), (2, 'y')",
    """CREATE TABLE t (
        id bigint PRIMARY KEY, "a %s" numeric(6, 1) UNIQUE, uid uuid UNIQUE, s text, which level, at timestamptz, p int REFERENCES p,
        b text, body text, CONSTRAINT "100 %" CHECK ("a %s" % 7 <> 3), UNIQUE (s, which), UNIQUE (at),
        CONSTRAINT kin FOREIGN KEY (p, b) REFERENCES q, CHECK (s <> 'x' OR b IS NOT NULL))""",
    "INSERT INTO t (id, \"a %s\", uid, s, body) VALUES (50, 5, '00000000-0000-4000-8000-0000000000ff', 'there', 'x')",
)

UIDS = [f"00000000-0000-4000-8000-0000000000{end}" for end in ("aa", "AA", "ff", "FF", "01", "02", "03")]
ROW = {
    "a %s": st.sampled_from([1, 1.0, "1", "1.04", 2, 3, "10", 5, 99999, None]),
    "uid": st.sampled_from([*UIDS, "{00000000-0000-4000-8000-000000000001}", None, "no uuid"]),
    "s": st.sampled_from(["x", "y", "null", "NULL", "", " ", "a,b", '"', "\\", "{}", "\u00e9", 7, True, None]),
    "which": st.sampled_from(["low", 'mid, or "so"', "high", None]),
    "at": st.sampled_from(["2024-01-01T00:00:00Z", "2024-01-01T01:00:00+01:00", "2024-13-01T00:00:00Z", None]),
    "p": st.sampled_from([1, "1", 2, 9, None]),
    "b": st.sampled_from(["x", "y", "z", None]),
    "body": st.sampled_from(["", "tab\t", None]),
}
RECORD = st.fixed_dictionaries(
    {"id": st.sampled_from([*range(1, 9), *map(str, range(1, 9)), "3n", 50, 4.0])}, optional=ROW
)


@given(
    st.lists(RECORD, min_size=1, max_size=12), st.sampled_from(["Skip", "Update", "Reject"]), st.sampled_from([3, 100])
)
@examples(100)
def test_a_query_a_probe_and_a_whole_stage_say_the_same(at: Restore, records: list[Any], policy: str, batch: int):
    whole = dict.fromkeys(ROW)

    def load(way: str, worth: int = 1 << 30) -> tuple[Any, ...]:
        at.schema(*SCHEMA)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(merging, "_WORTH", worth)
            patch.setattr(Experience, "way", SIFTING, raising=False)
            if way == "probe":
                patch.setattr(Asking, "possible", staticmethod(lambda *_: False))
            elif way == "stage":
                patch.setattr(ladder, "probe_columns", lambda _: None)
            rows = [whole | record for record in records]
            result: Result = at.file("t", rows).ok(batch=batch, on_conflict=policy)
        return at.rows(), result.counts(), result.rejects()

    found = load("query")
    assert found == load("probe") == load("stage")
    assert found == load("query", worth=0)  # and where it stands for the triggers of the foreign keys


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A number for each probe that is a stage."""
    found, stage = list[int](), Merger.stage

    def counted(self: Merger, *args: Any, narrow: bool = False, **kwargs: Any) -> Any:
        if narrow:
            found.append(1)
        return stage(self, *args, narrow=narrow, **kwargs)

    monkeypatch.setattr(Merger, "stage", counted)
    monkeypatch.setattr(Experience, "way", SIFTING, raising=False)
    return found


def test_where_a_query_serves_no_stage_is_filled(at: Restore, probes: list[int]):
    at.schema("CREATE TABLE p (id int PRIMARY KEY)", "INSERT INTO p VALUES (1)")
    at.schema("CREATE TABLE t (id int PRIMARY KEY, p int REFERENCES p, n int CHECK (n < 90), body text)")
    records: list[dict[str, Any]] = [{"id": i, "p": 1, "n": 1, "body": "x"} for i in range(200)]
    for i, bad in enumerate(({"p": 9}, {"n": 95}, {"id": 3, "body": "y"}, {"n": "x"}, {"n": None})):
        for at_ in range(10 + i, 200, 40):
            records[at_] |= bad
    result = at.file("t", records).ok(batch=20)
    assert result.counts() == {"inserted": 180, "conflict": 5, "rejected": 15}
    assert not probes and not again(at)


@pytest.mark.parametrize(
    ("kind", "key"), [("bigint", '"{}"'), ("uuid", '"00000000-0000-4000-8000-0000000{:05X}"'), ("numeric", "{}.0")]
)
def test_keys_that_are_spelled_in_two_ways_cost_a_few_batches(at: Restore, probes: list[int], kind: str, key: str):
    at.schema(f"CREATE TABLE t (id {kind} PRIMARY KEY, body text)")
    plain = '"00000000-0000-4000-8000-0000000{:05x}"' if kind == "uuid" else "{}"
    keys = [key.format(i - 1) if i % 10 == 5 else plain.format(i) for i in range(2700, 2900)]
    rows = [f'{{"id":{key},"body":"x"}}' for key in keys]
    result = at.file("t", f"[{','.join(rows)}]".encode()).ok(batch=20)
    assert result.counts() == {"inserted": 180, "duplicate": 20}
    assert len(again(at)) == 3 and len(probes) == 10  # the first three went twice


def test_the_first_of_three_counts_also_where_the_last_is_spelled_otherwise(at: Restore, probes: list[int]):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, k numeric UNIQUE, v text)")
    rows = [{"id": 1, "k": 1, "v": "a"}, {"id": 1, "k": 2, "v": "b"}, {"id": "1", "k": 3, "v": "c"}]
    rows += [{"id": 4, "k": 4, "v": "d"}, {"id": 4, "k": 5, "v": "e"}, {"id": 5, "k": 4.0, "v": "f"}]
    result = at.file("t", rows).ok(batch=3)
    assert result.counts() == {"inserted": 2, "conflict": 4}
    assert at.rows() == [(1, 1, "a"), (4, 4, "d")] and len(probes) == 2


def test_a_check_that_looks_at_the_whole_row_is_left_to_the_server(at: Restore, probes: list[int]):
    """The server spells it by the table's name, which means something else elsewhere."""
    whole_row = "CHECK (id IS NULL OR (to_jsonb(s) ->> 'body') IS NOT NULL)"
    at.schema(f"CREATE TABLE s (id int PRIMARY KEY, n int NOT NULL, body text, {whole_row})")
    rows = [
        {"id": 9, "n": None, "body": "x"},
        *({"id": i, "n": 1, "body": b} for i, b in ((1, "x"), (2, "x"), (2, "y"))),
    ]
    assert at.file("s", rows).ok().counts("s") == {"inserted": 2, "conflict": 1, "rejected": 1}
    assert not probes and not again(at)


UNSEEN = {
    "generated": ("k text GENERATED ALWAYS AS (lower(slug)) STORED UNIQUE", ["A", "b", "a"]),
    "of a default": ("k int NOT NULL DEFAULT 0, UNIQUE (slug, k)", ["a", "b", "a"]),
}


@pytest.mark.parametrize("key", UNSEEN)
@pytest.mark.parametrize("policy", ["Skip", "Update", "Reject"])
def test_the_first_counts_also_with_a_key_that_no_probe_sees(at: Restore, probes: list[int], key: str, policy: str):
    column, slugs = UNSEEN[key]
    at.schema(f"CREATE TABLE t (id int PRIMARY KEY, slug text, {column}, n int NOT NULL, body text)")
    bad = {"id": 9, "slug": "q", "n": None, "body": "x"}
    rows = [{"id": i, "slug": slug, "n": 1, "body": slug} for i, slug in zip((1, 1, 2), slugs, strict=True)]
    found = at.file("t", [bad, *rows]).ok(on_conflict=policy)
    if policy == "Update":  # the second one lets go of the key
        assert at.rows("SELECT id, slug FROM t ORDER BY id") == [(1, slugs[1]), (2, slugs[2])]
    else:
        assert at.rows("SELECT id, slug FROM t") == [(1, slugs[0])]
        assert found.counts().get({"Skip": "conflict", "Reject": "rejected"}[policy]) == (2 if policy == "Skip" else 3)


def test_the_first_counts_also_where_the_other_brings_a_column_that_has_a_default(at: Restore, probes: list[int]):
    at.schema(
        "CREATE TABLE t (id int PRIMARY KEY, slug text, k int NOT NULL DEFAULT 0, n int NOT NULL, body text, UNIQUE (slug, k))"
    )
    rows: list[dict[str, Any]] = [
        {"id": 9, "slug": "q", "k": 1, "n": None}, {"id": 1, "slug": "a", "n": 1}, {"id": 2, "slug": "a", "k": 0, "n": 1},
        {"id": 3, "slug": "b", "n": 1}, {"id": 4, "slug": "c", "k": 0, "n": 1},
    ]  # fmt: skip
    assert at.file("t", rows).ok().counts() == {"inserted": 3, "conflict": 1, "rejected": 1}
    assert [id_ for (id_,) in at.rows("SELECT id FROM t ORDER BY 1")] == [1, 3, 4]


@pytest.mark.parametrize("key", UNSEEN)
def test_records_of_two_shapes_go_in_one_by_one_only_where_somebody_has_a_key_twice(at: Restore, key: str):
    column, _ = UNSEEN[key]
    at.schema(f"CREATE TABLE t (id int PRIMARY KEY, slug text, {column}, n int NOT NULL DEFAULT 7, body text)")
    at.schema("INSERT INTO t (id, slug) VALUES (0, 'there')")  # so all goes by stages
    rows = [{"id": i, "slug": f"s{i}", "body": "x"} | ({"n": 1} if i % 3 else {}) for i in range(1, 60)]
    assert at.file("t", rows).ok(batch=20).counts() == {"inserted": 59}
    assert not again(at)
    rows = [{"id": 60 + i, "slug": slug, "body": "x"} | ({"n": 1} if i % 2 else {}) for i, slug in enumerate("abacb")]
    assert at.file("t", rows).ok(batch=20).counts() == {"inserted": 3, "conflict": 2}
    assert at.rows("SELECT id FROM t WHERE id >= 60 ORDER BY 1") == [(60,), (61,), (63,)]


def test_values_that_arrays_spell_otherwise_go_by_a_stage_at_once(at: Restore, probes: list[int]):
    at.schema("CREATE TABLE t (id text PRIMARY KEY, n int CHECK (n < 90), body text)")
    rows: list[dict[str, Any]] = [{"id": f"{i}\n", "n": 95 if i % 10 == 5 else 1, "body": "x"} for i in range(60)]
    result = at.file("t", rows).ok(batch=20)
    assert result.counts() == {"inserted": 54, "rejected": 6}
    assert len(probes) == 3 and not again(at)
    assert at.value("SELECT count(*) FROM t WHERE id LIKE E'%\\n'") == 54


def test_a_query_that_fails_is_asked_three_times(at: Restore, probes: list[int]):
    """As a CHECK does that divides by zero: the server itself would refuse that row alone."""
    at.schema("CREATE TABLE t (id int PRIMARY KEY, n int CHECK (100 / n > 1), body text)")
    rows: list[dict[str, Any]] = [{"id": i, "n": 0 if i % 20 == 5 else 1, "body": "x"} for i in range(100)]
    result = at.file("t", rows).ok(batch=20)
    assert result.counts() == {"inserted": 95, "rejected": 5}
    assert sum("query" in each.message for each in again(at)) == 3


@pytest.mark.parametrize("kind", ["text[]", "inet", "small"])
def test_what_cannot_stand_in_an_array_goes_by_a_stage(at: Restore, probes: list[int], kind: str):
    at.schema("CREATE DOMAIN small AS int CHECK (VALUE < 50)", f"CREATE TABLE t (id int PRIMARY KEY, k {kind} UNIQUE)")
    at.schema("ALTER TABLE t ADD body text")
    values: list[Any] = {"text[]": [["a"], ["b"]], "inet": ["::1", "::2"], "small": [1, 99]}[kind]
    rows = [{"id": i, "k": values[i % 2] if i < 4 else None, "body": "x"} for i in range(10)]
    result = at.file("t", rows).ok()
    good = {"inserted": 8, "conflict": 2} if kind != "small" else {"inserted": 7, "conflict": 1, "rejected": 2}
    assert result.counts() == good and len(probes) == 1
