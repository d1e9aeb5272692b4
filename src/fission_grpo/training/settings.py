"""Settings of the training loop."""

from __future__ import annotations

from pydantic import Field

from fission_grpo.algorithm.losses import ObjectiveName
from fission_grpo.rollout import Horizon
from fission_grpo.settings import MOST_SEED, Settings


class TrainerSettings(Settings):
    """How much is sampled in a step, from which distribution, and how the optimizer makes use of it."""

    seed: int = Field(default=0, ge=0, le=MOST_SEED)
    steps: int = Field(default=100, ge=1)
    """Optimizer updates."""
    queries: int = Field(default=8, ge=1)
    """Tasks explored in one step, by each process; paper: 8."""
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
    tree: bool = True
    """Pay for shared prefixes once, in generation and in training; off, every trajectory is a row of its own. The
    gradient is the same."""
    gradient_checkpointing: bool = False
    """Compute the activations of each layer again in the backward pass instead of keeping them: less memory, more
    time. The gradient is the same."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Steps between checkpoints."""
