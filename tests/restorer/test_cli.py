"""The command line: what it takes, what it says, where it looks, and what never shows."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from command import Started, restorer, write_backup
from fix_cli import Cli, check_refused
from fix_people import PEOPLE, Db, count
from own_server import OwnServer, free_port
from psycopg.conninfo import conninfo_to_dict
from restorer.spec import Load

# -- words -----------------------------------------------------------------------------------------------------------

COMMANDS = [
    (), ("run",), ("plan",), ("verify",), ("report",), ("demo",), ("rejects",), ("rejects", "list"),
    ("rejects", "export"), ("rejects", "retry"), ("ledger",), ("ledger", "ddl"), ("ledger", "runs"),
    ("ledger", "purge"),
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(cli: Cli, command: tuple[str, ...]) -> None:
    for flag in ("--help", "-h"):
        end = cli(*command, flag)
        assert end.code == 0
        assert "Usage: restorer " + " ".join(command) in " ".join(end.out.split())
        assert not end.err


def test_the_help_of_a_run_tells_what_holds_where_nothing_is_said(cli: Cli) -> None:
    words = " ".join(cli("run", "--help").out.replace("│", " ").split())
    for default in (
        "none",
        "skip",
        Load().batch_rows,
        Load().workers,
        "1%",
        "the latest complete one",
        "public",
        "dbrestore",
    ):
        assert f"[default: ({default})]" in words, default


def test_usage_errors_are_one_line_and_exit_2(cli: Cli, dsn: str) -> None:
    for args, words in (
        (("run", "--bakcup", "x"), ("--bakcup",)),
        (("dump",), ("dump",)),
        (("run", "--workers", "many"), ("--workers", "integer")),
        (("run", "--workers", "0", "--backup", ".", "--dsn", dsn), ("load.workers", "greater than or equal to 1")),
        (("run", "--batch-size", "-5", "--backup", ".", "--dsn", dsn), ("load.batchRows",)),
        (
            ("run", "--batch-bytes", "lots", "--backup", ".", "--dsn", dsn),
            ("load.batchBytes", "a quantity such as 16Mi"),
        ),
        (("run", "--batch-bytes", "1k", "--backup", ".", "--dsn", dsn), ("load.batchBytes", "65536")),
        (("run", "--cleanup", "wipe", "--backup", "."), ("--cleanup wipe", "truncate, delete")),
        (("run", "--on-conflict", "maybe", "--backup", "."), ("--on-conflict maybe", "skip, update")),
        (("run", "--max-rejects", "lots", "--backup", "."), ("--max-rejects lots", "2%")),
        (("run", "--resume", "--restart", "--backup", "."), ("contradict",)),
        (("run", "--dsn", dsn), ("no backup is named", "--backup DIR")),
        (("ledger", "purge", "--dsn", dsn), ("nothing to purge is named", "--older-than")),
        (("rejects", "retry", "--dsn", dsn), ("there is no ledger", "--ledger-schema")),
        (("report", "--dsn", dsn), ("there is no ledger", "--ledger-schema")),
    ):
        check_refused(cli(*args), 2, words)


def test_no_arguments_show_the_help() -> None:
    end = restorer()
    assert "Usage: restorer" in end.out + end.err
    assert restorer("--version").out.startswith("restorer ")


# -- manifests, flags, environment -----------------------------------------------------------------------------------

MANIFEST = """
apiVersion: dbrestore.io/v1alpha1
kind: DatabaseRestore
metadata: {name: night, namespace: lms}
spec:
  target: {host: pg-rw, database: app}
  cleanup: RequireEmpty
  onConflict: Reject
  load: {batchRows: 77}
  tables: {include: [nothing]}
