"""What each part of our decoding saves.

    python benchmarks/batching.py sampling --rounds 5
    python benchmarks/batching.py sampling --group 1 --tasks 300 --horizon episode --model runs/policy
    python benchmarks/batching.py heads
    python benchmarks/batching.py lengths
    python benchmarks/batching.py passes --model nano smollm2

`sampling`: training tasks are played with all parts, and with one of them left out; the same is said. Parts are left
out by reaching into the package: nobody needs them as settings. Rounds alternate between the sides, and each side has
played as many other tasks before, so that there is something to guess from.
`heads`: attention of heads that share keys and values, ours and transformers'.
`lengths`: a pass over rows of very different lengths, in stretches and as one block.
`passes`: how many tokens a pass has time for, measured and as the roofline believes.

The clock counts CPU seconds of one thread, or seconds on the device.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from tree import seconds_of, spread

from fission_grpo.assembly import WORLDS
from fission_grpo.models.catalog import LoadedModel, load_policy_model
from fission_grpo.policy.base import Sampling
from fission_grpo.policy.local import batching
from fission_grpo.policy.local.cost_model import Roofline
from fission_grpo.policy.local.forward import Reader
from fission_grpo.policy.local.hf_policy import HFPolicy
from fission_grpo.recipes import Recipe, load_recipe
from fission_grpo.rollout import Horizon, open_group, rollout
from fission_grpo.tasks.training_set import SYNTHETIC, training_set
from fission_grpo.tree import tree_attention
from fission_grpo.types import Completion, Task

SIDES: Mapping[str, Callable[[], AbstractContextManager[Any]]] = {
    "all parts": nullcontext,
    "no guesses": lambda: patch.object(batching, "MOST_GUESSES", 0),
    "no stretches": lambda: patch.object(Roofline, "call_of_attention", lambda self: float("inf")),
}
ROWS, PUSHED = (1, 8, 64), (1, 2, 4, 8, 16)
READ = 256
"""Tokens that every row of `passes` has read before."""
LONGEST = 1984
REPEATS = 20


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    found = options.run(options)
    if options.json:
        written = {"torch": torch.__version__, "load": os.getloadavg(), "options": vars(options), "results": found}
        options.json.write_text(json.dumps(written, indent=1, default=str))


def sampling(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and counts of every side."""
    settings = load_recipe(Recipe.NANO)
    (name,) = options.model
    loaded = load_policy_model(name)
    loaded.model.to(options.device)
    tasks = training_set(SYNTHETIC, settings.synthetic, worlds=WORLDS)
    before, now = tasks[: options.tasks], tasks[options.tasks : 2 * options.tasks]
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    counts: dict[str, dict[str, int]] = {}
    said: dict[str, list[Completion]] = {}
    for _ in range(options.rounds):
        for side, without in SIDES.items():
            policy = HFPolicy(loaded.model, eos_id=loaded.chat.eos_id, pad_id=loaded.chat.pad_id)
            with without():
                play(policy, before, loaded, options)
                policy.take_count()
                took = seconds_of(
                    lambda p=policy, s=side: said.update({s: play(p, now, loaded, options)}), options.device
                )
            seconds[side].append(took)
            counts[side] = asdict(policy.take_count())
            print(f"{side}: {took:.2f} s", file=sys.stderr, flush=True)
    print("| | s | times | passes | decoded | said | the same |\n" + "|---" * 7 + "|")
    whole = median(seconds["all parts"])
    for side, took in seconds.items():
        count, alike = counts[side], [a.ids == b.ids for a, b in zip(said[side], said["all parts"], strict=False)]
        print(
            f"| {side} | {spread(took)} | {median(took) / whole:.2f} "
            f"| {count['passes']} | {count['decoded']} | {count['sampled']} | {sum(alike)} of {len(said[side])} |"
        )
    return {"seconds": seconds, "counts": counts}


def play(policy: HFPolicy, tasks: Sequence[Task], loaded: LoadedModel, options: argparse.Namespace) -> list[Completion]:
    """Everything that is said in a group for each task."""
    rollouts = load_recipe(Recipe.NANO).rollouts
    starts = [start for task in tasks for start in open_group(task, options.group, chat=loaded.chat, worlds=WORLDS)]
    trajectories = rollout(
        starts,
        policy=policy,
        chat=loaded.chat,
        sampling=Sampling(max_tokens=rollouts.max_tokens),
        horizons=[options.horizon] * len(starts),
        max_turns=rollouts.max_turns,
        seed=options.seed,
    )
    return [turn.completion for trajectory in trajectories for turn in trajectory.turns]


