"""How much more a pass could compute in the time that it takes anyway."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a device can do, to an order of magnitude."""

    call: float
    """Seconds to call one layer, whatever it computes."""
    attention: float
    """Seconds to call the attention of one layer one more time."""
    arithmetic: float
    """Floating-point operations a second."""
    memory: float
    """Bytes a second."""


MACHINES: Mapping[str, Machine] = MappingProxyType(
    {
        "cpu": Machine(call=1.3e-3, attention=3e-5, arithmetic=4e10, memory=1e10),
        "cuda": Machine(call=5e-4, attention=3e-5, arithmetic=4e14, memory=3e12),
    }
)
"""One core, measured with `nano`; and a data-centre GPU, from its data sheet and at half its peak."""


class Roofline:
    """A model on the device that it is on."""

    def __init__(self, model: Any) -> None:
        self._model = model
        config = model.config.get_text_config()
        self._layers = int(config.num_hidden_layers)
        self._weights = float(sum(parameter.numel() for parameter in model.parameters()))
        self._cached = cached_numbers(config)

    def spare(self, *, rows: int, width: int) -> float:
        """Tokens for each row whose arithmetic takes as long as the rest of a pass: layers are called, and weights,
        keys and values are read.

        Args:
            rows: read side by side.
            width: tokens that each of them looks back at.
        """
        machine = self._machine()
        size = float(self._model.dtype.itemsize)
        shared = self._layers * machine.call + self._weights * size / machine.memory
        own = width * self._cached * size / machine.memory
        return float(shared / rows + own) * machine.arithmetic / (2 * self._weights)

    def call_of_attention(self) -> float:
        """Tokens of one row whose keys and values are read in the time that it takes to call attention once more."""
        machine = self._machine()
        token = self._cached / self._layers * self._model.dtype.itemsize
        return float(machine.attention * machine.memory / token)

    def _machine(self) -> Machine:
        return MACHINES.get(self._model.device.type, MACHINES["cpu"])


def cached_numbers(config: Any) -> int:
    """Keys and values of one token, of all layers."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width)
