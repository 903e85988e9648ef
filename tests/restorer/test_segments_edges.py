"""Files in segments where keys, rights, children or the server stand in the way: like one worker, or not cut at all."""

from __future__ import annotations

from typing import Any

import pytest
from fix_disorder import Disorder, at_once, backwards, forwards, same, second_worker
from fix_restore import Record, Restore
from restorer.database.connection import Connection
from restorer.database.tasks import Task, Tasks
from restorer.errors import Unavailable
from restorer.events import AnyEvent, BatchLoaded
from restorer.load import ladder, leader
from restorer.load.contest import Contested
from restorer.load.ladder import Ladder
from restorer.load.leader import Leader
from restorer.load.replay import Replay
from restorer.load.worker import Workbench

FILLER: list[Record] = [{"id": i, "slug": f"s{i}"} for i in range(10, 20)]
TWICE = [{"id": 1, "slug": "x"}, *FILLER, {"id": 4, "slug": "x"}]
T = "CREATE TABLE t (id int PRIMARY KEY, slug text UNIQUE)"


def padded(count: int, start: int = 1000, **more: Any) -> list[Record]:
    return [{"id": start + i, "slug": f"{start + i}" + "p" * 60, **more} for i in range(count)]


FUNCTION = "CREATE OR REPLACE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO log VALUES (OLD.id); RETURN OLD; END'"
LOG = "CREATE TABLE log (id int)"
PARTED = "CREATE TABLE t (id int PRIMARY KEY, slug text) PARTITION BY HASH (id)"
PART = "CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 1, REMAINDER 0)"


@pytest.mark.parametrize(
    "schema",
    [
        ["CREATE TABLE t (id int PRIMARY KEY, slug text, low text GENERATED ALWAYS AS (lower(slug)) STORED UNIQUE)"],
        ["CREATE TABLE t (id int PRIMARY KEY, slug text, tenant int DEFAULT 1, UNIQUE (tenant, slug))"],
        ["CREATE TABLE t (id int UNIQUE, slug text UNIQUE)"],
        [PARTED, PART, "CREATE UNIQUE INDEX ON t0 (slug)"],
        [PARTED, PART, LOG, FUNCTION, "CREATE TRIGGER g AFTER DELETE ON t0 FOR EACH ROW EXECUTE FUNCTION note()"],
        [T, "CREATE RULE r AS ON DELETE TO t DO INSTEAD NOTHING"],
        [T, LOG, "CREATE RULE r AS ON DELETE TO t DO ALSO INSERT INTO log VALUES (OLD.id)"],
        [T, "CREATE TABLE t2 () INHERITS (t)"],
    ],
    ids=lambda schema: schema[-1][:60],
)
def test_not_cut(at: Restore, disorder: Disorder, schema: list[str]):
    at.file("t", TWICE)
    same(at, disorder, schema, cut=False, seeds=range(2))


def test_a_publication_that_would_not_know_which_row_went(at: Restore, disorder: Disorder):
    at.schema("CREATE PUBLICATION every FOR ALL TABLES")
    at.file("t", TWICE)
    same(at, disorder, ["CREATE TABLE t (id int NOT NULL, slug text NOT NULL UNIQUE)"], cut=False, seeds=range(2))
    same(at, disorder, ["CREATE TABLE t (id int PRIMARY KEY, slug text NOT NULL UNIQUE)"], seeds=range(4))


def test_rows_in_another_partition_at_the_same_place_stay(
    at: Restore, disorder: Disorder, monkeypatch: pytest.MonkeyPatch
):
    """They were there before the run, and hold more than the file has."""
    monkeypatch.setattr(leader, "SEGMENT", 3000)
    schema = [
        "CREATE TABLE t (r int, id int, slug text, extra text DEFAULT 'file', PRIMARY KEY (r, id)) PARTITION BY LIST (r)",
        "CREATE TABLE t0 PARTITION OF t FOR VALUES IN (0)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1)",
        "INSERT INTO t SELECT 0, i, 'n' || i, 'precious' FROM generate_series(1, 40) i",
    ]
    first = [{"r": 0, "id": 900, "slug": "a"}, {"r": 1, "id": 901, "slug": "a"}, *padded(50, r=1)]
    again = [{"r": 0, "id": i, "slug": f"n{i}"} for i in range(1, 41)]
    at.file("t", [*first, *again, {"r": 0, "id": 900, "slug": "b"}, {"r": 1, "id": 901, "slug": "b"}])
    same(at, disorder, schema, batch=500)


