"""The loop of Fission-GRPO, to be read aloud (arXiv:2601.15625).

    for each step:
        explore    G trajectories for each of some tasks                          (stage 1)
        observe    what failed becomes corrective contexts in a LIFO buffer       (stage 2)
        recover    G' trajectories from each of the freshest contexts             (stage 3)
        update     one gradient step on both kinds of groups, each with its own baseline

Recoveries usually start from the weights that made the error, in the step that made it; a context that had to wait in
the buffer is older, and `fission/age` says by how many updates. With fission off the second and third
lines do nothing, and what is left is GRPO. The offline variant collects its contexts once, before the first update, and
observes nothing later (`fission.offline`). A server that writes feedback does so while exploration is scored under the
frozen start.

Data parallel: every process explores its own tasks and keeps its own buffer; gradients are averaged once a step, so
uneven groups cannot make processes wait for each other in the middle of one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from pydantic import Field
from torch import Tensor

from fission_grpo.algorithm.batch import TrainingBatch
from fission_grpo.algorithm.context import CorrectiveContext
from fission_grpo.algorithm.groups import Group
from fission_grpo.algorithm.judge import Judge
from fission_grpo.algorithm.losses import OBJECTIVES, Objective, ObjectiveName, k3_divergence, policy_loss
from fission_grpo.algorithm.source import FissionSource
from fission_grpo.chat.format import ChatFormat
from fission_grpo.errors import ConfigError
from fission_grpo.models.folder import load_trained_weights, save_trained_weights
from fission_grpo.models.recomputation import recompute_layers
from fission_grpo.policy.base import Sampling
from fission_grpo.policy.local.hf_policy import HFPolicy
from fission_grpo.policy.local.speculation import PromptLookup
from fission_grpo.rollout import Horizon, RolloutSettings, Start, Worlds, open_group, rollout
from fission_grpo.run.folder import RunFolder
from fission_grpo.run.metrics import fission_metrics, group_metrics, prefixed, revived
from fission_grpo.run.traces import trace
from fission_grpo.seeds import derive, in_turn
from fission_grpo.settings import Settings
from fission_grpo.tree.logprobs import PackedGroup, Scores, packed_groups, score
from fission_grpo.tree.reference import Reference
from fission_grpo.types import GroupKind, Task


class TrainerSettings(Settings):
    """What one run of the loop needs."""

    seed: int = 0
    steps: int = Field(default=100, ge=1)
    """Optimizer updates."""
    queries: int = Field(default=8, ge=1)
    """Tasks explored in one step, by each process; paper: 8."""
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


@dataclass(slots=True)
class StepReport:
    """What a progress display needs after each step."""

    step: int
    metrics: dict[str, float]


@dataclass(slots=True)
class Update:
    """Means over the trained tokens of one update."""

    loss: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    logprob_gap: float = 0.0
    """Largest |trainer - sampler| log-probability in nats: the drift alarm; rounding noise when all is well."""
    grad_norm: float = 0.0
    trained_tokens: int = 0
    unique_tokens: int = 0
    """Tokens once shared prefixes are counted once."""
    pushed_tokens: int = 0
    """Tokens that the gradient took: more than the unique ones where a tree exceeds `token_budget`, is cut, and a
    shared prefix is computed again."""
    raw_tokens: int = 0
    """Tokens that separate rows would have computed."""


@dataclass(slots=True)
class Progress:
    """Where the run stands: all that a checkpoint holds besides weights, optimizer and random states."""

    source: FissionSource
    lookup: PromptLookup
    step: int = 0

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "fission": self.source.state_dict(), "guesses": self.lookup.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.source.load_state_dict(state["fission"])
        self.lookup.load_state_dict(state["guesses"])


@dataclass(slots=True)
class Clock:
    """Seconds by phase of the current step."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin


