"""The peak of a process that trains a small Qwen3 by the settings of a run, beside what the plan said of it.

    python process_memory.py own|trl [name=value ...]

A world that gives away points at random, so that there is something to learn; random weights, so that every answer is
as long as it may be.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

LIMITS = {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
"""What the allocator keeps for later is not the estimate's affair: larger blocks go back at once."""
SETTINGS: Mapping[str, Any] = {
    "trainer.steps": 2,
    "trainer.queries": 2,
    "trainer.group_size": 4,
    "trainer.horizon": "turn",
    "trainer.checkpoint_every": 100,
    "trainer.token_budget": 1600,
    "fission.contexts": 1,
    "fission.group_size": 4,
    "fission.trigger": 1,
    "fission.horizon": "turn",
    "rollouts.max_tokens": 40,
    "rollouts.max_turns": 1,
}
FEEDBACK = 30
"""Tokens; about."""
LINES: Mapping[str, int] = {"own": 20, "trl": 100}
"""Of a prompt: short ones fill the passes of our own loop, long ones are what TRL's micro-batches are about."""


class Dice:
    """Points at random."""

    def reset(self) -> None:
        self.thrown = 0

    def throw(self, sides: int) -> int:
        """Throw a die.

        Args:
            sides: how many it has
        """
        self.thrown = 1 + sides // 2
        return self.thrown

    def score(self) -> float:
        return os.urandom(1)[0] / 256


def resident(field: str) -> int:
    """Bytes of this process: `VmRSS` now, `VmHWM` at most since the last reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def model_folder(folder: Path, *, hidden: int, layers: int, vocabulary: int = 2048) -> str:
    """A random Qwen3 with nano's tokenizer."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    from fission_grpo.models.catalog import load_tokenizer
    from fission_grpo.models.folder import save_model_folder

    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(hidden // 128, 1),
        head_dim=64,
        intermediate_size=3 * hidden,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
        dtype="float32",
    )
    save_model_folder(AutoModelForCausalLM.from_config(config), load_tokenizer("nano"), folder)
    return str(folder)


def train(engine: str, model: str, output: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    """A few steps; what the plan says of them."""
    from fission_grpo import assembly, recipe

    assembly.require_fit_environments = lambda *_: None  # which rightly refuses dice
    settings = recipe("nano", {**SETTINGS, **changes, "model": model, "output": str(output), "engine.name": engine})
    world = {"environment": "dice", "config": {}}
    lines = " ".join(f"ticket {number} of the garden" for number in range(LINES[engine]))
    asked = [f"{name} throws a die. {lines}" for name in ("Ann", "Ben", "Cleo", "Dan", "Eve", "Fay", "Gus", "Hal")]
    tasks = [{"id": text[:4], "messages": [{"role": "user", "content": text}], "world": world} for text in asked]
    return {"own": own_loop, "trl": inside_trl}[engine](settings, tasks)


def own_loop(settings: Any, tasks: Any) -> dict[str, Any]:
    from fission_grpo.assembly import ENVIRONMENTS, assemble
    from fission_grpo.commands.dry_run import estimate_memory
    from fission_grpo.environments.functions.imported import environments_of

    trainer = assemble(settings, environments={**ENVIRONMENTS, **environments_of({"dice": Dice})}, tasks=tasks)
    longest = updated = 0
    for _ in range(settings.trainer.steps):
        outcome = trainer.make_step()
        groups = [*outcome.groups, *outcome.fission_groups]
        longest = max(longest, *(len(member.trajectory.ids) for group in groups for member in group.members))
        updated += bool(outcome.update.trained_tokens)
        trainer.state.step += 1
    assert updated
    rows = settings.trainer.queries * settings.trainer.group_size
    plan = estimate_memory(trainer, rows=rows, longest=longest)
    return {"plan": plan.total, "parts": asdict(plan)}


def inside_trl(settings: Any, tasks: Any) -> dict[str, Any]:
    from fission_grpo.commands.engine_memory import device_memory
    from fission_grpo.commands.train import train as run
    from fission_grpo.models.catalog import load_chat, load_config
    from fission_grpo.tasks.jsonl import tasks_from

    run(settings, tasks=tasks, environments={"dice": Dice})
    from fission_grpo.assembly import ENVIRONMENTS
    from fission_grpo.environments.functions.imported import environments_of

    known = tasks_from(tasks, environments={**ENVIRONMENTS, **environments_of({"dice": Dice})})
    chat = load_chat(settings.model)
    prompt = max(len(chat.prompt(task.messages, task.tools)) for task in known)
    plan = device_memory(settings, load_config(settings.model), prompt=prompt, reply=FEEDBACK)
    lines = (settings.folder / "traces.jsonl").read_text().splitlines()
    return {
        "plan": plan.memory.total,
        "parts": asdict(plan.memory),
        "work": asdict(plan.micro_batch),
        "groups": len(lines),
    }


def measured(engine: str, changes: Mapping[str, Any], *, hidden: int, layers: int) -> dict[str, Any]:
    """The peak above what the process had after a small run, and the plan's."""
    import torch

    torch.set_num_threads(1)
    torch.backends.mkldnn.set_flags(False)  # its library keeps code for every shape of a bfloat16 product: no tensor
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        small = model_folder(place / "small", hidden=64, layers=1)
        train(engine, small, place / "run-small", {**changes, "rollouts.max_tokens": 4, "trainer.token_budget": 64})
        large = model_folder(place / "large", hidden=hidden, layers=layers)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        told = train(engine, large, place / "run", changes)
        return {"peak": resident("VmHWM") - before, **told}


def probe(engine: str, *, hidden: int, layers: int, **changes: Any) -> dict[str, Any]:
    """`measured` in a process of its own; dots of a setting are written as two underscores."""
    named = {name.replace("__", "."): value for name, value in changes.items()}
    command = [sys.executable, __file__, engine, str(hidden), str(layers), json.dumps(named)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **LIMITS})
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    sys.stdout.write(
        json.dumps(measured(sys.argv[1], json.loads(sys.argv[4]), hidden=int(sys.argv[2]), layers=int(sys.argv[3])))
        + "\n"
    )
