"""A person: crops of a few pictures, who it is, what a caption would say and what was learnt; kept in two files.

Pictures are (H, W, 3) uint8 RGB, points (5, 2) in pixels. A file of a person holds crops of the pictures: it is private.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pipelines.core import geometry, limits, saving, troubles
from pipelines.core.geometry import Picture
from pipelines.megaportrait.intake import MOST, Intake
from pipelines.megaportrait.place import FRAMING, crop_of, points_of
from pipelines.megaportrait.tools import PARSED, Embedding
from pipelines.models import sdxl
from pipelines.models.faces import EMBEDDING
from pipelines.worlds import portrait

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from torch import Tensor

    from pipelines.models.verifier import SceneVerifier


KEPT_SIDE = 512
"""Crops that a person keeps are at most so large."""
SKS = "photo of sks person"
MOST_BYTES = 400 * 2**20
"""A larger file is no person of ours: rank 128 of SDXL takes 370 MB in float16."""


# ------------------------------------------------------------------------------------------ captions


SHOT = ("expression", "clothes", "background")
"""What of a caption belongs to the picture; the rest belongs to the person."""
NEUTRAL = {"hair_colour": "brown", "hair_style": "short", "glasses": "no", "beard": "no"}
NEUTRAL |= {"expression": "neutral", "clothes": "blue", "background": "white"}


def caption_of(attributes: Mapping[str, str]) -> str:
    """A sentence that the small model knows, with all attributes of ``portrait.ATTRIBUTES``; missing ones are :data:`NEUTRAL`."""
    said = NEUTRAL | {name: value for name, value in attributes.items() if name in portrait.ATTRIBUTES}
    fixed = {name: value == "yes" if name in ("glasses", "beard") else value for name, value in said.items()}
    return portrait.caption(portrait.sample(0, **fixed), mention=("hair_style", *SHOT))


def read_attributes(reader: SceneVerifier, crops: Sequence[Picture]) -> list[dict[str, str]]:
    """What the verifier reads from portraits (side, side, 3): one answer for each attribute of a caption."""
    from pipelines.models import face_nets, verifier

    answers = verifier.answers(reader, face_nets.as_input(crops, reader))
    return [{name: answer[name] for name in portrait.ATTRIBUTES} for answer in answers]


def of_the_person(readings: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The answer of most pictures for what stays with a person: hair, glasses, beard."""
    names = [name for name in readings[0] if name not in SHOT]
    votes = {name: [reading[name] for reading in readings] for name in names}
    return {name: max(dict.fromkeys(found), key=found.count) for name, found in votes.items()}


# ------------------------------------------------------------------------------------------- persons


WIDE_ENOUGH = 1.5
"""Squares up to so many times as wide as a crop are made from that."""
NONE_LARGE = numpy.zeros((0, 0, 0, 3), numpy.uint8)


@dataclass(eq=False)
class Person:
    """One person: what was learnt, and what the pictures say."""

    name: str
    crops: NDArray[numpy.uint8]
    """(n, side, side, 3): the pictures that were used, framed as the model knows portraits."""
    points: NDArray[numpy.float32]
    """(n, 5, 2) in the crops."""
    embeddings: NDArray[numpy.float32]
    """(n, d) of length 1; (0, 0) where nobody could say who it is."""
    adapter: dict[str, Tensor] = field(default_factory=dict)
    """State dict of the LoRA as peft writes it, alpha equal to the rank; empty before training."""
    facts: dict[str, Any] = field(default_factory=dict)
    """JSON-able: model set, hashes of the pictures, attributes, settings, losses, scores."""
    large: NDArray[numpy.uint8] = field(default_factory=lambda: NONE_LARGE)
    """The crops as large as the small set's own nets draw; none in the full set, and in files of before."""

    @property
    def trained(self) -> bool:
        return bool(self.adapter)

    @property
    def model_set(self) -> str:
        return self.facts.get("model_set", "mini")

    @property
    def mean(self) -> Embedding | None:
        """The mean embedding, of length 1."""
        if not len(self.embeddings):
            return None
        mean = self.embeddings.mean(0)
        return mean / max(float(numpy.linalg.norm(mean)), 1e-6)

    @property
    def key(self) -> str:
        """A hash of all that a portrait depends on."""
        digest = hashlib.sha256()
        for array in (self.crops, self.points):
            digest.update(numpy.ascontiguousarray(array).tobytes())
        for name in sorted(self.adapter):
            digest.update(name.encode() + self.adapter[name].detach().float().cpu().numpy().tobytes())
        digest.update(repr(sorted(self.facts.get("attributes", {}).items())).encode())
        return digest.hexdigest()

    def crop(self, which: int, side: int) -> tuple[Picture, NDArray[numpy.float64]]:
        """A crop and its points (5, 2): the large one, where there is one and a square of ``side`` pixels has use for it."""
        crop, points = self.crops[which], self.points[which].astype(numpy.float64)
        if not len(self.large) or side <= WIDE_ENOUGH * crop.shape[1]:
            return crop, points
        return self.large[which], points * self.large.shape[1] / crop.shape[1]

    def nearest(self, points: ArrayLike) -> list[int]:
        """The pictures, those first whose head is turned most like one with these points."""
        wanted = _pose(points)
        apart = [float(numpy.abs(_pose(own) - wanted).sum()) for own in self.points]
        return sorted(range(len(apart)), key=apart.__getitem__)


