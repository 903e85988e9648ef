"""How fast something goes, lately."""

from __future__ import annotations

import math


class Rate:
    """Amount per second over the last `span` seconds or so: an exponentially fading sum, divided by the time it covers.
    It is exact from the first amount on, needs no history, and fades by itself when nothing comes."""

    __slots__ = ("at", "faded", "since", "span")

    def __init__(self, span: float) -> None:
        self.span = span
        self.faded = 0.0
        self.since = self.at = -math.inf

    def start(self, now: float) -> None:
        self.faded, self.since, self.at = 0.0, now, now

    def add(self, now: float, amount: float) -> None:
        self.faded = self._fade(now) + amount
        self.at = now

    def per_second(self, now: float) -> float:
        covered = self.span * -math.expm1(-max(now - self.since, 0.0) / self.span)
        return self._fade(now) / covered if covered > 0 else 0.0

    def _fade(self, now: float) -> float:
        return self.faded * math.exp(-max(now - self.at, 0.0) / self.span)
