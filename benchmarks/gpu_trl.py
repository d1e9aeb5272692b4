"""Some steps inside TRL with random weights: seconds by phase, and peak memory beside the plan's.

    python benchmarks/gpu_trl.py model FOLDER --shape qwen3-0.6b          write a model, with nano's tokenizer
    python benchmarks/gpu_trl.py tree FOLDER --device cuda --json PATH    train it: trl, tree, rows or vllm

    trl    TRL's own trainer, which samples with `model.generate`; no recoveries
    tree   ours, our sampler, the prefix tree
    rows   ours, our sampler, every row computed on its own
    vllm   ours, a colocated vLLM, the prefix tree

`gpu_trl.sh` runs all of them. Random answers are as long as they may be, and every one is cut off, which is an error:
all recoveries are due from the second step on. The first step is left out of the medians.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from shapes import add_arguments, build_model, shape_of

from fission_grpo.algorithm.source import FissionSettings
from fission_grpo.commands.engine_memory import DeviceMemory, device_memory
from fission_grpo.config import RunSettings
from fission_grpo.engines import Engine
from fission_grpo.engines.settings import EngineSettings, VllmMode
from fission_grpo.models.catalog import load_config, load_tokenizer
from fission_grpo.models.folder import save_model_folder
from fission_grpo.models.memory import size_text
from fission_grpo.rollout import Horizon, RolloutSettings
from fission_grpo.training.settings import TrainerSettings

SIDES = ("trl", "tree", "rows", "vllm")
SHARE = 0.3
"""Of the device, for vLLM."""


def settings_of(side: str, options: argparse.Namespace, room: float | None) -> RunSettings:
    """What the plan is made from."""
    vllm = {"vllm": VllmMode.COLOCATE, "vllm_share": SHARE} if side == "vllm" else {}
    group, queries = options.group, options.queries
    contexts = 0 if side == "trl" else queries
    return RunSettings(
        model=str(options.folder),
        engine=EngineSettings(name=Engine.TRL, autocast=options.device != "cpu", gpu_memory=room, **vllm),
        trainer=TrainerSettings(
            queries=queries,
            group_size=group,
            horizon=Horizon.CALL,
            beta=0.0,
            tree=side not in ("trl", "rows"),
            token_budget=options.token_budget,
            gradient_checkpointing=True,
        ),
        rollouts=RolloutSettings(max_tokens=options.completion, max_turns=1),
        fission=FissionSettings(contexts=contexts, group_size=group, capacity=4 * queries, horizon=Horizon.CALL),
    )


def even_tokens(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """A reward that random answers differ in."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


def prompts(tokenizer: Any, *, tokens: int, count: int) -> list[str]:
    """Texts of about so many tokens, different from the first word on."""
    line = " the quick brown fox looks for a ticket in the garden"
    times = max(1, tokens // len(tokenizer(line)["input_ids"]))
    return [f"{place}" + line * times for place in range(count)]


def train(side: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train, and measure."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from fission_grpo.engines.trl import FissionGRPOTrainer

    cuda = options.device == "cuda"
    room = torch.cuda.get_device_properties(0).total_memory / 2**30 if cuda else None
    settings = settings_of(side, options, room)
    tokenizer = load_tokenizer(str(options.folder))
    texts = prompts(tokenizer, tokens=options.prompt, count=options.queries * 4)
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in texts])
    longest = max(
        len(tokenizer.apply_chat_template(one["prompt"], add_generation_prompt=True)["input_ids"]) for one in rows
    )
    plan = device_memory(settings, load_config(str(options.folder)), prompt=longest)
    base: type[Any] = GRPOTrainer if side == "trl" else FissionGRPOTrainer
    with tempfile.TemporaryDirectory() as output:
        args = GRPOConfig(
            output_dir=output,
            use_cpu=not cuda,
            bf16=cuda,
            model_init_kwargs={"dtype": "float32"},
            max_steps=options.steps + 1,
            per_device_train_batch_size=options.group,
            gradient_accumulation_steps=options.queries,
            num_generations=options.group,
            max_completion_length=options.completion,
            loss_type="dapo",
            learning_rate=1e-6,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            gradient_checkpointing=True,
            **(
                {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": SHARE}
                if side == "vllm"
                else {}
            ),
        )
        ours: dict[str, Any] = {
            "fission": settings.fission,
            "rollouts": settings.rollouts,
            "prefix_tree": settings.trainer.tree,
            "prefix_tree_tokens": options.token_budget,
        }
        trainer = timed(base)(
            model=str(options.folder),
            args=args,
            reward_funcs=even_tokens,
            train_dataset=rows,
            processing_class=tokenizer,
            **({} if side == "trl" else ours),
        )
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        trainer.train()
    peak = torch.cuda.max_memory_allocated() if cuda else None
    return report(side, trainer.seconds, plan, peak=peak)


def timed(base: type[Any]) -> type[Any]:
    """A trainer that notes the seconds of each generation and of each micro-batch as a whole."""

    class Timed(base):  # type: ignore[misc]
        def __init__(self, *given: Any, **named: Any) -> None:
            self.seconds: dict[str, list[float]] = {"generate": [], "micro-batch": []}
            super().__init__(*given, **named)

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            return self._noted("generate", lambda: super(Timed, self)._generate_and_score_completions(inputs))

        def training_step(self, *given: Any, **named: Any) -> Any:
            return self._noted("micro-batch", lambda: super(Timed, self).training_step(*given, **named))

        def _noted(self, phase: str, do: Callable[[], Any]) -> Any:
            begin = now()
            try:
                return do()
            finally:
                self.seconds[phase].append(now() - begin)

    return Timed


def now() -> float:
    """Seconds, when all that was asked of the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def report(
    side: str, seconds: Mapping[str, Sequence[float]], plan: DeviceMemory, *, peak: int | None
) -> dict[str, Any]:
    """Medians without the first step, in seconds; bytes, those of a vLLM in this process among them."""
    generated = seconds["generate"]
    parts = len(seconds["micro-batch"]) // len(generated)
    wholes = [sum(seconds["micro-batch"][step * parts : (step + 1) * parts]) for step in range(len(generated))]
    found = {
        "side": side,
        "rows": plan.micro_batch.rows * parts,
        "generate": median(generated[1:]),
        "update": median(whole - drawn for whole, drawn in list(zip(wholes, generated, strict=True))[1:]),
        "peak": peak,
        "plan": plan.memory.total,
        "parts": asdict(plan.memory),
        "fits": plan.fits,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
    told = "not measured on a CPU" if peak is None else size_text(peak)
    print(
        f"{side:<5} {found['rows']:>4} rows  generate {found['generate']:8.2f} s  update {found['update']:8.2f} s  "
        f"peak {told}, by the plan at most {size_text(int(found['plan']))}"
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=["model", *SIDES])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=3, help="beside the first one")
    parser.add_argument("--queries", type=int, default=4)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=2000, help="tokens")
    parser.add_argument("--completion", type=int, default=256, help="tokens")
    parser.add_argument("--token-budget", type=int, default=16384)
    parser.add_argument("--json", type=Path)
    add_arguments(parser)
    options = parser.parse_args()
    if options.side == "model":
        shape = shape_of(options)
        print(f"writing a random model of {shape.layers} layers of {shape.hidden} to {options.folder}")
        save_model_folder(build_model(options), load_tokenizer("nano"), options.folder)
        return
    found = train(options.side, options)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
