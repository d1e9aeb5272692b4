"""Continuous batching: each dialogue enters when there is room for it and leaves when its completion ends.

Siblings that have said the same so far are one row: the tree that training makes of their trajectories is the tree that
they are sampled on. Draft tokens of prompt lookup are computed together with a row's last token; a sequence goes as far
as its own draws agree with them, and where two sequences draw different tokens their row becomes two.
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
from fission_grpo.policy.local.forward import ForwardRunner
from fission_grpo.policy.local.sampling import draw
from fission_grpo.policy.local.speculation import REACH
from fission_grpo.seeds import derive
from fission_grpo.types import Completion, FinishReason

REFILL = 0.5
"""Contexts wait until there are this many for each running sequence: to prefill a few is a pass of its own, and costs
about as much as a pass that samples for everybody."""
MOST_DRAFTED = 8
"""Draft tokens at most for one row."""


@dataclass(slots=True, kw_only=True)
class _Sequence:
    """A context and the completion that is being sampled behind it."""

    dialogue: int
    context: Context
    uniforms: NDArray[np.float64]
    """The random number of each token. Drawn before the first one: what a sequence says depends on nothing but its
    seed, wherever and beside whomever it is decoded, with or without a draft."""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: FinishReason = FinishReason.LENGTH

    @property
    def tail(self) -> tuple[int, ...]:
        """Its last tokens."""
        return (*self.context[-REACH:], *self.ids[-REACH:])[-REACH:]

    @property
    def cached(self) -> int:
        """Tokens of it that its slot holds between two passes: all but the last."""
        return len(self.context) + len(self.ids) - 1

    @property
    def remaining(self) -> int:
        """Tokens that it may still say."""
        return len(self.uniforms) - len(self.ids)

    @property
    def ended(self) -> bool:
        return self.finish is FinishReason.STOP or not self.remaining

    def extend(self, drawn: Sequence[int], logprobs: Sequence[float], draft: Sequence[int], eos_id: int) -> int:
        """Take drawn tokens up to the first that is not the draft's; returns how many."""
        before = len(self.ids)
        for token, logprob, drafted in zip(drawn, logprobs, [*draft, None], strict=False):
            self.ids.append(token)
            self.logprobs.append(logprob)
            if token == eos_id:
                self.finish = FinishReason.STOP
            if token != drafted or self.ended:
                break
        return len(self.ids) - before

    def completion(self) -> Completion:
        return Completion(ids=tuple(self.ids), logprobs=tuple(self.logprobs), finish=self.finish)


@dataclass(slots=True)
class _Branch:
    """Sequences of one row that have drawn the same in this step."""

    row: int
    sequences: list[_Sequence]


