"""What stands between a record and its row: triggers, rules, row security, rights, partitions."""

from __future__ import annotations

import pytest
from fix_restore import Restore


def trigger(at: Restore, body: str, *, when: str = "BEFORE INSERT", table: str = "t") -> None:
    at.schema(
        f"CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$",
        f"CREATE TRIGGER tr {when} ON {table} FOR EACH ROW EXECUTE FUNCTION tr()",
    )


TEN = [{"id": i, "v": f"secret{i}"} for i in range(1, 11)]


@pytest.mark.parametrize("when", ["BEFORE INSERT", "AFTER INSERT"])
@pytest.mark.parametrize(
    "state", ["", " USING ERRCODE = '23514'", " USING ERRCODE = '45000'", " USING ERRCODE = 'UX001'"]
)
def test_a_trigger_that_raises_costs_the_rows_it_raises_for(at: Restore, when: str, state: str):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)")
    trigger(at, f"IF NEW.id IN (1, 6, 10) THEN RAISE EXCEPTION 'no %', NEW.v{state}; END IF; RETURN NEW;", when=when)
    result = at.file("t", TEN).ok()
    assert result.counts() == {"inserted": 7, "rejected": 3}
    assert [r[0] for r in result.rejects()] == [1, 6, 10]
    assert "secret" not in "".join(r["message"] for r in result.whole_rejects())
    assert result.levels == {"Row"}


@pytest.mark.parametrize("key", ["PRIMARY KEY", ""])
@pytest.mark.parametrize("batch", [1, 4, 5000])
def test_a_row_that_a_trigger_drops_in_silence_is_a_reject(at: Restore, key: str, batch: int):
    at.schema(f"CREATE TABLE t (id int {key}, v text)")
    trigger(at, "IF NEW.id IN (2, 3, 9) THEN RETURN NULL; END IF; RETURN NEW;")
    result = at.file("t", TEN).ok(batch=batch)
    assert result.counts() == {"inserted": 7, "rejected": 3}
    assert result.rejects() == [(i, "SuppressedByTrigger", "") for i in (2, 3, 9)]


def test_a_trigger_that_drops_everything_takes_no_ages(at: Restore):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)")
    trigger(at, "RETURN NULL;")
    result = at.file("t", [{"id": i, "v": "x"} for i in range(5000)]).ok()
    assert result.counts() == {"rejected": 5000}
    assert result.report.seconds <= 3


def test_a_trigger_may_change_the_key_and_drop_rows_at_once(at: Restore):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)")
    trigger(at, "IF NEW.id = 4 THEN RETURN NULL; END IF; NEW.id := NEW.id + 100; RETURN NEW;")
    result = at.file("t", TEN).ok()
    assert result.rejects() == [(4, "SuppressedByTrigger", "")]
    assert [r[0] for r in at.rows()] == [i + 100 for i in range(1, 11) if i != 4]


def test_a_trigger_that_passes_rows_on_to_child_tables_loses_none(at: Restore):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE TABLE kid (PRIMARY KEY (id)) INHERITS (t)")
    trigger(at, "INSERT INTO kid VALUES (NEW.*); RETURN NULL;")
    result = at.file("t", TEN).ok()
    assert result.counts() == {"inserted": 10}
    assert at.value("SELECT count(*) FROM ONLY t") == 0


def test_before_triggers_may_fill_in_what_must_not_be_null(at: Restore):
    at.schema(
        "CREATE TABLE p (id int PRIMARY KEY)", "INSERT INTO p VALUES (1)",
        "CREATE TABLE t (id int PRIMARY KEY, v text NOT NULL CHECK (v <> 'bad'), p int REFERENCES p)",
    )  # fmt: skip
    trigger(
        at, "NEW.v := coalesce(nullif(NEW.v, 'bad'), 'filled'); NEW.p := 1; NEW.id := coalesce(NEW.id, 50); RETURN NEW;"
    )
    records = [
        {"id": 1, "v": None, "p": 9},
        {"id": 2, "v": "bad", "p": 1},
        {"id": 3, "v": "x"},
        {"id": None, "v": "y"},
        {"id": 3, "v": "z"},
    ]
    result = at.file("t", records).ok()
    assert at.rows() == [(1, "filled", 1), (2, "filled", 1), (3, "x", 1), (50, "y", 1)]
    assert result.counts() == {"inserted": 4, "conflict": 1}


