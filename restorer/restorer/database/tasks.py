"""Tasks in the ledger: claiming them, and moving them on together with the rows they tell of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from restorer.database.connection import Connection
from restorer.database.copying import copying
from restorer.database.ledger import BURY, PREPARED, SAMPLE, Ledger
from restorer.database.message import COMMIT, in_one_message
from restorer.database.origins import Origin
from restorer.database.planned import planned
from restorer.database.waiting import Record, Waiting
from restorer.errors import Unavailable
from restorer.model import Problem
from restorer.report import Counters

if TYPE_CHECKING:
    from restorer.load.batch import Outcome

LEVELS = ("Copy", "Exact", "Merge", "Row", "Reject")


class Task(msgspec.Struct):
    """A file or a segment of it, and how far it is. Figures are totals since the run began."""

    id: int
    table: str
    stop: int | None
    next_offset: int
    next_ordinal: int
    counters: Counters = msgspec.field(default_factory=Counters)
    deferred: int = 0
    batches: dict[str, int] = {}
    records: dict[str, int] = {}
    seconds: float = 0.0
    start: int = 0

    @property
    def segment(self) -> bool:
        """Whether the file has other tasks beside this one."""
        return self.start > 0 or self.stop is not None


_TASK = (
    "id, table_name, stop_offset, next_offset, next_ordinal, "
    "read, inserted, updated, duplicate, conflict, rejected, deferred, batches, records, seconds, start_offset"
)


def _task(row: tuple[Any, ...]) -> Task:
    ident, table, stop, offset, ordinal, *counts, deferred, batches, records, seconds, start = row
    return Task(ident, table, stop, offset, ordinal, Counters(*counts), deferred, batches, records, seconds, start)


# All that a table may have to wait for is gathered first, once: asked for each table by itself it takes as many times as long as there are
# tables. `blocked`: one that it refers to is not settled; `first`: of each group, the first table that is still loaded. Of a file's segments
# the last one is taken first: it is the longest.
_CLAIM = f"""
WITH unsettled AS MATERIALIZED (SELECT DISTINCT grp FROM {{tables}} WHERE run = %s AND NOT settled),
blocked AS MATERIALIZED (SELECT DISTINCT b.name FROM {{tables}} b CROSS JOIN unnest(b.after) a (grp) JOIN unsettled u ON u.grp = a.grp
    WHERE b.run = %s AND NOT b.settled),
first AS MATERIALIZED (SELECT b.grp, min(b.position) AS position FROM {{tables}} b JOIN {{tasks}} t ON t.run = b.run AND t.table_name = b.name
    WHERE b.run = %s AND t.state = 'Ready' GROUP BY b.grp),
mine AS (UPDATE {{tasks}} SET owner = %s WHERE id = (
    SELECT t.id FROM {{tasks}} t JOIN {{tables}} b ON b.run = t.run AND b.name = t.table_name JOIN {{runs}} r ON r.run = t.run
    JOIN first f ON f.grp = b.grp
    WHERE t.run = %s AND %s = ANY (r.marks) AND t.state = 'Ready'
    AND (t.owner IS NULL OR t.owner = %s OR NOT EXISTS (SELECT FROM {{owners}} o WHERE o.owner = t.owner))
    AND NOT EXISTS (SELECT FROM blocked x WHERE x.name = b.name)
    ORDER BY b.position > f.position, b.position, t.stop_offset IS NOT NULL, t.start_offset LIMIT 1 FOR UPDATE OF t SKIP LOCKED) RETURNING {_TASK}),
begun AS (UPDATE {{tables}} SET started_at = clock_timestamp() WHERE run = %s AND started_at IS NULL
    AND name = (SELECT table_name FROM mine))
