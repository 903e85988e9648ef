"""After the load: sequences, ANALYZE, and checks, each of which must be able to fail."""

from __future__ import annotations

from typing import Any

import pytest
from fix_restore import Restore


def fails(at: Restore, check: str, **options: object) -> None:
    result = at.run(**options)
    assert result.error is not None and result.error.reason == "VerificationFailed" and result.error.exit_code == 2
    assert [c.check for c in result.report.verification if not c.passed] == [check]
    assert result.report.outcome == "Failed"


THREE = [{"id": i, "v": f"v{i}"} for i in (1, 2, 3)]


def test_a_check_that_needs_too_large_temporary_files_is_told_and_not_tried_for_ever(at: Restore):
    at.schema(
        "CREATE TABLE p (id int PRIMARY KEY, v text)", "CREATE TABLE t (id int PRIMARY KEY, p int REFERENCES p)",
        "INSERT INTO p SELECT i, 'x' FROM generate_series(1, 60000) i",
        *(f"ALTER DATABASE {at.db.info.dbname} SET {s}" for s in (
            "temp_file_limit = '64kB'", "work_mem = '64kB'", "enable_mergejoin = off", "enable_nestloop = off"
        )),
    )  # fmt: skip
    result = at.file("t", [{"id": i, "p": i} for i in range(1, 30000)]).run(tables={"include": ["t"]})
    assert result.error is not None and result.error.exit_code == 1 and result.report.totals.retries == 0
    assert "temp_file_limit" in result.error.message and "raise temp_file_limit or work_mem" in result.error.remedy
    at.schema(f"ALTER DATABASE {at.db.info.dbname} RESET temp_file_limit")
    assert at.ok(name=result.run, tables={"include": ["t"]}).counts() == {"inserted": 29_999}


def test_a_good_restore_passes_every_check(at: Restore):
    at.schema("CREATE TABLE t (id serial PRIMARY KEY, v text NOT NULL, p int REFERENCES t)")
    result = at.file("t", THREE).ok(
        verification={
            "notNull": ["t.v"],
            "queries": [{"name": "q", "sql": "SELECT count(*) FROM t WHERE v LIKE 'v%'", "expect": "3"}],
        }
    )
    assert all(c.passed for c in result.report.verification)
    assert {c.check for c in result.report.verification} == {
        "fileCount", "rowCount", "foreignKey t_p_fkey", "sequence", "notNull", "query q",
    }  # fmt: skip
    assert at.value("SELECT reltuples FROM pg_class WHERE relname = 't'") == 3


_ANALYZED = "SELECT analyze_count FROM pg_stat_user_tables WHERE relname = 't'"


@pytest.mark.parametrize(
    ("before", "options", "analyzed"),
    [
        (["ANALYZE t"], {}, False),
        ([], {}, True),  # nobody knows anything of it
        (["ANALYZE t", "INSERT INTO t VALUES (4, 'of somebody else')"], {}, True),
        (["ANALYZE t", "ALTER TABLE t ADD w int"], {}, True),
        (["ANALYZE t", 'ALTER TABLE t ALTER v TYPE varchar COLLATE "C"'], {}, True),
        (["ANALYZE t", "CREATE STATISTICS s ON id, v FROM t"], {}, True),
        (["CREATE INDEX ON t (lower(v))", "ANALYZE t"], {}, True),
        (
            ["CREATE TABLE child () INHERITS (t)", "ANALYZE t", "INSERT INTO child VALUES (9, 'x')"],
            {"verification": {"rowCounts": False}},
            True,
        ),
        (["UPDATE t SET v = 'other' WHERE id = 2", "ANALYZE t"], {"on_conflict": "Skip"}, False),
        (["UPDATE t SET v = 'other' WHERE id = 2", "ANALYZE t"], {"on_conflict": "Update"}, True),
        (["DELETE FROM t WHERE id = 2", "ANALYZE t"], {}, True),
        (["ANALYZE t"], {"cleanup": "Delete", "records": []}, True),
        (["ANALYZE t"], {"hooks": {"preRestore": [{"name": "h", "sql": "UPDATE t SET v = v"}]}}, True),
    ],
)
def test_statistics_are_made_where_there_are_none_of_what_is_there_now(
    at: Restore, before: list[str], options: dict[str, Any], analyzed: bool
):
    if at.db.info.server_version < 150000:
        pytest.skip("the statistics collector tells when it likes")
    table = "CREATE TABLE t (id int PRIMARY KEY, v text)"
    for statement in [table, "INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 3) i", *before]:
        at.schema("SELECT pg_stat_force_next_flush()", statement, "SELECT pg_stat_force_next_flush()")
    known = at.value(_ANALYZED)
    if "cleanup" in options:
        options = options | {"confirm": at.label}
    records = options.pop("records", THREE)
    at.file("t", records).ok(**options)
    at.db.execute("SELECT pg_stat_clear_snapshot()")
    assert at.value(_ANALYZED) - known == analyzed


@pytest.mark.parametrize("body", ["DELETE FROM t WHERE id = NEW.id", "INSERT INTO t VALUES (NEW.id + 100)"])
def test_a_trigger_that_adds_or_takes_rows_is_found_by_the_count(at: Restore, body: str):
    at.schema(
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
        f"CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id = 2 THEN {body}; END IF; RETURN NULL; END $$",
        "CREATE TRIGGER f AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
    )
    fails(at.file("t", THREE), "rowCount")
    assert at.run(verification={"rowCounts": False}).error is None


