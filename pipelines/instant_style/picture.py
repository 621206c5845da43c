"""The paper's own use: a picture speaks, through IP-Adapter, in chosen blocks only. Our small model has a small adapter of ours. Module
level is free of torch.

Section 3.2.1: the feature of the text that says what the picture shows is taken out of the picture's feature. Section 3.2.2: what is left
speaks in the block of style, or also in that of layout. The sheet has both steps beside what they are added to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from pipelines.core import asset_files
from pipelines.core.run import Run
from pipelines.core.settings import Declared, choice, real, seed, text, whole
from pipelines.core.weights import ROOT, ModelSpec, asset_spec, manifest, part_folder
from pipelines.instant_style import LAYOUT, STYLE, Outcome, parts, places
from pipelines.instant_style.measured import base_model, carriers, told
from pipelines.models import controlnets, sdxl

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.core.lane import Job
    from pipelines.core.registry import Registry
    from pipelines.models.verifier import SceneVerifier

_FOLDER, _OURS = "sdxl_models/image_encoder", "assets/mini_ip_adapter"


def _load_small_encoder(spec: ModelSpec) -> Any:
    from pipelines.models.picture_encoder import PictureEncoder

    return PictureEncoder.from_pretrained(part_folder(spec), use_safetensors=True).float().eval()


MINI_ENCODER = asset_spec(
    "mini-ip-adapter/encoder", _OURS, _load_small_encoder, "encoder", "what our small IP-Adapter sees of a picture"
)
MINI_ADAPTER = replace(
    asset_spec(
        "mini-ip-adapter/adapter",
        _OURS,
        controlnets.load_ip_adapter,
        "adapter",
        "our small IP-Adapter: a picture speaks",
    ),
    files=("adapter/ip-adapter.safetensors",),
)
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
ENCODERS, ADAPTERS = {"mini": MINI_ENCODER, "full": ENCODER}, {"mini": MINI_ADAPTER, "full": ADAPTER}
MEASURED = ROOT / "assets/instant_style/pictures.json"
EVERYWHERE = "everywhere"
STRATEGIES = {
    "style": "style block",
    "style and layout": "both blocks",
    "layout": "layout block",
    EVERYWHERE: "everywhere",
}


def blocks_of(model_set: str) -> dict[str, str]:
    """Where style and layout are painted: the paper's blocks of SDXL; in our small model those that carry colour and shape, as measured."""
    if model_set == "full":
        return {"style": STYLE, "layout": LAYOUT}
    found, some = carriers(), places(model_set)
    return {"style": found.get("colour", some[-2]), "layout": found.get("shape", some[-3])}


@dataclass(frozen=True)
class PictureSettings(Declared):
    """Everything but the picture that decides a run."""

    prompt: str = text(
        "Prompt", 300, "The prompt is empty: say what is to be drawn.", default="a cone on a wooden floor"
    )
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
    steps: int = whole("Steps", 16, 1, 100, name="number of steps")
    model_set: str = choice("Model set", "mini", sdxl.FIRST, shown=False)

    @classmethod
    def of(cls, model_set: str) -> Self:
        """The defaults of a model set."""
        return cls() if model_set == "mini" else cls("a cat in a meadow", steps=30, model_set=model_set)

    @property
    def blocks(self) -> tuple[str, ...] | None:
        """The places where the picture speaks; None is everywhere."""
        if self.strategy == EVERYWHERE:
            return None
        return tuple(place for name, place in blocks_of(self.model_set).items() if name in self.strategy)


def mark() -> str:
    """Of the weights that are measured: those of the small model's UNet and of its adapter."""
    found = asset_files.hashes(manifest(_OURS))
    return " ".join([base_model(), *(found[name][:8] for name in sorted(found))])


def claim() -> str:
    """What was measured of our small adapter, and whether it is of today's weights."""
    return told(asset_files.facts(MEASURED, "kinds"), mark(), "Measured with earlier weights.")


def parts_of(model_set: str) -> dict[str, ModelSpec]:
    """The parts that a run with a picture leases together, by name."""
    return {**parts(model_set), "adapter": ADAPTERS[model_set]}


def generate(job: Job, registry: Registry, settings: PictureSettings, picture: Image) -> Outcome:
    """Draw the prompt with what is seen of ``picture`` (RGB) in the chosen blocks, beside the prompt alone and IP-Adapter everywhere.

    Called on the lane's thread. The shared UNet is as it was afterwards, to the byte.

    Raises:
        ValueError: settings outside their limits.
    """
    run = Run(job, registry, settings)
    settings = run.settings
    base = sdxl.FIRST[settings.model_set]

    def look(encoder: Any) -> Any:
        from pipelines.instant_style.style import seen_in

        return seen_in(encoder, picture)

    seen = run.lease(
        {"encoder": ENCODERS[base.name]}, look, loading="the image encoder", smaller="close other programs"
    )
    answered = run.models

    def work(adapter: Any, judge: SceneVerifier | None = None, **models: Any) -> Outcome:
        from pipelines.instant_style.style import PictureStyle

        run.models = [*answered, *(one for one in run.models if one not in answered)]
        return PictureStyle(models, adapter, picture, seen, judge)(run)

    return run.lease(
        parts_of(base.name),
        work,
        loading=base.title,
        unnamed=set(base.named) - {"unet"},
        smaller="draw fewer pictures",
    )
