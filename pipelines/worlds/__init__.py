"""The rendered worlds: tabletop scenes and portraits, with their truth and their words.

``grammar`` and ``prompts`` (words) need no torch; ``tabletop`` and ``portrait.clay`` (pictures) do.
"""

SCENE_HEIGHT, SCENE_WIDTH = 128, 192
"""Pixels of the scenes from which something is removed, and of what the small fill model paints."""
