"""Agents with known metrics: they read the gold answers of the official entries and stumble by a script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from fission_grpo.agents.base import Agent, AgentFault, Answer, Conversation
from fission_grpo.chat.parse import assistant_message, render_call
from fission_grpo.types import Task, ToolCall

Script = Callable[[Task, int, int], ToolCall | None]
"""Entry, user turn, replies that the turn has had so far -> the next call, or None for words."""


def told_apart(entries: Sequence[Task]) -> list[Task]:
    """The entries whose first user message is no other's."""
    texts = Counter(str(entry.messages[0]["content"]) for entry in entries)
    return [entry for entry in entries if texts[str(entry.messages[0]["content"])] == 1]


class ScriptedAgent:
    """Answers for every entry at once, told apart by their first user message."""

    width = 64

    def __init__(self, entries: Sequence[Task], script: Script, *, name: str = "scripted") -> None:
        self.name = name
        self.seen: list[Conversation] = []
        self._entries = {str(entry.messages[0]["content"]): entry for entry in entries}
        self._script = script
        assert len(self._entries) == len(entries), "use told_apart"

    def answer(self, dialogues: Sequence[Conversation], *, seed: int) -> list[Answer | AgentFault]:
        self.seen += dialogues
        return [self._answer(dialogue) for dialogue in dialogues]

    def _answer(self, dialogue: Conversation) -> Answer:
        users = [place for place, message in enumerate(dialogue.messages) if message["role"] == "user"]
        entry = self._entries[str(dialogue.messages[0]["content"]).split("\n\nAnother assistant")[0]]
        replies = sum(message["role"] == "tool" for message in dialogue.messages[users[-1] :])
        call = self._script(entry, len(users) - 1, replies)
        calls = (call,) if call else ()
        text = render_call(call) if call else "Done."
        return Answer(text=text, message=assistant_message(calls, "" if call else text), calls=calls, tokens=5)


def gold(entry: Task, turn: int, replies: int) -> ToolCall | None:
    """The gold calls, one after the other."""
    calls = entry.gold[turn]
    return calls[replies] if replies < len(calls) else None


def wrong(entry: Task) -> ToolCall:
    """A call of a tool that does not exist."""
    return ToolCall(name="no_such_tool", arguments={"for": entry.id})


def stumbling(errors: int) -> Script:
    """The same wrong call `errors` times, then gold."""

    def script(entry: Task, turn: int, replies: int) -> ToolCall | None:
        if turn:
            return gold(entry, turn, replies)
        return wrong(entry) if replies < errors else gold(entry, turn, replies - errors)

    return script


def giving_up(entry: Task, turn: int, replies: int) -> ToolCall | None:
    """One wrong call in the first turn, and words ever after."""
    return None if turn or replies else wrong(entry)


def by_scenario(*scripts: Script) -> Script:
    """Script k for scenarios whose number leaves k when divided by the number of scripts."""

    def script(entry: Task, turn: int, replies: int) -> ToolCall | None:
        return scripts[int(entry.meta["scenario"]) % len(scripts)](entry, turn, replies)

    return script


_: type[Agent] = ScriptedAgent
