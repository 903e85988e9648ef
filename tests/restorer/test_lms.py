"""The generated LMS backup is what it says it is: other tests hold restores to its figures."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
import yaml
import zstandard
from psycopg import sql
from restorer.demo import lms
from restorer.demo.lms import Generated, TableTruth, generate, schema_sql
from restorer.demo.lms_faults import Fault, Kind, bad_record, file_rows, outcome
from restorer.demo.lms_rows import World
from restorer.demo.lms_tables import TABLES
from restorer.naming import parse_prisma
from restorer.source.backup import find_snapshot
from restorer.spec import Manifest

# Parents before children; what points forward within a table or in the cycle is added when all rows are there.
ORDER = [
    *(
        "roles",
        "users",
        "profiles",
        "_RoleToUser",
        "categories",
        "tags",
        "courses",
        "_CourseToTag",
        "modules",
        "lessons",
    ),
    *("enrollments", "progress", "quizzes", "questions", "attempts", "answers", "assignments", "files", "submissions"),
    *("comments", "notifications", "payments", "audit_logs", "settings"),
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Generated:
    return generate(tmp_path_factory.mktemp("sound"), records=4_000, bad_percent=0)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Generated:
    return generate(tmp_path_factory.mktemp("mixed"), records=60_000)


def content(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(data)
    if path.suffix == ".zst":
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return data


def records(generated: Generated, truth: TableTruth) -> list[dict[str, Any]]:
    text = content(generated.folder / truth.file).decode()
    if truth.file.endswith(".ndjson"):
        return [json.loads(line) for line in text.splitlines()]
    return json.loads(text)


def test_there_are_24_tables_and_exactly_the_records_asked_for(sound: Generated, mixed: Generated) -> None:
    assert len(TABLES) == 24
    assert set(ORDER) == {t.name for t in TABLES} == set(sound.tables)
    assert (sound.records, mixed.records) == (4_000, 60_000)


def test_without_bad_records_every_file_parses_and_counts_match(sound: Generated) -> None:
    for truth in sound.tables.values():
        assert len(records(sound, truth)) == truth.good == truth.records, truth.table
    assert sound.totals() == {
        "read": 4_000,
        "inserted": 4_000,
        "updated": 0,
        "duplicate": 0,
        "conflict": 0,
        "rejected": 0,
    }


@pytest.mark.parametrize("fixture", ["sound", "mixed"])
def test_manifest_says_what_is_on_disk(fixture: str, request: pytest.FixtureRequest) -> None:
    generated: Generated = request.getfixturevalue(fixture)
    manifest = json.loads((generated.folder / "manifest.json").read_text())["tables"]
    on_disk = {p.name for p in generated.folder.iterdir()} - {"manifest.json", "schema.prisma"}
    assert {entry["file"] for entry in manifest.values()} == on_disk
    by_file = {t.file: t for t in generated.tables.values()}
    for entry in manifest.values():
        data = (generated.folder / entry["file"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        assert entry["records"] == by_file[entry["file"]].records
        assert len(data) == by_file[entry["file"]].bytes


def test_broken_lines_are_counted_as_records(mixed: Generated) -> None:
    truth = mixed.tables["notifications"]
    lines = content(mixed.folder / truth.file).decode("utf-8").split("\n")
    assert lines.pop() == ""
    assert len(lines) == truth.records
    assert truth.faults["broken_line"] > 0
    assert sum(not _decodes(line.encode()) for line in lines) >= truth.faults["broken_line"]


def _decodes(record: bytes) -> bool:
    try:
        msgspec.json.decode(record)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def test_bad_records_are_about_one_percent_and_of_every_kind(mixed: Generated) -> None:
    faults = mixed.faults()
    assert sum(faults.values()) == pytest.approx(600, abs=20)
    assert set(faults) == set(Kind.__args__)
    for truth in mixed.tables.values():
        counts = truth.expected()
        assert counts["read"] == sum(counts[k] for k in ("inserted", "updated", "duplicate", "conflict", "rejected"))


def test_expected_json_holds_the_same_figures(mixed: Generated) -> None:
    expected = json.loads((mixed.root / "expected.json").read_text())
    assert expected == {"totals": mixed.totals(), "tables": mixed.expected(), "faults": mixed.faults()}


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path) -> None:
    def hashes(seed: int, name: str) -> list[str]:
        made = generate(tmp_path / name, records=2_000, seed=seed)
        return [t.sha256 for t in made.tables.values()]

    first = hashes(7, "a")
    assert first == hashes(7, "b")
    assert first != hashes(8, "c")


def test_more_bad_records_when_asked(tmp_path: Path) -> None:
    made = generate(tmp_path, records=2_000, bad_percent=10)
    assert 140 <= made.totals()["read"] - made.totals()["inserted"] <= 200


@pytest.mark.parametrize(("count", "percent"), [(999, 1.0), (2_000, 10.5), (2_000, -1.0)])
def test_numbers_out_of_range_are_refused(tmp_path: Path, count: int, percent: float) -> None:
    with pytest.raises(ValueError, match="at least 1000"):
        generate(tmp_path, records=count, bad_percent=percent)


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    generate(tmp_path, records=1_000, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (1_000, 1_000)
    assert seen == sorted(seen)


def test_the_older_snapshot_has_little_in_it(sound: Generated) -> None:
    older = sound.root / sound.path / lms.OLDER_SNAPSHOT
    assert sound.snapshot > lms.OLDER_SNAPSHOT
    assert len(list(older.glob("*.json"))) == 5


def test_the_engine_finds_the_snapshot_whole(mixed: Generated) -> None:
    """Latest is the full one, nothing looks unfinished, every file has its count, and schema.prisma is seen."""
    snapshot = find_snapshot(mixed.root, mixed.path)
    assert (snapshot.name, snapshot.warnings) == (mixed.snapshot, ())
    assert snapshot.schema_prisma == mixed.folder / "schema.prisma"
    found = {f.name: f.expected_records for f in snapshot.files}
    assert found == {t.file.split(".")[0]: t.records for t in mixed.tables.values()}


def test_every_file_name_leads_to_its_table() -> None:
    models = parse_prisma(lms.prisma_schema())
    for table in TABLES:
        stem = table.file.split(".")[0]
        assert table.name in (stem, models[stem].table if stem in models else None)


def test_unknown_columns_stand_where_no_preflight_looks(mixed: Generated) -> None:
    data = content(mixed.folder / mixed.tables["progress"].file)
    key = "cộtLạ".encode()
    assert mixed.tables["progress"].faults["unknown_column"] == data.count(key) > 0
    assert data.index(key) > 256 * 1024


def test_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "restorer.demo.lms", str(tmp_path / "v"), "--records", "1000", "--schema"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "1,000 read" in run.stdout
    assert (tmp_path / "v" / "schema.sql").read_text() == schema_sql()
    refused = subprocess.run([*command[:4], "--records", "3"], capture_output=True, text=True)
    assert refused.returncode == 1
    assert "at least 1000" in refused.stderr


# Against a real PostgreSQL, by an independent way into it.


def columns(db: psycopg.Connection, table: str) -> dict[str, str]:
    """Writable columns and their types."""
    return dict(
        db.execute(
            "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute"
            " WHERE attrelid = to_regclass(quote_ident(%s)) AND attnum > 0 AND attgenerated = ''",
            (table,),
        ).fetchall()
    )


class Loader:
    """An independent, slow way into the database: json_populate_record, row by row where one may fail."""

    def __init__(self, db: psycopg.Connection, world: World) -> None:
        self.db = db
        self.types = {t.name: columns(db, t.name) for t in TABLES}
        models = parse_prisma(lms.prisma_schema())
        self.names = {m.table: m.columns for m in models.values()}

    def row(self, table: str, record: dict[str, Any]) -> dict[str, Any]:
        """The record under its columns' names, bytes as PostgreSQL spells them. KeyError for an unknown column."""
        types, out = self.types[table], {}
        for key, value in record.items():
            name = self.names.get(table, {}).get(key, key)
            if (table, name) == ("payments", "fee"):
                continue
            if types[name] == "bytea":
                value = "\\x" + base64.b64decode(value, validate=True).hex()
            out[name] = value
        return out

    def insert(self, table: str, rows: list[dict[str, Any]]) -> int:
        """Rows with the same keys in one statement each, so that a missing key means the column's default."""
        count = 0
        groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for row in rows:
            groups.setdefault(tuple(row), []).append(row)
        for names, group in groups.items():
            listed = sql.SQL(", ").join(map(sql.Identifier, names))
            query = sql.SQL(
                "INSERT INTO {t} ({c}) OVERRIDING SYSTEM VALUE"
                " SELECT {c} FROM json_populate_recordset(NULL::{t}, %s::json)"
            ).format(t=sql.Identifier(table), c=listed)
            count += self.db.execute(query, (json.dumps(group, ensure_ascii=False),)).rowcount
        return count


