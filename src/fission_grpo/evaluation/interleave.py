"""Many episodes side by side: an agent that likes to answer many dialogues at once is never left waiting for one."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from itertools import count, islice
from typing import Generic, TypeAlias

from fission_grpo.agents.base import Agent, AgentFault, Answer, Conversation
from fission_grpo.evaluation.records import RecordT
from fission_grpo.seeds import derive

Played: TypeAlias = Generator[Conversation, Answer | AgentFault, RecordT]
"""An episode by some protocol: dialogues out, answers in, a record at the end."""


def interleave(episodes: Iterable[Played[RecordT]], agent: Agent, *, purpose: str, seed: int) -> Iterator[RecordT]:
    """Records in the order in which episodes end, `agent.width` dialogues in flight all the time.

    Args:
        episodes: started one by one, as room is made.
        purpose: keeps the seeds of different benchmarks apart.

    Raises:
        PolicyError, ConfigError: the agent cannot go on.
    """
    waiting = map(_InFlight, episodes)
    in_flight: list[_InFlight[RecordT]] = []
    for step in count():
        in_flight += islice(waiting, max(1, agent.width) - len(in_flight))
        if not in_flight:
            return
        answers = agent.answer([one.dialogue for one in in_flight], seed=derive(seed, purpose, step))
        records = [one.send(answer) for one, answer in zip(in_flight, answers, strict=True)]
        in_flight = [one for one, record in zip(in_flight, records, strict=True) if record is None]
        yield from (record for record in records if record is not None)


class _InFlight(Generic[RecordT]):
    """An episode that waits for an answer."""

    def __init__(self, episode: Played[RecordT]) -> None:
        self._episode = episode
        self.dialogue = next(episode)

    def send(self, answer: Answer | AgentFault) -> RecordT | None:
        """Go on with the answer; the record when that was the last one."""
        try:
            self.dialogue = self._episode.send(answer)
        except StopIteration as stop:
            record: RecordT = stop.value
            return record
        return None