"""


def test_every_wrong_field_of_a_manifest_is_named(cli: Cli, tmp_path: Path, backup: Path) -> None:
    manifest = tmp_path / "restore.yaml"
    manifest.write_text(
        "apiVersion: dbrestore.io/v1alpha1\nkind: DatabaseRestore\nmetadata: {name: x}\nspec:\n"
        "  cleanup: Wipe\n  onConflct: Skip\n  load: {workers: 900}\n  target: {port: 99999}\n"
    )
    end = cli("run", "-f", manifest, "--backup", backup)
    check_refused(end, 2, ("spec.cleanup", "spec.onConflct", "spec.load.workers", "spec.target.port"), lines=4)
    for text, words in (
        ("a: [", ("is not YAML",)),
        ("[]", ("restore.yaml holds no DatabaseRestore: name a file that has one",)),
        ("# later\n---\n", ("restore.yaml holds no DatabaseRestore",)),
        ("kind: Secret\n---\nkind: Pod\n", ("restore.yaml holds no DatabaseRestore",)),
        (f"{MANIFEST}---{MANIFEST}", ("restore.yaml holds 2 DatabaseRestores",)),
        (f"{MANIFEST}---\nkind: [\n", ("is not YAML",)),
        ("kind: List\nitems: {kind: DatabaseRestore}\n", ("apiVersion",)),
        ("kind: List\nitems: []\n", ("restore.yaml holds no DatabaseRestore",)),
        (
            f"{MANIFEST}---\nkind: List\nitems: [x, {{kind: DatabaseRestore}}]\n",
            ("restore.yaml holds 2 DatabaseRestores",),
        ),
        ("[" * 3000, ("is not YAML",)),
        (f"{MANIFEST}  hooks: 2024-02-30\n", ("is not YAML: check its indentation and quotes",)),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {}\n", ("apiVersion",)),
    ):
        manifest.write_text(text)
        end = cli("run", "-f", manifest, "--backup", backup)
        assert end.code == 2
        assert all(any(w in line for line in end.lines) for w in words), end.err
    check_refused(cli("run", "-f", tmp_path / "gone.yaml", "--backup", backup), 2, ("gone.yaml", "No such file"))


def test_a_manifest_may_stand_among_what_it_needs_in_a_cluster(
    cli: Cli, dsn: str, backup: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "restore.yaml"
    others = "kind: Secret\nvalue: !vault x\nuntil: 2024-02-30\n"
    manifest.write_text(f"{others}---\n- a list\n---\n{MANIFEST}---\n")
    assert cli("run", "-f", manifest, "--backup", backup, "--dsn", dsn, "--json").report["run"] == "lms/night/1"


def test_a_manifest_may_be_what_kubectl_get_writes(cli: Cli, dsn: str, backup: Path, tmp_path: Path) -> None:
    """Without a name that is a List of what there is."""
    stored = yaml.safe_load(MANIFEST) | {"status": {"phase": "Succeeded", "conditions": [{"type": "Ready"}]}}
    stored["metadata"] |= {"uid": "5", "generation": 3, "managedFields": [{"manager": "kubectl"}]}
    manifest = tmp_path / "restore.yaml"
    for written in (
        stored,
        {"apiVersion": "v1", "kind": "List", "items": [stored], "metadata": {"resourceVersion": ""}},
    ):
        manifest.write_text(yaml.safe_dump(written))
        assert cli("run", "-f", manifest, "--backup", backup, "--dsn", dsn, "--json").report["run"] == "lms/night/1"


def test_a_manifest_may_come_out_of_a_variable(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, backup: Path, dsn: str
) -> None:
    """So the operator hands it to its pods."""
    refused = cli("run", "-f", "env:RESTORE_SPEC", "--backup", backup)
    assert refused.code == 2 and "RESTORE_SPEC is not set" in refused.err
    monkeypatch.setenv("RESTORE_SPEC", MANIFEST)
    end = cli("run", "-f", "env:RESTORE_SPEC", "--backup", backup, "--dsn", dsn, "--json")
    assert end.report["run"] == "lms/night/1"  # read; that this database has no tables is another matter


def test_flags_win_over_the_manifest_and_the_shell_over_its_target(
    cli: Cli, people: Db, dsn: str, tmp_path: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    manifest = tmp_path / "restore.yaml"
    manifest.write_text(MANIFEST)
    parts = conninfo_to_dict(dsn)
    monkeypatch.setenv("PGHOST", str(parts["host"]))
    monkeypatch.setenv("PGUSER", str(parts["user"]))
    monkeypatch.setenv("PGDATABASE", str(parts["dbname"]))
    monkeypatch.setenv("PGPORT", str(parts.get("port", 5432)))
    people.execute("INSERT INTO people VALUES (1, 'n1', NULL)")
    args = ("run", "-f", manifest, "--backup", backup, "--json")
    assert cli(*args).failures[0]["message"].startswith("no table file is left")
    assert cli(*args, "--tables", "p*").failures[0]["message"] == "people hold rows, and cleanup is RequireEmpty"
    end = cli(*args, "--tables", "p*,!x", "--cleanup", "none", "--on-conflict", "skip", "--run-id", "7")
    assert end.code == 0, end.err
    assert end.report["run"] == "lms/night/7"
    assert end.report["totals"]["duplicate"] == 1
    row = people.execute("SELECT spec FROM dbrestore.runs").fetchone()
    assert row is not None
    spec = row[0]
    assert (spec["load"]["batchRows"], spec["onConflict"], spec["cleanup"]) == (77, "Skip", "None")


def test_a_service_file_is_understood(
    cli: Cli, people: Db, dsn: str, tmp_path: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = conninfo_to_dict(dsn)
    lines = [f"{key}={parts[key]}" for key in ("host", "port", "user", "dbname") if key in parts]
    (tmp_path / "services").write_text("\n".join(["[target]", *lines, ""]))
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.setenv("PGSERVICE", "")
    end = cli("run", "--backup", backup, "--dsn", "service=target", "--json")
    assert end.code == 0, end.err
    assert count(people) == 200
    end = cli("run", "--backup", backup, "--cleanup", "truncate")  # PGSERVICE is set now
    host = "local" if str(parts["host"]).startswith("/") else parts["host"]
    check_refused(end, 2, (f"--confirm {host}/{parts['dbname']}",))


def test_the_same_command_means_the_same_run(cli: Cli, people: Db, dsn: str, backup: Path) -> None:
    args = ("run", "--backup", backup, "--dsn", dsn, "--json")
    first = cli(*args)
    again = cli(*args, "--batch-size", 7, "--resume")  # how fast does not make it another run
    assert again.report["run"] == first.report["run"]
    assert (again.code, again.report["reason"]) == (0, "AlreadyCompleted")
    other = cli(*args, "--on-conflict", "reject", "--max-rejects", "100%")
    assert other.report["run"] != first.report["run"]
    named = cli(*args, "--name", "mine")
    assert named.report["run"] == "mine/1"
    changed = cli(*args, "--name", "mine", "--on-conflict", "update")
    check_line = changed.failures[0]["message"]
    assert changed.code == 2
    assert "onConflict" in check_line
    assert cli(*args, "--name", "mine", "--run-id", "2").report["run"] == "mine/2"
    people.execute("TRUNCATE people")
    assert cli(*args).report["reason"] == "AlreadyCompleted"  # a finished run is final
    assert count(people) == 0
    restarted = cli(*args, "--restart")
    assert (restarted.code, restarted.report["reason"], count(people)) == (0, "", 200)


def test_an_unfinished_run_with_a_changed_backup_is_refused(dsn: str, people: Db, tmp_path: Path) -> None:
    backup = write_backup(tmp_path, people=[{"id": i, "name": "n"} for i in range(20_000)])
    args = ("run", "--backup", backup, "--dsn", dsn, "--name", "x", "--batch-size", 20)
    started = Started(*args)
    try:
        started.until(lambda: count(people) > 0)
        started.kill_group()
        started.process.wait()
    finally:
        started.close()
    write_backup(tmp_path, people=PEOPLE)
    check_refused(restorer(*args), 2, ("the backup changed since run 'x/1' began", "people", "another run ID"))
    assert restorer(*args, "--restart").code == 0


# -- what must not show ----------------------------------------------------------------------------------------------


def test_a_password_is_in_no_process_list_and_no_log(tmp_path: Path) -> None:
    """Neither the command's arguments nor its workers' hold it, from the moment that it is at work."""
    backup = write_backup(tmp_path, t=[{"id": i} for i in range(20_000)])
    with OwnServer(hba="local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n") as own:
        own.database("secrets")
        with own.connect("secrets") as conn:
            conn.execute("CREATE TABLE t (id int PRIMARY KEY); ALTER ROLE postgres PASSWORD 'hunter2'")
        report = tmp_path / "report.json"
        for number, dsn in enumerate(
            (
                f"postgresql://postgres:hunter2@127.0.0.1:{own.port}/secrets",
                f"host=127.0.0.1 port={own.port} dbname=secrets user=postgres password=hunter2",
            )
        ):
            flag = ("--dsn", dsn) if number else (f"--dsn={dsn}",)
            started = Started(
                "run", "--backup", backup, *flag, "--workers", 2, "--batch-size", 50, "--verbose", "--report", report,
                "--name", number, "--json",
            )  # fmt: skip
            try:
                started.until_workers(2)
                for process in (psutil.Process(started.pid), *started.workers()):
                    assert "hunter2" not in " ".join(process.cmdline())
                    assert "restorer" in " ".join(process.cmdline())
                end = started.end()
            finally:
                started.close()
            assert end.code == 0, end.err
            assert "hunter2" not in end.out + end.err + report.read_text()


def test_the_password_leaves_the_process_list_before_anything_else(tmp_path: Path) -> None:
    """It takes no longer than Python's own start."""
    dsn = f"postgresql://u:hunter2@127.0.0.1:{free_port()}/x?connect_timeout=3"
    started = Started("run", "--backup", tmp_path, "--dsn", dsn)
    try:
        process, until = psutil.Process(started.pid), time.monotonic() + 3
        while "hunter2" in " ".join(process.cmdline()) or process.cmdline()[:1] != [sys.executable]:
            assert time.monotonic() < until
            time.sleep(0.005)
        print(f"gone after {time.monotonic() - started.began:.2f} s")
    finally:
        started.close()