@pytest.fixture
def loader(db: psycopg.Connection) -> Loader:
    db.execute(schema_sql())
    return Loader(db, World({}, 7))


def test_every_good_row_is_good(sound: Generated, db: psycopg.Connection, loader: Loader) -> None:
    """All rows of all tables, all keys, checks and types; rows that point forward need the constraints at the end."""
    with db.transaction():
        db.execute("SET CONSTRAINTS ALL DEFERRED")
        for constraint, table in (
            ("courses_featuredLessonId_fkey", "courses"),
            ("comments_parentId_fkey", "comments"),
            ("categories_parentId_fkey", "categories"),
        ):
            alter = sql.SQL("ALTER TABLE {} ALTER CONSTRAINT {} DEFERRABLE INITIALLY DEFERRED")
            db.execute(alter.format(sql.Identifier(table), sql.Identifier(constraint)))
        for name in ORDER:
            truth = sound.tables[name]
            rows = [loader.row(name, r) for r in records(sound, truth)]
            if name == "settings":  # NULL would be SQL's NULL here; the restorer writes JSON's
                rows = [r for r in rows if r["value"] is not None]
            assert loader.insert(name, rows) == len(rows), name


def test_every_bad_record_is_bad_in_its_way(db: psycopg.Connection, loader: Loader) -> None:
    """Each fault of each table once, alone, against a database that holds all good rows."""
    world = World(good := {n: g for n, (g, _) in lms._sizes(2_000, 0).items()}, 7)
    for table in TABLES:  # without triggers, so that foreign keys of every order hold off until all rows are there
        db.execute(sql.SQL("ALTER TABLE {} DISABLE TRIGGER ALL").format(sql.Identifier(table.name)))
        make = table.maker(world)
        rows = [loader.row(table.name, make(i)) for i in range(good[table.name])]
        loader.insert(table.name, [r for r in rows if r.get("value", 0) is not None])
    for table in TABLES:
        db.execute(sql.SQL("ALTER TABLE {} ENABLE TRIGGER ALL").format(sql.Identifier(table.name)))
    for table in TABLES:
        for number, fault in enumerate(table.faults):
            raw = bad_record(fault, table.maker(world), good[table.name] + 1_000_000 + number, 3, number)
            got = verdict(db, loader, table.name, fault, raw)
            assert got == outcome(fault.kind), (table.name, fault, got)


