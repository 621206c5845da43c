"""FreeU (Si et al., CVPR 2024, arXiv 2309.11497): a UNet's backbone is amplified and its skips are damped, at no cost.

:func:`generate` draws one prompt twice from the same noise, plain and with FreeU's four factors, so that nothing else differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.core.paper import Paper
from pipelines.core.run import Run
from pipelines.core.settings import Declared, choice, real, seed, text, whole
from pipelines.models import sdxl

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry

PAPER = Paper(
    title="FreeU: Free Lunch in Diffusion U-Net",
    authors=("Chenyang Si", "Ziqi Huang", "Yuming Jiang", "Ziwei Liu"),
    venue="CVPR 2024",
    url="https://arxiv.org/abs/2309.11497",
    summary="Backbone and skips of a UNet are weighed anew.",
    idea="A UNet's backbone denoises and its skips bring back detail: weigh the first more and the second less.",
    ours="The page and the small model.",
    theirs="The method; the code is diffusers'.",
    licence="Apache-2.0",
)


@dataclass(frozen=True)
class Settings(Declared):
    """Everything that decides a run."""

    prompt: str = text("Prompt", 300, "The prompt is empty: describe a picture.")
    seed: int = seed()
    steps: int = whole("Steps", 25, 1, 100, name="number of steps")
    backbone: float = real("Backbone factor", 1.2, 0.5, 2.0, step=0.05, info="1 leaves it as it is.")
    skip: float = real("Skip factor", 0.9, 0.0, 2.0, step=0.05, info="1 leaves it as it is.")
    model_set: str = choice("Model set", "mini", sdxl.BASES, shown=False)


@dataclass
class Outcome:
    """Both pictures, and what was measured."""

    settings: Settings
    plain: Image
    freed: Image
    measurements: dict[str, Any]


class FreeU:
    """An SDXL pipeline whose UNet is as it was after each call."""

    def __init__(self, **parts: Any) -> None:
        self.pipe = sdxl.build(parts)

    def __call__(self, run: Run[Settings]) -> Outcome:
        settings = run.settings
        with run.stage("both"):
            plain = self.draw(run, 0)
            self.pipe.enable_freeu(s1=settings.skip, s2=settings.skip, b1=settings.backbone, b2=settings.backbone)
            try:
                freed = self.draw(run, 1)
            finally:
                self.pipe.disable_freeu()
        return Outcome(settings, plain, freed, run.measurements(seconds=round(run.seconds["both"], 3)))

    def draw(self, run: Run[Settings], turn: int) -> Image:
        """The picture of this turn of two."""
        config, steps = self.pipe.unet.config, run.settings.steps
        shape = (1, config.in_channels, config.sample_size, config.sample_size)

        def after(_pipe: Any, step: int, _level: Any, given: dict[str, Any]) -> dict[str, Any]:
            done = turn * steps + step + 1
            run.progress(done / (2 * steps), f"step {done} of {2 * steps}")
            return given

        return self.pipe(
            run.settings.prompt,
            latents=sdxl.draw_noise(run.settings.seed, shape).to(self.pipe.unet.device, self.pipe.unet.dtype),
            num_inference_steps=steps,
            callback_on_step_end=after,
        ).images[0]


def generate(job: Job, registry: Registry, settings: Settings) -> Outcome:
    """Draw the prompt plain and with FreeU; called on the lane's thread."""
    run = Run(job, registry, settings)
    base = sdxl.BASES[run.settings.model_set]
    unnamed = set(base.named) - {"unet"}
    return run.lease(base.named, lambda **parts: FreeU(**parts)(run), loading=base.title, unnamed=unnamed)
