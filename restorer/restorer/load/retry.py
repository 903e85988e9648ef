"""Rejected records once more, under the same run: as they are (the cause went away), or repaired by a person.

Each table's rejects go through the same ladder as a load, parents first, again and again until a pass gets nothing in.
What goes in leaves `rejects`, and the run's counters and its stored report move with it, in one transaction a batch.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import msgspec
from psycopg import sql
from psycopg.types.json import Jsonb

from restorer.database import account, catalog, paging
from restorer.database.connection import Connection
from restorer.database.ledger import Ledger
from restorer.database.relation import Relations
from restorer.database.session import Session, rollback
from restorer.database.waiting import Record
from restorer.errors import Refused
from restorer.load.batch import Batch, Batches, Outcome, PieceSource
from restorer.load.ladder import Ladder
from restorer.model import Problem, TableFile, TablePlan
from restorer.plan import Sample, make_plan
from restorer.report import Report
from restorer.source.piece import Piece
from restorer.spec import Mapping, RestoreSpec

_CHUNK = 500


class Retried(msgspec.Struct):
    """What a retry came to: rejects looked at, how many are settled now, and how many are left."""

    tried: int = 0
    settled: int = 0
    left: int = 0


class Repair(msgspec.Struct, frozen=True):
    """A reject's place in the ledger and the bytes to try: the repaired ones, or its own."""

    id: int
    record: Record


def retry(session: Session, ledger: Ledger, repaired: abc.Mapping[int, bytes] | None = None) -> Retried:
    """Tries the rejects of `ledger.run` again: those in `repaired` (reject id -> new bytes), or all. Needs the target, so
    that no run is in the way. Raises Refused, Unavailable, LoadFailed."""
    spec, plans = _plans(session.conn, ledger)
    home = "" if catalog.read_server(session.conn).can_temp else ledger.schema
    done, seen = Retried(), set[int]()
    try:
        while True:
            before = done.settled
            for plan in plans:
                ladder = _ladder(plan, plans, spec, home)
                for chunk in _rejects(session, ledger, plan.name, repaired):
                    first = {r.id for r in chunk} - seen  # a later pass of the same retry is no other attempt
                    seen |= first
                    load = partial(_load, session, ledger, plan, ladder, chunk, first)
                    done.settled += session.retrying(load, what=f"table {plan.name}")
            if done.settled == before:
                break
    except Refused:  # a repaired file that is not what it was: the report has what went in before
        session.retrying(partial(_report_again, ledger=ledger), what="report")
        raise
    done.tried, done.left = len(seen), len(seen) - done.settled
    session.retrying(partial(_report_again, ledger=ledger), what="report")
    return done


def _ladder(plan: TablePlan, plans: tuple[TablePlan, ...], spec: RestoreSpec, home: str) -> Ladder:
    """All of it from the stage on: what was rejected once is not worth a COPY. `home`: the schema of stages that may not be temporary"""
    group = {p.name for p in plans if p.group == plan.group} if plan.cyclic else set[str]()
    inner = frozenset(f.name for f in plan.table.foreign_keys if f.to_table in group)
    return Ladder(plan, Relations(), spec.on_conflict, inner=inner, staged=True, always_staged=True, home=home)


def _plans(conn: Connection, ledger: Ledger) -> tuple[RestoreSpec, tuple[TablePlan, ...]]:
    """The tables of the run as the catalog has them now, with the keys that the run knew."""
    row = conn.execute(ledger.q("SELECT spec FROM {runs} WHERE run = %s"), (ledger.run,)).fetchone()
    assert row is not None
    spec = RestoreSpec.model_validate(row[0])
    rows = conn.execute(
        ledger.q("SELECT name, file, keys FROM {tables} WHERE run = %s ORDER BY position"), (ledger.run,)
    ).fetchall()
    mappings = [Mapping(file=file, table=name, columns=keys) for name, file, keys in rows]
    spec = spec.model_copy(
        update={"tables": spec.tables.model_copy(update={"mappings": mappings, "include": ["*"], "exclude": []})}
    )
    samples = [Sample(TableFile(file, "", 0, "array"), tuple(keys)) for _, file, keys in rows]
    made = make_plan(samples, catalog.read_tables(conn, spec.target.schema_), spec)
    if made.problems:
        raise Refused(
            f"the tables of run {ledger.run!r} changed: {made.problems[0]}", "put them back, or start a new run"
        )
    return spec, made.tables


def _rejects(
    session: Session, ledger: Ledger, table: str, repaired: abc.Mapping[int, bytes] | None
) -> Iterator[list[Repair]]:
    """Whole records only: of one that was too large the ledger keeps the head alone."""
    last = 0
    only = sql.SQL("AND id = ANY ({})").format(sql.Literal(list(repaired))) if repaired is not None else sql.SQL("")
    while True:
        these = sql.SQL(
            "SELECT * FROM {} WHERE run = {} AND table_name = {} AND id > {} AND reason <> 'RecordTooLarge' {}"
        ).format(
            sql.Identifier(ledger.schema, "rejects"),
            sql.Literal(ledger.run),
            sql.Literal(table),
            sql.Literal(last),
            only,
        )
        query = paging.page(these, "id, ordinal, byte_offset, record", "id", _CHUNK)
        rows = session.retrying(partial(_all, query), what=f"rejects of table {table}")
        if not rows:
            return
        last = rows[-1][0]
        yield from _parts(
            Repair(i, Record(ordinal, offset, raw if repaired is None else repaired[i]))
            for i, ordinal, offset, raw in rows
        )


