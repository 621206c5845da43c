"""What is asked of a run, and what the face models see in it before anything large is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy

from pipelines.core import geometry
from pipelines.core.geometry import Mask, Picture
from pipelines.megaportrait import checks, intake, place
from pipelines.megaportrait.intake import Intake
from pipelines.megaportrait.person import Person, gather, read_attributes, with_readings
from pipelines.megaportrait.place import Analysis, Placed
from pipelines.megaportrait.settings import Settings
from pipelines.megaportrait.tools import PARSED, FaceTools

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.core.registry import ModelSpec
    from pipelines.models.verifier import SceneVerifier
    from pipelines.worlds.portrait import Portrait


@dataclass
class Request:
    """What a visitor asks for."""

    reference: Image | Picture | None
    person: Person | None = None
    """A trained or gathered person; without one, ``pictures``."""
    pictures: Sequence[tuple[str, Picture]] = ()
    """(name, picture) pairs, for a preview or the instant mode without a saved person."""
    settings: Settings = field(default_factory=Settings)
    face: int | None = None
    """Which face of the reference, from the left, from 0; None: the largest."""
    box: tuple[float, float, float, float] | None = None
    """A face box drawn by the visitor (left, top, width, height in pixels of the reference), instead of a detector's."""
    truth: Portrait | None = None
    """Of rendered people: the person in the reference's shot."""
    rendered: bool = False
    """All pictures are of our own rendered people: no consent is needed."""
    consent: bool = False
    layered: Image | None = None
    """``reference`` with its transparency (``images.Opened``): the results get it back."""
    lost: Sequence[str] = ()
    """Sentences about what the reference's file has and no result can give back."""
    glasses: bool = False
    """The visitor says that most of the person's pictures show glasses; of rendered people it is read from them."""

    def picture(self) -> Picture:
        """The reference as an array.

        Raises:
            ValueError: there is none, or it is no picture.
        """
        if self.reference is None:
            raise ValueError("There is no reference portrait yet: load one, or roll one.")
        given = self.reference
        picture = numpy.asarray(given if isinstance(given, numpy.ndarray) else given.convert("RGB"))
        geometry.check_picture(picture)
        return picture

    def check(self, settings: Settings) -> None:
        """Refuse what cannot be made with checked ``settings``.

        Raises:
            ValueError: nobody to put in, no consent, nobody trained where somebody has to be, or another model set's person.
        """
        person = self.person
        if person is None and not self.pictures:
            raise ValueError("There is no person yet: give a few pictures of one, choose a saved one, or roll one.")
        if not self.rendered and not self.consent:
            raise ValueError(checks.NO_CONSENT)
        if settings.wears and (person is None or not person.trained):
            raise ValueError("This person is not trained yet: train it first, or choose the instant mode.")
        if person is not None and person.model_set != settings.model_set:
            raise ValueError(
                f"The person {person.name!r} was made with the {person.model_set} set and the "
                f"{settings.model_set} set is chosen: choose that one, or train the person again."
            )


@dataclass(frozen=True, eq=False)
class Scene:
    """What the face models see in the pictures of a request, before anything large is loaded; each picture is looked at once."""

    analysis: Analysis
    person: Person
    near: Placed
    """The person's nearest picture, in the reference's place and look."""
    reach: Mask
    """Where the Identity Net may paint."""
    face_parts: Mapping[str, ModelSpec]
    """The face models that were there for it."""
    intake: Intake | None
    """Of pictures that came without a saved person."""
    notes: list[str | None]
    """What is said of it; None says nothing."""

    @classmethod
    def of(cls, tools: FaceTools, request: Request, settings: Settings) -> Scene:
        """Find the faces, and lay the person over the reference.

        Raises:
            ValueError: no face in the reference, or no picture of a person that can be used.
        """
        analysis = place.study(tools, request.picture(), settings, request.face, request.box)
        person, looked = request.person, None
        if person is None:
            looked = intake.inspect(tools, request.pictures, settings.model_set)
            if not looked.used:
                raise ValueError(intake.gather_refusal(looked))
            person = gather(looked, "person", settings.model_set)
        near, changes = place.in_the_look(analysis, place.placed(tools, person, analysis))
        of_pictures = () if looked is None else [note for at in looked.used for note in looked.verdicts[at].notes]
        notes: list[str | None] = [
            *changes,
            *analysis.notes,
            checks.warn_enlarged(analysis),
            *of_pictures,
            *tools.notes,
        ]
        photographs = bool(person.facts.get("photographs")) or analysis.face.backend != PARSED
        if photographs or not settings.taught:  # what is drawn anew has nothing of a paste's faults
            notes += checks.warn_gap(analysis, near, settings)
        reach = place.room_for(analysis, near, settings.region)
        return cls(analysis, person, near, reach, tools.specs, looked, notes)

    def read_by(self, verifier: SceneVerifier | None) -> Scene:
        """With what the verifier reads from the reference, and from pictures that came without a saved person."""
        if verifier is None:
            return self
        analysis = replace(self.analysis, attributes=read_attributes(verifier, [self.analysis.square])[0])
        person = self.person if self.intake is None else with_readings(self.person, verifier)
        return replace(self, analysis=analysis, person=person)