def test_orphans_from_before_a_constraint_that_was_never_validated_are_found(at: Restore):
    at.schema(
        "CREATE TABLE p (id int PRIMARY KEY)", "CREATE TABLE t (id int PRIMARY KEY, v text, p int)", "INSERT INTO t VALUES (9, 'x', 9)",
        "ALTER TABLE t ADD CONSTRAINT fk FOREIGN KEY (p) REFERENCES p NOT VALID",
    )  # fmt: skip
    fails(at.file("t", THREE), "foreignKey fk")
    assert at.run(verification={"foreignKeys": False}).error is None


def test_parents_that_vanish_behind_disabled_triggers_are_found(at: Restore):
    at.schema(
        "CREATE TABLE p (id int PRIMARY KEY)", "INSERT INTO p VALUES (1)", "CREATE TABLE t (id int PRIMARY KEY, p int REFERENCES p)",
        "ALTER TABLE t DISABLE TRIGGER ALL", "ALTER TABLE p DISABLE TRIGGER ALL",
    )  # fmt: skip
    fails(
        at.file("t", [{"id": 1, "p": 1}]), "foreignKey t_p_fkey",
        hooks={"postRestore": [{"name": "h", "sql": "DELETE FROM p"}]},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("sql", "expect"),
    [("SELECT count(*) FROM t", "4"), ("SELECT 1 WHERE false", "1"), ("SELECT * FROM nowhere", "1"), ("DELETE FROM t RETURNING 1", "1"),
     ("SET search_path = public", "x"), ("SELECT 1; COMMIT; SELECT 1", "1")],
)  # fmt: skip
def test_a_query_that_answers_otherwise_fails_the_restore(at: Restore, sql: str, expect: str):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)")
    fails(at.file("t", THREE), "query q", verification={"queries": [{"name": "q", "sql": sql, "expect": expect}]})
    assert at.value("SELECT count(*) FROM t") == 3


@pytest.mark.parametrize("name", ["t.v", "t.nope", "nope.v", "t"])
def test_a_null_or_a_missing_column_fails_not_null(at: Restore, name: str):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)")
    fails(at.file("t", [*THREE, {"id": 4, "v": None}]), "notNull", verification={"notNull": [name]})


def test_a_manifests_count_is_held_against_what_was_read(at: Restore):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)").file("t", THREE)
    at.file("manifest.json", b'{"tables": {"t": {"records": 4}}}')
    result = at.run()
    assert result.error is not None and result.error.reason == "VerificationFailed"
    assert not result.check("manifestCount").passed


def test_blank_lines_are_no_records(at: Restore):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)")
    result = at.file("t.ndjson", b'\n{"id":1}\n\n\n{"id":2,"v":"x"}\n{"id":\n\n{"id":3}').ok()
    assert result.counts() == {"inserted": 3, "rejected": 1}
    assert [r[0] for r in result.rejects()] == [6]


def test_sequences_go_on_after_the_highest_value_and_never_back(at: Restore):
    at.schema(
        "CREATE TABLE a (id serial PRIMARY KEY)", "CREATE TABLE b (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY)",
        "CREATE TABLE c (id bigserial PRIMARY KEY)", "SELECT setval('c_id_seq', 1000)",
        "CREATE TABLE d (id int PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY (INCREMENT -2 MAXVALUE 100 START 100))",
        'CREATE SEQUENCE "Se q" START 50', 'CREATE TABLE e (id int PRIMARY KEY)',
        'ALTER SEQUENCE "Se q" OWNED BY e.id', """ALTER TABLE e ALTER id SET DEFAULT nextval('"Se q"')""",
        "CREATE TABLE f (id serial PRIMARY KEY)",
    )  # fmt: skip
    for name in "abcde":
        at.file(name, [{"id": i} for i in (7, 3, 60)])
    at.file("f", [])
    result = at.ok()
    assert all(c.passed for c in result.report.verification)
    following = {name: at.value(f"INSERT INTO {name} DEFAULT VALUES RETURNING id") for name in "abcdef"}
    assert following == {"a": 61, "b": 61, "c": 1001, "d": 1, "e": 61, "f": 1}


def test_a_sequence_that_cannot_follow_fails_its_check(at: Restore):
    at.schema("CREATE TABLE t (id serial PRIMARY KEY)")
    fails(
        at.file("t", [{"id": 5}]),
        "sequence",
        hooks={"postRestore": [{"name": "h", "sql": "SELECT setval('t_id_seq', 2)"}]},
    )


def test_verify_only_finds_what_differs_and_writes_nothing(at: Restore):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE TABLE k (v text, n numeric)")
    at.file("t", THREE).file("k", [{"v": "a", "n": 1.0}, {"v": None, "n": None}]).ok()
    good = at.ok(mode="VerifyOnly")
    assert good.counts("t") == {"duplicate": 3} and good.counts("k") == {"duplicate": 2}
    at.schema(
        "UPDATE t SET v = 'other' WHERE id = 2",
        "DELETE FROM t WHERE id = 3",
        "INSERT INTO t VALUES (8, 'more'), (9, 'more')",
    )
    at.schema("UPDATE k SET n = 1.00 WHERE n IS NOT NULL", "DELETE FROM k WHERE n IS NULL")
    result = at.run(mode="VerifyOnly")
    assert result.error is not None and result.error.exit_code == 2
    assert result.counts("t") == {"duplicate": 1, "conflict": 1, "rejected": 1}
    assert result.counts("k") == {"duplicate": 1, "rejected": 1}
    assert not result.check("content", "t").passed and not result.check("tableCount", "t").passed


def test_verify_only_of_a_table_without_a_key_is_no_square(at: Restore):
    at.schema("CREATE TABLE t (v text, n int)")
    at.file("t", [{"v": f"v{i}", "n": i} for i in range(20_000)]).ok()
    result = at.ok(mode="VerifyOnly")
    assert result.counts() == {"duplicate": 20_000} and result.report.seconds <= 6
