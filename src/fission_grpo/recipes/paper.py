"""The authors' setting (arXiv:2601.15625), as far as it is known; meant for one node of 80 GB GPUs.

Known: 8 queries of G = 8, G' = 8, learning rate 1e-6, temperature 0.95, top-k 50, answers of at most 4,096 tokens, 630
training instances (ours: 629 decision points), 234 steps. Recoveries are single messages under exploration's own
reward and reference; that they are updated on in a step of their own is the likelier reading. Ours: the task synthesis,
the trigger (one batch of contexts), the buffer (four batches), no KL, and the simulator `rules`, where the authors
trained one of 32 billion parameters.
"""

from __future__ import annotations

from fission_grpo.algorithm.source import FissionSettings
from fission_grpo.config import RunSettings
from fission_grpo.rollout import Horizon, RolloutSettings
from fission_grpo.tasks.training_set import SyntheticSettings
from fission_grpo.training.settings import TrainerSettings


def paper_settings() -> RunSettings:
    """Decision points, one assistant message each; give the folder of your Qwen3 with `--model`."""
    return RunSettings(
        model="Qwen/Qwen3-1.7B",
        synthetic=SyntheticSettings(count=228, decision_positions=True),
        trainer=TrainerSettings(
            steps=234,
            queries=8,
            group_size=8,
            horizon=Horizon.CALL,
            temperature=0.95,
            top_k=50,
            beta=0.0,
            learning_rate=1e-6,
            token_budget=32768,
            gradient_checkpointing=True,
        ),
        rollouts=RolloutSettings(max_tokens=4096, max_turns=8),
        fission=FissionSettings(contexts=8, group_size=8, trigger=8, capacity=32, horizon=Horizon.CALL, own_step=True),
    )
