"""Who waits behind whom: the first of two records with one key counts, also when it has to wait for its parent."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def behind(keys: Mapping[int, Collection[int]], waits: Collection[int], held: Collection[int]) -> list[int]:
    """The rows that have a key which a row before them holds, and so wait as well; they hold their own keys then.

    `keys`: ordinal -> its keys; `waits`: the ordinals that wait already; `held`: keys of rows that came before all these.
    """
    holds = set(held)
    late = []
    for ordinal in sorted(keys):
        mine = keys[ordinal]
        if ordinal not in waits:
            if holds.isdisjoint(mine):
                continue
            late.append(ordinal)
        holds.update(mine)
    return late
