"""Settings of our two ways to train: reinforcement, and supervised fine-tuning."""

from __future__ import annotations

from math import ceil

from pydantic import Field, model_validator

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


class SftSettings(Settings):
    """What `fission sft` learns from, and how fast. `trainer.tree`, `trainer.token_budget`,
    `trainer.gradient_checkpointing` and `trainer.checkpoint_every` are the same there."""

    messages: str | None = None
    """A JSONL file of conversations, learned in place of the tasks."""
    demonstrations: int | None = Field(default=None, ge=0)
    """Dialogues that show an error and its fix, drawn from the tasks; 300 unless given. None of them, and some clean
    ones, are an ordinary warm start."""
    clean: int | None = Field(default=None, ge=0)
    """Gold dialogues without an error; nine for each of the others unless given."""
    validation: str | None = None
    """A file of what is not learned but measured: of conversations, or of tasks whose gold dialogues are meant."""
    held_back: float | None = Field(default=None, ge=0, lt=1)
    """Without such a file, share of the rows that is measured and not learned; 0.05 of a file of conversations unless
    given, and none of what is made from tasks."""
    seed: int = Field(default=0, ge=0, le=MOST_SEED)
    """Of errors, batches, rows held back, and adapters."""
    steps: int | None = Field(default=None, ge=1)
    """Updates; 100 unless given, or as many as `passes` take."""
    passes: float | None = Field(default=None, gt=0)
    """How often every row is learned: epochs."""
    batch: int = Field(default=32, ge=1)
    """Dialogues in one update."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak, right for `nano` and for adapters of a small model; for all weights of a pretrained one 1e-5 is usual."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the updates in which the learning rate rises; then it falls linearly to a twentieth."""

    @model_validator(mode="after")
    def _one_of_each(self) -> SftSettings:
        if self.steps is not None and self.passes is not None:
            raise ValueError("steps and passes both say how long it takes; leave one of them out")
        if self.messages is not None and (self.demonstrations or self.clean):
            raise ValueError("messages are learned in place of tasks; leave them out, or demonstrations and clean")
        if self.validation is not None and self.held_back:
            raise ValueError("validation and held_back both say what is measured; leave one of them out")
        return self

    @property
    def corrupted(self) -> int:
        """Demonstrations to be drawn."""
        return 300 if self.demonstrations is None else self.demonstrations

    @property
    def share_held_back(self) -> float:
        """Of the rows."""
        if self.held_back is None:
            return 0.05 if self.messages is not None and self.validation is None else 0.0
        return self.held_back

    def updates(self, rows: int) -> int:
        """How many there are.

        Args:
            rows: that are learned.
        """
        if self.passes is not None:
            return ceil(self.passes * rows / self.batch)
        return 100 if self.steps is None else self.steps
