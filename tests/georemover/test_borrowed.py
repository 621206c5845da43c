"""Detail from around a filled part: what repeats goes on in it, what does not stays out."""

from __future__ import annotations

import cv2
import numpy
import pytest

from pipelines.georemover import borrowed, composite

SIDE = 160
HOLE = (slice(50, 110), slice(60, 120))


def soft(picture: numpy.ndarray) -> numpy.ndarray:
    small = cv2.resize(picture, (SIDE // 4, SIDE // 4), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).astype(numpy.float32)


def borrow(picture: numpy.ndarray, filled: numpy.ndarray | None = None) -> numpy.ndarray:
    wanted = numpy.zeros((SIDE, SIDE), bool)
    wanted[HOLE] = True
    coarse = soft(picture)
    known = cv2.dilate(wanted.astype(numpy.uint8), numpy.ones((9, 9))) == 0
    return borrowed.detail(picture, coarse, coarse if filled is None else filled, wanted, known, 16)


def planks() -> numpy.ndarray:
    """Joints between planks at uneven distances, as seen in perspective."""
    picture = numpy.full((SIDE, SIDE, 3), (180, 140, 110), numpy.uint8)
    for row in numpy.cumsum(numpy.arange(4, 18)):
        picture[row] = (90, 70, 55)
    return picture


def test_joints_of_planks_go_on_through_what_was_filled():
    picture = planks()
    off = [numpy.abs(one - picture)[HOLE].mean() for one in (soft(picture), soft(picture) + borrow(picture))]
    assert off[1] < 0.1 * off[0]
    assert not borrow(picture)[:50].any(), "nothing outside of what was filled"


def test_nothing_is_borrowed_where_nothing_repeats():
    noise = numpy.random.default_rng(0).integers(60, 200, (SIDE, SIDE, 3), numpy.uint8)
    assert not borrow(noise).any()


def test_nothing_is_borrowed_where_another_thing_was_filled():
    picture = planks()
    assert not borrow(picture, soft(picture) + 60).any()
    half = soft(picture)
    half[:, :85] += 60
    found = borrow(picture, half)[HOLE]
    assert found[:, 40:].any() and not found[:, :10].any()


def test_without_a_rim_nothing_is_borrowed():
    whole = numpy.ones((SIDE, SIDE), bool)
    assert not borrowed.detail(planks(), soft(planks()), soft(planks()), whole, ~whole, 16).any()


@pytest.mark.parametrize("shift", [(0, 0), (-55, 3), (200, 0), (0, -200), (-111, 0), (110, 100)])
def test_a_moved_part_is_empty_where_it_lies_outside(shift: tuple[int, int]):
    plane = numpy.arange(1, SIDE * SIDE + 1).reshape(SIDE, SIDE)
    padded = numpy.pad(plane, 300)
    rows, columns = (slice(part.start + by + 300, part.stop + by + 300) for part, by in zip(HOLE, shift, strict=True))
    assert (borrowed.part_at(plane, HOLE, shift) == padded[rows, columns]).all()


def test_of_too_large_a_neighbourhood_nothing_is_borrowed(monkeypatch: pytest.MonkeyPatch):
    picture, small = planks(), cv2.resize(planks(), (SIDE // 4,) * 2)
    pasted = numpy.zeros((SIDE, SIDE), bool)
    pasted[HOLE] = True
    given = picture, small, small, pasted, pasted, 4.0
    assert composite._grain(*given).any()
    monkeypatch.setattr(borrowed, "MOST_PIXELS", 1000)
    assert composite._grain(*given) is None
