"""The official telecom tickets as tasks. BASE is test data: never train on it."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from fission_grpo.environments.tau2.environment import TAU2
from fission_grpo.environments.tau2.official import OfficialTask, Tau2Split, official_tasks, solo_constant, split_ids
from fission_grpo.environments.tau2.world import STOP_TOOL, solo_policy, tau2_tools
from fission_grpo.errors import ConfigError
from fission_grpo.types import Message, Task, ToolCall, World

_TICKET = "\n<ticket>"
"""Where the official prompt is parted: the rules before it are the system message, the ticket is the user's."""
_NAME = re.compile(r"\[(?P<issue>\w+)\](?P<faults>[^\[]*)\[PERSONA:(?P<persona>\w+)\]")


@cache
def tau2_entries(split: Tau2Split | str = Tau2Split.BASE) -> tuple[Task, ...]:
    """All tasks of a split, in the order of the official file: 114 in `base`, 2,285 in `full`.

    `messages` are a system message with instructions and policy, and a user message with the ticket; joined by a line
    break they are the official solo prompt, byte for byte (`solo_prompt`). `gold` has one turn; the last gold action is
    not followed by `done`. `meta`: `issue`, `persona`, `faults` (how many are to be found), `split` (`train`, `test`,
    or `full` for tasks outside BASE).

    Raises:
        ConfigError: tau2 is not installed.
        ValueError: no such split.
    """
    return tuple(map(_task, official_tasks(Tau2Split(split))))


def solo_prompt(task: Task) -> Message:
    """The one system message with which the official solo agent begins: no user ever speaks to it."""
    return {"role": "system", "content": "\n".join(message["content"] for message in task.messages)}


def _task(official: OfficialTask) -> Task:
    actions = official.evaluation_criteria.actions or ()
    return Task(
        id=official.id,
        messages=_messages(official.ticket),
        tools=tau2_tools(),
        world=World(environment=TAU2, config={"domain": "telecom", "task": official.id}),
        gold=(tuple(ToolCall(name=action.name, arguments=dict(action.arguments)) for action in actions),),
        meta=_slices(official.id),
    )


def _messages(ticket: str) -> tuple[Message, ...]:
    instruction = solo_constant("AGENT_SOLO_INSTRUCTION").format(stop_function_name=STOP_TOOL)
    prompt = solo_constant("SYSTEM_PROMPT_SOLO").format(
        agent_instruction=instruction, domain_policy=solo_policy(), ticket=ticket
    )
    rules, tag, rest = prompt.rpartition(_TICKET)
    return ({"role": "system", "content": rules}, {"role": "user", "content": tag.strip() + rest})


def _slices(name: str) -> dict[str, Any]:
    found = _NAME.fullmatch(name)
    if found is None:
        raise ConfigError(f"tau2 task {name!r} is not named like [issue]fault|...|fault[PERSONA:name]")
    home = next((split for split in (Tau2Split.TRAIN, Tau2Split.TEST) if name in split_ids()[split]), Tau2Split.FULL)
    faults = len(found["faults"].split("|"))
    return {"issue": found["issue"], "persona": found["persona"], "faults": faults, "split": str(home)}
