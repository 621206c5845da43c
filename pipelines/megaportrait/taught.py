"""The small set's way through the three nets: they are shown the person's pictures, and learnt from renders how it would look; torch at import.

Nothing is learnt of a person before: one ControlNet, told which of the three tasks is wanted, draws each stage in one step on the shared SDXL of
the second generation (``onestep.py``). It knows rendered people; a photograph is pasted, lit and melted by arithmetic only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import pipelines.core.libraries  # noqa: F401

import numpy
import torch

from pipelines.core import geometry, masks
from pipelines.core.geometry import Mask, Picture
from pipelines.megaportrait import MegaPortrait
from pipelines.megaportrait.align import Align
from pipelines.megaportrait.finish import Finish
from pipelines.megaportrait.nets import wearing
from pipelines.megaportrait.onestep import OneStep
from pipelines.megaportrait.person import Person
from pipelines.megaportrait.settings import HARMONISED, IDENTITY, LAID, SHADED
from pipelines.megaportrait.tools import PARSED
from pipelines.models import sdxl
from pipelines.models.sdxl_parts import decode, encode

SHARE = {IDENTITY: 0.1, SHADED: 0.4, HARMONISED: 0.7}
"""How far a run is when a stage begins."""


AGREE = 8.0
"""Levels, of 255, by which what is drawn around the heads may differ from the reference in the median."""
GAINS = (0.2, 1.3)
"""How much darker or brighter it may be made."""


class TaughtNets:
    """The three nets around leased parts. Makes no lasting change to them."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        """``parts``: of ``parts.specs`` of a taught mode, by name."""
        self.unet, self.vae = parts["unet"], parts["vae"]
        shares = parts["scheduler"].alphas_cumprod
        self.model = OneStep(parts["net"], self.unet, shares, sdxl.BASES["mini"].size)
        self.align, self.finish = Align(parts["align"]), Finish(parts["finish"])

    def wearing(self, person: Person | None) -> AbstractContextManager[None]:
        """See :func:`pipelines.megaportrait.nets.wearing`."""
        return wearing(self.unet, person)

    def draw(self, task: str, shown: Sequence[Picture], start: Picture, seed: int) -> Picture:
        """What a task of ``onestep.TASKS`` makes of three pictures and a start, all (side, side, 3) of the model's size."""
        generator = torch.Generator("cpu").manual_seed(seed)
        with torch.inference_mode():
            known = torch.cat([encode(self.vae, one) for one in shown], 1)
            return decode(self.vae, self.model.draw(task, known, encode(self.vae, start), generator))


class Taught(MegaPortrait):
    """The paper's outline with nets that were taught each its own task."""

    nets: TaughtNets

    def identity(self, seed: int) -> Picture:
        """1. The Identity Net: the person in the reference's pose and place, in plain light. Both nets at once draw its light, too."""
        if not self._rendered:
            near, size = self.scene.near, self.analysis.square.shape[1::-1]
            return self._by_arithmetic(IDENTITY, geometry.warp(near.crop, near.matrix, size))
        square = self.analysis.square
        return self._drawn(IDENTITY, "identity", (*self._pictures, square), square, seed)

    def shading(self, face: Picture, skin: Mask, core: Mask, seed: int) -> Picture:
        """2. The Shading Net: the same in the reference's light."""
        if self.settings.no_shading:
            return face
        if not self._rendered:
            return self._by_arithmetic(SHADED, self._lit(face, skin, core))
        square = self.analysis.square
        lit = self._levelled(self._drawn(SHADED, "shading", (face, self._pictures[0], square), square, seed))
        return self._finished_at_full_size(SHADED, lit)

    def _melted(self, seamless: Picture, ring: Mask, seed: int) -> Picture:
        """4. The Harmonization Net."""
        if not self._rendered:
            return seamless
        shown = (seamless, self._pictures[0], self.analysis.square)
        melted = self._levelled(self._drawn(HARMONISED, "harmonise", shown, seamless, seed))
        return self._finished_at_full_size(HARMONISED, melted)

    def _drawn(self, stage: str, task: str, shown: Sequence[Picture], start: Picture, seed: int) -> Picture:
        """What one of the nets draws: kept from before, or drawn."""
        run, nets = self.run, self.nets
        self.steps[stage] = 1
        run.progress(SHARE[stage], f"{stage}: one step")
        with run.steps(stage, 1):
            drawn: Picture = run.kept(stage, lambda: nets.draw(task, shown, start, seed), task, *shown, start, seed)
        run.finished(stage, drawn)
        return drawn

    def _finished_at_full_size(self, stage: str, drawn: Picture) -> Picture:
        """``drawn`` with the fine detail of the person's pictures, as far as is asked for."""
        run, share = self.run, self.settings.detail
        if share == 0:
            return drawn
        align, finish, known, square = self.nets.align, self.nets.finish, self._pictures, self.analysis.square
        laid = run.kept(
            f"{stage}, laid", lambda: numpy.stack([align.picture(drawn, one) for one in known]), drawn, *known
        )
        if stage == SHADED and not self.settings.no_identity:
            self.between[LAID] = laid[0]
            run.finished(LAID, laid[0])
        sharp: Picture = run.kept(
            f"{stage}, finished", lambda: finish.picture(drawn, *laid, square), drawn, laid, square
        )
        made = sharp if share == 1 else numpy.rint(drawn + share * (sharp.astype(float) - drawn)).astype(numpy.uint8)
        run.finished(stage, made)
        return made

    def _levelled(self, drawn: Picture) -> Picture:
        """``drawn`` in the levels of the reference, as they are around the heads. The nets know full colours only: a dark, pale or colourless
        reference they draw brighter or otherwise, which would be a halo. Where they agree already it is ``drawn`` itself."""
        square = self.analysis.square
        outside = ~masks.grow(self.scene.reach, round(0.1 * self.analysis.width))
        here, there = drawn[outside].astype(numpy.float64), square[outside].astype(numpy.float64)
        if not len(here) or numpy.median(numpy.abs(here - there)) < AGREE:
            return drawn
        gains = numpy.median(
            (there + 1) / (here + 1), 0
        )  # not the mean: a corner beyond the picture says nothing of light
        return numpy.clip(numpy.rint(drawn * numpy.clip(gains, *GAINS)), 0, 255).astype(numpy.uint8)

    def _by_arithmetic(self, stage: str, picture: Picture) -> Picture:
        self.run.finished(stage, picture)
        return picture

    @property
    def _rendered(self) -> bool:
        """Whether the nets know such pictures."""
        return not self.person.facts.get("photographs") and self.analysis.face.backend == PARSED

    @cached_property
    def _pictures(self) -> tuple[Picture, Picture]:
        """The person's two pictures that the nets are shown, laid over the reference by the faces' points: those that are turned most alike.
        Without the person, the reference's own face."""
        person, square, points = self.person, self.analysis.square, self.analysis.points
        if self.settings.no_identity:
            return square, square
        laid: list[Picture] = []
        for which in person.nearest(points):
            crop, own = person.crop(which, square.shape[1])
            try:
                matrix = geometry.similarity(own, points)
            except ValueError:  # a head that is turned away so far that its eyes change sides
                continue
            laid.append(geometry.warp(crop, matrix, square.shape[1::-1]))
            if len(laid) == 2:
                break
        return laid[0], laid[-1]

    def _controls(self) -> dict[str, Picture]:
        return dict(zip(("person_1", "person_2"), self._pictures, strict=True))
