"""A probe that found the parents, and locked them, stands for the triggers of the foreign keys."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from fix_restore import Restore
from fix_vouching import both_ways
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from restorer.database.catalog import read_tables
from restorer.database.connection import open_connection
from restorer.load import ladder, merging, vouching
from restorer.load.ladder import Ladder
from restorer.load.vouching import Voucher
from restorer.model import Table

P = "CREATE TABLE p (id int PRIMARY KEY, n int)"
PARENTS = "INSERT INTO p SELECT g, g FROM generate_series(1, 20) g"
T = "CREATE TABLE t (id int PRIMARY KEY, p int REFERENCES p, n int NOT NULL CHECK (n < 90), body text)"


def children(count: int = 1000) -> list[dict[str, Any]]:
    """Every 50th is an orphan, every 50th breaks the CHECK; some refer to nobody."""

    def child(i: int) -> dict[str, Any]:
        p = 99 if i % 50 == 7 else None if i % 10 == 3 else i % 20 + 1
        return {"id": i, "p": p, "n": 95 if i % 50 == 9 else 1, "body": "é"}

    return [child(i) for i in range(count)]


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one each time that triggers are passed by."""
    times: list[int] = []
    without = vouching.without_triggers

    @contextmanager
    def counted(conn: psycopg.Connection[Any]) -> Iterator[None]:
        times.append(1)
        with without(conn):
            yield

    for module in (ladder, merging):
        monkeypatch.setattr(module, "without_triggers", counted)
    return times


def test_orphans_are_found_and_the_others_need_no_trigger(at: Restore, quiet: list[int]):
    at.schema(P, PARENTS, T)
    result = at.file("t", children()).ok(batch=250)
    assert result.counts() == {"inserted": 960, "rejected": 40}
    assert {(reason, state) for _, reason, state in result.rejects()} == {
        ("MissingParent", "23503"),
        ("CheckViolation", "23514"),
    }
    assert len(quiet) == 4 and result.check("foreignKey t_p_fkey").passed
    with pytest.raises(psycopg.errors.ForeignKeyViolation):  # the constraint is as it was
        at.schema("INSERT INTO t VALUES (5000, 99, 1)")


