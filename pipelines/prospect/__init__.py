"""ProSpect, Prompt Spectrum (Zhang et al., SIGGRAPH Asia 2023, arXiv 2305.16225): another prompt in each stage of denoising.

The levels of noise are cut into ten stages of equal width, and the UNet reads in stage s what stands for it in the spectrum,

    P = {p_1, ..., p_10},   ε_θ(z_t, t, p_s)   with   s = ⌊10 (T - 1 - t) / T⌋ + 1                                (Section 4)

so that layout, colour and shape, which are decided one after the other, can come from different prompts. :func:`generate` draws a plan
such as AAAABBBBBB: four stages of the first prompt, then the second; :mod:`pipelines.prospect.curve` measures which attribute belongs to which
prompt as the border moves.

A picture can stand in place of a prompt: :mod:`pipelines.prospect.inversion` turns it into a token embedding a stage, and the line "picture 1"
names the first of those that come along.

What is ours: the small model, the judge that reads attributes, and the plan of letters. Module level is free of torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pipelines.core import asset_files
from pipelines.core.paper import Paper
from pipelines.core.run import Run
from pipelines.core.settings import Declared, choice, real, seed, switch, text, whole
from pipelines.core.weights import ROOT, ModelSpec
from pipelines.models import judges, sdxl

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry
    from pipelines.models.verifier import SceneVerifier
    from pipelines.prospect.tokens import Tokens

PAPER = Paper(
    title="ProSpect: Prompt Spectrum for Attribute-Aware Personalization of Diffusion Models",
    authors=(
        "Yuxin Zhang",
        "Weiming Dong",
        "Fan Tang",
        "Nisha Huang",
        "Haibin Huang",
        "Chongyang Ma",
        "Tong-Yee Lee",
        "Oliver Deussen",
        "Changsheng Xu",
    ),
    venue="SIGGRAPH Asia 2023",
    url="https://arxiv.org/abs/2305.16225",
    summary="A prompt for each stage of denoising: one says the layout, another one the colours, a third one the details.",
    idea=(
        "A picture is made out of noise from the coarse to the fine. What is decided early is decided: a prompt that comes later no longer "
        "moves it. So whoever changes the prompt along the way takes the layout of one text and the colours of another."
    ),
    ours="The code, the embedded image model, the judge that reads its pictures, and the measurements.",
    theirs="The spectrum of ten prompts, and what it is used for.",
    licence="Code and embedded weights Apache-2.0; Stable Diffusion XL is openrail++; the authors' code is Apache-2.0.",
    code_url="https://github.com/zyxElsa/ProSpect",
)

STAGES = 10
LETTERS = "ABCDEFGHIJ"
"""The first prompt is A."""
PICTURES_MOST = 4
"""Pictures that may come along as tokens."""
_PICTURE = re.compile(r"picture (\d{1,2})", re.IGNORECASE)
MEASURED = ROOT / "assets/prospect/evaluation.json"


@dataclass(frozen=True)
class Settings(Declared):
    """Everything that decides a run; the same settings give the same pictures, byte for byte, on the same machine."""

    prompts: str = text(
        "Prompts, one a line: A, B, C …",
        1500,
        "There is no prompt: write one a line, the first is A.",
        name="prompts",
    )
    plan: str = text(
        "Which prompt speaks when",
        STAGES,
        f"There is no plan: send {STAGES} letters, such as AAAABBBBBB.",
        name="plan",
        info="Ten stages, from noise to picture.",
    )
    borders: bool = switch("Also move the border from A to B through all stages", True)
    count: int = whole("Pictures of each kind", 1, 1, 4, name="number of pictures")
    seed: int = seed()
    steps: int = whole("Steps", 20, 1, 100, name="number of steps")
    guidance: float = real("Guidance", 5.5, 1.0, 20.0, step=0.5)
    model_set: str = choice("Model set", "mini", sdxl.BASES, shown=False)

    @classmethod
    def of(cls, model_set: str) -> Settings:
        """The defaults of a model set, with the first example."""
        base, (_, prompts, plan) = sdxl.BASES[model_set], EXAMPLES[model_set][0]
        steps = cls.steps if model_set == "mini" else base.steps
        return cls("\n".join(prompts), plan, steps=steps, guidance=base.guidance, model_set=model_set)

    @property
    def named(self) -> dict[str, str]:
        """Letter -> its prompt."""
        lines = [line.strip() for line in self.prompts.splitlines() if line.strip()]
        return dict(zip(LETTERS, lines, strict=False))

    @property
    def pictures(self) -> dict[str, int]:
        """Letter -> which picture it stands for, from 1, of the lines that read "picture 1"."""
        found = {letter: _PICTURE.fullmatch(line) for letter, line in self.named.items()}
        return {letter: int(match[1]) for letter, match in found.items() if match}

    def check_pictures(self, came: int) -> None:
        """Raise a ``ValueError`` unless the tokens that ``came`` are enough for the lines that name pictures."""
        if came > PICTURES_MOST:
            raise ValueError(
                f"There are tokens of {came} pictures and at most {PICTURES_MOST} are read: leave some out."
            )
        for letter, number in self.pictures.items():
            if not 1 <= number <= came:
                raise ValueError(
                    f"Prompt {letter} is picture {number}, but the tokens of {came or 'no'} picture{'' if came == 1 else 's'} came: "
                    "invert a picture, or drop the file of its tokens."
                )

    def validated(self) -> Self:
        made = super().validated()
        lines = sum(bool(line.strip()) for line in made.prompts.splitlines())
        if lines > len(LETTERS):
            raise ValueError(f"There are {lines} prompts and at most {len(LETTERS)} can speak: leave some out.")
        known = "".join(made.named)
        if len(made.plan) != STAGES:
            raise ValueError(
                f"The plan has {len(made.plan)} stages but must have {STAGES}: send {STAGES} letters, such as AAAABBBBBB."
            )
        unknown = next((letter for letter in made.plan if letter not in known), None)
        if unknown:
            raise ValueError(
                f"The plan names the prompt {unknown}, but there {'is only A' if lines == 1 else f'are only A to {known[-1]}'}: "
                "write that prompt, or put another one there."
            )
        return made


_CUBE = ("a red cube on a wooden floor under the sky", "a blue ball on tiles against a wall")
EXAMPLES: dict[str, tuple[tuple[str, tuple[str, ...], str], ...]] = {
    "mini": (
        ("A’s sky, B’s floor and thing", _CUBE, "AABBBBBBBB"),
        (
            "A’s place and shape, B’s colour",
            ("a red cone on a wooden floor under the sky", "a blue cylinder on tiles against a wall"),
            "AAAABBBBBB",
        ),
        (
            "A’s sky, B’s floor and colour, C’s shape",
            (_CUBE[0], "a green cylinder on tiles against a wall", "a yellow ball on a marble floor against a wall"),
            "AABBBBCCCC",
        ),
    ),
    "full": (
        ("A’s place, B’s thing", ("a lighthouse by the sea, oil painting", "a red rocket in the desert"), "AAABBBBBBB"),
        ("marbles in place of oranges", ("a bowl of oranges on a table", "a bowl of green marbles"), "AAABBBBBBB"),
    ),
}
"""Model set -> (title, prompts, plan). What a title of mini's says is what comes from the first seed; a test draws them."""


