"""onConflict: what is there already, in the table or earlier in the file, under every kind of key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
import pytest
from fix_restore import Record, Restore
from hypothesis import example, given
from hypothesis import strategies as st
from properties import examples
from restorer.events import AnyEvent, BatchLoaded
from restorer.load.asking import Asking
from restorer.load.keys import Keyed
from restorer.load.stage import Stage
from restorer.load.staged import Staged

T = TypeVar("T")
POLICIES = ("Skip", "Update", "Reject")


def twice(at: Restore, first: list[Record], second: list[Record], policy: str, batch: int = 5000):
    at.file("t", first).ok()
    return at.file("t", second).ok(on_conflict=policy, batch=batch)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("batch", [1, 5000])
def test_same_content_is_a_duplicate_and_other_content_a_conflict(at: Restore, policy: str, batch: int):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)")
    result = twice(
        at,
        [{"id": 1, "v": "a"}, {"id": 2, "v": "b"}],
        [{"id": 1, "v": "a"}, {"id": 2, "v": "x"}, {"id": 3, "v": "c"}],
        policy,
        batch,
    )
    other = {"Skip": "conflict", "Update": "updated", "Reject": "rejected"}[policy]
    assert result.counts() == {"inserted": 1, "duplicate": 1, other: 1}
    assert at.rows() == [(1, "a"), (2, "x" if policy == "Update" else "b"), (3, "c")]
    if policy == "Reject":
        assert result.rejects() == [(2, "UniqueViolation", "23505")]
        assert result.whole_rejects()[0]["constraint_name"] == "t_pkey"


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("content", ["b", "x"])
def test_a_row_that_another_worker_commits_meanwhile_is_counted_once(
    at: Restore, policy: str, content: str, monkeypatch: pytest.MonkeyPatch
):
    """The key of a row becomes visible between two statements of a merge (READ COMMITTED): the sums add up all the same."""
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)").file("t", [{"id": 1, "v": "a"}]).ok()
    count, times = Staged.count, []

    def beside(stage: Staged) -> int:
        if not times:
            at.db.execute("INSERT INTO t VALUES (2, %s)", (content,))
        times.append(1)
        return count(stage)

    monkeypatch.setattr(Staged, "count", beside)
    result = at.file("t", [{"id": 1, "v": "a"}, {"id": 2, "v": "b"}, {"id": 3, "v": "c"}]).ok(on_conflict=policy)
    other = {"Skip": "conflict", "Update": "updated", "Reject": "rejected"}[policy]
    expected = {"inserted": 1, "duplicate": 2} if content == "b" else {"inserted": 1, "duplicate": 1, other: 1}
    assert result.counts() == expected
    assert times


def levels(seen: list[AnyEvent]) -> dict[str, int]:
    """Records by the rung that settled them."""
    return dict(sum((Counter(e.levels) for e in seen if isinstance(e, BatchLoaded)), Counter[str]()))


@pytest.mark.parametrize("content", ["b", "x"])
def test_a_key_that_another_worker_commits_before_a_merge_writes_sends_no_row_to_the_row_rung(
    at: Restore, content: str, monkeypatch: pytest.MonkeyPatch
):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)").file("t", [{"id": 1, "v": "a"}]).ok()
    insert, times, seen = Stage.insert, [], list[AnyEvent]()

    def beside(stage: Stage, which: list[int] | None = None) -> int:
        if len(times) < 2:  # a second one is first with another key when it is tried again
            at.db.execute("INSERT INTO t VALUES (%s, %s)", (2 + len(times), content))
        times.append(1)
        return insert(stage, which)

    monkeypatch.setattr(Stage, "insert", beside)
    result = at.file("t", [{"id": i, "v": "b"} for i in range(1, 6)]).ok(emit=seen.append)
    others = {"duplicate": 2, "conflict": 1} if content == "b" else {"conflict": 3}
    assert result.counts() == {"inserted": 2, **others} and len(times) == 3
    assert levels(seen) == {"Merge": 5}


@pytest.mark.parametrize("query", [True, False])
def test_a_key_that_another_worker_commits_after_the_probe_does_not_stage_the_batch(
    at: Restore, query: bool, monkeypatch: pytest.MonkeyPatch
):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)")
    times, seen = [], list[AnyEvent]()

    def beside(look: Callable[..., T]) -> Callable[..., T]:
        def looking(*args: Any, **kwargs: Any) -> T:
            found = look(*args, **kwargs)
            if not times:
                at.db.execute("INSERT INTO t VALUES (3, 'other')")
            times.append(1)
            return found

        return looking

    monkeypatch.setattr(Keyed, "colliding", beside(Keyed.colliding))
    monkeypatch.setattr(Asking, "ask", beside(Asking.ask))
    monkeypatch.setattr(Asking, "possible", staticmethod(lambda *_: query))
    records = [{"id": i, "v": "b"} for i in (1, 2, 3, 4, 1)]
    result = at.file("t", records).ok(emit=seen.append, verification={"rowCounts": False})
    assert result.counts() == {"inserted": 3, "duplicate": 1, "conflict": 1}
    assert levels(seen) == {"Exact": 2, "Merge": 3} and len(times) == 2


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("batch", [2, 5000])
def test_within_the_file_the_first_counts_and_under_update_the_last(at: Restore, policy: str, batch: int):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)")
    records = [{"id": i % 3, "v": v} for i, v in enumerate("aaabbbaaaccc")]
    result = at.file("t", records).ok(on_conflict=policy, batch=batch)
    assert at.rows() == [(i, "c" if policy == "Update" else "a") for i in range(3)]
    if policy == "Update":
        assert result.counts()["inserted"] == 3 and result.counts()["updated"] == 9
    else:
        assert result.counts() == {"inserted": 3, "duplicate": 3, "conflict" if policy == "Skip" else "rejected": 6}


@pytest.mark.parametrize("policy", POLICIES)
def test_composite_keys_need_all_their_columns_alike(at: Restore, policy: str):
    at.schema("CREATE TABLE t (a int, b text, v int, PRIMARY KEY (b, a))")
    result = twice(
        at,
        [{"a": 1, "b": "x", "v": 1}],
        [{"a": 1, "b": "y", "v": 1}, {"a": 2, "b": "x", "v": 1}, {"a": 1, "b": "x", "v": 2}],
        policy,
    )
    assert result.counts()["inserted"] == 2
    assert at.value("SELECT v FROM t WHERE a = 1 AND b = 'x'") == (2 if policy == "Update" else 1)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "key",
    [
        "UNIQUE (e)",
        "UNIQUE (e) DEFERRABLE INITIALLY DEFERRED",
        "UNIQUE (e) DEFERRABLE INITIALLY IMMEDIATE",
        "EXCLUDE (e WITH =)",
    ],
)
def test_a_second_key_is_a_conflict_or_a_reject_but_never_an_update(at: Restore, policy: str, key: str):
    at.schema(f"CREATE TABLE t (id int PRIMARY KEY, e text, {key})")
    result = twice(
        at,
        [{"id": 1, "e": "a"}],
        [{"id": 2, "e": "a"}, {"id": 3, "e": "b"}, {"id": 4, "e": "b"}, {"id": 5, "e": None}, {"id": 6, "e": None}],
        policy,
    )
    assert at.rows() == [(1, "a"), (3, "b"), (5, None), (6, None)]
    lost = "conflict" if policy == "Skip" and "UNIQUE" in key else "rejected"
    assert result.counts() == {"inserted": 3, lost: 2}
    assert ("Row" in result.levels) == ("UNIQUE" not in key), "set queries see every unique constraint"


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("where", ["(lower(e))", "(e) WHERE e <> 'free'"])
def test_expression_and_partial_unique_indexes_are_found_row_by_row(at: Restore, policy: str, where: str):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, e text)", f"CREATE UNIQUE INDEX u ON t {where}")
    second = [{"id": i, "e": f"e{i}"} for i in range(10, 30)] + [{"id": 30, "e": "a"}, {"id": 31, "e": "e12"}]
    result = twice(at, [{"id": 1, "e": "a"}], second, policy)
    assert result.counts() == {"inserted": 20, "conflict" if policy == "Skip" else "rejected": 2}
    if policy != "Skip":
        assert {r["constraint_name"] for r in result.whole_rejects()} == {"u"}


def test_nulls_not_distinct_are_one_key(at: Restore):
    if at.db.info.server_version < 150000:
        pytest.skip("PostgreSQL 15 and newer")
    at.schema("CREATE TABLE t (id int PRIMARY KEY, e text, UNIQUE NULLS NOT DISTINCT (e))")
    result = at.file("t", [{"id": 1, "e": None}, {"id": 2, "e": None}, {"id": 3, "e": "x"}]).ok()
    assert at.rows() == [(1, None), (3, "x")]
    assert at.file("t", [{"id": 4, "e": None}]).ok().counts() == {"conflict": 1}
    assert result.counts() == {"inserted": 2, "conflict": 1}


def test_without_a_primary_key_the_first_key_without_nulls_says_who_is_who(at: Restore):
    at.schema("CREATE TABLE t (a int NOT NULL UNIQUE, v text)")
    result = twice(at, [{"a": 1, "v": "x"}], [{"a": 1, "v": "y"}, {"a": 1, "v": "y"}, {"a": 2, "v": "z"}], "Update")
    assert at.rows() == [(1, "y"), (2, "z")]
    assert result.counts()["inserted"] == 1


@given(
    there=st.lists(st.sampled_from("ab"), max_size=2),
    records=st.lists(st.tuples(st.integers(0, 1), st.sampled_from("abc")), min_size=1, max_size=7),
    policy=st.sampled_from(POLICIES),
)
@example(there=["a"], records=[(0, "b"), (0, "a")], policy="Update")  # back to what the table has
@example(there=["a"], records=[(0, "a"), (0, "a"), (0, "b"), (0, "a")], policy="Update")
@examples(40)
def test_records_count_as_if_they_came_one_after_the_other(
    at: Restore, there: list[str], records: list[tuple[int, str]], policy: str
):
    rows, counts = dict(enumerate(there)), Counter[str]()
    other = {"Skip": "conflict", "Update": "updated", "Reject": "rejected"}[policy]
    for key, value in records:
        counts["inserted" if key not in rows else "duplicate" if rows[key] == value else other] += 1
        if key not in rows or policy == "Update":
            rows[key] = value
    for batch in (1, 2, 5000):
        at.schema("DROP TABLE IF EXISTS t", "CREATE TABLE t (id int PRIMARY KEY, v text)")
        for key, value in enumerate(there):
            at.db.execute("INSERT INTO t VALUES (%s, %s)", (key, value))
        result = at.file("t", [{"id": key, "v": value} for key, value in records]).ok(batch=batch, on_conflict=policy)
        assert (at.rows(), result.counts()) == (sorted(rows.items()), counts), batch


def test_without_any_key_every_record_is_a_row(at: Restore):
    at.schema("CREATE TABLE t (v text)")
    result = twice(at, [{"v": "a"}], [{"v": "a"}, {"v": "a"}], "Skip")
    assert result.counts() == {"inserted": 2}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_nullable_key_alone_still_keeps_its_rows_apart(at: Restore, policy: str):
    at.schema("CREATE TABLE t (e text UNIQUE, v int)")
    result = twice(
        at,
        [{"e": "a", "v": 1}, {"e": None, "v": 1}],
        [{"e": "a", "v": 1}, {"e": "a", "v": 2}, {"e": None, "v": 1}, {"e": "b", "v": 1}, {"e": "b", "v": 1}],
        policy,
    )
    assert at.rows("SELECT * FROM t ORDER BY 1, 2") == [("a", 1), ("b", 1), (None, 1), (None, 1)]
    assert result.counts() == {"inserted": 2, "duplicate": 2, "conflict" if policy == "Skip" else "rejected": 1}


def test_update_writes_every_given_column_and_nothing_else(at: Restore):
    at.schema(
        "CREATE TABLE t (id int PRIMARY KEY, a int, b int DEFAULT 5, c text NOT NULL, d int, g int GENERATED ALWAYS AS (a + 1) STORED, "
        "i int GENERATED ALWAYS AS IDENTITY)",
        "INSERT INTO t (id, a, b, c, d) SELECT n, n, n, 'c' || n, n FROM generate_series(1, 4) n",
    )
    records = [
        {"id": 1, "a": 10, "b": 20, "c": "x"},
        {"id": 2, "a": 10, "c": "y"},
        {"id": 3, "b": None, "i": 99},
        {"id": 4, "c": "z", "i": 4},
        {"id": 5, "c": "new", "i": 5},
    ]
    result = at.file("t", records).ok(on_conflict="Update")
    assert at.rows() == [
        (1, 10, 20, "x", 1, 11, 1), (2, 10, 2, "y", 2, 11, 2), (3, 3, None, "c3", 3, 4, 3), (4, 4, 4, "z", 4, 5, 4),
        (5, None, 5, "new", None, None, 5),
    ]  # fmt: skip
    assert result.counts() == {"inserted": 1, "updated": 4}


@pytest.mark.parametrize("policy", ["Skip", "Update"])
@pytest.mark.parametrize("batch", [3, 5000])
def test_one_key_in_records_of_different_shapes_goes_by_their_order(at: Restore, policy: str, batch: int):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, a int DEFAULT 7, b int)")
    records = [
        {"id": 1, "a": 1, "b": 1},
        {"id": 2, "b": 1},
        {"id": 1, "b": 2},
        {"id": 2, "a": 3, "b": 3},
        {"id": 3, "a": 3},
    ]
    at.file("t", records).ok(on_conflict=policy, batch=batch)
    if policy == "Update":
        assert at.rows() == [(1, 1, 2), (2, 3, 3), (3, 3, None)]
    else:
        assert at.rows() == [(1, 1, 1), (2, 7, 1), (3, 3, None)]


def test_a_row_that_lost_its_key_does_not_take_another_ones(at: Restore):
    """One after the other: 2 loses its e to 1, so a later record may have id 2."""
    at.schema("CREATE TABLE t (id int PRIMARY KEY, e text UNIQUE)")
    records = [{"id": 1, "e": "a"}, {"id": 2, "e": "a"}, {"id": 2, "e": "b"}, {"id": 3, "e": "b"}, {"id": 3, "e": "c"}]
    result = at.file("t", records).ok()
    assert at.rows() == [(1, "a"), (2, "b"), (3, "c")]
    assert result.counts() == {"inserted": 3, "conflict": 2}


@pytest.mark.parametrize("batch", [1, 2, 5000])
def test_a_key_that_an_update_lets_go_of_may_be_taken_by_the_next_record(at: Restore, batch: int):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, slug text UNIQUE)").file("t", [{"id": 2, "slug": "x"}]).ok()
    at.file("t", [{"id": 2, "slug": "y"}, {"id": 1, "slug": "x"}, {"id": 3, "slug": "x"}])
    result = at.ok(on_conflict="Update", batch=batch)
    assert at.rows() == [(1, "x"), (2, "y")]
    assert result.counts() == {"inserted": 1, "updated": 1, "rejected": 1}
    result = at.file("t", [{"id": 3, "slug": "x"}, {"id": 1, "slug": "z"}]).ok(on_conflict="Update", batch=batch)
    assert at.rows() == [(1, "z"), (2, "y")]  # it came too early
    assert result.counts() == {"updated": 1, "rejected": 1}


def test_a_bad_first_record_does_not_cost_the_good_second_one_of_its_key(at: Restore):
    at.schema(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.v = 'bad' THEN RAISE EXCEPTION 'no: %', NEW.v; "
        "END IF; RETURN NEW; END $$",
        "CREATE TABLE t (id int PRIMARY KEY, v text CHECK (v <> 'check'), p int REFERENCES t)",
        "CREATE TRIGGER no BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION no()",
    )
    records = [
        {"id": 1, "v": "bad"},
        {"id": 1, "v": "good"},
        {"id": 2, "v": "check"},
        {"id": 2, "v": "good"},
        {"id": 2, "v": "good"},
    ]
    result = at.file("t", records).ok()
    assert at.rows("SELECT id, v FROM t ORDER BY 1") == [(1, "good"), (2, "good")]
    assert result.counts() == {"inserted": 2, "duplicate": 1, "rejected": 2}


@pytest.mark.parametrize("policy", POLICIES)
def test_keys_that_ignore_case_are_one_key_but_not_one_content(at: Restore, policy: str):
    try:
        at.schema("CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this server has no ICU")
    at.schema(
        "CREATE TABLE t (e text COLLATE ci PRIMARY KEY, v text COLLATE ci)",
    )
    result = twice(
        at,
        [{"e": "Ann", "v": "x"}],
        [{"e": "ann", "v": "x"}, {"e": "ANN", "v": "X"}, {"e": "bob", "v": "y"}, {"e": "BOB", "v": "y"}],
        policy,
    )
    assert len(at.rows()) == 2
    if policy == "Skip":
        assert result.counts() == {"inserted": 1, "duplicate": 2, "conflict": 1}


SAME = [  # type, one, the other, whether the content is the same
    ("numeric", "1.0", "1.00", True), ("float8", '"NaN"', '"NaN"', True), ("float8", "0.1", "0.10", True),
    ("json", '{"a":1}', '{"a":1}', True), ("json", '{"a":1}', '{"a":2}', False),
    ("jsonb", '{"a":1,"b":2}', '{"b":2,"a":1}', True), ("jsonb", '{"a":[1.0]}', '{"a":[1.00]}', True),
    ("jsonb", '{"a":1}', '{"a":2}', False), ("jsonb", '{"a":1}', "null", False), ("jsonb", "null", "null", True),
    ("text", '"a"', '"A"', False), ("text", "null", "null", True),
    ("text", '""', "null", False), ("int[]", "[1,null]", "[1,null]", True), ("int[]", "[1]", "[2]", False),
    ("timestamptz", '"2024-01-01T00:00:00Z"', '"2024-01-01T01:00:00+01:00"', True), ("bytea", '"\\\\x00"', '"\\\\x01"', False),
    ("point", '"(1,2)"', '"(1,2)"', True), ("interval", '"1 day"', '"24:00:00"', False),
    ("int4range", '"[1,3)"', '"[1,2]"', True), ("tsvector", '"a b"', '"b a"', True), ("char(3)", '"a"', '"a  "', True),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "one", "other", "same"), SAME, ids=[f"{s[0]}-{s[1]}-{s[2]}" for s in SAME])
def test_content_is_compared_by_what_it_means(at: Restore, kind: str, one: str, other: str, same: bool):
    at.schema(f"CREATE TABLE t (id int PRIMARY KEY, v {kind})")
    at.file("t", f'[{{"id":1,"v":{one}}}]'.encode()).ok()
    result = at.file("t", f'[{{"id":1,"v":{other}}},{{"id":2,"v":{one}}},{{"id":2,"v":{other}}}]'.encode()).ok()
    assert result.counts() == {"inserted": 1, "duplicate" if same else "conflict": 2}


def test_a_batch_of_nothing_but_one_key_is_no_square(at: Restore):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, e text UNIQUE, v int)")
    result = at.file("t", [{"id": 1, "e": "e", "v": i} for i in range(20_000)]).ok(batch=20_000)
    assert result.counts() == {"inserted": 1, "conflict": 19_999}
    assert result.report.seconds <= 5


@pytest.mark.slow
@pytest.mark.parametrize("analyzed", [False, True])
@pytest.mark.parametrize(
    ("mode", "policy"), [("Apply", "Skip"), ("Apply", "Update"), ("DryRun", "Skip"), ("DryRun", "Update")]
)
def test_a_batch_costs_the_same_beside_a_large_table(at: Restore, analyzed: bool, mode: str, policy: str):
    at.schema(
        "CREATE TABLE p (id int PRIMARY KEY)",
        "INSERT INTO p SELECT generate_series(1, 500000)",
        "CREATE TABLE t (id int PRIMARY KEY, p int REFERENCES p, e text UNIQUE, parent int REFERENCES t, v text)",
        "INSERT INTO t SELECT n, 1, 'e' || n, NULL, 'v' FROM generate_series(1, 500000) n",
    )
    if analyzed:
        at.schema("ANALYZE")
    records = [
        {
            "id": i + 600_000 * (i % 2),
            "p": i * 7 % 500_000 + 1,
            "e": f"{'x' if i % 2 else 'e'}{i}",
            "parent": i // 2 or None,
            "v": "w",
        }
        for i in range(1, 20_001)
    ]
    at.file("t", records).ok(mode=mode, on_conflict=policy)
    times = [e.seconds for e in at.events if isinstance(e, BatchLoaded)]
    assert len(times) >= 4 and sorted(times)[len(times) // 2] < 1.0
