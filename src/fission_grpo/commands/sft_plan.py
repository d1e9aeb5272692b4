"""What a supervised run will take, said before it takes anything: the plan of `fission sft --dry-run`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from fission_grpo.assembly import chat_of_run
from fission_grpo.commands.sft import lessons, supervised_trainer
from fission_grpo.config import RunSettings
from fission_grpo.models.memory import Memory, Parameters, own_loop_memory, size_text
from fission_grpo.preflight import full_precision_accelerator
from fission_grpo.training.supervised import batch_of, mean_loss, measured_after, trained_tokens
from fission_grpo.tree.logprobs import packed_groups

COUNTED = 8
"""Batches whose tokens a plan counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SftPlan:
    """What a supervised run will take."""

    lessons: str
    updates: int
    batch: int
    passes: float
    trained_tokens: int
    """Of all updates, as of their first ones, like the next two."""
    unique_tokens: int
    """Shared beginnings of a batch once."""
    raw_tokens: int
    longest: int
    """Tokens of the longest dialogue."""
    parameters: int
    trained_parameters: int
    memory: Memory
    loss: float
    """Of the first batch, before anything is learned, in nats a token."""
    seconds: float
    """From one update and one measurement of the validation loss, on this machine."""

    def lines(self) -> Iterator[str]:
        """For a person."""
        yield f"learns      {self.lessons}, the longest of {self.longest:,} tokens"
        yield f"updates     {self.updates:,} of {self.batch} dialogues, {self.passes:.1f} passes over all"
        yield (
            f"tokens      about {self.raw_tokens:,} in all updates, of which {self.trained_tokens:,} are learned; "
            f"{self.unique_tokens:,} go through the model, shared beginnings once"
        )
        yield f"parameters  {self.parameters:,}, of which {self.trained_parameters:,} are trained"
        yield f"memory      about {size_text(self.memory.total)} (an estimate from the shapes; {self.memory.parts()})"
        yield f"time        about {self.seconds:,.0f} s on this machine, by one update of loss {self.loss:.3f}"


def make_sft_plan(settings: RunSettings) -> SftPlan:
    """Make the rows, try one update on weights that are thrown away, and count; nothing is written.

    Raises:
        ConfigError, DataError: see `fine_tune`.
    """
    settings = settings.from_anywhere()
    chat = chat_of_run(settings)
    shown = lessons(settings, chat)
    trainer = supervised_trainer(settings, shown, full_precision_accelerator())
    supervised = trainer.settings
    begin = time.perf_counter()
    loss = trainer.update().loss
    update = time.perf_counter() - begin
    begin = time.perf_counter()
    if shown.validation:
        mean_loss(trainer.model, shown.validation, tree=supervised.tree, token_budget=supervised.token_budget)
    validate = time.perf_counter() - begin
    measured = sum(measured_after(step, supervised.steps) for step in range(1, supervised.steps + 1))
    counted = [batch_of(shown.rows, step, supervised) for step in range(min(COUNTED, supervised.steps))]
    share = supervised.steps / len(counted)
    model, longest = trainer.model, max(len(row.ids) for row in shown.rows)
    whole, trained = (sum(p.numel() for p in some) for some in (model.parameters(), trainer.parameters))
    budget = max(supervised.token_budget, 2 * longest)  # the least that a tree is cut into
    forests = [forest for batch in counted for forest, _ in packed_groups(trainer.model, batch, tree=supervised.tree)]
    return SftPlan(
        lessons=str(shown),
        updates=supervised.steps,
        batch=supervised.batch,
        passes=supervised.steps * supervised.batch / len(shown.rows),
        trained_tokens=round(share * sum(map(trained_tokens, counted))),
        unique_tokens=round(share * sum(map(len, forests))),
        raw_tokens=round(share * sum(forest.unshared_tokens for forest in forests)),
        longest=longest,
        parameters=whole,
        trained_parameters=trained,
        memory=own_loop_memory(
            model.config.get_text_config(),
            Parameters(whole=whole, trained=trained, layer=0, root=0),
            size=model.dtype.itemsize,
            beta=0.0,  # nothing is held to a frozen start, and nothing is sampled
            recompute=settings.trainer.gradient_checkpointing,
            rows=0,
            longest=longest,
            tokens=budget,
            scored=budget,
        ),
        loss=loss,
        seconds=supervised.steps * update + measured * validate,
    )
