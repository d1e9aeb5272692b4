"""One supervised update over multi-turn dialogues that share their tools, as one tree and as separate rows.

One process, one model, the same batch, rounds that alternate between the sides; loss and gradient of both are compared.
A pass is what `fission sft` does in an update but the optimizer's step: packing, forward, loss, backward. On a CPU the
clock counts CPU seconds of this process, on CUDA seconds of the wall.

    python benchmarks/sft.py --model smollm2 --rounds 3    # hermes template, 6 tools, 8 dialogues of two turns
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from fission_grpo.environments.shipped import SHIPPED
from fission_grpo.models.catalog import load_policy_model
from fission_grpo.models.lora import LoraSettings, add_lora
from fission_grpo.tasks.synthesis.generator import Mixture, synthesise
from fission_grpo.training.dialogues import gold_dialogue
from fission_grpo.training.supervised import SupervisedSettings, SupervisedTrainer
from fission_grpo.tree.logprobs import packed_groups
from fission_grpo.types import Task

SIDES = {"tree": True, "rows": False}
DRAWN = 4000
"""Tasks among which those are looked for that need no other tools than the first one offers."""


def shared_tools(api: str, tools: int, count: int) -> list[Task]:
    """Tasks of two turns in worlds of their own, all with the same tools on offer."""
    mixture = Mixture(calls=(0.0, 0.6, 0.4), two_turns=1.0)
    drawn = synthesise(0, DRAWN, apis=(api,), tools=(tools, tools), mixture=mixture)
    offered = drawn[0].tools
    names = {tool["function"]["name"] for tool in offered}
    fit = [task for task in drawn if {call.name for turn in task.gold for call in turn} <= names]
    if len(fit) < count:
        raise SystemExit(f"only {len(fit)} tasks need no other tools; ask for fewer --dialogues, or more --tools")
    return [replace(task, tools=offered) for task in fit[:count]]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--chat-template", default="hermes")
    parser.add_argument("--api", default="TradingBot")
    parser.add_argument("--tools", type=int, default=6)
    parser.add_argument("--dialogues", type=int, default=8)
    parser.add_argument("--lora", type=int, default=16, help="rank; 0 trains every weight")
    parser.add_argument("--token-budget", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def clock(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    loaded = load_policy_model(options.model, chat_template=options.chat_template)
    model = loaded.model.to(options.device)
    if options.lora:
        model = add_lora(model, LoraSettings(rank=options.lora), seed=0)
        for name, weight in model.named_parameters():  # as they begin, half of the gradient is zero
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.01)
    tasks = shared_tools(options.api, options.tools, options.dialogues)
    rows = [gold_dialogue(task, chat=loaded.chat, environments=SHIPPED) for task in tasks]
    trainers = {
        side: SupervisedTrainer(model, rows, SupervisedSettings(tree=tree, token_budget=options.token_budget))
        for side, tree in SIDES.items()
    }
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    losses: dict[str, float] = {}
    gradients: dict[str, list[torch.Tensor]] = {}
    load = os.getloadavg()
    for number in range(-1, options.rounds):  # the first one warms up
        for side, trainer in trainers.items():
            begin = clock(options.device)
            losses[side] = trainer.accumulate(rows, packed_groups(model, rows, tree=SIDES[side]))
            spent = clock(options.device) - begin
            if number >= 0:
                seconds[side].append(spent)
            gradients[side] = [p.grad.detach().clone() for p in trainer.parameters if p.grad is not None]
    (forest, _) = packed_groups(model, rows, tree=True)[0]
    difference = max(
        ((one - other).abs().max() / other.abs().max().clamp_min(1e-30)).item()
        for one, other in zip(gradients["tree"], gradients["rows"], strict=True)
    )
    found = {
        "dialogues": len(rows),
        "raw_tokens": forest.unshared_tokens,
        "unique_tokens": len(forest),
        "learned_tokens": sum(sum(row.trained) for row in rows),
        "seconds": seconds,
        "times_the_tree": median(seconds["rows"]) / median(seconds["tree"]),
        "loss": losses,
        "gradient_difference": difference,
        "load_before": load,
        "load_after": os.getloadavg(),
        "torch": torch.__version__,
    }
    print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps({"options": vars(options), **found}, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
