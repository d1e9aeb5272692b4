"""verl's synchronous PPO trainer with stages 2 and 3 of arXiv:2601.15625.

What fails in exploration is diagnosed here in the driver, which has the run's one LIFO buffer. Recoveries are sampled
before the servers go to sleep, by the weights that erred, and join the update of their step as groups of their own; or,
with `own_step`, behind an update on exploration alone, and make one themselves. verl does everything else: it balances
and pads, scores, computes its loss, steps, pushes weights, and writes checkpoints.
"""

from __future__ import annotations

import uuid
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import transfer_queue as tq
from omegaconf import open_dict
from ray.exceptions import RayActorError
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils import tensordict_utils as tu
from verl.utils.debug import marked_timer
from verl.utils.metric import reduce_metrics
from verl.utils.py_functional import rename_dict

from fission_grpo.algorithm.context import CorrectiveContext
from fission_grpo.algorithm.groups import Group, Member
from fission_grpo.algorithm.source import FissionSource
from fission_grpo.engines.player import packed_start, unpacked_member
from fission_grpo.engines.verl import contract
from fission_grpo.engines.verl.advantages import ESTIMATOR
from fission_grpo.engines.verl.buffer import TRAIN, FissionBuffer
from fission_grpo.engines.verl.loop import MEMBER, START
from fission_grpo.engines.verl.state import newest_step, read_buffer, write_buffer
from fission_grpo.errors import FissionError
from fission_grpo.run.metrics import fission_metrics, group_metrics, prefixed, rescued_groups
from fission_grpo.types import GroupKind

LOOP = "fission"
"""The name under which a loop of ours is registered."""
OWN_TIME = "fission"
"""Seconds that the driver spends on fission itself, workers waiting, among those that verl measures of a step."""


@dataclass(slots=True)
class StepRecord:
    """What one step has sampled."""

    groups: list[Group] = field(default_factory=list)
    fission_groups: list[Group] = field(default_factory=list)


