"""The two scene verifiers as parts of the registry: one grades pictures, the other one teaches."""

from __future__ import annotations

from typing import Any

from pipelines import sdxl
from pipelines.registry import ModelSpec, resolve


def _load_verifier(spec: ModelSpec) -> Any:
    from pipelines.verifier import SceneVerifier

    return SceneVerifier.from_pretrained(resolve(spec)).float().eval().requires_grad_(False)


JUDGE = sdxl.asset_spec(
    "verifier/judge", "assets/verifier/judge", _load_verifier, card="judges pictures against a prompt"
)
REWARD = sdxl.asset_spec("verifier/reward", "assets/verifier/reward", _load_verifier, card="reward used in training")
