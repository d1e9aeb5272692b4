"""A live telecom world of tau2 in solo mode: calls in, official text and error flag out, state frozen and hashed.

What the official code shares between episodes of one process belongs to one world here: the details of the default
VPN, which a broken VPN spoils for good, and the ids of new bills, which are drawn at random.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from fission_grpo.environments.limits import CallLimits, NestingError, bounded_copy, time_limit
from fission_grpo.environments.tau2.official import official_module, official_task
from fission_grpo.environments.tau2.outcomes import ERROR_PREFIX, TAU2_LIMIT_ERROR
from fission_grpo.types import Tool, ToolCall

STOP_TOOL = "done"
"""The tool by which the solo agent says that the ticket is solved."""
STOP_TEXT = "###STOP###"
"""What that tool answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tau2Answer:
    """What one call gave back."""

    text: str
    error: bool
    """The official flag; also set when one of our caps refused the call."""

    @property
    def refused(self) -> bool:
        """One of our caps answered."""
        return self.error and self.text.startswith(TAU2_LIMIT_ERROR)


@dataclass(slots=True)
class Tau2World:
    """One life of the customer database and of the customer's phone."""

    environment: Any
    """The official `TelecomEnvironment` in solo mode."""

    @classmethod
    def initial(cls, task: str) -> Tau2World:
        """The world in which the task of that id begins.

        Raises:
            ConfigError: no such task, or the package is not installed.
        """
        return cls.thaw(_initial(task))

    @classmethod
    def thaw(cls, frozen: bytes) -> Tau2World:
        """The world that `freeze` froze."""
        return cls(_environment(*pickle.loads(frozen)))  # our own bytes, never a file

    def freeze(self) -> bytes:
        """Both databases and the details of the default VPN, with what they share."""
        tools, phone = self.environment.tools, self.environment.user_tools
        return pickle.dumps((tools.db, phone.db, phone.default_vpn_details), pickle.HIGHEST_PROTOCOL)

    def digest(self) -> str:
        """Hex digest of what `freeze` keeps."""
        tools, phone = self.environment.tools, self.environment.user_tools
        models = (tools.db, phone.db, phone.default_vpn_details)
        values = [model.model_dump(warnings=False) for model in models]
        return hashlib.blake2b(json.dumps(values, default=str).encode(), digest_size=16).hexdigest()

    def call(self, call: ToolCall, limits: CallLimits) -> Tau2Answer:
        """Run one call of the agent; an unknown name, a wrong argument and a refusal are answers too.

        Raises:
            CallTimeout: it overran the wall clock.
        """
        try:
            arguments = bounded_copy(dict(call.arguments), limits.depth)
            json.dumps([call.name, arguments], ensure_ascii=False).encode()
        except NestingError:
            return refused_call(f"arguments are nested deeper than {limits.depth} levels")
        except UnicodeEncodeError:  # half a surrogate pair: the official message types cannot hold it
            return refused_call("it is no valid Unicode text")
        with time_limit(limits.seconds):
            answer = self._respond(call.name, arguments)
        if len(answer.text) > limits.characters:
            return refused_call(f"the answer has more than {limits.characters} characters")
        return answer

    def holds(self, assertion: Any) -> bool:
        """Whether an official `EnvAssertion` is met; not, where the state is too broken to be asked."""
        try:
            return bool(self.environment.run_env_assertion(assertion, raise_assertion_error=False))
        except (AttributeError, KeyError, TypeError, ValueError):
            return False

    def _respond(self, name: str, arguments: dict[str, Any]) -> Tau2Answer:
        if name == STOP_TOOL:
            return _stop(arguments)
        call = official_module("data_model.message").ToolCall(name=name, arguments=arguments)
        bills = self.environment.tools.db.bills
        known = len(bills)
        message = self.environment.get_response(call)
        for place in range(known, len(bills)):
            self._settle_id(place)
        return Tau2Answer(text=message.content, error=message.error)

    def _settle_id(self, place: int) -> None:
        """A new bill gets an id that is the same in every replay; no answer has named the random one yet."""
        database = self.environment.tools.db
        bill = database.bills[place]
        settled = f"B{hashlib.blake2b(f'{bill.customer_id}/{place}'.encode(), digest_size=4).hexdigest()}"
        for customer in database.customers:
            customer.bill_ids = [settled if name == bill.bill_id else name for name in customer.bill_ids]
        bill.bill_id = settled


def unknown_tool(name: str) -> Tau2Answer:
    """The official answer to a call of a name that is not on offer."""
    writable = name.encode("utf-8", "replace").decode()
    return Tau2Answer(text=f"{ERROR_PREFIX}Tool '{writable}' not found.", error=True)


def refused_call(reason: str) -> Tau2Answer:
    """How a call that hit one of our caps is answered."""
    return Tau2Answer(text=f"{TAU2_LIMIT_ERROR}{reason}", error=True)


def done() -> str:
    """Call this function when you are done with the task."""
    return STOP_TEXT


def _stop(arguments: Mapping[str, Any]) -> Tau2Answer:
    try:
        return Tau2Answer(text=done(**arguments), error=False)
    except TypeError as error:
        return Tau2Answer(text=f"{ERROR_PREFIX}{error}", error=True)


@cache
def tau2_tools() -> tuple[Tool, ...]:
    """The official schemas of the 13 tools of the agent, the 30 of the phone, and `done`, in official order.

    Raises:
        ConfigError: the package is not installed.
    """
    reference = _reference()
    official = [*reference.get_tools(), *reference.get_user_tools(), official_module("environment.tool").as_tool(done)]
    return tuple(tool.openai_schema for tool in official)


@cache
def solo_policy() -> str:
    """What the agent must abide by, in the official words: the main policy and the manual of tech support.

    Raises:
        ConfigError: the package is not installed.
    """
    return str(_reference().get_policy())


@cache
def _reference() -> Any:
    """An official environment as it stands before any task; it is read, and never called."""
    return official_module("domains.telecom.environment").get_environment(solo_mode=True)


@cache
def _blank() -> bytes:
    reference = _reference()
    excellent = official_module("domains.telecom.user_data_model").PerformanceLevel.EXCELLENT
    default_vpn = reference.user_tools.default_vpn_details.model_copy(update={"server_performance": excellent})
    return pickle.dumps((reference.tools.db, reference.user_tools.db, default_vpn), pickle.HIGHEST_PROTOCOL)


@lru_cache(maxsize=512)
def _initial(task: str) -> bytes:
    start = official_task(task).initial_state
    world = Tau2World.thaw(_blank())
    world.environment.set_state(start.initialization_data, start.initialization_actions, [])
    return world.freeze()


def _environment(customers: Any, phone: Any, default_vpn: Any) -> Any:
    telecom = official_module("domains.telecom.environment")
    tools, user_tools = telecom.TelecomTools(customers), telecom.TelecomUserTools(phone)
    user_tools.default_vpn_details = default_vpn
    environment = telecom.TelecomEnvironment("telecom", "", tools, user_tools)
    environment.solo_mode = True  # `set_solo_mode` would build all 43 schemas again
    return environment
