"""Choose the page's examples: prompts and seeds where standard noise fails and golden noise succeeds, and one the other way round.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.golden_noise.examples   # three minutes; writes examples.json
    python -m tests.openings golden_noise                                           # draws the first one for the page

To be done again when the image model or NPNet has changed. The page opens with the first: look at those that are won, and put the one
first whose pictures show it best. The cases are those of the validation stream, so that no figure of the
card is about them; every choice is drawn once more the way the page draws it, alone, and taken only if it comes out the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from assets.golden_noise.evaluate import HERE, cases, measure
from assets.lab import chunks, training
from pipelines import golden_noise
from pipelines.core.lane import run_blocking
from pipelines.core.registry import Registry
from pipelines.golden_noise import Outcome, Settings
from pipelines.models import sdxl

WON, LOST = 2, 1
"""So many examples where only golden noise is right, and where only standard noise is; the page says so (`story.md`)."""
Case = tuple[str, int]


def choose(
    listed: Sequence[Case], standard: Sequence[bool], golden: Sequence[bool], holds: Callable[[Case, bool], bool]
) -> list[Case]:
    """The examples, those that are won first: short prompts that do not begin alike, for which ``holds(case, won)``."""
    chosen: list[Case] = []
    for won, count in ((True, WON), (False, LOST)):
        fitting = [case for case, s, g in zip(listed, standard, golden, strict=True) if s != g and g is won]
        taken: list[Case] = []
        for case in sorted(fitting, key=lambda case: len(case[0])):
            alike = any(one[0].split()[:3] == case[0].split()[:3] for one in (*chosen, *taken))
            if len(taken) < count and not alike and holds(case, won):
                taken.append(case)
        chosen += taken
    return chosen


def right(outcome: Outcome) -> tuple[bool, bool]:
    """Whether the judge finds every attribute right, with standard and with golden noise."""
    both = (outcome.verdict_standard, outcome.verdict_golden)
    standard, golden = (all(verdict.right is not False for verdict in verdicts) for verdicts in both)
    return standard, golden


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200, help="cases that are looked at")
    pairs = parser.parse_args().pairs
    arms = ["standard", "npnet"]
    found = measure(arms, "validation", pairs, pairs, sdxl.MINI.steps, sdxl.MINI.guidance, 1.0)
    if not chunks.is_main():
        return
    standard, golden = ([hit for chunk in found[arm] for hit in chunk["right"]] for arm in arms)
    registry = Registry("cpu")

    def holds(case: Case, won: bool) -> bool:
        outcome = run_blocking(golden_noise.generate, registry, Settings(*case))
        return right(outcome) == (not won, won)

    examples = choose(cases("validation", pairs), standard, golden, holds)
    if len(examples) < WON + LOST:
        raise SystemExit(f"Of {pairs} cases only {len(examples)} fit: look at more with --pairs.")
    listed = [{"prompt": prompt, "seed": seed} for prompt, seed in examples]
    training.write_json(HERE / "examples.json", {"examples": listed})


if __name__ == "__main__":
    main()