def test_an_update_that_a_trigger_drops_is_a_reject(at: Restore):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    trigger(at, "IF NEW.id = 2 THEN RETURN NULL; END IF; RETURN NEW;", when="BEFORE UPDATE")
    result = at.file("t", TEN[:4]).ok(on_conflict="Update")
    assert result.counts() == {"inserted": 1, "updated": 2, "rejected": 1}
    assert result.rejects() == [(2, "SuppressedByTrigger", "")]
    assert at.rows("SELECT v FROM t ORDER BY id") == [("secret1",), ("b",), ("secret3",), ("secret4",)]


@pytest.mark.parametrize("rule", ["DO INSTEAD NOTHING", "DO ALSO INSERT INTO log VALUES (NEW.id)"])
@pytest.mark.parametrize("batch", [3, 5000])
def test_rules_are_obeyed_by_every_batch_alike(at: Restore, rule: str, batch: int):
    at.schema(
        "CREATE TABLE log (id int)",
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
        f"CREATE RULE r AS ON INSERT TO t {rule}",
    )
    result = at.file("t", TEN).ok(batch=batch)
    if "ALSO" in rule:
        assert result.counts() == {"inserted": 10} and at.value("SELECT count(*) FROM log") == 10
    else:
        assert result.counts() == {"rejected": 10} and result.rejects()[0][1] == "SuppressedByTrigger"


def test_statement_triggers_fire_and_are_no_matter(at: Restore):
    at.schema(
        "CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE TABLE log (n int)",
        "CREATE FUNCTION st() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES (1); RETURN NULL; END $$",
        "CREATE TRIGGER st BEFORE INSERT ON t EXECUTE FUNCTION st()",
    )  # fmt: skip
    assert at.file("t", TEN).ok().counts() == {"inserted": 10}


def test_rows_of_no_partition_are_rejected_and_the_rest_finds_its_place(at: Restore):
    at.schema(
        "CREATE TABLE t (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (1) TO (4)",
        "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (4) TO (8)",
    )
    result = at.file("t", [*TEN, TEN[0]]).ok()
    assert result.counts() == {"inserted": 7, "duplicate": 1, "rejected": 3}
    assert result.rejects() == [(i, "CheckViolation", "23514") for i in (8, 9, 10)]
    assert at.value("SELECT count(*) FROM t2") == 4


@pytest.mark.parametrize("policy", ["Skip", "Update"])
def test_row_security_that_allows_some_rows(at: Restore, policy: str):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'old'), (2, 'old')")
    dsn = at.role("GRANT SELECT, INSERT, UPDATE ON t TO {}")
    at.schema(
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY", "CREATE POLICY see ON t FOR SELECT USING (id <> 2)",
        "CREATE POLICY put ON t FOR INSERT WITH CHECK (id < 8)", "CREATE POLICY change ON t FOR UPDATE USING (id <> 2)",
    )  # fmt: skip
    result = at.file("t", TEN).ok(dsn=dsn, on_conflict=policy, verification={"rowCounts": False})
    counts = result.counts()
    assert counts["inserted"] == 5
    rejected = {r[0]: r[1] for r in result.rejects()}
    assert {o: r for o, r in rejected.items() if o > 2} == dict.fromkeys((8, 9, 10), "PolicyViolation")
    assert at.rows("SELECT id FROM t ORDER BY 1") == [(i,) for i in range(1, 8)]
    assert at.value("SELECT v FROM t WHERE id = 2") == "old"


def test_row_security_without_any_policy_rejects_everything(at: Restore):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text)")
    dsn = at.role("GRANT SELECT, INSERT ON t TO {}")
    at.schema("ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    assert at.file("t", TEN).ok(dsn=dsn).counts() == {"rejected": 10}


def test_a_role_without_temp_privilege_stages_in_the_ledgers_schema(at: Restore):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text, p int REFERENCES t)")
    dsn = at.role("GRANT SELECT, INSERT ON t TO {}")
    at.schema(f"REVOKE TEMP ON DATABASE {at.db.info.dbname} FROM PUBLIC")
    records = [{"id": 1, "p": 2}, {"id": 1, "p": 2}, {"id": 2, "p": None}, {"id": 3, "p": 4}, {"id": 5, "v": "x"}]
    result = at.file("t", records).ok(dsn=dsn, batch=2)
    assert result.counts() == {"inserted": 3, "conflict": 1, "rejected": 1} or result.counts() == {
        "inserted": 3, "duplicate": 1, "rejected": 1,
    }  # fmt: skip
    assert at.value("SELECT count(*) FROM pg_class WHERE relname LIKE 'dbrestore_stage%'") == 0