def _parts(repairs: Iterable[Repair]) -> Iterator[list[Repair]]:
    """As large as a page of the ledger: a person may have made them longer."""
    part, size = list[Repair](), 0
    for repair in repairs:
        part.append(repair)
        size += len(repair.record.raw)
        if size >= paging.PAGE_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _all(query: sql.Composed, conn: Connection) -> list[tuple[Any, ...]]:
    return conn.execute(query, binary=True).fetchall()


def _load(
    session: Session,
    ledger: Ledger,
    plan: TablePlan,
    ladder: Ladder,
    chunk: list[Repair],
    first: set[int],
    conn: Connection,
) -> int:
    """One batch of rejects down the ladder. `first`: ids that this retry tries for the first time. -> how many are settled;
    those that are not in the ledger any more are, by a commit whose answer was lost"""
    whole = len(chunk)
    query = ledger.q("SELECT id FROM {rejects} WHERE id = ANY (%s)")
    left = {row[0] for row in conn.execute(query, ([r.id for r in chunk],))}
    chunk = [r for r in chunk if r.id in left]
    if not chunk:
        return whole
    pieces = [Piece.of_one(r.record.ordinal, r.record.offset, r.record.raw) for r in chunk]
    batch = next(iter(Batches(PieceSource(pieces), lambda: len(pieces), 1 << 62)))
    outcome = ladder.load(conn, batch, session.begin_unhurried, rollback)
    try:
        ledger.fence(conn)
        settled = _book(conn, ledger, plan, chunk, batch, outcome, first)
        conn.execute("COMMIT")
    except BaseException:
        rollback(conn)
        raise
    return settled + whole - len(chunk)


def _book(
    conn: Connection,
    ledger: Ledger,
    plan: TablePlan,
    chunk: list[Repair],
    batch: Batch,
    outcome: Outcome,
    first: set[int],
) -> int:
    waiting = Problem("MissingParent", "23503", message="the row it refers to is not there")
    refused = outcome.rejects | dict.fromkeys(outcome.deferred, waiting)
    for index, problem in refused.items():
        conn.execute(
            ledger.q(
                "UPDATE {rejects} SET record = %s, reason = %s, sqlstate = %s, constraint_name = %s, column_name = %s, message = %s, "
                "attempts = attempts + %s WHERE id = %s"
            ),
            (
                chunk[index].record.raw,
                problem.reason,
                problem.sqlstate,
                problem.constraint,
                problem.column,
                problem.message,
                int(chunk[index].id in first),
                chunk[index].id,
            ),
        )
    gone = [r.id for i, r in enumerate(chunk) if i not in refused]
    deleted = conn.execute(ledger.q("DELETE FROM {rejects} WHERE id = ANY (%s)"), (gone,)).rowcount
    assert deleted == len(gone) == batch.records - len(refused)
    c = outcome.counters
    _take_from_tasks(conn, ledger, plan.name, len(gone))
    conn.execute(
        ledger.q(
            "UPDATE {tasks} SET read = read + %s, inserted = inserted + %s, updated = updated + %s, duplicate = duplicate + %s, "
            "conflict = conflict + %s WHERE run = %s AND table_name = %s AND start_offset = 0"
        ),
        (len(gone), c.inserted, c.updated, c.duplicate, c.conflict, ledger.run, plan.name),
    )
    return len(gone)


def _take_from_tasks(conn: Connection, ledger: Ledger, table: str, count: int) -> None:
    """Takes `count` rejects off the table's tasks (segments), wherever they were counted; each task still adds up."""
    rows = conn.execute(
        ledger.q("SELECT id, rejected FROM {tasks} WHERE run = %s AND table_name = %s AND rejected > 0 ORDER BY id"),
        (ledger.run, table),
    ).fetchall()
    for ident, rejected in rows:
        taken = min(count, rejected)
        conn.execute(
            ledger.q("UPDATE {tasks} SET read = read - %s, rejected = rejected - %s WHERE id = %s"),
            (taken, taken, ident),
        )
        count -= taken


def _report_again(conn: Connection, ledger: Ledger) -> None:
    """The stored report of a finished run, with the numbers as they are now; outcome, times and checks stay."""
    run = ledger.find(conn)
    if run is None or run.report is None:
        return
    old: Report = run.report
    new = account.make_report(conn, ledger, run, mode=old.mode, failure=None, checks=old.verification)
    kept = {name: getattr(old, name) for name in ("outcome", "reason", "start_time", "completion_time", "seconds")}
    message = old.message if old.outcome != "Succeeded" else account.summary(new.totals, old.seconds, old.mode)
    new = msgspec.structs.replace(new, **kept, message=message)
    conn.execute(
        ledger.q("UPDATE {runs} SET report = %s WHERE run = %s"), (Jsonb(msgspec.to_builtins(new)), ledger.run)
    )
