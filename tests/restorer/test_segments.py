"""A file that is loaded in segments side by side ends as if it had been loaded from its first record to its last."""

from __future__ import annotations

import pytest
from fix_disorder import Disorder, same
from fix_restore import Record, Restore
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from restorer.events import AnyEvent, BatchLoaded

COLUMNS = (
    "slug text UNIQUE, n int DEFAULT 7 CHECK (n < 100), amount numeric(6, 2), at timestamptz(3), doc json, tags text[]"
)
CHILD = "CREATE TABLE c (id int PRIMARY KEY, t_id int NOT NULL REFERENCES t (id))"
SCHEMAS = {
    "primary key": (f"CREATE TABLE t (id int PRIMARY KEY, {COLUMNS})", CHILD),
    "ids that the file has": (
        f"CREATE TABLE t (id serial PRIMARY KEY, {COLUMNS}, twice int GENERATED ALWAYS AS (id * 2) STORED)",
        CHILD,
    ),
    "partitions": (
        f"CREATE TABLE t (id int PRIMARY KEY, {COLUMNS.replace('UNIQUE', '')}, UNIQUE (id, slug)) PARTITION BY HASH (id)",
        "CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
        CHILD,
    ),
    # never as the file spells it
    "spelled": (
        f"CREATE TABLE t (id numeric(4, 2) PRIMARY KEY, {COLUMNS})",
        CHILD.replace("t_id int", "t_id numeric(4, 2)"),
    ),
    "deferrable": (
        f"CREATE TABLE t (id int PRIMARY KEY, {COLUMNS.replace('UNIQUE', 'UNIQUE DEFERRABLE INITIALLY DEFERRED')})",
        CHILD,
    ),
}


SHOW = ("SELECT t.*::text FROM t ORDER BY t.*::text", "SELECT id, t_id::int FROM c ORDER BY id")
RECORD = st.fixed_dictionaries(
    {"id": st.integers(1, 6), "slug": st.sampled_from([None, "a", "b", "c", "d"])},
    optional={
        "n": st.sampled_from([1, 2, 100, "x", None]),
        "amount": st.sampled_from([1, 1.5, "1.50", None]),
        "at": st.sampled_from(["2024-12-19T10:30:45.000Z", "2024-12-19 11:30:45+01", None]),
        "doc": st.sampled_from([{"a": 1}, [], "é"]),
        "tags": st.sampled_from([["x", None], []]),
    },
)


@pytest.mark.timeout(300)
@examples(60)
@given(
    schema=st.sampled_from(sorted(SCHEMAS)),
    records=st.lists(RECORD, min_size=8, max_size=24),
    there=st.lists(st.integers(1, 8), unique=True, max_size=2),
    policy=st.sampled_from(["Skip", "Reject"]),
    seed=st.integers(0, 1 << 20),
)
def test_segments_in_any_order_end_like_one_file(
    at: Restore, disorder: Disorder,
    schema: str, records: list[Record], there: list[int], policy: str, seed: int,
):  # fmt: skip
    at.file("t", records).file("c", [{"id": i, "t_id": i} for i in range(1, 9)])
    rows = [f"INSERT INTO t (id, slug, n) VALUES ({i}, '{'abcdefgh'[i - 1]}', 1)" for i in there]
    same(at, disorder, [*SCHEMAS[schema], *rows], seeds=[seed], show=SHOW, on_conflict=policy)


def test_a_later_record_that_was_quicker_makes_way_and_what_it_kept_out_comes_in(at: Restore, disorder: Disorder):
    """4 has the slug of 1 and the id of 5: without 4, 5 gets in. Children of the first records keep their parents."""
    filler = [{"id": i, "slug": f"s{i}"} for i in range(10, 20)]
    records = [{"id": 1, "slug": "x"}, *filler, {"id": 4, "slug": "x"}, {"id": 4, "slug": "y"}]
    at.file("t", records).file("c", [{"id": 1, "t_id": 1}, {"id": 2, "t_id": 4}])
    (rows, children), tables = same(at, disorder, SCHEMAS["primary key"], show=SHOW)
    assert tables[1] == ("t", {"inserted": 12, "conflict": 1}, [])
    assert [row[0].split(",")[:2] for row in rows if "s1" not in row[0]] == [["(1", "x"], ["(4", "y"]]
    assert children == [(1, 1), (2, 4)]


