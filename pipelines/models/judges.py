"""The two scene verifiers as parts of the registry: one grades pictures, the other one teaches."""

from __future__ import annotations

from typing import Any

from pipelines.core.weights import ModelSpec, asset_spec, resolve


def _load_verifier(spec: ModelSpec) -> Any:
    from pipelines.models.verifier import SceneVerifier

    return SceneVerifier.from_pretrained(resolve(spec), use_safetensors=True).float().eval().requires_grad_(False)


JUDGE = asset_spec("verifier/judge", "assets/verifier/judge", _load_verifier, card="judges pictures against a prompt")
REWARD = asset_spec("verifier/reward", "assets/verifier/reward", _load_verifier, card="reward used in training")
