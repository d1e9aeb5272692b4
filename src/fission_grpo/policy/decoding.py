"""Dialogues decoded side by side, each entering a row when there is one and leaving it when its completion ends."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fission_grpo.policy.base import Context, Sampling
from fission_grpo.policy.draw import draw
from fission_grpo.policy.reader import Reader
from fission_grpo.seeds import derive
from fission_grpo.types import Completion, FinishReason

REFILL = 0.25
"""Contexts wait until there are this many for each running row: to read a few is a pass of its own, and costs about
as much as one token for everybody."""


@dataclass(slots=True, kw_only=True)
class _Line:
    """A completion in the making."""

    dialogue: int
    context: Context
    heights: NDArray[np.float64]
    """The random number of each of its tokens. Drawn before the first one: what a line says depends on nothing but its
    seed, wherever and beside whomever it is decoded."""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: FinishReason = FinishReason.LENGTH

    def completion(self) -> Completion:
        return Completion(ids=tuple(self.ids), logprobs=tuple(self.logprobs), finish=self.finish)


class Decoding:
    """Lines in the first rows of a reader's memory, and contexts that wait for a row."""

    def __init__(self, reader: Reader, *, eos_id: int, max_rows: int, sampling: Sampling, seed: int) -> None:
        """Args:
        max_rows: most lines side by side.
        """
        self._reader = reader
        self._eos_id = eos_id
        self._max_rows = max_rows
        self._sampling = sampling
        self._seed = seed
        self._turns: dict[int, int] = {}
        self._waiting: deque[_Line] = deque()
        self._running: list[_Line] = []
        """Line i is in row i."""

    @property
    def busy(self) -> bool:
        """Whether anything is decoded or waits for it."""
        return bool(self._running or self._waiting)

    def add(self, dialogue: int, context: Context) -> None:
        """Continue a dialogue. One that has already spoken comes before those that have not: its row is still there."""
        turn = self._turns.get(dialogue, 0)
        self._turns[dialogue] = turn + 1
        heights = np.random.default_rng(derive(self._seed, dialogue, turn)).random(self._sampling.max_tokens)
        line = _Line(dialogue=dialogue, context=context, heights=heights)
        if turn:
            self._waiting.appendleft(line)
        else:
            self._waiting.append(line)

    def beat(self) -> list[tuple[int, Completion]]:
        """One token for every line; returns the dialogues whose completion has ended, each with it."""
        logits = []
        if self._running:
            logits.append(self._reader.next_logits([line.ids[-1] for line in self._running]))
            self._reader.count.passes += 1
        if newcomers := self._due():
            logits.append(self._admit([self._waiting.popleft() for _ in range(newcomers)]))
        self._sample(torch.cat(logits))
        return self._part()

    def _due(self) -> int:
        """How many of those that wait are to be read now."""
        possible = min(len(self._waiting), self._max_rows - len(self._running))
        if not self._running:
            return possible
        # Without sharing a batch waits for its slowest line, as a batch of `model.generate` does.
        return possible if self._reader.share and possible >= REFILL * len(self._running) else 0

    def _admit(self, lines: list[_Line]) -> Tensor:
        """Read the contexts of new lines behind the running ones; logits [n, vocabulary]."""
        holds, logits = self._reader.admit(
            [line.context for line in lines], first=len(self._running), room=self._sampling.max_tokens
        )
        self._running += [lines[index] for index in holds]
        return logits

    def _sample(self, logits: Tensor) -> None:
        """Draw one token for every running line and note it."""
        heights = torch.tensor([line.heights[len(line.ids)] for line in self._running])
        drawn, logprobs = draw(logits, self._sampling, heights)
        for line, token, logprob in zip(self._running, drawn.tolist(), logprobs.tolist(), strict=True):
            line.ids.append(token)
            line.logprobs.append(logprob)
            if token == self._eos_id:
                line.finish = FinishReason.STOP
        self._reader.count.sampled += len(self._running)

    def _part(self) -> list[tuple[int, Completion]]:
        """Take the lines that have ended out of the rows, and move the others to the front."""
        ended = {row for row, line in enumerate(self._running) if self._ended(line)}
        staying = len(self._running) - len(ended)
        free = sorted(row for row in ended if row < staying)
        far = [row for row in range(staying, len(self._running)) if row not in ended]
        self._reader.memory.swap(free, far)
        completions = [(self._running[row].dialogue, self._running[row].completion()) for row in sorted(ended)]
        for here, there in zip(free, far, strict=True):
            self._running[here] = self._running[there]
        del self._running[staying:]
        return completions

    def _ended(self, line: _Line) -> bool:
        return line.finish is FinishReason.STOP or len(line.ids) == self._sampling.max_tokens
