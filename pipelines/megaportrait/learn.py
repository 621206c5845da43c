"""The Identity Net's training: one person, learnt from a few pictures as a LoRA of the shared image model.

peft puts small layers beside the UNet's attention, latents and prompts are computed once, and of the checkpoints the one stays whose
drawings the embedder takes for the person most (:mod:`trainer`). The UNet itself is the registry's and is put back exactly. The paper
(arXiv 2411.04357) says "fine-tuned on the source images" and no more: every number here is ours, after the open systems that are named
beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pipelines.core import limits, troubles
from pipelines.core.geometry import Picture
from pipelines.core.registry import too_little_ram
from pipelines.core.run import Run
from pipelines.core.settings import Declared, choice, real, seed, whole
from pipelines.megaportrait.checks import NO_CONSENT, cannot_be_had, warn_glasses
from pipelines.megaportrait.intake import gather_refusal, inspect
from pipelines.megaportrait.parts import PRESETS, reader_specs
from pipelines.megaportrait.person import Person, checked_name, gather, with_readings
from pipelines.megaportrait.tools import at_hand, named_by_us, tools_of, with_tools
from pipelines.models import sdxl

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry
    from pipelines.models.verifier import SceneVerifier


@dataclass(frozen=True)
class Training(Declared):
    """How a person is learnt. The budget of seconds makes runs differ on machines of different speed; with ``steps`` alone (and time
    enough) the same settings give the same adapter."""

    seconds: float = real(
        "Time, seconds", 60.0, 1.0, 3600.0, name="time for training", step=5, info="More is more like the person."
    )
    """Of learning, checks included."""
    steps: int = whole("Steps at most", 400, 1, 1200, name="number of training steps", step=10, offered=(10, 1200))
    rank: int = whole("Rank", 16, 1, 128, offered=(1, 64), info="How much can be learnt; alpha is the same.")
    """EasyPhoto has 128 / 64, FaceChain 4 / 32, both on SD 1.5."""
    rate: float = real("Learning rate", 1e-3, 1e-5, 1e-2, step=1e-4)
    batch: int = whole("Pictures per step", 4, 1, 8, name="batch")
    checks: int = whole(
        "Checks",
        5,
        1,
        20,
        name="number of checks",
        info="At each, two pictures are drawn and the best state is kept.",
    )
    """How often a validation picture is drawn and scored."""
    seed: int = seed(name="seed")
    model_set: str = choice("Model set", "mini", sdxl.FIRST, shown=False)
    preset: str = ""
    """How it is held in memory, of ``parts.PRESETS``; empty: the first."""

    @classmethod
    def of(cls, model_set: str, fast: bool = False) -> Training:
        """The defaults of a model set, or its faster preset."""
        limits.choice("Model set", model_set, sdxl.FIRST)
        if model_set == "full":
            return cls(300 if fast else 600, 300 if fast else 800, 32, 1e-4, 1, 4, model_set=model_set)
        return cls(20 if fast else 60, checks=3 if fast else 5, model_set=model_set)

    def validated(self) -> Training:
        checked = super().validated()
        if self.preset:
            limits.choice("The preset", self.preset, PRESETS[self.model_set])
        return checked


@dataclass
class Lesson:
    """How training stands: emitted at each check."""

    step: int
    loss: float
    """Mean since the last check."""
    score: float | None
    """Mean similarity of the validation pictures to the person, -1 to 1; None where it cannot be said."""
    picture: Image
    """The validation pictures side by side."""
    best: bool


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The best so far, emitted when it is found: what a reader that stops the training keeps."""

    person: Person
    step: int
    score: float | None


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
    run, name = Run(job, registry, settings or Training()), checked_name(name)
    settings = run.settings
    if not rendered and not consent:
        raise ValueError(NO_CONSENT)
    model_set, base = settings.model_set, sdxl.FIRST[settings.model_set]
    job.progress(0.0, "looking for faces")
    intake = with_tools(registry, model_set, lambda tools: inspect(tools, pictures, model_set))
    if not intake.used:
        raise ValueError(gather_refusal(intake))
    faces = at_hand(registry, model_set)

    def work(verifier: SceneVerifier | None = None, **models: Any) -> Person:
        person = gather(intake, name, model_set)
        person = person if verifier is None else with_readings(person, verifier)
        glasses = warn_glasses(person)
        person.facts |= {"remarks": [*intake.remarks, *([glasses] if glasses else [])], "settings": asdict(settings)}
        return learnt(job, models, tools_of(model_set, faces, models), intake, person, settings, enough)

    from pipelines.megaportrait.trainer import learnt

    wanted = {**base.named, **faces, **reader_specs(model_set)}
    try:
        return run.lease(wanted, work, loading=base.title, at=0.01)
    except MemoryError as error:
        raise _too_large(error, model_set) from error
    except (FileNotFoundError, ConnectionError) as error:
        if not named_by_us(error):
            raise
        raise ValueError(cannot_be_had(error, wanted.values())) from error


def _too_large(error: MemoryError, model_set: str) -> MemoryError:
    """What to do where training does not fit; ``error`` itself where nothing helps."""
    smaller, memory = list(PRESETS[model_set])[1:], troubles.ran_out(error)
    if too_little_ram(error) or (not memory and not smaller):
        return error
    todo = (
        f"choose the preset {smaller[-1]}"
        if smaller
        else "give fewer pictures, or choose a smaller rank or batch on the page"
    )
    return MemoryError(f"There is not enough {memory or 'memory'} to learn the person: {todo}.")
