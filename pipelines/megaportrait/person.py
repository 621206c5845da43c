"""The Identity Net: one person, learnt from a few pictures as a LoRA of the shared image model, and kept in two files.

:func:`gather` looks at the pictures (faces, crops, who it is, what a caption would say), :func:`train_person` also learns: peft puts
small layers beside the UNet's attention, latents and prompts are computed once, and of the checkpoints the one stays whose drawings
the embedder takes for the person most. The UNet itself is the registry's and is put back exactly. The paper (arXiv 2411.04357) says
"fine-tuned on the source images" and no more: every number here is ours, after the open systems that are named beside it.

Pictures are (H, W, 3) uint8 RGB, points (5, 2) in pixels. A file of a person holds crops of the pictures: it is private.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy
from numpy.typing import ArrayLike, NDArray

from pipelines.core import asset_files, geometry, lane, limits, saving, troubles
from pipelines.core.geometry import Crop, Face, Picture
from pipelines.core.registry import ROOT, ModelSpec
from pipelines.megaportrait import intake as portrait_intake
from pipelines.megaportrait import metrics
from pipelines.megaportrait.intake import Bars, Photo, Verdict
from pipelines.models import faces_photo, judges, sdxl
from pipelines.models.controlnets import CONTROLS
from pipelines.models.faces import EMBEDDER, PARSER

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from pipelines.core.lane import Job
    from pipelines.core.registry import ModelSpec, Registry
    from pipelines.models import faces as face_models

__all__ = ["Person", "Training", "train_person"]

Embedding = NDArray[numpy.float32]

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
CONVOLUTIONS = (
    "conv1", "conv2", "conv_shortcut", "conv", "conv_in", "conv_out", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2",
)  # fmt: skip
TARGETS = {"mini": (*ATTENTION, *CONVOLUTIONS), "full": ATTENTION}
"""What the LoRA sits beside (suffixes of module names): every attention projection, as in diffusers' own training scripts, and in the small
UNet, which has no attention at its finest level, every convolution as well, as LoCon has it (arXiv 2309.14859)."""
SCALES = (0.9, 1.0, 1.15)
"""Crops that are learnt from, in widths of the usual one; each also mirrored."""
NO_CAPTION = 0.1
"""Share of training rows without a caption, so that guidance keeps its meaning."""
OTHERS = 0.5
"""Share of training rows that show other people: with the person's pictures alone the small model forgets how to draw a head."""
PEOPLE = sdxl.ROOT / "assets" / "mini_controlnets" / "others.safetensors"
USED = {"mini": 0.3, "full": 1.0}
"""Share of the noise levels, from the least noise on, that are learnt: those at which a portrait is painted."""
SNR_MOST = 5.0
"""Min-SNR weighting (Hang et al., arXiv 2303.09556)."""
KEPT_SIDE = 512
"""Crops that a person keeps are at most so large."""
SKS = "photo of sks person"
MOST_BYTES = 400 * 2**20
"""A larger file is no person of ours: rank 128 of SDXL takes 370 MB in float16."""
FRAMING = {"mini": 1.8, "full": 2.2}
"""Side of the crop around a face, in widths of its box. The small model knows rendered portraits, which are framed so."""
BARS = {"mini": Bars(stop=40, small=56), "full": Bars()}
"""Rendered portraits are 128 pixels wide, so that their faces are smaller than a photograph's."""


@dataclass(frozen=True)
class Preset:
    """A way to hold a model set in memory."""

    words: str
    """For the page."""
    share: float = 1.0
    """Side of the square that is painted or learnt from, of the base model's."""
    offload: bool = False
    """The ControlNets stay in RAM, and their layers visit the GPU."""
    tiles: bool = False
    """The autoencoder works in tiles."""


PRESETS: dict[str, dict[str, Preset]] = {
    "mini": {"memory": Preset("float32, in memory")},
    "full": {
        "24 GB": Preset("everything on the GPU: about 20 GB (estimate)"),
        "16 GB": Preset("ControlNets visit the GPU layer by layer: about 13 GB (estimate), slower", 1.0, True, True),
        "12 GB": Preset("the same at 768 px: about 11 GB (estimate), slower and softer", 0.75, True, True),
    },
}
"""Model set -> presets, from the largest to the smallest. Estimates: sums of the weights (base 6.9 GB, each ControlNet 2.5 GB, half
precision) and of what one picture takes beside them; nobody measured them on such cards."""


def preset_of(model_set: str, preset: str = "") -> Preset:
    """A preset by its name; empty: the first."""
    known = PRESETS[model_set]
    return known[preset or next(iter(known))]


def side_of(model_set: str, preset: str = "") -> int:
    """Side of the square in pixels."""
    return round(sdxl.BASES[model_set].size * preset_of(model_set, preset).share / 32) * 32


@contextlib.contextmanager
def in_tiles(vae: Any, wanted: bool) -> Iterator[None]:
    """Inside the block the autoencoder works in tiles and slices, which takes less memory; afterwards it is as before."""
    if not wanted:
        yield
        return
    names = [name for name in ("use_tiling", "use_slicing") if hasattr(vae, name)]
    before = {name: getattr(vae, name) for name in names}
    try:
        for name in names:
            setattr(vae, name, True)
        yield
    finally:
        for name, value in before.items():
            setattr(vae, name, value)


NO_CONSENT = (
    "These pictures may show a real person: tick that everybody in them is of age and agrees, or use rendered pictures."
)


# ------------------------------------------------------------------------------------------- faces


