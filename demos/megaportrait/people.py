"""Who is in a portrait: rendered people and references that know their truth, a visitor's pictures, and a trained person in one file.

    python -m demos.megaportrait.people

writes the person and the reference that the page opens with, so that opening it renders nothing and imports no torch.
"""

from __future__ import annotations

import dataclasses
import secrets
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
from PIL import Image

from pipelines.core import asset_files, images, limits, saving, troubles
from pipelines.core.archives import Archive, open_archive
from pipelines.core.weights import ROOT
from pipelines.megaportrait import person as persons
from pipelines.megaportrait.intake import MOST, Intake
from pipelines.megaportrait.paste import Picture
from pipelines.megaportrait.person import Person
from pipelines.megaportrait.recipes import EXAMPLES, Recipe
from pipelines.models import faces
from pipelines.worlds.portrait.words import ATTRIBUTES

if TYPE_CHECKING:
    from pipelines.worlds.portrait import Portrait

FIRST = ROOT / "assets" / "example_scenes" / "person.webp"
FIRST_REFERENCE = FIRST.with_name("reference.webp")
START: Recipe = EXAMPLES[0]
"""What :func:`first_person` and :func:`first_reference` show."""
HELD_OUT = 1_000_000
"""Seeds of people and references below this one were never trained on."""
LONGEST = {"mini": 1024, "full": 2048}
"""Longer pictures of a visitor are made so small: twenty of them stay in memory while the page is open."""


@dataclasses.dataclass(frozen=True, eq=False)
class Chosen:
    """Who is in step 1. ``pictures`` are (name, (H, W, 3) uint8) pairs."""

    key: str
    """Changes with the pictures, and by its end, after a dash, with what was learnt of them."""
    name: str
    pictures: tuple[tuple[str, Picture], ...]
    person: Person | None = None
    """What was learnt from the pictures; None before."""
    identity: int | None = None
    """Seed of a rendered person, which brings its truth along."""
    intake: Intake | None = None
    """What was found in a visitor's own pictures."""
    refusals: tuple[str, ...] = ()
    """A sentence for each file that could not be read."""

    @property
    def rendered(self) -> bool:
        """Nobody's pictures: no consent is needed."""
        return self.identity is not None

    @property
    def trained(self) -> bool:
        return self.person is not None and self.person.trained

    @property
    def root(self) -> str:
        """The part of the key that is the pictures': the same before and after training."""
        return self.key.partition("-")[0]

    def learnt(self, person: Person, run: str) -> Chosen:
        """The same pictures with what a ``run`` of training made of them."""
        return dataclasses.replace(self, key=f"{self.root}-{run}", name=person.name, person=person)


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """Who is in step 2: the portrait that the person goes into."""

    key: str
    name: str
    picture: Picture
    seed: int | None = None
    """Of a rendered reference."""
    layered: Image.Image | None = None
    """A visitor's reference with its transparency, if it has any."""
    lost: tuple[str, ...] = ()
    """What its file has and no result can give back, as sentences."""

    @property
    def rendered(self) -> bool:
        return self.seed is not None


def truth_of(chosen: Chosen | None, reference: Reference | None) -> Portrait | None:
    """The person in the reference's shot; None where one of them was not rendered."""
    if chosen is None or reference is None or chosen.identity is None or reference.seed is None:
        return None
    return Recipe(chosen.identity, reference.seed).truth()


# --- rendered people -------------------------------------------------------------------------------------------


def roll_person(seed: object) -> Chosen:
    """Five pictures of one person, rendered; some seconds.

    Raises:
        ValueError: another seed is needed.
    """
    seed = held_out("person seed", seed)
    return Chosen(secrets.token_hex(8), name_of(seed), tuple(Recipe(seed, 0).pictures()), identity=seed)


def roll_reference(seed: object) -> Reference:
    """A rendered reference; about a second.

    Raises:
        ValueError: another seed is needed.
    """
    seed = held_out("reference seed", seed)
    return Reference(secrets.token_hex(8), f"reference {seed}", Recipe(0, seed).picture(), seed)


def held_out(name: str, seed: object) -> int:
    """A seed that no model was trained on."""
    return int(limits.number(name, seed, 0, HELD_OUT - 1, whole=True))


