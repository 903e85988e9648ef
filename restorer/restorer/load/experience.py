"""What the last batches of a table needed: where the next one starts on the ladder."""

from __future__ import annotations

from typing import Literal

from restorer.load.batch import Outcome
from restorer.load.sifting import MOST

# How a batch goes in: straight by COPY; sifted by a probe; all of it through a stage; that, but row by row.
Way = Literal["direct", "sift", "stage", "blind"]

CALM = 2  # clean batches after which a lower rung is tried again
_MOST_PATIENCE = 64


class Prior:
    """How the first batches of the tables before this one came out, in this process: in a backup with bad records most tables have
    some, and to find that out anew a batch of each has to go twice."""

    def __init__(self) -> None:
        self._bad = self._good = 0

    def note(self, outcome: Outcome) -> None:
        c = outcome.counters
        if c.rejected or c.conflict or c.duplicate:
            self._bad += 1
        elif not outcome.deferred:
            self._good += 1

    @property
    def bad(self) -> bool:
        """Whether the next one is expected to have bad records."""
        return self._bad > self._good


class Experience:
    """`way`, `exact`: how the next batch starts. `trusting`: the server is trusted with what it refuses by itself
    (converter.py). `sift_fails`: something that a probe does not see keeps rows out."""

    def __init__(self, *, staged: bool, always_staged: bool, probed: bool, cyclic: bool, prior: Prior) -> None:
        """`staged`: rows may be there already. `always_staged`: never another way. `probed`: a probe would do. `cyclic`: rows
        are deferred for their parents, which a probe shows, not for their keys."""
        self._probed, self._cyclic = probed, cyclic
        self._calmest: Way = "stage" if always_staged else "direct"
        self.way: Way = "stage" if staged else self._calmest
        if self.way == "direct" and probed and prior.bad:
            self.way = "sift"
        self._prior: Prior | None = prior  # until the first batch is through
        self.exact, self.trusting, self.sift_fails = False, True, False
        self._calm = 0
        # Batches tried verbatim, one after the other, that the server could not read; and because of that, how many (with the
        # last of these) are converted exactly.
        self._misses = self._patience = 0

    def unreadable(self) -> None:
        """The server could not read a batch that was tried verbatim."""
        self._misses += 1
        self._patience = min(_MOST_PATIENCE, 2**self._misses)

    def remember(self, outcome: Outcome, exact: bool, way: Way, trusting: bool) -> None:
        """The next batch starts where this one had to end, until two clean ones in a row say that the trouble is over."""
        if self._prior is not None:
            self._prior.note(outcome)
            self._prior = None
        self._calm = self._calm + 1 if outcome.clean else 0
        self._patience -= 1
        if not exact:
            self._misses = 0
        if self._calm >= CALM:
            self.sift_fails, self.trusting = False, True
            self.way = self._calmest
            self.exact = exact and way == "direct" and self._patience > 0
            return
        self.trusting = trusting
        self.exact = exact and (self.exact or outcome.converted_badly or not outcome.clean or self._patience > 0)
        self.way = "stage" if way == "blind" else way
        if self._probed and way in ("sift", "stage"):
            c = outcome.counters
            contested = 0 if self._cyclic else len(outcome.deferred)
            crowded = (c.duplicate + c.updated + c.conflict + contested) * MOST > c.read
            self.way = "stage" if crowded or self.sift_fails else "sift"
