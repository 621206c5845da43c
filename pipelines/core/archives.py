"""The one reader of zips that a visitor sends: what is in them is known before a byte is unpacked, and unpacking is bounded.

    with open_archive(path, most=600) as archive:
        for member in archive.members:
            data = archive.read(member, 64 * 2**20)

Nothing is ever written under a name from the archive. The standard library reads the directory; members are unpacked here,
because its own reader gives bz2 and LZMA no bound on what one call returns: 4 kB of bz2 may stand for gigabytes.
"""

from __future__ import annotations

import bz2
import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

PIECE = 2**20
"""Bytes that are unpacked at once."""
DIRECTORY_BYTES = 1024
"""The directory of an archive may have so many bytes for each file that is allowed, and 64 KiB more."""
DICTIONARY_MOST = 64 * 2**20
"""Largest memory that LZMA may ask for; 7-Zip's strongest setting for zips takes so much."""
LOCAL = struct.Struct("<4s5H3L2H")
"""The header before each member (PKWARE's APPNOTE, 4.3.7)."""
LOCAL_SIGNATURE = b"PK\x03\x04"
METHODS = {
    zipfile.ZIP_STORED: "stored",
    zipfile.ZIP_DEFLATED: "Deflate",
    zipfile.ZIP_BZIP2: "bzip2",
    zipfile.ZIP_LZMA: "LZMA",
}
DAMAGED = (OSError, EOFError, ValueError, IndexError, struct.error, zlib.error, lzma.LZMAError, OverflowError)
NOT_READ = "This file is not a zip that can be read: pack it again."


@dataclass(frozen=True)
class Member:
    """A file in an archive; folders are none."""

    name: str
    """A relative path with "/", unless ``problem`` says otherwise."""
    size: int
    """Bytes when unpacked, as the archive claims; more is never read."""
    problem: str
    """Why it cannot be read, as a sentence; empty where nothing speaks against it."""
    info: zipfile.ZipInfo

    @property
    def file(self) -> str:
        """The last part of its name, short enough for a sentence."""
        return PurePosixPath(self.name).name[:60]


