"""Request families over the official multi-turn classes: one module for each API."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from fission_grpo.tasks.synthesis.families.arithmetic import MATH
from fission_grpo.tasks.synthesis.families.family import Api
from fission_grpo.tasks.synthesis.families.files import FILES
from fission_grpo.tasks.synthesis.families.messages import MESSAGES
from fission_grpo.tasks.synthesis.families.tickets import TICKETS
from fission_grpo.tasks.synthesis.families.trading import TRADING
from fission_grpo.tasks.synthesis.families.travel import TRAVEL
from fission_grpo.tasks.synthesis.families.twitter import TWITTER
from fission_grpo.tasks.synthesis.families.vehicle import VEHICLE

APIS: Mapping[str, Api] = MappingProxyType(
    {api.name: api for api in (TRADING, VEHICLE, FILES, TICKETS, TWITTER, MESSAGES, TRAVEL, MATH)}
)
"""Every API that requests can be drawn for, by the name of its official class."""

HELDOUT_APIS = ("MessageAPI",)
"""Never trained on: their requests are the transfer slice of the held-out split."""

OPTIONAL_APIS = ("TravelAPI", "MathAPI")
"""Drawn only where a call names them: long requests, and a world without a state."""

SEEN_APIS = tuple(name for name in APIS if name not in (*HELDOUT_APIS, *OPTIONAL_APIS))
"""What training, validation and the main held-out slice draw from unless told otherwise."""

__all__ = ["APIS", "HELDOUT_APIS", "OPTIONAL_APIS", "SEEN_APIS", "Api"]
