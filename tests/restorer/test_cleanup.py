"""Cleanup: never without the right word, never more than the restore's own tables, once per run."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from command import restorer, write_backup
from fix_restore import Restore
from own_server import OwnServer

ROWS = [{"id": 1, "v": "new"}]


@pytest.fixture
def full(at: Restore) -> Restore:
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'old'), (2, 'old')")
    return at.file("t", ROWS)


@pytest.mark.parametrize("cleanup", ["Truncate", "Delete"])
def test_confirmed_cleanup_empties_and_loads(full: Restore, cleanup: str):
    result = full.ok(cleanup=cleanup, confirm=full.label)
    assert full.rows() == [(1, "new")] and result.counts() == {"inserted": 1}
    assert result.check("rowCount").passed


@pytest.mark.parametrize("cleanup", ["Truncate", "Delete"])
@pytest.mark.parametrize("confirm", [None, "local/other", "yes"])
def test_without_the_right_word_nothing_is_touched(full: Restore, cleanup: str, confirm: str | None):
    result = full.run(cleanup=cleanup, confirm=confirm)
    assert result.error is not None and result.error.exit_code == 2 and full.label in result.error.line()
    assert len(full.rows()) == 2
    assert full.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'dbrestore'") == 0


def test_none_keeps_what_is_there_and_require_empty_refuses_it(full: Restore):
    assert full.ok(cleanup="None").counts() == {"conflict": 1}
    refused = full.run(cleanup="RequireEmpty")
    assert refused.error is not None and "t hold rows" in refused.error.line()
    full.schema("TRUNCATE t")
    assert full.ok(cleanup="RequireEmpty").counts() == {"inserted": 1}


def test_a_resumed_run_is_not_refused_by_its_own_rows(full: Restore):
    full.schema("TRUNCATE t")
    full.file("t", [{"id": i, "v": "v"} for i in range(10)])
    full.stopped(2, name="r", batch=2, cleanup="RequireEmpty")
    assert 0 < len(full.rows()) < 10
    assert full.ok(name="r", batch=2, cleanup="RequireEmpty").counts() == {"inserted": 10}


@pytest.mark.parametrize("cleanup", ["Truncate", "Delete"])
def test_a_resumed_run_does_not_clean_again(full: Restore, cleanup: str):
    full.file("t", [{"id": i, "v": "v"} for i in range(10)])
    full.stopped(2, name="r", batch=2, cleanup=cleanup, confirm=full.label)
    loaded = len(full.rows())
    assert 0 < loaded < 10
    full.schema("INSERT INTO t VALUES (1000, 'since then')")
    result = full.run(name="r", batch=2, cleanup=cleanup, confirm=full.label, verification={"rowCounts": False})
    assert result.error is None
    assert len(full.rows()) == 11 and result.counts() == {"inserted": 10}


@pytest.mark.parametrize("cleanup", ["Truncate", "Delete"])
@pytest.mark.parametrize("action", ["", "ON DELETE CASCADE", "ON DELETE SET NULL"])
@pytest.mark.parametrize("schema", ["public", "elsewhere"])
def test_tables_that_refer_in_from_outside_refuse_it(full: Restore, cleanup: str, action: str, schema: str):
    full.schema(
        f"CREATE SCHEMA IF NOT EXISTS {schema}", f"CREATE TABLE {schema}.child (id int PRIMARY KEY, t int REFERENCES public.t {action})",
        f"INSERT INTO {schema}.child VALUES (1, 1)",
    )  # fmt: skip
    result = full.run(cleanup=cleanup, confirm=full.label)
    assert result.error is not None and f"{schema}.child" in result.error.line()
    assert len(full.rows()) == 2 and full.value(f"SELECT count(*) FROM {schema}.child WHERE t = 1") == 1


@pytest.mark.parametrize("cleanup", ["Truncate", "Delete"])
def test_a_table_that_refers_to_a_partition_refuses_it(at: Restore, cleanup: str):
    at.schema(
        "CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id)", "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (9)",
        "CREATE TABLE child (t int REFERENCES t1 ON DELETE CASCADE)", "INSERT INTO t VALUES (1)", "INSERT INTO child VALUES (1)",
    )  # fmt: skip
    result = at.file("t", [{"id": 1}]).run(cleanup=cleanup, confirm=at.label)
    assert result.error is not None and "child" in result.error.line()
    assert at.value("SELECT count(*) FROM child") == 1


@pytest.mark.parametrize("cleanup", ["Truncate", "Delete"])
def test_tables_that_inherit_are_not_emptied_with_their_parent(full: Restore, cleanup: str):
    full.schema("CREATE TABLE kid () INHERITS (t)", "INSERT INTO kid VALUES (7, 'kid')")
    result = full.run(cleanup=cleanup, confirm=full.label)
    assert full.value("SELECT count(*) FROM kid") == 1
    assert result.error is not None and "kid" in result.error.line()


@pytest.mark.parametrize("cleanup", ["Truncate", "Delete"])
def test_a_protected_database_is_not_cleaned(full: Restore, cleanup: str):
    full.schema(f"ALTER DATABASE {full.db.info.dbname} SET dbrestore.protected = 'on'")
    result = full.run(cleanup=cleanup, confirm=full.label)
    assert result.error is not None and "protected" in result.error.line()
    assert len(full.rows()) == 2
    assert full.ok(cleanup="None").counts() == {"conflict": 1}


@pytest.mark.parametrize("cleanup", ["Truncate", "Delete"])
def test_cycles_and_restrict_keys_inside_the_set_are_no_matter(at: Restore, cleanup: str):
    at.schema(
        "CREATE TABLE a (id int PRIMARY KEY, b int)",
        "CREATE TABLE b (id int PRIMARY KEY, a int NOT NULL REFERENCES a ON DELETE RESTRICT, self int REFERENCES b ON DELETE RESTRICT)",
        "ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b ON DELETE CASCADE",
        "INSERT INTO a VALUES (1, NULL)", "INSERT INTO b VALUES (1, 1, 1), (2, 1, 1)", "UPDATE a SET b = 1",
    )  # fmt: skip
    at.file("a", [{"id": 5, "b": 5}]).file("b", [{"id": 5, "a": 5, "self": None}])
    result = at.ok(cleanup=cleanup, confirm=at.label)
    assert at.rows("SELECT * FROM a") == [(5, 5)] and at.rows("SELECT * FROM b") == [(5, 5, None)]
    assert result.counts("a") == {"inserted": 1}


def test_rows_that_a_trigger_keeps_from_deletion_are_not_taken_for_gone(full: Restore):
    full.schema(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER keep BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION keep()",
    )
    result = full.run(cleanup="Delete", confirm=full.label)
    assert result.error is not None and result.error.exit_code == 2 and "still" in result.error.line()


@pytest.mark.slow
def test_a_locked_table_is_waited_for_only_so_long(full: Restore):
    with psycopg.connect(full.dsn) as other:
        other.execute("LOCK t IN ACCESS SHARE MODE")
        result = full.run(cleanup="Truncate", confirm=full.label, retry={"maxElapsedSeconds": 0})
        assert result.error is not None and result.error.exit_code == 1
    assert len(full.rows()) == 2


@pytest.mark.slow
def test_many_partitions_are_looked_into_a_table_at_a_time(tmp_path: Path):
    """A server has locks for so many relations at once, and a query takes one for each partition and each index."""
    with OwnServer("max_locks_per_transaction = 10", "max_connections = 20") as server:
        with psycopg.connect(server.dsn(), autocommit=True) as db:
            for i in range(12):
                db.execute(f"CREATE TABLE t{i} (id int PRIMARY KEY) PARTITION BY HASH (id)")
                for n in range(60):
                    db.execute(f"CREATE TABLE t{i}_{n} PARTITION OF t{i} FOR VALUES WITH (MODULUS 60, REMAINDER {n})")
        backup = write_backup(tmp_path, **{f"t{i}": [{"id": 1}] for i in range(12)})
        end = restorer("run", "--backup", backup, "--dsn", server.dsn(), "--cleanup", "require-empty")
        assert end.code == 0, end.err
