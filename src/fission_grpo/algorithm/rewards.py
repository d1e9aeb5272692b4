"""What a trajectory is worth, term by term.

`DecisionReward` is the paper's composite (arXiv:2601.15625, stage 1): one assistant message against its gold calls.
`EpisodeReward` is ours: a whole rollout in an executable world, led by the world's own verdict. Both give a `Reward`
that can say where its number comes from; how alike two calls are is `call_matching`'s business.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, model_validator

from fission_grpo.call_matching import argument_score, call_key
from fission_grpo.settings import Settings
from fission_grpo.types import FinishReason, OutcomeKind, ToolCall, Turn, Verdict

Weight = Annotated[float, Field(ge=0)]

REWARD_TERMS = frozenset({"format", "correctness", "length", "verdict", "progress", "efficiency", "repeat"})
"""The names of the terms below."""
SMALLEST_SPREAD = 1e-6
"""Rewards closer together than this are equal: a spread of rounding noise must not become a gradient."""


def zero_variance(rewards: Sequence[float]) -> bool:
    """Whether siblings with these rewards teach nothing: their rewards do not differ, so that no advantage does.

    This is the one meaning of a *zero-variance group* in training, metrics and reports. Whether anyone succeeded is
    another question (*all fail*, *all right*): partial credit can give signal to a group in which nobody does.
    """
    return len(rewards) < 2 or max(rewards) - min(rewards) < SMALLEST_SPREAD


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardTerm:
    """One reason for a reward."""

    name: str
    value: float
    """In [0, 1], 1 is best; of a function of the user's any number."""
    weight: float
    """How much the term counts at this moment of the run; >= 0, but for one that the user chose."""
    why: str
    """One line for whoever reads the trace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """A number and the whole of its explanation."""

    terms: tuple[RewardTerm, ...]
    scale: float
    """`total = scale * sum(weight * value)`."""

    @property
    def total(self) -> float:
        """The scalar that advantages are made of."""
        return self.scale * sum(term.weight * term.value for term in self.terms)

    def value(self, name: str) -> float:
        """The value of one term in [0, 1], by its name.

        Raises:
            KeyError: there is no such term.
        """
        return {term.name: term.value for term in self.terms}[name]


class DecisionReward(Settings):
    """R = (1/3) [w_fmt(t) R_fmt + w_corr(t) R_corr + R_len]  (arXiv:2601.15625, stage 1).

    The two weights are linear in the share t of the run that is done, and always sum to the same, so that the best
    possible reward does not move (schedule shape and end points of w_corr: ours).
    """

    alpha: float = Field(default=0.5, ge=0, lt=1)
    """Share of R_corr that the function names alone decide; below 1, so that arguments always count; ours."""
    format_weight: tuple[Weight, Weight] = (2.0, 1.0)
    """w_fmt at the start and at the end of the run; paper."""
    correctness_weight: tuple[Weight, Weight] = (1.0, 2.0)
    """w_corr at the start and at the end of the run; paper: it grows; the end points are ours."""
    length_band: float = Field(default=0.5, ge=0)
    """Lengths within this share of the gold length cost nothing; ours."""

    def score(
        self,
        turn: Turn,
        *,
        target: Sequence[ToolCall],
        gold_tokens: int,
        progress: float,
        reasoning_tokens: int = 0,
    ) -> Reward:
        """Score one assistant message against the gold calls of that message.

        Args:
            turn: the message; its outcomes play no part.
            target: gold calls, in any order; empty when the right thing is to answer in words.
            gold_tokens: length of the gold message in tokens, > 0.
            progress: share of the run that is done, in [0, 1].
            reasoning_tokens: of the message, which its length does not count: the gold message has none, and a term
                that counted them would pay for not thinking; ours.

        Raises:
            ValueError: `progress` or `gold_tokens` is out of range.
        """
        if not 0 <= progress <= 1:
            raise ValueError(f"progress must be a share of the run in [0, 1], got {progress}")
        return Reward(
            terms=(
                _format_term([turn], weight=_between(self.format_weight, progress)),
                self._correctness_term(turn, target, weight=_between(self.correctness_weight, progress)),
                self._length_term(max(len(turn.completion.ids) - reasoning_tokens, 0), gold_tokens),
            ),
            scale=1 / 3,
        )

    def correctness(self, turn: Turn, target: Sequence[ToolCall]) -> float:
        """R_corr = alpha 1[N = N*] + (1 - alpha) (argument score), in [0, 1]; 1 exactly when the calls are right.

        N and N* are the multisets of called and of gold names. A malformed message calls nothing and scores 0. Where no
        call is wanted, silence is everything: 1 without a call, else 0.
        """
        if turn.parsed.failures:
            return 0.0
        if not target:
            return float(not turn.parsed.calls)
        names = float(_names(turn.parsed.calls) == _names(target))
        return self.alpha * names + (1 - self.alpha) * argument_score(turn.parsed.calls, target)

    def _correctness_term(self, turn: Turn, target: Sequence[ToolCall], *, weight: float) -> RewardTerm:
        value = self.correctness(turn, target)
        called = ", ".join(call.name for call in turn.parsed.calls) or "nothing"
        wanted = ", ".join(call.name for call in target) or "an answer in words"
        why = f"called {called}; wanted {wanted}" if not turn.parsed.failures else f"malformed; wanted {wanted}"
        return RewardTerm(name="correctness", value=value, weight=weight, why=why)

    def _length_term(self, tokens: int, gold_tokens: int) -> RewardTerm:
        """1 inside the band; outside it a Gaussian of the distance to the band, as wide as the gold message is long."""
        if gold_tokens <= 0:
            raise ValueError(f"gold_tokens must be positive, got {gold_tokens}")
        beyond = max(0.0, abs(tokens - gold_tokens) - self.length_band * gold_tokens) / gold_tokens
        why = f"{tokens} tokens; gold has {gold_tokens}"
        return RewardTerm(name="length", value=math.exp(-(beyond**2) / 2), weight=1.0, why=why)


class EpisodeReward(Settings):
    """Weighted mean of five terms, in [0, 1], for a rollout that goes on until the policy answers; ours.

    An episode is solved when the world is right *and* the policy has ended it by answering in words: knowing when it is
    done is part of the task. The verdict outweighs all the others together: no unsolved episode is worth as much as a
    solved one. Efficiency is only paid to solved episodes, because a quick surrender is not efficient.
    """

    verdict: Weight = 2.0
    """Weight of the world's own verdict."""
    progress: Weight = 0.6
    """Weight of the share of the way that was made."""
    format: Weight = 0.2
    """Weight of the share of well-formed messages."""
    efficiency: Weight = 0.2
    """Weight of not calling more than needed."""
    repeat: Weight = 0.2
    """Weight of not repeating what has just failed."""
    spare_calls: int = Field(default=2, ge=0)
    """Calls beyond the gold number that are free, because hidden preconditions make even the best policy err."""

    @model_validator(mode="after")
    def _verdict_outweighs_the_rest(self) -> EpisodeReward:
        others = self.progress + self.format + self.efficiency + self.repeat
        if self.verdict <= others:
            raise ValueError(f"verdict must outweigh the other terms together ({others:g}), got {self.verdict:g}")
        return self

    def score(
        self, turns: Sequence[Turn], *, verdict: Verdict, gold: Sequence[ToolCall] | None, before: Sequence[Turn] = ()
    ) -> Reward:
        """Score one episode, or one recovery inside an episode.

        Args:
            turns: the assistant messages to be judged.
            verdict: the world's judgement after the last of them.
            gold: gold calls from the first of `before` (else of `turns`) to the end of the judged user turns, in any
                order; None where the world judges without: then no number of calls is known to be needed.
            before: what led to the first of `turns`, ending with the failed message of a corrective context. It counts
                as progress, and its failures can be repeated; it is not judged otherwise.
        """
        solved = verdict.ok and answered(turns)
        terms = (
            self._verdict_term(verdict, solved),
            self._progress_term([*before, *turns], verdict, gold or ()),
            _format_term(turns, weight=self.format),
            self._efficiency_term(turns, solved, gold),
            self._repeat_term(turns, solved, before),
        )
        return Reward(terms=terms, scale=1 / sum(term.weight for term in terms))

    def _verdict_term(self, verdict: Verdict, solved: bool) -> RewardTerm:
        why = verdict.error_type or ("ok" if solved else "the world is right, but the policy did not answer")
        return RewardTerm(name="verdict", value=float(solved), weight=self.verdict, why=why)

    def _progress_term(self, turns: Sequence[Turn], verdict: Verdict, gold: Sequence[ToolCall]) -> RewardTerm:
        """The better of two views: user turns that the world accepts, and gold calls that were made with success."""
        wanted = Counter(map(call_key, gold))
        made = Counter(call_key(call) for turn in turns for call in _succeeded(turn))
        obtained = (wanted & made).total()
        share = obtained / wanted.total() if wanted else 0.0
        why = f"{obtained} of {wanted.total()} gold calls; {verdict.matched:.2f} of the turns"
        value = 1.0 if verdict.ok else max(share, verdict.matched)
        return RewardTerm(name="progress", value=value, weight=self.progress, why=why)

    def _efficiency_term(self, turns: Sequence[Turn], solved: bool, gold: Sequence[ToolCall] | None) -> RewardTerm:
        calls = sum(len(turn.parsed.calls) for turn in turns)
        free = calls if gold is None else len(gold) + self.spare_calls
        value = float(solved) * (1.0 if calls <= free else free / calls)
        why = f"{calls} calls, {free} are free" if solved else "not solved"
        return RewardTerm(name="efficiency", value=value, weight=self.efficiency, why=why)

    def _repeat_term(self, turns: Sequence[Turn], solved: bool, before: Sequence[Turn]) -> RewardTerm:
        """Share of calls that are new or succeed; who gives up without a call has avoided nothing and gets 0."""
        calls = sum(max(1, len(turn.parsed.calls)) for turn in turns if turn.parsed.calls or turn.parsed.failures)
        if not calls:
            why = "no call was needed" if solved else "gave up without a call"
            return RewardTerm(name="repeat", value=float(solved), weight=self.repeat, why=why)
        repeats = count_repeats(turns, before)
        why = f"{repeats} of {calls} repeat a failed call"
        return RewardTerm(name="repeat", value=1 - repeats / calls, weight=self.repeat, why=why)


