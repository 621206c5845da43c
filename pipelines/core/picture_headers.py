"""What a picture file says of itself before any decoder sees it: PNG, JPEG and WebP, read from their bytes.

A decoder trusts the file; this module does not. It finds the kind by the content, never by the name, and refuses what would cost
minutes: too many pixels, parts or scans. Everything here looks at a few thousand headers at most.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

KINDS = ("PNG", "JPEG", "WEBP")
"""What is read, in Pillow's names."""
SAVE_AS = "save it as PNG, JPEG or WebP"
MAX_CHUNKS = 10_000
"""More parts than this are no picture: 8 KiB chunks of a 25-megapixel RGB picture are about 9,200."""
MAX_SCANS = 100
"""A progressive JPEG has about ten; each costs a pass over all pixels, and one of a few bytes as much as any."""
NO_PICTURE = "This file is not a picture that can be read: use a PNG, JPEG or WebP."
DAMAGED = "This picture is damaged or cut short: save or download it again."

_PNG = b"\x89PNG\r\n\x1a\n"
_OTHERS = {
    b"GIF8": "a GIF", b"BM": "a BMP", b"II*\0": "a TIFF", b"MM\0*": "a TIFF", b"II+\0": "a TIFF", b"MM\0+": "a TIFF",
    b"%!PS": "a PostScript file", b"\xc5\xd0\xd3\xc6": "a PostScript file", b"%PDF": "a PDF", b"DDS ": "a DDS texture",
    b"qoif": "a QOI", b"icns": "an icon file", b"\0\0\1\0": "an icon file", b"\0\0\2\0": "an icon file", b"8BPS": "a Photoshop file",
    b"P1": "a PNM", b"P2": "a PNM", b"P3": "a PNM", b"P4": "a PNM", b"P5": "a PNM", b"P6": "a PNM", b"PF": "a PFM", b"Pf": "a PFM",
    b"\xd7\xcd\xc6\x9a": "a Windows metafile", b"\1\0\0\0": "a Windows metafile", b"\0\0\0\x0cjP": "a JPEG 2000", b"\xff\x4f\xff\x51": "a JPEG 2000",
    b"\0\0\0\x0cJXL": "a JPEG XL", b"\xff\x0a": "a JPEG XL", b"<svg": "an SVG", b"<?xml": "an SVG or XML file", b"PK\3\4": "a zip archive",
}  # fmt: skip
_BRANDS = {
    b"avif": "an AVIF",
    b"avis": "an AVIF",
    b"heic": "a HEIC",
    b"heix": "a HEIC",
    b"mif1": "a HEIF",
    b"hevc": "a HEIC",
}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""PNG's colour types and the bits a channel that each may have."""


@dataclass(frozen=True)
class Header:
    """A file's own words, not checked against its pixels."""

    kind: str
    """One of :data:`KINDS`."""
    width: int
    height: int
    bits: int = 8
    """A channel."""
    frames: int = 1
    """Pictures of an animation; 2 where a WebP does not say how many."""
    gamma: float | None = None
    """Of a PNG that asks for one and has neither a profile nor the sRGB mark."""


def read(data: bytes) -> Header:
    """The header of a whole file.

    Raises:
        ValueError: it is another kind of file, damaged, or made to cost time; one sentence.
    """
    try:
        if data.startswith(_PNG):
            return _png(data)
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError) as error:
        raise ValueError(DAMAGED) from error
    raise ValueError(_other(data))


def _other(data: bytes) -> str:
    if not data:
        return "This file is empty: save or send the picture again."
    start = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    found = _BRANDS.get(data[8:12]) if data[4:8] == b"ftyp" else None
    found = found or next((name for sign, name in _OTHERS.items() if data.startswith(sign)), None)
    found = found or next((_OTHERS[sign] for sign in (b"<svg", b"<?xml") if start.startswith(sign)), None)
    return NO_PICTURE if found is None else f"This file is {found}, whatever its name says: {SAVE_AS}."


def _png(data: bytes) -> Header:
    length, first = struct.unpack(">I4s", data[8:16])
    width, height, bits, colour, method, filtering, interlace = struct.unpack(">IIBBBBB", data[16:29])
    known = bits in _DEPTHS.get(colour, ()) and method == filtering == 0 and interlace in (0, 1)
    if first != b"IHDR" or length != 13 or not known:
        raise ValueError(DAMAGED)
    place, frames, profiles, gamma, marked, pixels = 8, 1, 0, None, False, False
    for _ in range(MAX_CHUNKS):
        if place + 8 > len(data):
            break
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        if place + 12 + length > len(data):
            raise ValueError(DAMAGED)
        if kind == b"IEND":
            break
        body = place + 8
        if kind == b"acTL" and length >= 4:
            frames = max(1, struct.unpack(">I", data[body : body + 4])[0])
        elif kind == b"gAMA" and length >= 4:
            gamma = struct.unpack(">I", data[body : body + 4])[0] / 100_000
        profiles += kind == b"iCCP"
        marked = marked or kind in (b"sRGB", b"iCCP", b"cICP")
        pixels = pixels or kind == b"IDAT"
        place += 12 + length
    else:
        raise ValueError("This PNG has too many parts to be a picture: save it again.")
    if not pixels or profiles > 1:
        raise ValueError(DAMAGED)
    return Header("PNG", width, height, bits, frames, None if marked else gamma)


def _jpeg(data: bytes) -> Header:
    if data.count(b"\xff\xda") > MAX_SCANS:
        raise ValueError(f"This JPEG has more than {MAX_SCANS} scans, which would take minutes: save it again.")
    place, size, bits = 2, None, 8
    for _ in range(MAX_CHUNKS):
        if data[place] != 0xFF:
            raise ValueError(DAMAGED)
        if data[place + 1] == 0xFF:  # padding; more than a little is none
            place += 1
            continue
        marker = data[place + 1]
        if marker == 0xD9:
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            place += 2
            continue
        (length,) = struct.unpack(">H", data[place + 2 : place + 4])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if marker not in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA):
                raise ValueError(f"This JPEG is of a rare kind that is not read: {SAVE_AS}.")
            bits, height, width = struct.unpack(">BHH", data[place + 4 : place + 9])
            size = width, height
        elif marker == 0xDA:
            if size is None:
                raise ValueError(DAMAGED)
            if bits != 8:
                raise ValueError(f"This JPEG has {bits} bits a channel, which is not read: {SAVE_AS} of 8 bits.")
            return Header("JPEG", *size)
        if length < 2:
            raise ValueError(DAMAGED)
        place += 2 + length
    raise ValueError(DAMAGED)


def _webp(data: bytes) -> Header:
    kind, body = data[12:16], 20
    if kind == b"VP8X":
        flags = data[body]
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (body + 4, body + 7))
        return Header("WEBP", width, height, frames=max(2, data.count(b"ANMF")) if flags & 2 else 1)
    if kind == b"VP8L":
        if data[body] != 0x2F:
            raise ValueError(DAMAGED)
        (packed,) = struct.unpack("<I", data[body + 1 : body + 5])
        return Header("WEBP", 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF))
    if kind == b"VP8 " and data[body + 3 : body + 6] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", data[body + 6 : body + 10])
        return Header("WEBP", width & 0x3FFF, height & 0x3FFF)
    raise ValueError(DAMAGED)
