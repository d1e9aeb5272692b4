"""Many episodes side by side: an agent that likes to answer many dialogues at once is never left waiting for one."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Generic, TypeAlias, TypeVar

from fission_grpo.agents.base import Agent, AgentFault, Answer, Dialogue
from fission_grpo.seeds import derive

RecordT = TypeVar("RecordT")
Played: TypeAlias = Generator[Dialogue, Answer | AgentFault, RecordT]
"""An episode by some protocol: dialogues out, answers in, a record at the end."""


def fly(episodes: Iterable[Played[RecordT]], agent: Agent, *, purpose: str, seed: int) -> Iterator[RecordT]:
    """Records in the order in which episodes end, `agent.width` dialogues in flight all the time.

    Args:
        episodes: started one by one, as room is made.
        purpose: keeps the seeds of different benchmarks apart.

    Raises:
        PolicyError, ConfigError: the agent cannot go on.
    """
    waiting = map(_InFlight, episodes)
    flying: list[_InFlight[RecordT]] = []
    for step in count():
        flying += islice(waiting, max(1, agent.width) - len(flying))
        if not flying:
            return
        answers = agent.answer([one.dialogue for one in flying], seed=derive(seed, purpose, step))
        landed = [one.hear(answer) for one, answer in zip(flying, answers, strict=True)]
        flying = [one for one, ended in zip(flying, landed, strict=True) if ended is None]
        yield from (ended.record for ended in landed if ended is not None)


@dataclass(frozen=True, slots=True)
class _Landed(Generic[RecordT]):
    record: RecordT


class _InFlight(Generic[RecordT]):
    """An episode that waits for an answer."""

    def __init__(self, episode: Played[RecordT]) -> None:
        self._episode = episode
        self.dialogue = next(episode)

    def hear(self, answer: Answer | AgentFault) -> _Landed[RecordT] | None:
        """Go on with the answer; the record when that was the last one."""
        try:
            self.dialogue = self._episode.send(answer)
        except StopIteration as stop:
            return _Landed(stop.value)
        return None
