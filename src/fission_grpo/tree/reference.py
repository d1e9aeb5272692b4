"""The frozen start of a run, for the KL penalty."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from fission_grpo.tree.logprobs import Scorer
from fission_grpo.types import TokenRow


class Reference:
    """The policy as it was before the first update.

    A LoRA policy is its own reference with the adapter switched off; any other model is copied once.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._frozen = None if isinstance(model, PeftModel) else copy.deepcopy(model).eval().requires_grad_(False)
        self._known: dict[TokenRow, Tensor] = {}

    @contextmanager
    def model(self) -> Iterator[Any]:
        """The reference, for scoring without gradients."""
        if self._frozen is not None:
            yield self._frozen.to(self._model.device)
            return
        with self._model.disable_adapter():
            yield self._model

    def logprobs(self, rows: Sequence[TokenRow], scorer: Scorer, *, width: int) -> Tensor:
        """Log-probabilities of the trained tokens of some rows under the reference, in nats; 0 beyond the end.

        They are those of the distribution that the scorer means: tempered and cut like the policy's, with the
        scored token always among those that are left (`score`).
        What has been scored since the last `invalidate` is not scored again.

        Args:
            scorer: how those rows that are not known yet are scored.
            width: T, at least the most trained tokens of a row.
        Returns:
            [B, T], one line for each row, in single precision or better.
        """
        fresh = [index for index, row in enumerate(rows) if row not in self._known]
        precision = torch.promote_types(self._model.dtype, torch.float32)
        logprobs_BT = torch.zeros(len(rows), width, dtype=precision, device=self._model.device)
        with torch.no_grad(), self.model() as model:
            packed = scorer.pack(model, rows, fresh)
            for scores in scorer.scores(model, rows, packed, width=width) if packed else ():
                logprobs_BT[list(scores.rows)] = scores.logprobs_BT
        for index, row in enumerate(rows):
            known_T = self._known.setdefault(row, logprobs_BT[index])
            logprobs_BT[index, : len(known_T)] = known_T
        return logprobs_BT

    def invalidate(self) -> None:
        """Lose what has been scored: nobody will ask again."""
        self._known.clear()
