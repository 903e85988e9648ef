"""Bad backups and bad records: one line that names the thing and the remedy, the right exit code, nothing changed, nothing given
away.

Most of it runs the command's own entry in this process (a process each would take minutes); what concerns processes and
memory runs the real thing.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from command import Started, write_backup
from fix_cli import SECRET, Cli, check_refused
from fix_target import GOOD, check_untouched
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

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


@contextmanager
def not_root(dsn: str) -> Iterator[None]:
    """Root reads every file. Who owns the server's socket comes as far as to that, and reads what he may."""
    root = os.geteuid() == 0
    if root:
        host = str(conninfo_to_dict(dsn).get("host") or "")
        os.seteuid(os.stat(host).st_uid if host.startswith("/") and os.stat(host).st_uid else 65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_file_that_may_not_be_read_is_named(cli: Cli, target: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is for its user alone
        os.chmod(folder, 0o755)
        backup = write_backup(Path(folder), t=GOOD)
        assert cli("run", "--dry-run", "--backup", backup, "--dsn", target).code == 0  # and all is imported
        (backup / SNAPSHOT / "t.json").chmod(0)
        with not_root(target):
            end = cli("run", "--backup", backup, "--dsn", target)
    check_refused(end, 2, ("t.json", "cannot be read", "mode"))
    check_untouched(target)


def test_no_older_snapshot_is_taken_for_one_that_may_not_be_read(cli: Cli, target: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        backup = write_backup(Path(folder), "20200101_000000", t=GOOD)
        assert cli("run", "--dry-run", "--backup", backup, "--dsn", target).code == 0
        write_backup(backup, t=GOOD)
        (backup / SNAPSHOT / "t.json").chmod(0)
        with not_root(target):
            end = cli("run", "--backup", backup, "--dsn", target)
    check_refused(end, 2, (f"{SNAPSHOT}/t.json", "cannot be read", "mode"))
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
        peak = started.peak()
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
