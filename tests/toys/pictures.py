"""Pictures and files of them, of every kind that a visitor may bring."""

from __future__ import annotations

import io

import numpy
from PIL import Image


def photograph(size: tuple[int, int] = (300, 200), seed: int = 0) -> Image.Image:
    """A smooth picture without symmetry."""
    rng = numpy.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=numpy.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str = "PNG", **options) -> io.BytesIO:
    data = io.BytesIO()
    image.save(data, kind, **options)
    data.seek(0)
    return data


def near(first: Image.Image, second: Image.Image, tolerance: float = 3.0) -> bool:
    if first.size != second.size or first.mode != "RGB":
        return False
    return numpy.abs(numpy.asarray(first, float) - numpy.asarray(second.convert("RGB"), float)).mean() < tolerance


def turned() -> io.BytesIO:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(photograph().transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)


def cmyk() -> io.BytesIO:
    return saved(photograph().convert("CMYK"), "JPEG", quality=95)


def sixteen_bits() -> io.BytesIO:
    levels = numpy.asarray(photograph().convert("L")).astype(numpy.uint16) * 257
    return saved(Image.fromarray(levels))


def animated() -> io.BytesIO:
    frames = [photograph(seed=seed) for seed in (0, 1)]
    return saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)


def palette_with_hole() -> io.BytesIO:
    picture = photograph().quantize(32)
    return saved(picture, transparency=0)


def png(pixels: numpy.ndarray) -> bytes:
    return saved(Image.fromarray(pixels)).getvalue()
