"""Records that found a key taken while the segments of their file were loaded side by side (contest.py): in the file's order.

Chunk by chunk from the first ordinal on, so everything before a chunk is final. A row of the table with a key of the chunk is
final too, unless it came from further down in the file: then it is taken out and waits like the others, for its own turn. Who
was taken out for one that does not get in after all comes back then. What is left is a Merge like any other: the first of
several records with one key counts.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from itertools import chain
from operator import attrgetter

import psycopg

from restorer.database.catalog import foreign_keys_into
from restorer.database.connection import Connection, kind_of
from restorer.database.ledger import Ledger
from restorer.database.origins import Origin, Origins
from restorer.database.tasks import Tasks
from restorer.database.waiting import Record
from restorer.load.batch import Outcome
from restorer.load.contest import Holder
from restorer.load.ladder import Ladder
from restorer.load.stage import Stage
from restorer.load.staged import identity
from restorer.model import ForeignKey
from restorer.source import reader

_CHUNK = 5000
_BATCHES = 20  # that are read again in one transaction: each takes temporary tables, and their locks last to its end


class Replay:
    """Settles the waiting records of one table, a chunk at a time, each in a transaction of the caller's. `ladder`: one that
    settles."""

    def __init__(self, ledger: Ledger, tasks: Tasks, ladder: Ladder) -> None:
        self._tasks, self._waiting, self._ladder = tasks, tasks.waiting, ladder
        self._plan, self._table = ladder.plan, ladder.plan.name
        self._origins = Origins(ledger, self._table)
        self._limit = _CHUNK
        self._read_again = set[Origin]()
        self._number = 0
        self._settled = 0  # the last ordinal of those that wait no longer
        self._into: list[ForeignKey] | None = None

    def begin_again(self, _: psycopg.Error) -> None:
        """A failover may have taken steps back that were told as done."""
        self._settled = 0

    def step(self, conn: Connection) -> Outcome | None:
        """-> what the next records came to, and the rows that had to go for them (`inserted` is without these, `deferred` has
        them); None: no record waits any more. Rejects are in the ledger, and here only their `reasons`. A step that was
        rolled back is simply done again."""
        started = time.monotonic()
        records = self._waiting.first(conn, self._table, self._limit, self._settled)
        if not records:
            return None
        self._settled = records[0].ordinal - 1
        done = Outcome(level="Merge", rejects={}, deferred=[])
        stages = self._stages(conn, records, done)
        if len(records) > 1 and any(s.shares_key_with(stages[:n]) for n, s in enumerate(stages)):
            self._limit = len(records) // 2  # of two shapes with one key: smaller parts show which is first
            done = Outcome()
        elif (evicted := self._evicted(conn, stages)).deferred:
            done = evicted
        else:
            for stage in stages:
                self._ladder.merger.merge(conn, stage, done)
            rejected = ((r, done.rejects[r.ordinal]) for r in records if r.ordinal in done.rejects)
            self._tasks.reject(conn, self._table, rejected)
            done.close(len(records))
            self._tasks.settle_counts(
                conn, self._table, done, time.monotonic() - started, (records[0].ordinal, records[-1].ordinal)
            )
            self._limit = min(_CHUNK, self._limit * 2)
        for stage in stages:
            stage.drop()
        return done

    def _stages(self, conn: Connection, records: list[Record], outcome: Outcome) -> list[Stage]:
        """One for each shape of the records, numbered by their ordinals."""
        stages = []
        for (brings, names), lines in self._ladder.shaper.of_records(records, outcome).items():
            self._number += 1
            stages.append(self._ladder.merger.stage(conn, brings, self._number))
            outcome.rejects |= stages[-1].copy(names, [lines], isolate=True)
        return stages

    def _evicted(self, conn: Connection, stages: list[Stage]) -> Outcome:
        """Makes way for rows of `stages`. -> `deferred`: ordinals of rows of the table that wait now, because they have a key
        of an earlier record; `inserted` and `levels`: less by these"""
        origins, later = self._origins.all(conn), defaultdict[Origin, set[Holder]](set)
        for holder in chain.from_iterable(stage.holders() for stage in stages):
            origin = origins.get(holder.xmin)
            if origin is not None and origin.ordinal > holder.ordinal:
                later[origin].add(holder)
        out = Outcome()
        for number, origin in enumerate(sorted(later, key=attrgetter("ordinal"))):
            if out.deferred and number >= _BATCHES:
                break
            self._evict(conn, origin, later[origin], out)
        return out

    def _evict(self, conn: Connection, origin: Origin, holders: set[Holder], outcome: Outcome) -> None:
        """Rows of one batch. It is read once more, as the table does not tell what their records were; a batch that is read
        for the second time goes as a whole, so that none is read over and over again."""
        # Mostly a record spells its key as the server does; then a few records have to be looked at.
        names = None if origin in self._read_again else {h.name.encode() for h in holders}
        out = self._taken_out(conn, origin, holders, names)
        if names is not None and out is not None and len(out) < len({(h.table, h.ctid) for h in holders}):
            out += self._taken_out(conn, origin, holders, None) or []
        self._read_again.add(origin)
        if out:
            outcome.deferred += out
            outcome.counters.inserted -= len(out)
            outcome.levels.update(self._tasks.unsettle(conn, origin.task, len(out)))

    def _taken_out(
        self, conn: Connection, origin: Origin, holders: set[Holder], names: set[bytes] | None
    ) -> list[int] | None:
        """`names`: only by the batch's records that have one of them in their key. -> ordinals of the records that wait now; None where rows
        cannot be taken out: children that this role may not see, or the table is not what it was when the file was cut"""
        batch = self._batch(conn, origin, names)
        again = self._stages(conn, list(batch.values()), Outcome()) if batch else []
        children, whole = self._children(conn), origin in self._read_again
        try:
            with conn.transaction():
                out = [o for stage in again for o in stage.evict(holders, children, all_of_it=whole)]
        except psycopg.Error as error:
            if kind_of(error) == "transient":
                raise
            self._tasks.warn(conn, f"{self._table}: of records with one key the first may not be the one that counts")
            return None
        if out:
            self._waiting.add(conn, origin.task, self._table, [batch[ordinal] for ordinal in out])
        for stage in again:
            stage.drop()
        return out

    def _children(self, conn: Connection) -> list[ForeignKey]:
        if self._into is None:
            self._into = foreign_keys_into(conn, [self._plan.table])
        return self._into

    def _batch(self, conn: Connection, origin: Origin, names: set[bytes] | None) -> dict[int, Record]:
        """Ordinal -> record, without those that wait already; with `names`, those that have one of them in their key."""
        converter = self._ladder.shaper.converter
        key = identity(self._plan.table, converter.columns) if names is not None else None
        found = dict[int, Record]()
        for piece in reader.pieces(
            self._plan.file,
            decoder=converter.decoder,
            line_decoder=converter.line_decoder,
            start=origin.start,
            ordinal=origin.ordinal,
            stop=origin.stop,
        ):
            these: Iterable[int] = range(len(piece))
            if names is not None and key is not None:
                values = converter.values(piece, key.columns[0])
                these = (i for i, value in enumerate(values) if value.strip(b'"') in names)
            for i in these:
                ordinal, offset = piece.place(i)
                found[ordinal] = Record(ordinal, offset, piece.raw(i))
        for ordinal in self._waiting.among(conn, self._table, list(found)):
            del found[ordinal]
        return found
