"""The training pass inside TRL with the tree and without; and sampling, by us, `model.generate` and a vLLM server."""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import trl.trainer.utils as trl_utils
from datasets import Dataset
from engine_worlds import mean_id
from generation import Case, Generate, Ids, OfPackage, OfTransformers, Workload
from shapes import build_model
from torch import Tensor
from tree import Case as PassCase
from trl import GRPOConfig, GRPOTrainer
from turns import Phase, Seat

from fission_grpo.client.endpoint import EndpointSettings
from fission_grpo.engines.prefix_tree import PrefixTreeMixin
from fission_grpo.models.catalog import load_chat
from fission_grpo.policy.base import Sampling
from fission_grpo.policy.vllm import VLLMPolicy
from fission_grpo.types import TokenRow


class TreeTrainer(PrefixTreeMixin, GRPOTrainer):
    """What any user of TRL writes."""


def pass_cases(options: argparse.Namespace) -> dict[str, PassCase]:
    """A group in one micro-batch, alone and with the recoveries from its first member."""
    return {
        name: PassCase(prompt=options.prompt, completion=options.completion, fission=fission)
        for name, fission in (("group", False), ("with fission", True))
    }


def training_pass(seat: Seat, options: argparse.Namespace, folder: Path, *, tree: bool) -> None:
    """TRL's loss and its backward pass, once for each case and round.

    Without the tree TRL scores the completions alone, as it does on CUDA (see `engine_steps`); with it TRL is as it is
    installed.

    Args:
        folder: takes the gradient of each case, `tree` or `trl` in its name.
    """
    if not tree:
        trl_utils._use_triton = lambda device: True
    cases = {name: padded(case.rows(options.vocabulary)) for name, case in pass_cases(options).items()}
    model = build_model(options)
    trainer = _pass_trainer(
        model, tree=tree, rows=max(len(batch["prompt_ids"]) for batch in cases.values()), options=options
    )
    model.train()
    for _ in range(options.rounds):
        for name, batch in cases.items():
            model.zero_grad()
            with seat.turn() as noted:
                seat.clock.enter(Phase.LOSS)
                loss = trainer.compute_loss(model, batch)
                loss.backward()
                seat.clock.leave()
                noted["loss"] = float(loss.detach())
                noted["rows"] = len(batch["prompt_ids"])
            gradient = torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])
            torch.save(gradient, gradient_file(folder, name, tree=tree))


def gradient_file(folder: Path, case: str, *, tree: bool) -> Path:
    return folder / f"{case} {'tree' if tree else 'trl'}.pt"


def padded(rows: Sequence[TokenRow]) -> dict[str, Tensor]:
    """A micro-batch as TRL makes it: prompts of different lengths are filled on the left."""
    completion = sum(rows[0].trained)
    longest = max(len(row.ids) for row in rows) - completion
    ids = torch.zeros(len(rows), longest + completion, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, -len(row.ids) :] = torch.tensor(row.ids)
        mask[place, -len(row.ids) :] = 1
    return {
        "prompt_ids": ids[:, :longest],
        "prompt_mask": mask[:, :longest],
        "completion_ids": ids[:, longest:],
        "completion_mask": mask[:, longest:],
        "advantages": torch.linspace(-1.5, 1.0, len(rows)),
        "num_items_in_batch": torch.tensor(float(len(rows) * completion)),
    }


def _pass_trainer(model: Any, *, tree: bool, rows: int, options: argparse.Namespace) -> Any:
    trainer: Any = TreeTrainer(
        model=model,
        reward_funcs=mean_id,
        args=GRPOConfig(
            output_dir=tempfile.mkdtemp(),
            use_cpu=True,
            bf16=False,
            beta=0.0,
            per_device_train_batch_size=rows,
            num_generations=rows,
            gradient_checkpointing=options.checkpointing,
            report_to=[],
        ),
        train_dataset=Dataset.from_list([{"prompt": "a"}]),
        processing_class=load_chat("nano").tokenizer,
        prefix_tree=tree,
    )
    trainer.current_gradient_accumulation_steps = 1
    return trainer


SAMPLED = {name: Workload(name) for name in ("group", "fission", "turns")}
"""Those of `generation.py`."""


class OfServer:
    """A vLLM server that serves the same model: see `--write-model`."""

    def __init__(self, url: str, model: str) -> None:
        chat: Any = copy.copy(load_chat("nano"))
        chat.eos_id = None  # no token ends a completion; vLLM refuses one that is not in the vocabulary
        self.policy = VLLMPolicy(EndpointSettings(url=url, model=model, concurrency=64), chat=chat)

    def __call__(self, contexts: Sequence[Ids], completion: int) -> list[Ids]:
        told = self.policy.generate(contexts, sampling=Sampling(max_tokens=completion), seed=0)
        return [ids + one.ids for ids, one in zip(contexts, told, strict=True)]


SAMPLERS: Mapping[str, Callable[[argparse.Namespace, Any], Generate]] = {
    "own": lambda options, model: OfPackage(model, share=True),
    "generate": lambda options, model: OfTransformers(model),
    "vllm": lambda options, model: OfServer(options.server, options.served_name),
}


def sampling(seat: Seat, options: argparse.Namespace, *, sampler: str) -> None:
    """Sample each workload once a round; prompts are new ones in each, or a server would still know them."""
    model = None if sampler == "vllm" else build_model(options)
    for number in range(options.rounds):
        for workload in SAMPLED.values():
            case = Case(workload=workload, prompt=options.prompt, completion=options.completion)
            generate = SAMPLERS[sampler](options, model)  # afresh: its cache would hold what it said before
            with seat.turn() as noted:
                seat.clock.enter(Phase.SAMPLING)
                made = case.play(partial(_full_length, generate), options.vocabulary, seed=number)
                seat.clock.leave()
                noted["sampled_tokens"] = len(made) * options.completion


def _full_length(generate: Generate, contexts: Sequence[Ids], completion: int) -> list[Ids]:
    """What was sampled, once it is sure that nothing ended early."""
    said = generate(contexts, completion)
    if any(len(after) != len(before) + completion for before, after in zip(contexts, said, strict=True)):
        raise SystemExit(f"a completion has not {completion} tokens")
    return said
