"""Zips that visitors send: all ways of packing are read, everything else is refused in a sentence, soon and in little memory."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import tempfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.core.archives import LOCAL, NOT_READ, open_archive

CONTENT = bytes(random.Random(0).randbytes(3000)) + bytes(3 * 2**20) + b"end"
METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
MANY = 600


def packed(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED, change: Callable | None = None) -> bytearray:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            if change is not None:
                change(info)
            archive.writestr(info, content)
    return bytearray(data.getvalue())


def read(data: bytes, most: int = 2**26) -> list[bytes | str]:
    """The content of every member, or the sentence about it."""
    found: list[bytes | str] = []
    with tempfile.TemporaryFile() as file, contextlib.ExitStack() as stack:
        file.write(data)
        archive = stack.enter_context(open_archive(file, MANY))
        for member in archive.members:
            try:
                found.append(archive.read(member, most))
            except ValueError as error:
                found.append(str(error))
    return found


def refusal(data: bytes) -> str:
    """The sentence about the whole archive; empty where it is read."""
    try:
        read(data)
    except ValueError as error:
        return str(error)
    return ""


def patched(data: bytearray, signature: bytes, at: int, code: str, value: int) -> bytearray:
    """The first header with that signature gets another value."""
    struct.pack_into("<" + code, data, data.index(signature) + at, value)
    return data


@pytest.mark.parametrize("method", METHODS)
def test_every_common_way_of_packing_is_read_in_pieces(method: int):
    data = packed({"a/b.bin": CONTENT, "empty": b""}, method)
    assert read(data) == [CONTENT, b""]
    with open_archive(io.BytesIO(data), MANY) as archive:
        pieces = list(archive.pieces(archive.members[0], len(CONTENT)))
        assert max(map(len, pieces)) <= 2**20 and archive.members[0].file == "b.bin"
        with pytest.raises(ValueError, match="b.bin unpacks to more than 3 MiB: leave it out, or make it smaller"):
            archive.read(archive.members[0], len(CONTENT) - 1)


def test_a_zip_written_as_a_stream_and_in_zip64_is_read(tmp_path: Path):
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_given: int) -> int:
            raise io.UnsupportedOperation

    stream = Pipe()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("folder") if hasattr(archive, "mkdir") else None
        with archive.open("folder/a", "w", force_zip64=True) as file:
            file.write(CONTENT)
    path = tmp_path / "a.zip"
    path.write_bytes(b"#! in front of it" + stream.getvalue())
    with open_archive(path, 1) as archive:
        assert [member.name for member in archive.members] == ["folder/a"]
        assert archive.read(archive.members[0], 2**24) == CONTENT


@pytest.mark.parametrize("method", METHODS)
def test_a_damaged_member_is_one_sentence_and_the_others_are_read(method: int):
    data = packed({"bad.bin": CONTENT, "good.bin": b"good"}, method)
    start = LOCAL.size + len("bad.bin")
    for at in (start, start + 5, start + 12, start + 1500):
        broken = bytearray(data)
        broken[at : at + 8] = b"\xff" * 8
        assert read(broken) == ["bad.bin is damaged in the zip: pack it again.", b"good"]


@pytest.mark.parametrize(
    ("signature", "at", "code", "value"),
    [
        (b"PK\1\2", 16, "L", 1),  # checksum
        (b"PK\1\2", 20, "L", 5),  # packed size, too small
        (b"PK\1\2", 20, "L", 2**31),  # too large
        (b"PK\1\2", 24, "L", 5),  # unpacked size
        (b"PK\1\2", 42, "L", 2**31),  # place
        (b"PK\1\2", 42, "L", 7),
        (b"PK\3\4", 0, "L", 7),  # no header there
        (b"PK\3\4", 26, "H", 65535),  # length of the name
        (b"PK\3\4", 6, "H", 1),  # encrypted after all
    ],
)
def test_headers_that_lie_are_noticed(signature: bytes, at: int, code: str, value: int):
    data = patched(packed({"a.bin": CONTENT}), signature, at, code, value)
    assert read(data) == ["a.bin is damaged in the zip: pack it again."]


def test_what_cannot_be_read_says_why():
    def link(info: zipfile.ZipInfo) -> None:
        info.create_system, info.external_attr = 3, 0o120777 << 16

    for method in (9, 12345, 93, 98):
        data = patched(packed({"a.bin": b"x"}), b"PK\1\2", 10, "H", method)
        assert read(data) == [
            "a.bin is packed in a way that is not read here (stored, Deflate, bzip2 and LZMA are): pack it again."
        ]
    assert read(patched(packed({"a": b"x"}), b"PK\1\2", 8, "H", 1)) == [
        "a is encrypted: pack it again without a password."
    ]
    assert read(packed({"a": b"/etc/passwd"}, change=link)) == ["a is a link and no file: pack the file itself."]
    for name in ("/etc/a", "../a", "b/../../a", "C:/a", "C:\\a", "..\\a", "//host/a"):
        (sentence,) = read(packed({name: b"x"}))
        assert sentence.endswith("is a path that leads out of the zip: pack it again, from inside its folder.")
    data = packed({"a": b"x", "b": b"y"}).replace(b"b", b"a")
    assert read(data) == [b"x", "a is in the zip more than once: keep one of them."]


def test_what_is_no_zip_is_one_sentence():
    whole = bytes(packed({"a.bin": b"x" * 100, "b.bin": b"y"}))
    assert refusal(b"") == refusal(b"PK\3\4") == refusal(b"x" * 10**6) == NOT_READ
    for length in range(0, len(whole), 7):
        assert refusal(whole[:length]) == NOT_READ
    end = b"PK\5\6"
    for at, code, value in ((12, "L", 60), (12, "L", 3), (16, "L", 2**31), (12, "L", 0)):
        data = patched(bytearray(whole), end, at, code, value)
        assert refusal(data) == NOT_READ or all("damaged in the zip" in found for found in read(data))
    version = patched(bytearray(whole), b"PK\1\2", 6, "H", 99)
    name = patched(packed({"a" * 9: b"x"}), b"PK\1\2", 8, "H", 0x800).replace(b"a" * 9, b"\xff" * 9)
    assert refusal(version) == refusal(name) == NOT_READ


def test_too_many_files_are_refused_from_the_directory():
    few = packed({f"{n}.png": b"" for n in range(MANY + 1)}, zipfile.ZIP_STORED)
    assert refusal(few) == "The zip holds 601 files and at most 600 are read: divide it."
    one = bytes(packed({"a": b""}, zipfile.ZIP_STORED))
    at, end = one.index(b"PK\1\2"), one.index(b"PK\5\6")
    entry, count = one[at:end], 300_000
    tail = one[end : end + 12] + struct.pack("<LLH", count * len(entry), at, 0)
    began = time.monotonic()
    assert "list of files is too long, at most 600" in refusal(one[:at] + entry * count + tail)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("method", METHODS[1:])
def test_a_bomb_takes_little_memory_and_time(method: int):
    """64 MiB of zeros that claim to be a kilobyte, and the same told honestly."""
    piece, data = bytes(2**24), io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as archive, archive.open("a.bin", "w", force_zip64=True) as file:
        for _ in range(4):
            file.write(piece)
    honest = bytearray(data.getvalue())
    began = time.monotonic()
    tracemalloc.start()
    lying = patched(bytearray(honest), b"PK\1\2", 24, "L", 1024)
    assert read(lying) == ["a.bin is damaged in the zip: pack it again."]
    assert read(honest, 2**20) == ["a.bin unpacks to more than 1 MiB: leave it out, or make it smaller."]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * 2**20 and time.monotonic() - began < 5, "8 MiB are LZMA's dictionary"


def test_lzma_may_not_ask_for_any_memory_it_likes():
    data = packed({"a.bin": CONTENT}, zipfile.ZIP_LZMA)
    at = LOCAL.size + len("a.bin") + 5
    struct.pack_into("<L", data, at, 2**32 - 1)
    assert read(data) == ["a.bin is damaged in the zip: pack it again."]


@pytest.mark.parametrize("method", METHODS)
def test_whatever_the_bytes_a_zip_is_read_or_refused_in_a_sentence(method: int):
    draw, whole = random.Random(method), packed({"a.bin": CONTENT[:2000], "b": b"text" * 30}, method)
    began = time.monotonic()
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            # Mostly in the headers.
            at = (
                draw.randrange(len(data))
                if draw.random() < 0.4
                else draw.choice((0, len(data) - 200)) + draw.randrange(60)
            )
            data[min(at, len(data) - 1)] = draw.choice((0, 1, 255, draw.randrange(256)))
        sentence = refusal(data[: draw.randrange(len(data))] if draw.random() < 0.1 else data)
        assert not sentence or (". " not in sentence and sentence.endswith("."))
    assert time.monotonic() - began < 10


def test_trouble_of_the_disk_is_not_called_damage():
    class Broken(io.BytesIO):
        bad = False

        def read(self, *given: int) -> bytes:
            if self.bad:
                raise OSError(5, "Input/output error")
            return super().read(*given)

    file = Broken(packed({"a": b"x"}))
    with open_archive(file, 1) as archive, pytest.raises(OSError, match="Input/output error"):
        file.bad = True
        archive.read(archive.members[0], 10)
