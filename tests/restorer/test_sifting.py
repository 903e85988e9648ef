"""Good rows go by COPY in spite of bad neighbours, and what becomes of each row is what the whole stage would say."""

from __future__ import annotations

from typing import Any

import pytest
from fix_restore import Restore, Result
from fix_sifting import SIFTING, again
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from restorer.load import ladder
from restorer.load.experience import Experience

SCHEMA = (
    "CREATE TABLE p (id int PRIMARY KEY)",
    "INSERT INTO p VALUES (1), (2), (3)",
    "CREATE TABLE t (id int PRIMARY KEY, slug text UNIQUE, p int REFERENCES p, n int NOT NULL DEFAULT 5 CHECK (n < 90), body text, "
    "ip inet)",
)


def _spoiled(kinds: int = 6) -> list[dict[str, Any]]:
    """2,000 records, every 20th of them bad, or a copy of an earlier one."""
    records = [{"id": i, "slug": f"s{i}", "p": i % 3 + 1, "n": 1, "body": "é" * 20} for i in range(2000)]
    bad: list[dict[str, Any]] = [
        {"p": 9},
        {"n": 95},
        {"n": None},
        {"n": "x"},
        {"id": 7},
        {"slug": "s3", "body": "other"},
    ]
    for at in range(20, 2000, 20):
        records[at] |= bad[at // 20 % kinds]
    return records


def test_only_those_that_collide_are_staged(at: Restore):
    at.schema(*SCHEMA)
    result = at.file("t", _spoiled()).ok(batch=500)
    assert result.counts() == {"inserted": 1901, "conflict": 32, "rejected": 67}
    by_level = {f.level: (f.batches, f.records) for f in result.report.fallback}
    assert by_level["Merge"][0] >= 4
    assert by_level["Exact"][1] >= 1890, by_level
    assert {(reason, state) for _, reason, state in result.rejects()} == {
        ("MissingParent", "23503"), ("CheckViolation", "23514"), ("NullViolation", "23502"), ("InvalidValue", "22P02"),
    }  # fmt: skip


def test_what_a_probe_does_not_see_goes_the_long_way_and_the_next_batches_at_once(at: Restore):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, d jsonb, body text)")
    row = '{"id": %d, "d": %s, "body": "x"}'
    text = ", ".join(row % (2 if i == 3 else i, "1e999999" if i % 40 == 0 else "1") for i in range(400))
    result = at.file("t", f"[{text}]".encode()).ok(batch=100)
    assert result.counts() == {"inserted": 389, "duplicate": 1, "rejected": 10}
    assert sum("by Merge" in each.message for each in again(at)) <= 3, again(at)  # all by the first batch


