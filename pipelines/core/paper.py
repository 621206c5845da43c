"""What a tab tells about its paper before anything runs: the facts on the paper card."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """One paper as its card shows it. All texts are plain text, not Markdown or HTML."""

    title: str
    authors: tuple[str, ...]
    venue: str
    """Where it appeared, "ICCV 2025"."""
    url: str
    summary: str
    """What it does, in one line."""
    idea: str
    """The idea in two sentences of ours."""
    ours: str
    """What in this tab is ours."""
    theirs: str
    """What in this tab is the paper's."""
    licence: str
    """Of our code and weights, and of the authors' where they publish any."""
    code_url: str = ""
    """The authors' own code; empty when there is none."""
