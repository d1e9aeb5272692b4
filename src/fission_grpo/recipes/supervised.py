"""What the quickstart teaches with supervision, by the name of the model.

They are settings by dotted name, on top of the recipe of the model. Those of `sft` are no part of it: a run of
reinforcement does not depend on them.
"""

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
"""For models that cannot call a tool as they ship. Clean gold alone, of tasks that no reinforcement sees: whoever
starts there has never seen an error."""

DEMONSTRATED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "smollm2": {
            "precision": "bf16",
            **{"sft.demonstrations": 120, "sft.clean": 360},
            **{"sft.steps": 60, "sft.batch": 8, "sft.learning_rate": 3e-4},
        }
    }
)
"""For models to which the usual 3,000 dialogues cannot be shown in an hour: errors with fixes among clean gold."""
