"""A training step of the quickstart with and without the tree, side by side in one run.

    python benchmarks/step.py --arm fission-decision --steps 12
    python benchmarks/step.py --arm fission-decision --steps 3 model=smollm2 lora.rank=16 trainer.queries=2

Two trainers with the same seed take turns, step by step, so that both meet the same load of the machine. Prints the
median seconds of each phase, and the tokens that were computed. Settings are written as for `fission train`. The arm is
today's: docs/performance.md says what `fission-decision` was when its tables were made.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from fission_grpo.assembly import assemble
from fission_grpo.cli.options import read_settings
from fission_grpo.config import RunSettings
from fission_grpo.recipes import Recipe
from fission_grpo.recipes.arms import Arm
from fission_grpo.run.folder import RunFolder
from fission_grpo.training.trainer import Trainer

PHASES = ("explore", "recover", "update")
TOKENS = {
    "generate/prefilled": "generate/raw",
    "generate/decoded": "generate/sampled",
    "update/pushed_tokens": "update/raw_tokens",
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--arm", type=Arm, default=Arm.FISSION, choices=list(Arm))
    arguments.add_argument("--steps", type=int, default=6)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--json", action="store_true")
    given, written = arguments.parse_known_args()
    torch.set_num_threads(given.threads)
    with TemporaryDirectory() as folder:
        sides = {"tree": written, "plain": [*written, "trainer.tree=false"]}
        settings = {name: read_settings(Recipe.NANO, None, given.arm, {}, side) for name, side in sides.items()}
        trainers = {name: trainer(some, Path(folder) / name) for name, some in settings.items()}
        seconds: dict[str, list[dict[str, float]]] = {name: [] for name in trainers}
        tokens = dict.fromkeys((*TOKENS, *TOKENS.values()), 0.0)
        for _ in range(given.steps):
            for name, one in trainers.items():
                one.step()
                line = json.loads((Path(folder) / name / "metrics.jsonl").read_text().splitlines()[-1])
                times = {key.removeprefix("time/"): line[key] for key in line if key.startswith("time/")}
                seconds[name].append(times)
                if name == "tree":
                    tokens = {key: tokens[key] + line[key] for key in tokens}
    medians = {
        name: {phase: statistics.median(step.get(phase, 0.0) for step in steps) for phase in PHASES}
        for name, steps in seconds.items()
    }
    if given.json:
        print(json.dumps({"seconds": medians, "tokens": tokens}, indent=2))
        return
    for phase in (*PHASES, "whole step"):
        tree, plain = (medians[name].get(phase, sum(medians[name].values())) for name in ("tree", "plain"))
        print(f"{phase:<12} tree {tree:6.2f} s   plain {plain:6.2f} s   {plain / max(tree, 1e-9):5.2f} times")
    for computed, unshared in TOKENS.items():
        print(f"{computed:<22} {tokens[computed]:>9.0f} of {tokens[unshared]:>9.0f} tokens")


def trainer(settings: RunSettings, folder: Path) -> Trainer:
    """What `fission train` would run, in a folder of its own."""
    made = assemble(settings.model_copy(update={"output": str(folder)}))
    RunFolder(folder).create({}, resume=False)
    return made


if __name__ == "__main__":
    main()
