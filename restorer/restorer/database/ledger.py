"""The ledger in the target database: runs, who works on them, and who holds the target.

Two rules make a restore exactly-once: a batch commits together with the compare-and-swap of its task (tasks.py), and a
run that is finished is never started again. Who owns what is decided by rows with leases in the database's own clock,
never by session locks: those strand behind poolers and outlive dead nodes.
"""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
from psycopg import sql
from psycopg.types.json import Jsonb

from restorer.database.connection import Connection, backend_of, host_name
from restorer.database.ledger_schema import TABLES
from restorer.database.session import unhurried
from restorer.errors import Unavailable
from restorer.model import TablePlan
from restorer.report import Report

LEASE_SECONDS = 10
_MANY = 32  # tables of which the planner should know
PREPARED = "prepared"  # mark of a run whose tables may be loaded: hooks and cleanup are through
_GONE = (
    "o.backend_pid <> 0 AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = o.backend_pid "
    "AND (a.backend_start IS NULL OR a.backend_start::text = o.backend_start))"
)
# Owners of a run (but one) whose lease is over or whose backend is gone. After a crash of the server no backend is left, and who
# holds the target comes back in seconds.
BURY = (
    "DELETE FROM {owners} o WHERE o.run = %s AND o.owner <> %s AND (o.lease_until < clock_timestamp() OR "
    "(NOT EXISTS (SELECT FROM {target} t WHERE t.owner = o.owner) AND " + _GONE + "))"
)
# How far the run is now (history.py).
SAMPLE = (
    "INSERT INTO {samples} (run, bytes, read, rejected) SELECT run, sum(next_offset - start_offset), sum(read), sum(rejected) "
    "FROM {tasks} WHERE run = %s GROUP BY run"
)
_ADD_TASK = (
    "INSERT INTO {tasks} (run, table_name, start_offset, stop_offset, next_offset, next_ordinal) VALUES (%s,%s,%s,%s,%s,%s) "
    "ON CONFLICT DO NOTHING"
)


class Run(msgspec.Struct):
    """A run as the ledger has it. `marks`: steps that are done once per run (`cleaned`, `hook:pre:NAME`, `analyzed`…)."""

    run: str
    spec_hash: str
    snapshot: str
    fingerprint: dict[str, str]
    bytes: int
    state: str
    marks: list[str]
    warnings: list[str]
    attempts: int
    report: Report | None
    created_at: str
    seconds: float

    @property
    def finished(self) -> bool:
        return self.state != "Running"