# -- looking without writing -----------------------------------------------------------------------------------------


def test_plan_says_what_would_happen_and_writes_nothing(cli: Cli, people: Db, dsn: str, backup: Path) -> None:
    def state() -> Any:
        return people.execute(
            "SELECT (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_namespace), "
            "pg_current_xact_id_if_assigned() IS NULL, (SELECT count(*) FROM people)"
        ).fetchall()

    before = state()
    text = cli("plan", "--backup", backup, "--dsn", dsn)
    assert text.code == 0, text.err
    assert "people  from people (array" in text.out
    assert "id integer" in text.out
    data = cli("plan", "--backup", backup, "--dsn", dsn, "--json")
    plan = json.loads(data.out)
    assert plan["snapshot"]["name"] == "20241219_103045"
    assert plan["tables"][0]["columns"] == {"id": "id", "name": "name", "boss": "boss"}
    assert plan["tables"][0]["cyclic"] is True
    assert state() == before
    write_backup(backup, ghosts=[{"id": 1}], spirits=[{"id": 1}])
    check_refused(cli("plan", "--backup", backup, "--dsn", dsn), 2, ("ghosts", "spirits"), lines=2)


def test_a_dry_run_finds_what_a_real_one_would_and_keeps_nothing(
    cli: Cli, people: Db, dsn: str, tmp_path: Path
) -> None:  # fmt: skip
    backup = write_backup(tmp_path, people=[*PEOPLE, {"id": 900, "name": None, "boss": None}])
    end = cli("run", "--backup", backup, "--dsn", dsn, "--dry-run", "--json")
    assert end.code == 0, end.err
    assert end.report["mode"] == "DryRun"
    assert (end.report["totals"]["inserted"], end.report["totals"]["rejected"]) == (200, 1)
    assert count(people) == 0
    assert people.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'dbrestore'").fetchone() == (0,)


