"""The same record with other names for its tools and arguments, so that a learner cannot get by on names it knows.

Ours. There are eight APIs and a few hundred names; a simulator has to cope with names that it has never seen. Renaming
is consistent over tools, dialogue, failed call, reference and diagnosis, and one-to-one, so whatever two calls had in
common or a schema had against them, they still have. A made-up value that the diagnosis quotes becomes another one of
the same look; other values and the world's answers stay as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from fission_grpo.environments.dialogue import call_record, recorded_calls
from fission_grpo.environments.schema import argument_schemas
from fission_grpo.simulator_lab.records import SimulatorRecord, taught_leaks
from fission_grpo.tasks.synthesis.families import vocabulary
from fission_grpo.types import Message, Tool, ToolCall


def renamed_records(records: Sequence[SimulatorRecord], *, copies: int, seed: int) -> list[SimulatorRecord]:
    """Every record under `copies` other sets of names, each with an id of its own; a function of the arguments."""
    vocabulary = _vocabulary(records)
    found = []
    for record in records:
        coiner = Coiner(rng=Random(f"renaming/{seed}/{record.id}"), words=vocabulary)
        for copy in range(copies):
            other = renamed(record, coiner)
            if other is not None:
                found.append(replace(other, id=f"{record.id}/renamed-{copy}"))
    return found


def renamed(record: SimulatorRecord, coiner: Coiner) -> SimulatorRecord | None:
    """A record that differs in names and in a quoted value alone; None where the leak rule would not take it.

    Raises:
        ConfigError: a call of the dialogue is not in OpenAI form.
    """
    names = coiner.names(_names(record))
    values = {quoted: coiner.disguise(quoted) for quoted in _quoted(record)}
    failed = _call(record.failed, names)
    other = replace(
        record,
        tools=tuple(_tool(tool, names) for tool in record.tools),
        dialogue=tuple(_message(record.id, message, names) for message in record.dialogue),
        failed=ToolCall(name=failed.name, arguments={key: _value(v, values) for key, v in failed.arguments.items()}),
        reference=tuple(_call(call, names) for call in record.reference),
        diagnosis=_text(record.diagnosis, names, values),
        fields=tuple(names.get(field, field) for field in record.fields),
    )
    return None if taught_leaks(other) else other


@dataclass(frozen=True, slots=True, kw_only=True)
class Coiner:
    """Makes names up."""

    rng: Random
    words: Sequence[str] = (*vocabulary.NOUNS, *vocabulary.PEOPLE)
    """Of at least three letters; names are made of them and of their pieces."""

    def names(self, old: Iterable[str]) -> Mapping[str, str]:
        """Old name to new name, no two alike."""
        fresh: dict[str, str] = {}
        taken: set[str] = set()
        for name in dict.fromkeys(old):
            new = self.identifier()
            while new.lower() in taken:
                new = self.identifier()
            taken.add(new.lower())
            fresh[name] = new
        return fresh

    def identifier(self) -> str:
        """One to three words in the manner of code: `user_cassil`, `orcViolet`."""
        parts = [self._word() for _ in range(self.rng.choice((1, 2, 2, 3)))]
        if self.rng.random() < 0.25:
            return "".join([parts[0], *(part.capitalize() for part in parts[1:])])
        return "_".join(parts)

    def disguise(self, text: str) -> str:
        """Other words, other digits, the same signs between them."""
        spelled = re.sub(r"[A-Za-z]{3,}", lambda found: self._word(), text)
        return re.sub(r"\d", lambda found: str(self.rng.randint(1, 9)), spelled)

    def _word(self) -> str:
        """A real word, or pieces of some, so that all sorts of letters stand side by side."""
        if self.rng.random() < 0.5:
            return self.rng.choice(self.words)
        return "".join(self._piece(self.rng.choice(self.words)) for _ in range(self.rng.choice((1, 2, 2))))

    def _piece(self, word: str) -> str:
        start = self.rng.randrange(len(word) - 1)
        return word[start : start + self.rng.choice((2, 3, 4, 5))]


def _vocabulary(records: Sequence[SimulatorRecord]) -> Sequence[str]:
    """Our own words, and those of the tools' descriptions, in a fixed order."""
    described = {json.dumps(tool, default=dict).lower() for record in records for tool in record.tools}
    found = {word for text in described for word in re.findall(r"[a-z]{3,}", text)}
    return tuple(sorted({*found, *vocabulary.NOUNS, *vocabulary.PEOPLE}))


def _names(record: SimulatorRecord) -> Iterator[str]:
    """Tools and arguments, in the order in which they turn up."""
    for tool in record.tools:
        yield tool["function"]["name"]
        yield from argument_schemas(tool)
    for call in (record.failed, *record.reference):
        yield call.name
        yield from call.arguments


def _quoted(record: SimulatorRecord) -> list[str]:
    """Values at fault that the diagnosis repeats and that nothing that was due has; they mean nothing to anybody."""
    due = json.dumps([call_record(call) for call in record.reference], ensure_ascii=False, default=dict)
    given = [text for field in record.fields for text in _atoms(record.failed.arguments.get(field))]
    return [text for text in given if len(text) > 1 and text not in due and _standing(text).search(record.diagnosis)]


def _atoms(value: Any) -> Iterator[str]:
    """Strings and numbers of a value, or of a list of them, as texts."""
    if isinstance(value, list):
        yield from (text for item in value for text in _atoms(item))
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield str(value)


def _standing(text: str) -> re.Pattern[str]:
    """The text by itself, in no longer word."""
    return re.compile(rf"(?<!\w){re.escape(text)}(?!\w)")


def _value(value: Any, values: Mapping[str, str]) -> Any:
    """A value with some atoms replaced, each by one of its type."""
    if isinstance(value, list):
        return [_value(item, values) for item in value]
    if isinstance(value, bool) or str(value) not in values:
        return value
    return type(value)(values[str(value)])


def _tool(tool: Tool, names: Mapping[str, str]) -> Tool:
    function = dict(tool["function"])
    function["name"] = names[function["name"]]
    if parameters := function.get("parameters"):
        properties = {names[name]: schema for name, schema in argument_schemas(tool).items()}
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


def _text(text: str, names: Mapping[str, str], values: Mapping[str, str]) -> str:
    """Names in quotes and before brackets (elsewhere what looks like one may be just a word), and quoted values."""
    told = _NAMED.sub(lambda found: names.get(found[0], found[0]), text)
    for old, new in values.items():
        told = _standing(old).sub(lambda found, new=new: new, told)  # type: ignore[misc]
    return told
