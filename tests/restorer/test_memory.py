"""Promise 4: what a table needed is let go when the next one is loaded."""

from __future__ import annotations

import gc

from fix_restore import Restore
from restorer.events import AnyEvent, TableChanged
from restorer.load.batch import Batch


def test_no_batch_is_kept_of_a_table_that_is_done(at: Restore):
    names = [f"t{n}" for n in range(6)]
    for name in names:
        at.schema(f"CREATE TABLE {name} (id int PRIMARY KEY, up int REFERENCES {name})")
        at.file(name, [{"id": i, "up": None if i % 2 else 1} for i in range(1, 50)])
    alive: list[int] = []

    def count(event: AnyEvent) -> None:
        if isinstance(event, TableChanged) and event.state == "Loading":
            alive.append(sum(isinstance(o, Batch) for o in gc.get_objects()))

    at.ok(emit=count)
    assert len(alive) == len(names)
    assert max(alive) <= 1
