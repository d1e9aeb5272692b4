"""Supervised fine-tuning: the warm start before any reinforcement, and the demonstration baseline.

Rows come from `dialogues`; each is a whole dialogue, whose trained tokens alone are learned. What the rows of a batch
have in common at their beginnings goes through the model once.
"""

from __future__ import annotations

import hashlib
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from random import Random
from typing import Any

import torch
from pydantic import Field

from fission_grpo.errors import ConfigError
from fission_grpo.run.folder import RunFolder
from fission_grpo.seeds import derive
from fission_grpo.settings import MOST_SEED, Settings
from fission_grpo.training.checkpoint import Checkpoints
from fission_grpo.training.learner import require_finite
from fission_grpo.training.master_weights import adamw, updated
from fission_grpo.tree.logprobs import PackedGroup, Scores, packed_groups, score
from fission_grpo.types import Distribution, TokenRow

MEASUREMENTS = 20
"""Of the validation loss in a run, about."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisedUpdate:
    """One update, by the names of `metrics.jsonl`."""

    loss: float
    """Before the update, in nats per trained token."""
    learning_rate: float
    grad_norm: float
    """Before it was clipped."""
    trained_tokens: int
    unique_tokens: int
    """Tokens once shared beginnings are counted once."""
    raw_tokens: int
    """Tokens of separate rows."""


class SupervisedTrainer:
    """Minimises the mean negative log-likelihood of the trained tokens, in place."""

    def __init__(self, model: Any, rows: Sequence[TokenRow], settings: SupervisedSettings) -> None:
        self.model = model
        self.rows = rows
        self.settings = settings
        self.step = 0
        """Updates made so far."""
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = adamw(trained, learning_rate=settings.learning_rate, weight_decay=0.01)
        self.parameters = updated(self.optimizer)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: _rate(step, settings))

    @property
    def finished(self) -> bool:
        """Whether every update has been made."""
        return self.step >= self.settings.steps

    def update(self) -> SupervisedUpdate:
        """The next one.

        Raises:
            FissionError: the loss or its gradient is not finite any more.
        """
        batch = batch_of(self.rows, self.step, self.settings)
        packed = packed_groups(self.model, batch, tree=self.settings.tree)
        loss = self.accumulate(batch, packed)
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, 1.0))
        require_finite(norm, loss)
        (rate,) = self._schedule.get_last_lr()
        self.optimizer.step()
        self._schedule.step()
        self.step += 1
        return SupervisedUpdate(
            loss=loss,
            learning_rate=float(rate),
            grad_norm=norm,
            trained_tokens=trained_tokens(batch),
            unique_tokens=sum(len(forest) for forest, _ in packed),
            raw_tokens=sum(forest.unshared_tokens for forest, _ in packed),
        )

    def accumulate(self, batch: Sequence[TokenRow], packed: Sequence[PackedGroup]) -> float:
        """Leave the gradient of the mean over a batch in the parameters; returns the loss, in nats per token."""
        self.model.train(False)  # no dropout: small models on exact targets
        self.optimizer.zero_grad()
        tokens = trained_tokens(batch)
        total = 0.0
        for scores in _scored(self.model, batch, packed, token_budget=self.settings.token_budget):
            loss = -scores.logprobs_BT.sum() / tokens
            torch.autograd.backward(loss)
            total += loss.item()
        return total

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule stands, and which rows it is of; weights and optimizer are saved beside it."""
        return {"step": self.step, "schedule": self._schedule.state_dict(), "rows": rows_hash(self.rows)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where `state_dict` stood.

        Raises:
            ConfigError: it was of other rows.
            KeyError, TypeError, ValueError: `state_dict` has not written this.
        """
        if state["rows"] != rows_hash(self.rows):
            raise ConfigError(
                "the run was begun with other rows than these: its file, its tasks or the chat template have changed; "
                "restore them, or choose another --output"
            )
        self._schedule.load_state_dict(state["schedule"])
        self.step = int(state["step"])


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisedRun:
    """A supervised training that keeps its files in a run folder, and goes on from there."""

    trainer: SupervisedTrainer
    validation: Sequence[TokenRow]
    """Never learned; none are never measured."""
    run: RunFolder
    checkpoints: Checkpoints
    checkpoint_every: int
    """Updates."""

    def train(self, *, stop: Callable[[], bool], report: Callable[[int, dict[str, float]], None]) -> None:
        """Go on to the last update, or until `stop` says so; either way the state is saved at the end.

        Args:
            stop: asked after every update.
            report: told, after every update, how many there are, and the line of `metrics.jsonl`.
        """
        while not self.trainer.finished:
            with self.run.step_named(self.trainer.step):
                metrics = self._update()
            report(self.trainer.step, metrics)
            last = stop() or self.trainer.finished
            if last or self.trainer.step % self.checkpoint_every == 0:
                self.checkpoints.save()
            if last:
                break

    def _update(self) -> dict[str, float]:
        """One update, and after some of them the loss on the validation rows; both go into `metrics.jsonl`."""
        trainer = self.trainer
        begin = time.perf_counter()
        metrics = asdict(trainer.update())
        metrics["time/update"] = time.perf_counter() - begin
        if self.validation and measured_after(trainer.step, trainer.settings.steps):
            begin = time.perf_counter()
            metrics["validation_loss"] = mean_loss(
                trainer.model,
                self.validation,
                tree=trainer.settings.tree,
                token_budget=trainer.settings.token_budget,
            )
            metrics["time/validate"] = time.perf_counter() - begin
        self.run.append(self.run.metrics, [{"step": trainer.step - 1, **metrics}])
        return metrics


def measured_after(step: int, steps: int) -> bool:
    """Whether the validation loss is measured after so many updates: the first, the last, and some between."""
    return step in (1, steps) or step % max(1, steps // MEASUREMENTS) == 0


def supervise(
    model: Any,
    rows: Sequence[TokenRow],
    settings: SupervisedSettings,
    *,
    report: Callable[[int, float], None] = lambda step, loss: None,
    until: int | None = None,
) -> list[float]:
    """Train from the first update on, with nothing kept but the weights.

    Args:
        report: told the step and its loss.
        until: stop early, at this step of the same schedule.
    Returns:
        The loss of every step, in nats per token.
    Raises:
        FissionError: the loss or its gradient is not finite any more.
    """
    trainer = SupervisedTrainer(model, rows, settings)
    losses: list[float] = []
    for step in range(settings.steps if until is None else until):
        losses.append(trainer.update().loss)
        report(step, losses[-1])
    return losses


def mean_loss(model: Any, rows: Sequence[TokenRow], *, tree: bool, token_budget: int) -> float:
    """Mean negative log-likelihood of the trained tokens, in nats per token."""
    with torch.no_grad():
        scored = _scored(model, rows, packed_groups(model, rows, tree=tree), token_budget=token_budget)
        total = sum(scores.logprobs_BT.sum().item() for scores in scored)
    return -total / trained_tokens(rows)


def _scored(
    model: Any, rows: Sequence[TokenRow], packed: Sequence[PackedGroup], *, token_budget: int
) -> Iterator[Scores]:
    """Log-probabilities of the trained tokens under the model as it is: nothing is tempered or cut."""
    width = max(sum(row.trained) for row in rows)
    return score(model, rows, packed, width=width, distribution=Distribution(), token_budget=token_budget)


def trained_tokens(rows: Sequence[TokenRow]) -> int:
    """How many tokens of some rows are learned."""
    return sum(sum(row.trained) for row in rows)


def hold_back(rows: Sequence[TokenRow], share: float, *, seed: int) -> tuple[list[TokenRow], list[TokenRow]]:
    """What is learned, and a share of the different rows that is not; of a row that occurs twice both go one way. At
    least one is learned."""
    different = list(dict.fromkeys(rows))
    count = min(round(share * len(different)), len(different) - 1)
    held = set(Random(derive(seed, "held back")).sample(different, count))
    return [row for row in rows if row not in held], [row for row in different if row in held]


def rows_hash(rows: Sequence[TokenRow]) -> str:
    """SHA-256 of all tokens and masks, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(array("q", (len(row.ids), *row.ids)).tobytes() + bytes(row.trained))
    return digest.hexdigest()


def batch_of(rows: Sequence[TokenRow], step: int, settings: SupervisedSettings) -> list[TokenRow]:
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
