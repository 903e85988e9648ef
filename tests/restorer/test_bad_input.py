"""Bad input: one line that names the thing and the remedy, the right exit code, nothing changed, nothing given away.

Most of it runs the command's own entry in this process (a process each would take minutes); what concerns processes,
memory and servers that die runs the real thing.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from command import Ended, Started, environment, restorer, write_backup
from fix_cli import SECRET, Cli, check_refused
from own_server import OwnServer, free_port
from psycopg import sql
from psycopg.conninfo import make_conninfo

GOOD = [{"id": i, "name": SECRET} for i in range(1, 4)]
BEFORE = [(1000, "was here before")]


@pytest.fixture
def target(dsn: str) -> str:
    """A database with one table that holds one row already."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE t (id int PRIMARY KEY, name text)")
        conn.execute("INSERT INTO t VALUES (1000, 'was here before')")
    return dsn


def check_untouched(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        assert conn.execute("SELECT * FROM t").fetchall() == BEFORE
        assert conn.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'dbrestore'").fetchone() == (0,)


# -- files and folders -----------------------------------------------------------------------------------------------


@dataclass
class Case:
    """`make` lays a bad backup into the folder; the refusal says `words`."""

    name: str
    make: Callable[[Path], object]
    words: tuple[str, ...]
    args: tuple[str, ...] = ()
    lines: int = 1
    code: int = 2


def file(content: Any, name: str = "t.json") -> Callable[[Path], object]:
    return lambda folder: write_backup(folder, **{name: content})


ARRAY = json.dumps(GOOD).encode()
LATIN1 = b'{"id": 1, "name": "caf\xe9"}'
SNAPSHOT = "20241219_103045"


def nothing(_: Path) -> None:
    pass


def out_of_the_volume(folder: Path) -> None:
    outside = folder.parent / "outside"
    write_backup(outside, t=GOOD)
    (folder / SNAPSHOT).symlink_to(outside / SNAPSHOT)


def file_out_of_the_volume(folder: Path) -> None:
    (folder.parent / "outside.json").write_bytes(ARRAY)
    (folder / SNAPSHOT).mkdir()
    (folder / SNAPSHOT / "t.json").symlink_to(folder.parent / "outside.json")


def pipe(folder: Path) -> None:
    write_backup(folder)
    os.mkfifo(folder / SNAPSHOT / "t.json")


def link_to_nowhere(folder: Path) -> None:
    (folder / SNAPSHOT).mkdir()
    (folder / SNAPSHOT / "t.json").symlink_to(folder / SNAPSHOT / "gone.json")


CASES = [
    Case("missing folder", nothing, ("/gone does not exist", "check the path"), ("--backup", "{}/gone")),
    Case("empty folder", nothing, ("no snapshot in", "snapshot folders are named by time")),
    Case("empty snapshot", lambda f: (f / SNAPSHOT).mkdir(), ("no table files",)),
    Case("no such snapshot", file(GOOD), ("20200101 does not exist", SNAPSHOT), ("--snapshot", "20200101")),
    Case("snapshot by ..", file(GOOD), ("'..'",), ("--snapshot", "../backup")),
    Case("absolute snapshot", file(GOOD), ("not absolute",), ("--snapshot", "/etc")),
    Case("link out of the volume", out_of_the_volume, ("link that leads out of the backup", "copy the files")),
    Case("file link out of the volume", file_out_of_the_volume, ("t.json is a link that leads out", "copy the file")),
    Case("link to nowhere", link_to_nowhere, ("t.json",)),
    Case("a pipe", pipe, ("t.json",), ("--snapshot", SNAPSHOT)),
    Case("empty file", file(b""), ("t.json", "empty (0 bytes)")),
    Case("truncated array", file(ARRAY[:-20]), ("t.json", "cut off", "take it again")),
    Case("truncated after a record", file(ARRAY[:-1]), ("t.json", "cut off", "take it again")),
    Case("truncated gzip", file(gzip.compress(ARRAY * 50)[:-30], "t.json.gz"), ("t.json.gz", "take it again")),
    Case("no gzip at all", file(ARRAY, "t.json.gz"), ("t.json.gz", "take it again")),
    Case("damaged zstd", file(b"\x28\xb5\x2f\xfd" + b"x" * 40, "t.json.zst"), ("t.json.zst", "take it again")),
    Case("trailing garbage", file(ARRAY + b"\n<html>"), ("t.json", "follows the array's end")),
    Case("second array", file(ARRAY + ARRAY), ("t.json",)),
    Case("Latin-1", file(b"[" + b",".join([LATIN1] * 9) + b"]"), ("t.json", "not UTF-8", "iconv")),
    Case("UTF-16", file(json.dumps(GOOD).encode("utf-16")), ("t.json", "UTF-16")),
    Case("not JSON", file(SECRET.encode()), ("t.json", "not JSON")),
    Case("a number", file(b"42"), ("t.json", "not JSON")),
    Case("an object", file(b'{"id": 1,\n "name": "x"}'), ("t.json", "an object, not an array")),
    Case("no objects in it", file([1, 2, 3]), ("t.json", "not an object")),
    Case("broken in the middle", file(ARRAY.replace(b"}, {", b"} {", 1)), ("t.json", "record")),
    Case("no such table", lambda f: write_backup(f, t=GOOD, ghosts=GOOD), ("ghosts", "table")),
    Case("no such column", file([{"id": 1, "nom": SECRET}]), ("nom", "t")),
    Case("nothing matches", file(GOOD), ("no table file is left", "tables.include"), ("--tables", "x*")),
    Case("wrong checksum", lambda f: _with_manifest(f, "0" * 64), ("t.json", "SHA-256", "take the backup again")),
]  # fmt: skip


def _with_manifest(folder: Path, sha256: str) -> None:
    write_backup(folder, t=GOOD)
    manifest = {"tables": {"t": {"count": len(GOOD), "sha256": sha256}}}
    (folder / SNAPSHOT / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name.replace(" ", "-"))
def test_a_bad_backup_is_refused_in_one_line(case: Case, cli: Cli, target: str, tmp_path: Path) -> None:
    backup, report = tmp_path / "backup", tmp_path / "report.json"
    backup.mkdir()
    case.make(backup)
    args = tuple(a.format(backup) for a in case.args)
    end = cli("run", "--backup", backup, "--dsn", target, "--report", report, *args)
    check_refused(end, case.code, case.words, report, case.lines)
    if "rejected" not in end.err:
        check_untouched(target)


def test_with_json_every_line_is_json_and_every_problem_is_told(cli: Cli, target: str, tmp_path: Path) -> None:
    backup = write_backup(tmp_path, t=ARRAY[:-9] + b"]]", ghosts=GOOD, more=[1])
    end = cli("run", "--backup", backup, "--dsn", target, "--json")
    assert end.code == 2
    assert end.report["reason"] == "ValidationFailed"
    told = [f["message"] + ": " + f["remedy"] for f in end.failures]
    assert len(told) >= 2
    assert any("t.json" in line for line in told)
    assert any("more.json" in line for line in told)
    check_untouched(target)


def test_every_problem_has_its_own_line_for_people_too(cli: Cli, target: str, tmp_path: Path) -> None:
    backup = write_backup(tmp_path, ghosts=GOOD, spirits=GOOD)
    end = cli("run", "--backup", backup, "--dsn", target)
    check_refused(end, 2, ("ghosts", "spirits"), lines=2)


def test_a_file_that_may_not_be_read_is_named(cli: Cli, target: str, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads every file")
    backup = write_backup(tmp_path, t=GOOD)
    (backup / SNAPSHOT / "t.json").chmod(0)
    end = cli("run", "--backup", backup, "--dsn", target)
    check_refused(end, 2, ("t.json", "cannot be read", "mode"))
    check_untouched(target)


@pytest.mark.parametrize("path", ["../other", "/etc", "a/../../b"])
def test_a_path_in_a_manifest_may_not_leave_the_volume(cli: Cli, target: str, tmp_path: Path, path: str) -> None:
    manifest = tmp_path / "restore.yaml"
    manifest.write_text(
        "apiVersion: dbrestore.io/v1alpha1\nkind: DatabaseRestore\nmetadata: {name: x}\n"
        f"spec: {{source: {{path: {json.dumps(path)}}}}}\n"
    )
    end = cli("run", "-f", manifest, "--backup", write_backup(tmp_path / "b", t=GOOD), "--dsn", target)
    check_refused(end, 2, ("source.path", "below the volume's root"))
    check_untouched(target)


def test_a_report_that_cannot_be_written_is_said_before_the_load(cli: Cli, target: str, tmp_path: Path) -> None:
    backup = write_backup(tmp_path / "b", t=GOOD)
    end = cli("run", "--backup", backup, "--dsn", target, "--report", tmp_path / "gone" / "report.json")
    check_refused(end, 2, ("report.json", "folder that may be written"))
    check_untouched(target)


# -- records that are bad among good ones ----------------------------------------------------------------------------


@dataclass
class Bad:
    name: str
    raw: bytes
    reason: str  # "": PostgreSQL takes it
    column: str = "text"
    words: tuple[str, ...] = field(default=())


RECORDS = [
    Bad("a number", b"5", "NotAnObject"),
    Bad("null", b"null", "NotAnObject"),
    Bad("an array", b'[{"id": 2}]', "NotAnObject"),
    Bad("NUL", b'{"id": 2, "name": "a\\u0000b"}', "NulCharacter"),
    Bad("lone surrogate", b'{"id": 2, "name": "a\\ud800b"}', "LoneSurrogate"),
    Bad("lone surrogate in a key", b'{"id": 2, "\\udc00": 1}', "InvalidEncoding"),
    Bad("invalid UTF-8", b'{"id": 2, "name": "a\xff\xfeb"}', "InvalidEncoding"),
    Bad("unknown column", b'{"id": 2, "name": "x", "extra": 1}', "UnknownColumn"),
    Bad("wrong type", b'{"id": "two", "name": "x"}', "InvalidValue"),
]


@pytest.mark.parametrize("bad", RECORDS, ids=lambda b: b.name.replace(" ", "-"))
def test_a_bad_record_costs_only_itself(bad: Bad, cli: Cli, dsn: str, tmp_path: Path) -> None:
    """Promise 3: good rows are never lost to bad neighbours; the reject is kept whole, with its reason."""
    neighbours = [b'{"id": %d, "name": "n"}' % i for i in range(10, 410)]
    data = b"[" + b",\n".join([*neighbours[:200], bad.raw, *neighbours[200:]]) + b"]"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE t (id int PRIMARY KEY, name text)")
        end = cli("run", "--backup", write_backup(tmp_path, t=data), "--dsn", dsn, "--json")
        assert end.code == 0, end.err
        assert {k: end.report["totals"][k] for k in ("read", "inserted", "rejected")} == {
            "read": 401, "inserted": 400, "rejected": 1,
        }  # fmt: skip
        assert conn.execute("SELECT count(*) FROM t").fetchone() == (400,)
        kept = conn.execute("SELECT ordinal, byte_offset, record, reason, message FROM dbrestore.rejects").fetchall()
        assert [row[3] for row in kept] == [bad.reason], kept
        assert (kept[0][0], kept[0][1], bytes(kept[0][2])) == (201, data.index(b"\n" + bad.raw) + 1, bad.raw)
        assert kept[0][4]


def test_a_record_nested_10000_levels_deep_goes_to_postgresql(cli: Cli, dsn: str, tmp_path: Path) -> None:
    """Whether jsonb takes it is up to the server's stack; its neighbours load either way."""
    deep = b'{"id": 2, "doc": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"
    data = b'[{"id": 1, "doc": {}},' + deep + b',{"id": 3, "doc": []}]'
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE t (id int PRIMARY KEY, doc jsonb)")
        end = cli(
            "run", "--backup", write_backup(tmp_path, t=data), "--dsn", dsn, "--json", "--max-rejects", "50%"
        )  # fmt: skip
        assert end.code == 0, end.err
        assert conn.execute("SELECT count(*) FROM t WHERE id IN (1, 3)").fetchone() == (2,)
        kept = conn.execute("SELECT reason, record FROM dbrestore.rejects").fetchall()
        loaded = conn.execute("SELECT count(*) FROM t WHERE id = 2").fetchone()
        if kept:
            assert [(r, bytes(b)) for r, b in kept] == [("TooComplex", deep)]
            assert loaded == (0,)
        else:
            assert loaded == (1,)


def test_a_record_of_200_mib_is_rejected_in_bounded_memory(dsn: str, tmp_path: Path) -> None:
    """Its length, its SHA-256 and its first 64 KiB are kept; its neighbours load."""
    head, size = b'{"id": 2, "name": "', 200 << 20
    body = b"x" * (1 << 20)
    digest, length = hashlib.sha256(head), len(head) + size + 2
    place = write_backup(tmp_path) / SNAPSHOT
    with (place / "t.json").open("wb") as out:
        out.write(b'[{"id": 1, "name": "a"},\n' + head)
        for _ in range(size // len(body)):
            out.write(body)
            digest.update(body)
        digest.update(b'"}')
        out.write(b'"},\n{"id": 3, "name": "c"}]')
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE t (id int PRIMARY KEY, name text)")
        started = Started("run", "--backup", tmp_path, "--dsn", dsn, "--json", "--max-rejects", "50%")
        peak = 0
        while started.process.poll() is None:
            try:
                peak = max(peak, psutil.Process(started.pid).memory_info().rss)
            except psutil.NoSuchProcess:
                break
            time.sleep(0.005)
        end = started.end()
        assert end.code == 0, end.err
        assert conn.execute("SELECT id FROM t ORDER BY id").fetchall() == [(1,), (3,)]
        row = conn.execute("SELECT ordinal, reason, record, message FROM dbrestore.rejects").fetchone()
    assert row is not None
    ordinal, reason, record, message = row
    assert (ordinal, reason) == (2, "RecordTooLarge")
    assert bytes(record) == (head + body)[: 64 << 10]
    assert f"{length:,}" in message or str(length) in message
    assert digest.hexdigest() in message
    print(f"peak RSS {peak >> 20} MiB")
    assert peak < 160 << 20  # the largest record that would be loaded, and the program


NAMES = ["with space", 'qu"ote', "apo'strophe", "naïve ünïcödé 表", "x; DROP TABLE keep; --", "%s {} $1 \\", "Select"]


def test_hostile_names_are_only_names(cli: Cli, dsn: str, tmp_path: Path) -> None:
    """Tables, columns, schema and run with quotes, spaces, unicode and SQL in them."""
    schema = 'my "schema"; --'
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE keep (id int)")
        conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        for name in NAMES:
            query = sql.SQL("CREATE TABLE {} (id serial PRIMARY KEY, {} text, parent int REFERENCES {})")
            table = sql.Identifier(schema, name)
            conn.execute(query.format(table, sql.Identifier(name), table))
        tables = {f"{n}.json": [{"id": 1, n: n, "parent": 2}, {"id": 2, n: "x", "parent": None}] for n in NAMES}
        backup = write_backup(tmp_path, **tables)
        end = cli(
            "run", "--backup", backup, "--dsn", dsn, "--schema", schema, "--name", "it's \"my\" run; --", "--json"
        )  # fmt: skip
        assert end.code == 0, end.err
        assert end.report["totals"]["inserted"] == 2 * len(NAMES)
        for name in NAMES:
            query = sql.SQL("SELECT id, {}, parent FROM {} ORDER BY id")
            found = conn.execute(query.format(sql.Identifier(name), sql.Identifier(schema, name))).fetchall()
            assert found == [(1, name, 2), (2, "x", None)]
        assert conn.execute("SELECT count(*) FROM keep").fetchone() == (0,)
    for command in (("verify", "--backup", backup, "--schema", schema), ("report",), ("rejects", "list")):
        assert cli(*command, "--dsn", dsn).code == 0


# -- the target ------------------------------------------------------------------------------------------------------


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_backup(tmp_path / "good", t=GOOD)


def test_a_wrong_database_or_role_is_refused(cli: Cli, target: str, good: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    for part, words in (
        ({"dbname": "no such"}, ('"no such" does not exist', "check the database name")),
        ({"user": "nobody at all"}, ('"nobody at all" does not exist', "check the user name")),
    ):
        end = cli("run", "--backup", good, "--dsn", make_conninfo(target, **part), "--report", report)
        check_refused(end, 2, ("cannot connect to", *words), report)
    check_untouched(target)


def test_a_wrong_host_or_port_is_worth_another_try(cli: Cli, good: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    for host, port in (("127.0.0.1", free_port()), ("no-such-host.invalid", 5432), ("/nowhere", 5432)):
        dsn = f"postgresql://u:hunter2@/d?host={host}&port={port}&connect_timeout=1"
        end = restorer("run", "--backup", good, "--dsn", dsn, "--report", report)
        check_refused(end, 1, ("cannot reach", "after 1 s", "check host, port"), report)


def test_a_connection_string_that_is_none_is_refused(cli: Cli, good: Path) -> None:
    end = cli("run", "--backup", good, "--dsn", "nonsense hunter2")
    check_refused(end, 2, ("--dsn is not a connection string", "postgresql://"))


def test_a_read_only_database_is_refused(cli: Cli, target: str, good: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    with psycopg.connect(target, autocommit=True) as conn:
        name = sql.Identifier(conn.info.dbname)
        conn.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
    end = cli("run", "--backup", good, "--dsn", target, "--report", report)
    check_refused(end, 2, ("read-only", "restore into a database that takes writes"), report)
    check_untouched(target)


@pytest.fixture
def stranger(target: str) -> Iterator[tuple[str, psycopg.Connection[Any]]]:
    """(DSN of a role that may do nothing, an administrator's connection)"""
    role = f"stranger_{os.getpid()}"
    with psycopg.connect(target, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'hunter2'").format(sql.Identifier(role)))
        try:
            yield make_conninfo(target, user=role, password="hunter2"), conn
        finally:
            conn.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(*[sql.Identifier(role)] * 2))


def test_missing_privileges_are_named(
    stranger: tuple[str, psycopg.Connection[Any]], target: str, good: Path, tmp_path: Path
) -> None:
    dsn, admin = stranger
    report = tmp_path / "report.json"
    args = ("run", "--backup", good, "--dsn", dsn, "--report", report)
    check_refused(restorer(*args), 2, ("no INSERT privilege on table t", "no SELECT privilege", "grant"), report, 2)
    admin.execute("GRANT ALL ON t TO PUBLIC")
    check_refused(restorer(*args), 2, ("may not create the ledger's schema", "restorer ledger ddl"), report)
    check_untouched(target)
    # The remedy is one: the DBA runs what `ledger ddl` prints.
    admin.execute(restorer("ledger", "ddl").out)
    admin.execute("GRANT USAGE ON SCHEMA dbrestore TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA dbrestore TO PUBLIC")
    admin.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA dbrestore TO PUBLIC")
    end = restorer(*args)
    assert end.code == 0, end.err
    assert "hunter2" not in end.out + end.err + report.read_text()


def test_row_security_is_worked_with_and_said(
    stranger: tuple[str, psycopg.Connection[Any]], target: str, tmp_path: Path
) -> None:
    """COPY is refused there; a row that the policy refuses is a reject."""
    dsn, admin = stranger
    admin.execute("GRANT ALL ON t TO PUBLIC; ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    admin.execute("CREATE POLICY small ON t USING (true) WITH CHECK (id < 100)")
    admin.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO PUBLIC").format(sql.Identifier(admin.info.dbname)))
    backup = write_backup(tmp_path, t=[{"id": i, "name": "n"} for i in (1, 2, 200, 3)])
    end = restorer("run", "--backup", backup, "--dsn", dsn, "--json", "--max-rejects", "50%")
    assert end.code == 0, end.err
    assert (end.report["totals"]["inserted"], end.report["totals"]["rejected"]) == (3, 1)
    assert end.report["rejectedSample"][0]["record"] == 3
    assert any("row" in w and "security" in w for w in end.report["warnings"])


def test_cleaning_needs_its_name_typed(cli: Cli, target: str, good: Path, tmp_path: Path) -> None:
    """Promise 6: nothing destructive happens by accident."""
    report = tmp_path / "report.json"
    label = f"local/{psycopg.conninfo.conninfo_to_dict(target)['dbname']}"
    for args in ((), ("--confirm", "local/another"), ("--confirm", label.upper())):
        end = cli("run", "--backup", good, "--dsn", target, "--cleanup", "truncate", "--report", report, *args)
        check_refused(end, 2, ("confirmed", f"--confirm {label}"), report)
        check_untouched(target)
    with psycopg.connect(target, autocommit=True) as conn:
        name = sql.Identifier(conn.info.dbname)
        conn.execute(sql.SQL("ALTER DATABASE {} SET dbrestore.protected = 'on'").format(name))
    end = cli("run", "--backup", good, "--dsn", target, "--cleanup", "delete", "--confirm", label)
    check_refused(end, 2, ("is protected", "dbrestore.protected"))
    check_untouched(target)
    end = cli("run", "--backup", good, "--dsn", target, "--cleanup", "require-empty")
    check_refused(end, 2, ("t hold rows, and cleanup is RequireEmpty", "empty them"))
    check_untouched(target)


def test_another_run_on_the_same_target_is_named_and_waited_for(dsn: str, good: Path, tmp_path: Path) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE big (id int PRIMARY KEY); CREATE TABLE t (id int PRIMARY KEY, name text)")
    big = write_backup(tmp_path / "big", big=[{"id": i} for i in range(20_000)])
    report = tmp_path / "report.json"
    first = Started("run", "--backup", big, "--dsn", dsn, "--name", "first", "--batch-size", 30)
    try:
        first.until_said('"table started"')
        second = ("run", "--backup", good, "--dsn", dsn, "--name", "second", "--report", report)
        with psycopg.connect(dsn) as holding:  # its rows wait, its heartbeat goes on
            holding.execute("LOCK TABLE big IN ACCESS EXCLUSIVE MODE")
            check_refused(restorer(*second), 1, ("is being restored by run 'first/1'", "--wait"), report)
            same = restorer("run", "--backup", big, "--dsn", dsn, "--name", "first", "--batch-size", 30)
            check_refused(same, 1, ("another process of this run", "--wait"))
            waiting = Started(*second, "--wait", 60)
            waiting.until_said("waiting:")
            time.sleep(3)  # longer than from one heartbeat to the next
        waited = waiting.end()
        assert waited.code == 0, waited.err
        assert first.end().code == 0
    finally:
        first.close()


# -- servers of their own --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own() -> Iterator[OwnServer]:
    with OwnServer() as server:
        yield server


def prepared(own: OwnServer, name: str, ddl: str = "CREATE TABLE t (id int PRIMARY KEY, name text)") -> str:
    dsn = own.database(name)
    with own.connect(name) as conn:
        conn.execute(ddl)
    return dsn


def test_a_wrong_password_is_refused_and_no_password_is_told(good: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    with OwnServer(hba="local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n") as own:
        dsn = prepared(own, "locked")
        with own.connect() as conn:
            conn.execute("ALTER ROLE postgres PASSWORD 'right hunter2'")
        tcp = f"postgresql://postgres@127.0.0.1:{own.port}/locked"
        for password, remedy in (("wrong-hunter2", "check user and password"), ("", "check user and password")):
            uri = tcp.replace("postgres@", f"postgres:{password}@" if password else "postgres@")
            end = restorer("run", "--backup", good, "--dsn", uri, "--report", report)
            check_refused(end, 2, ("cannot connect to 127.0.0.1/locked", "password", remedy), report)
        end = restorer("run", "--backup", good, "--dsn", tcp, env=environment(PGPASSWORD="wrong-hunter2"))
        check_refused(end, 2, ("password authentication failed", "check user and password"))
        right = tcp.replace("postgres@", "postgres:right%20hunter2@")
        end = restorer("run", "--backup", good, "--dsn", right, "--workers", 2, "--report", report, "--verbose")
        assert end.code == 0, end.err
        with psycopg.connect(dsn) as conn:
            assert conn.execute("SELECT count(*) FROM t").fetchone() == (3,)
            ledger = conn.execute("SELECT r::text FROM dbrestore.runs r").fetchall()
        assert "hunter2" not in end.out + end.err + report.read_text() + str(ledger)


def test_a_standby_is_refused(own: OwnServer, good: Path, tmp_path: Path) -> None:
    prepared(own, "primary")
    report = tmp_path / "report.json"
    standby = OwnServer()
    try:
        standby.call("pg_basebackup", "-D", standby.data, "-R", "-c", "fast", "-d", own.dsn())
        standby.begin()
        end = restorer("run", "--backup", good, "--dsn", standby.dsn("primary"), "--report", report)
        check_refused(end, 2, ("is a standby", "restore into the primary"), report)
    finally:
        standby.__exit__(None, None, None)
    with own.connect("primary") as conn:
        assert conn.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'dbrestore'").fetchone() == (0,)


MANY = 40_000
TRANSIENT = """
apiVersion: dbrestore.io/v1alpha1
kind: DatabaseRestore
metadata: {name: x}
spec: {load: {batchRows: 50}, retry: {initialSeconds: 1, maxSeconds: 1, maxElapsedSeconds: %d}}
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backup(tmp_path_factory.mktemp("many"), t=[{"id": i, "name": "n" * 100} for i in range(MANY)])


def begun(many: Path, dsn: str, folder: Path, patience: int = 60, workers: int = 1) -> Started:
    """A load that is under way."""
    manifest = folder / "restore.yaml"
    manifest.write_text(TRANSIENT % patience)
    started = Started(
        "run", "-f", manifest, "--backup", many, "--dsn", dsn, "--workers", workers, "--json",
        "--report", folder / "report.json",
    )  # fmt: skip
    started.until_said('"table started"')
    time.sleep(0.2)
    return started


def check_whole(end: Ended, dsn: str) -> None:
    assert end.code == 0, end.err[-3000:]
    assert (end.report["totals"]["read"], end.report["totals"]["inserted"]) == (MANY, MANY)
    with psycopg.connect(dsn, autocommit=True) as conn:
        assert conn.execute("SELECT count(*) FROM t").fetchone() == (MANY,)


def terminate(own: OwnServer, database: str) -> None:
    with own.connect() as conn:
        query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %s"
        row = conn.execute(query, (database,)).fetchone()
        assert row is not None
        assert row[0] > 0


@pytest.mark.parametrize("workers", [1, 2])
def test_connections_that_are_cut_in_the_middle_are_opened_again(
    own: OwnServer, many: Path, tmp_path: Path, workers: int
) -> None:
    dsn = prepared(own, f"cut{workers}")
    started = begun(many, dsn, tmp_path, workers=workers)
    try:
        terminate(own, f"cut{workers}")
        end = started.end()
    finally:
        started.close()
    check_whole(end, dsn)
    assert end.report["totals"]["retries"] > 0


def test_a_server_restarted_in_the_middle_is_waited_for(own: OwnServer, many: Path, tmp_path: Path) -> None:
    dsn = prepared(own, "restarted")
    started = begun(many, dsn, tmp_path)
    try:
        own.ctl("restart", "-m", "fast")
        end = started.end()
    finally:
        started.close()
    check_whole(end, dsn)


def test_a_server_that_stays_away_is_told_in_the_end_and_the_run_goes_on_later(
    own: OwnServer, many: Path, tmp_path: Path
) -> None:
    dsn = prepared(own, "away")
    started = begun(many, dsn, tmp_path, patience=2)
    try:
        own.ctl("stop", "-m", "fast")
        end = started.end()
    finally:
        started.close()
        own.ctl("start")
    assert end.code == 1, end.err
    assert [f["reason"] for f in end.failures] == ["Unavailable"]
    assert "start the same command again" in end.failures[0]["remedy"]
    assert json.loads((tmp_path / "report.json").read_text())["outcome"] == "Failed"
    again = restorer(
        "run", "-f", tmp_path / "restore.yaml", "--backup", many, "--dsn", dsn, "--workers", 1, "--json"
    )  # fmt: skip
    check_whole(again, dsn)


def test_a_database_dropped_in_the_middle_ends_the_run(own: OwnServer, many: Path, tmp_path: Path) -> None:
    dsn = prepared(own, "dropped")
    started = begun(many, dsn, tmp_path)
    try:
        with own.connect() as conn:
            conn.execute("DROP DATABASE dropped WITH (FORCE)")
        end = started.end(20)
    finally:
        started.close()
    assert end.code == 2, end.err
    assert len(end.failures) == 1
    assert "cannot connect to local/dropped any more" in end.failures[0]["message"]
    assert 'database "dropped" does not exist' in end.failures[0]["remedy"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["outcome"] == "Failed"


def test_a_network_that_drops_connections_is_lived_with(own: OwnServer, many: Path, tmp_path: Path) -> None:
    """A proxy in between cuts every connection after a while, as balancers do."""
    dsn = prepared(own, "proxied")
    proxy = subprocess.Popen([sys.executable, Path(__file__).with_name("dropping_proxy.py"), str(own.port)],
                             stdout=subprocess.PIPE)  # fmt: skip
    try:
        assert proxy.stdout is not None
        port = int(proxy.stdout.readline())
        through = make_conninfo(dsn, host="127.0.0.1", port=port)
        started = begun(many, through, tmp_path)
        try:
            end = started.end()
        finally:
            started.close()
    finally:
        proxy.kill()
        proxy.wait()
    check_whole(end, dsn)
    assert end.report["totals"]["retries"] > 0


def test_a_statement_timeout_shrinks_the_batches(own: OwnServer, tmp_path: Path) -> None:
    dsn = prepared(
        own, "slowly",
        "CREATE TABLE t (id int PRIMARY KEY); CREATE ROLE hurried LOGIN SUPERUSER; "
        "ALTER ROLE hurried SET statement_timeout = '300ms'; "
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.002); RETURN NEW; END'; "
        "CREATE TRIGGER slow BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION wait()",
    )  # fmt: skip
    backup = write_backup(tmp_path / "b", t=[{"id": i} for i in range(600)])
    manifest = tmp_path / "restore.yaml"
    manifest.write_text(TRANSIENT % 60)
    hurried = make_conninfo(dsn, user="hurried")
    end = restorer("run", "-f", manifest, "--backup", backup, "--dsn", hurried, "--batch-size", 400, "--json")
    assert end.code == 0, end.err
    assert end.report["totals"]["inserted"] == 600
    assert any(e["event"] == "retry" and e["sqlState"] == "57014" for e in end.events)


def test_a_full_disk_is_waited_for_and_told(own: OwnServer, tmp_path: Path) -> None:
    """SQLSTATE 53100: tried again until retry.maxElapsedSeconds, then exit 1; with room made, it goes on."""
    space = own.folder / "space"
    space.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", space], check=False).returncode:
        pytest.skip("a small disk can be mounted by root only")
    try:
        import shutil

        shutil.chown(space, own.user)
        with own.connect() as conn:
            conn.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(sql.Literal(str(space))))
        dsn = prepared(own, "full", "CREATE TABLE t (id int PRIMARY KEY, name text) TABLESPACE small")
        many = write_backup(tmp_path / "b", t=[{"id": i, "name": "n" * 500} for i in range(MANY)])
        end = begun(many, dsn, tmp_path, patience=2).end()
        assert end.code == 1, end.err
        assert "the server's disk is full (SQLSTATE 53100)" in end.failures[0]["message"]
        assert 0 < end.report["totals"]["inserted"] < MANY
        started = begun(many, dsn, tmp_path)
        try:
            started.until_said("the server's disk is full")
            subprocess.run(["mount", "-o", "remount,size=100m", space], check=True)
            check_whole(started.end(), dsn)
        finally:
            started.close()
        with own.connect() as conn:
            conn.execute("DROP DATABASE full_ WITH (FORCE)".replace("full_", '"full"'))
            conn.execute("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", "-l", space], check=False)
