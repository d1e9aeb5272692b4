"""One optimizer step: groups in, changed weights out.

    rows of all groups -> packed prefix trees -> log-probabilities -> loss -> gradient -> optimizer

The loss is `losses.policy_loss`, the rows and their weights are `batch.TrainingBatch`. Log-probabilities come from one
`Scorer`, which the frozen start of the KL penalty uses, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from fission_grpo.algorithm.batch import TrainingBatch
from fission_grpo.algorithm.groups import Group
from fission_grpo.algorithm.losses import OBJECTIVES, Objective, k3_divergence, policy_loss
from fission_grpo.errors import FissionError
from fission_grpo.models.recomputation import recompute_layers
from fission_grpo.training.master_weights import adamw, updated
from fission_grpo.training.settings import TrainerSettings
from fission_grpo.tree.logprobs import Scorer
from fission_grpo.tree.reference import Reference
from fission_grpo.types import Distribution

_KEYS: Mapping[str, str] = MappingProxyType({"computed_tokens": "pushed_tokens", "unshared_tokens": "raw_tokens"})
"""What `metrics.jsonl` has called these since version 0.1."""


@dataclass(slots=True)
class Update:
    """Means over the trained tokens of one update."""

    loss: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    logprob_gap: float = 0.0
    """Largest |trainer - sampler| log-probability in nats; rounding noise when all is well."""
    logprob_gap_mean: float = 0.0
    """The same on average: what `trainer.gap_warning` is about. One unlikely token makes the largest."""
    grad_norm: float = 0.0
    trained_tokens: int = 0
    unique_tokens: int = 0
    """Tokens once shared prefixes are counted once."""
    computed_tokens: int = 0
    """Tokens that the gradient took: more than the unique ones where a tree exceeds `token_budget`, is cut, and its
    shared prefix is computed again."""
    unshared_tokens: int = 0
    """Tokens of separate rows."""

    updates: int = 1
    """Optimizer steps that these numbers are of."""

    def __add__(self, other: Update) -> Update:
        """Two updates of one step: totals, the larger gap and gradient, and means over the trained tokens of both."""
        tokens = self.trained_tokens + other.trained_tokens

        def mean(name: str) -> float:
            ours, theirs = getattr(self, name) * self.trained_tokens, getattr(other, name) * other.trained_tokens
            return float(ours + theirs) / max(tokens, 1)

        return Update(
            loss=self.loss + other.loss,
            kl=mean("kl"),
            entropy=mean("entropy"),
            logprob_gap=max(self.logprob_gap, other.logprob_gap),
            logprob_gap_mean=mean("logprob_gap_mean"),
            grad_norm=max(self.grad_norm, other.grad_norm),
            trained_tokens=tokens,
            unique_tokens=self.unique_tokens + other.unique_tokens,
            computed_tokens=self.computed_tokens + other.computed_tokens,
            unshared_tokens=self.unshared_tokens + other.unshared_tokens,
            updates=self.updates + other.updates,
        )

    def metrics(self) -> dict[str, float]:
        """By the names of `metrics.jsonl`."""
        return {_KEYS.get(name, name): value for name, value in asdict(self).items()}


def anywhere(here: bool, accelerator: Accelerator) -> bool:
    """Whether something is so in any process; all of them must ask."""
    if accelerator.num_processes == 1:
        return here
    asked = torch.tensor([here], device=accelerator.device)
    return bool(accelerator.gather(asked).any())


def require_finite(norm: float | torch.Tensor, loss: float = 0.0, *, what: str = "gradient") -> None:
    """Stop before anything that is no number is trained on, or saved.

    Raises:
        FissionError: the norm or the loss is infinite or no number.
    """
    if not (math.isfinite(norm) and math.isfinite(loss)):
        raise FissionError(
            f"training has diverged: the norm of the {what} is {float(norm)}, the loss {loss}; lower the learning rate"
        )


class Learner:
    """A model, its optimizer, and the frozen start that it is held to."""

    def __init__(
        self,
        model: Any,
        settings: TrainerSettings,
        *,
        distribution: Distribution,
        longest: int,
        accelerator: Accelerator,
    ) -> None:
        """Prepare a model for training; its weights change in place.

        Args:
            distribution: what trajectories are sampled from; the sampler's own value.
            longest: most tokens that can be sampled for one user message, for `Aggregation.CONSTANT`. That is a whole
                trajectory but with `Horizon.EPISODE`, where each user message may sample as many; it stays the divisor.
        """
        self.settings = settings
        self.longest = longest
        self.accelerator = accelerator
        self.objective: Objective = OBJECTIVES[settings.objective]
        self.scorer = Scorer(distribution=distribution, token_budget=settings.token_budget, tree=settings.tree)
        self.reference = Reference(model) if settings.beta else None
        if settings.gradient_checkpointing:
            recompute_layers(model)
        # Evaluation mode keeps accelerate from wrapping the model: gradients are averaged by `_average_gradients`.
        self.model = accelerator.prepare_model(model, evaluation_mode=True)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = accelerator.prepare_optimizer(
            adamw(trained, learning_rate=settings.learning_rate, weight_decay=settings.weight_decay)
        )
        self.parameters = updated(self.optimizer)
        """What the optimizer moves, and where gradients lie: the weights, or their master copies in float32."""

    def precompute_reference(self, groups: Sequence[Group]) -> None:
        """Score these groups under the frozen start before the update asks for it.

        Their gradient has to wait for the other groups of the update: how much a token weighs depends on all of them.
        """
        self._reference_logprobs(self._batch(groups))

    def update(self, groups: Sequence[Group]) -> Update:
        """One optimizer step on all groups; each trajectory carries the advantage of its own group.

        Raises:
            FissionError: loss, gradient or weights are not finite any more.
        """
        batch = self._batch(groups)
        update = Update()
        self.model.train(False)  # dropout would make the trained policy another one than the one that sampled
        self.optimizer.zero_grad()
        if batch.rows:
            self._accumulate(batch, update)
        self._average_gradients()
        update.grad_norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm))
        require_finite(update.grad_norm, update.loss)
        self.optimizer.step()
        require_finite(torch.nn.utils.get_total_norm(self.parameters), what="weights")
        if self.reference is not None:
            self.reference.invalidate()
        return update

    def _batch(self, groups: Sequence[Group]) -> TrainingBatch:
        return TrainingBatch.of(groups, self.objective, max_tokens=self.longest, device=self.model.device)

    def _accumulate(self, batch: TrainingBatch, update: Update) -> None:
        """Backward over every micro-batch; the weights already add up to the whole update."""
        packed = self.scorer.pack(self.model, batch.rows, range(len(batch.rows)))
        reference_BT = self._reference_logprobs(batch)
        for scores in self.scorer.scores(self.model, batch.rows, packed, width=batch.weights_BT.shape[1]):
            rows = list(scores.rows)
            old_BT, trained_BT = batch.old_logprobs_BT[rows], batch.mask_BT[rows]
            loss = policy_loss(
                scores.logprobs_BT,
                old_logprobs_BT=old_BT,
                advantages_B=batch.advantages_B[rows],
                weights_BT=batch.weights_BT[rows],
                objective=self.objective,
                reference_logprobs_BT=None if reference_BT is None else reference_BT[rows],
                beta=self.settings.beta,
            )
            self.accelerator.backward(loss)
            update.computed_tokens += scores.computed
            update.loss += loss.item()
            update.entropy += scores.entropy_BT[trained_BT].sum().item()
            logprobs_BT = scores.logprobs_BT.detach()
            gaps = (logprobs_BT - old_BT)[trained_BT].abs()
            update.logprob_gap = max(update.logprob_gap, gaps.max().item())
            update.logprob_gap_mean += gaps.sum().item()
            if reference_BT is not None:
                update.kl += k3_divergence(logprobs_BT, reference_BT[rows])[trained_BT].sum().item()
        update.trained_tokens = int(batch.mask_BT.sum())
        update.entropy /= update.trained_tokens
        update.kl /= update.trained_tokens
        update.logprob_gap_mean /= update.trained_tokens
        update.unique_tokens = sum(len(forest) for forest, _ in packed)
        update.unshared_tokens = sum(forest.unshared_tokens for forest, _ in packed)

    def _reference_logprobs(self, batch: TrainingBatch) -> Tensor | None:
        """The same tokens under the frozen start, [B, T]; None without a KL penalty."""
        if self.reference is None:
            return None
        return self.reference.logprobs(batch.rows, self.scorer, width=batch.weights_BT.shape[1])

    def _average_gradients(self) -> None:
        """Mean over processes; one without any group that has signal contributes zeros."""
        if self.accelerator.num_processes == 1:
            return
        for parameter in self.parameters:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = self.accelerator.reduce(gradient, reduction="mean")
