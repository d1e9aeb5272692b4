"""A CPU as a platform of verl's, which knows only GPUs; it has to be there before verl's engines are imported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry

DEVICES = 2


def _module() -> Any:
    """`torch.cpu` with what `torch.cuda` has besides."""
    found = {name: getattr(torch.cpu, name) for name in dir(torch.cpu) if not name.startswith("__")}
    nothing = ("empty_cache", "synchronize", "set_device", "ipc_collect", "reset_peak_memory_stats")
    zero = ("memory_allocated", "memory_reserved", "max_memory_allocated", "max_memory_reserved", "current_device")
    return SimpleNamespace(
        **{
            **found,
            **{name: lambda *args, **given: None for name in nothing},
            **{name: lambda *args, **given: 0 for name in zero},
            "device_count": lambda: DEVICES,
            "is_available": lambda: True,
            "mem_get_info": lambda *args: (0, 0),
            "get_rng_state": torch.get_rng_state,
            "set_rng_state": torch.set_rng_state,
            "manual_seed": torch.manual_seed,
            "manual_seed_all": torch.manual_seed,
            "get_device_name": lambda *args: "cpu",
        }
    )


@PlatformRegistry.register("cpu")
class Cpu(PlatformBase):
    """What verl asks of a device."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _module()

    def is_available(self) -> bool:
        return True

    def current_device(self) -> str:
        return "cpu"

    def device_count(self) -> int:
        return DEVICES

    def set_device(self, index: int) -> None: ...

    def synchronize(self, index: int | None = None) -> None: ...

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def set_allocator_settings(self, settings: Any) -> None: ...

    def empty_cache(self) -> None: ...

    def get_device_capability(self, index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, message: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None: ...

    def profiler_stop(self) -> None: ...

    def ray_resource_name(self) -> str:
        return "CPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def ray_resource_options(self, count: float) -> dict[str, float]:
        return {}

    def cudart(self) -> None: ...

    def is_ipc_supported(self) -> bool:
        return False
