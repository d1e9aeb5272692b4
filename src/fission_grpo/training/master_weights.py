"""AdamW for weights that are too coarse to take small updates: a float32 copy of each takes them in their place.

Between 1 and 2, bfloat16 has steps of 1/128, and an update of less than half a step is rounded away, every time. So the
model computes in bfloat16, gradients add up in float32, the optimizer moves a master copy in float32, and the model
gets that copy rounded (mixed-precision training, arXiv:1710.03740). 16 bytes a weight on top of the model's own two:
master, gradient, and two moments.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

BETAS = (0.9, 0.95)


def adamw(parameters: Iterable[Tensor], *, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """The optimizer of everything that is trained here; with master weights where a parameter is narrower than float32.

    What it moves, and where gradients lie before its step, is `updated`.
    """
    trained = list(parameters)
    if any(torch.finfo(parameter.dtype).bits < 32 for parameter in trained):
        return MasterAdamW(trained, learning_rate=learning_rate, weight_decay=weight_decay)
    return torch.optim.AdamW(trained, lr=learning_rate, betas=BETAS, weight_decay=weight_decay)


def updated(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The tensors that an optimizer moves: of `MasterAdamW` the master copies, of any other the parameters."""
    return [tensor for group in optimizer.param_groups for tensor in group["params"]]


class MasterAdamW(torch.optim.AdamW):
    """AdamW on float32 copies of some parameters; its state holds the copies, so that a run resumes bit for bit."""

    def __init__(self, parameters: Iterable[Tensor], *, learning_rate: float, weight_decay: float) -> None:
        """Copy parameters as they are now. Their gradients go to the copies as soon as they are there."""
        self._parameters = list(parameters)
        self._masters = [parameter.detach().to(torch.float32, copy=True) for parameter in self._parameters]
        for parameter, master in zip(self._parameters, self._masters, strict=True):
            parameter.register_post_accumulate_grad_hook(_taking_gradients(master))  # type: ignore[no-untyped-call]
        super().__init__(self._masters, lr=learning_rate, betas=BETAS, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move the copies, and round the parameters from them."""
        loss = super().step(closure)
        self._round()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """AdamW's, and the copies."""
        return {**super().state_dict(), "masters": [master.detach() for master in self._masters]}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go back to where `state_dict` stood, parameters included.

        Raises:
            KeyError, ValueError: it was written without copies, or for other parameters.
        """
        rest = dict(state_dict)
        for master, saved in zip(self._masters, rest.pop("masters"), strict=True):
            master.copy_(saved)
        super().load_state_dict(rest)
        self._round()

    def _round(self) -> None:
        for parameter, master in zip(self._parameters, self._masters, strict=True):
            parameter.copy_(master)


def _taking_gradients(master: Tensor) -> Any:
    """A hook that moves a parameter's gradient to its copy, where those of several micro-batches add up."""

    def take(parameter: Tensor) -> None:
        assert parameter.grad is not None
        gradient = parameter.grad.to(master.dtype)
        master.grad = gradient if master.grad is None else master.grad.add_(gradient)
        parameter.grad = None

    return take
