"""What the scene verifier says, without the network: a page shows it and needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

NOT_READ = "not read"


@dataclass(frozen=True)
class Verdict:
    """One attribute of a prompt, judged: what was asked, what the verifier sees, how sure it is (0 to 1)."""

    attribute: str
    wanted: str
    seen: str
    confidence: float
    right: bool | None
    """None where the image model did not read the words that ask for it: ``seen`` is :data:`NOT_READ` then."""
