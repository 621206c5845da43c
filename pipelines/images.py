"""Pictures at the edges of the studio: value ranges, PIL, and PNG files that carry their own settings.

A picture tensor is (batch, channels, height, width), RGB. Models work in [-1, 1] ("signed"), everything else
in [0, 1] ("unit"); `to_signed` and `to_unit` are the only way between the two, and only this file talks to PIL.

A PNG that the studio writes holds a JSON text with everything needed to make it again, and says in the words
of the IPTC vocabulary that a trained model made it. `read_settings` reads that text without decoding any pixel,
so that a picture built to harm (a bomb, a huge text) is refused from its headers.
"""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

SOFTWARE = "Latent Studio"
KEYWORD = "latent-studio"
"""The PNG text chunk that holds the settings."""
FORMAT = 1
"""Version of the JSON inside; raise it when a reader of the old one would misunderstand."""
MAX_PIXELS = 25_000_000
"""Largest picture that is decoded; 5000 x 5000."""
MAX_TEXT = 64 * 1024
"""Longest settings text that is read, in bytes."""
MAX_CHUNKS = 10_000
"""More chunks than this are not a picture of ours; 8 KiB chunks of a 25-megapixel RGB picture are about 9,200."""
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    ' xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
    f' Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}" xmp:CreatorTool="{SOFTWARE}"/>'
    "</rdf:RDF></x:xmpmeta>"
)


# --- tensors ---------------------------------------------------------------------------------------------------


def to_signed(unit: torch.Tensor) -> torch.Tensor:
    """[0, 1] to [-1, 1]."""
    return unit * 2 - 1


def to_unit(signed: torch.Tensor) -> torch.Tensor:
    """[-1, 1] to [0, 1]; what lies outside is clipped."""
    return (signed / 2 + 0.5).clamp(0, 1)


def to_pil(unit: torch.Tensor) -> list[Image]:
    """(batch, 3, height, width) in [0, 1] to one RGB picture each, rounded to the nearest of 256 levels."""
    from PIL import Image

    if unit.ndim != 4 or unit.shape[1] != 3:
        raise ValueError(f"expected pictures of shape (batch, 3, height, width), got {tuple(unit.shape)}")
    levels = (unit.detach().float().clamp(0, 1) * 255).round().to("cpu").byte()
    return [Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()) for picture in levels]


def from_pil(image: Image) -> torch.Tensor:
    """A picture to (1, 3, height, width) in [0, 1], float32."""
    import numpy
    import torch

    array = numpy.array(image.convert("RGB"))
    return torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255


# --- writing ---------------------------------------------------------------------------------------------------


def save_png(
    image: Image, path: str | Path, settings: Mapping[str, Any], *, tab: str = "", models: Sequence[str] = ()
) -> Path:
    """Write `image` with its `settings` inside. The same arguments give the same bytes.

    `settings` must survive JSON (no NaN); `tab` names the page that made it and `models` the keys of the models
    that answered.
    """
    from PIL.PngImagePlugin import PngInfo

    record = {"format": FORMAT, "tab": tab, "settings": dict(settings), "models": list(models)}
    text = json.dumps(record, sort_keys=True, ensure_ascii=False, allow_nan=False)
    if len(text.encode()) > MAX_TEXT:
        raise ValueError(f"the settings take {len(text.encode())} bytes and at most {MAX_TEXT} fit: shorten them")
    info = PngInfo()
    info.add_text("Software", SOFTWARE)
    info.add_itxt(KEYWORD, text)
    info.add_itxt("XML:com.adobe.xmp", _XMP)
    path = Path(path)
    image.convert("RGB").save(path, format="PNG", pnginfo=info, compress_level=6)
    return path


# --- reading ---------------------------------------------------------------------------------------------------