def test_a_row_that_somebody_refers_to_by_now_stays(at: Restore, disorder: Disorder):
    """Nothing is taken from under an application that works on the table already."""
    at.schema(
        "CREATE TABLE t (id int PRIMARY KEY, slug text UNIQUE)",
        "CREATE TABLE own (id int REFERENCES t)",
    )
    filler = [{"id": i, "slug": f"s{i}"} for i in range(10, 20)]
    at.file("t", [{"id": 1, "slug": "x"}, *filler, {"id": 4, "slug": "x"}])
    kept = 0
    for seed in range(6):
        at.schema("TRUNCATE t, own")

        def refer(event: AnyEvent) -> None:
            if isinstance(event, BatchLoaded):
                at.db.execute("INSERT INTO own SELECT id FROM t WHERE id = 4 AND NOT EXISTS (SELECT FROM own)")

        disorder(seed)
        result = at.ok(load={"batch_rows": 2, "pods": 2}, emit=refer)
        assert result.counts() == {"inserted": 11, "conflict": 1}
        assert at.value("SELECT id FROM t WHERE slug = 'x'") == 4 - 3 * (at.value("SELECT count(*) FROM own") == 0)
        kept += at.value("SELECT count(*) FROM own")
    assert 0 < kept < 6


TABLE = "CREATE TABLE t (id int PRIMARY KEY, slug text UNIQUE, up int)"


@pytest.mark.parametrize(
    ("more", "cut"),
    [
        ("SELECT 1", True),
        ("ALTER TABLE t ADD new uuid UNIQUE DEFAULT gen_random_uuid()", True),
        ("ALTER TABLE t ADD new int UNIQUE GENERATED ALWAYS AS IDENTITY", True),
        ("ALTER TABLE t ADD new uuid UNIQUE", True),
        ("ALTER TABLE t ADD tenant int DEFAULT 1, ADD UNIQUE (slug, tenant)", False),
        ("ALTER TABLE t ADD FOREIGN KEY (up) REFERENCES t", False),
        ("CREATE UNIQUE INDEX ON t (lower(slug))", False),
        ("CREATE UNIQUE INDEX ON t (up) WHERE up > 3", False),
        ("ALTER TABLE t ADD EXCLUDE USING btree (up WITH =)", False),
        ("CREATE RULE r AS ON INSERT TO t DO ALSO SELECT 1", False),
        ("CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION same()", False),
        ("CREATE TRIGGER g AFTER DELETE ON t EXECUTE FUNCTION same()", False),
        ("CREATE TRIGGER g BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION same()", True),
        ("ALTER TABLE t DROP CONSTRAINT t_pkey, DROP CONSTRAINT t_slug_key", True),
    ],
)
def test_only_a_file_whose_order_can_be_kept_is_cut(at: Restore, disorder: Disorder, more: str, cut: bool):
    at.schema("CREATE FUNCTION same() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'", TABLE, more)
    at.file("t", [{"id": i, "slug": str(i), "up": None} for i in range(1, 21)])
    result = at.ok(load={"batch_rows": 2, "pods": 2})
    assert result.counts() == {"inserted": 20}
    assert (at.value("SELECT count(*) FROM dbrestore.tasks") > 1) == cut


def test_a_role_that_may_not_delete_loads_the_file_whole(at: Restore, disorder: Disorder):
    at.schema(TABLE)
    at.file("t", [{"id": i, "slug": str(i), "up": None} for i in range(1, 21)])
    dsn = at.role("GRANT SELECT, INSERT ON t TO {}")
    assert at.ok(load={"batch_rows": 2, "pods": 2}, dsn=dsn).counts() == {"inserted": 20}
    assert at.value("SELECT count(*) FROM dbrestore.tasks") == 1


def test_rows_that_were_there_before_are_settled_at_once(at: Restore, disorder: Disorder):
    """Not set aside: all of a file may be there already."""
    at.schema(TABLE, "INSERT INTO t SELECT i, i::text FROM generate_series(1, 20) i")
    at.file("t", [{"id": i, "slug": str(i), "up": None} for i in range(1, 41)])
    result = at.ok(load={"batch_rows": 2, "pods": 2})
    assert result.counts() == {"inserted": 20, "duplicate": 20}
    assert not [e for e in at.events if isinstance(e, BatchLoaded) and e.deferred]
