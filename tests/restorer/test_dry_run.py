"""A dry run says what the restore would do, and leaves no trace."""

from __future__ import annotations

import random
from typing import Any

import pytest
from fix_restore import Restore
from restorer.events import AnyEvent, BatchLoaded

SCHEMA = (
    "CREATE TYPE mood AS ENUM ('sad', 'ok')",
    "CREATE TABLE p (id serial PRIMARY KEY, code text UNIQUE, boss int REFERENCES p)",
    "CREATE TABLE t (id int PRIMARY KEY, p int REFERENCES p, n smallint CHECK (n < 50), m mood, at timestamptz DEFAULT now(), "
    "e text UNIQUE, ip inet, must text NOT NULL)",
)


def records(rng: random.Random) -> tuple[list[Any], list[Any]]:
    parents = [
        {"id": i, "code": f"c{rng.randrange(40)}", "boss": rng.choice([None, rng.randrange(60)])} for i in range(1, 51)
    ]
    rng.shuffle(parents)
    children: list[Any] = []
    for _ in range(120):
        record = {
            "id": rng.randrange(100), "p": rng.choice([None, rng.randrange(1, 60)]), "n": rng.choice([1, 2, 49, 50, 40_000, "x", None]),
            "m": rng.choice(["sad", "ok", "ok", "ok", "glad"]), "at": rng.choice(["2024-01-01T00:00:00Z", "2024-13-01T00:00:00Z"]),
            "e": rng.choice([None, f"e{rng.randrange(300)}"]), "ip": rng.choice(["::1", "::1", "::1", "nope"]),
            "must": rng.choice(["m", "m", "m", None]),
        }  # fmt: skip
        for key in ("at", "e", "n"):
            if rng.random() < 0.1:
                del record[key]
        children.append(record)
    children[3] = [1, 2]
    return parents, children


