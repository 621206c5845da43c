"""Fit the vectors of all concepts and probes on conversations of the small language, and write them.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.mini_llama.vectors     # about four minutes

Seed 0; 512 labelled answers a concept, half with it, in conversations of one to three turns, split by question. The place
and the layers that guide best were looked for on other questions than those of the card (`evaluate.py --choose`); what
was chosen stands in ``PLACES``. Every file is in the layout of the authors' files, with ours under ``metadata``.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import AutoModelForCausalLM, AutoTokenizer

from assets.lab import training
from pipelines.concept_guidance import files
from pipelines.concept_guidance.concepts import PROBES, REPRESENTATIONS, Concept
from pipelines.concept_guidance.examples import examples_of
from pipelines.concept_guidance.train import TrainSettings, train_concept
from pipelines.core.lane import Job, run_blocking
from pipelines.worlds import crumpet

HERE = Path(__file__).parent
EXAMPLES = 512
SEED = 0
PLACE = "hiddens"
"""Where the shipped vectors live: after the block, at two layers. The norm before attention, the paper's default, also
works (TRIED.md)."""


def fit(model: Any, tokenizer: Any, concept: str, probe: str, place: str = PLACE, examples: int = EXAMPLES) -> Concept:
    """The vector of one concept, from ``examples`` labelled answers."""
    rows = examples_of(enumerate(crumpet.labelled(concept, examples, SEED), 1))

    def work(job: Job) -> Concept:
        settings = TrainSettings((), concept, probe, place, seed=SEED, model="mini-llama")
        return train_concept(job, model, tokenizer, rows, settings).concept

    return run_blocking(work, limit_s=math.inf)


def open_model(folder: Path = HERE) -> tuple[Any, Any]:
    """The shipped model in float32 and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    return model.eval().requires_grad_(False), AutoTokenizer.from_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--place", choices=REPRESENTATIONS, default=PLACE)
    parser.add_argument("--out", type=Path, default=HERE)
    arguments = parser.parse_args()
    model, tokenizer = open_model()
    state = PartialState(cpu=True)
    every = [(concept, probe) for concept in crumpet.CONCEPTS for probe in PROBES]
    with state.split_between_processes(every) as mine:
        for concept, probe in mine:
            made = fit(model, tokenizer, concept, probe, arguments.place, arguments.examples)
            path = arguments.out / "vectors" / f"{concept}.{probe}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_safetensors(path, made)
            print(json.dumps({"concept": concept, "probe": probe, "validation": made.validation_accuracy}), flush=True)
    state.wait_for_everyone()
    if state.is_main_process:
        training.write_manifest(arguments.out, {})


if __name__ == "__main__":
    main()
