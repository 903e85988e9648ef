"""A role that may do just what a restore needs, and what is said when it may not: which right, on what, and the way out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command import Ended, environment, restorer, write_backup
from fix_cli import SECRET, check_refused
from fix_restore import Restore
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from restorer.database.ledger_schema import RIGHTS, ddl

TEN = [{"id": i, "v": f"v{i}"} for i in range(1, 11)]
ON_T = "GRANT SELECT, INSERT ON t TO {}"
DOCS = Path(__file__).resolve().parents[2] / "docs" / "restoring.md"


def guest(at: Restore, *grants: str) -> str:
    """A role that may not create schemas. `{}` in `grants` is its name. -> how it connects"""
    return at.role(f"REVOKE CREATE ON DATABASE {at.db.info.dbname} FROM {{}}", *grants)


@pytest.fixture
def lent(at: Restore) -> Restore:
    """A table, its backup, and a ledger that a DBA made."""
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)", ddl("dbrestore"))
    return at.file("t", TEN)


def command(*args: object, dsn: str) -> Ended:
    """Runs it as that role. (With the password in its arguments it would start itself once more.)"""
    parts = conninfo_to_dict(dsn)
    password = str(parts.pop("password"))
    return restorer(*args, "--dsn", make_conninfo(**parts), env=environment(PGPASSWORD=password))


def way_out(line: str) -> str:
    """The SQL that a refusal tells a DBA to run."""
    assert "have a DBA run: " in line, line
    return line.partition("have a DBA run: ")[2]


@pytest.mark.parametrize("missing", ["USAGE", *RIGHTS])
def test_a_right_that_is_missing_in_the_ledger_is_named_and_what_to_run(lent: Restore, missing: str):
    held = [r for r in RIGHTS if r != missing]
    usage = ["GRANT USAGE ON SCHEMA dbrestore TO {}"] if missing != "USAGE" else []
    dsn = guest(lent, ON_T, *usage, f"GRANT {', '.join(held)} ON ALL TABLES IN SCHEMA dbrestore TO {{}}")
    words = f"this role lacks {missing} in the ledger's schema 'dbrestore'"
    result = lent.run(dsn=dsn)
    assert result.error is not None and result.error.exit_code == 2 and result.error.message == words
    assert lent.rows() == []
    if missing == "DELETE":
        check_refused(command("plan", "--backup", lent.root, dsn=dsn), 2, (words,))
    lent.schema(way_out(result.error.line()))
    assert lent.ok(dsn=dsn).counts() == {"inserted": 10}


def test_who_only_looks_needs_to_select_and_is_told_no_more(lent: Restore):
    lent.ok(name="r/1")
    dsn = guest(lent)
    looks = (("report",), ("rejects", "list"), ("ledger", "runs"))
    for look in looks:
        end = command(*look, dsn=dsn)
        check_refused(end, 2, ("this role lacks USAGE, SELECT in the ledger's schema",))
    words = way_out(end.lines[-1])
    assert (
        words.startswith("GRANT USAGE ON SCHEMA dbrestore TO role_")
        and "GRANT SELECT ON dbrestore.runs TO role_" in words
    )
    lent.schema(words)
    assert command("ledger", "runs", dsn=dsn).code == 0
    end = command("report", dsn=dsn)
    check_refused(end, 2, ("this role lacks SELECT in the ledger's schema",))
    words = way_out(end.lines[-1])
    assert not any(word in words for word in ("INSERT", "UPDATE", "DELETE", "deferred"))
    lent.schema(words)
    assert [command(*look, dsn=dsn).code for look in looks] == [0, 0, 0]
    check_refused(command("ledger", "purge", "r/1", dsn=dsn), 2, ("lacks SELECT, DELETE",))
    check_refused(command("rejects", "retry", dsn=dsn), 2, ("lacks SELECT, INSERT, UPDATE, DELETE",))


def test_the_ledgers_ddl_for_a_role_is_all_that_it_needs_there(at: Restore):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)").file("t", TEN)
    dsn = guest(at, ON_T)
    role = f"role_{at.db.info.dbname}"
    plan = ("plan", "--backup", at.root, "--dsn", dsn)
    check_refused(restorer(*plan), 2, ("the ledger's schema 'dbrestore'", f"restorer ledger ddl --grant-to {role}`"))
    (at.root / "restore.yaml").write_text(
        "apiVersion: dbrestore.io/v1alpha1\nkind: DatabaseRestore\nmetadata: {name: few}\n"
        "spec: {source: {path: .}, ledger: {schema: books}}\n"
    )
    elsewhere = (f"restorer ledger ddl --grant-to {role} --ledger-schema books`",)
    check_refused(restorer(*plan, "-f", at.root / "restore.yaml"), 2, elsewhere)
    (at.root / "restore.yaml").unlink()
    at.schema(restorer("ledger", "ddl", "--grant-to", role).out)
    assert at.ok(dsn=dsn).counts() == {"inserted": 10}


def test_a_schema_of_its_own_is_enough_for_the_ledger(at: Restore):
    """CREATE SCHEMA IF NOT EXISTS asks for the right to create schemas, also where there is nothing to create."""
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)").file("t", TEN)
    dsn = guest(at, ON_T, "CREATE SCHEMA mine AUTHORIZATION {}")
    result = at.run(dsn=dsn, ledger={"schema": "mine"})
    assert result.error is None, result.error.line()
    assert len(at.rows()) == 10 and at.value("SELECT count(*) FROM mine.runs") == 1


def test_without_room_for_temporary_tables_it_is_refused_before_the_load(lent: Restore):
    ledger = "GRANT USAGE ON SCHEMA dbrestore TO {}; GRANT ALL ON ALL TABLES IN SCHEMA dbrestore TO {}"
    dsn = guest(lent, ON_T, ledger.replace("{}", "{0}"))
    lent.schema(f"REVOKE TEMP ON DATABASE {lent.db.info.dbname} FROM PUBLIC")
    end = command("run", "--backup", lent.root, dsn=dsn)
    check_refused(end, 2, ("this role may create no temporary tables", "GRANT CREATE ON SCHEMA dbrestore TO role_"))
    assert lent.rows() == [] and lent.value("SELECT count(*) FROM dbrestore.runs") == 0
    lent.schema(way_out(end.lines[-1]))
    assert lent.file("t", [*TEN, TEN[0]]).ok(dsn=dsn).counts() == {"inserted": 10, "duplicate": 1}


def test_rejects_are_retried_without_temporary_tables_as_well(lent: Restore):
    lent.schema("CREATE TABLE p (id int PRIMARY KEY)", "ALTER TABLE t ADD p int REFERENCES p")
    ledger = "GRANT USAGE, CREATE ON SCHEMA dbrestore TO {0}; GRANT ALL ON ALL TABLES IN SCHEMA dbrestore TO {0}"
    dsn = guest(lent, ON_T, "GRANT SELECT ON p TO {}", ledger)
    lent.schema(f"REVOKE TEMP ON DATABASE {lent.db.info.dbname} FROM PUBLIC")
    lent.file("t", [{"id": 1, "p": 7}, {"id": 2, "p": None}])
    run = lent.ok(dsn=dsn, tables={"include": ["t"]})
    assert run.counts() == {"inserted": 1, "rejected": 1}
    lent.schema("INSERT INTO p VALUES (7)")
    end = command("rejects", "retry", dsn=dsn)
    assert (end.code, end.out.strip()) == (0, f"run {run.run}: 1 tried, 1 settled, 0 rejected again"), end.err


def test_tables_that_the_role_may_not_analyze_are_told(at: Restore):
    """The server only warns its client, and the planner goes without statistics."""
    at.schema(*(f"CREATE TABLE t{i} (id int PRIMARY KEY)" for i in range(5)))
    for i in range(5):
        at.file(f"t{i}", [{"id": 1}])
    dsn = at.role("GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO {}", "ALTER TABLE t4 OWNER TO {}")
    # What ANALYZE made, not when: before PostgreSQL 15 a collector tells that some time later (Monitoring, the statistics collector).
    analyzed = "SELECT DISTINCT tablename::text FROM pg_stats WHERE schemaname = 'public'"
    warnings = at.ok(dsn=dsn).report.warnings
    assert [w for w in warnings if "ANALYZE" in w] == [
        "t0, t1, t2 and 1 more table: no ANALYZE, as this role neither owns them nor has MAINTAIN (PostgreSQL 17): "
        "have the owner run it"
    ]
    assert at.rows(analyzed) == [("t4",)]
    if at.db.info.server_version >= 170000:
        at.schema(f"GRANT MAINTAIN ON ALL TABLES IN SCHEMA public TO role_{at.db.info.dbname}")
        at.schema("TRUNCATE t0, t1, t2, t3, t4")
        assert not [w for w in at.ok(dsn=dsn).report.warnings if "ANALYZE" in w]
        assert len(at.rows(analyzed)) == 5


def test_a_partition_that_the_role_may_not_analyze_is_told_as_well(at: Restore):
    at.schema(
        "CREATE TABLE t (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (5)", "CREATE TABLE t2 PARTITION OF t DEFAULT",
    ).file("t", TEN)  # fmt: skip
    dsn = at.role(ON_T, "ALTER TABLE t OWNER TO {}", "ALTER TABLE t1 OWNER TO {}")
    warned = "t: no ANALYZE, as this role"
    assert any(warned in w for w in at.ok(dsn=dsn).report.warnings)
    at.schema(f"ALTER TABLE t2 OWNER TO role_{at.db.info.dbname}")
    assert not any("ANALYZE" in w for w in at.ok(dsn=dsn).report.warnings)


def test_the_owner_of_the_database_may_analyze_all_its_tables(at: Restore):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)").file("t", TEN)
    dsn = at.role(ON_T)
    owner = at.value("SELECT current_user")
    at.schema(f"ALTER DATABASE {at.db.info.dbname} OWNER TO role_{at.db.info.dbname}")
    try:
        assert not [w for w in at.ok(dsn=dsn).report.warnings if "ANALYZE" in w]
        assert at.value("SELECT count(*) FROM pg_stats WHERE tablename = 't'") == 2
    finally:
        at.schema(f"ALTER DATABASE {at.db.info.dbname} OWNER TO {owner}")


def test_a_hook_that_may_not_is_told_by_the_name_of_what_it_may_not_touch(at: Restore):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE TABLE payroll (id int)").file("t", TEN)
    dsn = at.role(ON_T)
    result = at.run(dsn=dsn, hooks={"preRestore": [{"name": "look", "sql": "SELECT * FROM payroll"}]})
    assert result.error is not None and result.error.exit_code == 2
    assert result.error.line().startswith("hook look: permission denied for table payroll (SQLSTATE 42501): give this")


def test_what_a_trigger_says_with_the_same_code_is_not_told(at: Restore):
    at.schema(
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
        "CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION 'permission denied for table %', NEW.v USING ERRCODE = '42501'; END $$",
        "CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION tr()",
    )
    result = at.file("t", [{"id": 1, "v": SECRET}]).run()
    assert result.error is not None and result.error.exit_code == 2
    assert SECRET not in result.error.line() and "this role may not do that" in result.error.line()


def test_a_role_with_too_few_connections_is_worth_another_try(at: Restore, tmp_path: Path):
    """A run needs a connection beside its first one, by which others see that it lives."""
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE TABLE more (id int)")
    dsn = at.role(ON_T)
    at.schema(f"ALTER ROLE role_{at.db.info.dbname} CONNECTION LIMIT 1")
    backup = write_backup(tmp_path / "b", t=TEN)
    (tmp_path / "restore.yaml").write_text(
        "apiVersion: dbrestore.io/v1alpha1\nkind: DatabaseRestore\nmetadata: {name: few}\n"
        "spec: {source: {path: .}, retry: {maxElapsedSeconds: 1}}\n"
    )
    end = command("run", "-f", tmp_path / "restore.yaml", "--backup", backup, dsn=dsn)
    check_refused(end, 1, ("registering this process", "too many connections for role"))
    assert at.rows() == []


def test_the_rights_that_the_documentation_names_are_those_that_it_takes(at: Restore):
    """Each line of it is needed, and all together are enough."""
    text = DOCS.read_text("utf-8").partition("### What the role must be allowed")[2]
    block = re.search(r"```sql\n(.*?)```", text, re.S)
    assert block is not None
    role = f"role_{at.db.info.dbname}"
    lines = [line.partition("--")[0].strip().replace("restorer", role) for line in block[1].splitlines()]
    grants = [line for line in lines if line.startswith("GRANT") and "MAINTAIN" not in line]
    assert len(grants) == 4, lines
    at.schema("CREATE TABLE t (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, v text)")
    at.schema("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    dsn = guest(at)
    at.schema(restorer("ledger", "ddl", "--grant-to", role).out)
    at.file("t", TEN)
    spec = {"cleanup": "Truncate", "confirm": at.label, "on_conflict": "Update"}
    for i in range(len(grants)):
        at.schema(*(line for k, line in enumerate(grants) if k != i))
        refused = at.run(dsn=dsn, **spec)
        assert refused.error is not None and refused.error.exit_code == 2, grants[i]
        assert at.rows() == []
        for line in grants:
            at.schema(line.replace("GRANT", "REVOKE").replace(" TO ", " FROM "))
    at.schema(*grants)
    at.ok(dsn=dsn, **spec)
    assert at.ok(dsn=dsn, **spec).counts() == {"inserted": 10}
