"""What the files of a batch are to one another: pictures with their masks and truths, and a word for every file that is neither.

A pair is told by names in one folder: ``a.png``, ``a_mask.png``, perhaps ``a_gt.png``, in letters of either case and in either of the two
ways in which Unicode writes "ü" (macOS packs the other one). Whether a file is a picture, its content says when it is opened.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipelines.core.archives import Member

MASK, TRUTH = "_mask", "_gt"
ENDINGS = frozenset(
    ".png .jpg .jpeg .jpe .jfif .webp .tif .tiff .bmp .gif .avif .heic .heif .jp2 .jxl .psd .dng .ppm .pgm .tga".split()
)
"""Files of these are looked at; those of a kind that is not read are refused by their content, with its name."""
SYSTEM = {"thumbs.db": "Windows", "desktop.ini": "Windows", ".ds_store": "macOS"}


@dataclass(frozen=True)
class Entry:
    """One row of a batch: a picture with what belongs to it, or a file that belongs to none."""

    name: str
    """The picture's path without its ending; of other files the whole path."""
    files: tuple[Member, ...]
    problem: str = ""
    """Why nothing can be made of it, as a sentence; empty for a picture with one mask and at most one truth, in this order."""


def entries(members: Iterable[Member]) -> list[Entry]:
    """A row for every picture, and one for each file that belongs to none of them; every member is in exactly one row.

    Pictures come first, by their names, then the rest.
    """
    left: list[Entry] = []
    named: dict[str, list[Member]] = {}
    for member in members:
        problem = _no_picture(member)
        if problem:
            left.append(Entry(member.name, (member,), problem))
        else:
            named.setdefault(_key(member), []).append(member)
    made, roles = [], {key: _role(key, named) for key in named}
    for key in sorted(named):
        stem = _stem(named[key][0])
        if roles[key] == "":
            groups = (
                named[key],
                *(named.get(key + end, []) if roles.get(key + end) == end else [] for end in (MASK, TRUTH)),
            )
            made.append(Entry(stem, tuple(one for group in groups for one in group), _problem(stem, *groups)))
        elif roles.get(key.removesuffix(roles[key])) != "":
            what = "mask" if roles[key] == MASK else "truth"
            wanted = PurePosixPath(stem).name[: -len(roles[key])]
            for member in named[key]:
                told = f"This is a {what}, and the picture {wanted} is not in its folder: put both into one."
                left.append(Entry(member.name, (member,), told))
    return [*made, *sorted(left, key=lambda one: one.name)]


def _no_picture(member: Member) -> str:
    path = PurePosixPath(member.name)
    system = SYSTEM.get(path.name.lower()) or (
        "macOS" if "__MACOSX" in path.parts or path.name.startswith("._") else ""
    )
    if system:
        return f"Left out: {system} put this file there, it is no picture."
    if any(part.startswith(".") and part not in (".", "..") for part in path.parts):
        return "Left out: a file or folder whose name begins with a dot is hidden."
    if path.suffix.lower() not in ENDINGS:
        return "Left out: by its name this is no picture; PNG, JPEG and WebP are read."
    return ""


def _stem(member: Member) -> str:
    return str(PurePosixPath(member.name).with_suffix(""))


def _key(member: Member) -> str:
    return unicodedata.normalize("NFC", _stem(member)).casefold()


def _role(key: str, named: dict[str, list[Member]]) -> str:
    """ "" of a picture, else the ending that says what it is of another one."""
    for end in (MASK, TRUTH):
        if key.endswith(end) and PurePosixPath(key).name != end:
            # Somebody's picture may be called so, too: then it has a mask of its own, and there is none that it belongs to.
            alone = key.removesuffix(end) not in named and key + MASK in named
            return "" if alone else end
    return ""


def _problem(stem: str, pictures: list[Member], masks: list[Member], truths: list[Member]) -> str:
    unreadable = next((one.problem for one in (*pictures, *masks, *truths) if one.problem), "")
    if unreadable:
        return unreadable
    for files in (pictures, masks, truths):
        if len(files) > 1:
            return f"There are {len(files)} files where one is expected, {', '.join(one.file for one in files)}: keep one of them."
    if not masks:
        return f"There is no {PurePosixPath(stem).name}{MASK}.png in its folder: add the mask."
    return ""
