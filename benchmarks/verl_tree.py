"""The training pass of a group and of a fission family inside verl's FSDP2 engine: padded, packed, and along the tree.

    python benchmarks/verl_tree.py                              random Qwen3 of width 512, prompts of 2,000 tokens
    python benchmarks/verl_tree.py --prompt 500 --rounds 3 --sides packed tree

One process, one rank, the same rows, rounds that alternate between the sides. A pass is verl's forward, its `ppo_loss`
and a backward into every parameter, all rows in one micro-batch. On a CPU seconds are those of the processor, one
thread.

    padded           use_remove_padding=false: every row as long as the longest
    packed           use_remove_padding=true: the rows behind each other. verl asks FlashAttention for it, which
                     has no kernels for CPUs: there SDPA gets the same as a mask, and pays for what it masks, too
    tree             packed, and what rows share is computed once (`engines/verl/tree_engine.py`)
    prefix-grouper   the package as its documentation says (see `sides.py`), outside of FSDP, scoring completions alone.
                     verl 0.9.1 holds functions for it that nothing calls, and their mask is FlashAttention's
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

if not torch.cuda.is_available():  # what the tests give verl, which knows no CPU
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests/engines/verl"))
    os.environ |= {"VERL_PLATFORM": "cpu", "VERL_USE_EXTERNAL_MODULES": "cpu_platform,cpu_tree"}

from shapes import add_arguments, build_model, shape_of
from sides import SIDES, installed
from tensordict import TensorDict
from tree import Case, seconds_of, work_of
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPActorConfig, FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.engine.base import EngineRegistry
from verl.workers.utils.losses import ppo_loss

from fission_grpo.engines.verl.tree_engine import SHARE
from fission_grpo.tree.prefix_tree import build_forest
from fission_grpo.types import TokenRow

IN_VERL: Mapping[str, tuple[bool, bool]] = {"padded": (False, False), "packed": (True, False), "tree": (True, True)}
"""By side: use_remove_padding, and whether prefixes are shared."""
GROUPER = "prefix-grouper"


def batch_of(rows: Sequence[TokenRow], *, packed: bool, share: bool) -> TensorDict:
    """Rows as verl's trainer hands them to its engine."""
    ragged = partial(torch.nested.as_nested_tensor, layout=torch.jagged)
    prompts = [row.trained.index(True) for row in rows]
    masks = [torch.ones(sum(row.trained), dtype=torch.long) for row in rows]
    numbers = torch.linspace(-1.5, 1.0, len(rows))
    data = TensorDict(
        {
            "prompts": ragged([torch.tensor(row.ids[:cut]) for row, cut in zip(rows, prompts, strict=True)]),
            "responses": ragged([torch.tensor(row.ids[cut:]) for row, cut in zip(rows, prompts, strict=True)]),
            "response_mask": ragged(masks),
            "loss_mask": ragged(masks),
            "input_ids": ragged([torch.tensor(row.ids) for row in rows]),
            "position_ids": ragged([torch.arange(len(row.ids)) for row in rows]),
            "old_log_probs": ragged([torch.full((len(mask),), -8.0) for mask in masks]),
            "advantages": ragged([number.expand(len(mask)) for number, mask in zip(numbers, masks, strict=True)]),
        },
        batch_size=[len(rows)],
    )
    tu.assign_non_tensor(
        data,
        temperature=1.0,
        use_remove_padding=packed,
        use_dynamic_bsz=True,
        max_token_len_per_gpu=sum(len(row.ids) for row in rows),
        calculate_entropy=False,
        global_batch_size=len(rows),
        **{SHARE: share},
    )
    return data


def engine_of(folder: str, options: argparse.Namespace, *, packed: bool) -> Any:
    """verl's FSDP2 engine on one rank."""
    engine = EngineRegistry.new(
        "language_model",
        "fsdp2",
        model_config=HFModelConfig(
            path=folder,
            load_tokenizer=False,
            use_remove_padding=packed,
            enable_gradient_checkpointing=options.checkpoint,
            override_config={"attn_implementation": options.attention},
        ),
        engine_config=FSDPEngineConfig(
            strategy="fsdp2",
            use_torch_compile=False,
            mixed_precision=dict.fromkeys(("param_dtype", "reduce_dtype", "buffer_dtype"), "fp32"),
        ),
        optimizer_config=FSDPOptimizerConfig(lr=1e-6, total_training_steps=10),
        checkpoint_config=CheckpointConfig(),
    )
    engine.initialize()
    return engine


def gradient_of(model: Any) -> torch.Tensor:
    return torch.cat(
        [getattr(one.grad, "full_tensor", lambda one=one: one.grad)().flatten() for one in model.parameters()]
    )


def measure(options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Seconds by case and side; gradients of verl's sides are compared."""
    torch.manual_seed(0)
    model = build_model(options)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        engines = {packed: engine_of(folder, options, packed=packed) for packed in (False, True)}
    config = FSDPActorConfig(strategy="fsdp2", rollout_n=8, use_dynamic_bsz=True, loss_agg_mode="token-mean")
    found: dict[str, dict[str, list[float]]] = {}
    for name, fission in (("group", False), ("with fission", True)):
        rows = Case(prompt=options.prompt, completion=options.completion, fission=fission).rows(
            shape_of(options).vocabulary
        )
        runs: dict[str, Callable[[], None]] = {}
        gradients: dict[str, torch.Tensor] = {}

        def inside(side: str, rows: Sequence[TokenRow] = rows, gradients: dict[str, Any] = gradients) -> None:
            packed, share = IN_VERL[side]
            engine = engines[packed]
            with engine.train_mode(zero_grad_on_exit=False):
                engine.optimizer_zero_grad()
                data = batch_of(rows, packed=packed, share=share)
                engine.forward_backward_batch(data, partial(ppo_loss, config=config))
            gradients[side] = gradient_of(engine.module)

        for side in options.sides:
            if side in IN_VERL:
                runs[side] = partial(inside, side)
            elif installed(side):
                runs[side] = SIDES[side](work_of(options, model, rows))
        seconds: dict[str, list[float]] = {side: [] for side in runs}
        for _ in range(options.rounds):
            for side, run in runs.items():
                model.zero_grad()
                seconds[side].append(seconds_of(run, options.device))
        found[name] = seconds
        held, unique = sum(len(row.ids) for row in rows), len(build_forest([row.ids for row in rows]))
        print(f"\n{name}: {len(rows)} rows of {held:,} tokens, {unique:,} of them unique", flush=True)
        for side, each in seconds.items():
            note = ""
            if side in gradients and "packed" in gradients:
                scale = gradients["packed"].abs().max()
                note = f"   gradient within {float((gradients[side] - gradients['packed']).abs().max() / scale):.0e}"
            times = median(each) / median(seconds.get("tree", each))
            spread = f"[{min(each):.2f}, {max(each):.2f}]"
            print(f"  {side:15} {median(each):8.2f} s {spread:18} {times:6.1f} x the tree{note}", flush=True)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--prompt", type=int, default=2000)
    parser.add_argument("--completion", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--token-budget", type=int, default=1_000_000)
    parser.add_argument("--attention", default="sdpa")
    sides = [*IN_VERL, GROUPER]
    parser.add_argument("--sides", nargs="+", choices=sides, default=sides)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        torch.distributed.init_process_group(
            "gloo" if options.device == "cpu" else "nccl", init_method=f"file://{folder}/meet", rank=0, world_size=1
        )
        print(f"load of the machine: {os.getloadavg()}")
        measure(options)
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
