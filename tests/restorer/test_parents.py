"""Rows that go in by COPY without a trigger for each, while their parents are looked for all at once behind them."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg
import pytest
from fix_restore import Restore
from fix_vouching import both_ways
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from restorer.load import merging, settle
from restorer.load.ladder import Ladder
from restorer.load.parents import Parents
from restorer.load.settle import Settler
from restorer.load.stage import Stage

P = "CREATE TABLE p (id int PRIMARY KEY)"
PARENTS = "INSERT INTO p SELECT g FROM generate_series(1, 20) g"
T = "CREATE TABLE t (id int PRIMARY KEY, p int REFERENCES p, body text)"


def children(count: int = 1000, **more: Any) -> list[dict[str, Any]]:
    return [{"id": i, "p": None if i % 10 == 3 else i % 20 + 1, "body": "é"} | more for i in range(count)]


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each batch that went in without triggers, whether all parents were found."""
    found, end = list[bool](), Parents.end

    def role(self: Parents) -> Any:
        return self._conn.execute("SHOW session_replication_role").fetchone()

    def noted(self: Parents) -> None:
        assert role(self) == ("replica",)
        try:
            end(self)
            assert role(self) == ("origin",)
        except BaseException:
            found.append(False)
            raise
        found.append(True)

    monkeypatch.setattr(Parents, "end", noted)
    return found


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How each attempt at a batch went in."""
    seen, attempt = list[str](), Ladder._attempt

    def noted(self: Ladder, conn: Any, batch: Any, outcome: Any, exact: bool, way: str, *args: Any) -> None:
        seen.append(f"{'exact ' if exact else ''}{way}")
        attempt(self, conn, batch, outcome, exact, way, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Ladder, "_attempt", noted)
    return seen


def test_no_trigger_is_called_and_the_constraint_is_as_it_was(at: Restore, ends: list[bool]):
    at.schema(P, PARENTS, T)
    result = at.file("t", children()).ok(batch=250)
    assert result.counts() == {"inserted": 1000} and result.levels == {"Copy"}
    assert ends == [True] * 4 and result.check("foreignKey t_p_fkey").passed
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        at.schema("INSERT INTO t VALUES (5000, 99)")


def test_an_orphan_is_told_from_its_neighbours(at: Restore, ends: list[bool], ways: list[str]):
    at.schema(P, PARENTS, T)
    records = children()
    records[400]["p"] = 99
    result = at.file("t", records).ok(batch=250)
    assert result.counts() == {"inserted": 999, "rejected": 1}
    assert result.rejects() == [(401, "MissingParent", "23503")]
    assert ends == [True, False] and ways == ["direct", "direct", "sift", "sift", "sift"]


def test_where_no_probe_would_do_the_triggers_tell(at: Restore, ends: list[bool]):
    at.schema(P, PARENTS, T, "CREATE UNIQUE INDEX ON t (body) WHERE id < 0")
    records = children()
    records[400]["p"] = 99
    assert at.file("t", records).ok(batch=250).rejects() == [(401, "MissingParent", "23503")]
    assert ends == [True, False]


def test_what_has_to_be_converted_too(at: Restore, ends: list[bool], ways: list[str]):
    """A bigint as some programs write it, which PostgreSQL does not read as it stands."""
    at.schema(P, PARENTS, T, "ALTER TABLE t ADD n bigint")
    assert at.file("t", children(n="12n")).ok(batch=250).counts() == {"inserted": 1000}
    assert set(ways) == {"direct", "exact direct"} and ends and all(ends)


def test_keys_that_are_stored_otherwise_than_they_are_spelled(at: Restore, ends: list[bool], ways: list[str]):
    """Two spellings of one key look like a parent too few. Where it has turned out three times that none was missing, it is left to
    the triggers."""
    at.schema("CREATE TABLE p (id uuid PRIMARY KEY)", "CREATE TABLE t (id int PRIMARY KEY, p uuid REFERENCES p, v int)")
    key = "00000000-0000-4000-8000-00000000000a"
    at.schema(f"INSERT INTO p VALUES ('{key}')")
    records = [{"id": i, "p": key.upper() if i % 2 else key, "v": 1} for i in range(4000)]
    assert at.file("t", records).ok(batch=250).counts() == {"inserted": 4000}
    assert ends == [False] * 3 and ways[:3] == ["direct", "sift", "sift"] and ways[-1] == "direct"


@pytest.mark.parametrize("value", ["é\\u0041", '"', "\\", "a,b", "{x}", "NULL", "null", " a ", "", "é"])
def test_every_key_finds_its_parent(at: Restore, value: str):
    at.schema("CREATE TABLE p (id text PRIMARY KEY)", "CREATE TABLE t (id int PRIMARY KEY, p text REFERENCES p)")
    at.db.execute("INSERT INTO p VALUES (%s)", (value,))
    records = [{"id": i, "p": value} for i in range(300)]
    assert at.file("t", records).ok().counts() == {"inserted": 300}
    assert at.value("SELECT count(*) FROM t JOIN p ON p.id = t.p") == 300


def test_a_key_is_not_taken_for_another_one(at: Restore):
    """What an array literal would read otherwise than JSON does."""
    at.schema("CREATE TABLE p (id text PRIMARY KEY)", "CREATE TABLE t (id int PRIMARY KEY, p text REFERENCES p)")
    at.schema("INSERT INTO p VALUES ('n'), ('u00e9')")
    records = b"[" + b",".join(b'{"id":%d,"p":"%b"}' % (i, rb"\n" if i % 2 else rb"\u00e9") for i in range(300)) + b"]"
    assert at.file("t", records).ok().counts() == {"rejected": 300}


def test_rows_that_are_each_others_parents(
    at: Restore, ends: list[bool], ways: list[str], monkeypatch: pytest.MonkeyPatch
):
    """Those that wait are nobody's parents; the others go in without triggers, behind the probe."""
    at.schema(P, PARENTS, "CREATE TABLE t (id int PRIMARY KEY, p int REFERENCES p, up int REFERENCES t, v text)")
    records = [{"id": i, "p": i % 20 + 1, "v": "é", "up": i - 1 if i % 100 != 1 else None} for i in range(1, 1001)]
    result = at.file("t", records).ok(batch=250)
    assert result.counts() == {"inserted": 1000} and ends == [True] * 4
    at.schema("TRUNCATE t")
    missed, look = list[int](), Stage.parentless
    monkeypatch.setattr(Stage, "parentless", lambda stage: missed.append(len(found := look(stage))) or found)
    records[10]["up"], records[600]["up"], records[620]["up"] = 900, 5000, 601
    result = at.file("t", records).ok(batch=250)
    lost = range(601, 701)  # the one whose parent is nowhere, and all behind it
    assert result.counts() == {"inserted": 1000 - len(lost), "rejected": len(lost)}
    assert "sift" in ways and missed == [0] * len(missed) and len(missed) > 2
    assert at.value("SELECT count(*) FROM t WHERE up IS NOT NULL AND up NOT IN (SELECT id FROM t)") == 0


