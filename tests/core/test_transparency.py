"""Transparency goes through a change: everywhere else it is kept, byte for byte."""

from __future__ import annotations

import numpy
from PIL import Image

from pipelines.core import transparency


def layered(size: int = 40) -> Image.Image:
    pixels = numpy.random.default_rng(0).integers(0, 256, (size, size, 4), numpy.uint8)
    pixels[10:30, 10:30, 3] = 255
    pixels[:5, :, 3] = 0
    return Image.fromarray(pixels)


def over_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def box(top: int, bottom: int, size: int = 40) -> numpy.ndarray:
    mask = numpy.zeros((size, size), bool)
    mask[top:bottom, top:bottom] = True
    return mask


def test_nothing_changed_gives_the_same_bytes():
    image = layered()
    made = transparency.put_back(over_white(image), numpy.zeros((40, 40), bool), image)
    assert made.tobytes() == image.tobytes() and made.mode == "RGBA"


def test_what_was_painted_lies_over_white_as_it_was_made():
    image, changed = layered(), box(8, 20)
    painted = Image.new("RGB", image.size, (250, 251, 252))
    made = transparency.put_back(painted, changed, image)
    assert (numpy.asarray(made)[~changed] == numpy.asarray(image)[~changed]).all()
    assert (numpy.asarray(made)[..., 3] == numpy.asarray(image)[..., 3]).all()
    opaque = changed & (numpy.asarray(image)[..., 3] == 255)
    assert (numpy.asarray(made)[opaque, :3] == (250, 251, 252)).all()


def test_of_an_object_on_a_transparent_ground_nothing_stays():
    pixels = numpy.zeros((40, 40, 4), numpy.uint8)
    pixels[12:18, 12:18] = (255, 0, 0, 255)
    hole = box(10, 20)
    made = transparency.put_back(Image.new("RGB", (40, 40), "white"), hole, Image.fromarray(pixels), hole)
    assert made.getchannel("A").getextrema() == (0, 0)
    solid = numpy.full((40, 40, 4), 255, numpy.uint8)
    solid[0, 0, 3] = 7
    made = transparency.put_back(Image.new("RGB", (40, 40), "red"), hole, Image.fromarray(solid), hole)
    assert (numpy.asarray(made)[hole] == (255, 0, 0, 255)).all() and made.getpixel((0, 0))[3] == 7


def test_on_an_edge_of_alpha_the_hole_follows_both_sides():
    pixels = numpy.full((400, 600, 4), 255, numpy.uint8)
    pixels[:, :300, 3] = 0
    hole = numpy.zeros((400, 600), bool)
    hole[150:250, 250:350] = True
    alpha = numpy.asarray(transparency.put_back(Image.new("RGB", (600, 400)), hole, Image.fromarray(pixels), hole))[
        ..., 3
    ]
    assert alpha[200, 255] < 60 and alpha[200, 345] > 200 and (alpha[~hole] == pixels[~hole, 3]).all()
    everything = numpy.ones((400, 600), bool)
    kept = transparency.put_back(Image.new("RGB", (600, 400)), everything, Image.fromarray(pixels), everything)
    assert (numpy.asarray(kept)[..., 3] == pixels[..., 3]).all()
