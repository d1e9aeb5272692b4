"""Dialogues decoded side by side, each entering when there is room for it and leaving when its completion ends.

Siblings that have said the same so far are one row: the tree that training makes of their trajectories is the tree that
they are sampled on. A row's next tokens are guessed and pushed together with the one before them; a line goes as far as
its own draws agree, and where two lines draw different tokens their row becomes two.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fission_grpo.policy.base import Context, Sampling
from fission_grpo.policy.local.forward import Reader
from fission_grpo.policy.local.sampling import draw
from fission_grpo.policy.local.speculation import REACH
from fission_grpo.seeds import derive
from fission_grpo.types import Completion, FinishReason

REFILL = 0.5
"""Contexts wait until there are this many for each running line: to read a few is a pass of its own, and costs about
as much as a pass that samples for everybody."""
MOST_GUESSES = 8
"""Tokens guessed at most for one row."""


@dataclass(slots=True, kw_only=True)
class _Line:
    """A completion in the making."""

    dialogue: int
    context: Context
    heights: NDArray[np.float64]
    """The random number of each of its tokens. Drawn before the first one: what a line says depends on nothing but its
    seed, wherever and beside whomever it is decoded, guessed or not."""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: FinishReason = FinishReason.LENGTH

    @property
    def tail(self) -> tuple[int, ...]:
        """Its last tokens."""
        return (*self.context[-REACH:], *self.ids[-REACH:])[-REACH:]

    @property
    def held(self) -> int:
        """Tokens of it that its row holds between two passes: all but the last."""
        return len(self.context) + len(self.ids) - 1

    @property
    def room(self) -> int:
        """Tokens that it may still say."""
        return len(self.heights) - len(self.ids)

    @property
    def ended(self) -> bool:
        return self.finish is FinishReason.STOP or not self.room

    def say(self, drawn: Sequence[int], logprobs: Sequence[float], guess: Sequence[int], eos_id: int) -> int:
        """Take drawn tokens up to the first that was not guessed; returns how many."""
        before = len(self.ids)
        for token, logprob, guessed in zip(drawn, logprobs, [*guess, None], strict=False):
            self.ids.append(token)
            self.logprobs.append(logprob)
            if token == eos_id:
                self.finish = FinishReason.STOP
            if token != guessed or self.ended:
                break
        return len(self.ids) - before

    def completion(self) -> Completion:
        return Completion(ids=tuple(self.ids), logprobs=tuple(self.logprobs), finish=self.finish)


@dataclass(slots=True)
class _Branch:
    """Lines of one row that have said the same in this beat."""

    row: int
    lines: list[_Line]


class Decoding:
    """Lines in the first rows of a reader's memory, and contexts that wait for room."""

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
        self._rows: list[list[_Line]] = []
        """The lines of each row; the row holds all of their tokens but the last."""

    @property
    def busy(self) -> bool:
        """Whether anything is decoded or waits for it."""
        return bool(self._rows or self._waiting)

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
        """A token or more for every line; returns the dialogues whose completion has ended, each with it."""
        if newcomers := self._due():
            self._admit([self._waiting.popleft() for _ in range(newcomers)])
        return self._part(self._sample(self._guess()))

    @property
    def _running(self) -> int:
        return sum(map(len, self._rows))

    def _due(self) -> int:
        """How many of those that wait are to be read now."""
        running = self._running
        possible = min(len(self._waiting), self._max_rows - running)
        if not running:
            return possible
        # Without sharing a batch waits for its slowest line, as a batch of `model.generate` does.
        return possible if self._reader.share and possible >= REFILL * running else 0

    def _admit(self, lines: list[_Line]) -> None:
        """Read the contexts of new lines into rows behind the running ones."""
        reader, longest = self._reader, max(len(line.context) for line in lines)
        reader.memory.reserve(self._running + len(lines), longest + self._sampling.max_tokens)
        reader.count.raw += sum(len(line.context) for line in lines)
        kin = _kin(lines) if reader.share else [[line] for line in lines]
        holds = reader.admit([family[0].context for family in kin], first=len(self._rows))
        self._rows += [kin[index] for index in holds]

    def _guess(self) -> list[list[int]]:
        """What may follow in each row: as much as can be checked in the time that the pass takes anyway."""
        lines = [line for line, *_ in self._rows]
        spare = self._reader.roofline.spare(rows=len(lines), width=max(line.held for line in lines))
        most = min(MOST_GUESSES, int(spare))
        if not self._reader.share or most < 1:
            return [[] for _ in lines]
        guesses = self._reader.guesses.guess([line.tail for line in lines], most)
        # The last token that a line may say is drawn behind the last one that is pushed.
        return [guess[: line.room - 1] for guess, line in zip(guesses, lines, strict=True)]

    def _sample(self, guesses: Sequence[Sequence[int]]) -> list[_Branch]:
        """Push each row's last token and what was guessed behind it, and draw for every line as far as it agrees."""
        count = self._reader.count
        logits = self._reader.next_logits(
            [[line.tail[-1], *guess] for (line, *_), guess in zip(self._rows, guesses, strict=True)]
        )
        tokens, logprobs = draw(logits, self._sampling, self._heights(logits.shape[1]))
        branches: list[_Branch] = []
        for row, (lines, guess) in enumerate(zip(self._rows, guesses, strict=True)):
            count.decoded += len(guess) + bool(lines[0].ids)
            count.guessed += len(guess)
            by_line = zip(lines, tokens[row].T.tolist(), logprobs[row].T.tolist(), strict=False)
            said = [line.say(drawn, chances, guess, self._eos_id) for line, drawn, chances in by_line]
            count.sampled += sum(said)
            count.confirmed += max(said) - 1
            branches += [_Branch(row, same) for same in _alike(lines)]
        count.passes += 1
        return branches

    def _heights(self, places: int) -> Tensor:
        """The next random numbers of every line: [rows, places, most lines of a row]; 0 where there is none."""
        heights = np.zeros((len(self._rows), places, max(map(len, self._rows))))
        for row, lines in enumerate(self._rows):
            for index, line in enumerate(lines):
                some = line.heights[len(line.ids) :][:places]
                heights[row, : len(some), index] = some
        return torch.from_numpy(heights)

    def _part(self, branches: Sequence[_Branch]) -> list[tuple[int, Completion]]:
        """Give every branch a row: those that go on the first ones, and those that have ended one to be found in."""
        ended = [branch for branch in branches if branch.lines[0].ended]
        staying = [branch for branch in branches if not branch.lines[0].ended]
        rows = self._reader.memory.branch(
            [(branch.row, branch.lines[0].held) for branch in (*staying, *ended)], staying=len(staying)
        )
        self._rows = [branch.lines for _, branch in sorted(zip(rows, staying, strict=True), key=itemgetter(0))]
        if self._reader.share:
            for branch in ended:
                self._learn(branch.lines[0])
        return [(line.dialogue, line.completion()) for branch in ended for line in branch.lines]

    def _learn(self, line: _Line) -> None:
        before = line.context[-REACH:]
        self._reader.guesses.learn((*before, *line.ids), len(before))


def _kin(lines: Sequence[_Line]) -> list[list[_Line]]:
    """Lines of equal contexts together."""
    families: dict[Context, list[_Line]] = {}
    for line in lines:
        families.setdefault(line.context, []).append(line)
    return list(families.values())


def _alike(lines: Sequence[_Line]) -> list[list[_Line]]:
    """Lines that have said the same together. They were alike before, and as far as they agreed with one guess: the
    length and the last token tell them apart."""
    groups: dict[tuple[int, int], list[_Line]] = {}
    for line in lines:
        groups.setdefault((len(line.ids), line.ids[-1]), []).append(line)
    return list(groups.values())