def answered(turns: Sequence[Turn]) -> bool:
    """Whether the last message is a whole answer in words: the policy decided that it is done."""
    return bool(turns) and not turns[-1].parsed.calls and _well_formed(turns[-1])


def count_repeats(turns: Sequence[Turn], before: Sequence[Turn] = ()) -> int:
    """Calls (or malformed messages) in `turns` that repeat, word for word, one that failed earlier, and in vain.

    Calling again with success after an explicit error is recovery (log in, then order again), not repetition. `before`
    ends with the failed message of a corrective context: where it has no explicit error, all of its calls count as
    failed, and a new success of the same call does not excuse it.
    """
    failed = {attempt for turn in before for attempt in _failed(turn)}
    silent = {attempt for attempt, _ in _attempts(before[-1])} if before and not _failed(before[-1]) else set[str]()
    repeats = 0
    for turn in turns:
        attempts = _attempts(turn)
        repeats += sum(attempt in silent or (attempt in failed and not ok) for attempt, ok in attempts)
        failed |= _failed(turn)
    return repeats


def _attempts(turn: Turn) -> list[tuple[str, bool]]:
    """What the message tried, as comparable text, and whether it went without explicit error.

    A call without an outcome (no world, or its execution was cut short) counts as gone well: nobody said otherwise.
    """
    if turn.parsed.failures:
        return [(turn.text, False)]
    ok = [not outcome.is_error for outcome in turn.outcomes]
    padded = ok + [True] * (len(turn.parsed.calls) - len(ok))
    return list(zip(map(call_key, turn.parsed.calls), padded, strict=True))


def _failed(turn: Turn) -> set[str]:
    return {attempt for attempt, ok in _attempts(turn) if not ok}


def _succeeded(turn: Turn) -> list[ToolCall]:
    if turn.parsed.failures:
        return []
    pairs = zip(turn.parsed.calls, turn.outcomes, strict=False)
    return [call for call, outcome in pairs if outcome.kind is OutcomeKind.SUCCESS]


def _well_formed(turn: Turn) -> bool:
    return not turn.parsed.failures and turn.completion.finish is FinishReason.STOP


def _format_term(turns: Sequence[Turn], *, weight: float) -> RewardTerm:
    """Share of messages that obey the tool-call format and end; a cut-off message has not said what it says."""
    good = sum(map(_well_formed, turns))
    broken = [failure.detail for turn in turns for failure in turn.parsed.failures]
    why = broken[0] if broken else f"{good} of {len(turns)} messages well formed and ended"
    return RewardTerm(name="format", value=good / len(turns) if turns else 1.0, weight=weight, why=why)


def _names(calls: Sequence[ToolCall]) -> Counter[str]:
    return Counter(call.name for call in calls)


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * share