class Trainer:
    """Explore, observe, recover, update."""

    def __init__(
        self,
        model: Any,
        *,
        chat: ChatFormat,
        tasks: Sequence[Task],
        worlds: Worlds,
        source: FissionSource,
        judge: Judge,
        settings: TrainerSettings,
        rollouts: RolloutSettings,
        run: RunFolder,
        accelerator: Accelerator,
    ) -> None:
        self.settings = settings
        self.rollouts = rollouts
        self.chat = chat
        self.tasks = tasks
        self.worlds = worlds
        self.source = source
        self.judge = judge
        self.run = run
        self.accelerator = accelerator
        self.objective: Objective = OBJECTIVES[settings.objective]
        self.sampling = Sampling(max_tokens=rollouts.max_tokens, temperature=settings.temperature, top_k=settings.top_k)
        self.reference = Reference(model) if settings.beta else None
        if settings.gradient_checkpointing:
            recompute_layers(model)
        # Evaluation mode keeps accelerate from wrapping the model: gradients are averaged by `_average_gradients`.
        self.model = accelerator.prepare_model(model, evaluation_mode=True)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = accelerator.prepare_optimizer(
            torch.optim.AdamW(
                self.parameters, lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=settings.weight_decay
            )
        )
        self.policy = HFPolicy(self.model, eos_id=chat.eos_id, pad_id=chat.pad_id, share=settings.tree)
        self.progress = Progress(source, self.policy.lookup)
        self.clock = Clock()
        accelerator.register_save_state_pre_hook(_save_trained_weights)
        accelerator.register_load_state_pre_hook(_load_trained_weights)

    def train(self, *, stop: Callable[[], bool], report: Callable[[StepReport], None]) -> None:
        """Run to the last step, or until `stop` says so; either way the state is saved at the end.

        Args:
            stop: asked after every step.
            report: told after every step.
        """
        while not self.finished:
            metrics = self.step()
            report(StepReport(step=self.progress.step, metrics=metrics))
            last = stop() or self.finished
            if last or self.progress.step % self.settings.checkpoint_every == 0:
                self.save()
            if last:
                break

    @property
    def finished(self) -> bool:
        """Whether every step has been made."""
        return self.progress.step >= self.settings.steps

    def step(self) -> dict[str, float]:
        """One step of the loop; returns its metrics."""
        step = self.progress.step
        self.clock = Clock()
        with self.clock.phase("collect"):
            collected = self.collect()
        self.policy.invalidate()  # a resumed run has nothing cached either
        with self.clock.phase("explore"):
            groups = self.explore(step)
        with self.clock.phase("observe"):
            self.source.observe(groups, policy_version=step)
        with self.clock.phase("update"):
            self.look_ahead(groups)
        with self.clock.phase("observe"):
            contexts = self.source.next_contexts()
        with self.clock.phase("recover"):
            families = self.recover(contexts, step)
            self.source.observe(families, policy_version=step)
        with self.clock.phase("update"):
            update = self.update([*groups, *families])
        with self.clock.phase("observe"):
            self.source.settle()
        metrics = {
            **prefixed("collect", group_metrics(collected)),
            **group_metrics(groups),
            **prefixed("fission", fission_metrics(families, self.source, step)),
            "fission/revived": float(revived(groups, families)),
            **self.source.simulator_metrics(),
            **prefixed("update", asdict(update)),
            **prefixed("generate", self.policy.take_count().metrics()),
        }
        self._write(step, [*collected, *groups, *families], metrics)
        self.progress.step += 1
        return metrics

    def collect(self) -> list[Group]:
        """What the source wants to see of the starting weights before the first update: nothing, unless it has a pool
        to fill. Every task is explored once at most."""
        turns = ceil(len(self.tasks) / (self.settings.queries * self.accelerator.num_processes))
        return self.source.collect(self.explore(turn, kind=GroupKind.COLLECTION) for turn in range(turns))

    def explore(self, step: int, *, kind: GroupKind = GroupKind.EXPLORATION) -> list[Group]:
        """Stage 1: G trajectories for each of this step's tasks."""
        settings = self.settings
        tasks = [self.tasks[index] for index in self._turn_of(step)]
        starts = [
            start
            for task in tasks
            for start in open_group(task, settings.group_size, chat=self.chat, worlds=self.worlds)
        ]
        return self._sample(
            starts,
            horizons=[settings.horizon if task.world else Horizon.CALL for task in tasks],
            group_size=settings.group_size,
            kind=kind,
            contexts=[None] * len(tasks),
            step=step,
        )

    def look_ahead(self, groups: Sequence[Group]) -> None:
        """While a server writes feedback: score under the frozen start what the update will want of these groups, with
        or without recoveries. Their gradient has to wait: how much a token weighs depends on the recoveries."""
        if self.source.waiting:
            self._reference_logprobs(self._batch(groups))

    def recover(self, contexts: Sequence[CorrectiveContext], step: int) -> list[Group]:
        """Stage 3: G' recoveries from each context, each in a world just as the failed call left it."""
        group_size = self.source.settings.group_size
        starts = [context.start(self.worlds) for context in contexts for _ in range(group_size)]
        return self._sample(
            starts,
            horizons=[Horizon.TURN if context.task.world else Horizon.CALL for context in contexts],
            group_size=group_size,
            kind=GroupKind.FISSION,
            contexts=contexts,
            step=step,
        )

    def update(self, groups: Sequence[Group]) -> Update:
        """One optimizer step on all groups; each trajectory carries the advantage of its own group."""
        batch = self._batch(groups)
        update = Update()
        self.model.train(False)  # dropout would make the trained policy another one than the one that sampled
        self.optimizer.zero_grad()
        if batch.rows:
            self._accumulate(batch, update)
        self._average_gradients()
        update.grad_norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm))
        self.optimizer.step()
        if self.reference is not None:
            self.reference.invalidate()
        return update

    def save(self) -> None:
        """Write a checkpoint: the main process makes the folder, and names it once all have written their part."""
        step = self.progress.step
        if self.accelerator.is_main_process:
            self.run.write_checkpoint(step, self._write_checkpoint)
            return
        unfinished = self.run.unfinished(step)
        with self.run.refusal_of(unfinished):
            self._write_checkpoint(unfinished)

    def resume(self, checkpoint: Path) -> None:
        """Continue from a checkpoint as if the run had never stopped.

        Raises:
            ConfigError: it was written by another number of processes: each has tasks and a fission buffer of its own.
        """
        written, processes = len(list(checkpoint.glob("progress-*.pkl"))), self.accelerator.num_processes
        if written != processes:
            raise ConfigError(
                f"{checkpoint} was written by {written} process(es), and this run has {processes}: "
                f"resume with --num_processes {written}, or choose another --output"
            )
        self.accelerator.load_state(str(checkpoint))
        # Our own pickle; the buffer holds more than tensors.
        self.progress.load_state_dict(torch.load(self._progress_file(checkpoint), weights_only=False))
        if self.accelerator.is_main_process:
            self.run.forget_after(self.progress.step)
        self.accelerator.wait_for_everyone()

    def _write_checkpoint(self, path: Path) -> None:
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(path))
        torch.save(self.progress.state_dict(), self._progress_file(path))
        self.accelerator.wait_for_everyone()

    def _progress_file(self, checkpoint: Path) -> Path:
        """Every process has a fission buffer of its own."""
        return checkpoint / f"progress-{self.accelerator.process_index}.pkl"

    def _turn_of(self, step: int) -> list[int]:
        """This process's tasks of a step: seeded permutations of all tasks, one after the other, without gaps."""
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        first = (step * ranks + rank) * self.settings.queries
        return [
            in_turn(place, len(self.tasks), seed=self.settings.seed, purpose="order")
            for place in range(first, first + self.settings.queries)
        ]

    def _sample(
        self,
        starts: Sequence[Start],
        *,
        horizons: Sequence[Horizon],
        group_size: int,
        kind: GroupKind,
        contexts: Sequence[CorrectiveContext | None],
        step: int,
    ) -> list[Group]:
        """Roll out `group_size` trajectories for each of some contexts, and judge them."""
        if not starts:
            return []
        trajectories = rollout(
            starts,
            policy=self.policy,
            chat=self.chat,
            sampling=self.sampling,
            horizons=[horizon for horizon in horizons for _ in range(group_size)],
            max_turns=self.rollouts.max_turns,
            seed=derive(self.settings.seed, kind.value, step, self.accelerator.process_index),
        )
        groups = []
        for index, (horizon, context) in enumerate(zip(horizons, contexts, strict=True)):
            siblings = trajectories[index * group_size : (index + 1) * group_size]
            judged = [
                self.judge(
                    trajectory,
                    horizon=horizon,
                    progress=self.progress.step / self.settings.steps,
                    before=context.before if context else (),
                )
                for trajectory in siblings
            ]
            groups.append(
                Group(
                    id=f"{step}/{kind.value}/{self.accelerator.process_index}.{index}",
                    kind=kind,
                    task=siblings[0].task,
                    members=tuple(judged),
                    context=context,
                )
            )
        return groups

    def _batch(self, groups: Sequence[Group]) -> TrainingBatch:
        longest = self.rollouts.max_tokens * self.rollouts.max_turns
        return TrainingBatch.of(groups, self.objective, max_tokens=longest, device=self.model.device)

    def _forests(self, batch: TrainingBatch, rows: Sequence[int]) -> list[PackedGroup]:
        """Some rows of a batch, as one tree or each alone."""
        forests = packed_groups(self.model, [batch.rows[row] for row in rows], tree=self.settings.tree)
        return [(forest, tuple(rows[member] for member in members)) for forest, members in forests]

    def _accumulate(self, batch: TrainingBatch, update: Update) -> None:
        """Backward over every micro-batch; the weights already add up to the whole update."""
        forests = self._forests(batch, range(len(batch.rows)))
        reference_BT = self._reference_logprobs(batch)
        for scores in self._score(self.model, batch, forests):
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
            update.pushed_tokens += scores.computed
            update.loss += loss.item()
            update.entropy += scores.entropy_BT[trained_BT].sum().item()
            logprobs_BT = scores.logprobs_BT.detach()
            update.logprob_gap = max(update.logprob_gap, (logprobs_BT - old_BT)[trained_BT].abs().max().item())
            if reference_BT is not None:
                update.kl += k3_divergence(logprobs_BT, reference_BT[rows])[trained_BT].sum().item()
        update.trained_tokens = int(batch.mask_BT.sum())
        update.entropy /= update.trained_tokens
        update.kl /= update.trained_tokens
        update.unique_tokens = sum(len(forest) for forest, _ in forests)
        update.raw_tokens = sum(forest.unshared_tokens for forest, _ in forests)

    def _reference_logprobs(self, batch: TrainingBatch) -> Tensor | None:
        """The same tokens under the frozen start, [B, T]; None without a KL penalty."""
        if self.reference is None:
            return None
        width = batch.weights_BT.shape[1]
        return self.reference.logprobs(
            batch.rows, lambda model, rows: self._score(model, batch, self._forests(batch, rows)), width=width
        )

    def _score(self, model: Any, batch: TrainingBatch, forests: Sequence[PackedGroup]) -> Iterator[Scores]:
        return score(
            model,
            batch.rows,
            forests,
            width=batch.weights_BT.shape[1],
            distribution=self.sampling,
            token_budget=self.settings.token_budget,
        )

    def _average_gradients(self) -> None:
        """Mean over processes; one without any living group contributes zeros."""
        if self.accelerator.num_processes == 1:
            return
        for parameter in self.parameters:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = self.accelerator.reduce(gradient, reduction="mean")

    def _write(self, step: int, groups: Sequence[Group], metrics: dict[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        self.run.append(self.run.traces, (trace(group, step=step, scale=self.objective.scale) for group in groups))
        times = {f"time/{name}": seconds for name, seconds in self.clock.seconds.items()}
        self.run.append(self.run.metrics, [{"step": step, **metrics, **times}])


def _save_trained_weights(models: list[Any], weights: list[Any], output: str) -> None:
    """accelerate's pre-save hook: an ordinary Hugging Face folder; of a LoRA policy the adapter alone."""
    for model in models:
        save_trained_weights(model, Path(output) / "model", is_main_process=PartialState().is_main_process)
        weights.pop()


def _load_trained_weights(models: list[Any], input_dir: str) -> None:
    while models:
        load_trained_weights(models.pop(), Path(input_dir) / "model")
