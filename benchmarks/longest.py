"""The longest prompt whose group or fission family still fits: as one uncut tree, and as separate rows one at a time.

    python benchmarks/longest.py --shape qwen3-1.7b --device cuda --dtype bfloat16 --step 4000 --checkpoint

The prompt grows by a step until a pass (forward, GRPO loss, backward into every parameter) finds no memory.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from shapes import add_arguments, build_model, shape_of
from sides import SIDES, Work, installed
from tree import Case, timed

from fission_grpo.tree.prefix_tree import build_forest


@dataclass(frozen=True, slots=True)
class Fit:
    """A pass that found the memory it needed."""

    side: str
    prompt: int
    unique_tokens: int
    seconds: float
    peak_mib: float
    """Above the model; 0 where it is not measured."""


def fits(options: argparse.Namespace, model: Any, side: str) -> Iterator[Fit]:
    """Longer and longer prompts, up to the last that fits."""
    for prompt in range(options.step, options.most + 1, options.step):
        rows = Case(prompt, options.completion, options.fission).rows(shape_of(options).vocabulary)
        # A tree is never cut, a row never has a neighbour.
        budget = sum(len(row.ids) for row in rows) if side == "tree" else 1
        run = SIDES[side](Work(model=model, rows=rows, token_budget=budget, attention=options.attention))
        try:
            seconds, peak = timed(run, model)
        except torch.OutOfMemoryError:
            break
        yield Fit(side, prompt, len(build_forest([row.ids for row in rows])), seconds, peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--step", type=int, default=4000)
    parser.add_argument("--most", type=int, default=262144, help="longest prompt tried")
    parser.add_argument("--completion", type=int, default=100)
    parser.add_argument("--fission", action="store_true")
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=["tree", "rows"])
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = build_model(options)
    found: list[Fit] = []
    print("| side | P | unique tokens | s | peak MiB |\n|---|---|---|---|---|")
    for side in filter(installed, options.sides):
        for fit in fits(options, model, side):
            print(
                f"| {side} | {fit.prompt} | {fit.unique_tokens} | {fit.seconds:.3g} | {fit.peak_mib:.0f} |", flush=True
            )
            found.append(fit)
            if options.json:
                written = {"torch": torch.__version__, "options": vars(options)}
                options.json.write_text(
                    json.dumps(written | {"fits": [asdict(f) for f in found]}, indent=1, default=str)
                )


if __name__ == "__main__":
    main()