def _meanwhile(monkeypatch: pytest.MonkeyPatch, do: Any) -> None:
    """`do` behind the first batch's COPY, before its parents are looked for."""
    end, left = Parents.end, [do]

    def late(self: Parents) -> None:
        if left:
            left.pop()()
        end(self)

    monkeypatch.setattr(Parents, "end", late)


def test_a_parent_that_goes_in_the_meantime_is_missed(at: Restore, monkeypatch: pytest.MonkeyPatch):
    at.schema(P, PARENTS, T)

    def delete() -> None:
        with psycopg.connect(at.dsn, autocommit=True) as conn:
            conn.execute("DELETE FROM p WHERE id = 2")

    _meanwhile(monkeypatch, delete)
    result = at.file("t", children()).ok(batch=250)
    assert result.counts() == {"inserted": 950, "rejected": 50}
    assert result.check("foreignKey t_p_fkey").passed


def test_so_is_one_that_goes_after_the_probe(at: Restore, monkeypatch: pytest.MonkeyPatch):
    """Of rows that refer to each other the parents are only locked behind the COPY."""
    at.schema(P, PARENTS, "CREATE TABLE t (id int PRIMARY KEY, p int REFERENCES p, up int REFERENCES t, v text)")
    copy, left = Ladder._copy, [1, 0]  # of the third batch

    def late(self: Ladder, *args: Any) -> None:
        if self._learnt.way == "sift" and left and left.pop():
            with psycopg.connect(at.dsn, autocommit=True) as conn:
                conn.execute("DELETE FROM p WHERE id NOT IN (SELECT p FROM t)")
        copy(self, *args)

    monkeypatch.setattr(Ladder, "_copy", late)
    records = [
        {"id": i, "p": 1 if i < 500 else i % 20 + 1, "v": "é"} | ({"up": 999} if i == 7 else {"up": None})
        for i in range(1000)
    ]
    result = at.file("t", records).ok(batch=250)
    assert not left and result.counts() == {"inserted": 524, "rejected": 476}
    assert result.check("foreignKey t_p_fkey").passed


