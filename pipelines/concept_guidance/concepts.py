"""A concept: one direction for each layer of a model, and what is known about it. No torch at module level."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

PROBES = {"dim": "difference in means", "logistic": "logistic regression", "pca": "principal component"}
"""Ways to find a direction, see `pipelines/concept_guidance/probes.py`: key -> words of the page."""
REPRESENTATIONS = {
    "pre-attn": "before attention (the paper’s)",
    "hiddens": "hidden states after the block",
    "heads": "attention heads (detects only)",
    "post-attn": "attention output",
    "mlp": "MLP output (detects only)",
    "queries": "queries (detects only)",
    "keys": "keys (detects only)",
    "values": "values (detects only)",
}
"""What can be read: output of the norm before attention; hidden states (the last after the final norm); attention
output cut into heads; attention output; output of the MLP; queries before rotation; keys (rotated) and values."""
PLACES = ("pre-attn", "post-attn", "hiddens")
"""Where a model can be guided."""
POSITIONS = {"all": "everywhere", "answer": "the answer", "last": "the newest token only"}
"""Which tokens are guided, see :class:`pipelines.concept_guidance.steering.Guide`."""
OVERLAP = 0.6
"""Mean cosine from which two concepts are called overlapping."""
ROWS_MOST, HEADS_MOST, WIDTH_MOST = 512, 20_000, 2**16
"""Layers, layers times heads, and width of any model that one may have vectors of."""
SHORT, LONG = 1e-10, 1e10
"""Lengths of vectors with which float32 can be reckoned; beyond them is no direction that anybody meant."""


@dataclass(frozen=True, eq=False)
class Concept:
    """One direction per layer, the place it was read at, and what is known about it.

    Row 0 is the first layer. ``weights`` need not be of unit length; :meth:`unit` is what guides.
    """

    name: str
    weights: Tensor
    """(layers, width) float32; for "heads", (layers * heads, width / heads)."""
    probe: str = "unknown"
    """dim, logistic, pca or unknown."""
    representation: str = "pre-attn"
    a: Tensor | None = None
    """Slope of the classifier, (layers,)."""
    b: Tensor | None = None
    """Offset of the classifier, (layers,)."""
    mean: Tensor | None = None
    """(layers, width): what a dim probe takes off before it looks."""
    norms: Tensor | None = None
    """(layers,): median length of the token vectors it was made from."""
    train_accuracy: tuple[float, ...] = ()
    validation_accuracy: tuple[float, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    """JSON-able: model, examples, seed, ..."""
    notices: tuple[str, ...] = ()
    """What was changed on the way in, in sentences."""

    @property
    def layers(self) -> int:
        return len(self.weights)

    def unit(self) -> Tensor:
        """Rows of length one; rows without a direction stay zero."""
        lengths = self.weights.norm(dim=-1, keepdim=True)
        if bool(((lengths > SHORT) & (lengths < LONG) | (self.weights == 0).all(dim=-1, keepdim=True)).all()):
            return self.weights / lengths.clamp_min(1e-30)
        rows = self.weights.double()  # squares of such numbers are none of float32
        return (rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-300)).to(self.weights.dtype)

    def __add__(self, other: Concept) -> Concept:
        """The sum of both directions, at unit length each: ``humour + -humour`` has zero rows."""
        if (self.weights.shape, self.representation) != (other.weights.shape, other.representation):
            raise ValueError(
                f"{self.name} ({_size(self.weights)}, {self.representation}) and {other.name} "
                f"({_size(other.weights)}, {other.representation}) cannot be added: take two of the same model and place"
            )
        return Concept(f"{self.name} + {other.name}", self.unit() + other.unit(), representation=self.representation)

    def __neg__(self) -> Concept:
        return Concept(f"not {self.name}", -self.weights, representation=self.representation)


def check_fit(concept: Concept, layers: int, width: int) -> None:
    """Raise a sentence unless the vectors have one row per layer and the model's width."""
    if tuple(concept.weights.shape) != (layers, width):
        raise ValueError(
            f"The vectors of {concept.name} do not fit: W is {_size(concept.weights)}, this model needs "
            f"{layers}×{width}; choose vectors that were made for this model."
        )


def shape_text(sizes: Sequence[int]) -> str:
    """(32, 4096) as "32×4096"."""
    return "×".join(map(str, sizes[:6])) or "a single number"


def _size(tensor: Tensor) -> str:
    return shape_text(tuple(tensor.shape))


def overlaps(concepts: Sequence[Concept], layers: Mapping[str, Sequence[int]]) -> list[str]:
    """A notice for every two concepts whose directions are nearly the same at the layers that both guide."""
    notices = []
    for n, first in enumerate(concepts):
        for second in concepts[:n]:
            value = similarity(first, second, sorted(set(layers[first.name]) & set(layers[second.name])))
            if value is not None and abs(value) > OVERLAP:
                notices.append(
                    f"{second.name} and {first.name} overlap (cosine {value:+.2f}): a push along one is also a push "
                    f"{'along' if value > 0 else 'against'} the other."
                )
    return notices


def similarity(first: Concept, second: Concept, layers: Sequence[int] | None = None) -> float | None:
    """Mean cosine of two concepts over ``layers`` (all by default); None where they cannot be compared."""
    if first.representation != second.representation or first.weights.shape != second.weights.shape:
        return None
    cosines = (first.unit() * second.unit()).sum(-1)
    chosen = cosines if layers is None else cosines[list(layers)]
    return float(chosen.mean()) if len(chosen) else None


def checked_floats(called: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in float32, after looking at them in float64: finite, and with rows of a length that is a direction's."""
    for key, value in tensors.items():
        wide = value.double()
        if not bool(wide.isfinite().all()):
            raise ValueError(f"{key} in {called} holds NaN or infinity: the file is damaged, make the vector again.")
        if key != "W" and float(wide.abs().max()) > LONG:
            raise ValueError(
                f"{key} in {called} holds numbers as large as {float(wide.abs().max()):.0e}: the file is damaged, make the vector again."
            )
    rows = tensors["W"].double()
    peaks = rows.abs().amax(dim=-1)  # squares of the largest numbers of float64 are infinite
    lengths = peaks * (rows / peaks.clamp_min(1e-300)[:, None]).norm(dim=-1)
    if not bool(peaks.any()):
        raise ValueError(f"W in {called} is all zeros: it has no direction to guide towards.")
    odd = ((peaks > 0) & ((lengths < SHORT) | (lengths > LONG))).nonzero()
    if len(odd):
        layer = int(odd[0])
        raise ValueError(
            f"W in {called} has a vector of length {float(lengths[layer]):.0e} at layer {layer}, which is no direction: lengths from "
            f"{SHORT:.0e} to {LONG:.0e} are read, make the vector again."
        )
    return {key: value.float() for key, value in tensors.items()}


def name_in_file(value: str) -> str:
    """A name from a file as one line of printable text; empty where it is none."""
    if len(value) > 100:
        return ""
    return "".join(letter for letter in " ".join(unicodedata.normalize("NFC", value).split()) if letter.isprintable())
