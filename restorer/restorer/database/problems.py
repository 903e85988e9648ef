"""What PostgreSQL's refusal of a record is called, in words that hold no value of the record. Pure.

PostgreSQL's own messages quote values ('invalid input syntax for type integer: "…"'), triggers raise any text they
like; so the SQLSTATE decides the words. Source: PostgreSQL documentation, appendix A, "PostgreSQL Error Codes".
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import psycopg

from restorer.model import Problem

_REASONS = {
    "22001": ("TooLong", "the value is too long for the column"),
    "22003": ("OutOfRange", "the number is out of the type's range"),
    "22007": ("InvalidDate", "not a date or time that PostgreSQL reads"),
    "22008": ("InvalidDate", "no such date or time"),
    "22021": ("InvalidEncoding", "not valid UTF-8"),
    "22P02": ("InvalidValue", "not a value of the column's type"),
    "22P03": ("InvalidValue", "not a value of the column's type"),
    "22P05": ("UntranslatableCharacter", "a character that the database's encoding has not"),
    "22023": ("InvalidValue", "not a value of the column's type"),
    "22030": ("InvalidJSON", "a key occurs twice in a json value"),
    "22032": ("InvalidJSON", "not valid JSON for the column"),
    "23502": ("NullViolation", "null in a NOT NULL column"),
    "23503": ("MissingParent", "the row it refers to is not there"),
    "23505": ("UniqueViolation", "another row has the same key"),
    "23514": ("CheckViolation", "a CHECK constraint says no"),
    "23P01": ("ExclusionViolation", "an exclusion constraint says no"),
    "42601": ("InvalidValue", "not a value of the column's type"),
    "44000": ("CheckViolation", "the row is outside the view's or policy's condition"),
    "42501": ("PolicyViolation", "row security says no"),
    "54001": ("TooComplex", "nested deeper than the server can read"),
    "54000": ("TooLarge", "past a limit of the server"),
    "P0001": ("TriggerRaised", "a trigger raised an exception"),
}
SUPPRESSED = Problem("SuppressedByTrigger", message="a trigger, a rule or row security keeps the row out in silence")


def problem_of(error: psycopg.Error, columns: Iterable[str] = (), relation: str = "") -> Problem:
    """The Problem of one record out of the error it caused. `columns`: names to recognise in the error's context, which
    says where in a COPY into `relation` it happened."""
    state = error.sqlstate or ""
    reason, words = _REASONS.get(state) or (
        _REASONS["22P02"]
        if state.startswith("22")
        else ("DatabaseError", f"PostgreSQL refuses it ({type(error).__name__})")
    )
    column = error.diag.column_name or (_copy_column(error, columns, relation) if relation else "")
    where = f"column {column}: {words}" if column else words
    if error.diag.constraint_name:
        where += f" ({error.diag.constraint_name})"
    return Problem(reason, state, column, error.diag.constraint_name or "", where)


def named(reason_state: str, *, column: str = "", constraint: str = "") -> Problem:
    """The Problem that a set query found before PostgreSQL had to refuse the row."""
    reason, words = _REASONS[reason_state]
    where = f"column {column}: {words}" if column else words
    return Problem(reason, reason_state, column, constraint, f"{where} ({constraint})" if constraint else where)


def copy_line(error: psycopg.Error, relation: str) -> int:
    """The line of a COPY into `relation` that the error is about, out of its context (`COPY t, line 3, column a: "…"`); 0
    when it names none. The server may speak any language, so only the name and the number are looked for."""
    match = _place(error, relation)
    return int(match[1]) if match else 0


def _copy_column(error: psycopg.Error, columns: Iterable[str], relation: str) -> str:
    match = _place(error, relation)
    rest = match[2] or "" if match else ""
    return max((c for c in columns if rest == c or rest.startswith((f"{c}: ", f"{c}, "))), key=len, default="")


def _place(error: psycopg.Error, relation: str) -> re.Match[str] | None:
    return re.search(
        rf"(?:^|\n)COPY {re.escape(relation)}, [^\d,]*(\d+)[^\d,]*(?:, \S+ (.*))?", error.diag.context or "", re.S
    )
