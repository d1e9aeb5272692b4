"""The same record with other names for its tools and arguments, so that a learner cannot get by on names it knows.

Ours. There are eight APIs and a few hundred names; a simulator has to cope with names that it has never seen. Renaming
is consistent over tools, dialogue, failed call, reference and diagnosis, and one-to-one, so whatever two calls had in
common or a schema had against them, they still have. Values and the world's answers stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from fission_grpo.environments.dialogue import call_record, recorded_calls
from fission_grpo.simulator.records import SimulatorRecord, taught_leaks
from fission_grpo.tasks.families import words
from fission_grpo.types import Message, Tool, ToolCall


def renamed(record: SimulatorRecord, rng: Random) -> SimulatorRecord | None:
    """A record that differs in names alone; None where the leak rule would not take it (a new name may hide a word).

    Args:
        rng: every name is drawn from it.
    """
    names = _fresh_names(dict.fromkeys(_names(record)), rng)
    other = replace(
        record,
        tools=tuple(_tool(tool, names) for tool in record.tools),
        dialogue=tuple(_message(record.id, message, names) for message in record.dialogue),
        failed=_call(record.failed, names),
        reference=tuple(_call(call, names) for call in record.reference),
        diagnosis=_text(record.diagnosis, names),
        fields=tuple(names.get(field, field) for field in record.fields),
    )
    return None if taught_leaks(other) else other


def renamed_records(records: Sequence[SimulatorRecord], *, copies: int, seed: int) -> list[SimulatorRecord]:
    """Every record under `copies` other sets of names, each with an id of its own; a function of the arguments."""
    found = []
    for record in records:
        rng = Random(f"renaming/{seed}/{record.id}")
        for copy in range(copies):
            other = renamed(record, rng)
            if other is not None:
                found.append(replace(other, id=f"{record.id}/renamed-{copy}"))
    return found


def _names(record: SimulatorRecord) -> Iterable[str]:
    """Tools and arguments, in the order in which they turn up."""
    for tool in record.tools:
        yield tool["function"]["name"]
        yield from _properties(tool)
    for call in (record.failed, *record.reference):
        yield call.name
        yield from call.arguments


_SOURCES = (*words.NOUNS, *words.PEOPLE)


def _fresh_names(names: Iterable[str], rng: Random) -> Mapping[str, str]:
    """Old name to new name, no two alike."""
    fresh: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        new = _identifier(rng)
        while new.lower() in taken:
            new = _identifier(rng)
        taken.add(new.lower())
        fresh[name] = new
    return fresh


def _identifier(rng: Random) -> str:
    """One to three words in the manner of code: `ulip_cassil`, `orcViolet`."""
    parts = [_word(rng) for _ in range(rng.choice((1, 2, 2, 3)))]
    if rng.random() < 0.25:
        return "".join([parts[0], *(part.capitalize() for part in parts[1:])])
    return "_".join(parts)


def _word(rng: Random) -> str:
    """Pieces of real words, so that all sorts of letters stand side by side."""
    return "".join(_piece(rng.choice(_SOURCES), rng) for _ in range(rng.choice((1, 2, 2, 3))))


def _piece(word: str, rng: Random) -> str:
    start = rng.randrange(len(word) - 1)
    return word[start : start + rng.choice((2, 3, 4, 5))]


def _properties(tool: Tool) -> Mapping[str, Any]:
    properties: Mapping[str, Any] = (tool["function"].get("parameters") or {}).get("properties", {})
    return properties


def _tool(tool: Tool, names: Mapping[str, str]) -> Tool:
    function = dict(tool["function"])
    function["name"] = names[function["name"]]
    if parameters := function.get("parameters"):
        properties = {names[name]: schema for name, schema in _properties(tool).items()}
        required = [names.get(name, name) for name in parameters.get("required", ())]
        function["parameters"] = {**parameters, "properties": properties, "required": required}
    return {**tool, "function": function}


def _call(call: ToolCall, names: Mapping[str, str]) -> ToolCall:
    arguments = {names.get(name, name): value for name, value in call.arguments.items()}
    return ToolCall(name=names.get(call.name, call.name), arguments=arguments)


def _message(record: str, message: Message, names: Mapping[str, str]) -> Message:
    """With the calls that it makes; names that no tool on offer has stay.

    Args:
        record: named when a call is not in OpenAI form.
    """
    if not message.get("tool_calls"):
        return message
    made = zip(message["tool_calls"], recorded_calls(record, message), strict=True)
    return {**message, "tool_calls": [{**told, "function": call_record(_call(call, names))} for told, call in made]}


_NAMED = re.compile(r"(?<=')\w+(?=')|\w+(?=\(\))")


def _text(text: str, names: Mapping[str, str]) -> str:
    """Names in quotes and before brackets; anywhere else a word that looks like one may be just a word."""
    return _NAMED.sub(lambda found: names.get(found[0], found[0]), text)