NASTY = [
    'we"ird',
    "two words",
    "100%",
    "%s %(x)s",
    "ünï",
    "select",
    "dbrestore ord",
    "UPPER",
    "s",
    "t",
    "o",
    "{x}",
    "a.b",
    "kept",
    "x'y",
]


@pytest.mark.parametrize("policy", ["Skip", "Update"])
def test_names_of_any_kind(at: Restore, policy: str):
    def quoted(name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    columns = ", ".join(f"{quoted(n)} int CHECK ({quoted(n)} < 90)" for n in NASTY)
    table = quoted('Ta"ble %s {x}')
    at.schema(
        'CREATE SCHEMA "Sche ma"',
        f'CREATE TABLE "Sche ma".{table} ("iD %" serial PRIMARY KEY, {columns}, '
        f'parent int REFERENCES "Sche ma".{table}, UNIQUE ("100%"), UNIQUE ("{{x}}", "kept"))',
    )
    records = [
        {"iD %": i, "parent": 6 - i if i < 3 else None, **{n: i * 10 + k for k, n in enumerate(NASTY)}}
        for i in range(1, 6)
    ]
    records.append({**records[0], "UPPER": 5})
    records.append({**records[1], "iD %": 7, "UPPER": 95})
    records.append({"iD %": 8, "parent": None})
    at.file('Ta"ble %s {x}', records)
    result = at.ok(target={"schema": "Sche ma"}, on_conflict=policy, batch=3)
    counts = result.counts('Ta"ble %s {x}')
    assert counts == {"inserted": 6, "conflict" if policy == "Skip" else "updated": 1, "rejected": 1}
    assert at.value(f'SELECT count(*) FROM "Sche ma".{table}') == 6
    assert at.value(f'SELECT "%s %(x)s" FROM "Sche ma".{table} WHERE "iD %" = 2') == 23
    dry = at.ok(target={"schema": "Sche ma"}, on_conflict=policy, mode="DryRun")
    assert dry.counts('Ta"ble %s {x}')["rejected"] == 1


def test_a_sequence_that_the_role_may_not_move_is_told_before_the_load(at: Restore):
    at.schema("CREATE TABLE t (id serial PRIMARY KEY)")
    dsn = at.role("GRANT SELECT, INSERT ON t TO {}")
    refused = at.file("t", [{"id": 1}]).run(dsn=dsn)
    assert refused.error is not None and refused.error.exit_code == 2
    assert "no SELECT and UPDATE privilege on sequence public.t_id_seq" in refused.error.line()
    assert at.rows() == []
    at.schema(f"GRANT SELECT, UPDATE ON SEQUENCE t_id_seq TO role_{at.db.info.dbname}")
    at.ok(dsn=dsn)
    assert at.value("SELECT nextval('t_id_seq')") == 2


@pytest.mark.parametrize("batch", [2, 5000])
def test_nulls_that_became_json_null_are_told(at: Restore, batch: int):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, j jsonb NOT NULL)")
    records = [{"id": i, "j": None if i % 2 else {}} for i in range(10)]
    report = at.file("t", records).ok(batch=batch).report
    assert [w for w in report.warnings if "JSON null" in w] == [
        "t: 5 nulls stored as JSON null, as their columns are NOT NULL"
    ]


def test_without_temp_privilege_a_probe_leaves_nothing_behind_either(at: Restore):
    at.schema("CREATE TABLE t (id int PRIMARY KEY, v text, body text)")
    dsn = at.role("GRANT SELECT, INSERT ON t TO {}")
    at.schema(f"REVOKE TEMP ON DATABASE {at.db.info.dbname} FROM PUBLIC")
    records = [{"id": i if i % 10 else 1, "v": "x", "body": "y"} for i in range(1, 101)]
    result = at.file("t", records).ok(dsn=dsn, batch=20)
    assert result.counts() == {"inserted": 90, "duplicate": 10}
    assert {f.level: f.records for f in result.report.fallback}["Exact"] > 80
    assert at.value("SELECT count(*) FROM pg_class WHERE relname LIKE 'dbrestore_stage%'") == 0
