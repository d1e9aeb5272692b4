"""Rebuilds `nano` from nothing: `python -m fission_grpo.recipes.build_nano FOLDER`.

Tokenizer, copy practice, supervised warm start on clean gold dialogues; a function of the constants below alone (and of
the machine's floating point). Losses are kept beside the weights in `build.json`: those of the copy practice, of the
first steps of the warm start, and of the finished weights on the first gold dialogues. With them anyone, and the tests,
can see whether the script still leads there.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from fission_grpo.chat.format import ChatFormat
from fission_grpo.environments.bfcl.environment import BFCL, BfclEnvironment
from fission_grpo.files import write_text
from fission_grpo.models.nano import build_tokenizer, fresh_model, parameter_count
from fission_grpo.recipes.nano import NANO_TASKS
from fission_grpo.tasks.synthesis.generator import synthesise
from fission_grpo.training.copying import copy_accuracy, sharpen_copying
from fission_grpo.training.dialogues import gold_dialogue
from fission_grpo.training.supervised import SupervisedSettings, mean_loss, supervise
from fission_grpo.types import Task, TokenRow

SEED = 0
TASK_SEED = 1
TASKS = 12_000
VOCABULARY_TASKS = 3_000
"""Tasks whose dialogues the tokenizer is trained on."""
WARM_START_SETTINGS = SupervisedSettings(seed=SEED, steps=800, batch=32, learning_rate=3e-3, floor=0.05)

RECORDED = 41
"""Steps of the warm start whose losses are kept."""
PROVED = 96
"""Gold dialogues on which the finished weights are scored."""

NANO_ENVIRONMENTS = {BFCL: BfclEnvironment}

log = logging.getLogger(__name__)


def gold_tasks(count: int = TASKS) -> list[Task]:
    """The training tasks of the warm start; a longer list begins with the shorter one."""
    return synthesise(TASK_SEED, count, apis=NANO_TASKS.apis, mixture=NANO_TASKS.mixture, tools=NANO_TASKS.tools)


def nano_tokenizer(tasks: Sequence[Task]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of the rendered gold dialogues.

    Rendering needs a tokenizer: a provisional one, trained on the requests alone, renders the corpus of the real one.
    """
    chosen = tasks[:VOCABULARY_TASKS]
    provisional = build_tokenizer(task.messages[0]["content"] for task in chosen)
    chat = ChatFormat(provisional)
    return build_tokenizer(
        provisional.decode(gold_dialogue(task, chat=chat, environments=NANO_ENVIRONMENTS).ids) for task in chosen
    )


def warm_start(
    tokenizer: PreTrainedTokenizerFast, rows: Sequence[TokenRow], *, steps: int | None = None
) -> tuple[LlamaForCausalLM, dict[str, list[float]]]:
    """A fresh model, copy practice, then the first `steps` (all of them by default) of the warm start.

    Returns:
        The model, and the losses of every step in nats per token, by phase.
    """
    model = fresh_model(tokenizer, seed=SEED)
    losses = {"copy": sharpen_copying(model, seed=SEED)}
    log.info("copying: %.1f %% of random tokens", 100 * copy_accuracy(model, seed=SEED + 1))
    began = time.monotonic()

    def report(step: int, loss: float) -> None:
        if step % 50 == 0:
            seconds = time.monotonic() - began
            log.info("step %d of %d: loss %.3f (%.0f s)", step, WARM_START_SETTINGS.steps, loss, seconds)

    losses["warm_start"] = supervise(model, rows, WARM_START_SETTINGS, report=report, until=steps)
    return model, losses


def build(folder: Path) -> None:
    """Everything, into an ordinary Hugging Face folder."""
    tasks = gold_tasks()
    tokenizer = nano_tokenizer(tasks)
    chat = ChatFormat(tokenizer)
    rows = [gold_dialogue(task, chat=chat, environments=NANO_ENVIRONMENTS) for task in tasks]
    log.info("%d gold dialogues, %d tokens", len(rows), sum(len(row.ids) for row in rows))
    model, losses = warm_start(tokenizer, rows)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    kept = {"copy": losses["copy"], "warm_start": losses["warm_start"][:RECORDED]}
    record = {
        "torch": torch.__version__,
        "parameters": parameter_count(model),
        "losses": kept,
        "final": mean_loss(model, rows[:PROVED], tree=False, token_budget=8192),
    }
    write_text(folder / "build.json", json.dumps(record) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Rebuild the nano policy from nothing.")
    parser.add_argument("folder", type=Path, help="where the Hugging Face folder is written")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    build(parser.parse_args().folder)
