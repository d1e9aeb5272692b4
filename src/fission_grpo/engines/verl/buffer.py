"""verl's replay buffer, from which its trainer takes the rows of a step: here the step's recoveries join them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayActorError
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from fission_grpo.errors import FissionError

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
        watch: Callable[[], None],
        sampler: Any,
    ) -> None:
        """Take the place of verl's own buffer.

        Args:
            complete: makes of exploration, and what verl measured of it, all rows of a step and all measures.
            watch: raises if nobody is left to finish what is waited for.
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
        self._watch = watch

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict[str, Any]]:
        """The rows of a step; of validation, what verl's own buffer gives."""
        batch, metrics = self.plain(global_steps, partition_id, batch_size)
        return self._complete(batch, metrics) if partition_id == TRAIN else (batch, metrics)

    def plain(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict[str, Any]]:
        """What verl's own buffer gives: so many groups that have come to their end."""
        batch, metrics = super().sample(global_steps=global_steps, partition_id=partition_id, batch_size=batch_size)
        return batch, dict(metrics)

    def _wait_for_next_poll(self, partition_id: str, last_debug_time: float) -> float:
        self._watch()
        return float(super()._wait_for_next_poll(partition_id, last_debug_time))


class Watch:
    """Whether the workers that play dialogues live; verl would wait for a dead one for ever."""

    def __init__(self) -> None:
        self._pings: dict[Any, Any] = {}
        """Worker -> a question that it has not answered yet."""

    def require_alive(self, workers: list[Any]) -> None:
        """Ask those that owe no answer, and read the answers that are there; waits for none.

        Raises:
            FissionError: one has died.
        """
        for worker in workers:
            if worker not in self._pings:
                self._pings[worker] = worker.__ray_ready__.remote()
        for worker, ping in list(self._pings.items()):
            if not ray.wait([ping], timeout=0)[0]:
                continue
            del self._pings[worker]
            try:
                ray.get(ping)
            except RayActorError as error:
                raise FissionError(
                    f"a Ray worker that played dialogues has died ({error.error_msg or error}); what is in "
                    "the newest checkpoint is safe: continue from there (--resume, or trainer.resume_mode=auto)"
                ) from error