def _pose(points: ArrayLike) -> NDArray[numpy.float64]:
    """Where the nose stands between the eyes, and between eyes and mouth, and how wide the mouth is in distances of the eyes: with the
    turn an expression that is alike counts, too."""
    marks = geometry.five(points)
    eyes, mouth = marks[:2].mean(0), marks[3:5].mean(0)
    down = mouth - eyes
    low = float((marks[2] - eyes) @ down) / max(float(down @ down), 1e-6)
    wide = numpy.linalg.norm(marks[4] - marks[3]) / max(float(numpy.linalg.norm(marks[1] - marks[0])), 1e-6)
    return numpy.clip([geometry.nose_between_eyes(marks), low, wide], -2, 3)


# --------------------------------------------------------------------------------- what the pictures say


def gather(intake: Intake, name: str, model_set: str) -> Person:
    """A person, not trained yet, from the pictures that can be used.

    Raises:
        ValueError: none can.
    """
    used = intake.used
    if not used:
        reasons = " ".join(verdict.reason for verdict in intake.verdicts[:3])
        raise ValueError(f"None of the pictures can be used: {reasons}")
    side, wide = (min(base[model_set].size, KEPT_SIDE) for base in (sdxl.FIRST, sdxl.BASES))
    crops, large, points, embeddings, hashes, photographs = [], [], [], [], [], 0
    for place in used:
        photo, face = intake.photos[place], intake.verdicts[place].face
        assert face is not None
        crop = crop_of(photo.picture.shape[1::-1], face, side, FRAMING[model_set])
        crops.append(crop.cut(photo.picture))
        if wide > side:
            large.append(crop_of(photo.picture.shape[1::-1], face, wide, FRAMING[model_set]).cut(photo.picture))
        points.append(crop.there(points_of(face)))
        hashes.append(hashlib.sha256(photo.picture.tobytes()).hexdigest())
        photographs += face.backend != PARSED
        embedding = intake.embeddings[place]
        if embedding is not None:
            embeddings.append(embedding)
    facts = {
        "model_set": model_set,
        "pictures": hashes,
        "photographs": photographs,
        "attributes": {},
        "readings": [],
    }
    table = numpy.stack(embeddings) if embeddings else numpy.zeros((0, 0))
    return Person(
        checked_name(name),
        numpy.stack(crops),
        numpy.stack(points).astype(numpy.float32),
        table.astype(numpy.float32),
        facts=facts,
        large=numpy.stack(large) if large else NONE_LARGE,
    )


# ------------------------------------------------------------------------------------------ training


def with_readings(person: Person, verifier: SceneVerifier) -> Person:
    """The person with what the verifier reads from the pictures."""
    readings = read_attributes(verifier, list(person.crops))
    return replace(person, facts=person.facts | {"attributes": of_the_person(readings), "readings": readings})


def captions(person: Person) -> list[str]:
    """A caption for each of the person's pictures."""
    if person.model_set != "mini":
        return [SKS] * len(person.crops)
    readings = person.facts.get("readings") or [{}] * len(person.crops)
    return [caption_of({**reading, **person.facts["attributes"]}) for reading in readings]


# -------------------------------------------------------------------------------------------- files


_NAME = re.compile(r"[\w][\w \-]{0,39}", re.UNICODE)
LORA = "lora."


def checked_name(name: object) -> str:
    """A person's name, which is also that of the files.

    Raises:
        ValueError: it is empty, too long, or has other signs than letters, digits, space, - and _.
    """
    text = unicodedata.normalize("NFC", name[:200]).strip() if isinstance(name, str) else ""
    if not _NAME.fullmatch(text):
        raise ValueError(
            f"The name {limits.described(name)} cannot be used: take 1 to 40 letters, digits, spaces, - or _, beginning with a letter or digit."
        )
    return text


