"""The way that COPY is compared with: the whole file into memory, then INSERTs of 1,000 rows, ON CONFLICT DO NOTHING.

python -m benchmarks.insert FILE DSN
"""

from __future__ import annotations

import json
import sys

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

ROWS = 1_000


def main() -> None:
    """Loads FILE into the table `flat`."""
    with open(sys.argv[1], encoding="utf-8") as file:
        records = json.load(file)
    names = list(records[0])
    row = sql.SQL("({})").format(sql.SQL(", ").join([sql.Placeholder()] * len(names)))
    with psycopg.connect(sys.argv[2]) as conn:
        for start in range(0, len(records), ROWS):
            batch = records[start : start + ROWS]
            insert = sql.SQL("INSERT INTO flat ({}) VALUES {} ON CONFLICT DO NOTHING").format(
                sql.SQL(", ").join(map(sql.Identifier, names)), sql.SQL(", ").join([row] * len(batch))
            )
            values = (record[name] for record in batch for name in names)
            conn.execute(insert, [Jsonb(value) if isinstance(value, dict) else value for value in values])
            conn.commit()


if __name__ == "__main__":
    main()