def test_a_record_without_the_id_is_never_taken_for_another(
    at: Restore, disorder: Disorder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(leader, "SEGMENT", 3000)
    at.file("t", [{"id": 5000, "slug": "first"}, *padded(60), {"slug": "x"}, {"id": 5000, "slug": "x"}])
    show = ["SELECT CASE WHEN id > 1000 THEN id END, slug FROM t ORDER BY 2, 1"]
    same(at, disorder, ["CREATE TABLE t (id serial PRIMARY KEY, slug text)"], batch=500, show=show)


@pytest.mark.parametrize("action", ["NO ACTION", "CASCADE", "SET NULL"])
def test_what_an_application_refers_to_stays_and_its_neighbours_do_not(
    at: Restore, monkeypatch: pytest.MonkeyPatch, action: str
):
    at.schema(T, f"CREATE TABLE own (id int REFERENCES t ON DELETE {action})")
    last = [{"id": 4, "slug": "x"}, {"id": 5, "slug": "y"}]
    at.file("t", [{"id": 1, "slug": "x"}, {"id": 2, "slug": "y"}, *padded(30), *last])
    backwards(monkeypatch, 1400)

    def refer(event: AnyEvent) -> None:
        if isinstance(event, BatchLoaded):
            at.db.execute("INSERT INTO own SELECT id FROM t WHERE id = 4 AND NOT EXISTS (SELECT FROM own)")

    at.ok(load={"batch_rows": 500, "pods": 2}, emit=refer)
    assert at.rows("SELECT * FROM own") == [(4,)]
    assert at.rows("SELECT id, slug FROM t WHERE slug IN ('x', 'y') ORDER BY 2") == [(4, "x"), (2, "y")]


@pytest.fixture
def benches(monkeypatch: pytest.MonkeyPatch) -> list[Workbench]:
    """All that are made."""
    made: list[Workbench] = []
    init = Workbench.__init__

    def keep(self: Workbench, *args: Any, **named: Any) -> None:
        init(self, *args, **named)
        made.append(self)

    monkeypatch.setattr(Workbench, "__init__", keep)
    return made


def test_another_worker_commits_between_two_questions(
    at: Restore, monkeypatch: pytest.MonkeyPatch, benches: list[Workbench]
):
    monkeypatch.setattr(leader, "SEGMENT", 3000)
    at_once(monkeypatch)
    at.schema(T, "INSERT INTO t VALUES (-1, 'z')")
    at.file("t", [{"id": 1, "slug": "x"}, *padded(60), {"id": 4, "slug": "x"}])
    contested = Contested.contested

    def then_another(self: Contested, *args: Any) -> Any:
        found = contested(self, *args)
        if len(benches) == 1:
            assert second_worker(benches[0])  # the second segment
        return found

    monkeypatch.setattr(Contested, "contested", then_another)
    result = at.ok(load={"batch_rows": 500, "pods": 2})
    assert len(benches) == 2
    assert at.rows("SELECT id FROM t WHERE slug = 'x'") == [(1,)]
    assert result.counts() == {"inserted": 61, "conflict": 1}


@pytest.mark.parametrize("cut", [True, False])
def test_a_task_that_another_worker_took_and_finished_is_let_go(
    at: Restore, monkeypatch: pytest.MonkeyPatch, benches: list[Workbench], cut: bool
):
    """As after a crash of the server, which leaves nobody registered: some of its records wait already, in the ledger too."""
    if cut:
        forwards(monkeypatch, 3000)
    at.schema(T, "ALTER TABLE t ADD parent int REFERENCES t" if not cut else "ALTER TABLE t ADD parent int")
    at.file("t", [{"id": 1, "slug": "x", "parent": 1059}, {"id": 2, "slug": "x", "parent": 1}, *padded(60, parent=1)])
    load = Ladder.load

    def late(self: Ladder, *args: Any, **named: Any) -> Any:
        if len(benches) == 1:
            at.db.execute("UPDATE dbrestore.tasks SET owner = NULL")
            assert second_worker(benches[0])
            assert at.value("SELECT count(*) FROM dbrestore.deferred") > 0
        return load(self, *args, **named)

    monkeypatch.setattr(Ladder, "load", late)
    result = at.ok(load={"batch_rows": 20, "pods": 2 if cut else 1})
    assert len(benches) == 2
    assert result.counts() == {"inserted": 61, "conflict": 1}
    assert at.value("SELECT count(*) FROM t") == 61


def test_a_taken_key_comes_before_a_fault_that_only_the_server_finds(at: Restore, disorder: Disorder):
    """The parents cannot be read, so set queries do not see which are missing."""
    at.schema("CREATE TABLE p (id int PRIMARY KEY)", "INSERT INTO p VALUES (1)")
    at.schema("CREATE TABLE t (id int PRIMARY KEY, slug text UNIQUE, p_id int REFERENCES p)")
    dsn = at.role("GRANT SELECT, INSERT, DELETE ON t TO {}")
    at.file("t", [{**r, "p_id": 99 if r["id"] == 4 else 1} for r in TWICE])
    for seed in range(8):
        at.schema("TRUNCATE t")
        disorder(seed)
        result = at.ok(load={"batch_rows": 2, "pods": 2}, dsn=dsn)
        assert result.counts() == {"inserted": 11, "conflict": 1}


@pytest.mark.parametrize("count", [40, 1200])
def test_half_of_the_file_makes_way(at: Restore, monkeypatch: pytest.MonkeyPatch, count: int):
    """In steps, each a transaction: the locks of temporary tables last to its end, and a server has room for so many."""
    at.schema(T)
    at.file("t", [{"id": i, "slug": f"{n} {i}"} for n in "ab" for i in range(count)])
    backwards(monkeypatch, (at.root / "t.json").stat().st_size // 2)
    result = at.ok(load={"batch_rows": 5, "pods": 2})
    assert result.counts() == {"inserted": count, "conflict": count}
    assert at.value("SELECT count(*) FROM t WHERE slug LIKE 'a%'") == count
    told = [e.counters.inserted for e in at.events if isinstance(e, BatchLoaded)]
    assert sum(told) == count
    assert min(told) >= 0  # a counter never goes down
    again = at.value("SELECT sum(value::int) FROM dbrestore.tasks, jsonb_each_text(records)")
    assert again == 2 * count


@pytest.mark.parametrize(
    ("key", "spelled", "found"),
    [
        ("id int PRIMARY KEY", "%d", True),
        ("id text PRIMARY KEY", '"%d"', True),
        ("id bigint, PRIMARY KEY (id, slug)", "%d", True),
        ("id text PRIMARY KEY", '"\\u002b%d"', False),  # not as the server spells it
    ],
)
def test_a_row_that_makes_way_is_found_by_its_key(
    at: Restore, monkeypatch: pytest.MonkeyPatch, key: str, spelled: str, found: bool
):
    """Its neighbours in the batch need not be staged for it."""
    at.schema(f"CREATE TABLE t (slug text UNIQUE, {key})")
    slugs = ["x", *(f"{'p' * 60}{i}" for i in range(120)), "x"]
    records = ",".join(f'{{"id": {spelled % (1000 + i)}, "slug": "{slug}"}}' for i, slug in enumerate(slugs))
    size = (at.root / "t.json").write_text(f"[{records}]")
    backwards(monkeypatch, size // 2)
    stages, staged = Replay._stages, list[int]()

    def counted(self: Replay, conn: Connection, records: list[Any], outcome: Any) -> Any:
        staged.append(len(records))
        return stages(self, conn, records, outcome)

    monkeypatch.setattr(Replay, "_stages", counted)
    assert at.ok(load={"batch_rows": 500, "pods": 2}).counts() == {"inserted": 121, "conflict": 1}
    assert (max(staged) <= 2) is found
    assert at.rows("SELECT id::text FROM t WHERE slug = 'x'") == [("1000" if found else "+1000",)]


@pytest.mark.parametrize(
    ("pods", "count", "batch", "most"),
    [(1, 40, 5000, 20), (2, 40, 50, 20), pytest.param(1, 450, 5000, 500, marks=pytest.mark.slow)],
)
def test_shapes_that_share_keys_all_over(
    at: Restore, monkeypatch: pytest.MonkeyPatch, pods: int, count: int, batch: int, most: int
):
    """Each shape is staged by itself, and which record is first shows only in parts where no two shapes share a key: more
    temporary tables than one transaction has locks for."""
    monkeypatch.setattr(leader, "SEGMENT", 1000)
    monkeypatch.setattr(ladder, "_STAGES", most)
    at.schema("CREATE TABLE t (id int PRIMARY KEY, slug text, n int DEFAULT 7)")
    shapes: list[tuple[str, Record]] = [("a", {}), ("b", {"n": 1}), ("c", {})]
    at.file("t", [{"id": i, "slug": slug, **more} for i in range(count) for slug, more in shapes])
    result = at.ok(load={"batch_rows": batch, "pods": pods})
    assert result.counts() == {"inserted": count, "conflict": 2 * count}
    assert at.value("SELECT count(*) FROM t WHERE slug = 'a' AND n = 7") == count


def test_the_last_segment_is_the_longest_and_taken_first(at: Restore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(leader, "SEGMENT", 1000)
    at_once(monkeypatch)
    at.schema(T)
    at.file("t", padded(100))
    claim, claimed = Tasks.claim, list[tuple[int, int | None]]()

    def noted(self: Tasks, conn: Connection) -> Task | None:
        if (task := claim(self, conn)) is not None:
            claimed.append((task.start, task.stop))
        return task

    monkeypatch.setattr(Tasks, "claim", noted)
    assert at.ok(load={"pods": 2}).counts() == {"inserted": 100}
    (start, stop), *others = claimed
    size = (at.root / "t.json").stat().st_size
    assert stop is None and 0.4 * size - 200 < size - start < 0.4 * size + 1200  # to a record or a short segment
    assert others == sorted(others) and others[0][0] == 0 and len(others) > 3


@pytest.mark.parametrize("told", [0, 1, 4, 6, 8])
@pytest.mark.parametrize("pods", [(2, 16), (16, 2)])
def test_a_run_that_ended_while_a_file_was_cut_goes_on_with_more_workers_or_fewer(
    at: Restore, monkeypatch: pytest.MonkeyPatch, told: int, pods: tuple[int, int]
):
    monkeypatch.setattr(leader, "SEGMENT", 2000)
    monkeypatch.setattr(leader, "SHORT_SEGMENT", 200)
    at_once(monkeypatch)
    at.schema(T)
    at.file("t", padded(200))
    add, left = Leader._add, iter(range(told))

    def killed(self: Leader, *args: Any, **named: Any) -> None:
        if next(left, None) is None:
            raise Unavailable("killed", "start it again")
        add(self, *args, **named)

    monkeypatch.setattr(Leader, "_add", killed)
    assert at.run(name="r", load={"pods": pods[0]}).error is not None
    assert at.value("SELECT count(*) FROM dbrestore.tasks") == told
    monkeypatch.setattr(Leader, "_add", add)
    assert at.ok(name="r", load={"pods": pods[1]}).counts() == {"inserted": 200}