class Ledger:
    """The ledger of one run, from one process. Holds no connection; every method takes the one to use."""

    def __init__(self, schema: str, run: str) -> None:
        self.schema = schema
        self.run = run
        self.owner = f"{host_name()}/{uuid.uuid4().hex[:12]}"

    def q(self, text: str) -> sql.Composed:
        """SQL of this module with `{runs}`, `{tasks}`… as the quoted names of the ledger's tables."""
        names = {t: sql.Identifier(self.schema, t) for t in TABLES}
        return sql.SQL(text).format(**names)

    def find(self, conn: Connection) -> Run | None:
        row = conn.execute(
            self.q(
                "SELECT run, spec_hash, snapshot, fingerprint, bytes, state, marks, warnings, attempts, report, "
                "to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), "
                "EXTRACT(epoch FROM COALESCE(finished_at, clock_timestamp()) - created_at)::float8 FROM {runs} WHERE run = %s"
            ),
            (self.run,),
        ).fetchone()
        return msgspec.convert(dict(zip(Run.__struct_fields__, row, strict=True)), Run) if row else None

    def spec(self, conn: Connection) -> dict[str, Any]:
        """The spec that the run was begun with."""
        row = conn.execute(self.q("SELECT spec FROM {runs} WHERE run = %s"), (self.run,)).fetchone()
        return dict(row[0]) if row else {}

    # -- who works, who holds the target ---------------------------------------------------------------------------

    def register(self, conn: Connection) -> None:
        """Enters this process as an owner, with the backend of `conn` (the one that lives as long as the process) and a
        lease. Called again after a reconnect."""
        backend = backend_of(conn)
        conn.execute(
            self.q(
                "INSERT INTO {owners} VALUES (%s, %s, %s, %s, %s, clock_timestamp() + %s * interval '1 second') ON CONFLICT (owner) "
                "DO UPDATE SET backend_pid = EXCLUDED.backend_pid, backend_start = EXCLUDED.backend_start, lease_until = EXCLUDED.lease_until"
            ),
            (self.owner, self.run, host_name(), backend.pid, backend.start, LEASE_SECONDS),
        )

    def renew(self, conn: Connection) -> bool:
        """Moves the lease on. False: the row is gone, somebody took this process for dead."""
        query = "UPDATE {owners} SET lease_until = clock_timestamp() + %s * interval '1 second' WHERE owner = %s"
        return conn.execute(self.q(query), (LEASE_SECONDS, self.owner)).rowcount == 1

    def unregister(self, conn: Connection) -> None:
        conn.execute(self.q("DELETE FROM {owners} WHERE owner = %s"), (self.owner,))

    def take_target(self, conn: Connection) -> str | None:
        """Takes the database for this run. None when it is ours now, else the run that holds it.

        Another run's hold ends with its lease. The same run's hold also ends as soon as its holder's backend is gone,
        so that a restart after a kill goes on at once.
        """
        with conn.transaction():
            conn.execute(
                self.q("INSERT INTO {target} (run, owner) VALUES (%s, %s) ON CONFLICT DO NOTHING"),
                (self.run, self.owner),
            )
            # Locked first and read then: a join that waits for the lock would see the new holder beside the old owner.
            conn.execute(self.q("SELECT FROM {target} FOR UPDATE"))
            row = conn.execute(
                self.q(
                    "SELECT t.run, t.owner = %s OR o.owner IS NULL OR o.lease_until < clock_timestamp() OR (t.run = %s AND "
                    + _GONE
                    + ") FROM {target} t LEFT JOIN {owners} o ON o.owner = t.owner"
                ),
                (self.owner, self.run),
            ).fetchone()
            if row is None:  # let go between the two statements: the caller comes again
                return "(just ended)"
            holder, free = row
            if not free:
                return str(holder)
            conn.execute(
                self.q("UPDATE {target} SET run = %s, owner = %s, since = clock_timestamp()"), (self.run, self.owner)
            )
            return None

    def holder_is_behind_a_pooler(self, conn: Connection) -> bool:
        """Then only its lease tells when it is gone."""
        query = "SELECT EXISTS (SELECT FROM {target} t JOIN {owners} o ON o.owner = t.owner WHERE o.backend_pid = 0)"
        row = conn.execute(self.q(query)).fetchone()
        return row is not None and bool(row[0])

    def holds_target(self, conn: Connection) -> bool:
        row = conn.execute(
            self.q("SELECT count(*) FROM {target} WHERE run = %s AND owner = %s"), (self.run, self.owner)
        ).fetchone()
        return row is not None and row[0] == 1

    def fence(self, conn: Connection) -> None:
        """Holds the target to the end of this transaction. Raises Unavailable when another process took it."""
        query = "SELECT count(*) FROM (SELECT FROM {target} WHERE run = %s AND owner = %s FOR SHARE) x"
        row = conn.execute(self.q(query), (self.run, self.owner)).fetchone()
        if row is None or row[0] != 1:
            raise taken_over(self.run)

    def release_target(self, conn: Connection) -> None:
        conn.execute(self.q("DELETE FROM {target} WHERE owner = %s"), (self.owner,))

    def release_tasks_of_the_dead(self, conn: Connection) -> None:
        """Forgets owners whose lease is over or whose backend is gone; their tasks can be claimed again."""
        conn.execute(self.q(BURY), (self.run, self.owner))

    # -- the life of the run -----------------------------------------------------------------------------------------

    def start(
        self,
        conn: Connection,
        *,
        spec: dict[str, Any],
        spec_hash: str,
        snapshot: str,
        fingerprint: dict[str, str],
        tables: tuple[TablePlan, ...],
        was_empty: dict[str, bool],
        split: frozenset[str],
        warnings: tuple[str, ...],
        retain_days: int,
        prepared: bool,
    ) -> None:
        """Writes the new run with its tables and their first tasks, all or nothing. `split`: tables that the splitter
        cuts into segments; their tasks come one by one. `prepared`: nothing has to be done before the load."""
        with unhurried(conn):
            conn.execute("SET LOCAL synchronous_commit = on")
            self.fence(conn)
            self.sweep(conn)  # of a run that somebody deleted by hand
            conn.execute(
                self.q(
                    "INSERT INTO {runs} (run, spec_hash, spec, snapshot, fingerprint, bytes, warnings, retain_days, marks) "
                    "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"
                ),
                (
                    self.run,
                    spec_hash,
                    Jsonb(spec),
                    snapshot,
                    Jsonb(fingerprint),
                    sum(t.file.size for t in tables),
                    list(warnings),
                    retain_days,
                    [PREPARED] if prepared else [],
                ),
            )
            with conn.cursor() as cur:
                cur.executemany(
                    self.q(
                        "INSERT INTO {tables} (run, name, position, grp, after, bytes, was_empty, split, expected, file, keys) "
                        "VALUES (%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s)"
                    ),
                    [
                        (
                            self.run, plan.name, position, plan.group, list(plan.after), plan.file.stream_bytes, was_empty[plan.name],
                            plan.name not in split, plan.file.expected_records, plan.file.name,
                            Jsonb({c.key: c.column.name for c in plan.columns + plan.late}),
                        )
                        for position, plan in enumerate(tables)
                    ],
                )  # fmt: skip
                whole = [plan.name for plan in tables if plan.name not in split]
                cur.executemany(self.q(_ADD_TASK), [(self.run, name, 0, None, 0, 1) for name in whole])
            if len(tables) >= _MANY:
                # Without statistics each claim would hold every table against every other one. (Of a ledger that is not ours the
                # server does nothing, and says so to nobody.)
                conn.execute("SET LOCAL client_min_messages = 'error'")
                conn.execute(self.q("ANALYZE {tables}, {tasks}"))

    def add_task(self, conn: Connection, table: str, start: int, stop: int | None, ordinal: int) -> None:
        """A segment to load. Entering the same one twice is harmless."""
        conn.execute(self.q(_ADD_TASK), (self.run, table, start, stop, start, ordinal))

    def resume(self, conn: Connection) -> None:
        conn.execute(self.q("UPDATE {runs} SET attempts = attempts + 1 WHERE run = %s"), (self.run,))

    def mark(self, conn: Connection, mark: str) -> bool:
        """Notes that a once-per-run step is done; call it in that step's transaction, before the step. -> False: it was noted
        already (by a commit whose answer was lost), and the step must not be done again"""
        done = conn.execute(
            self.q("UPDATE {runs} SET marks = array_append(marks, %s) WHERE run = %s AND NOT %s = ANY (marks)"),
            (mark, self.run, mark),
        )
        return done.rowcount == 1

    def add_warning(self, conn: Connection, warning: str) -> None:
        conn.execute(
            self.q(
                "UPDATE {runs} SET warnings = array_append(warnings, %s) WHERE run = %s AND NOT %s = ANY (warnings)"
            ),
            (warning, self.run, warning),
        )

    def make_durable(self, conn: Connection) -> None:
        """Returns once everything committed so far is on the server's disk: batches do not wait for it, and a crash takes
        back the last of them."""
        with conn.transaction():
            conn.execute("SET LOCAL synchronous_commit = on")
            conn.execute(self.q("UPDATE {runs} SET attempts = attempts WHERE run = %s"), (self.run,))

    def sample(self, conn: Connection) -> None:
        """Notes how far the run is now (history.py)."""
        conn.execute(self.q(SAMPLE), (self.run,))

    def count_retry(self, conn: Connection) -> None:
        conn.execute(self.q("UPDATE {runs} SET retries = retries + 1 WHERE run = %s"), (self.run,))

    def finish(self, conn: Connection, state: str, report: Report) -> None:
        """The end of the run, its report, and the target let go, in one transaction. The commit is synchronous: it makes
        everything before it durable too."""
        with conn.transaction():
            conn.execute("SET LOCAL synchronous_commit = on")
            self.fence(conn)
            conn.execute(
                self.q(
                    "UPDATE {runs} SET state = %s, report = %s, finished_at = clock_timestamp() WHERE run = %s AND state = 'Running'"
                ),
                (state, Jsonb(msgspec.to_builtins(report)), self.run),
            )
            self.sample(conn)
            self.release_target(conn)
            self.release_tasks_of_the_dead(conn)  # of workers that were killed just before the end
            self.unregister(conn)

    def forget(self, conn: Connection) -> None:
        """Deletes all rows of this run, for `--restart`."""
        with unhurried(conn):
            conn.execute(self.q("DELETE FROM {runs} WHERE run = %s"), (self.run,))
            self.sweep(conn)
            conn.execute(self.q("DELETE FROM {owners} WHERE run = %s AND owner <> %s"), (self.run, self.owner))

    def sweep(self, conn: Connection) -> None:
        """Deletes what waits of runs that are no more. A statement of its own, behind the one that deleted them: that one may have
        waited for a last batch to commit."""
        for waiting in ("{deferred}", "{waiting_keys}"):
            conn.execute(
                self.q(f"DELETE FROM {waiting} w WHERE NOT EXISTS (SELECT FROM {{runs}} r WHERE r.run = w.run)")
            )

    def purge_expired(self, conn: Connection) -> int:
        """Deletes rejects of finished runs past their retention (`ledger.rejectRetentionDays`, 0 keeps them). -> rows"""
        with unhurried(conn):
            return conn.execute(
                self.q(
                    "DELETE FROM {rejects} x USING {runs} r WHERE r.run = x.run AND r.retain_days > 0 "
                    "AND r.finished_at < clock_timestamp() - r.retain_days * interval '1 day'"
                )
            ).rowcount


def refuse_holder(holder: str, label: str, run: str) -> Unavailable:
    """The error for a target that somebody else restores into."""
    who = "another process of this run" if holder == run else f"run {holder!r}"
    return Unavailable(
        f"{label} is being restored by {who}", "wait for it (--wait SECONDS), or stop it first", reason="TargetBusy"
    )


def taken_over(run: str) -> Unavailable:
    return Unavailable(
        f"the target was taken over from run {run!r} by another process",
        "if that was not meant, look for a second restore",
        reason="TakenOver",
    )