@pytest.mark.parametrize("gone", [False, True])
def test_rows_that_waited_go_in_without_triggers_too(at: Restore, monkeypatch: pytest.MonkeyPatch, gone: bool):
    """All of a cycle by one statement, and then their parents are looked for. `gone`: one has gone just before."""
    at.schema(P, PARENTS, "CREATE TABLE t (id int PRIMARY KEY, p int REFERENCES p, up int REFERENCES t, v text)")
    quiet, without, write = list[int](), settle.without_triggers, Settler._write

    def counted(conn: Any) -> Any:
        quiet.append(1)
        return without(conn)

    def late(self: Settler, *args: Any) -> None:
        if gone:
            with psycopg.connect(at.dsn, autocommit=True) as conn:
                conn.execute("DELETE FROM p WHERE id = 2")
        write(self, *args)

    monkeypatch.setattr(settle, "without_triggers", counted)
    monkeypatch.setattr(Settler, "_write", late)
    early = [{"id": i, "p": i % 20 + 1, "v": "é", "up": i + 500} for i in range(500)]  # each waits for a later one
    records = early + [{"id": i, "p": 1, "v": "é", "up": None} for i in range(500, 1000)]
    result = at.file("t", records).ok(batch=250)
    assert quiet == [1] and result.check("foreignKey t_p_fkey").passed and result.check("foreignKey t_up_fkey").passed
    assert result.counts() == ({"inserted": 975, "rejected": 25} if gone else {"inserted": 1000})


def test_one_that_is_just_being_deleted_is_waited_for(at: Restore):
    at.schema(P, PARENTS, T)
    going = psycopg.connect(at.dsn)
    going.execute("DELETE FROM p WHERE id = 2")
    threading.Thread(target=lambda: (time.sleep(1), going.commit(), going.close())).start()
    result = at.file("t", children()).ok(batch=250)
    assert result.counts() == {"inserted": 950, "rejected": 50}


def test_one_that_was_found_stays_until_its_children_are_committed(at: Restore, monkeypatch: pytest.MonkeyPatch):
    at.schema(P, PARENTS, T)
    refused, end = list[str](), Parents.end

    def late(self: Parents) -> None:
        end(self)
        with psycopg.connect(at.dsn, autocommit=True) as conn:
            conn.execute("SET lock_timeout = '200ms'")
            try:
                conn.execute("DELETE FROM p WHERE id = 2")
            except psycopg.errors.LockNotAvailable as error:
                refused.append(str(error))

    monkeypatch.setattr(Parents, "end", late)
    assert at.file("t", children(500)).ok(batch=250).counts() == {"inserted": 500}
    assert len(refused) == 2


