"""The benchmark's flat table: records of 500 bytes in 10 columns, as a JSON backup and as the CSV that \\copy takes.

    python -m benchmarks.flat DIR --records 1000000

Writes DIR/bench/20240101_000000/flat.json, DIR/flat.csv and DIR/flat.sql. All rows are good, unless they are spoiled on
their way into the JSON file.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

RECORD_BYTES = 500  # of each record in the JSON file, with its comma
APPLICATION = "bench"
SNAPSHOT = "20240101_000000"

DDL = """CREATE TABLE flat (
    id bigint PRIMARY KEY,
    public_id uuid NOT NULL,
    email varchar(120) NOT NULL,
    full_name text NOT NULL,
    active boolean NOT NULL,
    score double precision NOT NULL,
    balance numeric(12, 2) NOT NULL,
    created_at timestamptz NOT NULL,
    meta jsonb NOT NULL,
    body text NOT NULL
);
"""
COLUMNS = ("id", "public_id", "email", "full_name", "active", "score", "balance", "created_at", "meta", "body")
TEXT = "Nên tưới vào buổi sáng sớm hoặc chiều mát, tránh lúc nắng gắt. " * 8


class Flat(NamedTuple):
    """`backup` is what `restorer run --backup` takes; `csv` holds the same rows under a header."""

    backup: Path
    json: Path
    csv: Path
    records: int


def build(folder: Path, records: int = 1_000_000, spoil: Callable[[int, bytes], bytes] | None = None) -> Flat:
    """Writes both files and the DDL; always the same bytes. `spoil`: (position, record) -> what the JSON file gets."""
    snapshot = folder / APPLICATION / SNAPSHOT
    snapshot.mkdir(parents=True, exist_ok=True)
    flat = Flat(folder / APPLICATION, snapshot / "flat.json", folder / "flat.csv", records)
    (folder / "flat.sql").write_text(DDL)
    padding = _paddings()
    with flat.json.open("wb") as as_json, flat.csv.open("wb") as as_csv:
        as_csv.write(",".join(COLUMNS).encode() + b"\n")
        for start in range(0, records, 1000):
            pairs = [_row(i, padding) for i in range(start, min(start + 1000, records))]
            as_json.write(b"[" if start == 0 else b",")
            good = (pair[0] for pair in pairs)
            as_json.write(b",".join(good if spoil is None else map(spoil, range(start, start + len(pairs)), good)))
            as_csv.write(b"".join(pair[1] for pair in pairs))
        as_json.write(b"]" if records else b"[]")
    return flat


def _paddings() -> list[str]:
    """A text of each length in bytes, cut between letters."""
    whole = TEXT.encode()
    cuts = [whole[:n].decode(errors="ignore") for n in range(len(whole))]
    return [cut + "." * (n - len(cut.encode())) for n, cut in enumerate(cuts)]


def _row(i: int, padding: list[str]) -> tuple[bytes, bytes]:
    """(JSON, CSV line) of one row."""
    h = (i * 0x9E3779B1) & 0xFFFFFFFF
    h ^= h >> 15
    uuid = f"{h:08x}-0000-4000-8000-{i:012x}"
    email, name = f"hocvien{i}@example.edu.vn", f"Học viên số {i}"
    active, score, balance = "true" if h & 1 else "false", f"{h % 10000 / 100}", f"{h % 10_000_000 / 100:.2f}"
    created = (
        f"2024-{h % 12 + 1:02d}-{(h >> 4) % 28 + 1:02d}T{(h >> 9) % 24:02d}:{(h >> 14) % 60:02d}:00.{h % 1000:03d}Z"
    )
    meta = f'{{"level":{h % 9},"tags":["rau","nấm"],"source":"web"}}'
    head = (
        f'{{"id":{i},"public_id":"{uuid}","email":"{email}","full_name":"{name}","active":{active},"score":{score},'
        f'"balance":"{balance}","created_at":"{created}","meta":{meta},"body":"'
    ).encode()
    body = padding[RECORD_BYTES - len(head) - 3]  # the closing quote and brace, the comma
    quoted = meta.replace('"', '""')
    line = f'{i},{uuid},{email},{name},{active},{score},{balance},{created},"{quoted}","{body}"\n'
    return head + body.encode() + b'"}', line.encode()


def main() -> None:
    """`python -m benchmarks.flat DIR`."""
    parser = argparse.ArgumentParser(description="Write the benchmark's flat table as JSON backup and as CSV.")
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--records", type=int, default=1_000_000, metavar="N")
    arguments = parser.parse_args()
    flat = build(arguments.folder, arguments.records)
    print(f"{flat.json}: {flat.json.stat().st_size:,} bytes; {flat.csv}: {flat.csv.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
