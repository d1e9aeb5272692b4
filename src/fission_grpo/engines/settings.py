"""Settings of the engine: who makes the updates, who samples for it, and on which devices."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import Field, model_validator

from fission_grpo.engines import Engine
from fission_grpo.settings import Settings


class VllmMode(StrEnum):
    """Whether vLLM samples, and where."""

    OFF = "off"
    """The model that is trained samples itself."""
    COLOCATE = "colocate"
    """In each process that trains, on the same device."""
    SERVER = "server"
    """On devices of its own: `vllm serve`, at `vllm_url`."""


class Sharding(StrEnum):
    """What is spread over the devices, and not kept by each of them."""

    NONE = "none"
    """Nothing: one device, or data parallel (DDP)."""
    FSDP2 = "fsdp2"
    """Weights, gradients and optimizer, by PyTorch."""
    ZERO2 = "zero2"
    """Gradients and optimizer, by DeepSpeed."""
    ZERO3 = "zero3"
    """Weights, too, by DeepSpeed."""

    @property
    def spreads_weights(self) -> bool:
        """No device has the whole model."""
        return self in (Sharding.FSDP2, Sharding.ZERO3)


class EngineSettings(Settings):
    """What is said of TRL's or verl's trainer beyond the run. Our own loop has one way only, and takes none of it."""

    name: Engine = Engine.OWN
    """Who makes the updates: our own loop, TRL's, or verl's."""
    vllm: VllmMode = VllmMode.OFF
    """Who samples: the model itself, or vLLM. In verl a vLLM on the same GPUs always does; leave this out."""
    vllm_share: float = Field(default=0.3, gt=0, lt=1)
    """Part of each device that a colocated vLLM takes, its copy of the weights included; TRL's default."""
    vllm_window: int | None = Field(default=None, ge=1)
    """Most tokens of a dialogue in a colocated vLLM; none takes the model's, for which it must have room."""
    vllm_url: str | None = None
    """Of the server that TRL pushes weights to, for instance `http://localhost:8000`."""
    autocast: bool = False
    """Sample and train in bfloat16, whatever the weights are kept in."""
    micro_batch: int | None = Field(default=None, ge=1)
    """Explored trajectories of a micro-batch, beside which its part of the recoveries comes; none takes a group. Fewer
    take less memory and share fewer prefixes; the update is the same."""
    gpus: int = Field(default=1, ge=1)
    """Processes on each machine, one for each GPU."""
    nodes: int = Field(default=1, ge=1)
    """Machines."""
    gpu_memory: float | None = Field(default=None, gt=0)
    """GiB of each GPU, for the plan of `--dry-run` alone."""
    sharding: Sharding = Sharding.NONE
    """What is spread over the GPUs. verl always spreads everything, by FSDP2; leave this out."""
    verl: dict[str, Any] = Field(default_factory=dict)
    """Keys of verl's own configuration, which have the last word: `engine.verl.trainer.logger=[wandb]`."""

    @property
    def devices(self) -> int:
        """Of all machines."""
        return self.gpus * self.nodes

    @model_validator(mode="after")
    def _is_known_to_the_engine(self) -> EngineSettings:
        for name in type(self).model_fields:
            if self.name is Engine.OWN and name not in ("name", "gpu_memory") and self._said(name):
                raise ValueError(
                    f"engine.{name}={getattr(self, name)} is for TRL's trainer or verl's, and the engine is our own "
                    "loop, which takes as many processes as accelerate launches and samples by itself; add --engine "
                    "trl or --engine verl, or leave it out"
                )
        if self.verl and self.name is Engine.TRL:
            raise ValueError("engine.verl holds keys of verl's, and the engine is TRL; leave it out")
        return self

    @model_validator(mode="after")
    def _verl_decides_for_itself(self) -> EngineSettings:
        for name in ("vllm", "vllm_url", "sharding", "micro_batch") if self.name is Engine.VERL else ():
            if self._said(name):
                raise ValueError(
                    f"engine.{name}={getattr(self, name)} is for TRL's trainer: verl samples with a vLLM on the same "
                    "GPUs, spreads everything by FSDP2, and cuts micro-batches by trainer.token_budget; leave it out"
                )
        return self

    def _said(self, name: str) -> bool:
        return bool(getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True))

    @model_validator(mode="after")
    def _vllm_is_whole(self) -> EngineSettings:
        if self.vllm is VllmMode.SERVER and self.vllm_url is None:
            raise ValueError("engine.vllm=server needs the server's address; set engine.vllm_url=http://HOST:PORT")
        only = {"vllm_url": VllmMode.SERVER, "vllm_share": VllmMode.COLOCATE, "vllm_window": VllmMode.COLOCATE}
        for name, mode in only.items() if self.name is Engine.TRL else ():
            if self.vllm is not mode and self._said(name):
                raise ValueError(
                    f"engine.{name}={getattr(self, name)} is of engine.vllm={mode}, and engine.vllm is {self.vllm}; "
                    "change one of them"
                )
        return self

    @model_validator(mode="after")
    def _sharding_has_its_devices(self) -> EngineSettings:
        if self.sharding is not Sharding.NONE and self.devices == 1:
            raise ValueError(
                f"engine.sharding={self.sharding} has one device to spread over; set engine.gpus, or sharding=none"
            )
        if self.sharding.spreads_weights and self.vllm is VllmMode.OFF:
            raise ValueError(
                f"engine.sharding={self.sharding} spreads the weights, and the model cannot be sampled from by itself; "
                "set engine.vllm=colocate or server, or sharding=none or zero2"
            )
        return self
