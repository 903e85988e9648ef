"""Every batch by a probe, and what a run said of batches that had to go again."""

from __future__ import annotations

from fix_restore import Restore
from restorer.events import Explained

# For Experience.way: a probe, whatever the batches before were like, where there is one.
SIFTING = property(lambda self: "sift" if self._probed else "stage", lambda self, _: None)


def again(at: Restore) -> list[Explained]:
    """Why, in the order in which it was said."""
    return [event for event in at.events if isinstance(event, Explained)]
