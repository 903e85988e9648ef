"""Cycles of foreign keys are settled beside the load: one may take long, and tables that have nothing to do with it would wait for
the leader, who lets those begin that depend on what is complete."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from restorer.database.session import Session
from restorer.load.settle import Settler
from restorer.load.statistics import told
from restorer.model import TablePlan

_LOOK_SECONDS = 0.02


class Beside:
    """Settles groups one after the other, in a thread and a session of its own. `settler`: makes who does it in a session. `tell`: is
    called in that thread when one is through. Whoever made it closes it."""

    def __init__(self, session: Session, settler: Callable[[Session], Settler], tell: Callable[[], None]) -> None:
        self._session, self._tell = session.another(), tell
        self._settler = settler(self._session)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="settling")
        self._groups: dict[int, Future[None]] = {}

    @property
    def busy(self) -> bool:
        return bool(self._groups)

    def settle(self, group: list[TablePlan]) -> None:
        """Begins with it, unless it is under way. At once where the system lets no thread start."""
        number = group[0].group
        if number in self._groups:
            return
        try:
            future = self._thread.submit(self._settle, group)
        except RuntimeError:
            self._settle(group)
            future = Future()
            future.set_result(None)
        self._groups[number] = future
        future.add_done_callback(lambda _: self._tell())

    def through(self) -> set[int]:
        """The numbers of the groups that it is through with since it was asked last. Raises what kept it from that."""
        done = {number for number, future in self._groups.items() if future.done()}
        for number in done:
            self._groups.pop(number).result()
        return done

    def _settle(self, group: list[TablePlan]) -> None:
        self._settler.settle(group)
        self._session.retrying(told, what="statistics")

    def close(self) -> None:
        """What is still under way is ended, and undone by the server."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        while not all(future.done() for future in self._groups.values()):
            self._session.cancel()
            time.sleep(_LOOK_SECONDS)
        self._session.close()
