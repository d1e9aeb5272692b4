"""Models that cannot call a tool as they ship, and the supervised warm start that the quickstart gives them.

Zero-shot SmolLM2-135M-Instruct writes no well-formed call. With the compact template a prompt of the quickstart's tasks
has 89 tokens, with `hermes` 793.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStart:
    """Settings by dotted name, on top of the recipe."""

    everywhere: Mapping[str, Any]
    """For the warm start and for all that begins with it."""
    learned: Mapping[str, Any]
    """For the warm start alone: the section `sft`."""


WARM_STARTS: Mapping[str, WarmStart] = MappingProxyType(
    {
        "smollm2": WarmStart(
            everywhere={"chat_template": "nano", "lora.rank": 16, "trainer.learning_rate": 5e-5},
            learned={
                **{"sft.demonstrations": 0, "sft.clean": 1600, "sft.held_back": 0.02},
                **{"sft.steps": 200, "sft.batch": 8, "sft.learning_rate": 1e-3},
            },
        )
    }
)
"""By the name of the model."""
