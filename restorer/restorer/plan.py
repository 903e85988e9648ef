"""Backup + catalog + spec -> what to load, in which order, into which columns; and every refusal at once. Pure.

A refusal is one line that names the thing and the remedy. Nothing here reads a file or talks to a database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import msgspec

from restorer.model import Column, ColumnPlan, ForeignKey, Table, TableFile, TablePlan, copy_order
from restorer.naming import PrismaModel, closest, match
from restorer.spec import Mapping as TableMapping
from restorer.spec import RestoreSpec

K = TypeVar("K", bound=Any)  # hashable and ordered


class Sample(msgspec.Struct, frozen=True):
    """What was seen of one file before the load: the keys of its first (and last) records, and how many were looked at."""

    file: TableFile
    keys: tuple[str, ...]
    records: int = 0


class Plan(msgspec.Struct, frozen=True):
    """Tables in the order they start (parents first, larger first). `problems` not empty: nothing may be written."""

    tables: tuple[TablePlan, ...]
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        return sum(t.file.size for t in self.tables)


def make_plan(
    samples: Iterable[Sample],
    catalog: Iterable[Table],
    spec: RestoreSpec,
    prisma: Mapping[str, PrismaModel] | None = None,
) -> Plan:
    tables = {t.name: t for t in catalog}
    problems: list[str] = []
    warnings: list[str] = []
    plans: dict[str, TablePlan] = {}
    schema = spec.target.schema_
    mappings = {m.file: m for m in spec.tables.mappings}
    samples = list(samples)
    for unused in sorted(mappings.keys() - {s.file.name for s in samples}):
        warnings.append(f"mapping for file {unused!r} matches no file of the snapshot")
    for sample in samples:
        name = sample.file.name
        mapping, model = mappings.get(name), (prisma or {}).get(name)
        target = match(name, tables, mapping.table if mapping else None, model.table if model else None)
        if not _wanted(spec, name, target):
            continue
        if target is None or target not in tables:
            problems.append(_no_table(name, target, schema, tables))
            continue
        if target in plans:
            problems.append(
                f"files {plans[target].file.name!r} and {name!r} both mean table {target!r}: "
                "exclude one with tables.exclude or map it with tables.mappings"
            )
            continue
        keeps = spec.on_conflict == "Update"
        plans[target] = _plan_table(sample, tables[target], mapping, model, problems, keeps)
    if not plans and not problems:
        problems.append("no table file is left to load: check tables.include and tables.exclude")
    warnings += _surroundings(plans, tables)
    return Plan(_ordered(plans), tuple(warnings), tuple(problems))


def _wanted(spec: RestoreSpec, file: str, table: str | None) -> bool:
    """`include` and `exclude` are globs on table names; the file's own name counts too, for files that match no table."""
    names = [n for n in (table, file) if n]

    def hit(globs: list[str]) -> bool:
        return any(fnmatchcase(name, glob) for name in names for glob in globs)

    return hit(spec.tables.include) and not hit(spec.tables.exclude)


def _no_table(file: str, target: str | None, schema: str, tables: Mapping[str, Table]) -> str:
    if target is not None:
        return f"file {file!r} is mapped to table {target!r}, which schema {schema!r} has not: mend tables.mappings"
    hint = closest(file, tables)
    did_you = f"; did you mean {hint!r}?" if hint else ""
    return (
        f"schema {schema!r} has no table for file {file!r}{did_you}: create the table, map the file with tables.mappings "
        "or leave it out with tables.exclude"
    )


def _plan_table(
    sample: Sample,
    table: Table,
    mapping: TableMapping | None,
    model: PrismaModel | None,
    problems: list[str],
    keeps: bool,
) -> TablePlan:
    """`keeps`: a missing key leaves a column as it is (policy Update), so that one never seen is not written at all."""
    columns = {c.name: c for c in table.columns}
    seen: dict[str, ColumnPlan] = {}
    ignored: list[str] = []
    for key in sample.keys:
        target = match(
            key, columns, mapping.columns.get(key) if mapping else None, model.columns.get(key) if model else None
        )
        if target is None or target not in columns:
            hint = closest(key, columns)
            did_you = f"; did you mean {hint!r}?" if hint else ""
            problems.append(
                f"table {table.name!r} has no column for key {key!r} of file {sample.file.name!r}{did_you}: "
                "add the column, or map the key with tables.mappings"
            )
        elif target in seen:
            problems.append(
                f"keys {seen[target].key!r} and {key!r} of file {sample.file.name!r} both mean column {target!r}: "
                "map one of them with tables.mappings"
            )
        elif columns[target].generated:
            ignored.append(key)
        else:
            seen[target] = ColumnPlan(key, columns[target])
    late: list[ColumnPlan] = []
    absent: list[ColumnPlan] = []
    for column in table.columns:
        if column.name in seen or column.generated:
            continue
        planned = ColumnPlan(_expected_key(column, model), column)
        (late if column.has_default or keeps else absent).append(planned)
        if sample.records and column.not_null and not column.has_default:
            problems.append(
                f"column {table.name}.{column.name} is NOT NULL without a default, and no record of file "
                f"{sample.file.name!r} seen so far has a key for it: give the column a default or map a key with tables.mappings"
            )
    return TablePlan(sample.file, table, copy_order((*seen.values(), *absent)), tuple(late), tuple(ignored))