def save(person: Person, folder: str | Path) -> Path:
    """Write ``<name>.safetensors`` and ``<name>.json``; an older person of this name is replaced. Returns the first."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{checked_name(person.name)}.safetensors"
    # SDXL runs in half precision and wears the layers so; in full they would be twice as long to send.
    kept = numpy.float16 if person.model_set == "full" else numpy.float32
    arrays = {f"{LORA}{n}": value.detach().float().cpu().numpy().astype(kept) for n, value in person.adapter.items()}
    arrays |= {name: getattr(person, name) for name in ("crops", "points", "embeddings")}
    arrays |= {"large": person.large} if len(person.large) else {}
    mean = person.mean
    facts = person.facts | {"name": person.name, "format": FORMAT, "mean": None if mean is None else mean.tolist()}
    text = json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False)
    with saving.whole(path, path.with_suffix(".json")) as (weights, words):
        save_file({name: numpy.ascontiguousarray(array) for name, array in arrays.items()}, weights)
        words.write_text(text, encoding="utf-8")
    return path


FORMAT = 1


def load(folder: str | Path, name: str) -> Person:
    """A person that :func:`save` wrote.

    Raises:
        ValueError: there is none of this name, or the files are not what :func:`save` writes.
    """
    name = checked_name(name)
    path = Path(folder) / f"{name}.safetensors"
    if not path.is_file() or not path.with_suffix(".json").is_file():
        raise ValueError(f"There is no saved person {name!r}: choose one of the list, or train one.")
    wrong = f"The files of {name!r} are not a saved person of this studio: delete them and train the person again."
    if path.stat().st_size > MOST_BYTES or path.with_suffix(".json").stat().st_size > 2**20:
        raise ValueError(wrong)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        facts = json.loads(path.with_suffix(".json").read_text())
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        troubles.raise_machines(error)
        raise ValueError(wrong) from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT or facts.get("model_set") not in sdxl.FIRST:
        raise ValueError(wrong)
    arrays = {key: value.numpy() for key, value in tensors.items() if not key.startswith(LORA)}
    adapter = {key[len(LORA) :]: value for key, value in tensors.items() if key.startswith(LORA)}
    if not _well_formed(arrays, adapter, facts):
        raise ValueError(wrong)
    facts = {key: value for key, value in facts.items() if key not in ("name", "format", "mean")}
    return Person(
        name, arrays["crops"], arrays["points"], arrays["embeddings"], adapter, facts, arrays.get("large", NONE_LARGE)
    )


def _well_formed(arrays: Mapping[str, NDArray], adapter: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bool:
    if set(arrays) - {"large"} != {"crops", "points", "embeddings"}:
        return False
    crops, points, embeddings = arrays["crops"], arrays["points"], arrays["embeddings"]
    count = len(crops)
    side, wide = (min(base[facts["model_set"]].size, KEPT_SIDE) for base in (sdxl.FIRST, sdxl.BASES))
    large = arrays.get("large")
    return (
        crops.dtype == numpy.uint8
        and 1 <= count <= MOST
        and crops.shape == (count, side, side, 3)
        and (large is None or (large.dtype == numpy.uint8 and large.shape == (count, wide, wide, 3)))
        and points.shape == (count, 5, 2)
        and (embeddings.size == 0 or embeddings.shape[1:] == (EMBEDDING,))
        and embeddings.ndim == 2
        and len(embeddings) <= count
        and bool(numpy.isfinite(points).all() and numpy.isfinite(embeddings).all())
        and all(
            value.is_floating_point() and value.ndim in (2, 4) and bool(value.isfinite().all())
            for value in adapter.values()
        )
        and isinstance(facts.get("attributes", {}), dict)
        and all(isinstance(value, str) for value in facts.get("attributes", {}).values())
    )


def check_adapter(unet: UNet2DConditionModel, person: Person) -> None:
    """Refuse a person whose layers do not fit ``unet``, before any is put in.

    Raises:
        ValueError: one sentence.
    """
    modules = dict(unet.named_modules())
    for name, value in person.adapter.items():
        at, _, letter = name.removesuffix(".weight").rpartition(".lora_")
        part = modules.get(at)
        size = getattr(getattr(part, "weight", None), "shape", ())
        # The outer side of A is the layer's input, that of B its output; a convolution's A has its kernel, its B one of 1 x 1.
        kernel = size[2:] if letter == "A" else (1,) * len(size[2:])
        fits = len(size) == value.ndim >= 2 and value.shape[letter == "A"] == size[letter == "A"]
        if letter not in ("A", "B") or not fits or tuple(value.shape[2:]) != tuple(kernel):
            raise ValueError(
                f"The person {person.name!r} was trained for another model (layer {at[:60]!r} does not fit): train it again here."
            )


def listed(folder: str | Path) -> list[dict[str, Any]]:
    """A row for each saved person, by name: name, model set, pictures, best step, scores; unreadable ones are left out."""
    rows = []
    for path in sorted(Path(folder).glob("*.json")):
        if not path.with_suffix(".safetensors").is_file() or path.stat().st_size > 2**20:
            continue
        try:
            facts = json.loads(path.read_text())
        except (FileNotFoundError, ValueError, RecursionError):
            continue
        if not isinstance(facts, dict) or facts.get("format") != FORMAT:
            continue
        rows.append(
            {
                "name": path.stem,
                "model_set": facts.get("model_set"),
                "pictures": len(facts.get("pictures", ())),
                "trained": "best_step" in facts,
            }
            | {key: facts.get(key) for key in ("best_step", "steps", "seconds", "score_before", "checks")}
        )
    return rows


def delete(folder: str | Path, name: str) -> bool:
    """Remove both files of a person; False when there were none."""
    path = Path(folder) / f"{checked_name(name)}.safetensors"
    found = [file for file in (path, path.with_suffix(".json")) if file.exists()]
    for file in found:
        file.unlink()
    return bool(found)
