"""A log as a file: JSON lines, compressed; whole or a range, and enough to begin from.

The first line is the header: format, book, range, counts and digest. Where the range does not begin
with the book's first input, the book as it was there follows (the input before and a snapshot, as in
a log that was trimmed), so that every archive can be replayed by itself. Then one line for each input:

    {"id":"1780000000000-0","type":"cancel","key":"k-2","by":"customer:K1","body":"{…}","link":"…","sum":"…"}

``link`` is the hash chain's after that input, as the book was decided when it was archived. Fields
that cannot be read (not UTF-8, unknown, twice) are kept as they were, in ``raw``, with base64 where
they are no text. ``sum`` chains all lines: a line that was changed, left out or moved is found and
named, and two archives are compared by looking at a few sums. It guards against mistakes; it is no
signature.

The file is two gzip members, the header's and the rest, since the header is known last; every
reader of gzip takes them for one. It is written beside its name and renamed at the end.
"""

from __future__ import annotations

import base64
import gzip
import os
import zlib
from contextlib import contextmanager, suppress
from hashlib import blake2b
from io import UnsupportedOperation
from typing import IO, TYPE_CHECKING, Final, TypeVar

import msgspec

from holdfast.actors.ports import GENESIS, InputEntry, Snapshot
from holdfast.tools.errors import ToolError
from holdfast.transport.codec import decode_input, decode_raw, encode_raw

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from holdfast.tools.ports import File

FORMAT: Final = "holdfast-log"
VERSION: Final = 1
LINE_BYTES_MAX: Final = 1 << 30
"""Longest line; the longest is a snapshot's."""

