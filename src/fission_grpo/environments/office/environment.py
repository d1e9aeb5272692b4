"""The office as an environment: any of its worlds together, judged by what is left of them and what was found out."""

from __future__ import annotations

from fission_grpo.environments.functions.environment import FunctionEnvironment
from fission_grpo.environments.functions.judges import same_world
from fission_grpo.environments.functions.worker import SameThread
from fission_grpo.environments.office.bank import Bank
from fission_grpo.environments.office.calendar import Calendar
from fission_grpo.environments.office.mail import Mail
from fission_grpo.environments.office.staff import Staff
from fission_grpo.environments.office.warehouse import Warehouse

OFFICE = "office"
"""Name of this environment in `World.environment`."""

OFFICE_WORLDS = (Calendar, Mail, Warehouse, Bank, Staff)


def office_environment() -> FunctionEnvironment:
    """One life of the office; the config of a task names its worlds, see `FunctionEnvironment.from_classes`."""
    return FunctionEnvironment.from_classes(OFFICE_WORLDS, name=OFFICE, judge=same_world, runner=SameThread)
