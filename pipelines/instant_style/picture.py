"""The paper's own use: a picture speaks, through IP-Adapter, in chosen blocks of SDXL only. For the full set: our small model has no such
adapter. Module level is free of torch.

Section 3.2.1: the feature of the text that says what the picture shows is taken out of the picture's feature. Section 3.2.2: what is left
speaks in the block of style, or also in that of layout. The sheet has both steps beside what they are added to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from pipelines.core.run import Run
from pipelines.core.settings import Declared, choice, real, seed, text, whole
from pipelines.instant_style import LAYOUT, STYLE, Outcome, parts
from pipelines.models import controlnets, sdxl

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry

_FOLDER = "sdxl_models/image_encoder"
ENCODER = replace(
    controlnets.IP_ENCODER,
    key="ip-adapter/image-encoder-sdxl",
    bytes=3_690_000_000,
    dtype="float16",
    card="CLIP ViT-bigG: what IP-Adapter sees of a picture",
    files=(f"{_FOLDER}/config.json", f"{_FOLDER}/model.safetensors"),
)
"""Its text side is SDXL's second text encoder, which is why a text's feature can be taken out of a picture's."""
ADAPTER = replace(
    controlnets.IP_ADAPTER,
    key="ip-adapter/sdxl",
    bytes=703_000_000,
    card="IP-Adapter: a picture speaks beside the prompt",
    files=("sdxl_models/ip-adapter_sdxl.safetensors",),
)
EVERYWHERE = "everywhere"
STRATEGIES = {
    "style": "style block",
    "style and layout": "style and layout blocks",
    "layout": "layout block",
    EVERYWHERE: "everywhere",
}
_BLOCKS = {"style": (STYLE,), "style and layout": (STYLE, LAYOUT), "layout": (LAYOUT,)}


@dataclass(frozen=True)
class PictureSettings(Declared):
    """Everything but the picture that decides a run."""

    prompt: str = text("Prompt", 300, "The prompt is empty: say what is to be drawn.", default="a cat in a meadow")
    content: str = text(
        "What the picture shows",
        300,
        name="content",
        default="",
        info="Taken out of what is seen of it, so that only its style is left. May be empty.",
    )
    strategy: str = choice("Where the picture speaks", "style", STRATEGIES)
    strength: float = real("Strength of the picture", 1.0, 0.0, 2.0, step=0.1)
    count: int = whole("Pictures", 1, 1, 4, name="number of pictures")
    seed: int = seed()
    steps: int = whole("Steps", 30, 1, 100, name="number of steps")
    model_set: str = choice("Model set", "full", sdxl.FIRST, shown=False)

    @property
    def blocks(self) -> tuple[str, ...] | None:
        """The places where the picture speaks; None is everywhere."""
        return _BLOCKS.get(self.strategy)

    def validated(self) -> Self:
        made = super().validated()
        if made.model_set != "full":
            raise ValueError(
                f"A picture's style was asked of the model set {made.model_set}, which has no picture adapter: start the studio with --model-set full."
            )
        return made


def generate(job: Job, registry: Registry, settings: PictureSettings, picture: Image) -> Outcome:
    """Draw the prompt with what is seen of ``picture`` (RGB) in the chosen blocks, beside the prompt alone and IP-Adapter everywhere.

    Called on the lane's thread. The shared UNet is as it was afterwards, to the byte.

    Raises:
        ValueError: settings outside their limits.
    """
    run, base = Run(job, registry, settings), sdxl.FULL

    def look(encoder: Any) -> Any:
        from pipelines.instant_style.style import seen_in

        return seen_in(encoder, picture)

    seen = run.lease({"encoder": ENCODER}, look, loading="the image encoder", smaller="close other programs")
    answered = run.models

    def work(adapter: Any, **models: Any) -> Outcome:
        from pipelines.instant_style.style import PictureStyle

        run.models = [*answered, *(one for one in run.models if one not in answered)]
        return PictureStyle(models, adapter, seen)(run)

    return run.lease(
        {**parts("full"), "adapter": ADAPTER},
        work,
        loading=base.title,
        unnamed=set(base.named) - {"unet"},
        smaller="draw fewer pictures",
    )