def test_whole_stages_too(at: Restore, quiet: list[int]):
    at.schema(P, PARENTS, "CREATE TABLE t (p int REFERENCES p, q int REFERENCES p, PRIMARY KEY (p, q))")
    pairs = [{"p": i % 25 + 1, "q": i // 25 + 1} for i in range(500)]
    result = at.file("t", pairs).ok(batch=250)
    assert result.counts() == {"inserted": 400, "rejected": 100}
    assert len(quiet) == 2


SMALL = "CREATE DOMAIN small AS int CHECK (mine(VALUE) > 0)"
OWN = "CREATE TRIGGER own AFTER INSERT ON t EXECUTE FUNCTION note()"


@pytest.mark.parametrize(
    ("statements", "now", "late"),
    [
        ([], True, True),
        (["ALTER TABLE t ADD u int UNIQUE"], True, True),
        (["CREATE TABLE q (id int REFERENCES t)"], True, True),
        (["ALTER TABLE p ADD UNIQUE (id, n)", "ALTER TABLE t ADD FOREIGN KEY (p, n) REFERENCES p (id, n)"], True, False),
        (["ALTER TABLE p ADD UNIQUE (id, n)", "ALTER TABLE t ADD FOREIGN KEY (p, n) REFERENCES p (id, n) MATCH FULL"], False, False),
        (["ALTER TABLE t ADD u int UNIQUE DEFERRABLE"], False, False),
        (["ALTER TABLE t ADD FOREIGN KEY (n) REFERENCES p DEFERRABLE"], False, False),
        (["ALTER TABLE t ADD up int REFERENCES t"], True, False),  # another look, but behind the rows
        (["ALTER TABLE t ADD big bigint REFERENCES p"], False, False),
        (["CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY HASH (id)", "ALTER TABLE t ADD FOREIGN KEY (p) REFERENCES parted"], False, False),
        (["ALTER TABLE t DROP CONSTRAINT t_p_fkey"], False, False),
        (["ALTER TABLE t DISABLE TRIGGER ALL"], False, False),
        ([OWN], False, False),
        ([OWN, "ALTER TABLE t ENABLE ALWAYS TRIGGER own"], False, False),
        ([OWN, "ALTER TABLE t ENABLE REPLICA TRIGGER own"], False, False),
        (["CREATE TRIGGER own AFTER UPDATE ON t EXECUTE FUNCTION note()"], False, True),
        (["CREATE RULE r AS ON INSERT TO t DO ALSO INSERT INTO p VALUES (NEW.id)"], False, False),
        (["CREATE RULE r AS ON UPDATE TO t DO ALSO INSERT INTO p VALUES (NEW.id)"], True, True),
        (["ALTER TABLE t ADD d int DEFAULT mine(1)"], False, False),
        (["ALTER TABLE t ADD u int DEFAULT mine(1)"], True, True),  # the file has it
        (["ALTER TABLE t ADD d int DEFAULT abs(-1), ADD s serial"], True, True),
        (["ALTER TABLE t ADD d int GENERATED ALWAYS AS (mine(n)) STORED"], False, False),
        (["ALTER TABLE t ADD CHECK (mine(n) > 0)"], False, False),
        (["CREATE INDEX ON t (mine(n))"], False, False),
        (["CREATE INDEX ON t (n) WHERE mine(n) > 0"], False, False),
        ([SMALL, "ALTER TABLE t ADD d small"], False, False),
        (["CREATE DOMAIN small AS int DEFAULT 1 CHECK (abs(VALUE) < 9)", "ALTER TABLE t ADD d small, ADD e small[]"], True, True),
        (["CREATE DOMAIN small AS int DEFAULT mine(1)", "ALTER TABLE t ADD d small"], False, False),
        ([SMALL, "CREATE DOMAIN d AS small CHECK (VALUE < 9)", "ALTER TABLE t ADD d d"], False, False),
        ([SMALL, "CREATE DOMAIN d AS small[]", "ALTER TABLE t ADD d d"], False, False),
        ([SMALL, "CREATE DOMAIN d AS int CHECK ((VALUE::small) IS NOT NULL)", "ALTER TABLE t ADD d d"], False, False),
        ([SMALL, "CREATE DOMAIN d AS int CHECK (ARRAY[VALUE]::small[] IS NOT NULL)", "ALTER TABLE t ADD d d"], False, False),
        ([SMALL, "ALTER TABLE t ADD CHECK ((n::small) IS NOT NULL)"], False, False),
        ([SMALL, "CREATE INDEX ON t ((n::small))"], False, False),
        ([SMALL, "ALTER TABLE t ADD d int DEFAULT 1::small"], False, False),
        (["CREATE TYPE color AS ENUM ('r')", "ALTER TABLE t ADD CHECK ('r'::color IS NOT NULL), ADD d color DEFAULT 'r'"], True, True),
        (["CREATE TYPE pair AS (a int)", "ALTER TABLE t ADD d pair[]"], False, False),
        (["CREATE TYPE pair AS (a int)", "CREATE DOMAIN d AS pair", "ALTER TABLE t ADD d d"], False, False),
        (["CREATE TYPE span AS RANGE (subtype = int4)", "ALTER TABLE t ADD d span"], False, False),
        (["CREATE TABLE a (id int[] PRIMARY KEY)", "ALTER TABLE t ADD big int[] REFERENCES a"], False, False),
        (["CREATE TABLE a (id bit(8) PRIMARY KEY)", "ALTER TABLE t ADD big bit(8) REFERENCES a"], False, False),
        (["CREATE TABLE a (id uuid PRIMARY KEY)", "ALTER TABLE t ADD big uuid REFERENCES a"], True, False),
        (["CREATE TYPE color AS ENUM ('r')", "CREATE TABLE a (id color PRIMARY KEY)", "ALTER TABLE t ADD big color REFERENCES a"], True, False),
        (["ALTER TABLE p RENAME TO p_old", "CREATE TABLE p (LIKE p_old INCLUDING ALL)"], True, False),
        (["ALTER TABLE t RENAME TO t_old", "CREATE TABLE t (LIKE t_old INCLUDING ALL)"], False, False),
        (["ALTER TABLE p RENAME id TO i", "ALTER TABLE p RENAME n TO id", "ALTER TABLE p RENAME i TO n"], True, False),
        (["ALTER ROLE CURRENT_USER SET session_replication_role = local"], False, False),
    ],
    ids=lambda value: value[-1][:70] if isinstance(value, list) and value else None,
)  # fmt: skip
def test_only_where_nothing_else_is_passed_by(at: Restore, statements: list[str], now: bool, late: bool):
    """`now`: by the catalog as it is; `late`: by one that was read before."""
    at.schema(P, T, "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    at.schema("CREATE FUNCTION mine(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1; END'")

    def table() -> Table:
        return next(t for t in read_tables(at.db, "public") if t.name == "t")

    before = table()
    try:
        at.schema(*statements)
        with open_connection(at.dsn) as conn, conn.transaction():
            columns = ["id", "p", "n", "body", "u", "up", "big"]
            assert Voucher(table()).may(conn, columns) is now
            assert Voucher(before).may(conn, columns) is late
            assert Voucher(before).shown_by(columns) and not Voucher(before).shown_by(["id", "n", "body"])
    finally:
        at.schema("ALTER ROLE CURRENT_USER RESET session_replication_role")


def test_a_role_that_may_not_switch_triggers_off_does_without(at: Restore, quiet: list[int]):
    at.schema(P, PARENTS, T)
    dsn = at.role("GRANT ALL ON ALL TABLES IN SCHEMA public TO {}")
    result = at.file("t", children()).ok(batch=250, dsn=dsn)
    assert result.counts() == {"inserted": 960, "rejected": 40}
    assert not quiet


def _meanwhile(monkeypatch: pytest.MonkeyPatch, do: Callable[[], None]) -> None:
    """`do` after the probe of the first batch that has one, before its rows go in."""
    copy, left = Ladder._copy, [do]

    def late(self: Ladder, *args: Any) -> None:
        if self._learnt.way == "sift" and left:
            left.pop()()
        copy(self, *args)

    monkeypatch.setattr(Ladder, "_copy", late)


def test_a_parent_stays_until_its_children_are_committed(
    at: Restore, quiet: list[int], monkeypatch: pytest.MonkeyPatch
):
    at.schema(P, PARENTS, T)
    refused = list[str]()

    def delete() -> None:
        with psycopg.connect(at.dsn, autocommit=True) as conn:
            conn.execute("SET lock_timeout = '200ms'")
            try:
                conn.execute("DELETE FROM p WHERE id = 2")
            except psycopg.errors.LockNotAvailable as error:
                refused.append(str(error))
            conn.execute("UPDATE p SET n = 0 WHERE id = 2")  # as for the trigger: the key is not touched

    _meanwhile(monkeypatch, delete)
    result = at.file("t", children()).ok(batch=250)
    assert result.counts() == {"inserted": 960, "rejected": 40}
    assert refused and quiet
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        at.schema("DELETE FROM p WHERE id = 2")


def test_a_parent_that_is_just_being_deleted_is_waited_for(at: Restore, quiet: list[int]):
    at.schema(P, PARENTS, T)
    going = psycopg.connect(at.dsn)
    going.execute("DELETE FROM p WHERE id = 2")
    threading.Thread(target=lambda: (time.sleep(1), going.commit(), going.close())).start()
    result = at.file("t", children()).ok(batch=250)
    gone = sum(1 for c in children() if c["p"] == 2 and c["n"] == 1)
    assert result.counts() == {"inserted": 960 - gone, "rejected": 40 + gone}
    assert quiet and result.check("foreignKey t_p_fkey").passed


def test_rules_and_functions_with_effects_are_not_passed_by(at: Restore, quiet: list[int]):
    at.schema(
        P, PARENTS, T, "CREATE TABLE log (id int)", "CREATE TABLE counters (n int)", "INSERT INTO counters VALUES (0)"
    )
    at.schema(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO log VALUES (NEW.n); RETURN NULL; END'",
        "CREATE TRIGGER audit AFTER UPDATE ON counters FOR EACH ROW EXECUTE FUNCTION note()",
        "CREATE FUNCTION gapless() RETURNS int LANGUAGE sql AS 'UPDATE counters SET n = n + 1 RETURNING n'",
        "ALTER TABLE t ADD no int DEFAULT gapless()",
    )
    assert at.file("t", children()).ok(batch=250).counts() == {"inserted": 960, "rejected": 40}
    assert at.value("SELECT count(*) FROM log") == at.value("SELECT n FROM counters") >= 960
    at.schema(
        "TRUNCATE t, log",
        "ALTER TABLE t DROP no",
        "CREATE RULE r AS ON INSERT TO t DO ALSO INSERT INTO log VALUES (NEW.id)",
    )
    assert at.file("t", children()).ok(batch=250).counts() == {"inserted": 960, "rejected": 40}
    assert at.value("SELECT count(*) FROM log") == 960
    assert not quiet


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER own AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note()",
        "ALTER TABLE t ADD CONSTRAINT late FOREIGN KEY (n) REFERENCES p",
        "ALTER TABLE t ADD CONSTRAINT late UNIQUE (id) DEFERRABLE",
        "BEGIN; ALTER TABLE p RENAME TO p_old; CREATE TABLE p (LIKE p_old INCLUDING ALL); INSERT INTO p SELECT * FROM p_old; "
        "INSERT INTO p VALUES (99, 99); COMMIT",
    ],
)
def test_what_comes_in_the_middle_of_the_run_counts(at: Restore, quiet: list[int], statement: str):
    """After the second batch."""
    at.schema(P, PARENTS, T, "CREATE TABLE log (id int)")
    at.schema(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO log VALUES (NEW.id); RETURN NULL; END'"
    )
    seen = list[int]()

    def late(event: Any) -> None:
        if type(event).__name__ == "BatchLoaded":
            seen.append(len(quiet))
            if len(seen) == 2:
                at.schema(statement)

    records = children()
    records[800]["n"] = 50  # fine by the CHECK, but nobody's child
    result = at.file("t", records).ok(batch=250, emit=late)
    assert seen[1] == 2 and len(quiet) == 2  # no more of it from then on
    if "TRIGGER" in statement:
        assert at.value("SELECT count(*) FROM log") == at.value("SELECT count(*) FROM t WHERE id >= 500") > 400
    if "RENAME" in statement:  # the constraint goes by the table that it was made for, whatever its name is now
        assert result.counts() == {"inserted": 960, "rejected": 40}
    if "FOREIGN" in statement:
        assert (801, "MissingParent", "23503") in result.rejects()


def _refs(values: list[Any]) -> st.SearchStrategy[dict[str, Any]]:
    value = st.sampled_from(values)
    n = st.sampled_from([1, 1, 1, 95, "x"])
    return st.fixed_dictionaries({"id": st.integers(1, 30), "a": value, "b": value, "c": value, "n": n})


@given(
    st.lists(_refs([1, 2, 9, None]), min_size=1, max_size=20),
    st.sampled_from(["Skip", "Reject", "Update"]),
    st.booleans(),
)
@examples(60)
def test_with_triggers_and_without_the_same_comes_of_it(
    at: Restore, records: list[dict[str, Any]], policy: str, staged: bool
):
    statements = (
        "CREATE TABLE p (id int PRIMARY KEY)", "CREATE TABLE q (a int, b int, PRIMARY KEY (a, b))",
        "INSERT INTO p VALUES (1), (2)", "INSERT INTO q VALUES (1, 1), (1, 2), (2, 1)",
        "CREATE TABLE t (id int PRIMARY KEY, a int, b int, c int REFERENCES p, n int CHECK (n < 90), FOREIGN KEY (a, b) REFERENCES q)",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        if staged:
            patch.setattr(ladder, "probe_columns", lambda _: None)
        without, called = both_ways(at, records, policy, *statements)
    assert without == called


def test_an_update_has_triggers_of_its_own(at: Restore, quiet: list[int]):
    """A row of another table refers to what the update would change."""
    at.schema(P, PARENTS, "CREATE TABLE t (id int PRIMARY KEY, slug text UNIQUE, p int REFERENCES p)")
    at.schema("INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 1)")
    at.schema("CREATE TABLE c (slug text REFERENCES t (slug))", "INSERT INTO c VALUES ('a')")
    records = [{"id": i, "slug": f"s{i}", "p": 1} for i in range(1, 301)]
    result = at.file("t", records).ok(on_conflict="Update")
    assert result.counts() == {"inserted": 298, "updated": 1, "rejected": 1}
    assert result.rejects() == [(1, "MissingParent", "23503")]
    assert not quiet


def test_a_dry_run_locks_no_parents_and_finds_the_same(at: Restore, quiet: list[int]):
    at.schema(P, PARENTS, T)
    result = at.file("t", children()).ok(batch=250, mode="DryRun")
    assert result.counts() == {"inserted": 960, "rejected": 40}
    assert not quiet and at.value("SELECT count(*) FROM t") == 0