class FissionTrainer(PPOTrainerSync):  # type: ignore[misc]  # verl is untyped where this is checked
    """Explore, observe, recover; verl updates."""

    def __init__(self, config: Any) -> None:
        """Settle what fission needs in verl's configuration, whoever wrote it.

        Raises:
            ConfigError: verl is another one, or something in the configuration would not be exact.
        """
        contract.require_proved_verl()
        contract.require_registered(ESTIMATOR, LOOP)
        contract.require_sound_config(config, ESTIMATOR)
        with open_dict(config):
            config.actor_rollout_ref.rollout.agent.default_agent_loop = LOOP
        self._record = StepRecord()
        self._order: list[str] = []
        self._contexts: dict[str, CorrectiveContext] = {}
        super().__init__(config)
        self.source = self._build_source()

    @abstractmethod
    def _build_source(self) -> FissionSource:
        """Of the whole run; verl's own parts are not there yet."""

    def on_step(self, step: int, record: StepRecord, metrics: Mapping[str, float]) -> None:
        """Told of every step when it has been made.

        Args:
            step: optimizer steps made before it.
            metrics: ours and verl's, by verl's names.
        """

    def _build_replay_buffer(self) -> FissionBuffer:
        self.trainer_mode = "sync"  # verl compares this name in four places
        return FissionBuffer(
            complete=self._completed,
            workers=lambda: self.agent_loop_manager.agent_loop_workers,
            sampler=self.config.trainer.v1.sampler,
        )

    def _submit_batch_to_rollout(self, batch: TensorDict) -> int:
        self._order = [str(uid) for uid in batch["uid"]]
        return int(super()._submit_batch_to_rollout(batch))

    def _completed(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> tuple[KVBatchMeta, dict[str, Any]]:
        """Stages 2 and 3 behind stage 1."""
        if self._contexts:  # these are the recoveries that were asked for behind an update
            return batch, {**metrics, **self._recovered(batch)}
        with marked_timer(OWN_TIME, self.timing_raw):
            groups = self._groups(batch, GroupKind.EXPLORATION)
            self._record = StepRecord(groups=groups)
            self.source.observe(groups, policy_version=self.global_steps - 1)
            contexts = [] if self.source.settings.own_step else self.source.next_contexts()
            if contexts:
                self._submit_recoveries(contexts)
        if not contexts:
            return batch, {**metrics, **group_metrics(groups), **self._fission_metrics()}
        more, _ = self.replay_buffer.plain(self.global_steps, TRAIN, len(contexts))
        return _joined(batch, more), {**metrics, **group_metrics(groups), **self._recovered(more)}

    def _step_once(self, metrics: dict[str, Any], timing_raw: dict[str, float], sample_batch_size: int) -> KVBatchMeta:
        """verl's step, and behind it that on recoveries if they have one of their own."""
        batch = super()._step_once(metrics, timing_raw, sample_batch_size)
        contexts = self.source.next_contexts() if self.source.settings.own_step else []
        if not contexts:
            return batch
        with marked_timer("update_weights", timing_raw):
            self.checkpoint_manager.update_weights(self.global_steps)
        with marked_timer(OWN_TIME, timing_raw):
            self._submit_recoveries(contexts)
        second: dict[str, Any] = {}
        more = super()._step_once(second, timing_raw, len(contexts))
        metrics.update({f"fission/{name.removeprefix('fission/')}": value for name, value in second.items()})
        return _joined(batch, more)

    def _submit_recoveries(self, contexts: Sequence[CorrectiveContext]) -> None:
        """Ask the workers for G' recoveries from each context."""
        self._contexts = {str(uuid.uuid4()): context for context in contexts}
        count = len(contexts)
        rows = tu.get_tensordict(
            {
                "uid": _objects(list(self._contexts)),
                "raw_prompt": _objects([[dict(message) for message in one.messages] for one in contexts]),
                "index": _objects(list(range(count))),
                "data_source": _objects([LOOP] * count),
                "reward_model": _objects([{}] * count),
                "__rollout_n__": _objects([self.source.settings.group_size] * count),
                START: _objects([packed_start(context) for context in contexts]),
            }
        )
        tu.assign_non_tensor_data(rows, "global_steps", self.global_steps)
        self._submit_batch_to_rollout(rows)

    def _recovered(self, batch: KVBatchMeta) -> dict[str, float]:
        """Recoveries are there: what failed in them is observed, too. Returns what is told of them."""
        with marked_timer(OWN_TIME, self.timing_raw):
            self._record.fission_groups = self._groups(batch, GroupKind.FISSION)
            self._contexts = {}
            self.source.observe(self._record.fission_groups, policy_version=self.global_steps - 1)
            return self._fission_metrics()

    def _groups(self, batch: KVBatchMeta, kind: GroupKind) -> list[Group]:
        """Rows as groups, in the order in which they were asked for; siblings that verl lost are missing."""
        rows = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
        found: dict[str, list[tuple[int, Member]]] = {}
        for key, extra in zip(batch.keys, list(rows["extra_fields"]), strict=True):
            uid, session, _ = key.rsplit("_", 2)
            member = unpacked_member(getattr(extra, "data", extra)[MEMBER])
            found.setdefault(uid, []).append((int(session), member))
        groups = []
        for index, uid in enumerate(self._order):
            members = tuple(member for _, member in sorted(found.get(uid, ()), key=lambda one: one[0]))
            if members:
                groups.append(
                    Group(
                        id=f"{self.global_steps - 1}/{kind.value}/0.{index}",
                        kind=kind,
                        task=members[0].trajectory.task,
                        members=members,
                        context=self._contexts.get(uid),
                    )
                )
        return groups

    def _fission_metrics(self) -> dict[str, float]:
        record = self._record
        return {
            **prefixed("fission", fission_metrics(record.fission_groups, self.source, self.global_steps - 1)),
            "fission/revived": float(rescued_groups(record.groups, record.fission_groups)),
        }

    def _get_required_batch_multiple(self, dp_size: int) -> int:
        """A step is one update, whatever the number of its rows; verl would pad to whole mini-batches."""
        return dp_size

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """verl's update with all rows as its one mini-batch; in means over rows, those of no weight do not count."""
        with marked_timer(OWN_TIME, self.timing_raw):
            masks = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["response_mask"])
            weighed = sum(bool(mask.any()) for mask in masks["response_mask"].unbind())
        actor = self.config.actor_rollout_ref.actor
        batch.extra_info.update(
            calculate_entropy=bool(actor.calculate_entropy or actor.entropy_coeff),
            distillation_use_topk=False,
            distillation_only=False,
            global_batch_size=max(weighed, 1),
            mini_batch_size=len(batch),
            epochs=actor.ppo_epochs,
            seed=actor.data_loader_seed,
            dataloader_kwargs={"shuffle": actor.shuffle},
            temperature=self.config.actor_rollout_ref.rollout.temperature,
        )
        told = rename_dict(self.actor_rollout_wg.update_actor(batch)["metrics"], "actor/")
        told["perf/mfu/actor"] = told.pop("actor/mfu")
        metrics.update(reduce_metrics(told))
        return batch

    def fit(self, agent_loop_manager: Any) -> None:
        """verl's loop.

        Raises:
            FissionError: a worker has died, whatever it was doing.
        """
        try:
            super().fit(agent_loop_manager)
        except RayActorError as error:
            raise FissionError(
                f"a Ray worker has died ({shorten(str(error), 300)}); what is in the newest checkpoint is safe: "
                "continue from there (--resume, or trainer.resume_mode=auto)"
            ) from error

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, float]) -> KVBatchMeta:
        """verl's step, told of before a checkpoint can hold it: what is in one is never missing in the run folder."""
        batch = super().step(metrics, timing_raw)
        metrics.update(self.source.simulator_metrics())
        measured = {**metrics, **{f"timing_s/{name}": seconds for name, seconds in timing_raw.items()}}
        numbers = {name: float(one) for name, one in measured.items() if isinstance(one, int | float | np.number)}
        told = {name: one for name, one in numbers.items() if isfinite(one)}
        with marked_timer(OWN_TIME, timing_raw):
            self.on_step(self.global_steps - 1, self._record, told)
        return batch

    def _save_checkpoint(self) -> None:
        """The buffer first: verl names a checkpoint the newest when the rest of it is written."""
        with marked_timer(OWN_TIME, self.timing_raw):
            write_buffer(self._checkpoint(), self.source.state_dict())
        super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        newest_step(Path(self.config.trainer.default_local_dir))
        super()._load_checkpoint()
        if self.global_steps:
            trainer = self.config.trainer
            named = Path(trainer.resume_from_path) if trainer.resume_mode == "resume_path" else self._checkpoint()
            if state := read_buffer(named):
                self.source.load_state_dict(state)

    def _checkpoint(self) -> Path:
        return Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"


def _joined(batch: KVBatchMeta, more: KVBatchMeta) -> KVBatchMeta:
    return KVBatchMeta(partition_id=batch.partition_id, keys=[*batch.keys, *more.keys], tags=[*batch.tags, *more.tags])


def _objects(values: Sequence[Any]) -> Any:
    """[len(values)] of any objects, lists included."""
    array = np.empty(len(values), dtype=object)
    array[:] = list(values)
    return array
