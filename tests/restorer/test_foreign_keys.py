"""Children and parents in any order, in cycles, deferred; and only those without a parent are rejected."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from fix_restore import Restore
from restorer.database import paging, waiting

TREE = "CREATE TABLE t (id int PRIMARY KEY, parent int REFERENCES t {})"


@pytest.mark.parametrize(
    ("batch", "kind"), [(1, ""), (3, "ON DELETE CASCADE"), (7, "DEFERRABLE INITIALLY DEFERRED"), (5000, "")]
)
def test_children_before_parents_in_one_table(at: Restore, batch: int, kind: str):
    at.schema(TREE.format(kind))
    records = [{"id": i, "parent": i // 2 or None} for i in range(1, 101)] + [
        {"id": 200, "parent": 999},
        {"id": 201, "parent": 200},
    ]
    random.Random(1).shuffle(records)
    result = at.file("t", records).ok(batch=batch)
    assert at.rows() == [(i, i // 2 or None) for i in range(1, 101)]
    assert result.counts() == {"inserted": 100, "rejected": 2}
    assert {r["constraint_name"] for r in result.whole_rejects()} == {"t_parent_fkey"}
    assert sorted((o, bytes(r["record"])) for o, r in ((r["ordinal"], r) for r in result.whole_rejects())) == sorted(
        (n, b'{"id": %d, "parent": %d}' % (r["id"], r["parent"])) for n, r in enumerate(records, 1) if r["id"] >= 200
    )
    assert at.value("SELECT count(*) FROM dbrestore.deferred") == 0


@pytest.mark.parametrize("missing", [False, True])
def test_a_chain_in_reverse_order_is_no_square(at: Restore, missing: bool):
    at.schema(TREE.format("DEFERRABLE"))
    records = [{"id": i, "parent": i - 1 if i > 1 or missing else None} for i in range(12_000, 0, -1)]
    result = at.file("t", records).ok(batch=3000)
    assert result.counts() == ({"rejected": 12_000} if missing else {"inserted": 12_000})
    assert result.report.seconds <= 15


def test_rows_that_wait_are_settled_a_page_at_a_time(at: Restore, monkeypatch: pytest.MonkeyPatch):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, parent int REFERENCES t, v text, n int)")
    records: list[dict[str, object]] = [{"id": i, "parent": i - 1 or None, "v": "v" * 90} for i in range(50, 0, -1)]
    records[30] |= {"n": 1}  # id 20 brings another column
    records[20] |= {"v": "đ\u0000"}  # id 30 is bad, and so the 20 that hang on it have no parent
    monkeypatch.setattr(paging, "PAGE_BYTES", 300)
    chunks, seen = waiting.Waiting.chunks, list[int]()

    def counted(*args: Any) -> Iterator[list[Any]]:
        for rows in chunks(*args):
            seen.append(len(rows))
            yield rows

    monkeypatch.setattr(waiting.Waiting, "chunks", counted)
    result = at.file("t", records).ok(batch=3)
    assert result.counts() == {"inserted": 29, "rejected": 21}
    assert at.rows("SELECT id, n FROM t WHERE n IS NOT NULL") == [(20, 1)]
    assert 0 < max(seen) <= 4


@pytest.mark.slow
def test_fifty_thousand_rows_in_reverse_order(at: Restore):
    at.schema(TREE.format(""))
    records = [{"id": i, "parent": i // 2 or None} for i in range(50_000, 0, -1)]
    result = at.file("t", records).ok()
    assert result.counts() == {"inserted": 50_000}
    assert result.report.seconds <= 30


def test_two_tables_that_need_each_other_at_once(at: Restore):
    at.schema(
        "CREATE TABLE a (id int PRIMARY KEY, b int NOT NULL)", "CREATE TABLE b (id int PRIMARY KEY, a int NOT NULL REFERENCES a)",
        "ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b",
    )  # fmt: skip
    at.file("a", [{"id": i, "b": i} for i in range(1, 51)] + [{"id": 60, "b": 61}, {"id": 70, "b": 70}])
    at.file("b", [{"id": i, "a": i} for i in range(50, 0, -1)] + [{"id": 61, "a": 62}])
    result = at.ok(batch=7)
    assert at.rows("SELECT count(*), sum(b) FROM a") == [(50, 1275)]
    assert result.counts("a") == {"inserted": 50, "rejected": 2}
    assert result.counts("b") == {"inserted": 50, "rejected": 1}


def test_a_ring_of_three_tables_and_one_that_hangs_on_it(at: Restore):
    at.schema(
        "CREATE TABLE a (id int PRIMARY KEY, r int)", "CREATE TABLE b (id int PRIMARY KEY, r int REFERENCES a)",
        "CREATE TABLE c (id int PRIMARY KEY, r int REFERENCES b)", "ALTER TABLE a ADD FOREIGN KEY (r) REFERENCES c",
        "CREATE TABLE d (id int PRIMARY KEY, r int REFERENCES a)",
    )  # fmt: skip
    for name in "abcd":
        at.file(name, [{"id": i, "r": i} for i in range(20)] + [{"id": 30, "r": 31}])
    result = at.ok(batch=6)
    for name in "abcd":
        assert result.counts(name) == {"inserted": 20, "rejected": 1}


def test_a_trigger_that_refuses_one_of_a_ring_costs_that_ring_only(at: Restore):
    at.schema(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id % 10 = 7 THEN RAISE EXCEPTION 'seven'; "
        "END IF; RETURN NEW; END $$",
        "CREATE TABLE a (id int PRIMARY KEY, b int NOT NULL)", "CREATE TABLE b (id int PRIMARY KEY, a int NOT NULL REFERENCES a)",
        "ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b",
        "CREATE TRIGGER no AFTER INSERT ON b FOR EACH ROW EXECUTE FUNCTION no()",
    )  # fmt: skip
    at.file("a", [{"id": i, "b": i} for i in range(30)] + [{"id": 100, "b": 7}, {"id": 101, "b": 8}])
    at.file("b", [{"id": i, "a": i} for i in range(30)])
    result = at.ok(batch=7)
    assert result.counts("a") == {"inserted": 28, "rejected": 4}
    assert result.counts("b") == {"inserted": 27, "rejected": 3}
    assert {r[1] for r in result.rejects("b")} == {"TriggerRaised"}


def test_a_chain_with_a_trigger_settles_parents_first(at: Restore):
    at.schema(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id = 1000 THEN RAISE EXCEPTION 'no'; "
        "END IF; RETURN NEW; END $$",
        TREE.format(""),
        "CREATE TRIGGER no BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION no()",
    )
    records = [{"id": i, "parent": i - 1 if i > 1 else None} for i in range(1200, 0, -1)]
    result = at.file("t", records).ok(batch=300)
    assert at.value("SELECT count(*) FROM t") == 999
    assert result.counts() == {"inserted": 999, "rejected": 201}
    assert result.report.seconds <= 8


def test_match_full_and_match_simple_differ_over_a_single_null(at: Restore):
    at.schema(
        "CREATE TABLE p (a int, b int, PRIMARY KEY (a, b))", "INSERT INTO p VALUES (1, 1)",
        "CREATE TABLE f (id int PRIMARY KEY, a int, b int, FOREIGN KEY (a, b) REFERENCES p MATCH FULL)",
        "CREATE TABLE s (id int PRIMARY KEY, a int, b int, FOREIGN KEY (a, b) REFERENCES p)",
    )  # fmt: skip
    records = [
        {"id": 1, "a": 1, "b": 1}, {"id": 2, "a": 1, "b": None}, {"id": 3, "a": None, "b": None}, {"id": 4, "a": 1, "b": 2},
    ]  # fmt: skip
    result = at.file("f", records).file("s", records).ok()
    assert [r[0] for r in result.rejects("f")] == [2, 4]
    assert [r[0] for r in result.rejects("s")] == [4]


def test_a_foreign_key_may_mean_another_unique_key_and_other_types(at: Restore):
    at.schema(
        "CREATE TABLE p (id int PRIMARY KEY, code varchar(10) UNIQUE, n bigint UNIQUE)",
        "CREATE TABLE t (id int PRIMARY KEY, code text REFERENCES p (code), n int REFERENCES p (n))",
    )
    at.file("p", [{"id": 1, "code": "x", "n": 5}, {"id": 2, "code": "y", "n": 6}])
    result = at.file(
        "t", [{"id": 1, "code": "x", "n": 6}, {"id": 2, "code": "z", "n": 5}, {"id": 3, "code": None, "n": 7}]
    ).ok()
    assert at.rows() == [(1, "x", 6)]
    assert [r["constraint_name"] for r in result.whole_rejects()] == ["t_code_fkey", "t_n_fkey"]


def test_parents_outside_the_restore_and_in_other_schemas_count(at: Restore):
    at.schema(
        "CREATE SCHEMA o", "CREATE TABLE o.t (id int PRIMARY KEY)", "INSERT INTO o.t VALUES (1)",
        "CREATE TABLE t (id int PRIMARY KEY, p int REFERENCES o.t)",
    )  # fmt: skip
    result = at.file("t", [{"id": 1, "p": 1}, {"id": 2, "p": 2}]).ok()
    assert at.rows() == [(1, 1)] and result.counts() == {"inserted": 1, "rejected": 1}


def test_parents_that_row_security_hides_are_there_all_the_same(at: Restore):
    at.schema("CREATE TABLE p (id int PRIMARY KEY)", "CREATE TABLE t (id int PRIMARY KEY, p int REFERENCES p)")
    dsn = at.role("GRANT SELECT, INSERT ON p, t TO {}")
    at.schema("INSERT INTO p VALUES (1)", "ALTER TABLE p ENABLE ROW LEVEL SECURITY")
    result = at.file("t", [{"id": 1, "p": 1}, {"id": 2, "p": 2}]).ok(dsn=dsn)
    assert result.counts() == {"inserted": 1, "rejected": 1}


def test_a_self_reference_to_oneself_is_fine(at: Restore):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, parent int NOT NULL REFERENCES t)")
    result = at.file("t", [{"id": 2, "parent": 1}, {"id": 1, "parent": 1}, {"id": 4, "parent": 3}]).ok(batch=1)
    assert at.rows() == [(1, 1), (2, 1)]
    assert result.counts() == {"inserted": 2, "rejected": 1}


def test_a_parent_that_loses_its_key_leaves_orphans(at: Restore):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, e text UNIQUE, parent int REFERENCES t)")
    records = [
        {"id": 1, "e": "a", "parent": None},
        {"id": 2, "e": "a", "parent": 1},
        {"id": 3, "e": "c", "parent": 2},
        {"id": 4, "e": "d", "parent": 1},
    ]
    result = at.file("t", records).ok()
    assert [r[0] for r in at.rows()] == [1, 4]
    assert result.counts() == {"inserted": 2, "conflict": 1, "rejected": 1}


@pytest.mark.parametrize("policy", ["Skip", "Update", "Reject"])
def test_deferred_rows_obey_the_policy_too(at: Restore, policy: str):
    at.schema(TREE.format(""), "ALTER TABLE t ADD v text", "INSERT INTO t VALUES (1, NULL, 'old')")
    records = [
        {"id": 1, "parent": 9, "v": "new"},
        {"id": 5, "parent": 9, "v": "x"},
        {"id": 5, "parent": 9, "v": "y"},
        {"id": 9, "parent": None, "v": "p"},
    ]
    result = at.file("t", records).ok(on_conflict=policy, batch=1)
    expected = {
        "Skip": ([(1, None, "old"), (5, 9, "x"), (9, None, "p")], {"inserted": 2, "conflict": 2}),
        "Update": ([(1, 9, "new"), (5, 9, "y"), (9, None, "p")], {"inserted": 2, "updated": 2}),
        "Reject": ([(1, None, "old"), (5, 9, "x"), (9, None, "p")], {"inserted": 2, "rejected": 2}),
    }[policy]
    assert (at.rows(), result.counts()) == expected


def _case_insensitive(at: Restore) -> None:
    """An operator class for text whose `=` nobody sees without its schema, as citext's where its schema is not in the search_path."""
    at.schema("CREATE SCHEMA ext")
    for sign, name in (("<", "lt"), ("<=", "le"), ("=", "eq"), (">=", "ge"), (">", "gt")):
        at.schema(
            f"CREATE FUNCTION ext.{name}(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT lower($1) {sign} lower($2)'",
            f"CREATE OPERATOR ext.{sign} (LEFTARG = text, RIGHTARG = text, FUNCTION = ext.{name})",
        )
    at.schema(
        "CREATE FUNCTION ext.cmp(text, text) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT bttextcmp(lower($1), lower($2))'",
        "CREATE OPERATOR CLASS ext.ci FOR TYPE text USING btree AS OPERATOR 1 ext.<, OPERATOR 2 ext.<=, OPERATOR 3 ext.=, "
        "OPERATOR 4 ext.>=, OPERATOR 5 ext.>, FUNCTION 1 ext.cmp(text, text)",
    )