SQLSTATES: dict[Kind, set[str]] = {
    "wrong_type": {"22P02", "22007", "binascii"},
    "null_required": {"23502"},
    "unknown_enum": {"22P02"},
    "check": {"23514"},
    "too_long": {"22001"},
    "impossible_date": {"22008"},
    "out_of_range": {"22003"},
    "missing_parent": {"23503"},
    "nul": {"22P05"},
    "lone_surrogate": {"22P02"},
}


def verdict(db: psycopg.Connection, loader: Loader, table: str, fault: Fault, raw: bytes) -> str:
    """What PostgreSQL itself makes of the record."""
    if fault.kind == "deep":
        db.execute("SELECT %s::jsonb", (raw.decode(),))
        return "inserted" if not _decodes(raw) else "too shallow"
    try:
        record = json.loads(raw)
    except json.JSONDecodeError:
        return "rejected" if fault.kind in ("broken_json", "broken_line") else "broken"
    if fault.kind == "unknown_column":
        return "rejected" if record.keys() - loader.names[table].keys() - loader.types[table].keys() else "known"
    if fault.kind in ("nul", "lone_surrogate"):
        record = {k: v for k, v in record.items() if k == fault.column}
        try:
            db.execute("SELECT %s::jsonb", (json.dumps(record),))
        except psycopg.DataError as error:
            return "rejected" if error.sqlstate in SQLSTATES[fault.kind] else str(error)
        return "accepted"
    try:
        with db.transaction(force_rollback=True):
            loader.insert(table, [loader.row(table, record)])
            db.execute("SET CONSTRAINTS ALL IMMEDIATE")
    except psycopg.errors.UniqueViolation:
        return outcome(fault.kind) if fault.kind in ("duplicate_same", "duplicate_other", "unique_other") else "unique"
    except psycopg.Error as error:
        return "rejected" if error.sqlstate in SQLSTATES[fault.kind] else f"{error.sqlstate} {error}"
    except ValueError:
        return "rejected" if "binascii" in SQLSTATES[fault.kind] else "binascii"
    return "accepted"


def test_duplicates_repeat_records_that_stand_before_them() -> None:
    world = World({n: g for n, (g, _) in lms._sizes(20_000, 5).items()}, 7)
    table = next(t for t in TABLES if t.name == "payments")
    seen: Counter[str] = Counter()
    for chunk in file_rows(world, table.maker(world), table.faults, *lms._sizes(20_000, 5)["payments"]):
        if isinstance(chunk, list):
            seen.update(r["id"] for r in chunk)
        elif chunk[0] in ("duplicate_same", "duplicate_other"):
            assert seen[json.loads(chunk[1])["id"]] == 1


def test_the_example_manifest_fits_the_backup(sound: Generated, db: psycopg.Connection, loader: Loader) -> None:
    """It parses, its mappings and path exist, and its queries run against the schema."""
    text = (Path(__file__).parents[2] / "examples" / "lms.yaml").read_text()
    spec = Manifest.model_validate(yaml.safe_load(text)).spec
    assert (sound.root / spec.source.path / sound.snapshot).is_dir()
    for mapping in spec.tables.mappings:
        assert list(sound.folder.glob(f"{mapping.file}.*"))
        assert mapping.table in loader.types
        assert set(mapping.columns.values()) <= loader.types[mapping.table].keys()
    for check in spec.verification.queries:
        assert db.execute(check.sql).fetchone() is not None
