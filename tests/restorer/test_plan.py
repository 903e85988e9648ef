"""The plan: order, columns, warnings, and every refusal at once. Pure."""

from __future__ import annotations

from typing import Any

import pytest
from restorer.model import Column, ColumnType, ForeignKey, Table, TableFile
from restorer.plan import Plan, Sample, components, make_plan
from restorer.spec import RestoreSpec


def table(name: str, *columns: str | Column, to: tuple[str, ...] = (), **more: Any) -> Table:
    """`columns`: names of int4 columns, or whole ones; `to`: tables that its column `NAME_id` refers to, `NAME!` if it may not
    be null."""
    must = {f"{t[:-1]}_id" for t in to if t.endswith("!")}
    to = tuple(t.rstrip("!") for t in to)
    own = [
        c if isinstance(c, Column) else Column(c, ColumnType("int4"), not_null=c in must)
        for c in ("id", *columns, *(f"{t}_id" for t in to))
    ]
    keys = tuple(ForeignKey(f"{name}_{t}_fkey", "public", name, (f"{t}_id",), "public", t, ("id",)) for t in to)
    return Table("public", name, 1, tuple(own), foreign_keys=keys, **more)


def sample(name: str, *keys: str, size: int = 10) -> Sample:
    return Sample(TableFile(name, f"/b/{name}.json", size, "array"), keys or ("id",), 5)


def plan(samples: list[Sample], catalog: list[Table], /, **spec: Any) -> Plan:
    return make_plan(samples, catalog, RestoreSpec(**spec))


def order(made: Plan) -> list[str]:
    return [t.name for t in made.tables]


def test_parents_first_and_what_most_bytes_wait_for():
    made = plan(
        [sample("a", size=1), sample("b", size=50), sample("c", size=99), sample("d", size=5)],
        [table("a", to=("c",)), table("b"), table("c", to=("d",)), table("d")],
    )
    assert order(made) == ["d", "c", "b", "a"] and made.problems == ()  # behind d there are 105 bytes, behind b 50
    by = {t.name: t for t in made.tables}
    assert by["a"].after == (by["c"].group,) and by["b"].after == () and not by["a"].cyclic


def test_a_ring_is_one_group_and_what_hangs_on_it_comes_after():
    made = plan(
        [sample(n) for n in "abcd"],
        [table("a", to=("b",)), table("b", to=("c",)), table("c", to=("a",)), table("d", to=("a",))],
    )
    by = {t.name: t for t in made.tables}
    assert len({by[n].group for n in "abc"}) == 1 and all(by[n].cyclic for n in "abc")
    assert order(made)[-1] == "d" and not by["d"].cyclic and by["d"].after == (by["a"].group,)


def test_in_a_ring_those_come_first_that_the_others_cannot_do_without():
    made = plan(
        [sample("courses", size=5), sample("lessons", size=99), sample("modules", size=50), sample("users", size=1)],
        [
            table("courses", to=("lessons", "users!")),
            table("lessons", to=("courses!", "modules!")),
            table("modules", to=("courses!",)),
            table("users"),
        ],
    )
    assert order(made) == ["users", "courses", "modules", "lessons"]
    both = plan([sample("a", size=1), sample("b", size=2)], [table("a", to=("b!",)), table("b", to=("a!",))])
    assert order(both) == ["b", "a"]  # neither can do without the other: the larger file


def test_a_table_that_refers_to_itself_is_cyclic():
    made = plan([sample("a")], [table("a", to=("a",))])
    assert made.tables[0].cyclic and made.tables[0].after == ()


def test_a_chain_of_ten_thousand_is_no_recursion_and_no_square():
    edges = {i: {i + 1} if i < 9_999 else {0} for i in range(10_000)}
    assert len(components(edges)) == 1
    edges[9_999] = set()
    assert [c[0] for c in components(edges)] == list(range(9_999, -1, -1))


def test_all_refusals_come_at_once_with_the_thing_and_the_remedy():
    made = plan(
        [sample("usres"), sample("t", "id", "agee", "a", "A"), sample("m")],
        [table("users"), table("t", "age", "a", Column("must", ColumnType("int4"), not_null=True)), table("T2")],
        tables={"mappings": [{"file": "m", "table": "gone"}, {"file": "none"}]},
    )
    assert next(("usres" in p, "did you mean 'users'" in p) for p in made.problems) == (True, True)
    text = "\n".join(made.problems)
    for word in ("'gone'", "key 'agee'", "did you mean 'age'", "both mean column 'a'", "t.must is NOT NULL"):
        assert word in text
    assert any("'none'" in w for w in made.warnings)


def test_two_files_for_one_table_are_refused():
    made = plan([sample("users"), sample("Users")], [table("users")])
    assert len(made.problems) == 1 and "both mean table 'users'" in made.problems[0]


def test_include_and_exclude_are_globs_on_table_and_file_names():
    tables = [table(n) for n in ("users", "logs", "log_items")]
    samples = [sample(n) for n in ("users", "logs", "log_items")]
    assert order(plan(samples, tables, tables={"exclude": ["log*"]})) == ["users"]
    assert order(plan(samples, tables, tables={"include": ["log*"], "exclude": ["logs"]})) == ["log_items"]
    assert plan([*samples, sample("junk")], tables, tables={"exclude": ["junk"]}).problems == ()
    assert "no table file is left" in plan(samples, tables, tables={"include": ["x"]}).problems[0]


def test_keys_find_their_columns_by_mapping_and_by_case():
    made = plan(
        [sample("t", "id", "createdAt", "who")], [table("t", "created_at", "owner", "extra")],
        tables={"mappings": [{"file": "t", "columns": {"who": "owner"}}]},
    )  # fmt: skip
    assert {c.key: c.column.name for c in made.tables[0].columns} == {
        "id": "id", "createdAt": "created_at", "who": "owner", "extra": "extra",
    }  # fmt: skip


def test_defaults_unseen_wait_generated_are_ignored_and_json_comes_last():
    made = plan(
        [sample("t", "doc", "at", "id", "twice")],
        [
            table(
                "t", Column("doc", ColumnType("jsonb")), Column("at", ColumnType("timestamptz")), Column("n", ColumnType("int4"), has_default=True),
                Column("twice", ColumnType("int4"), generated=True), Column("serial", ColumnType("int4"), not_null=True, has_default=True),
            )
        ],
    )  # fmt: skip
    (t,) = made.tables
    assert [c.column.name for c in t.columns] == ["id", "at", "doc"]
    assert [c.column.name for c in t.late] == ["n", "serial"] and t.ignored == ("twice",)
    assert [c.column.name for c in t.wide.columns] == ["id", "n", "serial", "at", "doc"] and t.wide.late == ()


@pytest.mark.parametrize(("policy", "late"), [("Skip", []), ("Update", ["note"])])
def test_under_update_a_column_never_seen_is_not_written(policy: str, late: list[str]):
    (t,) = plan([sample("t", "id")], [table("t", "note")], on_conflict=policy).tables
    assert [c.column.name for c in t.late] == late


def test_warnings_say_what_stands_around():
    made = plan(
        [sample("posts")],
        [
            table("users"), table("_PostToTag", to=("posts",)),
            table("posts", to=("users",), triggers=("audit",), rls=True, published=("pub",)),
        ],
    )  # fmt: skip
    text = "\n".join(made.warnings)
    for word in ("'_PostToTag'", "audit", "row security", "pub", "'posts' refers to 'users'"):
        assert word in text
