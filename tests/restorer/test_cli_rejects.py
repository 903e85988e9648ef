"""`restorer rejects`: what was not loaded, listed, taken out to be repaired, and back."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from command import Started, restorer, write_backup
from fix_cli import Cli, check_refused
from fix_people import PEOPLE, Db, accounted, count
from restorer.cli.repaired import Repaired
from restorer.errors import Refused


def test_rejects_are_listed_exported_repaired_and_retried(
    cli: Cli, people: Db, dsn: str, tmp_path: Path
) -> None:  # fmt: skip
    """Promise 3: every rejected record is kept, whole, with its reason, and can be repaired and retried."""
    secret = "a-private-value"
    bad = [{"id": f"{secret} {i}", "name": "x", "boss": None} for i in range(3)]
    backup = write_backup(tmp_path / "b", people=[*PEOPLE[:50], *bad, *PEOPLE[50:]])
    target = ("--dsn", dsn)
    end = cli("run", "--backup", backup, *target, "--json", "--max-rejects", "5")
    accounted(end.report, read=203, inserted=200, rejected=3)
    listed = cli("rejects", "list", *target)
    assert listed.code == 0
    assert "3 rejected" in listed.out
    assert secret not in listed.out
    rows = [json.loads(line) for line in cli("rejects", "list", *target, "--json", "--limit", 2).out.splitlines()]
    assert [row["record"] for row in rows] == [51, 52]
    folder = tmp_path / "rejects"
    assert cli("rejects", "export", folder, *target).code == 0
    lines = (folder / "people.ndjson").read_text().splitlines()
    assert [json.loads(line) for line in lines] == bad  # loadable input
    with (folder / "people.index.csv").open() as f:
        assert [row["record"] for row in csv.DictReader(f)] == ["51", "52", "53"]
    # One line too few: nothing is touched, and the file is named.
    (folder / "people.ndjson").write_text(lines[0] + "\n")
    check_refused(
        cli("rejects", "retry", "--from", folder, *target), 2, ("people.ndjson has 1 lines", "keep every line")
    )
    # One repaired, one left wrong, one blank; by an editor that leaves its mark.
    repaired = json.dumps({"id": 901, "name": "x", "boss": 2}) + "\n" + lines[1] + "\n\n"
    (folder / "people.ndjson").write_text(repaired, encoding="utf-8-sig")
    end = cli("rejects", "retry", "--from", folder, *target)
    assert (end.code, "2 tried, 1 settled, 1 rejected again" in end.out) == (2, True), end.out
    accounted(json.loads(cli("report", *target, "--json").out), read=203, inserted=201, rejected=2)
    assert count(people) == 201
    assert people.execute("SELECT attempts FROM dbrestore.rejects ORDER BY id").fetchall() == [(2,), (1,)]
    assert secret not in cli("rejects", "list", *target).out
    assert people.execute("SELECT count(*) FROM dbrestore.target").fetchone() == (0,)
    # Everything as it stands: nothing has changed, so nothing is settled.
    end = cli("rejects", "retry", *target)
    assert (end.code, "2 tried, 0 settled, 2 rejected again" in end.out) == (2, True), end.out


@pytest.mark.parametrize("index", [b"1;2;3\n", b"line,id\n1,one\n", b"line,id\n1\n", b"line,id\n1,\xff\n"])
def test_an_index_that_export_did_not_write_is_named(cli: Cli, dsn: str, tmp_path: Path, index: bytes) -> None:
    (tmp_path / "people.ndjson").write_text("{}\n")
    (tmp_path / "people.index.csv").write_bytes(index + b"2,3\n")
    end = cli("rejects", "retry", "--from", tmp_path, "--dsn", dsn)
    check_refused(end, 2, ("people.index.csv is not as `restorer rejects export` wrote it", "export again"))


def test_a_repaired_file_that_changes_while_it_is_read_is_not_taken(tmp_path: Path) -> None:
    data = tmp_path / "people.ndjson"
    data.write_text('{"id":7}\n{"id":8}\n')
    (tmp_path / "people.index.csv").write_text("line,id\n1,1\n2,2\n")
    repaired = Repaired(tmp_path)
    assert dict(repaired) == {1: b'{"id":7}', 2: b'{"id":8}'}
    data.write_text('{"id":70000}\n{"id":8}\n')
    for ident in (1, 2):
        with pytest.raises(Refused, match=r"people\.ndjson was changed while it was read"):
            repaired[ident]


def test_a_repaired_file_that_cannot_be_read_is_named(cli: Cli, dsn: str, tmp_path: Path) -> None:
    (tmp_path / "people.ndjson").mkdir()
    (tmp_path / "people.index.csv").write_text("line,id\n")
    end = cli("rejects", "retry", "--from", tmp_path, "--dsn", dsn)
    check_refused(end, 2, ("people.ndjson: Is a directory", "let this user read"))


def test_a_retry_without_repair_settles_what_waited_for_its_parent(
    cli: Cli, people: Db, dsn: str, tmp_path: Path
) -> None:  # fmt: skip
    orphans = [{"id": 300, "name": "x", "boss": 301}, {"id": 302, "name": "y", "boss": 300}]
    backup = write_backup(tmp_path, people=[*PEOPLE, *orphans])
    end = cli("run", "--backup", backup, "--dsn", dsn, "--json", "--max-rejects", "5")
    accounted(end.report, inserted=200, rejected=2)
    people.execute("INSERT INTO people VALUES (301, 'the parent', NULL)")
    end = cli("rejects", "retry", "--dsn", dsn)
    assert (end.code, "2 tried, 2 settled, 0 rejected again" in end.out) == (0, True), end.out
    accounted(json.loads(cli("report", "--dsn", dsn, "--json").out), read=202, inserted=202, rejected=0)
    assert count(people) == 203


def test_of_a_run_under_way_rejects_are_not_retried_and_nothing_is_purged(dsn: str, people: Db, tmp_path: Path) -> None:
    backup = write_backup(tmp_path, people=[{"id": i, "name": "n"} for i in range(20_000)])
    people.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.001); RETURN NEW; END';"
        "CREATE TRIGGER slow BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    started = Started("run", "--backup", backup, "--dsn", dsn, "--name", "x", "--batch-size", 20)
    try:
        started.until(lambda: count(people) > 0)
        check_refused(restorer("rejects", "retry", "--dsn", dsn), 2, ("run 'x/1' is not finished", "finish it first"))
        check_refused(
            restorer("ledger", "purge", "x/1", "--dsn", dsn), 2, ("run 'x/1' is under way", "ten seconds later")
        )
        started.kill_group()
        assert started.end().code == -9
    finally:
        started.close()
    people.execute("DROP TRIGGER slow ON people")
    people.execute(
        "UPDATE dbrestore.owners SET lease_until = clock_timestamp() - interval '1 second'"
    )  # it would in 10 s
    assert restorer("ledger", "purge", "x/1", "--dsn", dsn).out == "forgot 1 run: x/1\n"
    backup = write_backup(tmp_path, people=PEOPLE)
    assert restorer("run", "--backup", backup, "--dsn", dsn, "--name", "x").code == 0