class ContinuousBatching:
    """The scheduler: sequences in the first slots of a runner's cache, and contexts that wait for room."""

    def __init__(self, runner: ForwardRunner, *, eos_id: int, max_rows: int, sampling: Sampling, seed: int) -> None:
        """Begin with nothing to decode.

        Args:
            max_rows: most sequences side by side.
        """
        self._runner = runner
        self._eos_id = eos_id
        self._max_rows = max_rows
        self._sampling = sampling
        self._seed = seed
        self._turns: dict[int, int] = {}
        self._waiting: deque[_Sequence] = deque()
        self._rows: list[list[_Sequence]] = []
        """The sequences of each row; the slot of that number holds all of their tokens but the last."""

    @property
    def busy(self) -> bool:
        """Whether anything is decoded or waits for it."""
        return bool(self._rows or self._waiting)

    def add(self, dialogue: int, context: Context) -> None:
        """Continue a dialogue. One that has spoken comes before those that have not: its slot is still there."""
        turn = self._turns.get(dialogue, 0)
        self._turns[dialogue] = turn + 1
        uniforms = np.random.default_rng(derive(self._seed, dialogue, turn)).random(self._sampling.max_tokens)
        sequence = _Sequence(dialogue=dialogue, context=context, uniforms=uniforms)
        if turn:
            self._waiting.appendleft(sequence)
        else:
            self._waiting.append(sequence)

    def decode_step(self) -> list[tuple[int, Completion]]:
        """A token or more for every sequence; returns the dialogues whose completion has ended, each with it."""
        if newcomers := self._due():
            self._admit([self._waiting.popleft() for _ in range(newcomers)])
        return self._part(self._sample(self._draft()))

    def _due(self) -> int:
        """How many of those that wait are to be prefilled now."""
        running = sum(map(len, self._rows))
        possible = min(len(self._waiting), self._max_rows - running)
        if not running:
            return possible
        # Without sharing a batch waits for its slowest sequence, as a batch of `model.generate` does.
        return possible if self._runner.share and possible >= REFILL * running else 0

    def _admit(self, sequences: list[_Sequence]) -> None:
        """Prefill the contexts of new sequences, in rows behind the running ones.

        Each may need a slot of its own before it ends. How long it becomes nobody knows: slots grow as it does.
        """
        runner, longest = self._runner, max(len(sequence.context) for sequence in sequences)
        runner.cache.reserve(sum(map(len, self._rows)) + len(sequences), longest)
        runner.count.unshared += sum(len(sequence.context) for sequence in sequences)
        groups = _sibling_groups(sequences) if runner.share else [[sequence] for sequence in sequences]
        holds = runner.prefill([siblings[0].context for siblings in groups], first=len(self._rows))
        self._rows += [groups[index] for index in holds]

    def _draft(self) -> list[list[int]]:
        """What may follow in each row: as much as can be checked in the time that the pass takes anyway."""
        leaders = [sequence for sequence, *_ in self._rows]
        spare = self._runner.cost_model.spare(rows=len(leaders), width=max(leader.cached for leader in leaders))
        most = min(MOST_DRAFTED, int(spare))
        if not self._runner.share or most < 1:
            return [[] for _ in leaders]
        drafts = self._runner.lookup.draft([leader.tail for leader in leaders], most)
        # The last token that a sequence may say is drawn behind the last one that is computed.
        return [draft[: leader.remaining - 1] for draft, leader in zip(drafts, leaders, strict=True)]

    def _sample(self, drafts: Sequence[Sequence[int]]) -> list[_Branch]:
        """Compute each row's last token and its draft behind it, and draw for every sequence as far as it agrees."""
        count = self._runner.count
        logits = self._runner.next_logits(
            [[leader.tail[-1], *draft] for (leader, *_), draft in zip(self._rows, drafts, strict=True)]
        )
        tokens, logprobs = draw(logits, self._sampling, self._uniforms(logits.shape[1]))
        branches: list[_Branch] = []
        for row, (sequences, draft) in enumerate(zip(self._rows, drafts, strict=True)):
            count.decoded += len(draft) + bool(sequences[0].ids)
            count.drafted += len(draft)
            by_sequence = zip(sequences, tokens[row].T.tolist(), logprobs[row].T.tolist(), strict=False)
            said = [sequence.extend(drawn, chances, draft, self._eos_id) for sequence, drawn, chances in by_sequence]
            count.sampled += sum(said)
            count.accepted += max(said) - 1
            branches += [_Branch(row, same) for same in _alike(sequences)]
        count.passes += 1
        return branches

    def _uniforms(self, places: int) -> Tensor:
        """The next random numbers of every sequence: [rows, places, most sequences of a row]; 0 where there is none."""
        uniforms = np.zeros((len(self._rows), places, max(map(len, self._rows))))
        for row, sequences in enumerate(self._rows):
            for index, sequence in enumerate(sequences):
                some = sequence.uniforms[len(sequence.ids) :][:places]
                uniforms[row, : len(some), index] = some
        return torch.from_numpy(uniforms)

    def _part(self, branches: Sequence[_Branch]) -> list[tuple[int, Completion]]:
        """Give every branch a slot: those that go on the first ones, and those that have ended one to be found in."""
        ended = [branch for branch in branches if branch.sequences[0].ended]
        staying = [branch for branch in branches if not branch.sequences[0].ended]
        rows = self._runner.cache.branch(
            [(branch.row, branch.sequences[0].cached) for branch in (*staying, *ended)], staying=len(staying)
        )
        self._rows = [branch.sequences for _, branch in sorted(zip(rows, staying, strict=True), key=itemgetter(0))]
        if self._runner.share:
            for branch in ended:
                said = branch.sequences[0]
                before = said.context[-REACH:]
                self._runner.lookup.learn((*before, *said.ids), len(before))
        return [(sequence.dialogue, sequence.completion()) for branch in ended for sequence in branch.sequences]


def _sibling_groups(sequences: Sequence[_Sequence]) -> list[list[_Sequence]]:
    """Sequences of equal contexts together."""
    groups: dict[Context, list[_Sequence]] = {}
    for sequence in sequences:
        groups.setdefault(sequence.context, []).append(sequence)
    return list(groups.values())


def _alike(sequences: Sequence[_Sequence]) -> list[list[_Sequence]]:
    """Sequences that have said the same together. They were alike before, and as far as they agreed with one draft: the
    length and the last token tell them apart."""
    groups: dict[tuple[int, int], list[_Sequence]] = {}
    for sequence in sequences:
        groups.setdefault((len(sequence.ids), sequence.ids[-1]), []).append(sequence)
    return list(groups.values())