def read_settings(path: str | Path, tab: str | None = None) -> dict[str, Any]:
    """The record that `save_png` wrote: `{"format", "tab", "settings", "models"}`. No pixel is decoded.

    Raises ValueError with one sentence when the file is no PNG, is cut short or damaged, is too large, or holds no
    settings of ours (or those of another `tab`). The values inside are as the file claims them: check them before
    use, as `Settings.validated()` does.
    """
    text = None
    with open(path, "rb") as file:
        _png_size(file)
        for kind, body in _chunks(file, os.fstat(file.fileno()).st_size):
            if kind == b"iTXt" and body.startswith(KEYWORD.encode() + b"\0"):
                text = text if text is not None else _international_text(body)
    if text is None:
        raise ValueError("This PNG holds no settings: drop one that Latent Studio wrote, unedited.")
    return _record(text, tab)


def open_upload(path: str | Path, max_side: int = 2048) -> Image:
    """A visitor's picture as upright RGB without metadata, at most `max_side` pixels long. Sizes are checked first."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            check_size(*image.size)
            image.draft("RGB", (max_side, max_side))
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except Image.DecompressionBombError as error:
        raise ValueError(f"The picture is too large: at most {MAX_PIXELS:,} pixels are accepted.") from error
    except UnidentifiedImageError as error:
        raise ValueError("This file is not a picture that can be read: use a PNG, JPEG or WebP.") from error
    except (OSError, SyntaxError, struct.error, zlib.error) as error:
        raise ValueError("This picture is damaged or cut short: save or download it again.") from error
    upright.thumbnail((max_side, max_side))
    upright.info.clear()
    return upright


def open_picture(source: str | Path | BinaryIO | Image) -> Image:
    """Any picture as upright RGB of its full size: EXIF rotation, colour profile, CMYK, 16 bits, palette; alpha lies over
    white, of an animation the first frame is taken. The size is checked before any pixel is decoded.

    Raises:
        ValueError: it is too large, damaged or no picture, in one sentence.
    """
    from PIL import Image as Images
    from PIL import UnidentifiedImageError

    if isinstance(source, Images.Image):
        check_size(*source.size)
        return _as_rgb(source)
    try:
        with Images.open(source) as image:
            check_size(*image.size)
            return _as_rgb(image)
    except Images.DecompressionBombError as error:
        raise ValueError(f"The picture is too large: at most {MAX_PIXELS:,} pixels are accepted.") from error
    except UnidentifiedImageError as error:
        raise ValueError("This file is not a picture that can be read: use a PNG, JPEG or WebP.") from error
    except (OSError, SyntaxError, struct.error, zlib.error) as error:
        raise ValueError("This picture is damaged or cut short: save or download it again.") from error


def _as_rgb(image: Image) -> Image:
    from PIL import Image as Images
    from PIL import ImageOps

    profile = image.info.get("icc_profile")
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        upright = Images.fromarray((unit_levels(upright) * 255).round().astype(numpy.uint8))
    elif upright.mode in ("P", "PA", "LA", "La", "RGBa", "1") or "transparency" in upright.info:
        # `La` and `RGBa` hold colours times alpha and are converted one way only; a palette may hide transparency.
        through = {"La": "LA", "RGBa": "RGBA"}.get(upright.mode)
        upright = (upright.convert(through) if through else upright).convert("RGBA")
    alpha = upright.getchannel("A") if upright.mode == "RGBA" else None
    colours = _in_srgb(upright.convert("RGB") if alpha is not None else upright, profile)
    if alpha is not None:
        white = Images.new("RGB", colours.size, "white")
        white.paste(colours, mask=alpha)
        colours = white
    plain = Images.new("RGB", colours.size)  # without the metadata of the file, which may name its owner
    plain.paste(colours)
    return plain


def unit_levels(image: Image) -> NDArray[numpy.float32]:
    """Grey levels of more than 8 bits in [0, 1]: 16-bit whole numbers by 65535, floats by 1 or 255 or their maximum."""
    levels = numpy.nan_to_num(numpy.asarray(image).astype(numpy.float32))
    most = float(levels.max(initial=0.0))
    if image.mode == "F":
        full = 1.0 if most <= 1 else 255.0 if most <= 255 else most
    else:
        full = 65535.0 if most <= 65535 else most
    return numpy.clip(levels / full, 0, 1)


def _in_srgb(image: Image, profile: bytes | None) -> Image:
    """RGB in sRGB; a profile that is broken or belongs to other channels is passed over."""
    if profile and image.mode in ("RGB", "CMYK", "L"):
        from PIL import ImageCms

        try:
            given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "sRGB" not in (ImageCms.getProfileDescription(given) or ""):
                return ImageCms.profileToProfile(image, given, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass
    return image.convert("RGB")


def _png_size(file: BinaryIO) -> tuple[int, int]:
    """Width and height from the header; leaves `file` at its first chunk."""
    head = file.read(33)
    if not head.startswith(_SIGNATURE):
        raise ValueError("This file is not a PNG, whatever its name says: drop a PNG that Latent Studio wrote.")
    if len(head) < 33 or head[12:16] != b"IHDR":
        raise ValueError("This PNG is cut short or damaged: download it again.")
    width, height = struct.unpack(">II", head[16:24])
    check_size(width, height)
    file.seek(len(_SIGNATURE))
    return width, height


def check_size(width: int, height: int) -> None:
    """Refuse a picture by its header, before any pixel is decoded.

    Raises:
        ValueError: it has no pixels, or more than :data:`MAX_PIXELS`.
    """
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise ValueError(
            f"The picture is {width:,} x {height:,} pixels and at most {MAX_PIXELS:,} in all are accepted: "
            "make it smaller first."
        )


def _chunks(file: BinaryIO, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Each chunk's kind, with the body of our text chunks and an empty body for all others, which are skipped."""
    for _ in range(MAX_CHUNKS):
        header = file.read(8)
        if len(header) < 8:
            raise ValueError("This PNG is cut short: download it again.")
        length, kind = struct.unpack(">I4s", header)
        start = file.tell()
        if start + length + 4 > size:
            raise ValueError("This PNG is cut short: download it again.")
        body = b""
        if kind == b"iTXt" and file.read(len(KEYWORD) + 1) == KEYWORD.encode() + b"\0":
            if length > MAX_TEXT + 64:
                raise ValueError(
                    f"The settings in this PNG take {length:,} bytes and at most {MAX_TEXT:,} are read: "
                    "drop one that Latent Studio wrote."
                )
            file.seek(start)
            body = file.read(length)
            (checksum,) = struct.unpack(">I", file.read(4))
            if checksum != zlib.crc32(kind + body):
                raise ValueError("The settings in this PNG are damaged: download it again.")
        yield kind, body
        if kind == b"IEND":
            return
        file.seek(start + length + 4)
    raise ValueError("This PNG has too many parts to be one of ours: drop one that Latent Studio wrote.")