def state(at: Restore) -> list[Any]:
    return [
        at.rows("SELECT * FROM p ORDER BY id"), at.rows("SELECT * FROM t ORDER BY id"), at.rows("SELECT last_value, is_called FROM p_id_seq"),
        at.rows("SELECT relname FROM pg_class WHERE relpersistence <> 't' ORDER BY 1"),
        at.rows("SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' ORDER BY 1"),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", [0, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3, 4, 5, 6, 7))])
@pytest.mark.parametrize("policy", ["Skip", "Update", "Reject"])
def test_it_finds_what_the_restore_finds(at: Restore, seed: int, policy: str):
    rng = random.Random(seed)
    at.schema(*SCHEMA, "INSERT INTO p SELECT n, 'c' || n, NULL FROM generate_series(1, 9) n")
    at.schema("INSERT INTO t (id, must, e) SELECT n, 'm', 'e' || n FROM generate_series(1, 9) n")
    parents, children = records(rng)
    at.file("p", parents).file("t", children)
    options = {"on_conflict": policy, "batch": rng.choice([1, 7, 5000])}
    if seed % 3 == 0:
        options |= {"cleanup": "Delete", "confirm": at.label}
    before = state(at)
    dry = at.ok(mode="DryRun", **options)
    assert state(at) == before
    real = at.ok(**options)
    for name in ("p", "t"):
        assert dry.counts(name) == real.counts(name)
    assert sorted((s.table, s.reason, s.sqlstate) for s in dry.report.rejected_sample) == sorted(
        (s.table, s.reason, s.sqlstate) for s in real.report.rejected_sample
    )


@pytest.mark.parametrize("mode", ["DryRun", "VerifyOnly"])
def test_nothing_is_written_and_no_hook_runs(at: Restore, mode: str):
    at.schema(
        *SCHEMA,
        "CREATE SEQUENCE shared",
        "CREATE TABLE s (id int PRIMARY KEY DEFAULT nextval('shared'), code text DEFAULT 'A' || nextval('shared'))",
    )
    at.file("p", [{"code": "a"}, {"code": "b"}, {"id": 1, "code": "c"}]).file("t", []).file("s", [{}, {}, {"id": 7}])
    before = [*state(at), at.rows("SELECT last_value, is_called FROM shared")]
    at.run(mode=mode, hooks={"preRestore": [{"name": "h", "sql": "CREATE TABLE hooked ()"}]})
    assert [*state(at), at.rows("SELECT last_value, is_called FROM shared")] == before


def test_defaults_go_on_from_the_real_sequence(at: Restore):
    at.schema(
        "CREATE TABLE t (id serial PRIMARY KEY, v text)", "INSERT INTO t (v) SELECT 'x' FROM generate_series(1, 5)"
    )
    at.file("t", [{"v": "a"}, {"v": "b"}])
    assert at.ok(mode="DryRun").counts() == {"inserted": 2}
    assert at.ok().counts() == {"inserted": 2}


def test_a_dry_run_needs_no_confirmation_and_says_what_triggers_might_change(at: Restore):
    at.schema(
        "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)",
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''fired''; END'",
        "CREATE TRIGGER f BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
    )  # fmt: skip
    result = at.file("t", [{"id": 1}]).ok(mode="DryRun", cleanup="Truncate")
    assert result.counts() == {"inserted": 1}
    assert any("triggers" in w for w in result.report.warnings)
    assert at.rows() == [(1,)]


PARTITIONS = {
    "range": ("RANGE (id)", ["FOR VALUES FROM (1) TO (4)", "FOR VALUES FROM (4) TO (8)"]),
    "list": ("LIST (v)", ["FOR VALUES IN ('a')", "FOR VALUES IN ('b', NULL)"]),
    "hash": ("HASH (id)", ["FOR VALUES WITH (MODULUS 3, REMAINDER 0)", "FOR VALUES WITH (MODULUS 3, REMAINDER 1)"]),
    "default": ("RANGE (id)", ["FOR VALUES FROM (1) TO (4)", "DEFAULT"]),
    "of partitions": ("RANGE (id)", ["FOR VALUES FROM (1) TO (6) PARTITION BY LIST (v)"]),
    "none": ("RANGE (id)", []),
}


@pytest.mark.parametrize("kind", PARTITIONS)
def test_it_finds_rows_of_no_partition(at: Restore, kind: str):
    by, parts = PARTITIONS[kind]
    at.schema(f"CREATE TABLE t (id int, v text) PARTITION BY {by}")
    at.schema(*(f"CREATE TABLE t{n} PARTITION OF t {bounds}" for n, bounds in enumerate(parts)))
    if kind == "of partitions":
        at.schema("CREATE TABLE t0a PARTITION OF t0 FOR VALUES IN ('a', 'c')")
    at.file("t", [{"id": i, "v": "abc\n"[i % 4].strip() or None} for i in range(12)])
    dry, real = at.ok(mode="DryRun"), at.ok()
    assert dry.counts() == real.counts()
    assert [(r.record, r.sqlstate) for r in dry.report.rejected_sample] == [
        (r.record, r.sqlstate) for r in real.report.rejected_sample
    ]
    assert (real.counts().get("rejected", 0) > 0) is (kind != "default")


def test_it_says_what_it_does_not_ask(at: Restore):
    at.schema(
        "CREATE TABLE t (id int PRIMARY KEY)",
        "CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION tr()",
    ).file("t", [{"id": 1}])
    dsn = at.role("GRANT SELECT, INSERT ON t TO {}")
    unasked = "policies of row security are not asked in a dry run"
    warnings = at.ok(mode="DryRun", dsn=dsn).report.warnings
    assert "triggers are not fired in a dry run" in warnings and unasked not in warnings
    at.schema("ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    assert unasked in at.ok(mode="DryRun", dsn=dsn).report.warnings


@pytest.mark.parametrize(
    ("mode", "what"),
    [("DryRun", "1 of 2 records would be rejected"), ("VerifyOnly", "2 of 2 records are bad, or not there")],
)
def test_past_the_reject_limit_it_does_not_speak_of_what_is_loaded(at: Restore, mode: str, what: str):
    at.schema("CREATE TABLE t (id int PRIMARY KEY)").file("t", [{"id": 1}, {"id": "x"}])
    error = at.run(mode=mode, limit=10).error
    assert error is not None and error.reason == "RejectLimitExceeded"
    assert error.line() == f"{what}, more than the limit of 10 %: the report has the first ones"


@pytest.mark.parametrize("mode", ["DryRun", "VerifyOnly"])
def test_what_is_stopped_begins_anew(at: Restore, mode: str):
    at.schema("CREATE TABLE t (id int PRIMARY KEY)").file("t", [{"id": i} for i in range(100)])

    def stop(event: AnyEvent) -> None:
        if isinstance(event, BatchLoaded):
            raise KeyboardInterrupt

    error = at.run(mode=mode, batch=10, emit=stop).error
    assert error is not None and (error.exit_code, error.line()) == (
        143, "stopped; the open batch is rolled back: the same command begins anew"
    )  # fmt: skip
