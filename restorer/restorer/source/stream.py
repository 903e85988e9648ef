"""The bytes of one file, plain or compressed, through a window that moves forward only.

`Source` hides the compression: `read(n)` gives the next bytes of the decompressed stream. `Window` holds a part of
that stream: what is before `pos` is done with, what is behind it is read when asked for.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from io import FileIO
from types import TracebackType
from typing import Self

import zstandard

from restorer.errors import LoadFailed, Unavailable
from restorer.model import Compression
from restorer.source.scanner import always

_SPACE = always(rb"[ \t\r\n]*+")
READ = 128 * 1024  # bytes asked of the file at once


class BrokenFile(LoadFailed):
    """A file that cannot be read on from `offset` (bytes, decompressed); every record before `ordinal` was yielded."""

    default_reason = "BrokenFile"

    def __init__(self, path: str, what: str, offset: int, ordinal: int, table: str) -> None:
        super().__init__(
            f"{path}: {what} at byte {offset}, record {ordinal}",
            "repair the file or take the backup again; what came before it was read",
            table=table,
        )
        self.offset, self.ordinal, self.path, self.what = offset, ordinal, path, what


class Source:
    """The decompressed bytes of the file at `path` from `start` on, up to `stop` (both bytes of that stream).

    A damaged or truncated compressed stream ends early and says why in `problem` ("" while all is well), so that
    what came before the damage is still read. Raises LoadFailed when the file is gone, Unavailable when the volume
    fails.
    """

    def __init__(self, path: str, compression: Compression = "", start: int = 0, stop: int | None = None) -> None:
        self.path = path
        self.problem = ""
        self.position = 0
        self.stop = stop
        self._pending = b""
        self._expand: Callable[[int], bytes] = {"": self._plain, "gz": self._gzip, "zst": self._zstd}[compression]
        self._inflater: zlib._Decompress | None = None
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._feed = b""  # compressed bytes that were read and not yet decompressed
        try:
            self._file = FileIO(path)
        except FileNotFoundError as e:
            raise LoadFailed(f"{path} is gone", "was the backup moved while it was being read?") from e
        except OSError as e:
            raise Unavailable(f"{path} cannot be read ({e.strerror})", "check the volume and the file's mode") from e
        if compression == "":
            self._file.seek(start)
            self.position = start
        else:
            while self.position < start and self.read(min(READ, start - self.position)):
                pass

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size` of them; b"" at the end."""
        if self.stop is not None:
            size = min(size, self.stop - self.position)
        if size <= 0:
            return b""
        if self._pending:
            data, self._pending = self._pending[:size], self._pending[size:]
        else:
            try:
                data = self._expand(size)
            except OSError as e:
                raise Unavailable(f"{self.path} cannot be read ({e.strerror})", "check the volume") from e
            if len(data) > size:
                data, self._pending = data[:size], data[size:]
        self.position += len(data)
        return data

    def _plain(self, size: int) -> bytes:
        return self._file.read(size)

    def _gzip(self, size: int) -> bytes:
        """Members one after the other; zlib checks CRC and length of each. Zero bytes behind the last are padding."""
        while not self.problem:
            if not self._feed:
                self._feed = self._file.read(READ)
                if not self._feed:
                    if self._inflater is not None:
                        self.problem = "the gzip stream is truncated"
                    return b""
            if self._inflater is None:
                if self.position and not self._feed.strip(b"\0"):
                    self._feed = b""
                    continue
                self._inflater = zlib.decompressobj(31)
            try:
                data = self._inflater.decompress(self._feed, size)
            except zlib.error:
                self.problem = "the gzip stream is corrupt"
                return b""
            if self._inflater.eof:
                self._feed, self._inflater = self._inflater.unused_data, None
            else:
                self._feed = self._inflater.unconsumed_tail
            if data:
                return data
        return b""

    def _zstd(self, size: int) -> bytes:
        """Frames one after the other. The input is taken in small bites, as the library does not bound its output."""
        while not self.problem:
            bite = self._feed or self._file.read(16 * 1024)
            self._feed = b""
            if not bite:
                if self._frame is not None:
                    self.problem = "the zstd stream is truncated"
                return b""
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()
            try:
                data = self._frame.decompress(bite)
            except zstandard.ZstdError:
                self.problem = "the zstd stream is corrupt"
                return b""
            if self._frame.eof:
                self._feed, self._frame = self._frame.unused_data, None
            if data:
                return data
        return b""

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Window:
    """The part of a source that is in memory: `buf[pos:]` is still to be taken, `base` is the place of `buf[0]`."""

    __slots__ = ("source", "buf", "pos", "base", "eof")

    def __init__(self, source: Source) -> None:
        self.source = source
        self.buf = b""
        self.pos = 0
        self.base = source.position
        self.eof = False

    @property
    def offset(self) -> int:
        """Where `pos` is in the stream, in bytes."""
        return self.base + self.pos

    def more(self, size: int) -> bool:
        """Reads up to `size` bytes behind those in memory and forgets those before `pos`. False at the end."""
        data = self.source.read(size)
        if not data:
            self.eof = True
            return False
        self.base += self.pos
        self.buf = self.buf[self.pos :] + data if self.pos < len(self.buf) else data
        self.pos = 0
        return True

    def fill(self, size: int) -> None:
        """At least `size` bytes behind `pos`, unless the source ends before."""
        missing = size - (len(self.buf) - self.pos)
        if missing <= 0 or self.eof:
            return
        # Compressed sources give small parts: collect them first, so that a byte is copied once and not per part.
        parts = [self.buf[self.pos :]]
        while missing > 0:
            data = self.source.read(max(missing, size))
            if not data:
                self.eof = True
                break
            parts.append(data)
            missing -= len(data)
        self.base += self.pos
        self.pos = 0
        self.buf = parts[1] if len(parts) == 2 and not parts[0] else b"".join(parts)

    def significant(self, size: int = READ) -> bytes:
        """The next byte that is not whitespace (`pos` moves to it); b"" at the end. Reads `size` bytes at a time."""
        while True:
            self.pos = _SPACE.match(self.buf, self.pos).end()
            if self.pos < len(self.buf):
                return self.buf[self.pos : self.pos + 1]
            if not self.more(size):
                return b""

    def replace(self, buf: bytes, base: int) -> None:
        """`buf` stands at `base`; all before it is done with (after a record that was longer than the window)."""
        self.buf, self.base, self.pos = buf, base, 0

    def skip_bom(self) -> None:
        """Steps over a UTF-8 byte order mark at the very start."""
        self.fill(3)
        if self.offset == 0 and self.buf.startswith(b"\xef\xbb\xbf"):
            self.pos = 3
