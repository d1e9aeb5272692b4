"""Fission-GRPO on SmolLM2-135M-Instruct, a real language model, overnight on two CPU cores: seven APIs, one held out.

As it ships it writes no well-formed call. It learns adapters (LoRA) and reads the compact template: a prompt of these
tasks has about 90 tokens with it, and 800 with `hermes`.
"""

from __future__ import annotations

from fission_grpo.config import RunSettings
from fission_grpo.models.lora import LoraSettings
from fission_grpo.recipes import Exploration
from fission_grpo.recipes.nano import NANO_TASKS, nano_settings

SMOLLM2_TASKS = NANO_TASKS.model_copy(
    update={
        "apis": (
            *("TradingBot", "VehicleControlAPI", "GorillaFileSystem", "TicketAPI"),
            *("TwitterAPI", "TravelAPI", "MathAPI"),
        )
    }
)
"""All of BFCL's APIs but `MessageAPI`, the transfer slice of every evaluation."""


def smollm2_settings(exploration: Exploration = Exploration.EPISODES) -> RunSettings:
    """What `nano` does in sizes that two cores can pay: half the rollouts of a step, and fewer steps."""
    base = nano_settings(exploration)
    episodes = exploration is Exploration.EPISODES
    sizes = {"steps": 40, "queries": 5} if episodes else {"steps": 60, "queries": 4}
    return base.model_copy(
        update={
            "model": "smollm2",
            "chat_template": "nano",
            "lora": LoraSettings(rank=16),
            "synthetic": SMOLLM2_TASKS,
            "trainer": base.trainer.model_copy(update={**sizes, "learning_rate": 1e-4, "checkpoint_every": 10}),
            "fission": base.fission.model_copy(update={"contexts": 2 if episodes else 4}),
        }
    )