def name_of(seed: int) -> str:
    return f"Person {seed}"


def first_person() -> Chosen:
    """The person that the page opens with, read from a file, or rendered where that is missing or garbled."""

    def read() -> Chosen:
        pictures = numpy.split(numpy.array(images.open_picture(FIRST)), Recipe.PICTURES, 1)
        named = tuple((f"picture {number}", numpy.ascontiguousarray(one)) for number, one in enumerate(pictures, 1))
        return Chosen("first", name_of(START.person), named, identity=START.person)

    return asset_files.reading(FIRST, read, lambda: dataclasses.replace(roll_person(START.person), key="first"))


def first_reference() -> Reference:
    """The reference that the page opens with, read from a file, or rendered where that is missing or garbled."""

    def read() -> Reference:
        picture = numpy.array(images.open_picture(FIRST_REFERENCE))
        return Reference("first", f"reference {START.reference}", picture, START.reference)

    def drawn() -> Reference:
        return dataclasses.replace(roll_reference(START.reference), key="first")

    return asset_files.reading(FIRST_REFERENCE, read, drawn)


def write_first(folder: Path = FIRST.parent) -> tuple[Path, Path]:
    """Render ``START`` into the files that :func:`first_person` and :func:`first_reference` read."""
    pictures = [picture for _name, picture in roll_person(START.person).pictures]
    sheets = {FIRST.name: numpy.concatenate(pictures, 1), FIRST_REFERENCE.name: roll_reference(START.reference).picture}
    folder.mkdir(exist_ok=True)
    for name, pixels in sheets.items():
        Image.fromarray(pixels).save(folder / name, lossless=True, quality=100, method=6)
    return folder / FIRST.name, folder / FIRST_REFERENCE.name


# --- a visitor's pictures --------------------------------------------------------------------------------------


def own_pictures(
    paths: Sequence[str | Path], model_set: str = "mini", taken: Sequence[str] = ()
) -> tuple[tuple[tuple[str, Picture], ...], tuple[str, ...]]:
    """(name, picture) pairs of the files that can be read, and a sentence for each that cannot, and for those that were made smaller.

    Names are the files', made different from one another and from those that are ``taken``; with them there may be :data:`MOST`.

    Raises:
        ValueError: too many files, or none.
    """
    if not 1 <= len(paths) <= MOST - len(taken):
        there = f" and {len(taken)} are there already" if taken else ""
        raise ValueError(f"{len(paths)} pictures came{there}: give 1 to {MOST} of one person.")
    names, pictures, refusals, larger = list(taken), [], [], []
    for path in paths:
        name = _unlike(Path(path).name[:60], names)
        try:
            opened = images.open_picture(path)
        except ValueError as error:
            troubles.raise_machines(error)
            refusals.append(f"{name} was left out. {error}")
            continue
        if max(opened.size) > LONGEST[model_set]:
            larger.append(name)
            opened.thumbnail((LONGEST[model_set],) * 2)
        pictures.append((name, numpy.array(opened)))
        names.append(name)
    if larger:
        refusals.append(
            f"Made smaller, to {LONGEST[model_set]:,} pixels, which is more than is learnt from: {', '.join(larger)}."
        )
    return tuple(pictures), tuple(refusals)


def _unlike(name: str, others: Sequence[str]) -> str:
    """Phones call every picture the same."""
    number, stem, ending = 2, Path(name).stem, Path(name).suffix
    while name in others:
        name, number = f"{stem} ({number}){ending}", number + 1
    return name


def chosen_of(person: Person) -> Chosen:
    """A saved person, with the crops that it keeps as its pictures."""
    pictures = tuple((f"picture {number}", crop) for number, crop in enumerate(person.crops, 1))
    return Chosen(f"{secrets.token_hex(8)}-saved", person.name, pictures, person, person.facts.get("identity"))


# --- a person in one file --------------------------------------------------------------------------------------

NO_PERSON = "This is no person that this studio saved: send the zip of “Download person” or of /train_person, unedited."


