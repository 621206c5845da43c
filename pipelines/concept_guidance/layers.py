"""Which layers of a model are guided: choices such as "best 4", "2-5" or "1, 3" in words and in numbers, counted from 0."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipelines.core import limits

LAYERS_MAX = 256
_LAYERS = re.compile(r"(best)(?: (\d{1,3}))?|(all)|(\d{1,3}) ?[-–] ?(\d{1,3})|(\d{1,3}(?:, ?\d{1,3})*)")


def layer_text(choice: object) -> str:
    """A choice of layers in its text form; a whole number n means "best n", a list of numbers themselves."""
    given, layers = choice, [choice] if isinstance(choice, int) else choice
    if isinstance(layers, list | tuple):
        known = len(layers) <= LAYERS_MAX and all(limits.is_number(n) and n in range(1000) for n in layers)
        choice = ("best " if layers is not choice else "") + ", ".join(f"{n:g}" for n in layers) if known else None
    if not isinstance(choice, str) or len(choice) > 2000 or not _LAYERS.fullmatch(choice.strip().lower()):
        raise ValueError(
            f"The layers are {limits.described(given)}: give best, best 4, all, a range such as 2-5 or a list such as 1, 3, 4."
        )
    return choice.strip().lower()


def choose_layers(choice: object, count: int, accuracy: Sequence[float] = ()) -> tuple[int, ...]:
    """The layers that a choice means for a model of ``count`` layers.

    "best k" takes the k layers of the highest ``accuracy`` (validation, where the paper's code looks at training), by
    default half of all, never the first; without accuracies, the last k.

    Raises:
        ValueError: no layer of that number, or not a choice.
    """
    parts = _LAYERS.fullmatch(layer_text(choice))
    assert parts is not None
    best, number, everything, low, high, some = parts.groups()
    if everything:
        return tuple(range(count))
    if best:
        wanted = int(number) if number else max(count // 2, 1)
        if not 1 <= wanted <= max(count - 1, 1):
            raise ValueError(
                f"best {wanted} is out of reach: this model has {count} layers, the first of which is left out."
            )
        value = list(accuracy) if len(accuracy) == count else list(range(count))
        ranked = sorted(range(min(1, count - 1), count), key=lambda layer: (-value[layer], layer))
        return tuple(sorted(ranked[:wanted]))
    chosen = range(int(low), int(high) + 1) if low else sorted({int(part) for part in some.split(",")})
    if not chosen or chosen[-1] >= count:
        raise ValueError(f"The layers {layer_text(choice)} do not exist: this model has the layers 0 to {count - 1}.")
    return tuple(chosen)


def ranges(layers: Sequence[int]) -> str:
    """1, 3, 4, 5 as "1, 3-5"."""
    parts: list[list[int]] = []
    for layer in layers:
        if parts and layer == parts[-1][-1] + 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
