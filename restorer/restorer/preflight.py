"""Everything that can be known before anything is written, and all that is wrong at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from restorer import naming, plan
from restorer.database import catalog, clean, ledger_schema
from restorer.database.catalog import Server
from restorer.database.connection import Connection, target_label
from restorer.errors import Refused, RestoreError
from restorer.model import TableFile
from restorer.plan import Plan, Sample
from restorer.source import backup, reader
from restorer.source.filecheck import unpacked_bytes
from restorer.source.snapshot import Snapshot
from restorer.spec import RestoreSpec
from restorer.watch.words import counted

OLDEST, NEWEST = 13, 18
_NAMED = 3  # tables in a warning
_SAMPLED = 200  # records looked at for their keys
_KEYS = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Prepared(msgspec.Struct, frozen=True):
    snapshot: Snapshot
    fingerprint: dict[str, str]
    server: Server
    plan: Plan
    warnings: tuple[str, ...]


def find(spec: RestoreSpec, root: Path, pinned: str | None) -> Snapshot:
    """The snapshot to load. `pinned`: the name that the run began with, which a resumed run never leaves."""
    asked, source = spec.source.snapshot, spec.source
    policy, name = ("Exact", pinned) if pinned is not None else (asked.policy, asked.name)
    return backup.find_snapshot(root, source.path, policy, name, asked.time, asked.complete_marker, source.format)


def prepare(conn: Connection, spec: RestoreSpec, snapshot: Snapshot, *, conninfo: str, fresh: bool) -> Prepared:
    """Checks files, server and rights and makes the plan. `fresh`: the run begins now (a resumed one has passed this,
    and its tables are no longer empty). Raises Refused with every problem."""
    server = catalog.read_server(conn)
    problems, warnings = _server(server, spec, target_label(conninfo))
    if problems:
        raise _refused(problems)
    tables = catalog.read_tables(conn, spec.target.schema_)
    samples: list[Sample] = []
    for file in snapshot.files:
        if wrong := backup.check_file(file):
            problems.append(wrong)
            continue
        if file.compression:
            file = msgspec.structs.replace(file, unpacked=unpacked_bytes(file))
        try:
            samples.append(sample(file))
        except RestoreError as error:
            problems.append(error.line())
    problems += backup.verify_checksums(snapshot, at_once=max(1, spec.load.workers)) if fresh else []
    models = naming.parse_prisma(snapshot.schema_prisma.read_text("utf-8", "replace")) if snapshot.schema_prisma else {}
    if not tables:
        problems.append(
            f"schema {spec.target.schema_!r} of {target_label(conninfo)!r} has no tables: "
            "create them first, a backup holds rows only"
        )
    else:
        made = plan.make_plan(samples, tables, spec, models)
        problems += [p for p in made.problems if not (problems and p.startswith("no table file"))]
    if problems:
        raise _refused(problems)
    problems += _rights(spec, made)
    emptied = [p.table for p in made.tables] if spec.cleanup in ("Truncate", "Delete") else []
    into, heirs = catalog.foreign_keys_into(conn, emptied), catalog.heirs(conn, emptied)
    if spec.mode == "Apply":
        problems += ledger_schema.refusals(conn, spec.ledger.schema_, can_temp=server.can_temp)
        problems += clean.refusals(spec, target_label(conninfo), server.protected, made.tables, into, heirs)
        if spec.cleanup == "RequireEmpty" and fresh and (full := clean.not_empty(conn, made.tables)):
            problems.append(
                f"{', '.join(sorted(full))} hold rows, and cleanup is RequireEmpty: "
                "empty them, or choose another cleanup"
            )
    if problems:
        raise _refused(problems)
    return Prepared(
        snapshot,
        backup.fingerprint(snapshot),
        server,
        made,
        (*snapshot.warnings, *warnings, *made.warnings, *_unanalyzed(spec, made)),
    )


def _refused(problems: list[str]) -> Refused:
    first, _, remedy = problems[0].partition(": ")
    more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
    return Refused(first + more, remedy, problems=tuple(problems))


def _server(server: Server, spec: RestoreSpec, label: str) -> tuple[list[str], list[str]]:
    problems, warnings = [], []
    major = server.version // 10000
    if major < OLDEST:
        problems.append(f"{label} runs PostgreSQL {major}, older than {OLDEST}: upgrade the server")
    if major > NEWEST:
        warnings.append(f"{label} runs PostgreSQL {major}; this version was tested up to {NEWEST}")
    if server.in_recovery:
        problems.append(f"{label} is a standby: restore into the primary")
    elif server.read_only:
        problems.append(
            f"{label} is read-only (default_transaction_read_only): restore into a database that takes writes"
        )
    if server.encoding not in ("UTF8", "SQL_ASCII"):
        warnings.append(f"the database's encoding is {server.encoding}: characters that it has not are rejected")
    if spec.mode != "Apply" and not server.can_temp:
        problems.append(f"no TEMP privilege on {label}: {spec.mode} needs it; grant it")
    return problems, warnings


def _rights(spec: RestoreSpec, made: Plan) -> list[str]:
    need = (
        ["SELECT"]
        if spec.mode != "Apply"
        else ["SELECT", "INSERT"] + (["UPDATE"] if spec.on_conflict == "Update" else [])
    )
    problems = [
        f"no {right} privilege on table {p.name}: grant it to this role"
        for p in made.tables
        for right in need
        if right not in p.table.privileges
    ]
    if spec.mode == "Apply":
        locked = [c.sequence for p in made.tables for c in p.table.columns if c.sequence_locked]
        problems += [f"no SELECT and UPDATE privilege on sequence {name}: grant them to this role" for name in locked]
    return problems


def _unanalyzed(spec: RestoreSpec, made: Plan) -> list[str]:
    """What the planner will not know."""
    names = [p.name for p in made.tables if not p.table.analyzable]
    if spec.mode != "Apply" or not names:
        return []
    more = len(names) - _NAMED
    some = ", ".join(names[:_NAMED]) + (f" and {counted(more, 'more table')}" if more > 0 else "")
    return [
        f"{some}: no ANALYZE, as this role neither owns them nor has MAINTAIN (PostgreSQL 17): have the owner run it"
    ]


def sample(file: TableFile) -> Sample:
    """The keys of the first records of a file, in the order of their first appearance."""
    keys: dict[str, Any] = {}
    seen = 0
    for piece in reader.pieces(file, window=64 * 1024):
        for i in range(min(len(piece), _SAMPLED)):
            try:
                keys |= dict.fromkeys(_KEYS.decode(piece.raw(i)))
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
                continue  # a bad record: the load will say so
            seen += 1
        break
    return Sample(file, tuple(keys), seen)
