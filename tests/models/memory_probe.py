"""A process of its own that trains a random Qwen3 for two steps and prints its peak: bytes above what it had before."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from fission_grpo.models.recomputation import recompute_layers
from fission_grpo.tree.logprobs import score, share_prefixes
from fission_grpo.types import Distribution, TokenRow


def resident(field: str) -> int:
    """Bytes of this process: `VmRSS` now, `VmHWM` at most since the last reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def train(hidden: int, layers: int, vocabulary: int, prompt: int, completion: int, recompute: bool) -> dict[str, int]:
    """Two updates of a random model on a group of eight completions."""
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128,
        head_dim=64,
        intermediate_size=3 * hidden,
        tie_word_embeddings=True,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    if recompute:
        recompute_layers(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    shared = torch.randint(0, vocabulary, (prompt,)).tolist()
    rows = [
        TokenRow(
            ids=(*shared, *torch.randint(0, vocabulary, (completion,)).tolist()),
            trained=(False,) * prompt + (True,) * completion,
        )
        for _ in range(8)
    ]
    for _ in range(2):
        packed = share_prefixes(rows)
        for part in score(model, rows, packed, width=completion, distribution=Distribution(), token_budget=1 << 30):
            part.logprobs_BT.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": prompt + 8 * completion,
        "scored": 8 * completion,
    }


def main(sizes: list[int]) -> dict[str, int]:
    torch.set_num_threads(1)
    train(128, 1, 64, 8, 2, recompute=bool(sizes[5]))  # what is loaded at the first update belongs to no model
    before = resident("VmRSS")
    made = train(*sizes[:5], recompute=bool(sizes[5]))
    return {"peak": resident("VmHWM") - before, **made}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main([int(value) for value in sys.argv[1:]])) + "\n")
