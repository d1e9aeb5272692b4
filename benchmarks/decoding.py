"""What parts of our sampler take.

    python benchmarks/decoding.py heads
    python benchmarks/decoding.py passes --model nano smollm2

`heads`: attention of heads that share keys and values, ours and transformers'.
`passes`: how many tokens' arithmetic a pass costs whatever it computes, measured and as the cost model has it.

The clock counts CPU seconds of one thread, or seconds on the device.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from tree import seconds_of

from fission_grpo.models.catalog import load_policy_model
from fission_grpo.policy.local.cost_model import pass_in_tokens
from fission_grpo.policy.local.forward import ForwardRunner
from fission_grpo.tree import tree_attention

QUERIES = (1, 2, 4, 8, 16)
LENGTHS = (1, 16, 64, 256)
REPEATS = 20


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    found = options.run(options)
    if options.json:
        written = {"torch": torch.__version__, "load": os.getloadavg(), "options": vars(options), "results": found}
        options.json.write_text(json.dumps(written, indent=1, default=str))


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
    """Passes over one context of several lengths: what a token adds, and how many of them cost as much as the rest."""
    found = []
    print("| model | " + " | ".join(f"{n} tokens, ms" for n in LENGTHS) + " | measured | cost model |")
    print("|---" * (len(LENGTHS) + 3) + "|")
    for name in options.model:
        loaded = load_policy_model(name)
        model = loaded.model.to(options.device)
        runner = ForwardRunner(model, pad_id=loaded.chat.pad_id, share=False)
        runner.cache.reserve(1, max(LENGTHS) + 1)
        with torch.inference_mode():
            took = [
                milliseconds(partial(runner.prefill, [(1,) * (length + 1)], first=0), options.device)
                for length in LENGTHS
            ]
        token = (took[-1] - took[0]) / (LENGTHS[-1] - LENGTHS[0])
        measured, believed = (took[0] - token) / token, pass_in_tokens(model)
        print(f"| {name} | {' | '.join(f'{ms:.1f}' for ms in took)} | {measured:.0f} | {believed} |", flush=True)
        found.append({"model": name, "ms": took, "measured": measured, "cost_model": believed})
    return found


def milliseconds(run: Callable[[], Any], device: str) -> float:
    """The median of some runs behind one that does not count."""
    run()
    return 1000 * median(seconds_of(run, device) for _ in range(REPEATS))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = {run.__name__: run for run in (heads, passes)}
    parser.add_argument("what", choices=list(kinds))
    parser.add_argument("--model", nargs="+", default=["nano"])
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