@dataclass
class Outcome:
    """A finished run: two sheets, and what was measured (JSON-able)."""

    settings: Settings
    staged: Image
    """A column a way: the plan, all prompts in one, their average, each alone; a row a seed."""
    borders: Image
    """A's stages first, then B's, from none to all; a small empty picture where it was not asked for."""
    measurements: dict[str, Any]


def parts(model_set: str) -> dict[str, ModelSpec]:
    """The parts that a run leases, by name."""
    return judges.judged(sdxl.BASES[model_set])


def generate(job: Job, registry: Registry, settings: Settings, pictures: Sequence[Tokens] = ()) -> Outcome:
    """Draw a plan beside its baselines; called on the lane's thread.

    Args:
        pictures: what the lines "picture 1", "picture 2" and so on stand for.

    Raises:
        ValueError: settings outside their limits, or a picture that did not come.
    """
    run = Run(job, registry, settings)
    run.settings.check_pictures(len(pictures))

    def draw(models: dict[str, Any], judge: SceneVerifier | None) -> Outcome:
        from pipelines.prospect.stages import ProSpect

        return ProSpect(models, judge)(run, pictures)

    return judges.draw(run, sdxl.BASES[run.settings.model_set], draw)


def claim() -> str:
    """The measured sentence of the evaluation."""
    return asset_files.claim(MEASURED)


def inversion_claim() -> str:
    """The measured sentence of what an inversion brings back; empty before it was measured."""
    found = asset_files.facts(MEASURED, "claim").get("inversion")
    return str(found.get("claim", "")) if isinstance(found, dict) else ""
