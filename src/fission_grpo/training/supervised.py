"""Supervised fine-tuning on transcripts: the warm start before any reinforcement, and the demonstration baseline.

Only what an assistant says is learned; prompts, tool results and injected errors are conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from random import Random
from typing import Any

import torch
from pydantic import Field

from fission_grpo.chat.format import ChatFormat
from fission_grpo.chat.parse import render_call
from fission_grpo.chat.transcript import Transcript
from fission_grpo.environments.base import Environments
from fission_grpo.environments.dialogue import remaining_gold
from fission_grpo.errors import ConfigError
from fission_grpo.rollout import open_task
from fission_grpo.seeds import derive
from fission_grpo.settings import MOST_SEED, Settings
from fission_grpo.tasks.dialogue import DONE
from fission_grpo.training.learner import require_finite
from fission_grpo.training.master_weights import adamw, updated
from fission_grpo.tree.logprobs import packed_groups, score
from fission_grpo.types import Completion, Distribution, FinishReason, Task, TokenRow


class SupervisedSettings(Settings):
    """One supervised run."""

    seed: int = Field(default=0, ge=0, le=MOST_SEED)
    steps: int = Field(default=200, ge=1)
    batch: int = Field(default=32, ge=1)
    """Dialogues in one update."""
    learning_rate: float = Field(default=3e-3, gt=0)
    """Peak; reached after `warmup` of the steps, then falling linearly to `floor` times itself."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    floor: float = Field(default=0.05, ge=0, le=1)
    token_budget: int = Field(default=4096, ge=1)
    tree: bool = True
    """Push what dialogues have in common through the model once, where that is exact."""


def gold_dialogue(task: Task, *, chat: ChatFormat, environments: Environments) -> TokenRow:
    """The remaining gold calls of a task, played in its world, with the world's real replies and the final answer.

    Every gold call is a message of its own. A task without a world ends with its target.

    Raises:
        ConfigError: the world cannot be built, or a gold call fails in it.
    """
    start = open_task(task, chat=chat, environments=environments)
    if start.fault:
        raise ConfigError(f"task {task.id}: its world cannot be built: {start.fault}")
    transcript = start.transcript.fork()
    if start.environment is None:
        _say(transcript, "\n".join(map(render_call, task.target)) or DONE, chat)
        return TokenRow(ids=transcript.ids, trained=transcript.sampled)
    for number, calls in enumerate(remaining_gold(task)):
        if number:
            start.environment.next_turn()
            transcript.extend_observed(chat.user(FinishReason.STOP, task.followups[number - 1]))
        for call in calls:
            _say(transcript, render_call(call), chat)
            outcome = start.environment.execute(call)
            if outcome.is_error:
                raise ConfigError(f"task {task.id}: gold call {call.name} fails in its own world: {outcome.text}")
            transcript.extend_observed(chat.reply(FinishReason.STOP, [outcome.text]))
        _say(transcript, DONE, chat)
    return TokenRow(ids=transcript.ids, trained=transcript.sampled)


def next_message(task: Task, *, chat: ChatFormat) -> TokenRow:
    """The gold message that comes next, and nothing after it."""
    transcript = Transcript(chat.prompt(task.messages, task.tools))
    _say(transcript, "\n".join(map(render_call, task.target)) or DONE, chat)
    return TokenRow(ids=transcript.ids, trained=transcript.sampled)


def supervise(
    model: Any,
    rows: Sequence[TokenRow],
    settings: SupervisedSettings,
    *,
    report: Callable[[int, float], None] = lambda step, loss: None,
    until: int | None = None,
) -> list[float]:
    """Minimise the mean negative log-likelihood of the trained tokens, in place.

    Args:
        report: told the step and its loss.
        until: stop early, at this step of the same schedule.
    Returns:
        The loss of every step, in nats per token.
    Raises:
        FissionError: the loss or its gradient is not finite any more.
    """
    model.train(False)  # no dropout: small models on exact targets
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = adamw(trained, learning_rate=settings.learning_rate, weight_decay=0.01)
    parameters = updated(optimizer)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, settings))
    losses: list[float] = []
    for step in range(settings.steps if until is None else until):
        batch = _batch(rows, step, settings)
        width = max(sum(row.trained) for row in batch)
        tokens = sum(sum(row.trained) for row in batch)
        optimizer.zero_grad()
        total = 0.0
        for scores in score(
            model,
            batch,
            packed_groups(model, batch, tree=settings.tree),
            width=width,
            distribution=Distribution(),
            token_budget=settings.token_budget,
        ):
            loss = -scores.logprobs_BT.sum() / tokens
            torch.autograd.backward(loss)
            total += loss.item()
        require_finite(torch.nn.utils.clip_grad_norm_(parameters, 1.0), total)
        optimizer.step()
        schedule.step()
        losses.append(total)
        report(step, total)
    return losses


def _say(transcript: Transcript, text: str, chat: ChatFormat) -> None:
    ids = (*chat.tokenizer(text, add_special_tokens=False)["input_ids"], chat.eos_id)
    transcript.extend_sampled(Completion(ids=ids, logprobs=(0.0,) * len(ids), finish=FinishReason.STOP))


def _batch(rows: Sequence[TokenRow], step: int, settings: SupervisedSettings) -> list[TokenRow]:
    """This step's dialogues: seeded permutations, one after the other."""
    places = range(step * settings.batch, (step + 1) * settings.batch)
    return [rows[_shuffled(len(rows), settings.seed, place // len(rows))[place % len(rows)]] for place in places]


@lru_cache(maxsize=2)  # a batch may end one epoch and begin the next
def _shuffled(count: int, seed: int, epoch: int) -> list[int]:
    return Random(derive(seed, "supervised", epoch)).sample(range(count), count)


def _rate(step: int, settings: SupervisedSettings) -> float:
    warm = max(1, round(settings.warmup * settings.steps))
    if step < warm:
        return (step + 1) / warm
    left = (settings.steps - step) / max(1, settings.steps - warm)
    return settings.floor + (1 - settings.floor) * left
