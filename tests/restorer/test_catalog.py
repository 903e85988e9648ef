"""What the catalog says, on a real server."""

from __future__ import annotations

from fix_restore import Restore
from restorer.database.catalog import foreign_keys_into, heirs, read_server, read_tables
from restorer.model import Table


def tables(at: Restore, schema: str = "public") -> dict[str, Table]:
    return {t.name: t for t in read_tables(at.db, schema)}


def test_columns_types_and_defaults(at: Restore):
    at.schema(
        "CREATE DOMAIN d1 AS numeric(6,2) DEFAULT 1 NOT NULL", "CREATE DOMAIN d2 AS d1", "CREATE TYPE mood AS ENUM ('a', 'b c')",
        "CREATE TABLE t (id serial, i int GENERATED ALWAYS AS IDENTITY, v varchar(5)[], c char(3), d d2, m mood, n numeric(3,-2), "
        "ts timestamptz(3), gone int, g int GENERATED ALWAYS AS (1) STORED, dm d2[])"
        if at.db.info.server_version >= 150000
        else "CREATE TABLE t (id serial, i int GENERATED ALWAYS AS IDENTITY, v varchar(5)[], c char(3), d d2, m mood, n numeric(3,2), "
        "ts timestamptz(3), gone int, g int GENERATED ALWAYS AS (1) STORED, dm d2[])",
        "ALTER TABLE t DROP gone",
    )  # fmt: skip
    t = tables(at)["t"]
    assert [c.name for c in t.columns] == ["id", "i", "v", "c", "d", "m", "n", "ts", "g", "dm"]
    assert t.column("id").has_default and t.column("id").sequence == "public.t_id_seq"
    assert t.column("i").identity == "a" and t.column("i").has_default and t.column("i").not_null
    v = t.column("v").type
    assert v.element is not None and (v.element.name, v.element.length) == ("varchar", 5)
    assert t.column("c").type.length == 3
    d = t.column("d")
    assert (d.type.name, d.type.precision, d.type.scale, d.type.domain) == ("numeric", 6, 2, "d2")
    assert d.not_null and d.has_default
    assert t.column("m").type.labels == ("a", "b c") and t.column("ts").type.precision == 3
    assert t.column("g").generated and not t.column("g").has_default
    if at.db.info.server_version >= 150000:
        assert t.column("n").type.scale == -2


def test_unique_indexes_of_every_kind(at: Restore):
    at.schema(
        "CREATE TABLE t (id int PRIMARY KEY, a int, b int, UNIQUE (b, a) INCLUDE (id), UNIQUE (a) DEFERRABLE)",
        "CREATE UNIQUE INDEX e ON t (lower(a::text), b)", "CREATE UNIQUE INDEX p ON t (b) WHERE a > 0", "CREATE INDEX plain ON t (a)",
    )  # fmt: skip
    found = {u.name: u for u in tables(at)["t"].uniques}
    assert set(found) == {"t_pkey", "t_b_a_id_key", "t_a_key", "e", "p"}
    assert found["t_pkey"].primary and found["t_b_a_id_key"].columns == ("b", "a")
    assert found["t_a_key"].deferrable and found["e"].columns == () and found["p"].partial
    assert tables(at)["t"].primary_key == ("id",)


def test_foreign_keys_checks_exclusions_and_triggers(at: Restore):
    at.schema(
        "CREATE SCHEMA o", "CREATE TABLE o.p (a int, b int, PRIMARY KEY (b, a))",
        "CREATE TABLE t (x int, y int CHECK (y > 0), z int, CHECK (x < z), EXCLUDE (z WITH =), "
        "FOREIGN KEY (x, y) REFERENCES o.p (b, a) MATCH FULL ON DELETE CASCADE)",
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER before BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f()",
        "CREATE TABLE u (x int)", "CREATE TRIGGER after AFTER INSERT ON u FOR EACH ROW EXECUTE FUNCTION f()",
        "CREATE TRIGGER off BEFORE INSERT ON u FOR EACH ROW EXECUTE FUNCTION f()", "ALTER TABLE u DISABLE TRIGGER off",
        "CREATE RULE r AS ON INSERT TO u DO ALSO NOTHING",
    )  # fmt: skip
    t = tables(at)["t"]
    (fk,) = t.foreign_keys
    assert (fk.columns, fk.to_schema, fk.to_table, fk.to_columns) == (("x", "y"), "o", "p", ("b", "a"))
    assert fk.match == "f" and fk.cascade and fk.readable
    assert {c.columns for c in t.checks} == {("y",), ("x", "z")} and t.exclusions == ("t_z_excl",)
    assert t.triggers == ("before",) and t.changing and not t.ruled
    u = tables(at)["u"]
    assert u.triggers == ("after",) and not u.changing and u.ruled


def test_partitions_are_reached_through_their_parent_and_heirs_are_known(at: Restore):
    at.schema(
        "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id)", "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9)",
        "CREATE TABLE plain (id int PRIMARY KEY)", "CREATE TABLE kid () INHERITS (plain)",
        "CREATE TABLE c (a int REFERENCES p1, b int REFERENCES plain)", "CREATE VIEW v AS SELECT 1",
    )  # fmt: skip
    found = tables(at)
    assert set(found) == {"p", "plain", "kid", "c"} and found["p"].partitioned
    assert heirs(at.db, [found["p"], found["plain"]]) == [("public", "kid", "plain")]
    assert heirs(at.db, [found["kid"], found["plain"]]) == []
    assert {f.to_table for f in foreign_keys_into(at.db, [found["p"], found["plain"]])} == {"p1", "plain"}
    assert foreign_keys_into(at.db, list(found.values())) == []


def test_the_server_and_its_marks(at: Restore):
    server = read_server(at.db)
    assert (
        server.database == at.db.info.dbname and not server.protected and server.can_temp and server.encoding == "UTF8"
    )