class FaceTools:
    """Finds faces and says who they are: of rendered people with the small models, of photographs with OpenCV's. Without those only the
    place of a photographed face is found."""

    def __init__(
        self, parser: Any = None, embedder: Any = None, detector: Any = None, recogniser: Any = None,
        notes: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """``parser``, ``embedder``: the small networks, leased; ``detector``, ``recogniser``: YuNet and SFace; None: without.
        ``notes``: what the page says about those that are missing."""
        from pipelines.models import faces as face_models

        self.parser = None if parser is None else face_models.FaceParser(parser)
        self.embedder = None if embedder is None else face_models.FaceEmbedder(embedder)
        self.detector = None if detector is None else faces_photo.PhotoDetector(detector)
        self.recogniser = None if recogniser is None else faces_photo.PhotoEmbedder(recogniser)
        self.notes = list(notes)
        self.specs: tuple[ModelSpec, ...] = ()
        """What :func:`tools_of` made them of."""

    def faces(self, picture: Picture) -> tuple[Face, ...]:
        """The faces of a picture: the parser's, or where it sees none YuNet's, or else the cascade's, which have no points."""
        lane.check()
        found = self._parsed(picture)
        if found:
            return tuple(_as_face(one) for one in found)
        if self.detector is not None and min(picture.shape[:2]) >= 16:
            seen = self.detector.detect(picture)
            if seen:
                return tuple(seen)
        return tuple(faces_photo.find_faces(picture))

    def parts(self, picture: Picture, near: tuple[float, float]) -> face_models.Face | None:
        """The parsed face nearest to a place (x, y), if there is one within half of its width."""
        found = self._parsed(picture)
        if not found:
            return None
        nearest = min(found, key=lambda one: _apart(_middle(one.box), near))
        return nearest if _apart(_middle(nearest.box), near) <= nearest.box[2] / 2 else None

    def hair(self, picture: Picture) -> NDArray[numpy.bool_]:
        """Where the parser sees hair, (H, W); nowhere without one."""
        return numpy.zeros(picture.shape[:2], bool) if self.parser is None else self.parser.hair(picture)

    def embed(self, picture: Picture, face: Face) -> Embedding | None:
        """Who it is, of length 1; None where that cannot be said: without the network that knows such a picture, or without points."""
        if face.points is None:
            return None
        if face.backend == PARSED:
            return None if self.embedder is None else self.embedder.embed(picture, numpy.float32(face.points))
        known = self.recogniser is not None and face.backend != faces_photo.LBP
        return self.recogniser.embed(picture, face) if known else None

    def _parsed(self, picture: Picture) -> list[face_models.Face]:
        if self.parser is None or min(picture.shape[:2]) < 16:
            return []
        return [one for one in self.parser.detect(picture) if one.score >= SURE]


PARSED = "our parser, for rendered portraits"
SURE = 0.5
"""Certainty of the parser below which a face is none."""


def _as_face(found: face_models.Face) -> Face:
    points = tuple((float(x), float(y)) for x, y in found.points)
    return Face(tuple(float(number) for number in found.box), points, found.score, PARSED)


def _middle(box: Sequence[float]) -> tuple[float, float]:
    return box[0] + box[2] / 2, box[1] + box[3] / 2


def _apart(first: Sequence[float], second: Sequence[float]) -> float:
    return math.hypot(first[0] - second[0], first[1] - second[1])


def points_of(face: Face) -> NDArray[numpy.float64]:
    """The face's five points; where its detector has none, those of a frontal face in its box, turned by its roll."""
    if face.points is not None:
        return geometry.five(face.points)
    left, top, width, height = face.box
    middle = numpy.array([left + width / 2, top + height / 2])
    turn = math.radians(face.roll or 0.0)
    rotation = numpy.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return (IN_A_BOX - 0.5) * (width, height) @ rotation.T + middle


IN_A_BOX = numpy.array([[0.31, 0.38], [0.69, 0.38], [0.5, 0.6], [0.35, 0.79], [0.65, 0.79]])
"""Where the points of a frontal face lie in a cascade's window (brows to chin), in its widths and heights."""


def crop_of(size: tuple[int, int], face: Face, side: int, factor: float, upright: float = 20.0) -> Crop:
    """The square around a face in a picture of ``size`` (width, height). A head that is tilted by more than ``upright`` degrees is
    turned upright. The box of a parser holds the ears and the chin, so its height counts less."""
    width, height = face.box[2:]
    extent = max(width, 0.85 * height)
    middle = _middle(face.box)
    square = (middle[0] - extent / 2, middle[1] - extent / 2, extent, extent)
    roll = face.tilt or 0.0
    return geometry.crop_around(square, size, factor, side, roll if abs(roll) > upright else 0.0)


# ------------------------------------------------------------------------------------------ captions


SHOT = ("expression", "clothes", "background")
"""What of a caption belongs to the picture; the rest belongs to the person."""
NEUTRAL = {"hair_colour": "brown", "hair_style": "short", "glasses": "no", "beard": "no"}
NEUTRAL |= {"expression": "neutral", "clothes": "blue", "background": "white"}


def caption_of(attributes: Mapping[str, str]) -> str:
    """A sentence that the small model knows, with all attributes of ``portrait.ATTRIBUTES``; missing ones are :data:`NEUTRAL`."""
    from pipelines.worlds import portrait

    said = NEUTRAL | {name: value for name, value in attributes.items() if name in portrait.ATTRIBUTES}
    fixed = {name: value == "yes" if name in ("glasses", "beard") else value for name, value in said.items()}
    return portrait.caption(portrait.sample(0, **fixed), mention=("hair_style", *SHOT))


def read_attributes(verifier: Any, crops: Sequence[Picture]) -> list[dict[str, str]]:
    """What the verifier reads from portraits (side, side, 3): one answer for each attribute of a caption."""
    import torch

    from pipelines.models import faces as face_models
    from pipelines.models.verifier import HEADS
    from pipelines.worlds import portrait

    with torch.inference_mode():
        logits = verifier(face_models.as_input(list(crops), verifier))
    return [
        {name: HEADS[name][int(logits[name][row].argmax())] for name in portrait.ATTRIBUTES}
        for row in range(len(crops))
    ]


def of_the_person(readings: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The answer of most pictures for what stays with a person: hair, glasses, beard."""
    names = [name for name in readings[0] if name not in SHOT]
    votes = {name: [reading[name] for reading in readings] for name in names}
    return {name: max(dict.fromkeys(found), key=found.count) for name, found in votes.items()}


# ------------------------------------------------------------------------------------------- persons


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

    def nearest(self, points: ArrayLike) -> int:
        """The picture whose head is turned most like one with these points."""
        wanted = _pose(points)
        return int(numpy.argmin([numpy.abs(_pose(own) - wanted).sum() for own in self.points]))


def _pose(points: ArrayLike) -> NDArray[numpy.float64]:
    """Where the nose stands between the eyes, and between eyes and mouth, and how wide the mouth is in distances of the eyes: with the
    turn an expression that is alike counts, too."""
    marks = geometry.five(points)
    eyes, mouth = marks[:2].mean(0), marks[3:5].mean(0)
    down = mouth - eyes
    low = float((marks[2] - eyes) @ down) / max(float(down @ down), 1e-6)
    wide = numpy.linalg.norm(marks[4] - marks[3]) / max(float(numpy.linalg.norm(marks[1] - marks[0])), 1e-6)
    return numpy.clip([geometry.nose_between_eyes(marks), low, wide], -2, 3)


@dataclass(frozen=True)
class Training:
    """How a person is learnt. The budget of seconds makes runs differ on machines of different speed; with ``steps`` alone (and time
    enough) the same settings give the same adapter."""

    seconds: float = 60.0
    """Of learning, checks included."""
    steps: int = 400
    """At most."""
    rank: int = 16
    """alpha is the same. EasyPhoto has 128 / 64, FaceChain 4 / 32, both on SD 1.5."""
    rate: float = 1e-3
    batch: int = 4
    checks: int = 5
    """How often a validation picture is drawn and scored."""
    seed: int = 0
    model_set: str = "mini"
    preset: str = ""
    """How it is held in memory, of :data:`PRESETS`; empty: the first."""

    SECONDS: ClassVar[tuple[float, float]] = (1.0, 3600.0)
    STEPS: ClassVar[tuple[int, int]] = (1, 1200)
    RANK: ClassVar[tuple[int, int]] = (1, 128)
    RATE: ClassVar[tuple[float, float]] = (1e-5, 1e-2)
    BATCH: ClassVar[tuple[int, int]] = (1, 8)
    CHECKS: ClassVar[tuple[int, int]] = (1, 20)
    SEED: ClassVar[tuple[int, int]] = (0, 2**31 - 1)

    @classmethod
    def of(cls, model_set: str, fast: bool = False) -> Training:
        """The defaults of a model set, or its faster preset."""
        limits.choice("Model set", model_set, sdxl.BASES)
        if model_set == "full":
            return cls(300 if fast else 600, 300 if fast else 800, 32, 1e-4, 1, 4, model_set=model_set)
        return cls(20 if fast else 60, checks=3 if fast else 5, model_set=model_set)

    def validated(self) -> Training:
        """These settings with exact types.

        Raises:
            ValueError: one sentence that says what came, what was wanted and what to do.
        """
        limits.choice("Model set", self.model_set, sdxl.BASES)
        if self.preset:
            limits.choice("The preset", self.preset, PRESETS[self.model_set])

        def whole(name: str, value: Any, bounds: tuple[int, int]) -> int:
            return int(limits.number(name, value, *bounds, whole=True))

        return Training(
            float(limits.number("time for training", self.seconds, *self.SECONDS)),
            whole("number of training steps", self.steps, self.STEPS),
            whole("rank", self.rank, self.RANK),
            float(limits.number("learning rate", self.rate, *self.RATE)),
            whole("batch", self.batch, self.BATCH),
            whole("number of checks", self.checks, self.CHECKS),
            whole("seed", self.seed, self.SEED),
            self.model_set,
            self.preset,
        )


@dataclass
class Lesson:
    """How training stands: emitted at each check."""

    step: int
    loss: float
    """Mean since the last check."""
    score: float | None
    """Mean similarity of the validation pictures to the person, -1 to 1; None where it cannot be said."""
    seconds_left: float
    picture: Image
    """The validation pictures side by side."""
    best: bool


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The best so far, emitted when it is found: what a reader that stops the training keeps."""

    person: Person
    step: int
    score: float | None


# --------------------------------------------------------------------------------- what the pictures say


@dataclass(frozen=True, eq=False)
class Intake:
    """All that was found out about a visitor's pictures of a person."""

    photos: list[Photo]
    verdicts: list[Verdict]
    remarks: list[str]
    embeddings: list[Embedding | None]

    @property
    def used(self) -> list[int]:
        return [place for place, verdict in enumerate(self.verdicts) if verdict.used]


def inspect(
    tools: FaceTools, pictures: Sequence[tuple[str, Picture]], model_set: str = "mini", bars: Bars | None = None
) -> Intake:
    """Faces, identities and verdicts of (name, picture) pairs."""
    photos = [Photo(name, picture, tools.faces(picture)) for name, picture in pictures]
    largest = [portrait_intake.largest(photo.faces) for photo in photos]
    embeddings = [
        None if face is None else tools.embed(photo.picture, face) for photo, face in zip(photos, largest, strict=True)
    ]
    bar = threshold(model_set)
    known = sum(found is not None for found in embeddings)
    distances = metrics.cosine_distances(embeddings) if bar is not None and known > 1 else None
    verdicts, remarks = portrait_intake.check(
        photos, distances, None if distances is None or bar is None else 1 - bar, bars or BARS[model_set]
    )
    return Intake(photos, verdicts, [*remarks, *tools.notes], embeddings)


def look_at(job: Job, registry: Registry, pictures: Sequence[tuple[str, Picture]], model_set: str = "mini") -> Intake:
    """:func:`inspect` for the lane: the table of verdicts on the page. Leases the small face models only."""
    limits.choice("Model set", model_set, sdxl.BASES)
    job.progress(0.0, "looking for faces")
    return with_tools(registry, model_set, lambda tools: inspect(tools, pictures, model_set))


def with_tools(registry: Registry, model_set: str, work: Callable[[FaceTools], Any]) -> Any:
    """``work`` with the face tools of a model set. They are small, and leased before anything large is loaded."""
    found = at_hand(registry, model_set)
    return registry.run(found, lambda *models: work(tools_of(model_set, models, found)))


def threshold(model_set: str = "mini") -> float | None:
    """Similarity from which on two pictures show one person; None before it was measured."""
    from pipelines.models import faces as face_models

    return face_models.threshold() if model_set == "mini" else faces_photo.SFACE_BAR


def face_specs(model_set: str) -> tuple[ModelSpec, ...]:
    """The face models that a model set leases where they can be had."""
    from pipelines.models import faces as face_models

    if model_set == "mini":
        return face_models.PARSER, face_models.EMBEDDER
    return faces_photo.YUNET, faces_photo.SFACE


def at_hand(registry: Registry, model_set: str) -> tuple[ModelSpec, ...]:
    """Those of :func:`face_specs` that can be had: without the full set's, faces are still found by the cascade."""
    wanted = face_specs(model_set)
    if model_set == "mini":
        return wanted
    found = []
    for spec in wanted:
        try:
            with registry.lease(spec):
                found.append(spec)
        except (FileNotFoundError, ConnectionError) as error:
            if not named_by_us(error):
                raise
    return tuple(found)


def reader_specs(model_set: str) -> tuple[ModelSpec, ...]:
    """The verifier that reads attributes, for our own world only."""
    return (judges.REWARD,) if model_set == "mini" else ()


def tools_of(model_set: str, models: Sequence[Any], specs: Sequence[ModelSpec] | None = None) -> FaceTools:
    """Face tools around the leased ``specs``, by default all of :func:`face_specs`."""
    wanted = face_specs(model_set)
    specs = tuple(wanted if specs is None else specs)
    if model_set == "mini":
        made = FaceTools(*models)
        made.specs = specs
        return made
    given = dict(zip((spec.key for spec in specs), models, strict=True))
    detector, recogniser = (given.get(spec.key) for spec in wanted)
    # SFace reads a face by its points, which the cascade does not give.
    lost = wanted[:1] if detector is None else wanted[1:] if recogniser is None else ()
    notes = [_without(spec, detector is None) for spec in lost]
    made = FaceTools(None, None, detector, recogniser if detector is not None else None, notes)
    made.specs = specs
    return made


def _without(spec: ModelSpec, finds: bool) -> str:
    file = f"{spec.files[0] if spec.files else spec.key} of {spec.source} ({in_words(spec.bytes)})"
    what = "faces are found without their points and who somebody is" if finds else "who somebody is"
    return f"{file} cannot be had, so {what} is not known: go online once, or put the file into $LATENT_STUDIO_MODELS/{Path(spec.source).name}."


def gather(tools: FaceTools, intake: Intake, name: str, model_set: str, verifier: Any = None) -> Person:
    """A person, not trained yet, from the pictures that can be used.

    Raises:
        ValueError: none can.
    """
    used = intake.used
    if not used:
        reasons = " ".join(verdict.reason for verdict in intake.verdicts[:3])
        raise ValueError(f"None of the pictures can be used: {reasons}")
    side = min(sdxl.BASES[model_set].size, KEPT_SIDE)
    crops, points, embeddings, hashes = [], [], [], []
    for place in used:
        photo, face = intake.photos[place], intake.verdicts[place].face
        assert face is not None
        crop = crop_of(photo.picture.shape[1::-1], face, side, FRAMING[model_set])
        crops.append(crop.cut(photo.picture))
        points.append(crop.there(points_of(face)))
        hashes.append(hashlib.sha256(photo.picture.tobytes()).hexdigest())
        if intake.embeddings[place] is not None:
            embeddings.append(intake.embeddings[place])
    readings = read_attributes(verifier, crops) if verifier is not None else []
    facts = {
        "model_set": model_set,
        "pictures": hashes,
        "photographs": sum(intake.verdicts[place].face.backend != PARSED for place in used),
        "attributes": of_the_person(readings) if readings else {},
        "readings": readings,
    }
    table = numpy.stack(embeddings) if embeddings else numpy.zeros((0, 0))
    return Person(
        checked_name(name), numpy.stack(crops), numpy.stack(points).astype(numpy.float32), table.astype(numpy.float32),
        facts=facts,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------ training


def train_person(
    job: Job,
    registry: Registry,
    pictures: Sequence[tuple[str, Picture]],
    settings: Training | None = None,
    name: str = "person",
    rendered: bool = False,
    consent: bool = False,
    enough: Callable[[], bool] = lambda: False,
) -> Person:
    """Learn one person; called on the lane's thread.

    Emits progress with the loss and the seconds that are left, a :class:`Lesson` at each check and a :class:`Checkpoint` whenever the
    best so far was found. A job that is stopped ends within one step and leaves the last checkpoint with its reader; ``enough``, asked
    after each step, ends training early and returns the best.

    Args:
        pictures: (name, picture) pairs, 1 to 20.
        rendered: the pictures are of our own rendered people: no consent is needed.

    Raises:
        ValueError: settings outside their limits, no consent, pictures of which none can be used, weights that cannot be had.
        MemoryError: it does not fit, and what to choose instead.
    """
    settings = (settings or Training()).validated()
    name = checked_name(name)
    if not rendered and not consent:
        raise ValueError(NO_CONSENT)
    base = sdxl.BASES[settings.model_set]
    job.progress(0.0, "looking for faces")
    intake = with_tools(registry, settings.model_set, lambda tools: inspect(tools, pictures, settings.model_set))
    if not intake.used:
        raise ValueError(gather_refusal(intake))
    faces = at_hand(registry, settings.model_set)
    extra = reader_specs(settings.model_set)
    job.progress(0.01, f"loading {base.title}")
    since = time.monotonic()

    def work(*models: Any) -> Person:
        if job.started is not None:  # the limit is for the work: a first run may have to fetch the model
            job.started += time.monotonic() - since
        parts = models[: len(base.parts)]
        tools = tools_of(settings.model_set, models[len(parts) : len(parts) + len(faces)], faces)
        verifier = models[-1] if extra else None
        person = gather(tools, intake, name, settings.model_set, verifier)
        glasses = warn_glasses(person)
        person.facts |= {"remarks": [*intake.remarks, *([glasses] if glasses else [])], "settings": asdict(settings)}
        with in_tiles(parts[sdxl.PARTS.index("vae")], preset_of(settings.model_set, settings.preset).tiles):
            lessons = _lessons(parts, intake, person, settings)
            return _Learner(job, parts, tools, person, settings, enough).learn(lessons)

    wanted = (*base.parts, *faces, *extra)
    try:
        return registry.run(wanted, work)
    except MemoryError as error:
        smaller = list(PRESETS[settings.model_set])[1:]
        memory = troubles.ran_out(error)
        if not memory and not smaller:
            raise
        todo = (
            f"choose the preset {smaller[-1]}" if smaller else "give fewer pictures, or choose a smaller rank or batch"
        )
        raise MemoryError(f"There is not enough {memory or 'memory'} to learn the person: {todo}.") from error
    except (FileNotFoundError, ConnectionError) as error:
        if not named_by_us(error):
            raise
        raise ValueError(cannot_be_had(error, wanted)) from error


def warn_glasses(person: Person, told: bool = False) -> str | None:
    """Where most pictures show glasses, by what the verifier read of them or by what the visitor ``told``: what will come of it."""
    worn = [reading.get("glasses") == "yes" for reading in person.facts.get("readings", ())]
    if 2 * sum(worn) <= len(worn) and not told:
        return None
    shown = f"{sum(worn)} of {len(worn)} pictures show glasses" if sum(worn) else "Most pictures show glasses"
    return f"{shown}: the result will likely wear glasses; add pictures without them if it should not."


def cannot_be_had(error: Exception, wanted: Sequence[ModelSpec]) -> str:
    """Why a run cannot begin: which file of ``wanted`` is missing, how large it is, and what can be done meanwhile."""
    spec = next((spec for spec in wanted if str(error).startswith(spec.key)), None)
    size = "" if spec is None else f" (about {in_words(spec.bytes)})"
    return f"{str(error).rstrip('.')}{size}. The preview without AI models still runs."


def in_words(count: int) -> str:
    """Bytes for the page: "2.5 GB", "39 MB"."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{max(count / 1e6, 0.1):.2g} MB"


def named_by_us(error: Exception) -> bool:
    """A sentence of ours about missing files; the system's own would name a path."""
    return not isinstance(error, FileNotFoundError) or error.errno is None


def gather_refusal(intake: Intake) -> str:
    """Why no person can be made of these pictures, with the first reason of each kind."""
    reasons = dict.fromkeys(verdict.reason for verdict in intake.verdicts)
    return " ".join([*list(reasons)[:2], *intake.remarks[-1:]])


@dataclass(frozen=True, eq=False)
class _Lessons:
    """What is learnt from, computed once."""

    latents: Tensor
    """(N, 4, h, w): every picture at each scale, and its mirror image."""
    picture: Tensor
    """(N,) which picture a row comes from."""
    prompts: tuple[Tensor, Tensor]
    """Embeddings and pooled embeddings, a row per picture and a last one for "no caption"."""
    ids: Tensor
    """(1, 6)"""
    others: tuple[Tensor, Tensor, Tensor] | None = None
    """Latents, embeddings and pooled embeddings of other people, for prior preservation (DreamBooth, arXiv 2208.12242)."""


def captions(person: Person) -> list[str]:
    """A caption for each of the person's pictures."""
    if person.model_set != "mini":
        return [SKS] * len(person.crops)
    readings = person.facts.get("readings") or [{}] * len(person.crops)
    return [caption_of({**reading, **person.facts["attributes"]}) for reading in readings]


def _lessons(parts: Sequence[Any], intake: Intake, person: Person, settings: Training) -> _Lessons:
    import torch

    side = side_of(settings.model_set, settings.preset)
    pipe = sdxl.build(parts)
    crops = []
    for place in intake.used:
        photo, face = intake.photos[place], intake.verdicts[place].face
        assert face is not None
        for scale in SCALES:
            crop = crop_of(photo.picture.shape[1::-1], face, side, scale * FRAMING[settings.model_set])
            square = crop.cut(photo.picture)
            crops += [square, numpy.ascontiguousarray(square[:, ::-1])]
    with torch.no_grad():
        latents = torch.cat([encode(pipe.vae, crop) for crop in crops])
        positive, negative, pooled, negative_pooled = pipe.encode_prompt(
            captions(person), device=pipe.unet.device, do_classifier_free_guidance=True
        )
    ids = torch.tensor([[side, side, 0, 0, side, side]], dtype=torch.float32)
    return _Lessons(
        latents.float(), torch.arange(len(intake.used)).repeat_interleave(2 * len(SCALES)),
        (torch.cat((positive, negative[:1])), torch.cat((pooled, negative_pooled[:1]))), ids.to(positive), _others(latents, positive),
    )  # fmt: skip


def _others(latents: Tensor, positive: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """The people that ``assets.mini_controlnets.train others`` encoded, where they belong to the model; None for any other.

    Raises:
        ValueError: the file is another than the studio came with, in one sentence.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not PEOPLE.is_file():
        return None
    try:
        found = load_file(PEOPLE)
        people = tuple(found[name] for name in ("latents", "states", "pooled"))
    except (SafetensorError, LookupError, OSError) as error:
        troubles.raise_machines(error)
        people = ()
    sizes = {len(value) for value in people if value.ndim and value.is_floating_point() and value.isfinite().all()}
    if [value.ndim for value in people] != [4, 3, 2] or len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"The people of {PEOPLE.parent.name}/{PEOPLE.name} are damaged: {asset_files.RESTORE}.")
    if people[0].shape[1:] != latents.shape[1:] or people[1].shape[1:] != positive.shape[1:]:
        return None
    return people[0].float().to(latents.device), people[1], people[2]


def watched(pipe: Any) -> Callable[[Tensor], Picture]:
    """Let this pipeline's own scheduler note its guess of the clean latents; returns what makes a picture of it, after a step."""
    guess = sdxl.remember_guess(pipe.scheduler)
    return lambda latents: numpy.asarray(sdxl.preview(pipe.vae, guess.get("clean", latents))[0])


def encode(vae: Any, picture: Picture) -> Tensor:
    """Latents (1, 4, h, w) of a picture, scaled as the UNet knows them."""
    import torch

    from pipelines.models import faces as face_models

    pixels = face_models.as_input([picture], vae) * 2 - 1
    # SDXL's own autoencoder overflows in half precision.
    with torch.autocast(pixels.device.type, enabled=False):
        lifted = bool(getattr(vae.config, "force_upcast", False)) and vae.dtype == torch.float16
        encoded = vae.float().encode(pixels.float()) if lifted else vae.encode(pixels)
        if lifted:
            vae.half()
    found = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    return found * vae.config.scaling_factor


def decode(vae: Any, latents: Tensor) -> Picture:
    """The picture of latents (1, 4, h, w) of :func:`encode`."""
    import torch

    from pipelines.core import images

    with torch.autocast(latents.device.type, enabled=False):
        lifted = bool(getattr(vae.config, "force_upcast", False)) and vae.dtype == torch.float16
        if lifted:
            vae.float()
        made = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample
        if lifted:
            vae.half()
    return numpy.asarray(images.to_pil((made.float() / 2 + 0.5).clamp(0, 1))[0])


def weights_of(snr: Tensor, prediction: str) -> Tensor:
    """Min-SNR-5 weights of the squared error of what the model predicts: "epsilon", "v_prediction" or "sample".

    Of a velocity they would vanish where nearly all is noise, and what is learnt elsewhere would then spoil where a head is put; there
    they are 1, as in the small model's own training.
    """
    kept = snr.clamp_max(SNR_MOST)
    if prediction == "v_prediction":
        return (SNR_MOST / (snr + 1)).clamp_max(1)
    return {"epsilon": kept / snr, "sample": kept}[prediction]


def stratified(count: int, levels: int, generator: Any) -> Tensor:
    """``count`` noise levels (int64), one from each of as many equal parts of ``levels``, in random order."""
    import torch

    place = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return (place[torch.randperm(count, generator=generator)] * levels).long().clamp(0, levels - 1)


class _Learner:
    """One training run around leased parts."""

    def __init__(
        self, job: Job, parts: Sequence[Any], tools: FaceTools, person: Person, settings: Training, enough: Callable[[], bool]
    ) -> None:  # fmt: skip
        import torch
        from diffusers import DDPMScheduler

        self.job, self.tools, self.person, self.settings, self.enough = job, tools, person, settings, enough
        self.parts = parts
        self.unet = parts[0]
        self.scheduler = DDPMScheduler.from_config(dict(zip(sdxl.PARTS, parts, strict=True))["scheduler"].config)
        # Gradients of half precision would vanish unscaled; of float32 this does nothing.
        self.scaler = torch.amp.GradScaler(self.unet.device.type, enabled=self.unet.dtype == torch.float16)
        self.best: tuple[float, int, dict[str, Tensor]] | None = None
        self.losses: list[float] = []
        self.history: list[dict[str, Any]] = []

    def learn(self, lessons: _Lessons) -> Person:
        import torch

        from pipelines.core.patching import frozen

        settings = self.settings
        generator = torch.Generator("cpu").manual_seed(settings.seed)
        self.person.facts["score_before"] = self._validate()[0]  # a person that is stopped keeps it too
        with frozen(self.unet), torch.enable_grad():  # whatever peft adds goes with the block
            weights = self._inject()
            optimiser = torch.optim.AdamW(weights, settings.rate, weight_decay=1e-2)
            started, step, told, checked = time.monotonic(), 0, 0, 0
            while True:
                spent = (time.monotonic() - started) / settings.seconds
                # The clock counts only where it is ahead of the steps: the rate would else differ a little from run to run.
                done = spent if spent > (step + 1) / settings.steps else step / settings.steps
                if done >= 1 or (step and self.enough()):
                    break
                if done >= (checked + 1) / settings.checks:
                    checked = int(done * settings.checks)
                    self._check(step, told, (1 - done) * (time.monotonic() - started) / max(done, 1e-6))
                    told = step
                for group in optimiser.param_groups:
                    group["lr"] = settings.rate * min(1.0, (step + 1) / 10) * (0.1 + 0.9 * (1 - done))
                self._step(lessons, optimiser, weights, generator)
                step += 1
                done = max((time.monotonic() - started) / settings.seconds, step / settings.steps)
                left = (time.monotonic() - started) * (1 - done) / max(done, 1e-6)
                recent = sum(self.losses[-20:]) / len(self.losses[-20:])
                self.job.progress(done, f"step {step}, loss {recent:.3f}, about {max(left, 0):.0f} s left")
            self._check(step, told, 0.0)
            seconds = time.monotonic() - started
        self.person.facts["seconds"] = round(seconds, 2)
        return self._kept()

    def _inject(self) -> list[Tensor]:
        import torch
        from peft import LoraConfig

        rank, targets = self.settings.rank, TARGETS[self.settings.model_set]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            self.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets)), "person")
        if sdxl.BASES[self.settings.model_set].name == "full":
            self.unet.enable_gradient_checkpointing()
            self.unet.train()  # checkpointing works in training mode only; SDXL has no dropout
        weights = [value for name, value in self.unet.named_parameters() if "lora_" in name]
        for value in weights:
            value.data = value.data.float()
            value.requires_grad_(True)
        return weights

    def _step(self, lessons: _Lessons, optimiser: Any, weights: list[Tensor], generator: Any) -> None:
        import torch

        unet, others = self.unet, 0 if lessons.others is None else round(OTHERS * self.settings.batch)
        batch = self.settings.batch
        rows = torch.randint(len(lessons.latents), (batch - others,), generator=generator)
        named = lessons.picture[rows]
        dropped = torch.rand(batch - others, generator=generator) < NO_CAPTION
        named = torch.where(dropped, len(lessons.prompts[0]) - 1, named)
        clean, states, pooled = lessons.latents[rows], lessons.prompts[0][named], lessons.prompts[1][named]
        if others and lessons.others is not None:
            chosen = torch.randint(len(lessons.others[0]), (others,), generator=generator)
            parts = zip((clean, states, pooled), lessons.others, strict=True)
            clean, states, pooled = (torch.cat((own, more[chosen].to(own))) for own, more in parts)
        reach = USED[self.settings.model_set] * self.scheduler.config.num_train_timesteps
        levels = stratified(batch, round(reach), generator)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        device = clean.device
        levels = levels.to(device)
        noisy = self.scheduler.add_noise(clean, noise, levels)
        shares = self.scheduler.alphas_cumprod.to(device)[levels]
        kind = self.scheduler.config.prediction_type
        wanted = {"epsilon": noise, "sample": clean}.get(kind)
        if wanted is None:
            wanted = self.scheduler.get_velocity(clean, noise, levels)
        # In the model's own half precision: bfloat16 would meet its float16 in the UNet's `cat`, which autocast refuses.
        with torch.autocast(device.type, dtype=unet.dtype, enabled=unet.dtype != torch.float32):
            found = unet(
                noisy.to(unet.dtype), levels, states,
                added_cond_kwargs={"text_embeds": pooled, "time_ids": lessons.ids.expand(batch, -1)},
            ).sample  # fmt: skip
        errors = (found.float() - wanted).square().mean((1, 2, 3))
        loss = (weights_of(shares / (1 - shares), kind) * errors).mean()
        if not torch.isfinite(loss):
            raise ValueError("Training became unstable (the loss is not a number): lower the learning rate.")
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(optimiser)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        self.scaler.step(optimiser)
        self.scaler.update()
        optimiser.zero_grad(set_to_none=True)
        self.losses.append(float(loss.detach()))

    def _validate(self) -> tuple[float | None, Image]:
        """Score and picture of the two validation drawings with the UNet as it is now."""
        import torch
        from PIL import Image as Images

        from pipelines.core import images

        mini = self.settings.model_set == "mini"
        if mini:
            prompts = (captions(self.person) * 2)[:2]
        else:
            prompts = [f"{SKS}, studio portrait", f"{SKS}, outdoors, smiling"]
        pipe = sdxl.build(self.parts, "Img2Img" if mini else "")
        training = self.unet.training
        self.unet.eval()
        dtype = pipe.vae.dtype

        def after(_pipe: Any, _step: int, _level: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
            self.job.check()
            return given

        try:
            with torch.no_grad():
                if mini:  # what was learnt is how to finish a head that stands: two of its own are drawn again
                    again = [Images.fromarray(crop) for crop in (*self.person.crops, *self.person.crops)[:2]]
                    begin: dict[str, Any] = {"image": again, "strength": USED["mini"] - 0.05}
                    begin["generator"] = torch.Generator("cpu").manual_seed(self.settings.seed)
                else:
                    side = side_of(self.settings.model_set, self.settings.preset)
                    cells = side // pipe.vae_scale_factor
                    noise = sdxl.draw_noise(self.settings.seed, (2, self.unet.config.in_channels, cells, cells))
                    begin = {"latents": noise.to(self.unet.device, self.unet.dtype), "height": side, "width": side}
                drawn = pipe(
                    prompts, output_type="pt", callback_on_step_end=after, num_inference_steps=16 if mini else 20,
                    guidance_scale=1.5 if mini else 5.0, **begin,
                ).images.float()  # fmt: skip
        finally:
            self.unet.train(training)
            if pipe.vae.dtype != dtype:  # SDXL's autoencoder is cast up for decoding
                pipe.vae.to(dtype)
        pictures = images.to_pil(drawn)
        return self._score([numpy.asarray(one) for one in pictures]), images.to_pil(torch.cat(list(drawn), 2)[None])[0]

    def _score(self, pictures: list[Picture]) -> float | None:
        mean = self.person.mean
        if mean is None:
            return None
        found = [portrait_intake.largest(self.tools.faces(picture)) for picture in pictures]
        known = [self.tools.embed(p, face) for p, face in zip(pictures, found, strict=True) if face is not None]
        # A drawing without a face is like nobody.
        return float(sum(float(one @ mean) for one in known if one is not None) / len(pictures))

    def _check(self, step: int, since: int, left: float) -> None:
        from peft import get_peft_model_state_dict

        score, picture = self._validate()
        recent = self.losses[since:] or self.losses[-1:] or [math.nan]
        loss = sum(recent) / len(recent)
        worth = -loss if score is None else score
        best = self.best is None or worth >= self.best[0]
        if best:
            state = get_peft_model_state_dict(self.unet, adapter_name="person")
            self.best = (worth, step, {name: value.detach().float().cpu().clone() for name, value in state.items()})
        self.history.append({"step": step, "loss": _rounded(loss), "score": _rounded(score)})
        self.job.emit(Lesson(step, loss, score, left, picture, best))
        if best:
            self.job.emit(Checkpoint(self._kept(), step, score))

    def _kept(self) -> Person:
        assert self.best is not None
        best = self.best[1]
        facts = self.person.facts | {
            "steps": len(self.losses),
            "best_step": best,
            "checks": list(self.history),
            "losses": [_rounded(value) for value in self.losses],
        }
        return replace(self.person, adapter=self.best[2], facts=facts)


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 5)


# -------------------------------------------------------------------------------------------- files


_NAME = re.compile(r"[\w][\w \-]{0,39}", re.UNICODE)
LORA = "lora."


def checked_name(name: Any) -> str:
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
    import torch
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{checked_name(person.name)}.safetensors"
    # SDXL runs in half precision and wears the layers so; in full they would be twice as long to send.
    kept = torch.float16 if person.model_set == "full" else torch.float32
    tensors = {f"{LORA}{name}": value.detach().to("cpu", kept).contiguous() for name, value in person.adapter.items()}
    for name in ("crops", "points", "embeddings"):
        tensors[name] = torch.from_numpy(numpy.ascontiguousarray(getattr(person, name)))
    mean = person.mean
    facts = person.facts | {"name": person.name, "format": FORMAT, "mean": None if mean is None else mean.tolist()}
    text = json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False)
    with saving.whole(path, path.with_suffix(".json")) as (weights, words):
        save_file(tensors, weights)
        words.write_text(text, encoding="utf-8")
    return path


