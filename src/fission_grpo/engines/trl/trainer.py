"""Fission-GRPO as TRL's `GRPOTrainer`: change the import, keep `GRPOConfig`, PEFT, callbacks, trackers and checkpoints.

    from fission_grpo.engines.trl import FissionGRPOTrainer

    trainer = FissionGRPOTrainer(
        "Qwen/Qwen3-1.7B", args=GRPOConfig(...), environment_factory=Game, fission=FissionSettings(contexts=2)
    )
    trainer.train()

Stages 1 to 3 of arXiv:2601.15625 are `algorithm.stages`. TRL does everything behind them: it pads, scores under the old
and the reference weights, computes its loss, and steps. The seam is one overridden method that hands finished
trajectories over through TRL's own `rollout_func`: exploration and recoveries are rows of one update, each with the
advantage of its own group. Every step has the same number of rows on every process; those that make up the number weigh
nothing (`limits` says which losses take that, and what else is refused).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

from torch import Tensor
from trl import GRPOTrainer

from fission_grpo.algorithm.groups import Group
from fission_grpo.algorithm.judge import Judge, SiblingsJudge
from fission_grpo.algorithm.losses import Objective
from fission_grpo.algorithm.source import FissionSettings, FissionSource
from fission_grpo.algorithm.stages import Stages
from fission_grpo.chat.format import ChatFormat
from fission_grpo.engines.prefix_tree import PrefixTreeMixin
from fission_grpo.engines.trl import contract, limits
from fission_grpo.engines.trl.environment import Factory
from fission_grpo.engines.trl.inputs import chat_of, config_of, given_rows, given_tasks, placeholder, tokenizer_of
from fission_grpo.engines.trl.metrics import StepLog, step_metrics
from fission_grpo.engines.trl.policy import policy_of, require_vllm
from fission_grpo.engines.trl.rewards import extras_of, judge_of
from fission_grpo.engines.trl.rows import Handover
from fission_grpo.engines.trl.stages import RowStages
from fission_grpo.engines.trl.state import read_state, refusals_of, write_state
from fission_grpo.engines.trl.tasks import Row
from fission_grpo.errors import ConfigError
from fission_grpo.policy.base import Policy, Sampling
from fission_grpo.rollout import Horizon, RolloutSettings, render_prompts
from fission_grpo.run.metrics import group_metrics
from fission_grpo.simulator.base import ErrorSimulator, ReferencedSimulator
from fission_grpo.simulator.rules import RulesSimulator
from fission_grpo.types import Task

MAX_TURNS = 8
"""Most assistant messages of a trajectory where `max_tool_calling_iterations` says nothing; ours."""


class FissionGRPOTrainer(PrefixTreeMixin, GRPOTrainer):  # type: ignore[misc]  # TRL is untyped where this is checked
    """Explore, observe, recover; TRL updates."""

    num_generations: int
    num_generations_eval: int
    _last_loaded_step: int

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        *,
        fission: FissionSettings | None = None,
        tools: list[Callable[..., Any]] | None = None,
        environment_factory: Factory | Mapping[str, Factory] | None = None,
        tasks: Sequence[Task] | None = None,
        eval_tasks: Sequence[Task] = (),
        environments: Mapping[str, Any] | None = None,
        judge: SiblingsJudge | None = None,
        horizon: Horizon = Horizon.TURN,
        rollouts: RolloutSettings | None = None,
        chat: ChatFormat | None = None,
        simulator: ErrorSimulator | ReferencedSimulator | None = None,
        policy: Callable[[Any], Policy] | None = None,
        on_step: Callable[[int, Sequence[Group]], None] = lambda step, groups: None,
        **given: Any,
    ) -> None:
        """Take TRL's arguments, which mean what they mean in TRL, and these.

        Args:
            fission: for the whole run; each process does its share. None chooses by the batch (`limits.fission_for`).
            tasks, eval_tasks, environments: ours, in place of data sets, `environment_factory` and reward functions.
            judge: of our tasks.
            horizon: how far exploration of our tasks goes.
            rollouts: limits of a trajectory. None takes `max_completion_length` for each message (in TRL: for all of
                them together), and one message more than `max_tool_calling_iterations`.
            chat: how messages become tokens; None takes the tokenizer's template with `chat_template_kwargs`.
            simulator: who writes the feedback on failures; None takes the rules.
            policy: who samples, made of this trainer; None takes the model itself, or TRL's vLLM.
            on_step: told of every group of a step, recoveries last.
        Raises:
            ConfigError: TRL is another one, or something would not be exact; nothing expensive has been done then.
        """
        contract.require_release()
        contract.require_overridden(GRPOTrainer)
        if given.pop("rollout_func", None) is not None:
            raise ConfigError("rollout_func hands our own trajectories over; leave it out, or give policy=")
        args = config_of(args, model)
        fission = limits.fission_for(args) if fission is None else fission
        limits.require_exact(args, fission, samples_itself=policy is None and not args.use_vllm)
        share = fission.share_of(args.world_size)
        tokenizer = tokenizer_of(processing_class, model)
        self.chat = chat or chat_of(tokenizer, args.chat_template_kwargs)
        require_vllm(args, self.chat)
        if tasks is None:
            found = given_rows(
                args,
                train_dataset,
                eval_dataset,
                reward_funcs=reward_funcs,
                environment_factory=environment_factory,
                tools=tools,
            )
        elif reward_funcs or environment_factory or tools:
            raise ConfigError("tasks of ours are judged by `judge`; leave out reward_funcs, environment_factory, tools")
        else:
            found = given_tasks(tasks, eval_tasks, environments or {})
        limits.require_tasks(found.train_dataset, args)
        super().__init__(
            model,
            reward_funcs=[*found.functions] or [placeholder(name) for name in found.columns],
            args=args,
            train_dataset=found.train_dataset,
            eval_dataset=found.eval_dataset,
            processing_class=tokenizer,
            rollout_func=lambda prompts, trainer: self._handover.rollout(),
            **given,
        )
        contract.require_trainer(self)
        if policy is None and not args.use_vllm:
            limits.require_whole_weights(self)
        rollouts = rollouts or RolloutSettings(
            max_tokens=args.max_completion_length,
            max_turns=MAX_TURNS if args.max_tool_calling_iterations is None else args.max_tool_calling_iterations + 1,
        )
        self.objective = Objective(scale=limits.SCALES[args.scale_rewards])
        source = FissionSource(share, simulator=simulator or RulesSimulator(), chat=self.chat)
        stages = Stages(
            policy=policy(self) if policy else policy_of(self, self.chat),
            chat=self.chat,
            environments=found.reader.environments,
            judge=judge_of(self, found) if tasks is None else judge or Judge(chat=self.chat, delta=fission.delta_corr),
            source=source,
            sampling=Sampling(max_tokens=rollouts.max_tokens, temperature=args.temperature, top_k=args.top_k or 0),
            group_size=args.num_generations,
            horizon=horizon,
            max_turns=rollouts.max_turns,
            seed=args.seed,
            rank=self.accelerator.process_index,
        )
        self.fission = RowStages(stages=stages, reader=found.reader, source=source)
        window = stages.policy.context_window
        render_prompts([*(tasks or ()), *eval_tasks], chat=self.chat, window=window, max_tokens=rollouts.max_tokens)
        self.on_step = on_step
        self._handover: Handover
        parts = args.steps_per_generation
        self._rows = parts * (args.per_device_train_batch_size + ceil(share.contexts * share.group_size / parts))
        self._step_log = StepLog(self, rows=self._rows * self.accelerator.num_processes)

    def _generate_and_score_completions(self, inputs: list[Row]) -> dict[str, Any]:
        """TRL's seam: rows of a data set in, a batch to train on out."""
        training = bool(self.model.training)
        mode = "train" if training else "eval"
        groups, fission_groups = self._sampled(inputs) if training else (self._evaluated(inputs), [])
        self.model.train(training)  # sampling leaves it in evaluation mode
        rows = self._rows if training else len(inputs)
        self._handover = Handover.of([*groups, *fission_groups], self.objective, pad_to=rows)
        self._step_log.begin(mode, extras_of(self.fission.stages.judge), rows=rows)
        with self._one_row_a_group():
            batch: dict[str, Any] = super()._generate_and_score_completions(self._handover.inputs)
        contract.require_batch(batch, rows=rows)
        device = self.accelerator.device
        batch["advantages"] = self._handover.advantages(device)
        weighed = self.accelerator.gather(self._handover.weighed(device).reshape(1)).sum()
        batch["rows_per_row_of_weight"] = rows * self.accelerator.num_processes / weighed.clamp(min=1)
        if training:
            metrics = step_metrics(groups, fission_groups, self.fission.source, self._moment)
            self.on_step(self._moment, [*groups, *fission_groups])
        else:
            metrics = group_metrics(groups)
        self._step_log.end(mode, metrics, groups, self.accelerator.gather(batch["advantages"]))
        return batch

    def _compute_loss(self, model: Any, inputs: Mapping[str, Any]) -> Tensor:
        """TRL's loss; where it is a mean over rows, those of no weight are taken out of it."""
        loss: Tensor = super()._compute_loss(model, inputs)
        return loss * inputs["rows_per_row_of_weight"] if self.loss_type in limits.ROW_LOSSES else loss

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        """Known already, for all processes: [rows of all of them, reward functions]."""
        own = self._handover.rewards(self.reward_func_names, self.accelerator.device)
        rewards: Tensor = self.accelerator.gather(own)
        return rewards

    @property
    def _moment(self) -> int:
        """Which generation this is: the optimizer step, unless each has several of them."""
        every, steps = self.args.steps_per_generation * self.num_iterations, self.args.gradient_accumulation_steps
        return int(self.state.global_step * max(1, steps // every) + self._step % steps // every)

    def _sampled(self, inputs: Sequence[Row]) -> tuple[list[Group], list[Group]]:
        self._push_weights()
        progress = self.state.global_step / max(self.state.max_steps, 1)
        rows = inputs[:: self.num_generations]
        return self.fission.explore_and_recover(rows, step=self._moment, progress=progress)

    def _evaluated(self, inputs: Sequence[Row]) -> list[Group]:
        self._push_weights()
        size = self.num_generations_eval
        return self.fission.evaluate(inputs[::size], group_size=size, step=self.state.global_step)

    def _push_weights(self) -> None:
        """TRL would give its vLLM the weights of now when it generates itself; nobody samples before all have them."""
        if self.use_vllm and self.state.global_step != self._last_loaded_step:
            self.vllm_generation.sync_weights()
            self.accelerator.wait_for_everyone()
            self._last_loaded_step = self.state.global_step

    @contextmanager
    def _one_row_a_group(self) -> Iterator[None]:
        """Groups are normalised already, and need not be of one size."""
        before = self.num_generations, self.num_generations_eval
        self.num_generations = self.num_generations_eval = 1
        try:
            yield
        finally:
            self.num_generations, self.num_generations_eval = before

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        with refusals_of(folder, main_process=self.args.should_save):
            write_state(folder, self.fission.state_dict(), rank=self.accelerator.process_index)
            super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
            if state := read_state(Path(checkpoint), rank=rank, ranks=ranks):
                self.fission.load_state_dict(state)
