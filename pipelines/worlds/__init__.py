"""The rendered worlds: tabletop scenes and portraits, with their truth and their words.

``grammar`` and ``prompts`` (words) need no torch; ``tabletop`` and ``portrait.clay`` (pictures) do.
"""