SELECT * FROM mine"""

BEGIN = sql.SQL("BEGIN ISOLATION LEVEL READ COMMITTED")
_ADVANCE = """
WITH held AS MATERIALIZED (SELECT FROM {target} WHERE run = %s FOR SHARE),
moved AS (UPDATE {tasks} SET next_offset = %s, next_ordinal = %s, read = %s, inserted = %s, updated = %s, duplicate = %s, conflict = %s,
    rejected = %s, deferred = %s, batches = %s, records = %s, seconds = %s, state = CASE WHEN %s::bool THEN 'Done' ELSE state END
    WHERE id = %s AND owner = %s AND next_offset = %s AND state = 'Ready' AND EXISTS (SELECT FROM held)
    AND EXISTS (SELECT FROM {runs} r WHERE r.run = {tasks}.run AND r.state = 'Running' AND %s = ANY (r.marks)) RETURNING run)"""
_ORIGIN = """,
origin AS (INSERT INTO {origins} (run, table_name, task, start_offset, stop_offset, ordinal) SELECT run, %s::text, %s::bigint, %s::bigint, %s::bigint,
    %s::bigint FROM moved)"""
# No setting of the server. To ask for one that is not there is the plainest way in SQL to end what else stands in a message.
_LOST = "dbrestore.task_is_lost"
_OR_LOST = f"SELECT CASE WHEN EXISTS (SELECT FROM moved) THEN '' ELSE current_setting('{_LOST}') END"


class Tasks:
    """The tasks of one run, for one owner. Every method but `claim` and `current` is called inside the batch's transaction."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._q = ledger.q
        self._moves: dict[tuple[str, ...], str] = {}
        self.waiting = Waiting(ledger)

    def claim(self, conn: Connection) -> Task | None:
        """The first task (in the order of the plan) that nobody alive works on and whose parents are settled; None when
        there is none right now, or the leader has not prepared the tables yet. Of a cycle, tables that come after one that
        is still loaded are put off while there is something else: their rows would have to wait."""
        run, owner = self._ledger.run, self._ledger.owner
        values = (run, owner, run, run, run, owner, run, PREPARED, owner, run)
        rows = in_one_message(conn, BEGIN, self._q(BURY), self._q(_CLAIM), COMMIT, values=values)
        return _task(rows[0]) if rows else None

    def advance(
        self, conn: Connection, old: Task, new: Task, *, done: bool = False, origin: Origin | None = None
    ) -> bool:
        """The compare-and-swap. False: the task, the target or the run is not ours any more (or, after a failover, its tables
        are not prepared), and nothing may be committed. `origin`: of rows that this very transaction wrote.

        The target's row is locked (shared) to the end of the transaction: whoever takes the target waits for this commit.
        """
        moved = planned(conn, self._moving(origin, "SELECT 1 FROM moved"))
        return bool(in_one_message(conn, moved, values=self._figures(old, new, done, origin)))

    def commit(
        self, conn: Connection, old: Task, new: Task, then: Sequence[sql.Composable], origin: Origin | None = None
    ) -> bool:
        """`advance` and the COMMIT in one message, with `then` behind it. False: as for `advance`, and the transaction has
        failed."""
        moved = planned(conn, self._moving(origin, _OR_LOST))
        try:
            in_one_message(conn, moved, COMMIT, *then, values=self._figures(old, new, False, origin))
        except psycopg.errors.UndefinedObject as error:
            if _LOST not in (error.diag.message_primary or ""):
                raise
            return False
        return True

    def _moving(self, origin: Origin | None, end: str) -> str:
        parts = (_ADVANCE, _ORIGIN if origin else "", end)
        if parts not in self._moves:
            self._moves[parts] = self._q(" ".join(parts)).as_string(None)
        return self._moves[parts]

    def _figures(self, old: Task, new: Task, done: bool, origin: Origin | None) -> tuple[object, ...]:
        c = new.counters
        return (
            self._ledger.run, new.next_offset, new.next_ordinal, c.read, c.inserted, c.updated, c.duplicate, c.conflict, c.rejected,
            new.deferred, Jsonb(new.batches), Jsonb(new.records), new.seconds, done, old.id, self._ledger.owner, old.next_offset,
            PREPARED, *((old.table, *msgspec.structs.astuple(origin)) if origin else ()),
        )  # fmt: skip

    def refuse_ended(self, conn: Connection) -> None:
        """Raises Unavailable when the run is over, or forgotten, by somebody else's doing."""
        row = conn.execute(self._q("SELECT state FROM {runs} WHERE run = %s"), (self._ledger.run,)).fetchone()
        if row is None or row[0] != "Running":
            run, anew = self._ledger.run, "the same command begins anew: rows that are loaded are there already then"
            told = f"run {run!r} was {'forgotten' if row is None else 'ended'} by another process"
            remedy = anew if row is None else "`restorer report` shows how it stands"
            raise Unavailable(told, remedy, reason="TakenOver")

    def current(self, conn: Connection, task: Task) -> Task | None:
        """The task as it stands, after a COMMIT whose answer was lost. None: it is not ours any more."""
        row = conn.execute(
            self._q("SELECT " + _TASK + " FROM {tasks} WHERE id = %s AND owner = %s"), (task.id, self._ledger.owner)
        ).fetchone()
        return _task(row) if row else None

    def warn(self, conn: Connection, words: str) -> None:
        """For the report of the run."""
        self._ledger.add_warning(conn, words)

    def is_done(self, conn: Connection, task: Task) -> bool:
        row = conn.execute(
            self._q("SELECT state = 'Done' FROM {tasks} WHERE id = %s AND owner = %s"), (task.id, self._ledger.owner)
        ).fetchone()
        return row is not None and bool(row[0])

    def fail(self, conn: Connection, task: Task, error: str) -> bool:
        """The table cannot be loaded. -> False: the task is not ours any more, and this process has no say in it"""
        found = conn.execute(
            self._q(
                "WITH mine AS (UPDATE {tasks} SET state = 'Failed' WHERE id = %s AND owner = %s AND state <> 'Done' RETURNING table_name) "
                "UPDATE {tables} SET error = %s WHERE run = %s AND name = (SELECT table_name FROM mine)"
            ),
            (task.id, self._ledger.owner, error, self._ledger.run),
        )
        return found.rowcount == 1

    def reject(self, conn: Connection, table: str, rejects: Iterable[tuple[Record, Problem]]) -> None:
        with conn.cursor() as cur:
            copy = self._q(
                "COPY {rejects} (run, table_name, ordinal, byte_offset, record, reason, sqlstate, constraint_name, column_name, message) FROM STDIN"
            )
            with copying(cur, copy) as out:
                for r, p in rejects:
                    out.write_row(
                        (
                            self._ledger.run,
                            table,
                            r.ordinal,
                            r.offset,
                            r.raw,
                            p.reason,
                            p.sqlstate,
                            p.constraint,
                            _storable(p.column),
                            _storable(p.message),
                        )
                    )

    def settle_counts(
        self, conn: Connection, table: str, outcome: Outcome, seconds: float, part: tuple[int, int] | None = None
    ) -> None:
        """Books what became of the table's waiting rows (or those in `part`), which wait no longer. They may come
        from several segments; the first one's task takes them all, so that each task still adds up."""
        c, key = outcome.counters, (self._ledger.run, table)
        for task, waited in self.waiting.clear(conn, table, part).items():
            conn.execute(
                self._q("UPDATE {tasks} SET read = read - %s, deferred = deferred - %s WHERE id = %s"),
                (waited, waited, task),
            )
        row = conn.execute(
            self._q("SELECT batches, records FROM {tasks} WHERE run = %s AND table_name = %s AND start_offset = 0"), key
        ).fetchone()
        assert row is not None
        batches, records = counted(row[0], {outcome.level: 1}), counted(row[1], outcome.levels)
        conn.execute(
            self._q(
                "UPDATE {tasks} SET read = read + %s, inserted = inserted + %s, updated = updated + %s, duplicate = duplicate + %s, "
                "conflict = conflict + %s, rejected = rejected + %s, batches = %s, records = %s, seconds = seconds + %s "
                "WHERE run = %s AND table_name = %s AND start_offset = 0"
            ),
            (
                c.read,
                c.inserted,
                c.updated,
                c.duplicate,
                c.conflict,
                c.rejected,
                Jsonb(batches),
                Jsonb(records),
                seconds,
                *key,
            ),
        )

    def unsettle(self, conn: Connection, task: int, records: int) -> dict[str, int]:
        """So many rows of the task are taken out again, and wait. -> less by how many, for each rung: the ledger does not know
        by which one these very rows came"""
        row = conn.execute(self._q("SELECT records FROM {tasks} WHERE id = %s FOR UPDATE"), (task,)).fetchone()
        assert row is not None
        have, left, less = row[0], records, dict[str, int]()
        for level in LEVELS:
            if taken := min(left, have.get(level, 0)):
                less[level], left = -taken, left - taken
        conn.execute(
            self._q(
                "UPDATE {tasks} SET inserted = inserted - %s, deferred = deferred + %s, records = %s WHERE id = %s"
            ),
            (records, records, Jsonb(counted(have, less)), task),
        )
        return less

    def settled(self, conn: Connection, tables: list[str]) -> None:
        """These tables are complete: those that refer to them may start."""
        run = self._ledger.run
        in_one_message(
            conn,
            self._q("DELETE FROM {origins} WHERE run = %s AND table_name = ANY (%s)"),
            self._q(
                "UPDATE {tables} SET settled = true, finished_at = clock_timestamp() WHERE run = %s AND name = ANY (%s)"
            ),
            self._q(SAMPLE),
            values=(run, tables, run, tables, run),
        )

    # -- the whole run ---------------------------------------------------------------------------------------------------

    def unsettled(self, conn: Connection, tables: list[str] | None = None) -> dict[str, bool]:
        """Tables (of these, or all) that are not settled yet -> whether all their records are read (and so they can be)."""
        rows = conn.execute(
            self._q(
                "SELECT b.name, b.split AND COALESCE(bool_and(t.state = 'Done'), false) FROM {tables} b "
                "LEFT JOIN {tasks} t ON t.run = b.run AND t.table_name = b.name WHERE b.run = %s AND NOT b.settled "
                + ("" if tables is None else "AND b.name = ANY (%s) ")
                + "GROUP BY b.name, b.split"
            ),
            (self._ledger.run,) if tables is None else (self._ledger.run, tables),
        )
        return {name: bool(done) for name, done in rows}

    def failed(self, conn: Connection) -> bool:
        """Whether a table failed: what depends on it is not loaded."""
        row = conn.execute(
            self._q("SELECT count(*) FROM {tables} WHERE run = %s AND error <> ''"), (self._ledger.run,)
        ).fetchone()
        return row is not None and row[0] > 0

    def split_done(self, conn: Connection, table: str) -> None:
        conn.execute(
            self._q("UPDATE {tables} SET split = true WHERE run = %s AND name = %s"), (self._ledger.run, table)
        )

    def to_split(self, conn: Connection) -> list[str]:
        rows = conn.execute(
            self._q("SELECT name FROM {tables} WHERE run = %s AND NOT split ORDER BY position"), (self._ledger.run,)
        )
        return [row[0] for row in rows]

    def under_way(self, conn: Connection) -> bool:
        """Whether some other live process works on a task of this run."""
        row = conn.execute(
            self._q(
                "SELECT count(*) FROM {tasks} t JOIN {owners} o ON o.owner = t.owner WHERE t.run = %s AND t.state = 'Ready' AND o.owner <> %s "
                "AND o.lease_until > clock_timestamp()"
            ),
            (self._ledger.run, self._ledger.owner),
        ).fetchone()
        return row is not None and row[0] > 0

    def read_and_rejected(self, conn: Connection, then: Sequence[sql.Composable] = ()) -> tuple[int, int]:
        """Records so far. `then`: what stands behind it in the same message."""
        query = "SELECT COALESCE(sum(read), 0)::bigint, COALESCE(sum(rejected), 0)::bigint FROM {tasks} WHERE run = %s"
        ((read, rejected),) = in_one_message(conn, self._q(query), *then, values=(self._ledger.run,))
        return int(read), int(rejected)


def counted(old: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    """Both together, key by key."""
    return {name: old.get(name, 0) + more.get(name, 0) for name in {**old, **more}}


def _storable(text: str) -> str:
    """A key of a record may hold what no text column takes."""
    return text.replace("\x00", "\\u0000").encode("utf-8", "backslashreplace").decode()
