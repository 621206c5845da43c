"""Pictures of every kind are read upright, in their colours and over white; what cannot be read is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
from PIL import Image, ImageCms

from pipelines.core import images
from tests.toys.pictures import animated, cmyk, near, palette_with_hole, photograph, saved, sixteen_bits, turned


@pytest.mark.parametrize(
    ("file", "tolerance"),
    [
        (lambda: saved(photograph()), 0.1),
        (lambda: saved(photograph(), "JPEG", quality=95), 3),
        (turned, 3),
        (cmyk, 6),
        (animated, 0.1),
        (lambda: saved(photograph().quantize(256)), 8),
        (lambda: saved(photograph().convert("RGBA")), 0.1),
    ],
    ids=["png", "jpeg", "exif", "cmyk", "animated", "palette", "alpha"],
)
def test_odd_files_are_read_upright_in_their_colours(file, tolerance):
    assert near(images.open_picture(file()), photograph(), tolerance)


def test_grey_files_of_8_16_32_bits_and_floats():
    grey = photograph().convert("L")
    assert near(images.open_picture(sixteen_bits()), grey, 0.6)
    assert near(images.open_picture(saved(grey)), grey, 0.1)
    assert near(images.open_picture(saved(grey.convert("LA"))), grey, 0.1)
    wide = Image.fromarray(numpy.asarray(grey).astype(numpy.int32) * 257)
    assert near(images.open_picture(wide), grey, 0.6)
    floats = numpy.asarray(grey).astype(numpy.float32)
    for levels in (floats, floats / 255):
        assert near(images.open_picture(Image.fromarray(levels)), grey, 0.6)
    two = grey.convert("1")
    assert near(images.open_picture(saved(two)), two.convert("L"), 0.1)


def test_transparent_areas_lie_over_white():
    pixels = numpy.zeros((8, 8, 4), numpy.uint8)
    pixels[:4] = (10, 20, 30, 255)
    for image in (Image.fromarray(pixels), Image.fromarray(pixels).convert("RGBa")):
        shown = numpy.asarray(images.open_picture(image))
        assert (shown[:4] == (10, 20, 30)).all() and (shown[4:] == 255).all()
    assert (numpy.asarray(images.open_picture(palette_with_hole())) == 255).all(-1).any()


def test_a_colour_profile_is_applied_and_a_broken_one_passed_over():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (b"broken", lab, srgb):  # broken; of other channels; already what we want
        assert near(images.open_picture(saved(photograph(), icc_profile=profile)), photograph(), 0.1)
    name, other = ("".join(f"\0{letter}" for letter in word).encode() for word in ("sRGB", "mine"))
    assert name in srgb
    named = srgb.replace(name, other)  # the same colours under another name: converted, and nothing changes
    assert near(images.open_picture(saved(photograph(), icc_profile=named)), photograph(), 3)


def test_no_metadata_goes_on():
    exif = Image.Exif()
    exif[0x013B] = "a name"
    assert not images.open_picture(saved(photograph(), "JPEG", exif=exif)).info
    assert not images.open_picture(turned()).getexif()


def test_files_that_are_too_large_or_no_pictures_get_one_sentence(tmp_path: Path):
    wide = Image.new("1", (images.MAX_PIXELS // 4000 + 1, 4000))
    for source in (saved(wide), wide):
        with pytest.raises(ValueError, match="make it smaller first"):
            images.open_picture(source)
    (tmp_path / "a.png").write_bytes(saved(photograph()).getvalue()[:500])
    with pytest.raises(ValueError, match="damaged or cut short"):
        images.open_picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(ValueError, match="not a picture that can be read"):
        images.open_picture(tmp_path / "b.png")
