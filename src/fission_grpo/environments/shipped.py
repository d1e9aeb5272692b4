"""The environments that ship, by the name that a task's world gives."""

from __future__ import annotations

from types import MappingProxyType

from fission_grpo.environments.base import Environment, Environments
from fission_grpo.environments.bfcl.environment import BFCL, BfclEnvironment
from fission_grpo.environments.office.environment import OFFICE, office_environment
from fission_grpo.types import Task

SHIPPED: Environments = MappingProxyType({BFCL: BfclEnvironment, OFFICE: office_environment})


def environment_for(task: Task) -> Environment:
    """A fresh environment of the kind that a task of ours lives in."""
    return SHIPPED[task.world.environment if task.world else BFCL]()
