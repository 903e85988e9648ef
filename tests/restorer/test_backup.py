"""Snapshots on a real folder: which is taken, and what is refused."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import zstandard
from restorer.errors import Refused
from restorer.model import TableFile
from restorer.source.backup import check_file, find_snapshot
from restorer.source.reader import pieces
from restorer.source.snapshot_names import snapshot_time
from snapshots import GOOD, ROWS, snapshot


def contents(file: TableFile) -> list[Any]:
    return [json.loads(piece.raw(i)) for piece in pieces(file) for i in range(len(piece))]


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "20241219_103045",
        "20241219103045",
        "20241219-103045",
        "20241219T103045Z",
        "2024-12-19T10:30:45Z",
        "2024-12-19T10-30-45",
        "2024-12-19_10-30-45",
        "2024-12-19 10:30:45",
        "backup-2024-12-19T10-30-45.000Z",
        "2024-12-19T12:30:45+02:00",
    ],
)
def test_common_spellings_of_a_time(name: str) -> None:
    assert snapshot_time(name) == datetime.fromisoformat("2024-12-19T10:30:45+00:00")


@pytest.mark.parametrize("name", ["users", "20241319", "2024", "123456789", "v2", "2024-12-19-final", ""])
def test_other_names_tell_no_time(name: str) -> None:
    assert snapshot_time(name) is None


# -- which snapshot --------------------------------------------------------------------------------------------------


def test_latest_is_by_time_not_by_spelling(tmp_path: Path) -> None:
    for name in ("20241219_103045", "2024-12-20", "20241218235959", "notes"):
        snapshot(tmp_path, name)
    assert find_snapshot(tmp_path).name == "2024-12-20"


@pytest.mark.parametrize(
    ("time", "name"),
    [
        ("2024-12-19T10:30:45Z", "20241219_103045"),
        ("2024-12-19T10:30:44Z", "20241218_000000"),
        ("2024-12-19T12:30:45+02:00", "20241219_103045"),
        ("2024-12-19", "20241218_000000"),
        (datetime.fromisoformat("2030-01-01"), "20241220_000000"),
    ],
)
def test_at_or_before(tmp_path: Path, time: str | datetime, name: str) -> None:
    for folder in ("20241218_000000", "20241219_103045", "20241220_000000"):
        snapshot(tmp_path, folder)
    assert find_snapshot(tmp_path, policy="AtOrBefore", time=time).name == name


def test_at_or_before_everything_is_refused_with_the_oldest(tmp_path: Path) -> None:
    snapshot(tmp_path, "20241218_000000")
    with pytest.raises(Refused) as e:
        find_snapshot(tmp_path, policy="AtOrBefore", time="2020-01-01")
    assert "20241218_000000" in e.value.line()


def test_exact_takes_any_name_and_says_what_there_is_when_it_is_missing(tmp_path: Path) -> None:
    snapshot(tmp_path, "before the move")
    snapshot(tmp_path, "2024-12-19")
    assert find_snapshot(tmp_path, policy="Exact", name="before the move").name == "before the move"
    assert find_snapshot(tmp_path / "2024-12-19", policy="Exact", name="2024-12-19").name == "2024-12-19"
    with pytest.raises(Refused) as e:
        find_snapshot(tmp_path, policy="Exact", name="gone")
    assert "gone does not exist" in e.value.line() and "before the move" in e.value.line() and e.value.exit_code == 2


@pytest.mark.parametrize("style", ["folder", "subpath", "file"])
def test_a_person_may_point_at_one_folder_or_file(tmp_path: Path, style: str) -> None:
    folder = snapshot(tmp_path, "dump")
    found = {
        "folder": lambda: find_snapshot(folder),
        "subpath": lambda: find_snapshot(tmp_path, "dump"),
        "file": lambda: find_snapshot(tmp_path, "dump/users.json"),
    }[style]()
    assert [f.name for f in found.files] == ["users"] and contents(found.files[0]) == ROWS
    assert found.bytes == len(GOOD)


CUT = {
    "cut array": ("users.json", GOOD[:-5]),
    "cut after a record": ("users.json", GOOD[:-1]),
    "empty file": ("users.json", b""),
    "cut document": ("backup.json", b'{"users":' + GOOD + b',"posts":[{"id'),
    "cut gzip": ("users.json.gz", gzip.compress(GOOD * 100)[:-9]),
    "cut zstd": ("users.json.zst", zstandard.ZstdCompressor().compress(os.urandom(500_000))[:-9]),
}


@pytest.mark.parametrize(("file", "data"), CUT.values(), ids=CUT.keys())
def test_a_snapshot_that_is_being_written_is_passed_over_and_exact_refuses_it(
    tmp_path: Path, file: str, data: bytes
) -> None:
    snapshot(tmp_path, "20241218_000000")
    snapshot(tmp_path, "20241219_000000", **{file: data})
    found = find_snapshot(tmp_path)
    assert found.name == "20241218_000000"
    assert len(found.warnings) == 1 and "20241219_000000" in found.warnings[0] and file in found.warnings[0]
    with pytest.raises(Refused, match=f"not complete: {file}"):
        find_snapshot(tmp_path, policy="Exact", name="20241219_000000")
    (tmp_path / "20241218_000000" / "users.json").write_bytes(b"[")
    with pytest.raises(Refused, match="no complete snapshot"):
        find_snapshot(tmp_path)


def test_a_cut_line_of_ndjson_costs_only_the_line_unless_an_older_snapshot_is_whole(tmp_path: Path) -> None:
    snapshot(tmp_path, "20241219_000000", **{"users.ndjson": b'{"id":1}\n{"id":2'})
    found = find_snapshot(tmp_path)
    assert found.name == "20241219_000000" and "cut off" in found.warnings[0]
    assert check_file(found.files[0]) is None
    snapshot(tmp_path, "20241218_000000")
    assert find_snapshot(tmp_path).name == "20241218_000000"
    assert find_snapshot(tmp_path, policy="Exact", name="20241219_000000").name == "20241219_000000"


def test_the_marker_completes_a_snapshot(tmp_path: Path) -> None:
    snapshot(tmp_path, "20241218_000000", users=GOOD, **{"done.json": b""})
    snapshot(tmp_path, "20241219_000000")
    found = find_snapshot(tmp_path, complete_marker="done.json")
    assert found.name == "20241218_000000" and "done.json" in found.warnings[0] and len(found.files) == 1


# -- nothing outside the volume --------------------------------------------------------------------------------------


def escapes() -> dict[str, Callable[[Path, Path], Any]]:
    def file_link(root: Path, outside: Path) -> Any:
        (snapshot(root, "20241219") / "posts.json").symlink_to(outside / "s" / "users.json")
        return find_snapshot(root)

    def folder_link(root: Path, outside: Path) -> Any:
        (root / "20241219").symlink_to(outside / "s")
        return find_snapshot(root)

    return {
        "dots in the path": lambda root, _: find_snapshot(root, "../outside/s"),
        "dots that come back": lambda root, _: find_snapshot(snapshot(root, "s").parent, "s/../s"),
        "dots in the name": lambda root, _: find_snapshot(root, policy="Exact", name="../outside/s"),
        "absolute path": lambda root, outside: find_snapshot(root, str(outside / "s")),
        "absolute name": lambda root, outside: find_snapshot(root, policy="Exact", name=str(outside / "s")),
        "marker": lambda root, _: find_snapshot(snapshot(root, "20241219").parent, complete_marker="../x"),
        "link to a file": file_link,
        "link to a folder": folder_link,
    }


@pytest.mark.parametrize("name", escapes())
def test_what_leads_out_of_the_volume_is_refused(tmp_path: Path, name: str) -> None:
    root, outside = tmp_path / "volume", tmp_path / "outside"
    root.mkdir()
    snapshot(outside, "s")
    with pytest.raises(Refused) as e:
        escapes()[name](root, outside)
    assert e.value.exit_code == 2 and "does not exist" not in e.value.line()


def test_links_inside_the_volume_are_followed(tmp_path: Path) -> None:
    """As in a mounted ConfigMap: users.json -> ..data/users.json -> ..2024/users.json."""
    snapshot(tmp_path, "..2024")
    (tmp_path / "..data").symlink_to("..2024")
    (tmp_path / "users.json").symlink_to("..data/users.json")
    assert contents(find_snapshot(tmp_path).files[0]) == ROWS


# -- files of a snapshot ---------------------------------------------------------------------------------------------


def test_every_suffix_and_layout(tmp_path: Path) -> None:
    lines = b"\n".join(json.dumps(r).encode() for r in ROWS)
    zst = zstandard.ZstdCompressor().compress
    snapshot(
        tmp_path,
        "s",
        **{
            "array.json": GOOD,
            "pretty.json": json.dumps(ROWS, indent=2).encode(),
            "lines.ndjson": lines,
            "lines2.jsonl": b"\xef\xbb\xbf" + lines,
            "lines3.json": lines + b"\n",
            "array_gz.json.gz": gzip.compress(GOOD),
            "array_zst.json.zst": zst(GOOD),
            "lines_gz.ndjson.gz": gzip.compress(lines),
            "lines_zst.jsonl.zst": zst(lines),
            "_AToB.json": b"[]",
            ".hidden.json": b"x",
            "metadata.json": GOOD,
            "_manifest.json": b'{"tables": {"array": 2}}',
            "README.md": b"x",
            "schema.prisma": b"model A {}",
        },
    )
    found = find_snapshot(tmp_path / "s")
    tables = {f.name: f for f in found.files}
    assert {n for n, f in tables.items() if f.layout == "ndjson"} == {
        "lines",
        "lines2",
        "lines3",
        "lines_gz",
        "lines_zst",
    }
    assert contents(tables.pop("_AToB")) == []
    assert tables.keys() >= {"array", "pretty", "array_gz", "array_zst", "metadata"} and len(tables) == 10
    for file in tables.values():
        assert contents(file) == ROWS
        assert check_file(file) is None
    assert found.schema_prisma == tmp_path / "s" / "schema.prisma"
    assert tables["array"].expected_records == 2


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_a_document_is_several_tables(tmp_path: Path, suffix: str) -> None:
    text = json.dumps(
        {"at": "x", "users": ROWS, "data": {"posts": ROWS[:1], "tags": ["a"]}, "more": {"users": []}}
    ).encode()
    snapshot(
        tmp_path, "s", **{"backup" + suffix: gzip.compress(text) if suffix == ".json.gz" else text, "other.json": GOOD}
    )
    found = {f.name: f for f in find_snapshot(tmp_path / "s").files}
    assert {n: f.member for n, f in found.items()} == {
        "users": ("users",),
        "posts": ("data", "posts"),
        "more.users": ("more", "users"),
        "other": (),
    }
    assert contents(found["posts"]) == ROWS[:1]
    assert all(check_file(f) is None for f in found.values())


def test_one_object_on_one_line_is_a_record_when_it_has_an_id(tmp_path: Path) -> None:
    snapshot(tmp_path, "s", orders=b'{"id": 1, "lines": [{"n": 1}]}\n', users=b'{"a": 1}')
    assert {f.name: f.layout for f in find_snapshot(tmp_path / "s").files} == {"orders": "ndjson", "users": "ndjson"}


def test_a_table_in_two_files_is_refused(tmp_path: Path) -> None:
    snapshot(tmp_path, "s", **{"users.json": GOOD, "users.ndjson": b"{}"})
    with pytest.raises(Refused, match=r"users is found twice, in users.json and users.ndjson"):
        find_snapshot(tmp_path / "s")


def test_the_format_may_be_said(tmp_path: Path) -> None:
    snapshot(tmp_path, "s", users=b'{"users":[]}\n')
    layouts = {f: find_snapshot(tmp_path / "s", format=f).files[0].layout for f in ("Auto", "JSON", "NDJSON")}
    assert layouts == {"Auto": "document", "JSON": "document", "NDJSON": "ndjson"}
