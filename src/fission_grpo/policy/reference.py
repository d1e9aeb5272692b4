"""The frozen start of a run, for the KL penalty."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import PeftModel


class Reference:
    """The policy as it was before the first update.

    A LoRA policy is its own reference with the adapter switched off; any other model is copied once.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._frozen = None if isinstance(model, PeftModel) else copy.deepcopy(model).eval().requires_grad_(False)

    @contextmanager
    def model(self) -> Iterator[Any]:
        """The reference, for scoring without gradients."""
        if self._frozen is not None:
            yield self._frozen.to(self._model.device)
            return
        with self._model.disable_adapter():
            yield self._model
