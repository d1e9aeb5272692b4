"""How much more a pass could compute in the time that it takes anyway."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpec:
    """What a device can do, to an order of magnitude."""

    call: float
    """Seconds to call one layer, whatever it computes."""
    arithmetic: float
    """Floating-point operations a second."""
    memory: float
    """Bytes a second."""


DEVICES: Mapping[str, DeviceSpec] = MappingProxyType(
    {
        "cpu": DeviceSpec(call=1.3e-3, arithmetic=4e10, memory=1e10),
        "cuda": DeviceSpec(call=5e-4, arithmetic=4e14, memory=3e12),
    }
)
"""One core, measured with `nano`; and a data-centre GPU, from its data sheet and at half its peak."""


class CostModel:
    """A model on the device that it is on: what a pass costs, after the roofline model."""

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
            rows: computed side by side.
            width: tokens that each of them looks back at.
        """
        device = DEVICES.get(self._model.device.type, DEVICES["cpu"])
        size = float(self._model.dtype.itemsize)
        shared = self._layers * device.call + self._weights * size / device.memory
        own = width * self._cached * size / device.memory
        return float(shared / rows + own) * device.arithmetic / (2 * self._weights)


def cached_numbers(config: Any) -> int:
    """Keys and values of one token, of all layers."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width)