def test_verify_and_report(cli: Cli, people: Db, dsn: str, backup: Path, tmp_path: Path) -> None:
    assert cli("run", "--backup", backup, "--dsn", dsn).code == 0
    stored = json.loads(cli("report", "--dsn", dsn, "--json").out)
    assert stored["totals"]["inserted"] == 200
    assert "200" in cli("report", "--dsn", dsn).out
    check_refused(cli("report", "--dsn", dsn, "--name", "other"), 2, ("no run 'other'", stored["run"]))
    args = ("verify", "--backup", backup, "--dsn", dsn, "--json", "--report", tmp_path / "v.json")
    assert cli(*args).code == 0
    people.execute("UPDATE people SET name = 'changed' WHERE id = 5")
    end = cli(*args)
    assert (end.code, end.report["reason"]) == (2, "VerificationFailed")
    assert json.loads((tmp_path / "v.json").read_text())["totals"]["conflict"] == 1
    assert count(people) == 200


# -- the ledger ------------------------------------------------------------------------------------------------------


def test_ledger_ddl_runs_and_purge(cli: Cli, people: Db, dsn: str, backup: Path) -> None:
    ddl = cli("ledger", "ddl", "--ledger-schema", "books").out
    people.execute(ddl)
    args = ("run", "--backup", backup, "--dsn", dsn, "--json")
    assert cli(*args, "--ledger-schema", "books", "--name", "a").code == 0
    assert "no runs" in cli("ledger", "runs", "--dsn", dsn).out
    listed = cli("ledger", "runs", "--dsn", dsn, "--ledger-schema", "books", "--json")
    assert [(r["run"], r["state"]) for r in map(json.loads, listed.out.splitlines())] == [("a/1", "Succeeded")]
    assert "a/1" in cli("ledger", "runs", "--dsn", dsn, "--ledger-schema", "books").out
    manifest = backup / "restore.yaml"
    manifest.write_text(
        "apiVersion: dbrestore.io/v1alpha1\nkind: DatabaseRestore\nmetadata: {name: a}\n"
        "spec: {source: {path: .}, ledger: {schema: books}}\n"
    )
    assert "a/1" in cli("ledger", "runs", "--dsn", dsn, "-f", manifest).out
    manifest.unlink()
    purge = ("ledger", "purge", "--dsn", dsn, "--ledger-schema", "books")
    assert "forgot 0 runs" in cli(*purge, "--older-than", 1).out
    check_refused(cli(*purge, "a/1", "a"), 2, ("no run 'a' in the ledger", "there are: a/1"))
    assert "forgot 1 run: a/1" in cli(*purge, "a/1").out
    assert cli(*args, "--ledger-schema", "books", "--name", "a").report["totals"]["duplicate"] == 200
