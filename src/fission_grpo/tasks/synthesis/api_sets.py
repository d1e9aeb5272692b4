"""The two sets of APIs that tasks are drawn over: the official classes of BFCL, and the worlds of our own office."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from fission_grpo.environments.bfcl.environment import BFCL, bfcl_tools
from fission_grpo.environments.functions.schema_of import toolbox
from fission_grpo.environments.office.environment import OFFICE, OFFICE_WORLDS
from fission_grpo.errors import ConfigError
from fission_grpo.tasks.synthesis.families import APIS, HELDOUT_APIS, SEEN_APIS
from fission_grpo.tasks.synthesis.families.family import Api
from fission_grpo.tasks.synthesis.office.bank import BANK
from fission_grpo.tasks.synthesis.office.calendar import CALENDAR
from fission_grpo.tasks.synthesis.office.mail import MAIL
from fission_grpo.tasks.synthesis.office.staff import STAFF
from fission_grpo.tasks.synthesis.office.warehouse import WAREHOUSE
from fission_grpo.types import Tool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ApiSet:
    """APIs that live in one environment, so that one task can go to two of them."""

    environment: str
    """Name of the environment, and of the set."""
    apis: Mapping[str, Api]
    seen: tuple[str, ...]
    """What the name of the set stands for."""
    heldout: tuple[str, ...]
    """Never trained on: their requests are the transfer slice of the held-out split."""
    tools_of: Callable[[str], Sequence[Tool]]
    """All tools of one API."""


OFFICE_APIS: Mapping[str, Api] = MappingProxyType({api.name: api for api in (CALENDAR, MAIL, WAREHOUSE, BANK, STAFF)})
"""Every world of the office that requests can be drawn for, by the name of its class."""

_WORLDS = {kind.__name__: kind for kind in OFFICE_WORLDS}

API_SETS: Mapping[str, ApiSet] = MappingProxyType(
    {
        BFCL: ApiSet(
            environment=BFCL, apis=APIS, seen=SEEN_APIS, heldout=HELDOUT_APIS, tools_of=lambda api: bfcl_tools((api,))
        ),
        OFFICE: ApiSet(
            environment=OFFICE,
            apis=OFFICE_APIS,
            seen=("Calendar", "Mail", "Warehouse", "Bank"),
            heldout=("Staff",),
            tools_of=lambda api: toolbox(_WORLDS[api]),
        ),
    }
)
"""The sets by name."""


KNOWN_APIS = tuple(api for one in API_SETS.values() for api in one.apis)


def expand_sets(names: Sequence[str]) -> tuple[str, ...]:
    """Names of APIs, where each name of a set gives way to the APIs that it stands for."""
    return tuple(api for name in names for api in (API_SETS[name].seen if name in API_SETS else (name,)))


def set_of(apis: Sequence[str]) -> ApiSet:
    """The set that some APIs are of.

    Raises:
        ConfigError: none at all, unknown ones, or APIs of two sets, which no task can bring together.
    """
    unknown = [api for api in apis if api not in KNOWN_APIS]
    if unknown or not apis:
        raise ConfigError(f"unknown APIs {unknown}; choose from {', '.join(KNOWN_APIS)}")
    found = [one for one in API_SETS.values() if any(api in one.apis for api in apis)]
    if len(found) > 1:
        names = " and ".join(one.environment for one in found)
        raise ConfigError(f"the APIs {', '.join(apis)} are of {names}: choose those of one set")
    return found[0]


@cache
def tools_by_name(api: str) -> Mapping[str, Tool]:
    """The tools of one API."""
    return {tool["function"]["name"]: tool for tool in set_of((api,)).tools_of(api)}
