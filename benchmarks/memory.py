"""What the recipes for GPUs take of each GPU by the plan: public shapes of Qwen3, no weights, no download.

python benchmarks/memory.py              tables in Markdown: the recipes inside TRL, and `paper` inside verl by model
python benchmarks/memory.py --json PATH  and everything that it was made from
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import MappingProxyType

from shapes import SHAPES

from fission_grpo.commands.engine_memory import HEADROOM, DeviceMemory, device_memory
from fission_grpo.engines import Engine
from fission_grpo.models.memory import Memory
from fission_grpo.recipes import Recipe, load_recipe

MODELS: Mapping[Recipe, str] = MappingProxyType(
    {
        Recipe.PAPER: "qwen3-1.7b",
        Recipe.PAPER_24GB: "qwen3-1.7b",
        Recipe.PAPER_80GB: "qwen3-1.7b",
        Recipe.PAPER_8X80GB: "qwen3-8b",
    }
)

INSIDE_VERL = ("qwen3-1.7b", "qwen3-4b", "qwen3-8b")


def plans(prompt: int) -> dict[Recipe, DeviceMemory]:
    """Of each recipe for prompts of so many tokens."""
    return {
        recipe: device_memory(load_recipe(recipe), SHAPES[shape].config(), prompt=prompt)
        for recipe, shape in MODELS.items()
    }


def verl_plans(prompt: int) -> dict[str, DeviceMemory]:
    """Of `--engine verl --recipe paper` for each model, on a node of eight GPUs."""
    settings = load_recipe(Recipe.PAPER, engine=Engine.VERL)
    return {shape: device_memory(settings, SHAPES[shape].config(), prompt=prompt) for shape in INSIDE_VERL}


def table(found: Mapping[str, DeviceMemory]) -> list[str]:
    """GiB of one GPU, what for in rows."""

    def row(name: str, *cells: str) -> str:
        return f"| {' | '.join([name, *cells])} |"

    lines = [row("GiB of one GPU, at most", *(f"`{name}`" for name in found)), row("---", *["---:"] * len(found))]
    for field in fields(Memory):
        counts = [getattr(plan.memory, field.name) for plan in found.values()]
        if any(counts):
            lines.append(row(field.name, *(f"{count / 2**30:.1f}" if count else "" for count in counts)))
    lines.append(row("**total**", *(f"**{plan.memory.total / 2**30:.1f}**" for plan in found.values())))
    lines.append(row("of", *(f"{(plan.room or 0) / 2**30:.0f}" for plan in found.values())))
    lines.append(row("tokens of a micro-batch", *(f"{plan.micro_batch.tokens:,}" for plan in found.values())))
    samplers = [plan.sampler for plan in found.values()]
    lines.append(row("of `generator`: weights", *(f"{one.weights / 2**30:.1f}" if one else "" for one in samplers)))
    lines.append(row("tokens of its keys and values", *(f"{one.tokens:,}" if one else "" for one in samplers)))
    return [
        *lines,
        row(f"fits with {HEADROOM:.0%} to spare", *("yes" if plan.fits else "no" for plan in found.values())),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", type=int, default=6000, help="tokens of the longest prompt")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = {str(recipe): plan for recipe, plan in plans(options.prompt).items()}
    inside_verl = verl_plans(options.prompt)
    print("\n".join([*table(found), "", *table(inside_verl)]))
    if options.json:
        options.json.write_text(
            json.dumps({name: asdict(plan) for name, plan in (found | inside_verl).items()}, indent=2)
        )


if __name__ == "__main__":
    main()
