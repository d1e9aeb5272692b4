"""Request families over the official multi-turn classes: one module for each API."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from fission_grpo.tasks.families.base import Api
from fission_grpo.tasks.families.files import FILES
from fission_grpo.tasks.families.messages import MESSAGES
from fission_grpo.tasks.families.tickets import TICKETS
from fission_grpo.tasks.families.trading import TRADING
from fission_grpo.tasks.families.twitter import TWITTER
from fission_grpo.tasks.families.vehicle import VEHICLE

APIS: Mapping[str, Api] = MappingProxyType(
    {api.name: api for api in (TRADING, VEHICLE, FILES, TICKETS, TWITTER, MESSAGES)}
)
"""Every API that requests can be drawn for, by the name of its official class."""

HELDOUT_APIS = ("MessageAPI",)
"""Never trained on: their requests are the transfer slice of the held-out split."""

SEEN_APIS = tuple(name for name in APIS if name not in HELDOUT_APIS)
"""What training, validation and the main held-out slice draw from."""

__all__ = ["APIS", "HELDOUT_APIS", "SEEN_APIS", "Api"]
