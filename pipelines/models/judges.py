"""The two scene verifiers as parts of the registry: one grades pictures, the other one teaches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.core.weights import ModelSpec, asset_spec, resolve

if TYPE_CHECKING:
    from pipelines.core.run import Run
    from pipelines.models.sdxl import Base
    from pipelines.models.verifier import SceneVerifier

T = TypeVar("T")


def _load_verifier(spec: ModelSpec) -> Any:
    from pipelines.models.verifier import SceneVerifier

    return SceneVerifier.from_pretrained(resolve(spec), use_safetensors=True).float().eval().requires_grad_(False)


JUDGE = asset_spec("verifier/judge", "assets/verifier/judge", _load_verifier, card="judges pictures against a prompt")
REWARD = asset_spec("verifier/reward", "assets/verifier/reward", _load_verifier, card="reward used in training")


def judged(base: Base) -> dict[str, ModelSpec]:
    """The parts of an image model by name, with the judge where it draws our own world: of other pictures it would say something, and be
    wrong."""
    return {**base.named, **({"judge": JUDGE} if base.name == "mini" else {})}


def draw(run: Run[Any], base: Base, make: Callable[[dict[str, Any], SceneVerifier | None], T]) -> T:
    """``make(parts, judge)`` with the image model's leased parts, and the judge that :func:`judged` gives it or None."""

    def work(judge: SceneVerifier | None = None, **parts: Any) -> T:
        return make(parts, judge)

    return run.lease(
        judged(base), work, loading=base.title, unnamed=set(base.named) - {"unet"}, smaller="draw fewer pictures"
    )