@pytest.mark.parametrize(
    "statements",
    [
        ["ALTER TABLE t ADD a int, ADD b int, ADD FOREIGN KEY (a, b) REFERENCES q"],  # of two columns
        ["ALTER TABLE t ADD d date REFERENCES days"],  # a date is not stored as it is spelled
        ["ALTER TABLE t ADD r int DEFAULT 7 REFERENCES p"],  # nobody brings it
        ["CREATE TRIGGER own AFTER INSERT ON t EXECUTE FUNCTION note()"],
        ["ALTER TABLE t ADD FOREIGN KEY (id) REFERENCES p DEFERRABLE"],
    ],
)
def test_where_keys_do_not_tell_the_triggers_do(at: Restore, ends: list[bool], statements: list[str]):
    at.schema(P, "INSERT INTO p SELECT g FROM generate_series(0, 400) g", T)
    at.schema("CREATE TABLE q (a int, b int, PRIMARY KEY (a, b))", "CREATE TABLE days (d date PRIMARY KEY)")
    at.schema("CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'", *statements)
    more = {"d": None} if "days" in statements[0] else {"a": None, "b": None} if "(a, b)" in statements[0] else {}
    assert at.file("t", children(300, **more)).ok().counts() == {"inserted": 300}
    assert not ends


def test_few_rows_are_left_to_the_triggers(at: Restore, ends: list[bool]):
    at.schema(P, PARENTS, T)
    assert at.file("t", children(150)).ok().counts() == {"inserted": 150}
    assert at.file("t", children(700)[150:]).ok(batch=150).counts() == {"inserted": 550}
    assert not ends


def test_a_role_that_may_not_do_without_them(at: Restore, ends: list[bool]):
    at.schema(P, PARENTS, T)
    dsn = at.role("GRANT ALL ON ALL TABLES IN SCHEMA public TO {}")
    records = children()
    records[400]["p"] = 99
    assert at.file("t", records).ok(batch=250, dsn=dsn).counts() == {"inserted": 999, "rejected": 1}
    assert not ends


def test_keys_that_have_to_be_converted(at: Restore, ends: list[bool], ways: list[str]):
    at.schema(P, PARENTS, T, "ALTER TABLE t ALTER p TYPE bigint", "ALTER TABLE p ALTER id TYPE bigint")
    records = [child | {"p": f"{child['p'] or 7}n"} for child in children(5000)]
    assert at.file("t", records).ok(batch=250).counts() == {"inserted": 5000}
    assert ends == [False] * 3 and ways[-3:] == ["exact direct"] * 3


def test_one_key_with_an_escape_does_not_count(at: Restore, ends: list[bool]):
    at.schema("CREATE TABLE p (id text PRIMARY KEY)", "CREATE TABLE t (id int PRIMARY KEY, p text REFERENCES p, v int)")
    at.db.execute("INSERT INTO p VALUES ('a'), (%s), (%s)", ("b\\c", 'd"e'))
    records = [{"id": i, "p": {700: "b\\c", 800: 'd"e'}.get(i, "a"), "v": 1} for i in range(1000)]
    assert at.file("t", records).ok(batch=250).counts() == {"inserted": 1000}
    assert ends == [True] * 4


def test_names_that_look_like_parameters(at: Restore, ends: list[bool]):
    at.schema(
        'CREATE TABLE "p%" ("id%s" int PRIMARY KEY)', 'CREATE TABLE t (id int PRIMARY KEY, "p%" int REFERENCES "p%")'
    )
    at.schema('INSERT INTO "p%" VALUES (1)')
    assert at.file("t", [{"id": i, "p%": 1} for i in range(300)]).ok().counts() == {"inserted": 300}
    assert ends == [True]


def test_who_is_a_parent_the_constraint_says_and_not_the_search_path(at: Restore, ends: list[bool]):
    at.schema(P, PARENTS, T)
    at.schema(
        "CREATE FUNCTION loose(int, int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 OPERATOR(pg_catalog.=) $2 OR $2 > 90'",
        "CREATE OPERATOR public.= (LEFTARG = int, RIGHTARG = int, FUNCTION = loose)",
        f'ALTER DATABASE "{at.db.info.dbname}" SET search_path = public, pg_catalog',
    )  # fmt: skip
    records = children()
    records[400]["p"] = 99
    result = at.file("t", records).run(batch=250)
    assert result.counts() == {"inserted": 999, "rejected": 1} and ends[:2] == [True, False]