def test_the_constraint_says_who_is_the_parent_not_what_looks_alike(at: Restore):
    _case_insensitive(at)
    at.schema(
        "CREATE TABLE p (name text)", "CREATE UNIQUE INDEX ON p (name ext.ci)", "INSERT INTO p VALUES ('Foo'), ('bar')"
    )
    at.schema("CREATE TABLE t (id int PRIMARY KEY, p text REFERENCES p (name), n int CHECK (n < 90))")
    kinds = [
        {"p": "foo", "n": 1},
        {"p": "BAR", "n": 1},
        {"p": "nobody", "n": 1},
        {"p": "FOO", "n": 95},
        {"p": None, "n": 1},
    ]
    result = at.file("t", [{"id": i, **kinds[i % 5]} for i in range(500)]).ok(batch=250)
    assert result.counts() == {"inserted": 300, "rejected": 200}
    assert {(reason, state) for _, reason, state in result.rejects()} == {
        ("MissingParent", "23503"), ("CheckViolation", "23514"),
    }  # fmt: skip
    assert result.check("foreignKey t_p_fkey").passed
    assert "Row" not in result.levels


def test_the_constraint_says_so_in_a_cycle_too(at: Restore):
    _case_insensitive(at)
    at.schema("CREATE TABLE t (id int PRIMARY KEY, name text, up text)", "CREATE UNIQUE INDEX ON t (name ext.ci)")
    at.schema("ALTER TABLE t ADD FOREIGN KEY (up) REFERENCES t (name)")
    rows = [{"id": i, "name": f"N{i}", "up": f"n{i + 1}" if i < 40 else None} for i in range(41)]
    rows += [{"id": 50, "name": "x", "up": "Y"}, {"id": 51, "name": "y", "up": "nobody"}]
    result = at.file("t", rows).ok(batch=10)
    assert result.counts() == {"inserted": 41, "rejected": 2}
    assert result.check("foreignKey t_up_fkey").passed


def test_a_period_has_no_single_parent(at: Restore):
    """PERIOD (PostgreSQL 18): several rows together may be what a row refers to; only the server can tell."""
    if at.db.info.server_version < 180000:
        pytest.skip("no PERIOD before PostgreSQL 18")
    at.schema(
        "CREATE TABLE p (name int4range, at daterange, PRIMARY KEY (name, at WITHOUT OVERLAPS))",
        "INSERT INTO p VALUES ('[1,1]', '[2024-01-01,2024-02-01)'), ('[1,1]', '[2024-02-01,2024-03-01)')",
        "CREATE TABLE t (id int PRIMARY KEY, p int4range, at daterange, n int CHECK (n < 90), "
        "FOREIGN KEY (p, PERIOD at) REFERENCES p (name, PERIOD at))",
    )
    row = {"p": "[1,1]", "at": "[2024-01-10,2024-02-10)", "n": 1}
    rows = [{"id": i, **row} for i in range(20)]
    rows[5] |= {"at": "[2024-01-10,2024-03-10)"}
    rows[7] |= {"n": 95}
    result = at.file("t", rows).ok(batch=10)
    assert result.counts() == {"inserted": 18, "rejected": 2}
