"""TIME, Text-to-Image Model Editing (Orgad et al., ICCV 2023, arXiv 2303.08084): change what the model assumes where a prompt is silent.

Every cross-attention reads the prompt through two matrices, W_K and W_V. An edit, "a cube" to "a red cube", gives each of them the weights
that make the tokens of the source prompt read as their twins in the destination prompt do, and that otherwise stay close to what they were:

    W' = argmin Σ ‖W' c_i - W c_i*‖² + λ ‖W' - W‖²_F                                                             (Eq. 3)
       = (λ W + Σ W c_i* c_iᵀ) (λ I + Σ c_i c_iᵀ)⁻¹                                                              (Eq. 6)

with c_i an embedding of a source token and c_i* that of the same word in the destination. :func:`generate` draws prompts from the same noises
before and after, and says of each whether what was wanted came (efficacy for the source itself, generality for prompts that contain it), and
whether all else stayed (specificity).

What is ours: the small model and the judge that reads attributes; λ in units that fit our embeddings (their norm is about 70, so that the
paper's 0.1 leaves hardly anything of the weights); one more matrix, which SDXL has and the paper's Stable Diffusion 1.4 has not: that which reads
the prompt as a whole, edited by the same formula; and :attr:`Settings.protect`. The paper's λ holds the weights in every direction alike,
which on our small model turns other things red as well; with it they are held most where other prompts read, as in Unified Concept Editing
(Gandikota et al., WACV 2024, arXiv 2308.14761, Eq. 7): μ C joins λ I, with C the mean over prompts of Σ c cᵀ; of wholes,
their sum over prompts that say little. Module level is free of torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from pipelines.core import asset_files
from pipelines.core.paper import Paper
from pipelines.core.run import KeptRun, Run
from pipelines.core.settings import Declared, choice, real, seed, text, whole
from pipelines.core.stages import Cache
from pipelines.core.weights import ROOT, ModelSpec
from pipelines.models import judges, sdxl
from pipelines.worlds.prompts import surprise

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry
    from pipelines.models.verifier import SceneVerifier
    from pipelines.time_edit.saved import Edit

PAPER = Paper(
    title="Editing Implicit Assumptions in Text-to-Image Diffusion Models",
    authors=("Hadas Orgad", "Bahjat Kawar", "Yonatan Belinkov"),
    venue="ICCV 2023",
    url="https://arxiv.org/abs/2303.08084",
    summary="A sentence of the form “a cube → a red cube” is written into the model's own weights, in a split second.",
    idea=(
        "Where a prompt does not say, a model assumes: roses are red, doctors are men. One closed formula changes two matrices in each "
        "cross-attention, so that the model assumes something else from now on, and nothing is trained."
    ),
    ours="The code, the embedded image model, the judge that reads its pictures, what protects other prompts, the edit of what reads a prompt as a whole, and the measurements.",
    theirs="The method and its test of efficacy, generality and specificity.",
    licence="Code and embedded weights Apache-2.0; Stable Diffusion XL is openrail++; the authors' code is MIT.",
    code_url="https://github.com/bahjat-kawar/time-diffusion",
)

ARROW = "=>"
PROMPTS_MOST, EDITS_MOST = 8, 4
EVERYTHING = "keys, values and whole"
LAYERS = {
    EVERYTHING: "keys, values, and what reads the prompt as a whole",
    "keys and values": "keys and values, as in the paper",
    "values": "values only",
    "keys": "keys only",
}
"""Which matrices are edited."""
MEASURED = ROOT / "assets/time_edit/evaluation.json"


@dataclass(frozen=True)
class Settings(Declared):
    """Everything that decides a run; the same settings give the same pictures, byte for byte, on the same machine."""

    edits: str = text(
        "Edits, one a line: source => destination",
        600,
        "There is no edit: write one, such as a cube => a red cube.",
        name="edits",
        info="The source without what is to be assumed, the destination with it.",
    )
    related: str = text(
        "Prompts that should change",
        1200,
        name="prompts that should change",
        default="",
        info="One a line; they contain the source.",
    )
    unrelated: str = text(
        "Prompts that should not change", 1200, name="prompts that should not change", default="", info="One a line."
    )
    regularisation: float = real(
        "λ",
        1.0,
        0.1,
        100_000.0,
        step=0.1,
        offered=(0.1, 1000.0),
        info="How firmly the weights stay. Small edits more, and breaks more.",
        name="λ",
    )
    protect: float = real(
        "Protect other prompts, μ",
        1.0,
        0.0,
        100.0,
        step=0.1,
        name="μ",
        info="0 is the paper’s own formula, which protects none.",
    )
    layers: str = choice("What is edited", EVERYTHING, LAYERS)
    count: int = whole("Pictures a prompt", 1, 1, 4, name="number of pictures")
    seed: int = seed()
    steps: int = whole("Steps", 16, 1, 100, name="number of steps")
    model_set: str = choice("Model set", "mini", sdxl.BASES, shown=False)
    contradicting: str = text(
        "Prompts that say otherwise",
        600,
        name="prompts that say otherwise",
        default="",
        optional=True,
        info="One a line, such as a blue cube; they should go on meaning what they say.",
    )

    @classmethod
    def of(cls, model_set: str) -> Settings:
        """The defaults of a model set, with the first example."""
        filled: dict[str, Any] = {**example(model_set, 0)}
        steps = 16 if model_set == "mini" else sdxl.BASES[model_set].steps
        return cls(**filled, steps=steps, model_set=model_set)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """(source, destination) of each edit."""
        return tuple((a.strip(), b.strip()) for a, _, b in (line.partition(ARROW) for line in _lines(self.edits)))

    @property
    def prompts(self) -> dict[str, tuple[str, ...]]:
        """ "edited", "related", "contradicting" and "unrelated" -> prompts."""
        sources = tuple(source for source, _ in self.pairs)
        return {
            "edited": sources,
            **{kind: _lines(getattr(self, kind)) for kind in ("related", "contradicting", "unrelated")},
        }

    def validated(self) -> Self:
        made = super().validated()
        lines = _lines(made.edits)
        if len(lines) > EDITS_MOST:
            raise ValueError(
                f"There are {len(lines)} edits and at most {EDITS_MOST} can be made at once: leave some out."
            )
        for line, (source, destination) in zip(lines, made.pairs, strict=True):
            if not source or not destination or source == destination:
                raise ValueError(
                    f"The edit “{line[:60]}” is not of the form source {ARROW} destination: write one such as a cube {ARROW} a red cube."
                )
        for name in ("related", "contradicting", "unrelated"):
            if len(made.prompts[name]) > PROMPTS_MOST:
                raise ValueError(
                    f"There are {len(made.prompts[name])} {self.field(name).name} and at most {PROMPTS_MOST} are drawn: leave some out."
                )
        return made

    def rewritten(self, prompt: str) -> str:
        """The prompt with every source in it replaced by its destination: what it should be read as after the edits."""
        for source, destination in self.pairs:
            prompt = prompt.replace(source, destination)
        return prompt


GENERAL = tuple(
    f"{what} {where}".strip()
    for what in (
        "a person",
        "a man",
        "a woman",
        "a cat",
        "a car",
        "a house",
        "a tree",
        "a flower",
        "a cup",
        "a book",
        "a city",
        "a meal",
    )
    for where in ("", "in the sun", "on a table", "seen from afar", "painted in oil")
)
"""Prompts of the world at large, which are protected in the full set."""


def protected(model_set: str, sources: Sequence[str], count: int = 100) -> list[str]:
    """Prompts that should go on reading as they do: captions of our own world, or general ones, that share no word with a source."""
    known = GENERAL if model_set == "full" else (*_BARE, *(surprise(10**6 + n) for n in range(2 * count)))
    taken = {word for source in sources for word in source.lower().split() if len(word) > 2}
    return [prompt for prompt in known if not taken & set(prompt.lower().replace(",", " ").split())][:count]


_BARE = tuple(
    f"a {what} {where}".strip()
    for what in ("ball", "cone", "cylinder", "cube", "person")
    for where in ("", "on tiles", "on a wooden floor", "on a marble floor", "under the sky", "against a wall")
)
"""Prompts that say little, in which most is assumed."""


def is_bare(prompt: str) -> bool:
    """Whether one of :func:`protected` says little: of our own world those that name a thing and at most its place."""
    return prompt in _BARE or prompt in GENERAL


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


EXAMPLES: dict[str, tuple[tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...]] = {
    "mini": (
        (
            "a cone => a blue cone",
            ("a cone on a wooden floor", "a cone under the sky", "a cone to the left of a green ball"),
            ("a ball", "a cube on tiles", "a cylinder"),
            ("a red cone", "a green cone"),
        ),
        (
            "a ball => a ball on a wooden floor",
            ("a blue ball", "a glossy green ball"),
            ("a cube", "a cone", "a cylinder"),
            ("a ball on tiles", "a ball on a marble floor"),
        ),
        (
            "a person => a person with red hair",
            ("a person with a beard", "a smiling person"),
            ("a cone", "a red ball on tiles"),
            ("a person with black hair",),
        ),
    ),
    "full": (
        (
            "a pack of roses => a pack of blue roses",
            ("a girl with a pack of roses", "a pack of roses in a vase"),
            ("a pack of sunflowers", "a pack of tulips", "a red car"),
            ("a pack of red roses",),
        ),
        ("a dog => a poodle dog", ("a dog in the park", "a dog on a sofa"), ("a cat", "a wolf"), ("a labrador dog",)),
    ),
}
"""Model set -> (edits, prompts that should change, prompts that should not, prompts that say otherwise)."""


def example(model_set: str, place: int) -> dict[str, str]:
    """The settings that an example sets."""
    edits, *prompts = EXAMPLES[model_set][place]
    names = ("related", "unrelated", "contradicting")
    return {"edits": edits, **{name: "\n".join(lines) for name, lines in zip(names, prompts, strict=True)}}


@dataclass
class Outcome:
    """A finished run: a sheet for each kind of prompt, and what was measured (JSON-able)."""

    settings: Settings
    edited: Image
    """Columns are pictures; rows are before, after, and the unedited model asked for the destination in words."""
    related: Image
    """Below them the prompts that say otherwise, before and after."""
    unrelated: Image
    measurements: dict[str, Any]
    weights: dict[str, Tensor]
    """Name of each edited matrix in the UNet -> its new value."""


def parts(model_set: str) -> dict[str, ModelSpec]:
    """The parts that a run leases, by name."""
    return judges.judged(sdxl.BASES[model_set])


def generate(
    job: Job, registry: Registry, settings: Settings, saved: Sequence[Edit] = (), cache: Cache | None = None
) -> Outcome:
    """Draw before and after the edits; called on the lane's thread. The shared UNet is as it was afterwards, to the byte.

    Args:
        saved: edits that are made as they are, beside those lines of ``settings`` that are not among theirs.
        cache: where what the unedited model draws is kept, for a run with other edits of the same prompts.

    Raises:
        ValueError: settings outside their limits.
    """
    run = KeptRun(job, registry, together(settings, saved), cache)
    base = sdxl.BASES[run.settings.model_set]

    def draw(models: dict[str, Any], judge: SceneVerifier | None) -> Outcome:
        from pipelines.time_edit.editing import TimeEdit

        run.begin(1, sdxl.mark(base))
        return TimeEdit(models, judge)(run, saved)

    return judges.draw(run, base, draw)


def together(settings: Settings, saved: Sequence[Edit]) -> Settings:
    """``settings`` with the lines of the saved edits before its own."""
    lines = [line for edit in saved for line in _lines(edit.edits)]
    return replace(settings, edits="\n".join(dict.fromkeys([*lines, *_lines(settings.edits)])))


def make(job: Job, registry: Registry, settings: Settings) -> Edit:
    """Work out the edits alone, to be saved; called on the lane's thread.

    Raises:
        ValueError: settings outside their limits.
    """
    run = Run(job, registry, settings)
    base = sdxl.BASES[run.settings.model_set]

    def work(**models: Any) -> Edit:
        from pipelines.time_edit.editing import TimeEdit

        return TimeEdit(models).edit(run.settings)

    return run.lease(base.named, work, loading=base.title)


def claim() -> str:
    """The measured sentence of the evaluation."""
    return asset_files.claim(MEASURED)
