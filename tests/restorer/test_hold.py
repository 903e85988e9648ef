"""The first of two records with one key counts, also when it has to wait for its parent."""

from __future__ import annotations

from typing import Any

import pytest
from fix_restore import Restore
from hypothesis import given, settings
from hypothesis import strategies as st
from properties import examples
from restorer.load.hold import behind

RING = (
    "CREATE TABLE a (id int PRIMARY KEY, slug text UNIQUE, b_id int, n int)",
    "CREATE TABLE b (id int PRIMARY KEY, a_id int NOT NULL REFERENCES a)",
    "ALTER TABLE a ADD FOREIGN KEY (b_id) REFERENCES b",
)


@pytest.mark.parametrize("batch", [1, 2, 5000])
def test_a_waiting_row_keeps_its_unique_key(at: Restore, batch: int):
    at.schema(*RING)
    at.file("a", [{"id": 1, "slug": "x", "b_id": 1, "n": 1}, {"id": 2, "slug": "x", "b_id": None, "n": 2}])
    at.file("b", [{"id": 1, "a_id": 1}])
    result = at.ok(batch=batch)
    assert at.rows("SELECT * FROM a") == [(1, "x", 1, 1)]
    assert result.counts("a") == {"inserted": 1, "conflict": 1}
    assert result.counts("b") == {"inserted": 1}
    assert at.value("SELECT count(*) FROM dbrestore.waiting_keys") == 0


@pytest.mark.parametrize("batch", [1, 5000])
def test_a_waiting_row_keeps_its_primary_key_and_update_takes_the_last(at: Restore, batch: int):
    at.schema(*RING)
    records = [{"id": 1, "slug": "x", "b_id": 1, "n": 1}, {"id": 1, "slug": "y", "b_id": None, "n": 2}]
    at.file("a", records).file("b", [{"id": 1, "a_id": 1}])
    assert at.ok(batch=batch, on_conflict="Update").counts("a") == {"inserted": 1, "updated": 1}
    assert at.rows("SELECT * FROM a") == [(1, "y", None, 2)]


@pytest.mark.parametrize("batch", [1, 2, 5000])
def test_nobody_waits_behind_one_that_comes_later(at: Restore, batch: int):
    """The second row waits for its parent; the first one, which has its unique key, came before it."""
    at.schema(*RING)
    first = {"id": 1, "slug": "y", "b_id": None, "n": 4}
    at.file("a", [first, {"id": 3, "slug": "y", "b_id": 1, "n": 2}, {"id": 1, "slug": "y", "b_id": 4, "n": 1}])
    at.file("b", [{"id": 4, "a_id": 3}, {"id": 1, "a_id": 1}])
    result = at.ok(batch=batch, on_conflict="Update")
    assert at.rows("SELECT * FROM a") == [(1, "y", None, 4)]
    assert result.counts("a") == {"inserted": 1, "rejected": 2}
    assert result.counts("b") == {"inserted": 1, "rejected": 1}


@pytest.mark.parametrize("batch", [1, 5000])
def test_who_waits_behind_one_that_never_gets_in_gets_in(at: Restore, batch: int):
    at.schema(*RING)
    at.file("a", [{"id": 1, "slug": "x", "b_id": 99, "n": 1}, {"id": 2, "slug": "x", "b_id": None, "n": 2}])
    at.file("b", [{"id": 7, "a_id": 2}])
    result = at.ok(batch=batch)
    assert at.rows("SELECT * FROM a") == [(2, "x", None, 2)]
    assert result.counts("a") == {"inserted": 1, "rejected": 1}
    assert result.counts("b") == {"inserted": 1}


def test_types_whose_equal_values_look_different(at: Restore):
    at.schema(
        "CREATE TABLE a (id numeric PRIMARY KEY, c char(4) UNIQUE, s smallint[], i interval, b_id int, UNIQUE (s, i))",
        "CREATE TABLE b (id int PRIMARY KEY, a_id numeric NOT NULL REFERENCES a)",
        "ALTER TABLE a ADD FOREIGN KEY (b_id) REFERENCES b",
    )
    first = {"id": 1, "c": "k", "s": [1], "i": "30 days", "b_id": 1}
    rest = [
        first | {"id": "1.00", "c": "l", "s": None, "b_id": None},
        first | {"id": 2, "c": "k  ", "s": None, "b_id": None},
        first | {"id": 3, "c": "m", "i": "1 mon", "b_id": None},
        first | {"id": 4, "c": "o", "s": [2], "b_id": None},
    ]
    at.file("a", [first, *rest]).file("b", [{"id": 1, "a_id": 1}])
    result = at.ok(batch=1)
    assert at.rows("SELECT id, b_id FROM a ORDER BY 1") == [(1, 1), (4, None)]
    assert result.counts("a") == {"inserted": 2, "conflict": 3}


@pytest.mark.parametrize("batch", [1, 5000])
def test_found_to_wait_only_row_by_row(at: Restore, batch: int):
    """A BEFORE trigger may mend a row, so no set query says who has no parent: only the server does."""
    at.schema(
        *RING,
        "CREATE FUNCTION same() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER same BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION same()",
    )
    records = [{"id": 1, "slug": "x", "b_id": 1, "n": 1}, {"id": 2, "slug": "x", "b_id": None, "n": 2}]
    at.file("a", [*records, {"id": 3, "slug": "z", "b_id": None, "n": 3}]).file("b", [{"id": 1, "a_id": 1}])
    result = at.ok(batch=batch)
    assert at.rows("SELECT id FROM a ORDER BY 1") == [(1,), (3,)]
    assert result.counts("a") == {"inserted": 2, "conflict": 1}


def _a(ids: st.SearchStrategy[int]) -> st.SearchStrategy[dict[str, Any]]:
    slug = st.sampled_from(["x", "y", "z", None])
    return st.fixed_dictionaries({"id": ids, "slug": slug, "b_id": st.none() | ids, "n": ids})


@given(st.data())
@examples(60)
def test_the_size_of_a_batch_decides_nothing(at: Restore, data: st.DataObject):
    ids = st.integers(1, 5)
    a = data.draw(st.lists(_a(ids), min_size=1, max_size=8))
    b = data.draw(st.lists(st.fixed_dictionaries({"id": ids, "a_id": ids}), min_size=1, max_size=5))
    policy = data.draw(st.sampled_from(["Skip", "Update", "Reject"]))
    found = []
    for batch in (1, 2, 5000):
        at.schema("DROP TABLE IF EXISTS a, b CASCADE", *RING).file("a", a).file("b", b)
        result = at.ok(batch=batch, on_conflict=policy)
        found.append((at.rows("SELECT * FROM a ORDER BY 1"), result.counts("a"), result.counts("b")))
    assert found[0] == found[1] == found[2]


@given(st.dictionaries(st.integers(0, 20), st.sets(st.integers(0, 5), max_size=3)), st.data())
@settings(deadline=None)
def test_behind_is_what_one_row_after_the_other_would_find(keys: dict[int, set[int]], data: st.DataObject):
    waits = data.draw(st.sets(st.sampled_from(sorted(keys)))) if keys else set()
    held = data.draw(st.sets(st.integers(0, 5), max_size=2))
    late = behind(keys, waits, held)
    for ordinal in keys:
        before = {k for o in keys if o < ordinal and (o in waits or o in late) for k in keys[o]} | held
        assert (ordinal in late) == (ordinal not in waits and bool(before & keys[ordinal]))
