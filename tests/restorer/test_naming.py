"""Which table a file means and which column a key means."""

from __future__ import annotations

import pytest
from restorer.naming import closest, match, parse_prisma

PRISMA = """
// model Ghost { id Int @map("nope") }
model User {
  id        Int      @id @default(autoincrement())
  createdAt DateTime @default(now()) @map("created_at")
  // hidden String @map("hidden_away")
  role      Role     @map("user_role") @db.VarChar(10)
  posts     Post[]
  @@map("users")
  @@index([createdAt], map: "by_time")
}

model Post { id Int @id
  title String
}
enum Role { ADMIN @map("admin") }
model Plain {
  id Int @id
}
"""


def test_prisma_models_give_table_and_columns_only_where_they_differ():
    models = parse_prisma(PRISMA)
    assert models["User"].table == "users"
    assert models["User"].columns == {"createdAt": "created_at", "role": "user_role"}
    assert models["Plain"].table == "Plain" and models["Plain"].columns == {}
    assert "Ghost" not in models


@pytest.mark.parametrize("text", ["", "model", "model X {", "}}}", "model A { @@map( }", "\x00"])
def test_what_is_no_schema_is_passed_over(text: str):
    assert isinstance(parse_prisma(text), dict)


@pytest.mark.parametrize(
    ("name", "candidates", "explicit", "meant"),
    [
        ("users", ["users", "Users"], (), "users"),
        ("createdAt", ["created_at", "id"], (), "created_at"),
        ("created_at", ["createdAt"], (), "createdAt"),
        ("created-at", ["CREATEDAT"], (), "CREATEDAT"),
        ("createdAt", ["created_at", "createdat"], (), None),
        ("x", ["y"], (), None),
        ("x", ["y", "x"], ("y",), "y"),
        ("x", ["x"], ("gone",), "gone"),
        ("x", ["x", "y"], (None, "y"), "x"),
        ("User", ["users", "t"], (None, "users"), "users"),
        ("User", ["user"], (None, "gone"), "user"),
        ("a", [], (), None),
    ],
)
def test_mapping_then_exact_then_prisma_then_the_same_name_in_another_case(
    name: str, candidates: list[str], explicit: tuple[str | None, ...], meant: str | None
):
    assert match(name, candidates, *explicit) == meant


def test_did_you_mean():
    assert closest("usres", ["users", "posts"]) == "users"
    assert closest("zzz", ["users"]) is None
