"""Pictures at the edges of the studio: value ranges, PIL, and PNG files that carry their own settings.

A picture tensor is (batch, channels, height, width), RGB. Models work in [-1, 1] ("signed"), everything else
in [0, 1] ("unit"); `to_signed` and `to_unit` are the only way between the two, and only this file talks to PIL.

A PNG that the studio writes holds a JSON text with everything needed to make it again, and says in the words
of the IPTC vocabulary that a trained model made it. `read_settings` reads that text without decoding any pixel,
so that a picture built to harm (a bomb, a huge text) is refused from its headers.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

import numpy
import PIL.JpegImagePlugin  # registers itself, as the next one does
import PIL.WebPImagePlugin  # noqa: F401
from numpy.typing import NDArray
from PIL import ExifTags, ImageChops, ImageCms, ImageOps
from PIL import Image as Images
from PIL.Image import Image
from PIL.PngImagePlugin import PngInfo

from pipelines.core import picture_headers
from pipelines.core.picture_headers import KINDS, MAX_CHUNKS, Header

if TYPE_CHECKING:
    import torch
    from PIL.ImageFile import ImageFile

log = logging.getLogger(__name__)

Picture = NDArray[numpy.uint8]
"""(H, W, 3) RGB."""
SOFTWARE = "Latent Studio"
KEYWORD = "latent-studio"
"""The PNG text chunk that holds the settings."""
FORMAT = 1
"""Version of the JSON inside; raise it when a reader of the old one would misunderstand."""
MAX_PIXELS = 25_000_000
"""Largest picture that is decoded; 5000 x 5000."""
MAX_TEXT = 64 * 1024
"""Longest settings text that is read, in bytes."""
MAX_SIDE = 30_000
"""OpenCV addresses no more columns than 32,767."""
MAX_BYTES = 64 * 2**20
"""Largest file of a picture."""
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
    if unit.ndim != 4 or unit.shape[1] != 3:
        raise ValueError(f"expected pictures of shape (batch, 3, height, width), got {tuple(unit.shape)}")
    levels = (unit.detach().float().clamp(0, 1) * 255).round().to("cpu").byte()
    return [Images.fromarray(picture.permute(1, 2, 0).contiguous().numpy()) for picture in levels]


# --- writing ---------------------------------------------------------------------------------------------------


def save_png(
    image: Image, path: str | Path, settings: Mapping[str, Any], *, tab: str = "", models: Sequence[str] = ()
) -> Path:
    """Write `image` with its `settings` inside. The same arguments give the same bytes.

    `settings` must survive JSON (no NaN); `tab` names the page that made it and `models` the keys of the models
    that answered.
    """
    record = {"format": FORMAT, "tab": tab, "settings": dict(settings), "models": list(models)}
    text = json.dumps(record, sort_keys=True, ensure_ascii=False, allow_nan=False)
    if len(text.encode()) > MAX_TEXT:
        raise ValueError(f"the settings take {len(text.encode())} bytes and at most {MAX_TEXT} fit: shorten them")
    info = PngInfo()
    info.add_text("Software", SOFTWARE)
    info.add_itxt(KEYWORD, text)
    info.add_itxt("XML:com.adobe.xmp", _XMP)
    path = Path(path)
    image = image if image.mode == "RGBA" else image.convert("RGB")
    image.save(path, format="PNG", pnginfo=info, compress_level=6)
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


class _Refused(ValueError):
    """A sentence of ours, where a decoder's words are caught too."""


def only_our_decoders() -> None:
    """From here on this process opens :data:`~pipelines.core.picture_headers.KINDS` and nothing else, whoever asks.

    Pillow chooses a decoder by a file's content, and one of them starts Ghostscript. We name the formats wherever we open a file;
    libraries that open one by themselves (Gradio does) get no other decoder, not even from a plugin that is imported later.
    """
    if Images.register_open.__module__ != __name__:  # not yet ours
        Images.init()  # what writes other formats registers now, so that nothing need be looked for later
        register = Images.register_open

        def registered(
            id: str,
            factory: Callable[[IO[bytes], str | bytes], ImageFile],
            accept: Callable[[bytes], bool | str] | None = None,
        ) -> None:
            if id.upper() in KINDS:
                register(id, factory, accept)

        Images.register_open = registered
    Images.ID[:] = KINDS
    for other in set(Images.OPEN) - set(KINDS):
        del Images.OPEN[other]
    Images.MAX_IMAGE_PIXELS = MAX_PIXELS