def test_what_only_the_server_can_read_stages_no_whole_batch(at: Restore):
    at.schema(
        "CREATE DOMAIN small AS int CHECK (VALUE < 50)",
        "CREATE TABLE t (id int PRIMARY KEY, d small, ip inet, many small[], body text)",
    )
    bad: list[dict[str, Any]] = [{"d": 99}, {"ip": "10.0.0"}, {"many": [1, 77]}, {"id": 2}]
    good = {"d": 1, "ip": "10.0.0.1", "many": [1], "body": "x"}
    records = [{"id": i} | good | (bad[i // 40 % 4] if i % 40 == 39 else {}) for i in range(400)]
    result = at.file("t", records).ok(batch=100)
    assert result.counts() == {"inserted": 390, "duplicate": 2, "rejected": 8}
    assert {(r["column_name"], r["reason"]) for r in result.whole_rejects()} == {
        ("d", "CheckViolation"), ("ip", "InvalidValue"), ("many", "CheckViolation")
    }  # fmt: skip
    by_level = {f.level: f.records for f in result.report.fallback}
    assert by_level["Exact"] >= 380, by_level


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("int8", "{}"), ("numeric", "{}.50"), ("text", '"{:03}"'), ("timestamptz", '"2024-01-01T00:00:00.{:03}Z"'),
        ("date", '"{:04}-01-01"'),
    ],
)  # fmt: skip
@pytest.mark.parametrize("falling", [False, True])
def test_a_probe_sees_the_last_key_of_the_batch_before(at: Restore, kind: str, key: str, falling: bool):
    at.schema(f"CREATE TABLE t (id {kind} UNIQUE, n int NOT NULL, body text)")
    # each batch but the first begins with the key that the one before ends with
    order = [i - (i % 50 == 0 < i) for i in range(400)]
    keys = [key.format(500 - i if falling else i) for i in order] + ["null", "null"]
    rows = [f'{{"id":{k},"n":{"1" if i % 50 != 20 else "null"},"body":"x"}}' for i, k in enumerate(keys)]
    result = at.file("t", f"[{','.join(rows)}]".encode()).ok(batch=50)
    assert result.counts() == {"inserted": 402 - 7 - 8, "duplicate": 7, "rejected": 8}
    assert len(again(at)) <= 3, again(at)  # all by the first batch: nothing came as a surprise to the server


def test_rows_there_already_in_great_number_are_staged_whole_and_others_sifted_again(at: Restore):
    at.schema(*SCHEMA)
    records = [r for i, r in enumerate(_spoiled(1)) if i % 20 or i >= 1000]
    at.file("t", records[:950]).ok(batch=500)
    result = at.file("t", records).ok(batch=100)
    assert result.counts() == {"inserted": len(records) - 950 - 50, "duplicate": 950, "rejected": 50}
    by_level = {f.level: f.records for f in result.report.fallback}
    assert by_level["Exact"] > 700, by_level


def _row(small: st.SearchStrategy[int]) -> st.SearchStrategy[dict[str, Any]]:
    row = {
        "id": small, "slug": st.sampled_from(["x", "y", "z", None]), "p": st.sampled_from([1, 2, 9, None]),
        "n": st.sampled_from([1, 2, 95, None, "bad"]), "ip": st.sampled_from(["::1", "bad", None]), "body": st.sampled_from(["", "a,b\"c", None]),
    }  # fmt: skip
    return st.fixed_dictionaries({"id": row["id"]}, optional={k: v for k, v in row.items() if k != "id"})


@given(
    st.lists(_row(st.integers(1, 12)), min_size=1, max_size=14),
    st.sampled_from(["Skip", "Update", "Reject"]),
    st.data(),
)
@examples(60)
def test_a_probe_and_a_whole_stage_say_the_same(at: Restore, records: list[Any], policy: str, data: st.DataObject):
    batch = data.draw(st.sampled_from([2, 5, 100]))
    first = {"id": 12, "slug": "x", "p": 1, "n": 2, "body": None}

    def load(sift: bool) -> tuple[Any, ...]:
        at.schema("DROP TABLE IF EXISTS t, p CASCADE", *SCHEMA, "INSERT INTO t VALUES (12, 'x', 1, 2, NULL)")
        with pytest.MonkeyPatch.context() as patch:
            if not sift:
                patch.setattr(ladder, "probe_columns", lambda _: None)
            result: Result = at.file("t", [first, *records]).ok(batch=batch, on_conflict=policy)
        return at.rows(), result.counts(), result.rejects()

    assert load(True) == load(False)


CYCLES = {
    "itself": (
        "CREATE TABLE p (id int PRIMARY KEY)",
        "INSERT INTO p VALUES (1), (2), (3)",
        "CREATE TABLE t (id int PRIMARY KEY, slug text UNIQUE, up int REFERENCES t, p int REFERENCES p, "
        "n int NOT NULL DEFAULT 5 CHECK (n < 90), body text)",
    ),
    "by its slug": (
        "CREATE TABLE p (id int PRIMARY KEY)",
        "INSERT INTO p VALUES (1), (2), (3)",
        "CREATE TABLE t (id int, slug text PRIMARY KEY, up text, p int REFERENCES p, n int NOT NULL DEFAULT 5 CHECK (n < 90), body text)",
        "CREATE UNIQUE INDEX ON t (id)",
        "ALTER TABLE t ADD FOREIGN KEY (up) REFERENCES t (slug)",
    ),
    "with a key that nobody sees": (
        "CREATE TABLE p (id int PRIMARY KEY)",
        "INSERT INTO p VALUES (1), (2), (3)",
        "CREATE TABLE t (id int PRIMARY KEY, slug text UNIQUE, up int REFERENCES t, p int REFERENCES p, "
        "n int NOT NULL DEFAULT 5 CHECK (n < 90), body text, key int GENERATED ALWAYS AS (id % 3 * 10 + n % 4) STORED UNIQUE)",
    ),
    "with a key of defaults": (
        "CREATE TABLE p (id int PRIMARY KEY)",
        "INSERT INTO p VALUES (1), (2), (3)",
        "CREATE TABLE t (id int PRIMARY KEY, slug text, up int REFERENCES t, p int REFERENCES p, "
        "n int NOT NULL DEFAULT 5 CHECK (n < 90), body text, UNIQUE (slug, n))",
    ),
    "by another table": (
        "CREATE TABLE p (id int PRIMARY KEY, back int, body text)",
        "CREATE TABLE t (id int PRIMARY KEY, slug text UNIQUE, up int REFERENCES p, p int REFERENCES p, "
        "n int NOT NULL DEFAULT 5 CHECK (n < 90), body text)",
        "ALTER TABLE p ADD FOREIGN KEY (back) REFERENCES t (id)",
    ),
}


def _one_of_a_cycle(ups: list[Any]) -> st.SearchStrategy[dict[str, Any]]:
    row = {
        "id": st.integers(1, 12), "slug": st.sampled_from([*"abcdefgh", None]), "up": st.sampled_from(ups),
        "p": st.sampled_from([1, 2, 3, 9, None]), "n": st.sampled_from([1, 2, 3, 95, None, "bad"]), "body": st.sampled_from(["", None]),
    }  # fmt: skip
    return st.fixed_dictionaries(
        {"id": row["id"], "up": row["up"]}, optional={k: row[k] for k in ("slug", "p", "n", "body")}
    )


@pytest.mark.parametrize("cycle", CYCLES)
@given(st.sampled_from(["Skip", "Update", "Reject"]), st.data())
@examples(20)
def test_in_a_cycle_too(at: Restore, cycle: str, policy: str, data: st.DataObject):
    ups = [*"abcdefghz", None] if cycle == "by its slug" else [*range(1, 14), None]
    records = data.draw(st.lists(_one_of_a_cycle(ups), min_size=1, max_size=14))
    backs = data.draw(st.lists(st.integers(1, 14), min_size=4, max_size=4))
    batch = data.draw(st.sampled_from([2, 5, 100]))
    first = {"id": 12, "slug": "a", "up": None, "p": None, "n": 2, "body": None}

    def load(sift: bool) -> tuple[Any, ...]:
        there = "INSERT INTO t (id, slug, n) VALUES (12, 'a', 2), (20, 'h', 7)"
        at.schema("DROP TABLE IF EXISTS t, p CASCADE", *CYCLES[cycle], there)
        if cycle == "by another table":
            at.file("p", [{"id": n, "back": back, "body": ""} for n, back in enumerate(backs, 1)])
        with pytest.MonkeyPatch.context() as patch:
            if sift:
                patch.setattr(Experience, "way", SIFTING, raising=False)
            else:
                patch.setattr(ladder, "probe_columns", lambda _: None)
            result: Result = at.file("t", [first, *records]).ok(batch=batch, on_conflict=policy)
        tables = [(name, result.counts(name), result.rejects(name)) for name in sorted(result.tables)]
        assert at.value("SELECT count(*) FROM dbrestore.waiting_keys") == 0
        return at.rows(), tables

    assert load(True) == load(False)


@pytest.mark.parametrize(
    ("key", "more", "other"),
    [
        ("k text GENERATED ALWAYS AS (lower(slug)) STORED UNIQUE", {}, {"slug": "A"}),
        ("k int NOT NULL DEFAULT 0, UNIQUE (slug, k)", {"k": 0}, {"slug": "a"}),
    ],
)
def test_in_a_cycle_the_first_of_two_records_counts_also_with_a_key_that_nobody_sees(
    at: Restore, monkeypatch: pytest.MonkeyPatch, key: str, more: dict[str, Any], other: dict[str, Any]
):
    """The first one's parent shares its own key with another record, and so goes in later than most."""
    monkeypatch.setattr(Experience, "way", SIFTING, raising=False)
    at.schema(
        f"CREATE TABLE t (id int PRIMARY KEY, slug text, up int REFERENCES t, n int CHECK (n < 90), body text, {key})"
    )
    firsts = [
        {"id": 9, "slug": "z", "n": 95},
        {"id": 1, "slug": "p"},
        {"id": 1, "slug": "q"},
        {"id": 2, "slug": "a", "up": 1},
    ]
    at.file("t", [*(first | more for first in firsts), {"id": 3, **other}])
    assert at.ok().counts() == {"inserted": 2, "conflict": 2, "rejected": 1}
    assert at.rows("SELECT id FROM t ORDER BY 1") == [(1,), (2,)]


def test_under_update_a_key_that_is_let_go_of_in_a_cycle_is_nobodys_parent_any_more(
    at: Restore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Experience, "way", SIFTING, raising=False)
    at.schema(
        "CREATE TABLE t (id int PRIMARY KEY, slug text UNIQUE, up text REFERENCES t (slug), body text)",
        "INSERT INTO t VALUES (12, 'a')",
    )
    result = at.file(
        "t", [{"id": 12, "slug": "q", "up": None, "body": ""}, {"id": 1, "slug": "b", "up": "a", "body": ""}]
    ).ok(on_conflict="Update")
    assert result.counts() == {"updated": 1, "rejected": 1}


def test_rows_of_a_cycle_that_need_not_wait_are_sifted(at: Restore):
    """Of three records one has no parent, one has it before itself, one has it in the next batch or the one after."""
    at.schema("CREATE TABLE t (id int PRIMARY KEY, up int REFERENCES t, n int NOT NULL CHECK (n < 90), body text)")
    ups = [(None, i - 1, min((i + 150) // 3 * 3, 999))[i % 3] for i in range(1000)]
    bad = set(range(20, 1000, 50))
    records = [{"id": i, "up": up, "n": 95 if i in bad else 1, "body": "é"} for i, up in enumerate(ups)]
    result = at.file("t", records).ok(batch=100)
    orphans = {i for i, up in enumerate(ups) if up in bad} - bad
    assert orphans
    assert result.counts() == {"inserted": 1000 - len(bad | orphans), "rejected": len(bad | orphans)}
    assert sorted(reason for _, reason, _ in result.rejects()) == ["CheckViolation"] * 20 + ["MissingParent"] * len(
        orphans
    )
    by_level = {f.level: f.records for f in result.report.fallback}
    assert by_level["Exact"] > 600, by_level


def test_what_the_server_never_reads_as_it_stands_is_not_tried_each_time(at: Restore):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, n int)")
    rows = [f'{{"id":{i},"n":{"1.0" if i < 100 else "1"}}}' for i in range(500)]
    result = at.file("t", f"[{','.join(rows)}]".encode()).ok(batch=5)
    assert result.counts() == {"inserted": 500}
    assert len(again(at)) <= 5, again(at)  # of 20 batches: the first, the third, the seventh …
    levels = {f.level: f.records for f in result.report.fallback}
    assert levels["Exact"] < 500, levels  # and it is tried again


@pytest.mark.parametrize("bad", [True, False])
def test_what_the_tables_before_were_like_says_how_the_next_one_begins(at: Restore, bad: bool):
    for name in ("a", "b", "c"):
        at.schema(f"CREATE TABLE {name} (id int PRIMARY KEY, n int CHECK (n < 90), body text)")
        rows = [{"id": i, "n": 95 if bad and i % 20 == 5 else 1, "body": "x"} for i in range(100)]
        at.file(name, rows)
    result = at.ok(batch=25)
    assert [result.counts(name).get("rejected", 0) for name in ("a", "b", "c")] == [5 * bad] * 3
    assert {each.table for each in again(at)} == ({"a"} if bad else set())
    levels = {f.level: f.records for f in result.report.fallback}
    assert ("Copy" in levels) is not bad


def test_clean_tables_behind_a_bad_one_go_straight_again(at: Restore):
    for number, name in enumerate(("a", "b", "c", "d")):
        at.schema(f"CREATE TABLE {name} (id int PRIMARY KEY, n int CHECK (n < 90), body text)")
        at.file(name, [{"id": i, "n": 95 if number == 0 and i % 20 == 5 else 1, "body": "x"} for i in range(100)])
    levels = {f.level: f.records for f in at.ok(batch=25).report.fallback}
    assert levels == {
        "Copy": 250,
        "Exact": 145,
        "Merge": 0,
        "Reject": 5,
    }  # the second table's first two batches, then all of the others
