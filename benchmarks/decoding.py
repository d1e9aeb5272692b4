"""What each part of our decoding saves.

    python benchmarks/decoding.py sampling --rounds 5
    python benchmarks/decoding.py sampling --group 1 --tasks 300 --horizon episode --model runs/policy
    python benchmarks/decoding.py heads
    python benchmarks/decoding.py passes --model nano smollm2

`sampling`: training tasks are played with prompt lookup and without it; the same is said. It is left out by reaching
into the package: nobody needs that as a setting. Rounds alternate between the sides, and each side has played as many
other tasks before, so that there is something to draft from.
`heads`: attention of heads that share keys and values, ours and transformers'.
`passes`: how many tokens a pass has time for, measured and by the cost model.

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

from fission_grpo.assembly import ENVIRONMENTS
from fission_grpo.models.catalog import LoadedModel, load_policy_model
from fission_grpo.policy.base import Sampling
from fission_grpo.policy.local import batching
from fission_grpo.policy.local.forward import ForwardRunner
from fission_grpo.policy.local.hf_policy import HFPolicy
from fission_grpo.recipes import Recipe, load_recipe
from fission_grpo.rollout import Horizon, open_group, rollout
from fission_grpo.tasks.training_set import SYNTHETIC, training_set
from fission_grpo.tree import tree_attention
from fission_grpo.types import Completion, Task

SIDES: Mapping[str, Callable[[], AbstractContextManager[Any]]] = {
    "prompt lookup": nullcontext,
    "no drafts": lambda: patch.object(batching, "MOST_DRAFTED", 0),
}
ROWS, QUERIES = (1, 8, 64), (1, 2, 4, 8, 16)
HELD = 256
"""Tokens that every row of `passes` holds before."""
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
    tasks = training_set(SYNTHETIC, settings.synthetic, environments=ENVIRONMENTS)
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
    whole = median(seconds["prompt lookup"])
    for side, took in seconds.items():
        count, alike = counts[side], [a.ids == b.ids for a, b in zip(said[side], said["prompt lookup"], strict=False)]
        print(
            f"| {side} | {spread(took)} | {median(took) / whole:.2f} "
            f"| {count['passes']} | {count['decoded']} | {count['sampled']} | {sum(alike)} of {len(said[side])} |"
        )
    return {"seconds": seconds, "counts": counts}


def play(policy: HFPolicy, tasks: Sequence[Task], loaded: LoadedModel, options: argparse.Namespace) -> list[Completion]:
    """Everything that is said in a group for each task."""
    rollouts = load_recipe(Recipe.NANO).rollouts
    starts = [
        start
        for task in tasks
        for start in open_group(task, options.group, chat=loaded.chat, environments=ENVIRONMENTS)
    ]
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
    for queries in QUERIES:
        given = (module, states(rows, heads, queries, width), key, value, states(rows, 1, queries, length))
        folded, repeated = (
            milliseconds(partial(read, *given), options.device)
            for read in (tree_attention._attend, sdpa_attention_forward)
        )
        print(f"| {queries} | {folded:.1f} | {repeated:.1f} | {repeated / folded:.1f} |")
        found.append({"queries": queries, "folded": folded, "repeated": repeated})
    return found


def passes(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What a pass costs, and what each further token of a row adds to it."""
    found = []
    print("| model | rows | " + " | ".join(f"{n} tokens, ms" for n in QUERIES) + " | time for | cost model |")
    print("|---" * (len(QUERIES) + 4) + "|")
    for name in options.model:
        loaded = load_policy_model(name)
        model = loaded.model.to(options.device)
        for rows in ROWS:
            runner = ForwardRunner(model, pad_id=loaded.chat.pad_id, share=True)
            runner.cache.reserve(rows, HELD + max(QUERIES))
            with torch.inference_mode():
                runner.prefill([(row + 1, *[1] * HELD) for row in range(rows)], first=0)
                took = [milliseconds_of(runner, [HELD] * rows, many, options.device) for many in QUERIES]
            # Of one pass to the longest: what a token adds, and how many of them cost as much as the pass itself.
            token = (took[-1] - took[0]) / (QUERIES[-1] - QUERIES[0])
            spare, believed = (took[0] - token) / token, runner.cost_model.spare(rows=rows, width=HELD)
            cells = " | ".join(f"{ms:.1f}" for ms in took)
            print(f"| {name} | {rows} | {cells} | {spare:.1f} | {believed:.1f} |", flush=True)
            found.append({"model": name, "rows": rows, "ms": took, "spare": spare, "cost_model": believed})
    return found


def milliseconds_of(runner: ForwardRunner, held: Sequence[int], many: int, device: str) -> float:
    """A pass that computes some tokens of every row, behind those that it holds."""

    def run() -> None:
        runner.cache.lengths[: len(held)] = held
        runner.next_logits([[1] * many] * len(held))

    return milliseconds(run, device)


def milliseconds(run: Callable[[], Any], device: str) -> float:
    """The median of some runs behind one that does not count."""
    run()
    return 1000 * median(seconds_of(run, device) for _ in range(REPEATS))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = {run.__name__: run for run in (sampling, heads, passes)}
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