def _international_text(body: bytes) -> str:
    """The text of an iTXt chunk: keyword, 0, compressed?, method, language, 0, translated keyword, 0, text."""
    rest = body[len(KEYWORD) + 1 :]
    fields = rest[2:].split(b"\0", 2)
    # We never compress: a compressed text is not ours, and unpacking it could fill the memory.
    if len(rest) < 2 or rest[0] != 0 or len(fields) != 3:
        raise ValueError("The settings in this PNG are not in our form: drop one that Latent Studio wrote.")
    try:
        return fields[2].decode()
    except UnicodeDecodeError as error:
        raise ValueError("The settings in this PNG are not text: drop one that Latent Studio wrote.") from error


def _record(text: str, tab: str | None) -> dict[str, Any]:
    """Parse and check the outer form; the settings themselves are checked by the tab's own class."""
    unreadable = "The settings in this PNG cannot be read: drop one that Latent Studio wrote, unedited."
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(unreadable) from error
    if not isinstance(record, dict) or not isinstance(record.get("settings"), dict):
        raise ValueError(unreadable)
    if record.get("format") != FORMAT:
        raise ValueError(
            f"The settings in this PNG have format {str(record.get('format'))[:20]!r} "
            f"and this version reads {FORMAT}: update Latent Studio."
        )
    if tab is not None and record.get("tab") != tab:
        raise ValueError(f"This PNG was made on the page {str(record.get('tab'))[:40]!r}: drop it there.")
    return {"format": FORMAT, "tab": "", "models": [], **record}