@dataclass(frozen=True, eq=False)
class Opened:
    """A picture that came in."""

    image: Image
    """Upright RGB in sRGB of its full size, without metadata; transparent parts lie over white. What the models get."""
    layered: Image | None
    """The same as RGBA, with the colours under its transparent parts; None where nothing is transparent."""
    notes: tuple[str, ...]
    """A sentence for each thing that the file has and no result of 8 bits in sRGB can give back."""


def opened(
    source: str | Path | bytes | BinaryIO | Image,
    check: Callable[[tuple[int, int]], Any] | None = None,
    kinds: Sequence[str] = KINDS,
) -> Image:
    """A visitor's picture, upright, in its file's own mode. **The one place where a file is decoded.**

    The kind is read from the content and its size from the header, before any decoder sees the file; only the decoder of that kind is
    tried. A picture that is open already is only turned upright.

    Args:
        check: called with (width, height) to refuse a picture before its pixels are decoded; where the file may lie turned, after it.
        kinds: of :data:`~pipelines.core.picture_headers.KINDS`, those that are taken here.

    Raises:
        ValueError: it is too large, damaged, or another kind of file; one sentence. What the decoder said is in the log.
    """
    if isinstance(source, Images.Image):
        check_size(*source.size)
        upright = _upright(source)
        if check is not None:
            check(upright.size)
        return upright
    data = _bytes_of(source)
    header = picture_headers.read(data)
    if header.kind not in kinds:
        raise ValueError(f"This file is a {header.kind} and {' or '.join(kinds)} is wanted here: save it so.")
    check_size(header.width, header.height)
    if check is not None and not any(mark in data for mark in (b"xif", b"XIF", b"Orientation")):
        check((header.width, header.height))
    with _in_our_words():
        image = Images.open(io.BytesIO(data), formats=[header.kind])
        check_size(*image.size)
        image.load()
        upright = _upright(image)
    upright.info["header"] = header
    upright.info["frames"] = max(header.frames, getattr(image, "n_frames", 1))
    if check is not None:
        check(upright.size)
    return upright


def open_upload(source: str | Path | bytes | BinaryIO | Image) -> Opened:
    """A visitor's picture as the models take it, with its transparency, and what of it a result cannot give back.

    EXIF rotation, colour profile, CMYK, 16 bits and palette are followed. Raises as :func:`opened` does.
    """
    return _as_rgb(opened(source))


def open_picture(source: str | Path | bytes | BinaryIO | Image) -> Image:
    """:attr:`Opened.image` of :func:`open_upload`."""
    return open_upload(source).image


def over_white(image: Image) -> Image:
    """RGB; transparent parts lie over white."""
    white = Images.new("RGB", image.size, "white")
    white.paste(image.convert("RGB"), mask=image.getchannel("A") if image.mode == "RGBA" else None)
    return white