def heads(options: argparse.Namespace) -> list[dict[str, Any]]:
    """8 rows of 2000 tokens; 16 query heads share 8 of keys and values, as in Qwen3-1.7B."""
    rows, heads, shared, width, length = 8, 16, 8, 128, 2000
    module = torch.nn.Module()
    module.num_key_value_groups = heads // shared  # type: ignore[assignment]
    drawn = torch.Generator().manual_seed(options.seed)

    def states(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=drawn).to(options.device, getattr(torch, options.dtype))

    key, value = states(rows, shared, length, width), states(rows, shared, length, width)
    found = []
    print("| queries of a row | folded, ms | repeated, ms | times |\n|---|---|---|---|")
    for pushed in PUSHED:
        given = (module, states(rows, heads, pushed, width), key, value, states(rows, 1, pushed, length))
        folded, repeated = (
            milliseconds(partial(read, *given), options.device)
            for read in (tree_attention._attend, sdpa_attention_forward)
        )
        print(f"| {pushed} | {folded:.1f} | {repeated:.1f} | {repeated / folded:.1f} |")
        found.append({"queries": pushed, "folded": folded, "repeated": repeated})
    return found


def lengths(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Groups of 8 rows, each group half as long as the one before it."""
    found = []
    print("| model | rows of | tokens pushed | stretches, ms | one block, ms | times |\n" + "|---" * 6 + "|")
    for name in options.model:
        loaded = load_policy_model(name)
        reader = Reader(loaded.model.to(options.device), pad_id=loaded.chat.pad_id, share=True)
        held = [LONGEST >> halvings for halvings in range(4) for _ in range(8)]
        reader.memory.reserve(len(held), LONGEST + max(PUSHED))
        with torch.inference_mode():
            reader.admit([(row + 1, *[1] * length) for row, length in enumerate(held)], first=0)
            held = reader.memory.lengths[: len(held)].tolist()
            for pushed in PUSHED:
                apart = push(reader, held, pushed, options.device)
                with SIDES["no stretches"]():
                    together = push(reader, held, pushed, options.device)
                cells = f"{apart:.1f} | {together:.1f} | {together / apart:.2f}"
                print(f"| {name} | {max(held)} to {min(held)} | {pushed} | {cells} |", flush=True)
                found.append({"model": name, "pushed": pushed, "stretches": apart, "block": together})
    return found


def passes(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What a pass costs, and what each further token of a row adds to it."""
    found = []
    print("| model | rows | " + " | ".join(f"{n} tokens, ms" for n in PUSHED) + " | time for | roofline |")
    print("|---" * (len(PUSHED) + 4) + "|")
    for name in options.model:
        loaded = load_policy_model(name)
        model = loaded.model.to(options.device)
        for rows in ROWS:
            reader = Reader(model, pad_id=loaded.chat.pad_id, share=True)
            reader.memory.reserve(rows, READ + max(PUSHED))
            with torch.inference_mode():
                reader.admit([(row + 1, *[1] * READ) for row in range(rows)], first=0)
                took = [push(reader, [READ] * rows, many, options.device) for many in PUSHED]
            # Of one pass to the longest: what a token adds, and how many of them cost as much as the pass itself.
            token = (took[-1] - took[0]) / (PUSHED[-1] - PUSHED[0])
            spare, believed = (took[0] - token) / token, reader.roofline.spare(rows=rows, width=READ)
            cells = " | ".join(f"{ms:.1f}" for ms in took)
            print(f"| {name} | {rows} | {cells} | {spare:.1f} | {believed:.1f} |", flush=True)
            found.append({"model": name, "rows": rows, "ms": took, "spare": spare, "roofline": believed})
    return found


def push(reader: Reader, held: Sequence[int], many: int, device: str) -> float:
    """Milliseconds of a pass that pushes some tokens of every row, behind those that it holds."""

    def run() -> None:
        reader.memory.lengths[: len(held)] = held
        reader.next_logits([[1] * many] * len(held))

    return milliseconds(run, device)


def milliseconds(run: Callable[[], Any], device: str) -> float:
    """The median of some runs behind one that does not count."""
    run()
    return 1000 * median(seconds_of(run, device) for _ in range(REPEATS))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = {run.__name__: run for run in (sampling, heads, lengths, passes)}
    parser.add_argument("what", choices=list(kinds))
    parser.add_argument("--model", nargs="+", default=["nano"])
    parser.add_argument("--tasks", type=int, default=40)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--horizon", type=Horizon, choices=list(Horizon), default=Horizon.TURN)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", help="of `heads`")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.run = kinds[options.what]
    return options


if __name__ == "__main__":
    main()
