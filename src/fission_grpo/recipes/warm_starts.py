"""Models that cannot call a tool as they ship, and the supervised warm start that the quickstart gives them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

WARM_STARTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "smollm2": {
            **{"synthetic.seed": 1, "precision": "bf16"},
            **{"sft.demonstrations": 0, "sft.clean": 976, "sft.held_back": 16 / 976},
            **{"sft.steps": 120, "sft.batch": 8, "sft.learning_rate": 1e-3},
        }
    }
)
"""By the name of the model: settings by dotted name, on top of its recipe. Clean gold alone, of tasks that no
reinforcement sees: whoever starts there has never seen an error."""
