"""The BFCL protocol under a script, ours and, in a process of its own, the official one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from bfcl_official import official_run

from fission_grpo.agents.base import Agent, AgentFault, Answer, Conversation, FaultKind
from fission_grpo.agents.qwen_fc import PromptError, qwen_fc_prompt, read_qwen_fc
from fission_grpo.chat.parse import render_call
from fission_grpo.environments.bfcl.entries import NEW_FUNCTIONS_TEXT, BfclCategory, bfcl_entries
from fission_grpo.evaluation.bfcl.records import BFCL_RECORDS, BfclRecord
from fission_grpo.evaluation.protocols.bfcl import ToolRelease, play_entry
from fission_grpo.evaluation.session import finished, play_missing
from fission_grpo.types import Task, ToolCall

DONE = "Done."
ENTRIES = tuple(entry for category in BfclCategory for entry in bfcl_entries(category))

Script: TypeAlias = Callable[[Task, int, int], Sequence[ToolCall]]
"""Entry, user turn, step within it -> calls; none ends the turn."""


def say(*calls: ToolCall) -> str:
    return "\n".join(map(render_call, calls)) or DONE


def gold(entry: Task, turn: int, step: int) -> Sequence[ToolCall]:
    """One gold call a message."""
    return entry.gold[turn][step : step + 1]


def gold_at_once(entry: Task, turn: int, step: int) -> Sequence[ToolCall]:
    """All gold calls of a turn in one message: two Long Context entries have more of them than steps are allowed."""
    return () if step else entry.gold[turn]


def misspelt(call: ToolCall) -> ToolCall:
    return ToolCall(name=call.name + "_please", arguments=call.arguments)


def always_wrong(entry: Task, turn: int, step: int) -> Sequence[ToolCall]:
    """Every gold call under a wrong name."""
    return tuple(map(misspelt, gold(entry, turn, step)))


def recovers(entry: Task) -> bool:
    """Known from the first words, which all categories share."""
    return len(str(entry.messages[0]["content"])) % 2 == 0


def recover_half(entry: Task, turn: int, step: int) -> Sequence[ToolCall]:
    """Misspell the first call of the first turn that has one; half of the entries then make it right, the others never
    call anything again."""
    first = next(place for place, calls in enumerate(entry.gold) if calls)
    if turn == first and step == 0:
        return (misspelt(entry.gold[turn][0]),)
    return gold(entry, turn, step - (turn == first)) if recovers(entry) else ()


@dataclass
class Player:
    """An agent that knows the entry from what its users say."""

    script: Script
    entries: Sequence[Task] = ENTRIES
    name: str = "scripted"
    width: int = 7
    asked: list[int] = field(default_factory=list)
    """Dialogues of each batch."""

    def answer(self, dialogues: Sequence[Conversation], *, seed: int) -> list[Answer | AgentFault]:
        self.asked.append(len(dialogues))
        return list(map(self.reply, dialogues))

    def reply(self, dialogue: Conversation) -> Answer:
        users = [_plain(message["content"]) for message in dialogue.messages if message["role"] == "user"]
        entry = next(entry for entry in self.entries if _users(entry)[: len(users)] == users)
        last = max(place for place, message in enumerate(dialogue.messages) if message["role"] == "user")
        step = sum(message["role"] == "assistant" for message in dialogue.messages[last:])
        return read_qwen_fc(say(*self.script(entry, len(users) - 1, step)))


def _users(entry: Task) -> list[str]:
    return [str(entry.messages[0]["content"]), *entry.followups]


def _plain(text: str) -> str:
    return NEW_FUNCTIONS_TEXT if text.endswith(NEW_FUNCTIONS_TEXT) else text


def run_entries(
    entries: Sequence[Task], agent: Agent, *, release: ToolRelease, traces: Path, **more: Any
) -> tuple[BfclRecord, ...]:
    """The records of these entries, in order; see `play_missing`."""
    episodes = {entry.id: partial(play_entry, entry, release=release) for entry in entries}
    return play_missing(
        episodes, agent, log=traces, form=BFCL_RECORDS, held=finished(traces, BFCL_RECORDS), purpose="bfcl", **more
    )


def play_texts(
    entry: Task, texts: Iterable[str], *, release: ToolRelease = ToolRelease.TEXT
) -> tuple[BfclRecord, list[str]]:
    """Our protocol under the same script as the official handler, and every prompt that it led to."""
    episode, script = play_entry(entry, release=release), iter(texts)
    prompts: list[str] = []
    try:
        dialogue = next(episode)
        while True:
            dialogue = episode.send(_reply(dialogue, script, prompts))
    except StopIteration as stop:
        return stop.value, prompts


def _reply(dialogue: Conversation, script: Iterator[str], prompts: list[str]) -> Answer | AgentFault:
    try:
        prompts.append(qwen_fc_prompt(dialogue))
    except PromptError as error:
        return AgentFault(reason=str(error), kind=FaultKind.DIALOGUE)
    return read_qwen_fc(next(script, DONE))


def official(
    questions: Iterable[dict[str, Any]], folder: Path
) -> AbstractContextManager[Callable[[], list[dict[str, Any]]]]:
    """Start the official handler on these questions; the value waits for its answers."""
    return official_run("bfcl_official_handler.py", map(json.dumps, questions), folder)
