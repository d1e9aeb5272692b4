"""verl's replay buffer, from which its trainer takes the rows of a step: here the step's recoveries join them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import ray
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

POLL_SECONDS = 0.25
"""Between two looks at what has been finished; verl's 2 seconds would be waited for twice in a step."""
TRAIN = "train"
"""verl's name for what is trained on."""


class FissionBuffer(ReplayBuffer):  # type: ignore[misc]  # verl is untyped where this is checked
    """Asks the trainer what belongs to a step beside its exploration, and does not wait for the dead."""

    def __init__(
        self,
        *,
        complete: Callable[[KVBatchMeta, dict[str, Any]], tuple[KVBatchMeta, dict[str, Any]]],
        workers: Callable[[], Iterable[Any]],
        sampler: Any,
    ) -> None:
        """Take the place of verl's own buffer.

        Args:
            complete: makes of exploration, and what verl measured of it, all rows of a step and all measures.
            workers: those that play dialogues.
            sampler: verl's section `trainer.v1.sampler`.
        """
        super().__init__(
            trainer_mode="sync",
            trainer_config={},
            max_off_policy_threshold=sampler.max_off_policy_threshold,
            max_off_policy_strategy=sampler.max_off_policy_strategy,
            sampler_kwargs=sampler.sampler_kwargs,
            poll_interval=POLL_SECONDS,
        )
        self._complete = complete
        self._workers = workers
        self._pings: dict[Any, Any] = {}
        """Worker -> a question that it has not answered yet."""

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict[str, Any]]:
        """The rows of a step; of validation, what verl's own buffer gives."""
        batch, metrics = self.plain(global_steps, partition_id, batch_size)
        return self._complete(batch, metrics) if partition_id == TRAIN else (batch, metrics)

    def plain(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict[str, Any]]:
        """What verl's own buffer gives: so many groups that have come to their end."""
        batch, metrics = super().sample(global_steps=global_steps, partition_id=partition_id, batch_size=batch_size)
        return batch, dict(metrics)

    def _wait_for_next_poll(self, partition_id: str, last_debug_time: float) -> float:
        """verl's, but for what Ray raises of a worker that has died: verl would wait for it for ever."""
        for worker in self._workers():
            if worker not in self._pings:
                self._pings[worker] = worker.__ray_ready__.remote()
        for worker, ping in list(self._pings.items()):
            if ray.wait([ping], timeout=0)[0]:
                ray.get(self._pings.pop(worker))
        return float(super()._wait_for_next_poll(partition_id, last_debug_time))