def _bytes_of(source: str | Path | bytes | BinaryIO) -> bytes:
    """The file as a whole, so that what is checked is what is decoded."""
    if isinstance(source, bytes):
        data = source
    elif isinstance(source, str | Path):
        try:
            with open(source, "rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            log.info("a picture could not be read from the disk", exc_info=error)
            raise ValueError("The picture’s file is not there any more, or cannot be read: bring it again.") from error
    else:
        data = source.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(
            f"The picture's file has more than {MAX_BYTES >> 20} MiB, which is the most that is read: make it smaller first."
        )
    return data


@contextlib.contextmanager
def _in_our_words() -> Iterator[None]:
    """A decoder's error becomes a sentence of ours. It may be any: decoders fail on a stranger's bytes in ways that nobody listed."""
    try:
        yield
    except MemoryError as error:
        log.info("a picture was refused", exc_info=error)
        raise ValueError(
            "There is not enough memory for this picture now: make it smaller, or try again later."
        ) from error
    except Exception as error:
        if isinstance(error, _Refused):
            raise
        log.info("a picture was refused", exc_info=error)
        if isinstance(error, Images.DecompressionBombError):
            raise ValueError(f"The picture is too large: at most {MAX_PIXELS:,} pixels are accepted.") from error
        if "MAX_TEXT" in str(error):
            raise ValueError(
                "This PNG holds a text or a colour profile that is too long to be unpacked: save it again without metadata."
            ) from error
        raise ValueError(picture_headers.DAMAGED) from error


def _upright(image: Image) -> Image:
    """The picture, turned as its EXIF says; a broken EXIF says nothing."""
    try:
        lies = image.getexif().get(ExifTags.Base.Orientation, 1)
        return ImageOps.exif_transpose(image) if lies in range(2, 9) else image
    except Exception as error:  # as in _in_our_words; the pixels are decoded by now
        log.info("the EXIF of a picture was passed over", exc_info=error)
        return image


def _as_rgb(upright: Image) -> Opened:
    profile, frames = upright.info.get("icc_profile"), upright.info.get("frames", 1)
    header: Header | None = upright.info.get("header")
    notes = []
    if frames > 1:
        notes.append(
            "The file holds more than one picture (an animation, or a second exposure): only the first is used."
        )
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16") or (header is not None and header.bits > 8):
        notes.append("The file has 16 bits a channel and the result has 8: its finest steps are lost, in every pixel.")
    if header is not None and header.gamma is not None and abs(header.gamma - 1 / 2.2) > 0.01:
        notes.append(
            f"The file asks to be shown with a gamma of {header.gamma:.2f}, which is not followed: the result may look lighter or darker."
        )
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        hole = upright.info.get("transparency")
        seen = None if not isinstance(hole, int) else Images.fromarray(numpy.asarray(upright) != hole).convert("L")
        upright = Images.fromarray((unit_levels(upright) * 255).round().astype(numpy.uint8))
        if seen is not None:
            upright = Images.merge("LA", (upright, seen)).convert("RGBA")
    elif upright.mode in ("P", "PA", "LA", "La", "RGBa", "1") or "transparency" in upright.info:
        # `La` and `RGBa` hold colours times alpha and are converted one way only; a palette may hide transparency.
        through = {"La": "LA", "RGBa": "RGBA"}.get(upright.mode)
        upright = (upright.convert(through) if through else upright).convert("RGBA")
    elif upright.mode == "CMYK":
        notes.append("The file’s colours are CMYK and were converted to sRGB.")
    alpha = upright.getchannel("A") if upright.mode == "RGBA" else None
    colours, converted = _in_srgb(upright.convert("RGB") if alpha is not None else upright, profile)
    if converted and upright.mode != "CMYK":
        notes.append(converted)
    plain = Images.new("RGB", colours.size, "white")  # without the metadata of the file, which may name its owner
    plain.paste(colours, mask=alpha)
    layered = None
    if alpha is not None and alpha.getextrema() != (255, 255):
        layered = Images.merge("RGBA", (*colours.split(), alpha))
    return Opened(plain, layered, tuple(notes))


def unit_levels(image: Image) -> NDArray[numpy.float32]:
    """Grey levels of more than 8 bits in [0, 1]: 16-bit whole numbers by 65535, floats by 1 or 255 or their maximum."""
    levels = numpy.nan_to_num(numpy.asarray(image).astype(numpy.float32))
    most = float(levels.max(initial=0.0))
    if image.mode == "F":
        full = 1.0 if most <= 1 else 255.0 if most <= 255 else most
    else:
        full = 65535.0 if most <= 65535 else most
    return numpy.clip(levels / full, 0, 1)


def _in_srgb(image: Image, profile: bytes | None) -> tuple[Image, str]:
    """RGB in sRGB, and a sentence where that changed colours; a profile that is broken or belongs to other channels is passed over."""
    if profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            name = " ".join((ImageCms.getProfileDescription(given) or "").split())[:60]
            if "sRGB" not in name:
                made = ImageCms.profileToProfile(image, given, ImageCms.createProfile("sRGB"), outputMode="RGB")
                assert made is not None  # only what is changed in place is not given back
                before, after = (
                    one.resize((64, 64), Images.Resampling.NEAREST).convert("RGB") for one in (image, made)
                )
                moved = numpy.asarray(ImageChops.difference(before, after)).max()
                words = f"The file’s colours are those of the profile {name!r} and were converted to sRGB: what sRGB lacks is clipped."
                return made, words if moved > 1 else ""
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass
    return image.convert("RGB"), ""


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
        raise _Refused(
            f"The picture is {width:,} x {height:,} pixels and at most {MAX_PIXELS:,} in all are accepted: "
            "make it smaller first."
        )
    if max(width, height) > MAX_SIDE:
        raise _Refused(
            f"The picture is {width:,} x {height:,} pixels and no side may have more than {MAX_SIDE:,}: cut it into parts."
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
    models = record.setdefault("models", [])
    if not isinstance(models, list) or not all(isinstance(one, str) for one in models):
        raise ValueError(unreadable)
    if record.get("format") != FORMAT:
        raise ValueError(
            f"The settings in this PNG have format {str(record.get('format'))[:20]!r} "
            f"and this version reads {FORMAT}: update Latent Studio."
        )
    if tab is not None and record.get("tab") != tab:
        raise ValueError(f"This PNG was made on the page {str(record.get('tab'))[:40]!r}: drop it there.")
    return {"format": FORMAT, "tab": "", **record}
