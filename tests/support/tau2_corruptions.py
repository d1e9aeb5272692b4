"""Seeded corruptions of gold calls and gold episodes of tau2 telecom."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from fission_grpo.types import Task, ToolCall

Corruption: TypeAlias = Callable[[random.Random, ToolCall], ToolCall | None]
"""A wrong version of a call, or None where it does not apply."""
Message: TypeAlias = tuple[str, tuple[ToolCall, ...]]
"""Text and calls of one assistant message."""

DONE = ToolCall(name="done", arguments={})


def _unknown_name(rng: random.Random, call: ToolCall) -> ToolCall | None:
    return ToolCall(name=f"{call.name}_now", arguments=call.arguments)


def _missing_argument(rng: random.Random, call: ToolCall) -> ToolCall | None:
    if not call.arguments:
        return None
    dropped = rng.choice(sorted(call.arguments))
    return ToolCall(name=call.name, arguments={key: call.arguments[key] for key in call.arguments if key != dropped})


def _extra_argument(rng: random.Random, call: ToolCall) -> ToolCall | None:
    return ToolCall(name=call.name, arguments={**call.arguments, rng.choice(["verbose", "requestor", "self"]): True})


def _value(kind: type, change: Callable[[random.Random, Any], Any]) -> Corruption:
    def corrupt(rng: random.Random, call: ToolCall) -> ToolCall | None:
        names = sorted(name for name, value in call.arguments.items() if type(value) is kind)
        if not names:
            return None
        name = rng.choice(names)
        return ToolCall(name=call.name, arguments={**call.arguments, name: change(rng, call.arguments[name])})

    return corrupt


CORRUPTIONS: Mapping[str, Corruption] = {
    "unknown name": _unknown_name,
    "missing argument": _missing_argument,
    "extra argument": _extra_argument,
    "wrong string": _value(str, lambda rng, value: f"{value}_{rng.randrange(10)}"),
    "number for string": _value(str, lambda rng, value: 7),
    "list for string": _value(str, lambda rng, value: [value]),
    "negative number": _value(float, lambda rng, value: -value),
    "other number": _value(float, lambda rng, value: value + 1.5),
    "string for number": _value(float, lambda rng, value: str(value)),
}

READS = ("check_status_bar", "check_vpn_status", "run_speed_test", "check_payment_request", "can_send_mms")
WRITES = ("toggle_airplane_mode", "toggle_data", "connect_vpn", "disconnect_vpn", "reboot_device", "reseat_sim_card")


def random_script(rng: random.Random, task: Task) -> list[Message]:
    """A gold episode that may be corrupted, cut, reordered, padded, in parallel, or ended in a forbidden way."""
    calls = list(task.gold[0])
    for _ in range(rng.randrange(4)):
        place = rng.randrange(len(calls) + 1)
        calls.insert(place, ToolCall(name=rng.choice(READS + WRITES), arguments={}))
    if rng.random() < 0.5:
        place = rng.randrange(len(calls))
        wrong = rng.choice(list(CORRUPTIONS.values()))(rng, calls[place])
        calls[place : place + 1] = [one for one in (wrong, calls[place]) if one and rng.random() < 0.7]
    if rng.random() < 0.2:
        rng.shuffle(calls)
    if rng.random() < 0.2:
        del calls[rng.randrange(len(calls) + 1) :]
    if rng.random() < 0.2:
        calls += [ToolCall(name="no_such_tool", arguments={})] * rng.randrange(1, 12)
    return [*_messages(rng, calls), *_ending(rng)]


def _messages(rng: random.Random, calls: list[ToolCall]) -> list[Message]:
    messages: list[Message] = []
    while calls:
        size = rng.choice([1, 1, 1, 2, 3])
        messages.append((rng.choice(["", "", "Let me see."]), tuple(calls[:size])))
        calls = calls[size:]
    return messages


def _ending(rng: random.Random) -> list[Message]:
    others: list[Message] = [("I am done.", ()), ("", (ToolCall(name="toggle_data", arguments={}), DONE))]
    padding: list[Message] = [("", (ToolCall(name="check_status_bar", arguments={}),))] * rng.choice([0, 0, 3])
    return [*padding, rng.choice(others) if rng.random() < 0.15 else ("", (DONE,)), ("", (DONE,))]
