"""Where snapshots and table files are: the volume's root, a folder per snapshot, a file (or more) per table."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Literal

import msgspec

from restorer.errors import Refused
from restorer.model import TableFile
from restorer.source.filecheck import CUT_LINE, check_file, tail_problem
from restorer.source.fingerprint import differences, fingerprint, verify_checksums
from restorer.source.manifest import Entry, find_manifest, read_manifest
from restorer.source.snapshot import Snapshot
from restorer.source.snapshot_names import snapshot_time
from restorer.source.tablefiles import Format, candidates, dissect, size_on_disk, tables_in

__all__ = ["Policy", "Snapshot", "check_file", "differences", "find_snapshot", "fingerprint", "verify_checksums"]

Policy = Literal["Latest", "Exact", "AtOrBefore"]


def find_snapshot(
    root: Path,
    path: str = "",
    policy: Policy = "Latest",
    name: str | None = None,
    time: str | datetime | None = None,
    complete_marker: str | None = None,
    format: Format = "Auto",
) -> Snapshot:
    """The snapshot below `root`/`path` that `policy` asks for.

    Latest: the newest complete one. AtOrBefore: the newest complete one not after `time` (ISO 8601, UTC unless it
    says otherwise). Exact: the one called `name`. When `root`/`path` holds table files and no snapshot folders, or is
    a table file, it is the snapshot itself. An older one that is taken because newer ones are not complete says so in
    `warnings`. Raises Refused (exit 2) when there is none, or when a name or a link leads out of `root`.
    """
    real_root = root.resolve()
    if not real_root.exists():
        raise Refused(f"the backup {root} does not exist", "check the path, or that the volume is mounted")
    base = _below(root, real_root, path)
    try:
        return _find(base, real_root, policy, name, time, complete_marker, format)
    except PermissionError as e:
        raise Refused(f"{e.filename} cannot be read", "check its mode and the user that runs the restore") from e


def _below(start: Path, root: Path, path: str) -> Path:
    """`start`/`path`, which must exist and stay below `root`."""
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise Refused(f"the path {path} leads out of the backup", "give a path below it, without ..")
    if "\0" in path:
        raise Refused("a path holds a NUL character", "give a path below the backup")
    found = start / path
    if not found.resolve().is_relative_to(root):
        raise Refused(f"{found} is a link that leads out of the backup", "copy the files into the backup")
    if not found.exists():
        raise Refused(f"{found} does not exist", _what_is_there(found.parent))
    return found


def _what_is_there(folder: Path) -> str:
    try:
        names = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    except OSError:
        return "check the path"
    shown = ", ".join(names[-5:]) or "nothing"
    return f"{folder} holds {shown}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _find(
    base: Path,
    root: Path,
    policy: Policy,
    name: str | None,
    time: str | datetime | None,
    marker: str | None,
    format: Format,
) -> Snapshot:
    if policy == "Exact":
        if not name:
            raise Refused("the policy Exact needs a snapshot name", "give --snapshot NAME")
        # A person may point at the snapshot's own folder and name it too.
        own = name in (base.name, base.resolve().name) and not (base.is_dir() and (base / name).exists())
        return _whole(base if own else _below(base, root, name), root, marker, format)
    if base.is_file():
        return _whole(base, root, marker, format)
    dated = sorted(
        ((told, p) for p in base.iterdir() if (told := snapshot_time(p.name)) and p.is_dir()),
        key=lambda pair: (pair[0], pair[1].name),
        reverse=True,
    )
    if not dated:
        if candidates(base):
            return _whole(base, root, marker, format)
        raise Refused(
            f"no snapshot in {base}",
            f"snapshot folders are named by time, like 20241219_103045 or 2024-12-19; {_what_is_there(base)}",
        )
    limit = _moment(time) if policy == "AtOrBefore" else None
    warnings: list[str] = []
    spare: Snapshot | None = None  # the newest that lacks nothing but the end of a line
    for told, folder in dated:
        if limit is not None and told > limit:
            continue
        _below(base, root, folder.name)
        snapshot, problem = _open(folder, root, marker, format)
        if not problem and not snapshot.cut_lines:
            return _warned(snapshot, tuple(warnings))
        if not problem:
            spare = spare or _warned(snapshot, tuple(warnings))
            problem = snapshot.cut_lines[0]
        warnings.append(f"the newer snapshot {folder.name} is not complete and was passed over: {problem}")
    if spare is not None:
        return spare
    if warnings:
        first = warnings[0].partition(": ")[2]
        raise Refused(f"no complete snapshot in {base}", f"wait for the backup to end, or take it again ({first})")
    raise Refused(f"no snapshot in {base} at or before {limit}", f"the oldest is {dated[-1][1].name}")


def _moment(time: str | datetime | None) -> datetime:
    if isinstance(time, str):
        try:
            time = snapshot_time(time) or datetime.fromisoformat(time)
        except ValueError:
            raise Refused("the time of AtOrBefore is not ISO 8601", "write it like 2024-12-19T10:30:45Z") from None
    if time is None:
        raise Refused("the policy AtOrBefore needs a time", "write it like 2024-12-19T10:30:45Z")
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _whole(path: Path, root: Path, marker: str | None, format: Format) -> Snapshot:
    snapshot, problem = _open(path, root, marker, format)
    if problem:
        raise Refused(f"the snapshot {path} is not complete: {problem}", "wait for the backup to end, or take it again")
    return _warned(snapshot, ())


def _warned(snapshot: Snapshot, warnings: tuple[str, ...]) -> Snapshot:
    cut = tuple(f"{line}; that record will be rejected" for line in snapshot.cut_lines)
    return msgspec.structs.replace(snapshot, warnings=(*warnings, *snapshot.warnings, *cut))


def _open(path: Path, root: Path, marker: str | None, format: Format) -> tuple[Snapshot, str]:
    """The snapshot at `path`, and why it is not complete ("" when it is)."""
    folder = path if path.is_dir() else path.parent
    if path.is_file() and dissect(path.name) is None:
        raise Refused(f"{path} is no table file", "table files end in .json, .ndjson or .jsonl, with .gz or .zst")
    if marker:
        if "/" in marker or marker in ("..", "."):
            raise Refused(
                f"the complete marker {marker} is not a plain file name", "name a file in the snapshot's folder"
            )
        if not (folder / marker).exists():
            return _empty(path), f"its marker {marker} is missing"
    paths = [path] if path.is_file() else [p for p in candidates(path) if p.name != marker]
    files = [file for p in paths for file in tables_in(p, root, format)]
    if not files:
        return _empty(path), "it holds no table files"
    _one_file_each(files)
    manifest = find_manifest(folder)
    warnings: list[str] = []
    sums: dict[str, str] = {}
    problem = ""
    if manifest is not None:
        if not manifest.resolve().is_relative_to(root):
            raise Refused(f"{manifest} is a link that leads out of the backup", "copy the file into the backup")
        files, sums, problem = _told(files, manifest, warnings, single=path.is_file())
    schema = folder / "schema.prisma"
    snapshot = Snapshot(
        name=path.name,
        path=path,
        files=tuple(files),
        bytes=sum(size_on_disk(p) for p in {f.path for f in files}),
        time=snapshot_time(path.name),
        schema_prisma=schema if schema.is_file() and schema.resolve().is_relative_to(root) else None,
        manifest=manifest,
        checksums=sums,
        warnings=tuple(warnings),
    )
    unfinished, cut = _unfinished(files)
    return msgspec.structs.replace(snapshot, cut_lines=cut), problem or unfinished


def _empty(path: Path) -> Snapshot:
    return Snapshot(name=path.name, path=path, files=(), bytes=0)


def _unfinished(files: list[TableFile]) -> tuple[str, tuple[str, ...]]:
    """Why a file is not whole (""), and the NDJSON files whose last line is cut off: that costs only the line."""
    cut = []
    seen: set[str] = set()
    for file in files:
        if file.path not in seen and (problem := tail_problem(file)):
            if problem != CUT_LINE:
                return f"{Path(file.path).name}: {problem}", ()
            cut.append(f"{Path(file.path).name}: {problem}")
        seen.add(file.path)
        if file.layout == "document" and not file.member:
            return f"{Path(file.path).name}: the document is broken or cut off", ()
    return "", tuple(cut)


def _one_file_each(files: list[TableFile]) -> None:
    by_name: dict[str, TableFile] = {}
    for file in files:
        if (other := by_name.setdefault(file.name, file)) is not file:
            both = " and ".join(dict.fromkeys((Path(other.path).name, Path(file.path).name)))
            raise Refused(f"the table {file.name} is found twice, in {both}", "leave only one of them in the snapshot")


def _told(
    files: list[TableFile], manifest: Path, warnings: list[str], *, single: bool
) -> tuple[list[TableFile], dict[str, str], str]:
    """The files with the manifest's counts, the checksums by path, and what the manifest lists that is missing."""
    try:
        entries, certain = read_manifest(manifest)
    except ValueError as e:
        warnings.append(f"{manifest.name} is not used: {e}")
        return files, {}, ""
    sums: dict[str, str] = {}
    counts: dict[int, int] = {}
    missing = []
    for entry in entries:
        index = _entry_file(entry, files)
        if index is None:
            missing.append(entry)
            continue
        if entry.count is not None:
            counts[index] = entry.count
        if entry.sha256 and not files[index].member:
            sums[files[index].path] = entry.sha256
    counted = [
        msgspec.structs.replace(f, expected_records=counts[i]) if i in counts else f for i, f in enumerate(files)
    ]
    problem = ""
    if certain and not single and (due := [e.name for e in missing if e.count != 0]):
        problem = f"{manifest.name} lists {', '.join(due[:5])}, which has no file"
    return counted, sums, problem


def _entry_file(entry: Entry, files: list[TableFile]) -> int | None:
    for index, file in enumerate(files):
        base = Path(file.path).name
        if entry.name in (file.name, base) or (
            entry.file and PurePosixPath(entry.file).name == base and not file.member
        ):
            return index
    return None