FORMAT = 1


def load(folder: str | Path, name: str) -> Person:
    """A person that :func:`save` wrote.

    Raises:
        ValueError: there is none of this name, or the files are not what :func:`save` writes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    name = checked_name(name)
    path = Path(folder) / f"{name}.safetensors"
    if not path.is_file() or not path.with_suffix(".json").is_file():
        raise ValueError(f"There is no saved person {name!r}: choose one of the list, or train one.")
    wrong = f"The files of {name!r} are not a saved person of this studio: delete them and train the person again."
    if path.stat().st_size > MOST_BYTES or path.with_suffix(".json").stat().st_size > 2**20:
        raise ValueError(wrong)
    try:
        tensors = load_file(path)
        facts = json.loads(path.with_suffix(".json").read_text())
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        troubles.raise_machines(error)
        raise ValueError(wrong) from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT or facts.get("model_set") not in sdxl.BASES:
        raise ValueError(wrong)
    arrays = {key: value.numpy() for key, value in tensors.items() if not key.startswith(LORA)}
    adapter = {key[len(LORA) :]: value for key, value in tensors.items() if key.startswith(LORA)}
    if not _well_formed(arrays, adapter, facts):
        raise ValueError(wrong)
    facts = {key: value for key, value in facts.items() if key not in ("name", "format", "mean")}
    return Person(name, arrays["crops"], arrays["points"], arrays["embeddings"], adapter, facts)


def _well_formed(arrays: Mapping[str, NDArray], adapter: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bool:
    from pipelines.models.faces import EMBEDDING

    if set(arrays) != {"crops", "points", "embeddings"}:
        return False
    crops, points, embeddings = arrays["crops"], arrays["points"], arrays["embeddings"]
    count = len(crops)
    side = min(sdxl.BASES[facts["model_set"]].size, KEPT_SIDE)
    return (
        crops.dtype == numpy.uint8
        and 1 <= count <= portrait_intake.MOST
        and crops.shape == (count, side, side, 3)
        and points.shape == (count, 5, 2)
        and (embeddings.size == 0 or embeddings.shape[1:] == (EMBEDDING,))
        and embeddings.ndim == 2
        and len(embeddings) <= count
        and bool(numpy.isfinite(points).all() and numpy.isfinite(embeddings).all())
        and all(value.is_floating_point() and value.ndim in (2, 4) and bool(value.isfinite().all()) for value in adapter.values())
        and isinstance(facts.get("attributes", {}), dict)
        and all(isinstance(value, str) for value in facts.get("attributes", {}).values())
    )  # fmt: skip


def check_adapter(unet: Any, person: Person) -> None:
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
            {"name": path.stem, "model_set": facts.get("model_set"), "pictures": len(facts.get("pictures", ())), "trained": "best_step" in facts}
            | {key: facts.get(key) for key in ("best_step", "steps", "seconds", "score_before", "checks")}
        )  # fmt: skip
    return rows


def delete(folder: str | Path, name: str) -> bool:
    """Remove both files of a person; False when there were none."""
    path = Path(folder) / f"{checked_name(name)}.safetensors"
    found = [file for file in (path, path.with_suffix(".json")) if file.exists()]
    for file in found:
        file.unlink()
    return bool(found)


def shipped() -> bool:
    """Whether all small weights that the tab needs are in this copy of the studio: parser, embedder and the three ControlNets."""
    parts = (PARSER, EMBEDDER, *(control.spec for control in CONTROLS["mini"].values()))
    folders = {Path(spec.source) / spec.key.rsplit("/", 1)[1] for spec in parts}
    files = (*(Path(spec.source) / "manifest.json" for spec in parts), *(folder / "config.json" for folder in folders))
    weights = all(any((ROOT / folder).glob("*.safetensors")) for folder in folders)
    return weights and all((ROOT / file).is_file() for file in files)
