"""Records to rows for one table: the verbatim way and the exact way. Both make lines of one and the same COPY:

    COPY t (columns) FROM STDIN (FORMAT text, NULL 'null', ENCODING 'UTF8')

A JSON string without its quotes is a field of that format already: the two have the same escapes, but for \\u and the quote, and
no string holds a raw tab or newline. Numbers, true, false and null are fields too. So a record whose fields are `msgspec.Raw`
needs only be joined by tabs, and whoever sends the lines takes the quotes out of many at once. What must not go as it stands is found by
looking at a whole piece at once (a search or one regular expression over a joined column), and only a piece that is not clean is
looked at value by value. The exact way differs only in what counts as clean: every value that is not certain to be a value
of its column's type is converted. So whatever both accept, both store alike.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from typing import Any

import msgspec
from msgspec.structs import astuple

from restorer.convert.column import JSON_NULL, ColumnWriter, is_utf8
from restorer.convert.field import (
    MISSING,
    NULL,
    RAW_NULL,
    RAW_NULL_STRING,
    Unfit,
    easy,
    hard,
    special,
    well_formed,
)
from restorer.model import Problem, TablePlan
from restorer.source.piece import Piece
from restorer.source.scanner import ScanError, pairs

_NO_STRUCT_KEY = re.compile(r'["\\\x00-\x1f]')  # msgspec has no structs with such keys

# Elements of an array that are spelled as the fields are, quotes and all.
_ELEMENTS = re.compile(rb'(?:(?:null|true|false|"[^"\\\x00-\x1f]*"|[-+]?[0-9][-+.:0-9A-Za-z]*)\n)*+').fullmatch

# To be found nowhere they take `in` half as long again.
_NULL, _NULL_STRING = re.compile(NULL).search, re.compile(RAW_NULL_STRING).search

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])

_SOME = 8  # good records of which one may stand for a bad one

Record = Sequence[msgspec.Raw]  # the values per column in COPY order, ignored keys behind them


@dataclass
class Rows:
    """What a piece became. `lines`: one line of COPY per record without its newline, b"" where it cannot be converted; JSON's quotes
    still stand in them, and go when they are sent, many lines at once (field.unquoted).
    `probed`: where asked for, of each of the probe's columns the fields of those records that have neither problems nor `defaults`,
    between newlines; `listed`: whether they all read the same as elements of an array (PostgreSQL documentation, "Array Input and
    Output Syntax"). `keys`: where asked for, the raw values that occur in each of Converter's `keys`. `problems`: index in the
    piece -> why not.
    `defaults`: index -> positions (in Converter.columns) of the columns whose key is missing although they have a default;
    the line holds null there, and the row is to be sent without those columns. `exact`: how many records held a value that
    did not go as it stood. `json_nulls`: nulls stored as JSON null because their column is NOT NULL."""

    lines: list[bytes]
    problems: dict[int, Problem] = field(default_factory=dict)
    defaults: dict[int, tuple[int, ...]] = field(default_factory=dict)
    exact: int = 0
    json_nulls: int = 0
    probed: list[bytes] = field(default_factory=list)
    listed: bool = True
    keys: list[set[bytes]] = field(default_factory=list)


class Converter:
    """Converts the records of one table. `columns`: their names in COPY order (plain, checked, always converted, json:
    not quite the plan's order). `decoder` decodes an array of records, `line_decoder` one record: what the reader is
    to put into Piece.records."""

    def __init__(self, plan: TablePlan, probe: Sequence[str] = (), keys: Sequence[str] = ()) -> None:
        """`probe`: the columns of a probe's lines. `keys`: plain columns whose values are told where asked for."""
        # A BEFORE trigger may fill in what is null here; then only the server can tell.
        writers = [ColumnWriter(column, enforce_not_null=not plan.table.triggers) for column in plan.columns]
        order = ("verbatim", "checked", "never", "json")
        self._writers = sorted(writers, key=lambda writer: order.index(writer.rule.way))
        self.columns: tuple[str, ...] = tuple(writer.column.name for writer in self._writers)
        self._probe = [self.columns.index(name) for name in probe]
        self._keys = [self.columns.index(name) for name in keys]
        self._plain = sum(writer.rule.way == "verbatim" for writer in writers)
        self._required = [i for i, writer in enumerate(self._writers[: self._plain]) if writer.not_null]
        # What a partition's own trigger fills in, or a foreign one takes, the table's columns do not say.
        self._nowhere_null = len(self._required) == self._plain and not plan.table.partitioned
        self._table = plan.table.name
        self._blank = {writer.key: msgspec.Raw(writer.blank) for writer in self._writers}
        self._blank |= dict.fromkeys(plan.ignored, RAW_NULL)
        self._structs = not any(map(_NO_STRUCT_KEY.search, self._blank))
        record: Any = self._struct() if self._structs else dict[str, msgspec.Raw]
        self.decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(list[record])
        self.line_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(record)

    def verbatim(self, piece: Piece) -> Rows:
        """The fast way: values go as they stand wherever PostgreSQL reads them as they are meant, or refuses them."""
        return self._rows(piece, exact=False)

    def trusting(self, piece: Piece) -> Rows:
        """As `verbatim`, for COPY straight into the table: what PostgreSQL refuses there by itself, bytes that are not
        UTF-8 (whatever the database's own encoding) and nulls where none may be, is not looked for. To look takes as long
        as all the rest."""
        return self._rows(piece, exact=False, trusting=True)

    def trusting_keyed(self, piece: Piece) -> Rows:
        """As `trusting`, and the values of the columns `keys`."""
        return self._rows(piece, exact=False, trusting=True, keyed=True)

    def exact(self, piece: Piece) -> Rows:
        """The sure way: every value is known to be one of its column's type, is converted, or is a problem."""
        return self._rows(piece, exact=True)

    def exact_keyed(self, piece: Piece) -> Rows:
        """As `exact`, and the values of the columns `keys`."""
        return self._rows(piece, exact=True, keyed=True)

    def sifted(self, piece: Piece) -> Rows:
        """The sure way, and the lines of a probe beside the whole ones."""
        return self._rows(piece, exact=True, probe=True)

    def values(self, piece: Piece, column: str) -> list[bytes]:
        """The raw values of one column, whatever stands for those of records that nobody can take apart."""
        records, _ = self._records(piece, Rows([]))
        return list(map(bytes, map(itemgetter(self.columns.index(column)), records)))

    def _struct(self) -> type[msgspec.Struct]:
        fields = [
            (f"f{i}", msgspec.Raw, msgspec.field(name=key, default=blank))
            for i, (key, blank) in enumerate(self._blank.items())
        ]
        return msgspec.defstruct("Record", fields, gc=False, forbid_unknown_fields=True)

    def _rows(
        self, piece: Piece, exact: bool, probe: bool = False, trusting: bool = False, keyed: bool = False
    ) -> Rows:
        if piece.oversized is not None:
            big = piece.oversized
            message = f"the record of {big.length} bytes (SHA-256 {big.sha256}) is larger than what can be held"
            return Rows([b""], {0: Problem("RecordTooLarge", "54000", message=message)})
        rows = Rows([])
        records, touched = self._records(piece, rows)
        if not self._writers:  # nothing to write; COPY has no spelling for it
            return Rows([b""] * len(records), rows.problems)
        if keyed:
            rows.keys = [_distinct(map(itemgetter(position), records)) for position in self._keys]
        converted: dict[int, list[Any]] = {}
        for position in range(0 if exact else self._plain, len(self._writers)):
            fields = self._column(position, records, rows, touched, exact, trusting)
            if fields is not None:
                converted[position] = fields
        end = min(converted, default=len(self._writers))
        lines = self._heads(records, end, rows, touched, exact, trusting)
        if converted:
            rest = [
                converted[position] if position in converted else list(map(itemgetter(position), records))
                for position in range(end, len(self._writers))
            ]
            lines = list(map(b"\t".join, zip(lines, *rest, strict=True) if end else zip(*rest, strict=True)))
        for position, fields in converted.items():
            if self._writers[position].json_null:
                lost = sum(fields[index] == JSON_NULL for index in rows.problems)
                rows.json_nulls += fields.count(JSON_NULL) - lost
        for index in rows.problems:
            lines[index] = b""
            rows.defaults.pop(index, None)
        rows.defaults = {index: tuple(sorted(positions)) for index, positions in rows.defaults.items()}
        if probe:
            self._show(records, converted, rows)
        rows.lines = lines
        rows.exact = len(lines) if exact else len(touched)
        return rows

    def _show(self, records: list[Record], converted: Mapping[int, list[Any]], rows: Rows) -> None:
        """What a probe sees of them."""
        apart = sorted(rows.problems.keys() | rows.defaults.keys(), reverse=True)  # few, as a rule
        for position in self._probe:
            fields = converted.get(position) or list(map(itemgetter(position), records))
            for index in apart:
                del fields[index]
            joined = b"\n".join(fields)
            rows.probed.append(joined)
            rows.listed = rows.listed and (_listed(joined) if position in converted else b"\\" not in joined)

    def _column(
        self, position: int, records: list[Record], rows: Rows, touched: set[int], exact: bool, trusting: bool
    ) -> list[Any] | None:
        """The fields of one column, or None when all its values may go as they stand."""
        writer = self._writers[position]
        values: list[Any] = list(map(itemgetter(position), records))
        doubtful: Iterable[int]
        if writer.rule.way == "json":
            fields = writer.json(values, trusting)
            if fields is not None:
                return fields
            doubtful = range(len(values))
        else:
            strict = exact or writer.rule.way == "never"
            if not (doubtful := writer.doubtful(values, strict)):
                return None
            if not strict:
                touched.update(doubtful)
        for index in doubtful:
            values[index] = self._value(position, bytes(values[index]), index, rows)
        # The line of a record that is a problem does not count.
        return None if rows.problems and all(index in rows.problems for index in doubtful) else values

    def _value(self, position: int, raw: bytes, index: int, rows: Rows) -> bytes:
        """The field of one value; what is wrong with it, or that it is missing, is written to `rows`."""
        writer = self._writers[position]
        if raw == MISSING and writer.column.has_default:
            rows.defaults[index] = (*rows.defaults.get(index, ()), position)
            return NULL
        try:
            return writer.field(raw)
        except Unfit as unfit:
            rows.problems.setdefault(index, unfit.problem(writer.column.name))
            return NULL

    def _heads(
        self, records: list[Record], end: int, rows: Rows, touched: set[int], exact: bool, trusting: bool
    ) -> list[bytes]:
        """The first `end` fields of each record, joined."""
        if not end:
            return [b""] * len(records)
        heads = list(map(b"\t".join, records if end == len(self._blank) else map(itemgetter(slice(end)), records)))
        if exact:  # every column was looked at
            return heads
        joined = b"\n".join(heads)
        unclean = self._unclean(records, heads, joined, rows.defaults if trusting else None)
        if special(joined):
            # A value that must not stand may hold newlines.
            heads = [easy(head) for head in heads] if unclean else easy(joined).split(b"\n")
        if not unclean:
            return heads
        touched |= unclean
        order = sorted(unclean)
        suspects = [records[index] for index in order]
        columns: list[list[Any]] = []
        for position in range(end):
            writer, values = self._writers[position], list(map(itemgetter(position), suspects))
            if not writer.may_stand(b"\n".join(values)):
                for at, raw in enumerate(map(bytes, values)):
                    values[at] = raw if writer.may_stand(raw) else self._value(position, raw, order[at], rows)
            columns.append(values)
        for index, head in zip(order, map(b"\t".join, zip(*columns, strict=True)), strict=True):
            heads[index] = head
        return heads

    def _unclean(
        self, records: list[Record], heads: list[bytes], joined: bytes, apart: Collection[int] | None
    ) -> set[int]:
        """The records of which a plain value must not go as it stands: it has an escape that COPY reads otherwise, is an object
        or a list, is missing, is a string "null", is not UTF-8, or is null where it must not be. `apart`: the server is trusted
        with the last two, but for these records, which go by a stage; and with a string "null", where it takes no null."""
        unclean: set[int] = set()
        trusted = apart is not None and self._nowhere_null
        null = not trusted and _NULL(joined) is not None
        if MISSING in joined:
            unclean.update(i for i, head in enumerate(heads) if MISSING in head)
        if null and _NULL_STRING(joined):
            unclean.update(i for i, head in enumerate(heads) if RAW_NULL_STRING in head)
        if hard(joined):
            unclean.update(i for i, head in enumerate(heads) if hard(head))
        for opener in (b"{", b"["):  # one byte is found ten times as fast as two
            if opener in joined and (joined[:1] == opener or b"\t" + opener in joined or b"\n" + opener in joined):
                inner = b"\t" + opener
                unclean.update(i for i, head in enumerate(heads) if head[:1] == opener or inner in head)
        if apart is not None:
            return unclean.union(apart)
        if not is_utf8(joined):
            unclean.update(i for i, head in enumerate(heads) if not is_utf8(head))
        if self._required and null:
            for position in self._required:
                values = list(map(itemgetter(position), records))
                if RAW_NULL in values:
                    unclean.update(i for i, value in enumerate(values) if value == RAW_NULL)
        return unclean

    def _records(self, piece: Piece, rows: Rows) -> tuple[list[Record], set[int]]:
        """Each record's values, and the indices of those that only the scanner could take apart. A record that nobody
        can is a problem."""
        decoded = piece.records
        records: list[Record | None] = [None] * len(piece)
        alone: Iterable[int] = range(len(piece))
        if decoded is not None and self._structs:
            if not piece.mixed:
                return list(map(astuple, decoded)), set()
            alone = [index for index, record in enumerate(decoded) if record is None]
            there = map(astuple, (record for record in decoded if record is not None))
            records = [None if record is None else next(there) for record in decoded]
        scanned: set[int] = set()
        for index in alone:
            try:
                if decoded is not None and decoded[index] is not None:
                    records[index] = self._taken(decoded[index])
                    continue
                raw = piece.raw(index)
                try:
                    if decoded is None:
                        records[index] = self._taken(self.line_decoder.decode(raw))
                        continue
                    members = _MEMBERS.decode(raw)  # most of those that the decoder did not take have an unknown key
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                    members = _scan(raw)
                records[index] = self._members(members)
                scanned.add(index)
            except Unfit as unfit:
                rows.problems[index] = unfit.problem()
        stand_in = self._stand_in(piece, records) if rows.problems else ()
        return [stand_in if r is None else r for r in records], scanned

    def _stand_in(self, piece: Piece, records: Sequence[Record | None]) -> Record:
        """What stands for a bad record until its line is taken out: a good one's values, as they give no column anything to
        look into; nulls where even the shortest of some is so long that many of it would fill the memory."""
        some = islice((record for record in records if record is not None), _SOME)
        good = min(some, key=_size, default=None)
        if good is None or _size(good) > 2 * len(piece.data) // len(piece):
            return (RAW_NULL,) * len(self._blank)
        return good

    def _taken(self, record: Any) -> Record:
        return astuple(record) if self._structs else self._members(record)

    def _members(self, members: Mapping[str, Any]) -> Record:
        for key in members:
            if key not in self._blank:
                if not is_utf8(key.encode(errors="surrogatepass")):
                    raise Unfit("InvalidEncoding", "22021", "bytes that are not UTF-8")
                message = f'table "{self._table}" has no column for the key'
                raise Unfit("UnknownColumn", "42703", message, key[:255])
        return tuple(members.get(key, blank) for key, blank in self._blank.items())


def _listed(fields: bytes) -> bool:
    return _ELEMENTS(fields + b"\n") is not None


def _distinct(values: Iterable[Any]) -> set[bytes]:
    return set(b"\n".join(values).split(b"\n"))  # msgspec.Raw has no hash


def _size(record: Record) -> int:
    return sum(map(len, record))


def _scan(raw: bytes) -> dict[str, msgspec.Raw]:
    """key -> raw value of a record that msgspec does not take: nested too deep, lone surrogates, an unknown key."""
    try:
        members = pairs(raw)
    except ScanError:
        if well_formed(raw):
            raise Unfit("NotAnObject", "22023", "the record is not a JSON object") from None
        raise Unfit("InvalidJSON", "22P02", "the record is not JSON") from None
    if not all(well_formed(value) for value in members.values()):
        raise Unfit("InvalidJSON", "22P02", "the record is not JSON")
    return {key: msgspec.Raw(value) for key, value in members.items()}