def person_file(person: Person, folder: str | Path) -> Path:
    """``<name>.zip`` with both files of ``persons.save``: what the page downloads and ``/train_person`` answers with.

    It holds crops of the pictures, so it is as private as they are.
    """
    path = Path(folder) / f"{persons.checked_name(person.name)}.zip"
    with tempfile.TemporaryDirectory(dir=folder) as scratch, saving.whole(path) as (packed,):
        weights = persons.save(person, scratch)
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in (weights, weights.with_suffix(".json")):
                archive.write(file, file.name)
    return path


def read_person(path: str | Path, model_set: str | None = None) -> Person:
    """The person in a file of :func:`person_file`.

    Args:
        model_set: of this page; a person that was trained for another one is refused.

    Raises:
        ValueError: it is no such file, or its person is for another model set.
    """
    try:
        with tempfile.TemporaryDirectory(dir=Path(path).parent) as scratch:
            with open_archive(path, most=2) as archive:
                name = _unpack(archive, Path(scratch))
            person = persons.load(scratch, name)
        facts = _tidy(person.facts)
        fits = person.embeddings.shape[1] in (0, _embedding()) and person.points.dtype == numpy.float32
    except (ValueError, TypeError, KeyError) as error:
        troubles.raise_machines(error)
        raise ValueError(NO_PERSON) from error
    if not fits or person.embeddings.dtype != numpy.float32:
        raise ValueError(NO_PERSON)
    if model_set is not None and person.model_set != model_set:
        raise ValueError(
            f"{person.name} was trained for the model set {person.model_set} and this page runs {model_set}: train the person here."
        )
    return dataclasses.replace(person, facts=facts)


def _unpack(archive: Archive, folder: Path) -> str:
    """Both files of a person, and only these; returns the name. Sizes are checked before a byte is unpacked."""
    most = {".safetensors": persons.MOST_BYTES, ".json": 2**20}
    files = {Path(member.name).suffix: member for member in archive.members}
    name = persons.checked_name(Path(archive.members[0].name).stem if archive.members else "")
    if {ending: member.name for ending, member in files.items()} != {ending: name + ending for ending in most}:
        raise ValueError(NO_PERSON)
    for ending, member in files.items():
        with (folder / f"{name}{ending}").open("wb") as file:
            file.writelines(archive.pieces(member, most[ending]))
    return name


def _embedding() -> int:
    return faces.EMBEDDING


def _tidy(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of the facts of a person, each of the kind that training writes; what is not is left out."""
    kinds = {
        "model_set": _is_text,
        "pictures": lambda v: _is_list(v, _is_text, MOST),
        "photographs": lambda v: _is_whole(v, 0, MOST),
        "identity": lambda v: _is_whole(v, 0, HELD_OUT - 1),
        "attributes": _is_reading,
        "readings": lambda v: _is_list(v, _is_reading, MOST),
        "remarks": lambda v: _is_list(v, _is_text, 8),
        "settings": lambda v: isinstance(v, dict) and all(_is_text(one) or _is_number(one) for one in v.values()),
        "seconds": _is_number,
        "score_before": lambda v: v is None or _is_number(v),
        "steps": lambda v: _is_whole(v, 0, 10**6),
        "best_step": lambda v: _is_whole(v, 0, 10**6),
        "checks": lambda v: _is_list(v, _is_check, 100),
        "losses": lambda v: _is_list(v, lambda one: one is None or _is_number(one), 10**5),
    }
    known = {name: facts[name] for name, fits in kinds.items() if name in facts and fits(facts[name])}
    if known.get("photographs"):  # a photograph is nobody's rendering
        known.pop("identity", None)
    if len(known.get("readings", ())) not in (0, len(known.get("pictures", ()))):
        known.pop("readings")
    return known


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 400


def _is_number(value: object) -> bool:
    return limits.is_number(value) and abs(value) < 10**15


def _is_whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_list(value: object, each: Callable[[Any], bool], most: int) -> bool:
    return isinstance(value, list) and len(value) <= most and all(each(one) for one in value)


def _is_reading(value: object) -> bool:
    """What a caption is made of: attributes of a portrait, each with one of its values."""
    return isinstance(value, dict) and all(one in ATTRIBUTES.get(name, ()) for name, one in value.items())


def _is_check(value: object) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"step", "loss", "score"}
        and all(one is None or _is_number(one) for one in value.values())
    )


if __name__ == "__main__":
    write_first()