class Archive:
    """An open zip; made by :func:`open_archive`."""

    def __init__(self, file: BinaryIO, infos: list[zipfile.ZipInfo]) -> None:
        seen: set[str] = set()
        self._file, self.members = file, []
        for info in infos:
            name = info.filename.replace("\\", "/")
            if not info.is_dir():
                self.members.append(Member(name, info.file_size, _problem(info, name, seen), info))
                seen.add(name)

    def pieces(self, member: Member, most: int) -> Iterator[bytes]:
        """The content of ``member`` in pieces of at most :data:`PIECE` bytes.

        Raises:
            ValueError: one sentence, if it has more than ``most`` bytes, cannot be read, or is damaged (known at its end only).
        """
        if member.problem:
            raise ValueError(member.problem)
        if member.size > most:
            raise ValueError(f"{member.file} unpacks to more than {_size(most)}: leave it out, or make it smaller.")
        size, checksum = 0, 0
        try:
            for piece in self._unpacked(member.info):
                size, checksum = size + len(piece), zlib.crc32(piece, checksum)
                if size > member.size:
                    raise ValueError(size)
                yield piece
            if size != member.size or checksum != member.info.CRC:
                raise ValueError(size)
        except DAMAGED as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk's trouble, not the archive's
                raise
            raise ValueError(f"{member.file} is damaged in the zip: pack it again.") from error

    def read(self, member: Member, most: int) -> bytes:
        """All of it at once; errors as :meth:`pieces`."""
        return b"".join(self.pieces(member, most))

    def _unpacked(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        if info.header_offset < 0:
            raise ValueError(info.header_offset)
        self._file.seek(info.header_offset)
        signature, _, flags, *_, name, extra = LOCAL.unpack(self._file.read(LOCAL.size))
        if signature != LOCAL_SIGNATURE or flags & 1:
            raise ValueError(signature)
        self._file.seek(name + extra, 1)
        left = info.compress_size
        if info.compress_type == zipfile.ZIP_LZMA:
            start = self._file.read(4)
            length = struct.unpack("<2xH", start)[0]
            unpack: Callable[[bytes], Iterator[bytes]] = _bounded(_lzma(self._file.read(length)))
            left -= 4 + length
        else:
            unpack = {
                zipfile.ZIP_STORED: lambda: _stored,
                zipfile.ZIP_DEFLATED: _deflate,
                zipfile.ZIP_BZIP2: lambda: _bounded(bz2.BZ2Decompressor()),
            }[info.compress_type]()
        while left > 0:
            packed = self._file.read(min(left, 2**16))
            if not packed:
                raise EOFError(left)
            left -= len(packed)
            yield from unpack(packed)


@contextmanager
def open_archive(source: str | Path | BinaryIO, most: int) -> Iterator[Archive]:
    """A zip with at most ``most`` files, open for the length of the block.

    Raises:
        ValueError: it is no zip, is damaged, or holds more files.
    """
    with open(source, "rb") if isinstance(source, str | Path) else _kept(source) as file:
        try:
            with zipfile.ZipFile(_Short(file, DIRECTORY_BYTES * most + 2**16)) as archive:
                infos = archive.infolist()
        except _TooLong:
            raise ValueError(
                f"The zip's list of files is too long, at most {most:,} files are read: divide it."
            ) from None
        except (zipfile.BadZipFile, NotImplementedError, *DAMAGED) as error:
            raise ValueError(NOT_READ) from error
        opened = Archive(file, infos)
        if len(opened.members) > most:
            raise ValueError(f"The zip holds {len(opened.members):,} files and at most {most:,} are read: divide it.")
        yield opened


class _TooLong(Exception):
    """The directory claims more bytes than are read."""


class _Short:
    """A file of which no more than ``most`` bytes are read at once: the directory, whose length the archive itself tells."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file, self._most = file, most
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(self._most + 1 if count < 0 else min(count, self._most + 1))
        if len(data) > self._most:
            raise _TooLong
        return data


@contextmanager
def _kept(file: BinaryIO) -> Iterator[BinaryIO]:
    yield file


def _problem(info: zipfile.ZipInfo, name: str, seen: set[str]) -> str:
    file = PurePosixPath(name).name[:60]
    if name.startswith("/") or PureWindowsPath(name).drive or ".." in PurePosixPath(name).parts:
        return f"{name[:60]} is a path that leads out of the zip: pack it again, from inside its folder."
    if name in seen:
        return f"{file} is in the zip more than once: keep one of them."
    if info.flag_bits & (1 | 1 << 6 | 1 << 13):
        return f"{file} is encrypted: pack it again without a password."
    if info.create_system == 3 and stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        return f"{file} is a link and no file: pack the file itself."
    if info.compress_type not in METHODS or info.flag_bits & 1 << 5:
        *others, last = METHODS.values()
        return f"{file} is packed in a way that is not read here ({', '.join(others)} and {last} are): pack it again."
    return ""


def _stored(packed: bytes) -> Iterator[bytes]:
    yield packed


def _deflate() -> Callable[[bytes], Iterator[bytes]]:
    made = zlib.decompressobj(-zlib.MAX_WBITS)

    def unpack(packed: bytes) -> Iterator[bytes]:
        more = True
        while more and not made.eof:
            piece = made.decompress(packed, PIECE)
            packed = made.unconsumed_tail
            more = bool(packed) or len(piece) == PIECE
            yield piece

    return unpack


def _bounded(made: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> Callable[[bytes], Iterator[bytes]]:
    def unpack(packed: bytes) -> Iterator[bytes]:
        while not made.eof:
            piece = made.decompress(packed, PIECE)
            packed = b""
            if piece:
                yield piece
            if made.needs_input:
                return

    return unpack


def _lzma(properties: bytes) -> lzma.LZMADecompressor:
    """A decoder by the five bytes before the data: lc, lp and pb in one, then the size of the dictionary."""
    packed, dictionary = struct.unpack("<BL", properties)
    if dictionary > DICTIONARY_MOST:
        raise ValueError(dictionary)
    rest, lc = divmod(packed, 9)
    pb, lp = divmod(rest, 5)
    one = {"id": lzma.FILTER_LZMA1, "dict_size": max(dictionary, 4096), "lc": lc, "lp": lp, "pb": pb}
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[one])


def _size(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB" if count >= 2**20 else f"{count:,} bytes"