_SUM: Final = b',"sum":"'
_LEVEL: Final = 3
_MAGIC: Final = b"\x1f\x8b"
_T = TypeVar("_T")


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line.

    Attributes:
      book: The book that was archived.
      after: The position before the first input; ``0-0`` for a whole log.
      first: Id of the first input, "" where there is none; ``last`` likewise.
      inputs: How many there are.
      before: How many there were before the first one.
      decided: How far the book was committed; inputs after it had been decided by nobody.
      epoch: Of the commit record.
      machine: Version of the machine by whose decisions the links are.
      link: The last one; "" where the inputs could not be decided.
      digest: The last line's sum.
    """

    format: str = FORMAT
    version: int = VERSION
    book: str
    after: str
    first: str
    last: str
    inputs: int
    before: int
    decided: str
    epoch: int
    machine: int
    link: str
    digest: str


class Archived(msgspec.Struct, frozen=True, gc=False):
    """One input of an archive.

    Attributes:
      link: The hash chain's, "" where it was not known.
      sum: Of this line and all before it.
    """

    entry: InputEntry
    link: str
    sum: str


class _Line(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    id: str
    type: str = ""
    key: str = ""
    by: str = ""
    trace: str = ""
    body: str = ""
    raw: msgspec.Raw = msgspec.Raw()
    link: str = ""


class _BeginLine(msgspec.Struct, frozen=True):
    version: int
    digest: str
    state: str
    input: _Line


class Begin(msgspec.Struct, frozen=True):
    """The book before a range.

    Attributes:
      snapshot: The book.
      entry: The input at the snapshot's position.
    """

    snapshot: Snapshot
    entry: InputEntry


class ArchiveWriter:
    """Writes an archive; it appears under its name when it is finished, or not at all.

    Args:
      path: Where to.
      begin: The book before the first input; None where that is the book's very first.

    Raises:
      ToolError: There is such a file already, or it cannot be written.
    """

    def __init__(self, path: File, begin: Begin | None) -> None:
        if path.exists():
            raise ToolError(f"{path} exists already: name a new file")
        self._path = path
        self._parts = [path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.body")]
        try:
            self._raw = self._parts[1].open("wb")
        except OSError as error:
            raise ToolError(f"cannot write {path}: {error}") from None
        self._file = gzip.GzipFile("", "wb", _LEVEL, self._raw, mtime=0)
        self.count = 0
        self._sum = b""
        self.first = self.last = ""
        self.after = GENESIS
        if begin is not None:
            held = begin.snapshot
            self.after = held.position
            state = base64.b64encode(held.state).decode()
            self._add(_BeginLine(held.version, held.digest, state, _line(begin.entry)))

    def add(self, entry: InputEntry, link: str) -> None:
        """Add the next input."""
        self._add(_line(entry, link))
        self.first = self.first or entry.id
        self.last = entry.id
        self.count += 1

    def finish(
        self, *, book: str, before: int, decided: str, epoch: int, machine: int, link: str
    ) -> Header:
        """Write the header and give the file its name."""
        self._close_body()
        header = Header(
            book=book,
            after=self.after,
            first=self.first,
            last=self.last,
            inputs=self.count,
            before=before,
            decided=decided,
            epoch=epoch,
            machine=machine,
            link=link,
            digest=self._sum.hex(),
        )
        whole, body = self._parts
        with whole.open("wb") as file:
            with gzip.GzipFile(fileobj=file, mode="wb", mtime=0, filename="") as packed:
                packed.write(msgspec.json.encode(header) + b"\n")
            with body.open("rb") as rest:
                while chunk := rest.read(1 << 20):
                    file.write(chunk)
            file.flush()
            with suppress(UnsupportedOperation):  # in memory nothing is synced
                os.fsync(file.fileno())
        whole.rename(self._path)
        return header

    def close(self) -> None:
        """Forget what was not finished."""
        self._close_body()
        for part in self._parts:
            part.unlink(missing_ok=True)

    def _close_body(self) -> None:
        self._file.close()
        self._raw.close()

    def _add(self, content: msgspec.Struct) -> None:
        line = msgspec.json.encode(content)
        self._sum = _next_sum(self._sum, line)
        self._file.write(line[:-1] + _SUM + self._sum.hex().encode() + b'"}\n')


class Archive:
    """An archive that lies in a file; reading it checks every line.

    Args:
      path: The file.

    Raises:
      ToolError: It cannot be read, or is none.
    """

    def __init__(self, path: File) -> None:
        self.path = path
        with self._reading() as file:
            self.header = self._header(file)
            self.begin = self._begin(file)

    def inputs(self) -> Iterator[Archived]:
        """Every input, in order.

        Raises:
          ToolError: The file was altered or cut short; the sentence names the line.
        """
        header = self.header
        with self._reading() as file:
            self._line(file)
            total, number, count, last = b"", 1, 0, ""
            if header.after != GENESIS:
                number, total = 2, self._checked(self._line(file), 2, b"")[1]
            while line := self._line(file):
                number += 1
                content, total = self._checked(line, number, total)
                held = self._decoded(content, _Line, f"line {number} is no input")
                count, last = count + 1, held.id
                yield Archived(_entry(held), held.link, total.hex())
        if (count, last, total.hex()) != (header.inputs, header.last, header.digest):
            raise ToolError(
                f"{self.path} was cut short: it has {count} inputs up to {last or 'none'}, its header "
                f"says {header.inputs} up to {header.last}"
            )

    @contextmanager
    def _reading(self) -> Generator[gzip.GzipFile]:
        try:
            raw = self.path.open("rb")
        except OSError as error:
            raise ToolError(f"cannot read {self.path}: {error.strerror}") from None
        with raw, gzip.GzipFile(fileobj=raw, mode="rb") as file:
            yield file

    def _line(self, file: IO[bytes] | gzip.GzipFile) -> bytes:
        try:
            return file.readline(LINE_BYTES_MAX)
        except EOFError:
            raise ToolError(f"{self.path} was cut short: its end is missing") from None
        except (OSError, zlib.error) as error:
            raise ToolError(f"{self.path} is damaged: {error}") from None

    def _header(self, file: gzip.GzipFile) -> Header:
        header = self._decoded(self._line(file), Header, "its first line is no header")
        if header.format != FORMAT:
            raise ToolError(f"{self.path} is no exported log: its format is {header.format!r}")
        if header.version != VERSION:
            raise ToolError(
                f"{self.path} has version {header.version} of the format, this release reads "
                f"{VERSION}: use the release that wrote it"
            )
        return header

    def _begin(self, file: gzip.GzipFile) -> Begin | None:
        if self.header.after == GENESIS:
            return None
        content, _ = self._checked(self._line(file), 2, b"")
        line = self._decoded(content, _BeginLine, "its second line is no snapshot")
        state = base64.b64decode(line.state)
        snapshot = Snapshot(self.header.after, line.version, line.digest, state)
        return Begin(snapshot, _entry(line.input))

    def _checked(self, line: bytes, number: int, total: bytes) -> tuple[bytes, bytes]:
        """What a line holds, and the sum after it."""
        content, found, given = line.rpartition(_SUM)
        content += b"}"
        after = _next_sum(total, content)
        if not found or given != after.hex().encode() + b'"}\n':
            named = ""
            if line.startswith(b'{"id":"'):
                shown = line[7:60].split(b'"')[0].decode("ascii", "replace")
                named = f", input {shown}"
            raise ToolError(
                f"{self.path} was altered or cut short at line {number}{named}: use the original"
            )
        return content, after

    def _decoded(self, content: bytes, kind: type[_T], otherwise: str) -> _T:
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.DecodeError:
            raise ToolError(f"{self.path} is no exported log: {otherwise}") from None


def is_archive(path: File) -> bool:
    """Whether *path* begins like an archive; a compressed CSV does not."""
    try:
        with path.open("rb") as raw:
            if raw.read(2) != _MAGIC:
                return False
        with path.open("rb") as raw, gzip.GzipFile(fileobj=raw, mode="rb") as file:
            return file.read(len(FORMAT) + 32).startswith(b'{"format":"' + FORMAT.encode() + b'"')
    except (OSError, EOFError, zlib.error):
        return False


def _line(entry: InputEntry, link: str = "") -> _Line:
    if entry.problem:
        return _Line(entry.id, raw=msgspec.Raw(encode_raw(entry.raw)), link=link)
    body = entry.body.decode()
    return _Line(entry.id, entry.type, entry.key, entry.by, entry.trace, body, link=link)


def _entry(line: _Line) -> InputEntry:
    if line.raw:
        return decode_input(line.id.encode(), list(decode_raw(bytes(line.raw))))
    body = line.body.encode()
    return InputEntry(line.id, line.type, body, line.key, line.by, line.trace)


def _next_sum(total: bytes, content: bytes) -> bytes:
    return blake2b(total + content, digest_size=16).digest()
