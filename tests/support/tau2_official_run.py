"""The official solo run of a tau2 ticket: its orchestrator, solo agent and evaluator, with a script for a model.

Two things are put in the place of packages that the wheel declares and that nothing here needs: the module that calls
language models (it imports litellm), which hands out the script instead, and pandas, which only writes tables. Worlds
are copies of one that was loaded once, because loading is all that is slow.
"""

from __future__ import annotations

import copy
import importlib
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any

from fission_grpo.environments.tau2.official import Tau2Split, official_module, official_task, official_tasks
from fission_grpo.types import ToolCall

DOMAIN = "telecom of copies"
Message = tuple[str, tuple[ToolCall, ...]]
"""Text and calls of one assistant message."""

_script: deque[Message] = deque()


@dataclass(frozen=True, slots=True)
class OfficialRun:
    """What came of it."""

    end: str
    reward: float
    replies: tuple[tuple[str, bool], ...]
    """Text and error flag of each call."""


def official_run(task: str, script: Sequence[Message], *, max_steps: int = 200, max_errors: int = 10) -> OfficialRun:
    """Play the script; where the agent raises, the official runner notes an agent error and no reward."""
    world, official = _modules(), official_task(task)
    world.forget()
    _script.clear()
    _script.extend(script)
    environment = world.build(solo_mode=True)
    agent = world.agent(tools=list(world.tools), domain_policy="", task=official, llm="script")
    orchestrator = world.orchestrator(
        DOMAIN,
        agent,
        world.user(tools=None, instructions="", llm="nobody"),
        environment,
        official,
        max_steps=max_steps,
        max_errors=max_errors,
        solo_mode=True,
    )
    try:
        simulation = orchestrator.run()
    except ValueError as error:
        if "only supports tool calls" not in str(error):
            raise
        return OfficialRun("agent_error", 0.0, _replies(orchestrator.trajectory))
    info = world.evaluate(simulation, official, world.all, solo_mode=True, domain=DOMAIN)
    return OfficialRun(simulation.termination_reason.value, info.reward, _replies(simulation.messages))


def official_system_prompt(task: str) -> str:
    """What the official solo agent is told."""
    world = _modules()
    policy = official_module("domains.telecom.environment").get_environment(solo_mode=True).get_policy()
    agent = world.agent(tools=list(world.tools), domain_policy=policy, task=official_task(task))
    return str(agent.system_prompt)


def official_tools() -> list[dict[str, Any]]:
    """The schemas that the official solo agent sends, `done` included."""
    world = _modules()
    some_task = official_tasks(Tau2Split.BASE)[0]
    agent = world.agent(tools=list(world.tools), domain_policy="", task=some_task)
    return [tool.openai_schema for tool in agent.tools]


def _replies(messages: Sequence[Any]) -> tuple[tuple[str, bool], ...]:
    return tuple((message.content, message.error) for message in messages if message.role == "tool")


def _generate(**request: Any) -> Any:
    message, (text, calls) = official_module("data_model.message"), _script.popleft()
    made = [
        message.ToolCall(id=str(place), name=call.name, arguments=dict(call.arguments))
        for place, call in enumerate(calls)
    ]
    return message.AssistantMessage(role="assistant", content=text or None, tool_calls=made or None)


@cache
def _modules() -> Any:
    telecom = official_module("domains.telecom.environment")
    reference = telecom.get_environment(solo_mode=True)
    pristine = copy.deepcopy(telecom.TelecomUserTools.default_vpn_details)

    def forget() -> None:
        telecom.TelecomUserTools.default_vpn_details = copy.deepcopy(pristine)

    def build(solo_mode: bool = False) -> Any:
        world = telecom.get_environment(copy.deepcopy(reference.tools.db), copy.deepcopy(reference.user_tools.db))
        world.solo_mode = solo_mode
        return world

    with _in_place_of("tau2.utils.llm_utils", generate=lambda **request: _generate(**request), get_cost=lambda _: None):
        with _in_place_of("pandas", DataFrame=object):
            simulation = importlib.import_module("tau2.data_model.simulation")
        agents = importlib.import_module("tau2.agent.llm_agent")
        users = importlib.import_module("tau2.user.user_simulator")
        evaluator = importlib.import_module("tau2.evaluator.evaluator")
        orchestrator = importlib.import_module("tau2.orchestrator.orchestrator")
    assert simulation.SimulationRun is orchestrator.SimulationRun
    evaluator.registry.register_domain(build, DOMAIN)
    return SimpleNamespace(
        forget=forget,
        build=build,
        tools=(*reference.get_tools(), *reference.get_user_tools()),
        agent=agents.LLMSoloAgent,
        user=users.DummyUser,
        orchestrator=orchestrator.Orchestrator,
        evaluate=evaluator.evaluate_simulation,
        all=evaluator.EvaluationType.ALL,
    )


@contextmanager
def _in_place_of(name: str, **names: Any) -> Any:
    """A module that holds these names, for as long as others are imported that ask for it."""
    module = ModuleType(name)
    vars(module).update(names)
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
