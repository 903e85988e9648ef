"""Records that found a key taken while the segments of their file were loaded side by side (contest.py): in the file's order.

Chunk by chunk from the first ordinal on, so everything before a chunk is final. A row of the table with a key of the chunk is
final too, unless it came from further down in the file: then it is taken out and waits like the others, for its own turn. Who
was taken out for one that does not get in after all comes back then. What is left is a Merge like any other: the first of
several records with one key counts.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import chain
from operator import attrgetter

import psycopg

from restorer.database.connection import Connection, kind_of
from restorer.database.ledger import Ledger
from restorer.database.origins import Origin, Origins
from restorer.database.tasks import Tasks
from restorer.database.waiting import Record
from restorer.load.batch import Outcome
from restorer.load.contest import Holder
from restorer.load.ladder import Ladder
from restorer.load.stage import Stage
from restorer.source import reader

_CHUNK = 5000


class Replay:
    """Settles the waiting records of one table, in the caller's transaction. `ladder`: one that settles."""

    def __init__(self, conn: Connection, ledger: Ledger, tasks: Tasks, ladder: Ladder) -> None:
        self._conn, self._tasks, self._waiting, self._ladder = conn, tasks, tasks.waiting, ladder
        self._plan, self._table = ladder.plan, ladder.plan.name
        self._origins = Origins(ledger, self._table)
        self._batches = self._origins.all(conn)
        self._number = 0

    def run(self) -> Outcome:
        """-> what the records that waited came to, closed; `inserted` without the rows that had to go. Their rejects are in
        the ledger, and here only their `reasons`."""
        total = Outcome(level="Merge", rejects={}, deferred=[])
        total.counters.read = self._waiting.count(self._conn, self._table)
        limit = _CHUNK
        while records := self._waiting.first(self._conn, self._table, limit):
            done = Outcome(level="Merge", rejects={}, deferred=[])
            stages = self._stages(records, done)
            if len(records) > 1 and any(s.shares_key_with(stages[:n]) for n, s in enumerate(stages)):
                limit = (
                    len(records) // 2
                )  # records of different shapes have one key: which is first shows in smaller parts
            elif evicted := self._evicted(stages):
                total.counters.inserted -= evicted
                total.levels["Merge"] -= evicted  # the rung that they came by counts already
            else:
                for stage in stages:
                    self._ladder.merger.merge(self._conn, stage, done)
                self._tasks.reject(
                    self._conn,
                    self._table,
                    [(r, done.rejects[r.ordinal]) for r in records if r.ordinal in done.rejects],
                )
                self._waiting.clear(self._conn, self._table, records[-1].ordinal)
                done.close(len(records))
                done.counters.read, done.rejects = 0, {}
                total.absorb(done)
                limit = _CHUNK
            for stage in stages:
                stage.drop()
        return total

    def _stages(self, records: list[Record], outcome: Outcome) -> list[Stage]:
        """One for each shape of the records, numbered by their ordinals."""
        stages = []
        for (brings, names), lines in self._ladder.shaper.of_records(records, outcome).items():
            self._number += 1
            stages.append(self._ladder.merger.stage(self._conn, brings, self._number))
            outcome.rejects |= stages[-1].copy(names, [lines], isolate=True)
        return stages

    def _evicted(self, stages: list[Stage]) -> int:
        """Makes way for rows of `stages`. -> how many rows of the table wait now, because they have a key of an earlier
        record"""
        later = defaultdict[Origin, set[Holder]](set)
        for holder in chain.from_iterable(stage.holders() for stage in stages):
            origin = self._batches.get(holder.xmin)
            if origin is not None and origin.ordinal > holder.ordinal:
                later[origin].add(holder)
        return sum(self._evict(origin, later[origin]) for origin in sorted(later, key=attrgetter("ordinal")))

    def _evict(self, origin: Origin, holders: set[Holder]) -> int:
        """Rows of one batch. It is read once more, as the table does not tell what their records were."""
        batch = self._batch(origin)
        again = self._stages(list(batch.values()), Outcome(rejects={}, deferred=[]))
        try:
            with self._conn.transaction():
                out = [ordinal for stage in again for ordinal in stage.evict(holders)]
        except psycopg.Error as error:
            if kind_of(error) != "record":
                raise
            out = []  # somebody else's rows refer to one by now: then they stay
        self._waiting.add(self._conn, origin.task, self._table, [batch[ordinal] for ordinal in out])
        for stage in again:
            stage.drop()
        return len(out)

    def _batch(self, origin: Origin) -> dict[int, Record]:
        """Ordinal -> record, without those that wait already."""
        converter = self._ladder.shaper.converter
        found = dict[int, Record]()
        for piece in reader.pieces(
            self._plan.file,
            decoder=converter.decoder,
            line_decoder=converter.line_decoder,
            start=origin.start,
            ordinal=origin.ordinal,
            stop=origin.stop,
        ):
            for i in range(len(piece)):
                ordinal, offset = piece.place(i)
                found[ordinal] = Record(ordinal, offset, piece.raw(i))
        for ordinal in self._waiting.records(self._conn, self._table, list(found)):
            del found[ordinal]
        return found