def test_a_parent_that_is_there_twice_does_not_make_up_for_one_that_is_missing(at: Restore, ends: list[bool]):
    """Where the index that a foreign key needs has another collation than its column, a key may stand for two rows."""
    try:
        at.schema("CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this server has no ICU")
    at.schema("CREATE TABLE p (id text COLLATE ci)", 'CREATE UNIQUE INDEX pu ON p (id COLLATE "C")')
    at.schema(
        "INSERT INTO p VALUES ('x'), ('X')", "CREATE TABLE t (id int PRIMARY KEY, p text COLLATE ci REFERENCES p (id))"
    )
    result = at.file("t", [{"id": i, "p": "x" if i % 2 else "zzz"} for i in range(1000)]).ok(batch=500)
    assert result.counts() == {"inserted": 500, "rejected": 500} and not ends


def test_a_foreign_key_that_is_not_enforced_refuses_nobody(at: Restore, ends: list[bool]):
    if at.db.info.server_version < 180000:
        pytest.skip("since PostgreSQL 18")
    at.schema(
        P,
        PARENTS,
        "CREATE TABLE t (id int PRIMARY KEY, p int REFERENCES p NOT ENFORCED, body text CHECK (body <> 'x'))",
    )
    records = children()
    records[400]["p"], records[500]["body"] = 99, "x"
    assert at.file("t", records).ok(batch=250).counts() == {"inserted": 999, "rejected": 1}
    assert not ends


def test_a_schema_that_the_role_may_not_use_is_left_to_the_triggers(at: Restore, ends: list[bool]):
    if at.db.info.server_version < 150000:
        pytest.skip("since PostgreSQL 15")
    at.schema(
        "CREATE SCHEMA other",
        "CREATE TABLE other.p (id int PRIMARY KEY)",
        "INSERT INTO other.p SELECT generate_series(1, 20)",
    )
    at.schema("CREATE TABLE t (id int PRIMARY KEY, p int REFERENCES other.p, body text)")
    dsn = at.role(
        "GRANT ALL ON t, other.p TO {}", "GRANT SET ON PARAMETER session_replication_role TO {}",
    )  # fmt: skip
    assert at.file("t", children()).ok(batch=250, dsn=dsn).counts() == {"inserted": 1000}
    assert not ends


def test_more_keys_than_should_be_held_are_left_to_the_triggers(
    at: Restore, ends: list[bool], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(merging, "_MOST_KEYED", 400)
    at.schema(P, PARENTS, T)
    assert at.file("t", children(1500)).ok(batch=500).counts() == {"inserted": 1500}
    assert not ends


KEYS = [1, 2, "2", "02", 9, None, 1.0, "x", True, {"a": 1}, [1], "null", "\u00e9", "1\\u0031"]


def _refs(keys: list[Any]) -> st.SearchStrategy[dict[str, Any]]:
    own, value = st.sampled_from([1, 2, 3, None]), st.sampled_from(keys)
    return st.fixed_dictionaries({"id": st.integers(1, 60), "a": value, "s": value}, optional={"up": own})


def _records(keys: list[Any]) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(_refs(keys), min_size=1, max_size=20)


@given(
    _records(KEYS + [1, 2, None] * 8) | _records([1, 2, "2"]) | _records([1, 2, None]),
    st.sampled_from(["Skip", "Reject", "Update"]),
    st.booleans(),
)
@examples(80)
def test_with_triggers_and_without_the_same_comes_of_it(
    at: Restore, records: list[dict[str, Any]], policy: str, itself: bool
):
    statements = (
        "CREATE TABLE p (id int PRIMARY KEY)", "CREATE TABLE q (id text PRIMARY KEY)",
        "INSERT INTO p VALUES (1), (2)", "INSERT INTO q VALUES ('1'), ('2'), ('02'), ('null'), ('true'), ('1\\u0031')",
        f"CREATE TABLE t (id int PRIMARY KEY, a int REFERENCES p, s text REFERENCES q, up int {'REFERENCES t' if itself else ''})",
    )  # fmt: skip
    without, called = both_ways(at, records, policy, *statements)
    assert without == called
