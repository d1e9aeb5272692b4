"""Settings of the training loop."""

from __future__ import annotations

from pydantic import Field

from fission_grpo.algorithm.losses import ObjectiveName
from fission_grpo.errors import ConfigError
from fission_grpo.policy.local.hf_policy import MAX_ROWS
from fission_grpo.rollout import Horizon
from fission_grpo.settings import MOST_SEED, Settings


class TrainerSettings(Settings):
    """How much is sampled in a step, from which distribution, and how the optimizer makes use of it."""

    seed: int = Field(default=0, ge=0, le=MOST_SEED)
    steps: int = Field(default=100, ge=1)
    """Optimizer updates."""
    queries: int = Field(default=8, ge=1)
    """Tasks explored in one step, by all processes together; paper: 8."""
    turn_queries: int = Field(default=0, ge=0)
    """Requests explored beside them to the end of the turn, whatever `horizon` is: a control without fission; ours."""
    sampled_tokens: int = Field(default=0, ge=0)
    """Tokens that a process may sample in the whole run; `queries` is then its first step's, and those that follow
    explore as many tasks as keep to it: a control that pays what another run paid; ours. 0: `queries` says how many."""
    group_size: int = Field(default=8, ge=2)
    """G: trajectories for each task; paper: 8."""
    horizon: Horizon = Horizon.CALL
    """How far exploration goes: `call` is the paper's decision point, `turn` an episode judged by its world (ours)."""
    temperature: float = Field(default=1.0, gt=0)
    """Paper: 0.95."""
    top_k: int = Field(default=0, ge=0)
    """0 keeps the whole vocabulary; paper: 50."""
    objective: ObjectiveName = ObjectiveName.GRPO
    """Clip, aggregation and scale as one choice."""
    beta: float = Field(default=0.02, ge=0)
    """Weight of the KL divergence to the start; ours: without it the entropy of a small policy collapses."""
    learning_rate: float = Field(default=1e-6, gt=0)
    """Constant; paper: 1e-6."""
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    token_budget: int = Field(default=4096, ge=1)
    """Most tokens of one training micro-batch. A larger tree is cut into subtrees that compute their shared prefix
    again, none smaller than twice its longest trajectory."""
    max_rows: int = Field(default=MAX_ROWS, ge=1)
    """Most trajectories that a process samples side by side: bounds the memory of keys and values, and changes nothing
    else."""
    tree: bool = True
    """Pay for shared prefixes once, in generation and in training; off, every trajectory is a row of its own. The
    gradient is the same."""
    gradient_checkpointing: bool = False
    """Compute the activations of each layer again in the backward pass instead of keeping them: less memory, more
    time. The gradient is the same."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Steps between checkpoints."""
    gap_warning: float = Field(default=0.05, gt=0)
    """Nats between the log-probabilities of sampler and trainer, on average, from which on a run warns; ours."""
    gap_stops: bool = False
    """A run that warns of it also stops there, with its state saved."""

    def share_of(self, processes: int) -> TrainerSettings:
        """What one of several processes does: its part of the tasks of a step.

        Raises:
            ConfigError: they cannot be shared out evenly. Gradients are averaged over processes, so that a task would
                weigh more where there are fewer.
        """
        for name in ("queries", "turn_queries"):
            if (value := getattr(self, name)) % processes:
                raise ConfigError(
                    f"trainer.{name}={value} cannot be shared out among {processes} processes; "
                    f"choose a multiple of {processes}"
                )
        parts = {"queries": self.queries // processes, "turn_queries": self.turn_queries // processes}
        return self.model_copy(update=parts)