def _expected_key(column: Column, model: PrismaModel | None) -> str:
    if model is not None:
        for field, name in model.columns.items():
            if name == column.name:
                return field
    return column.name


def _surroundings(plans: Mapping[str, TablePlan], tables: Mapping[str, Table]) -> list[str]:
    """What a person would want to know before the load starts."""
    warnings = []
    for name in sorted(tables.keys() - plans.keys()):
        if name.startswith("_") and {f.to_table for f in tables[name].foreign_keys} & plans.keys():
            warnings.append(
                f"join table {name!r} exists, but the backup has no file for it: those relations are not restored"
            )
    for plan in plans.values():
        table = plan.table
        if table.triggers:
            warnings.append(f"table {table.name!r} has triggers that fire for every row: {', '.join(table.triggers)}")
        if table.rls:
            warnings.append(
                f"row security applies to this role on table {table.name!r}: COPY is refused there, INSERT is used"
            )
        if table.published:
            warnings.append(
                f"table {table.name!r} is published ({', '.join(table.published)}): subscribers get every row"
            )
        for fk in table.foreign_keys:
            if fk.to_table not in plans and fk.to_schema == table.schema:
                warnings.append(
                    f"{table.name!r} refers to {fk.to_table!r}, which is not part of this restore: its rows must be there"
                )
    return warnings


def _ordered(plans: dict[str, TablePlan]) -> tuple[TablePlan, ...]:
    """Groups (strongly connected components) in topological order: first what most bytes wait for, itself and the longest
    chain of tables behind it (so that nobody is idle while a cycle is settled); within a group those first that the others cannot
    do without, so that few rows have to wait, then the larger file."""
    edges = {name: {f.to_table for f in plan.table.foreign_keys if _inside(f, plans)} for name, plan in plans.items()}
    groups = components(edges)
    number = {name: i for i, group in enumerate(groups) for name in group}
    ordered = []
    for i, group in enumerate(groups):
        cyclic = len(group) > 1 or any(name in edges[name] for name in group)
        after = sorted({number[to] for name in group for to in edges[name]} - {i})
        rank = _ranks(group, plans)
        for name in sorted(group, key=lambda n: (rank[n], -plans[n].file.size, n)):
            ordered.append(msgspec.structs.replace(plans[name], group=i, cyclic=cyclic, after=tuple(after)))
    size = [sum(plans[name].file.size for name in group) for group in groups]
    weight = size.copy()
    for plan in reversed(ordered):  # the last first: what is behind a group is weighed before it
        for before in plan.after:
            weight[before] = max(weight[before], size[before] + weight[plan.group])
    return tuple(sorted(ordered, key=lambda p: (-weight[p.group], p.group)))


def _ranks(group: list[str], plans: Mapping[str, TablePlan]) -> dict[str, int]:
    """Tables of a cycle in the order of the foreign keys that may not be null: a row with one always waits for its parent."""
    edges = {
        name: {
            fk.to_table
            for fk in plans[name].table.foreign_keys
            if _inside(fk, plans)
            and fk.to_table in group
            and all(plans[name].table.column(c).not_null for c in fk.columns)
        }
        for name in group
    }
    return {name: rank for rank, names in enumerate(components(edges)) for name in names}


def _inside(fk: ForeignKey, plans: Mapping[str, TablePlan]) -> bool:
    return fk.to_table in plans and fk.to_schema == plans[fk.to_table].table.schema


def components(edges: Mapping[K, set[K]]) -> list[list[K]]:
    """Strongly connected components, each after those it points at (Tarjan 1972, without recursion). Linear but for
    sorting."""
    index: dict[K, int] = {}
    low: dict[K, int] = {}
    stack: list[K] = []
    waiting: set[K] = set()  # what is on the stack
    found: list[list[K]] = []
    for root in sorted(edges):
        if root in index:
            continue
        work = [(root, iter(sorted(edges[root])))]
        index[root] = low[root] = len(index)
        stack.append(root)
        waiting.add(root)
        while work:
            node, targets = work[-1]
            for to in targets:
                if to not in index:
                    index[to] = low[to] = len(index)
                    stack.append(to)
                    waiting.add(to)
                    work.append((to, iter(sorted(edges[to]))))
                    break
                if to in waiting:
                    low[node] = min(low[node], index[to])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    group = [stack.pop()]
                    while group[-1] != node:
                        group.append(stack.pop())
                    waiting.difference_update(group)
                    found.append(group[::-1])
    return found
