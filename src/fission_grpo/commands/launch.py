"""How a run inside TRL is started, and whether it was: what accelerate was asked for is told by the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from fission_grpo.engines.settings import EngineSettings, Sharding
from fission_grpo.errors import ConfigError

CONFIGURATIONS: Mapping[Sharding, str] = MappingProxyType(
    {sharding: f"deploy/accelerate/{sharding}.yaml" for sharding in Sharding}
    | {Sharding.NONE: "deploy/accelerate/ddp.yaml"}
)
"""Shipped with the sources: one machine with eight GPUs, bf16."""


def launch_line(engine: EngineSettings) -> str:
    """The command in front of the settings; on several machines with what each of them must say itself."""
    if engine.devices == 1:
        return "fission train ..."
    machines = f" --num_machines {engine.nodes} --machine_rank RANK --main_process_ip HOST --main_process_port 29500"
    return (
        f"accelerate launch --config_file {CONFIGURATIONS[engine.sharding]} --num_processes {engine.devices}"
        f"{machines if engine.nodes > 1 else ''}"
        f"{'' if engine.autocast else ' --mixed_precision no'} -m fission_grpo.cli train ..."
    )


def require_launch(
    engine: EngineSettings, *, processes: int, environment: Mapping[str, str] = MappingProxyType(os.environ)
) -> None:
    """See that what was launched is what the settings say.

    Args:
        processes: that accelerate has counted.
        environment: where `accelerate launch` leaves what it was asked for.
    Raises:
        ConfigError: it is something else; with the line that would be right.
    """
    for found, setting in _disagreements(engine, processes, environment):
        raise ConfigError(f"the run was launched with {found}, and {setting}; start it with: {launch_line(engine)}")


def _disagreements(engine: EngineSettings, processes: int, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    sharding = _launched(environment)
    if processes != engine.devices:
        said = f"engine.gpus={engine.gpus} x engine.nodes={engine.nodes}"
        yield f"{processes} process{'' if processes == 1 else 'es'}", f"{said} makes {engine.devices}"
    if sharding != engine.sharding:
        yield f"sharding {sharding}", f"engine.sharding is {engine.sharding}"
    precision = environment.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision != "no" and (precision != "bf16" or not engine.autocast):
        yield f"mixed precision {precision}", f"engine.autocast is {str(engine.autocast).lower()}"


def _launched(environment: Mapping[str, str]) -> str:
    """What accelerate spreads, by our names where there is one."""
    if environment.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        return f"zero{environment.get('ACCELERATE_DEEPSPEED_ZERO_STAGE', '2')}"
    if environment.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        return f"fsdp{environment.get('FSDP_VERSION', '1')}"
    return str(Sharding.NONE)
