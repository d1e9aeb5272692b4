"""The official multi-turn protocol for one entry, as a coroutine: dialogues out, answers in, a record at the end.

Source of the rules: `bfcl-eval` 2026.3.23. User turns come one after the other whatever became of the last one. Within
a turn the model is asked again after every message with calls; a message without one, readable or not, ends the turn.
The 21st message with calls ends the entry.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from enum import StrEnum
from typing import TypeAlias

from fission_grpo.agents.base import AgentFault, Answer, Conversation, FaultKind
from fission_grpo.environments.bfcl.entries import BfclCategory
from fission_grpo.environments.bfcl.official import bfcl_documents
from fission_grpo.errors import EnvironmentFault
from fission_grpo.evaluation.bfcl.records import BfclEnd, BfclRecord, Step
from fission_grpo.evaluation.bfcl.world import JudgedWorld
from fission_grpo.evaluation.interleave import Played
from fission_grpo.types import Message, Task, Verdict

STEP_LIMIT = 20
"""Messages with calls that one user turn may have."""

Steps: TypeAlias = Generator[Conversation, Answer | AgentFault, tuple[BfclEnd, str]]


class ToolRelease(StrEnum):
    """How a Miss Func entry gives back the functions that it withheld."""

    TOOLS = "tools"
    """They join the tools on offer; the official way for models behind an API."""
    TEXT = "text"
    """Their documents are pasted into the user's message and the tools stay as they are; the official way for local
    models, `official-qwen-fc` among them."""


def play_entry(entry: Task, *, release: ToolRelease) -> Played[BfclRecord]:
    """Play one of `bfcl_entries`.

    A fault of the agent's machinery or of our executor ends the entry without a verdict.

    Raises:
        ConfigError: no BFCL entry.
    """
    play = _Play(entry, release)
    try:
        world = JudgedWorld(entry)
        end, reason = yield from play.to_the_end(world)
    except EnvironmentFault as fault:
        return play.record(BfclEnd.FAULT, str(fault))
    return play.record(end, reason, verdict=world.verdict(end, reason), turn_ok=world.turn_ok)


class _Play:
    """What is known in the middle of an entry."""

    def __init__(self, entry: Task, release: ToolRelease) -> None:
        self._entry = entry
        self._release = release
        self._withheld: Mapping[str, list[str]] = entry.meta["missed_function"]
        hidden = {name for names in self._withheld.values() for name in names}
        self._tools = [tool for tool in entry.tools if tool["function"]["name"] not in hidden]
        self._messages: list[Message] = []
        self._turns: list[list[Step]] = []

    def to_the_end(self, world: JudgedWorld) -> Steps:
        """All user turns, or as many as there are before something ends the entry."""
        for turn, text in enumerate((str(self._entry.messages[-1]["content"]), *self._entry.followups)):
            self._open_turn(turn, text)
            end, reason = yield from self._turn(world)
            world.next_turn()
            if end is not BfclEnd.COMPLETE:
                return end, reason
        return BfclEnd.COMPLETE, ""

    def record(
        self, end: BfclEnd, reason: str, *, verdict: Verdict | None = None, turn_ok: tuple[bool | None, ...] = ()
    ) -> BfclRecord:
        """What there is to keep."""
        return BfclRecord(
            entry=self._entry.id,
            category=BfclCategory(self._entry.meta["category"]),
            scenario=self._entry.meta["scenario"],
            apis=tuple(self._entry.meta["apis"]),
            turns=tuple(map(tuple, self._turns)),
            end=end,
            reason=reason,
            verdict=verdict,
            turn_ok=turn_ok,
            gold_calls=sum(map(len, self._entry.gold)),
        )

    def _open_turn(self, turn: int, text: str) -> None:
        """The user speaks, and gives functions back where it is time."""
        names = self._withheld.get(str(turn), [])
        if names and self._release is ToolRelease.TEXT:
            text = f"{[bfcl_documents()[name] for name in names]}\n{text}"
        elif names:
            self._tools += [tool for name in names for tool in self._entry.tools if tool["function"]["name"] == name]
        self._messages.append({"role": "user", "content": text})
        self._turns.append([])

    def _turn(self, world: JudgedWorld) -> Steps:
        """Ask until the model stops calling; COMPLETE means that this turn is."""
        for _ in range(STEP_LIMIT + 1):
            answer = yield Conversation(messages=tuple(self._messages), tools=tuple(self._tools))
            if isinstance(answer, AgentFault):
                fault = answer.kind is FaultKind.MACHINERY
                return BfclEnd.FAULT if fault else BfclEnd.INFERENCE_ERROR, answer.reason
            self._take(answer, world)
            if not answer.calls:
                return BfclEnd.COMPLETE, ""
        return BfclEnd.FORCE_QUIT, ""

    def _take(self, answer: Answer, world: JudgedWorld) -> None:
        outcomes = tuple(map(world.execute, answer.calls))
        self._messages.append(answer.message)
        self._messages += answer.replies(outcomes)
        self._turns[-1].append(
            Step(
                text=answer.text,
                calls=answer.calls,
                failures=answer.failures,
                outcomes=outcomes,
                finish=answer.finish,
                prompt_tokens=answer.prompt_tokens,
                tokens=answer.tokens,
                seconds=answer.seconds,
            )
        )
